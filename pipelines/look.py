"""Looking: one consistent view of Git, the registry, Ray and Prometheus, as facts for `policies.rollout.decide`.

Rules:
- Git is read first, the registry after it. A commit is accepted only on the tip that was read, so what the registry
  shows is never older than the release it is compared with.
- A document that is broken is not in force (`documents_in_force.py`), and the break is said.
- A tip that is foreign (rewritten history, a release or the Serve config gone or emptied) stops its environment.

This module must not decide and must not act.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pipelines.documents_in_force import DocumentsInForce
from pipelines.ports import EvidenceRequest, Metrics, Registry, Repo, Runtime
from policies.config_repo_documents import ConfigRepo, read_repo, with_defaults
from policies.convergence import Failed, Ready, Starting, readiness
from policies.documents import EnvironmentDocument, ModelDocument, PrometheusTarget, RayTarget, RegistryTarget
from policies.errors import Retry, SluiceError
from policies.layout import model_path, release_path, serve_path
from policies.model import Evidence, Objective, Phase, RegistrySnapshot, Release, RuntimeObservation, Tip
from policies.notes import Note
from policies.noticing import Observed, Rules
from policies.placement import known_revision, out_of_place
from policies.promotion import Wanted, at_trigger, keep_books, wanted
from policies.rollout import JUDGED

Config = Mapping[str, Any]

# Somebody else's commit came in between: it is there to be looked at now.
_AT_ONCE = timedelta(milliseconds=100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doors:
    """One door per outside system; those that an environment names are made for it."""

    repo: Repo
    registry: Callable[[RegistryTarget], Registry]
    runtime: Callable[[RayTarget], Runtime]
    metrics: Callable[[PrometheusTarget], Metrics]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelLook:
    """One model in one environment; `document` is none once it is removed."""

    release: Release
    document: ModelDocument | None
    rules: Rules
    observed: Observed
    new: bool
    """Its release is not in Git yet."""
    objectives: tuple[Objective, ...] = ()
    """What its candidates are held to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentLook:
    """One environment; `refused` says why its tip must not be applied."""

    name: str
    document: EnvironmentDocument
    runtime: RuntimeObservation
    desired: Config
    models: Mapping[str, ModelLook]
    refused: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """Everything that one look showed."""

    tip: Tip
    registry: RegistryTarget
    environments: Mapping[str, EnvironmentLook]
    notes: tuple[Note, ...]
    """What is wrong in the documents, of which the last readable ones count instead."""


