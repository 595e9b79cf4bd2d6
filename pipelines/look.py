"""Looking: one consistent view of Git, the registry, Ray and Prometheus, as facts for `policies.rollout.decide`.

Rules:
- Git is read first, the registry after it. A commit is accepted only on the tip that was read, so what the registry
  shows is never older than the release it is compared with.
- A document that is broken is not in force (`documents_in_force.py`), and the break is said.
- Evidence is asked for releases whose candidate has requests, one call for an environment; a baseline (a day of
  stable's counts) only where a rollout is about to begin.
- A tip that is foreign (rewritten history, a release or the Serve config gone or emptied) stops its environment.

This module must not decide and must not act.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from pipelines.documents_in_force import DocumentsInForce
from pipelines.histories import Histories
from pipelines.ports import EvidenceRequest, Metrics, Registry, Repo, Runtime
from pipelines.vouched import Trust, Vouched
from policies.application import Application
from policies.budget import BASELINE
from policies.config_repo_documents import ConfigRepo, read_repo, with_defaults
from policies.convergence import Failed, Ready, Starting, readiness
from policies.documents import EnvironmentDocument, ModelDocument, PrometheusTarget, RayTarget, RegistryTarget
from policies.errors import BadInput, SluiceError
from policies.evidence import Evidence, Objective, Sli
from policies.facts import Observed, Rules
from policies.holding import held, known_revisions, models_held
from policies.layout import Place, history_path, locate, model_path, record_path, release_path, serve_path
from policies.notes import Note, Severity
from policies.observations import Artifact, RegistrySnapshot, RuntimeObservation, Tip
from policies.placement import out_of_place
from policies.promotion import Wanted, at_trigger, keep_books, wanted
from policies.record import evidence_with
from policies.release import Phase, Release, Wish
from policies.rollout import JUDGED, wants_baseline
from policies.rollout_record import Record
from policies.slo import asked_of
from policies.stored_documents import parse_history, parse_record
from policies.wishes import carried_out, only_asks

Config = Mapping[str, Any]

# A record is new with every step of its rollout, 10 ms to read, and the same at the looks between: those of a hundred
# rollouts at once.
_RECORDS_REMEMBERED = 128

# A day of samples is a large answer, and a service that burns does so for minutes at least.
BASELINE_YOUNG = timedelta(minutes=1)


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

    at: datetime
    tip: Tip
    documents: ConfigRepo
    """What the documents in force say."""
    environments: Mapping[str, EnvironmentLook]
    notes: tuple[Note, ...]
    """What is wrong in the documents, of which the last readable ones count instead."""
    vouched: str | None = None
    """Where changes must be signed: the commit up to which everything is vouched for."""

    @property
    def registry(self) -> RegistryTarget:
        """Where MLflow is."""
        return self.documents.sluice.registry


class Looker:
    """Looks; remembers only since when something has been so without a break, and baselines that are young.

    Lost, it costs a longer wait or a query more.
    """

    def __init__(self, doors: Doors, defaults: Mapping[str, str], trust: Trust) -> None:
        self._doors = doors
        self._vouched = Vouched(doors.repo, trust)
        self._defaults = defaults
        self._documents = DocumentsInForce(doors.repo, defaults)
        self._histories = Histories(doors.repo)
        self._unavailable_since: dict[tuple[str, str], datetime] = {}
        self._warming_since: dict[tuple[str, str, datetime], datetime] = {}
        self._baselines: dict[tuple[str, str], _Baseline] = {}

    def look(self, now: datetime) -> Look:
        """One look at everything.

        Raises Retry when Git is away, Conflict when somebody committed meanwhile, Stalled when the repo cannot be read.
        """
        warming, self._warming_since = self._warming_since, {}  # a look that fails is a break
        vouched = self._vouched.of(self._doors.repo.read())
        tip = vouched.tip
        repo, notes, broken = self._documents.of(tip, signed=vouched.asked)
        refused = {**broken, **vouched.refused}
        records, unread = _records(tip.files)
        registry = self._doors.registry(repo.sluice.registry)
        snapshot = registry.snapshot(_registered_names(repo))
        environments = {}
        for name in repo.sluice.environments:
            place = _Place(name, tip, repo, snapshot, warming, records)
            before, foreign = self._history(place)
            why = refused.get(name) or foreign
            environments[name] = self._environment(place, registry, before, why, now)
        said = (*vouched.notes, *notes, *unread)
        return Look(at=now, tip=tip, documents=repo, environments=environments, notes=said, vouched=vouched.trusted)

    def look_without_git(self, last: Mapping[str, Look], now: datetime) -> dict[str, EnvironmentLook]:
        """These environments as they are now, each on the tip of its earlier look. Nothing of it may be committed."""
        names = tuple(sorted({name for look in last.values() for name in _registered_names(look.documents)}))
        registries = {look.registry: self._doors.registry(look.registry) for look in last.values()}
        snapshots = {target: registry.snapshot(names) for target, registry in registries.items()}
        environments = {}
        for name, look in last.items():
            records, _ = _records(look.tip.files)
            place = _Place(name, look.tip, look.documents, snapshots[look.registry], {}, records)
            environments[name] = self._environment(place, registries[look.registry], _Before(), "", now)
        # A time without Git is no chance to start.
        self._warming_since = {key: since for key, since in self._warming_since.items() if key[0] not in last}
        return environments

    # --- one environment ------------------------------------------------------------------------------------------

    def _history(self, place: _Place) -> tuple[_Before, str]:
        """What was applied last, and why the tip must not be applied."""
        before = self._applied_before(place, self._doors.repo.applied(place.name))
        return before, self._foreign(place, before)

    def _environment(
        self, place: _Place, registry: Registry, before: _Before, refused: str, now: datetime
    ) -> EnvironmentLook:
        document = place.repo.sluice.environments[place.name]
        told = _Told(self._doors.runtime(document.ray).observe())
        releases = _releases(place)
        refused = refused or self._told_more(place, before, told)
        seen = {
            slug: self._model(place, slug, release, before.releases.get(slug), registry, told, now)
            for slug, release in releases.items()
        }
        models = seen if refused else self._measured(place, document, seen, now)
        desired = place.repo.serve.get(place.name) or {}
        return EnvironmentLook(
            name=place.name, document=document, runtime=told.runtime, desired=desired, models=models, refused=refused
        )

    def _applied_before(self, place: _Place, applied: str | None) -> _Before:
        """The environment as it was when it was last applied; releases that cannot be read are left out."""
        if applied is None or applied == place.tip.commit:
            unchanged = frozenset(path for path in place.tip.files if applied and path.startswith("environments/"))
            return _Before(applied=applied, unchanged=unchanged)
        slugs = {slug for environment, slug in place.repo.releases if environment == place.name} | set(
            place.repo.models
        )
        paths = [release_path(place.name, slug) for slug in slugs]
        texts = self._doors.repo.read_at(applied, paths)
        unchanged = frozenset(path for path, text in texts.items() if place.tip.files.get(path) == text)
        changed = {path: text for path, text in texts.items() if path not in unchanged}
        sluice = {"sluice.yaml": place.tip.files["sluice.yaml"]}
        repo = read_repo(with_defaults({**sluice, **changed}, self._defaults)).repo if changed else None
        releases = {slug: release for (_, slug), release in repo.releases.items()} if repo else {}
        return _Before(applied=applied, releases=releases, unchanged=unchanged)

    def _told_more(self, place: _Place, before: _Before, told: _Told) -> str:
        """Why a tip must not be applied that Ray was told more than; empty when it may."""
        for (environment, slug), release in place.repo.releases.items():
            known = told.revisions.get(slug, 0)
            ours = environment == place.name and slug not in told.held  # a hold explains itself
            if ours and known > release.traffic_revision and release_path(place.name, slug) in before.unchanged:
                accepted = place.repo.accepted.get(place.name)
                return self._histories.told_more(place.tip, release, known, before.applied, accepted)
        return ""

    def _foreign(self, place: _Place, before: _Before) -> str:
        """Why the tip must not be applied; empty when it may."""
        accepted = place.repo.accepted.get(place.name)
        if rewritten := self._histories.rewritten(place.tip, place.name, before.applied, accepted):
            return rewritten
        if before.applied is None:
            return ""
        for slug, release in before.releases.items():
            gone = (place.name, slug) not in place.repo.releases and model_path(slug) in place.tip.files
            path = release_path(place.name, slug)
            after = place.repo.releases.get((place.name, slug))
            if after and (edited := self._histories.edited(place.tip, path, release, after, before.applied)):
                return edited
            if gone and (release.stable or release.candidate):
                return f"{release_path(place.name, slug)} is gone, its model document is not: bring the release back"
        serving = [slug for slug, release in _releases(place).items() if release.stable or release.candidate]
        if serving and not (place.repo.serve.get(place.name) or {}).get("applications"):
            path = serve_path(place.name)
            return f"{path} is missing or names no application, but {', '.join(serving)} should serve: bring it back"
        return ""

    def _measured(
        self, place: _Place, document: EnvironmentDocument, models: Mapping[str, ModelLook], now: datetime
    ) -> Mapping[str, ModelLook]:
        """The same models with evidence, tripped guards and baselines: one call each, where something is asked."""
        door = self._doors.metrics
        with_traffic, judged = list(_with_traffic(place, models)), list(_judged(place, models))
        trips = door(document.prometheus).trips(with_traffic, now) if with_traffic else {}
        evidence = door(document.prometheus).evidence(judged, now) if judged else {}
        baselines = self._baselines_of(place, document, list(_about_to_start(place, models, now)), now)
        return {
            slug: dataclasses.replace(
                model,
                observed=dataclasses.replace(
                    model.observed,
                    trip=trips.get(slug),
                    evidence=evidence_with(model.observed.record, evidence.get(slug, ())),
                    baseline=baselines.get(slug, ()),
                    unavailable_since=self._blind_since(
                        (place.name, slug), evidence.get(slug) or baselines.get(slug, ()), now
                    ),
                ),
            )
            for slug, model in models.items()
        }

    def _baselines_of(
        self, place: _Place, document: EnvironmentDocument, starting: list[EvidenceRequest], now: datetime
    ) -> Mapping[str, tuple[Evidence, ...]]:
        """Baselines by model; one that keeps a rollout waiting is asked again once it is BASELINE_YOUNG old."""
        wanted = {(place.name, request.model): request for request in starting}
        known = {key: self._baselines[key] for key, request in wanted.items() if self._is_young(key, request, now)}
        asked = [request for key, request in wanted.items() if key not in known]
        answers = self._doors.metrics(document.prometheus).evidence(asked, now) if asked else {}
        for request in asked:
            evidence = answers.get(request.model, ())
            known[place.name, request.model] = _Baseline(stable=request.candidate, at=now, evidence=evidence)
        others = {key: baseline for key, baseline in self._baselines.items() if key[0] != place.name}
        self._baselines = {**others, **known}
        return {model: baseline.evidence for (_, model), baseline in known.items()}

    def _is_young(self, key: tuple[str, str], request: EvidenceRequest, now: datetime) -> bool:
        known = self._baselines.get(key)
        return known is not None and known.stable == request.candidate and now - known.at < BASELINE_YOUNG

    def _model(
        self,
        place: _Place,
        slug: str,
        release: Release,
        before: Release | None,
        registry: Registry,
        told: _Told,
        now: datetime,
    ) -> ModelLook:
        rules = _rules(place, slug)
        runtime = told.runtime
        versions = place.snapshot.models.get(release.model, {}) if place.snapshot.available else None
        artifacts, artifact_reason = _artifacts(registry, release, rules, place)
        older = before is not None and before.revision >= release.revision and before != release
        changed = older and before is not None and not only_asks(before, release)
        observed = Observed(
            versions=versions,
            registry_reason=place.snapshot.reason,
            artifacts=artifacts,
            artifact_reason=artifact_reason,
            runtime_reason="" if runtime.available else runtime.reason,
            known_revision=told.revisions.get(slug, 0),
            held=held(release, slug, runtime) if told.held else None,
            out_of_place=out_of_place(release, slug, place.applications_of(release, slug), runtime),
            candidate=_candidate(release, slug, runtime),
            warming_since=self._had_its_chance_since(place, slug, release, runtime, now),
            taken_back_from=before if changed else None,
            taken_back_by=place.tip.author,
            tip=place.tip.commit,
            record=self._record(place, slug, release, taken_back=changed),
        )
        new = (place.name, slug) not in place.repo.releases
        document = place.served.get(slug)
        objectives = tuple(place.repo.slos[name] for name in document.slos) if document else ()
        return ModelLook(
            release=release, document=document, rules=rules, observed=observed, new=new, objectives=objectives
        )

    def _record(self, place: _Place, slug: str, release: Release, *, taken_back: bool) -> Record | None:
        """What is recorded of the running rollout, also by looks that a person's commit took back."""
        if release.rollout is None:
            return None
        rollout = release.rollout.id
        found = [place.records.get((place.name, slug))]
        applied = self._doors.repo.applied(place.name) if taken_back else None
        if applied is not None:
            paths = record_path(place.name, slug), history_path(place.name, slug, rollout)
            texts = self._doors.repo.read_at(applied, paths)
            found += [_recorded(path, text) for path, text in texts.items()]
        ours = [record for record in found if record is not None and record.rollout == rollout]
        return max(ours, key=lambda record: len(record.looks), default=None)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Baseline:
    """What was answered about a stable version."""

    stable: Application
    at: datetime
    evidence: tuple[Evidence, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Before:
    """An environment as it was when it was applied last."""

    applied: str | None = None
    """The commit; none: never, or it is not known."""
    releases: Mapping[str, Release] = dataclasses.field(default_factory=dict)
    """Those that were other ones, by slug."""
    unchanged: frozenset[str] = frozenset()
    """Paths of the releases that are the same."""


class _Told:
    """What Ray shows, and what it was told by model: gathered once, as there may be a thousand."""

    def __init__(self, runtime: RuntimeObservation) -> None:
        self.runtime = runtime
        self.revisions = known_revisions(runtime)
        self.held = models_held(runtime)


@dataclasses.dataclass(frozen=True)
class _Place:
    """What is known about an environment before its own doors are asked."""

    name: str
    tip: Tip
    repo: ConfigRepo
    snapshot: RegistrySnapshot
    warming: Mapping[tuple[str, str, datetime], datetime]
    """Since when candidates had had their chance to start, at the last look."""
    records: Mapping[tuple[str, str], Record]
    """What is recorded of running rollouts, by environment and slug."""

    @functools.cached_property
    def served(self) -> Mapping[str, ModelDocument]:
        """The models that the environment serves, by slug."""
        return self.repo.serves(self.name)

    @functools.cached_property
    def _applications(self) -> Mapping[str, Config]:
        config = self.repo.serve.get(self.name) or {}
        return {app["name"]: app for app in config.get("applications") or ()}

    def applications_of(self, release: Release, slug: str) -> Config:
        """Of the tip's Serve config what is this release's, so that a thousand models do not search a thousand each."""
        names = [application.name(slug) for application in (release.stable, release.candidate) if application]
        return {"applications": [self._applications[name] for name in names if name in self._applications]}


@functools.lru_cache(maxsize=_RECORDS_REMEMBERED)
def _parsed_record(path: str, text: str) -> Record:
    """A record, from its own file or from a history. Raises BadInput."""
    if path.startswith("history/"):
        return parse_history(text, path).record or Record(rollout="")
    return parse_record(text, path)


def _recorded(path: str, text: str) -> Record | None:
    """The same; none where it cannot be read."""
    try:
        return _parsed_record(path, text)
    except BadInput:
        return None


def _records(files: Mapping[str, str]) -> tuple[dict[tuple[str, str], Record], list[Note]]:
    """The records of running rollouts by environment and slug, and what is wrong with those that cannot be read.

    A rollout goes on without its record: the record begins anew, and its bins are in Prometheus.
    """
    records: dict[tuple[str, str], Record] = {}
    unread = []
    for path, text in files.items():
        located = locate(path) if path.startswith("environments/") else None  # history/ has tens of thousands of files
        if located is None or located.place is not Place.RECORD:
            continue
        try:
            records[located.environment, located.slug] = _parsed_record(path, text)
        except BadInput as error:
            message = f"is not read, the rollout goes on without it: {error}"
            unread.append(Note(severity=Severity.WARNING, file=path, line=None, field="", message=message))
    return records, unread


def _registered_names(repo: ConfigRepo) -> tuple[str, ...]:
    return tuple(sorted({m.name for m in repo.models.values()} | {release.model for release in repo.releases.values()}))


def _releases(place: _Place) -> dict[str, Release]:
    """The environment's releases in Git, and empty ones for models that have none yet."""
    there = {slug: release for (environment, slug), release in place.repo.releases.items() if environment == place.name}
    served = place.served
    fresh = {slug: Release(model=document.name, environment=place.name) for slug, document in served.items()}
    return dict(sorted({**fresh, **there}.items()))


def _rules(place: _Place, slug: str) -> Rules:
    environment = place.repo.sluice.environments[place.name]
    document = place.served.get(slug)
    name = document.rollout if document else "default"
    return Rules(
        policy=place.repo.policies[name],
        trigger=environment.trigger,
        on_rollback=environment.on_rollback,
        settings=document.settings if document else None,
    )


# --- what the metrics are asked ---------------------------------------------------------------------------------


def _with_traffic(place: _Place, models: Mapping[str, ModelLook]) -> Iterator[EvidenceRequest]:
    """Candidates that may have been given requests, whether every replica was seen to do so or not."""
    for slug, model in models.items():
        release = model.release
        if release.phase in JUDGED and release.candidate and release.rollout and slug in place.repo.models:
            objectives = _objectives(place, slug)
            yield _request(slug, release.candidate, release.stable, objectives, release.rollout.started_at)


def _judged(place: _Place, models: Mapping[str, ModelLook]) -> Iterator[EvidenceRequest]:
    for request in _with_traffic(place, models):
        rollout = models[request.model].release.rollout
        if rollout and rollout.traffic_since:
            asked = asked_of(rollout, request.objectives)
            yield dataclasses.replace(request, objectives=asked, since=rollout.traffic_since)


def _about_to_start(place: _Place, models: Mapping[str, ModelLook], now: datetime) -> Iterator[EvidenceRequest]:
    """Stable in the candidate's place: how it did in the last day. It agrees with itself: that is not asked."""
    for slug, model in models.items():
        stable = model.release.stable
        if stable and wants_baseline(model.release, model.observed, model.rules):
            objectives = tuple(o for o in _objectives(place, slug) if o.sli is not Sli.AGREEMENT)
            if objectives:
                yield _request(slug, stable, None, objectives, now - BASELINE)


def _objectives(place: _Place, slug: str) -> tuple[Objective, ...]:
    return tuple(place.repo.slos[name] for name in place.repo.models[slug].slos)


def _request(
    slug: str, candidate: Application, stable: Application | None, objectives: tuple[Objective, ...], since: datetime
) -> EvidenceRequest:
    return EvidenceRequest(model=slug, candidate=candidate, stable=stable, objectives=objectives, since=since)


# --- what the registry and Ray are asked ------------------------------------------------------------------------


def _artifacts(registry: Registry, release: Release, rules: Rules, place: _Place) -> tuple[Mapping[int, Artifact], str]:
    """The artifact of the version that could start next, if one could: reading it may download the artifact."""
    versions = place.snapshot.models.get(release.model, {})
    if rules.settings is None or not place.snapshot.available:
        return {}, ""
    version = _could_start(carried_out(release, versions)[0], rules, at_trigger(rules.trigger, versions))
    if version is None or version not in versions:
        return {}, ""
    if release.stable and release.stable.version == version and not rules.settings.installs_requirements:
        return {version: Artifact(digest=release.stable.digest)}, ""
    try:
        return {version: registry.artifact(release.model, version)}, ""
    except SluiceError as error:
        return {}, str(error)


def _could_start(release: Release, rules: Rules, present: frozenset[int]) -> int | None:
    """What a person asked for, what is wanted, or what may supersede the running rollout."""
    kept = keep_books(release, present)
    if release.phase is not Phase.STEADY:
        return kept.queued if rules.policy.on_newer == "supersede" else None
    if release.ask and release.ask.wish is Wish.RETRY:
        return release.ask.version
    want = wanted(kept, rules.trigger, present, rules.settings) if rules.settings else None
    return want.version if isinstance(want, Wanted) else None


def _candidate(release: Release, slug: str, runtime: RuntimeObservation) -> Ready | Starting | Failed:
    if release.candidate is None:
        return Starting(reason="there is no candidate")
    return readiness(release.candidate.name(slug), runtime)