class Looker:
    """Looks; remembers only since when something has been so without a break: lost, it costs a longer wait."""

    def __init__(self, doors: Doors, defaults: Mapping[str, str]) -> None:
        self._doors = doors
        self._defaults = defaults
        self._documents = DocumentsInForce(doors.repo, defaults)
        self._unavailable_since: dict[tuple[str, str], datetime] = {}
        self._warming_since: dict[tuple[str, str, datetime], datetime] = {}

    def look(self, now: datetime) -> Look:
        """One look at everything. Raises Retry when Git is away, Stalled when the repo cannot be read."""
        warming, self._warming_since = self._warming_since, {}  # a look that fails is a break
        tip = self._doors.repo.read()
        repo, notes, refused = self._documents.of(tip)
        registry = self._doors.registry(repo.sluice.registry)
        snapshot = registry.snapshot(_registered_names(repo))
        environments = {
            name: self._environment(_Place(name, tip, repo, snapshot, refused.get(name, ""), warming), registry, now)
            for name in repo.sluice.environments
        }
        return Look(tip=tip, registry=repo.sluice.registry, environments=environments, notes=tuple(notes))

    # --- one environment ------------------------------------------------------------------------------------------

    def _environment(self, place: _Place, registry: Registry, now: datetime) -> EnvironmentLook:
        document = place.repo.sluice.environments[place.name]
        runtime = self._doors.runtime(document.ray).observe()
        applied = self._doors.repo.applied(place.name)
        before = self._applied_releases(place, applied)
        refused = place.refused or self._foreign(place, applied, before)
        releases = _releases(place)
        evidence = self._evidence(place, document, releases, now)
        models = {
            slug: self._model(place, slug, release, before.get(slug), registry, runtime, evidence.get(slug, ()), now)
            for slug, release in releases.items()
        }
        desired = place.repo.serve.get(place.name) or {}
        return EnvironmentLook(
            name=place.name, document=document, runtime=runtime, desired=desired, models=models, refused=refused
        )

    def _applied_releases(self, place: _Place, applied: str | None) -> Mapping[str, Release]:
        """The environment's releases as they were when they were last applied; unreadable ones are left out."""
        if applied is None or applied == place.tip.commit:
            return {}
        slugs = {slug for environment, slug in place.repo.releases if environment == place.name} | set(
            place.repo.models
        )
        paths = [release_path(place.name, slug) for slug in slugs]
        texts = self._doors.repo.read_at(applied, paths)
        unchanged = {path for path, text in texts.items() if place.tip.files.get(path) == text}
        changed = {path: text for path, text in texts.items() if path not in unchanged}
        sluice = {"sluice.yaml": place.tip.files["sluice.yaml"]}
        repo = read_repo(with_defaults({**sluice, **changed}, self._defaults)).repo if changed else None
        return {slug: release for (_, slug), release in repo.releases.items()} if repo else {}

    def _foreign(self, place: _Place, applied: str | None, before: Mapping[str, Release]) -> str:
        """Why the tip must not be applied; empty when it may."""
        if applied is None:
            return ""
        if not self._doors.repo.descends(place.tip.commit, applied):
            if self._doors.repo.read().commit != place.tip.commit:
                raise Retry("the branch moved while it was looked at", after=_AT_ONCE)  # applied may be younger
            return (
                f"the tip {place.tip.commit[:8]} does not descend from {applied[:8]}, which was applied last: somebody "
                "rewrote the branch. Bring the old history back, or accept the new one by deleting "
                f"refs/sluice/applied/{place.name}"
            )
        for slug, release in before.items():
            gone = (place.name, slug) not in place.repo.releases and model_path(slug) in place.tip.files
            if gone and (release.stable or release.candidate):
                return f"{release_path(place.name, slug)} is gone, its model document is not: bring the release back"
        serving = [slug for slug, release in _releases(place).items() if release.stable or release.candidate]
        if serving and not (place.repo.serve.get(place.name) or {}).get("applications"):
            path = serve_path(place.name)
            return f"{path} is missing or names no application, but {', '.join(serving)} should serve: bring it back"
        return ""

    def _evidence(
        self, place: _Place, document: EnvironmentDocument, releases: Mapping[str, Release], now: datetime
    ) -> Mapping[str, tuple[Evidence, ...]]:
        requests = [
            EvidenceRequest(
                model=slug,
                candidate=release.candidate,
                stable=release.stable,
                objectives=tuple(place.repo.slos[name] for name in place.repo.models[slug].slos),
                since=release.rollout.traffic_since,
            )
            for slug, release in releases.items()
            if release.phase in JUDGED
            and slug in place.repo.models
            and release.candidate
            and release.rollout
            and release.rollout.traffic_since
        ]
        return self._doors.metrics(document.prometheus).evidence(requests, now) if requests else {}

    def _model(
        self,
        place: _Place,
        slug: str,
        release: Release,
        before: Release | None,
        registry: Registry,
        runtime: RuntimeObservation,
        evidence: tuple[Evidence, ...],
        now: datetime,
    ) -> ModelLook:
        rules = _rules(place, slug)
        versions = place.snapshot.models.get(release.model, {}) if place.snapshot.available else None
        digests, digest_reason = _digests(registry, release, rules, place)
        changed = before is not None and before.revision >= release.revision and before != release
        observed = Observed(
            versions=versions,
            registry_reason=place.snapshot.reason,
            digests=digests,
            digest_reason=digest_reason,
            runtime_reason="" if runtime.available else runtime.reason,
            known_revision=known_revision(slug, runtime),
            out_of_place=out_of_place(release, slug, place.repo.serve.get(place.name) or {}, runtime),
            candidate=_candidate(release, slug, runtime),
            evidence=evidence,
            unavailable_since=self._blind_since((place.name, slug), evidence, now),
            warming_since=self._had_its_chance_since(place, slug, release, runtime, now),
            taken_back_from=before if changed else None,
            taken_back_by=place.tip.author,
        )
        new = (place.name, slug) not in place.repo.releases
        document = place.repo.serves(place.name).get(slug)
        objectives = tuple(place.repo.slos[name] for name in document.slos) if document else ()
        return ModelLook(
            release=release, document=document, rules=rules, observed=observed, new=new, objectives=objectives
        )

    def _blind_since(self, key: tuple[str, str], evidence: tuple[Evidence, ...], now: datetime) -> datetime | None:
        if all(e.source.available for e in evidence):
            self._unavailable_since.pop(key, None)
            return None
        return self._unavailable_since.setdefault(key, now)

    def _had_its_chance_since(
        self, place: _Place, slug: str, release: Release, runtime: RuntimeObservation, now: datetime
    ) -> datetime | None:
        if release.phase is not Phase.WARMING or release.rollout is None or not runtime.available:
            return None
        key = (place.name, slug, release.rollout.current.since)
        self._warming_since[key] = place.warming.get(key, now)
        return self._warming_since[key]


@dataclasses.dataclass(frozen=True)
class _Place:
    """What is known about an environment before its own doors are asked."""

    name: str
    tip: Tip
    repo: ConfigRepo
    snapshot: RegistrySnapshot
    refused: str
    warming: Mapping[tuple[str, str, datetime], datetime]
    """Since when candidates had had their chance to start, at the last look."""


def _registered_names(repo: ConfigRepo) -> tuple[str, ...]:
    return tuple(sorted({m.name for m in repo.models.values()} | {release.model for release in repo.releases.values()}))


def _releases(place: _Place) -> dict[str, Release]:
    """The environment's releases in Git, and empty ones for models that have none yet."""
    there = {slug: release for (environment, slug), release in place.repo.releases.items() if environment == place.name}
    served = place.repo.serves(place.name)
    fresh = {slug: Release(model=document.name, environment=place.name) for slug, document in served.items()}
    return dict(sorted({**fresh, **there}.items()))


def _rules(place: _Place, slug: str) -> Rules:
    environment = place.repo.sluice.environments[place.name]
    document = place.repo.serves(place.name).get(slug)
    name = document.rollout if document else "default"
    return Rules(
        policy=place.repo.policies[name],
        trigger=environment.trigger,
        on_rollback=environment.on_rollback,
        settings=document.settings if document else None,
    )


def _digests(registry: Registry, release: Release, rules: Rules, place: _Place) -> tuple[Mapping[int, str], str]:
    """The digest of the version that is wanted, if one is: reading it may download the artifact."""
    versions = place.snapshot.models.get(release.model, {})
    if release.phase is not Phase.STEADY or rules.settings is None or not place.snapshot.available:
        return {}, ""
    present = at_trigger(rules.trigger, versions)
    want = wanted(keep_books(release, present), rules.trigger, present, rules.settings)
    if not isinstance(want, Wanted) or want.version not in versions:
        return {}, ""
    if release.stable and release.stable.version == want.version:
        return {want.version: release.stable.digest}, ""
    try:
        return {want.version: registry.digest(release.model, want.version)}, ""
    except SluiceError as error:
        return {}, str(error)


def _candidate(release: Release, slug: str, runtime: RuntimeObservation) -> Ready | Starting | Failed:
    if release.candidate is None:
        return Starting(reason="there is no candidate")
    return readiness(release.candidate.name(slug), runtime)
