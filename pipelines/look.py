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
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from pipelines.consents import Asking, ConsentLooker
from pipelines.documents_in_force import DocumentsInForce
from pipelines.foreign_tips import Before, ForeignTips
from pipelines.known_environment import KnownEnvironment, Told, registered_names
from pipelines.ports import EvidenceRequest, Forge, Metrics, Registry, Repo, Runtime
from pipelines.recorded_rollouts import recorded, records_of
from pipelines.vouched import Trust, Vouched
from pipelines.wanted_versions import look_at_wanted
from policies.application import Application
from policies.applying import Applier
from policies.budget import BASELINE
from policies.config_repo_documents import ConfigRepo
from policies.convergence import Failed, Ready, Starting, readiness
from policies.documents import EnvironmentDocument, ModelDocument, PrometheusTarget, RayTarget, RegistryTarget
from policies.errors import SluiceError
from policies.evidence import Evidence, Objective, Sli
from policies.facts import Observed, Rules
from policies.forges import ForgeTarget
from policies.holding import held
from policies.layout import consent_path, history_path, record_path
from policies.notes import Note
from policies.observations import RuntimeObservation, Tip
from policies.placement import out_of_place
from policies.record import evidence_with
from policies.release import Phase, Release
from policies.rollout import JUDGED, wants_baseline
from policies.rollout_record import Record
from policies.slo import asked_of
from policies.wishes import only_asks

Config = Mapping[str, Any]

# A day of samples is a large answer, and a service that burns does so for minutes at least.
BASELINE_YOUNG = timedelta(minutes=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doors:
    """One door per outside system; those that an environment names are made for it."""

    repo: Repo
    registry: Callable[[RegistryTarget], Registry]
    runtime: Callable[[RayTarget], Runtime]
    metrics: Callable[[PrometheusTarget], Metrics]
    forge: Callable[[ForgeTarget], Forge] | None = None


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
    applier: Applier
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
        self._documents = DocumentsInForce(doors.repo, defaults)
        self._consents = ConsentLooker(doors.repo, doors.forge)
        self._foreign = ForeignTips(doors.repo, defaults)
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
        records, unread = records_of(tip.files)
        registry = self._doors.registry(repo.sluice.registry)
        snapshot = registry.snapshot(registered_names(repo))
        environments = {}
        for name in repo.sluice.environments:
            place = KnownEnvironment(name, tip, repo, snapshot, warming, records)
            before, foreign = self._foreign.history(place)
            why = refused.get(name) or foreign
            environments[name] = self._environment(place, registry, before, why, now)
        said = (*vouched.notes, *notes, *unread)
        return Look(at=now, tip=tip, documents=repo, environments=environments, notes=said, vouched=vouched.trusted)

    def look_without_git(self, last: Mapping[str, Look], now: datetime) -> dict[str, EnvironmentLook]:
        """These environments as they are now, each on the tip of its earlier look. Nothing of it may be committed."""
        names = tuple(sorted({name for look in last.values() for name in registered_names(look.documents)}))
        registries = {look.registry: self._doors.registry(look.registry) for look in last.values()}
        snapshots = {target: registry.snapshot(names) for target, registry in registries.items()}
        environments = {}
        for name, look in last.items():
            records, _ = records_of(look.tip.files)
            place = KnownEnvironment(name, look.tip, look.documents, snapshots[look.registry], {}, records)
            environments[name] = self._environment(place, registries[look.registry], Before(), "", now)
        # A time without Git is no chance to start.
        self._warming_since = {key: since for key, since in self._warming_since.items() if key[0] not in last}
        return environments

    # --- one environment ------------------------------------------------------------------------------------------

    def _environment(
        self, place: KnownEnvironment, registry: Registry, before: Before, refused: str, now: datetime
    ) -> EnvironmentLook:
        document = place.document
        told = Told(self._doors.runtime(document.ray).observe())
        releases = place.releases
        refused = refused or self._foreign.told_more(place, before, told)
        seen = {
            slug: self._model(place, slug, release, before, registry, told, now) for slug, release in releases.items()
        }
        models: Mapping[str, ModelLook] = seen
        if not refused:
            asked = self._with_consents(place, self._with_room(document, seen), now)
            models = self._measured(place, document, asked, now)
        desired = place.repo.serve.get(place.name) or {}
        return EnvironmentLook(
            name=place.name,
            document=document,
            applier=place.applier,
            runtime=told.runtime,
            desired=desired,
            models=models,
            refused=refused,
        )

    def _with_room(self, document: EnvironmentDocument, models: Mapping[str, ModelLook]) -> Mapping[str, ModelLook]:
        """The same models, told what the cluster has where a version could start: one call, where a policy asks."""
        asking = {slug for slug, m in models.items() if m.observed.artifacts and m.rules.asks_for_room}
        if not asking:
            return models
        capacity, reason = None, ""
        try:
            capacity = self._doors.runtime(document.ray).capacity()
        except SluiceError as error:
            reason = str(error)
        return {
            slug: dataclasses.replace(
                model, observed=dataclasses.replace(model.observed, capacity=capacity, capacity_reason=reason)
            )
            if slug in asking
            else model
            for slug, model in models.items()
        }

    def _with_consents(
        self, place: KnownEnvironment, models: Mapping[str, ModelLook], now: datetime
    ) -> Mapping[str, ModelLook]:
        """The same models, with what Git and the forge show of what people are asked."""
        asking = {slug: Asking(m.release, m.observed, m.rules) for slug, m in models.items()}
        shown = self._consents.looks(place.repo.sluice.forge, place.tip.commit, asking, now)
        return {
            slug: dataclasses.replace(model, observed=dataclasses.replace(model.observed, consent=shown[slug]))
            if slug in shown
            else model
            for slug, model in models.items()
        }

    def _measured(
        self, place: KnownEnvironment, document: EnvironmentDocument, models: Mapping[str, ModelLook], now: datetime
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
        self, place: KnownEnvironment, document: EnvironmentDocument, starting: list[EvidenceRequest], now: datetime
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
        place: KnownEnvironment,
        slug: str,
        release: Release,
        applied: Before,
        registry: Registry,
        told: Told,
        now: datetime,
    ) -> ModelLook:
        rules = place.rules(slug)
        runtime = told.runtime
        versions = place.snapshot.models.get(release.model, {}) if place.snapshot.available else None
        wanted = look_at_wanted(registry, release, rules, place.snapshot)
        before = applied.releases.get(slug)
        older = before is not None and (before.revision >= release.revision or slug in applied.taken_back)
        changed = before is not None and older and before != release and not only_asks(before, release)
        observed = Observed(
            versions=versions,
            registry_reason=place.snapshot.reason,
            artifacts=wanted.artifacts,
            artifact_reason=wanted.artifact_reason,
            facts=wanted.facts,
            facts_reason=wanted.facts_reason,
            runtime_reason=_runtime_reason(place, slug, release, runtime),
            known_revision=told.revisions.get(slug, 0),
            held=held(release, slug, runtime) if told.held else None,
            out_of_place=_out_of_place(place, slug, release, runtime),
            candidate=_candidate(release, slug, runtime),
            warming_since=self._had_its_chance_since(place, slug, release, runtime, now),
            taken_back_from=before if changed else None,
            taken_back_by=place.tip.author,
            tip=place.tip.commit,
            record=self._record(place, slug, release, taken_back=changed),
            consent_given=place.tip.files.get(consent_path(place.name, slug)),
        )
        new = (place.name, slug) not in place.repo.releases
        document = place.served.get(slug)
        objectives = tuple(place.repo.slos[name] for name in document.slos) if document else ()
        return ModelLook(
            release=release, document=document, rules=rules, observed=observed, new=new, objectives=objectives
        )

    def _record(self, place: KnownEnvironment, slug: str, release: Release, *, taken_back: bool) -> Record | None:
        """What is recorded of the running rollout, also by looks that a person's commit took back."""
        if release.rollout is None:
            return None
        rollout = release.rollout.id
        found = [place.records.get((place.name, slug))]
        applied = self._doors.repo.applied(place.name) if taken_back else None
        if applied is not None:
            paths = record_path(place.name, slug), history_path(place.name, slug, rollout)
            texts = self._doors.repo.read_at(applied, paths)
            found += [recorded(path, text) for path, text in texts.items()]
        ours = [record for record in found if record is not None and record.rollout == rollout]
        return max(ours, key=lambda record: len(record.looks), default=None)

    def _blind_since(self, key: tuple[str, str], evidence: tuple[Evidence, ...], now: datetime) -> datetime | None:
        if all(e.source.available for e in evidence):
            self._unavailable_since.pop(key, None)
            return None
        return self._unavailable_since.setdefault(key, now)

    def _had_its_chance_since(
        self, place: KnownEnvironment, slug: str, release: Release, runtime: RuntimeObservation, now: datetime
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


# --- what the metrics are asked ---------------------------------------------------------------------------------


def _with_traffic(place: KnownEnvironment, models: Mapping[str, ModelLook]) -> Iterator[EvidenceRequest]:
    """Candidates that may have been given requests, whether every replica was seen to do so or not."""
    for slug, model in models.items():
        release = model.release
        if release.phase in JUDGED and release.candidate and release.rollout and slug in place.repo.models:
            objectives = _objectives(place, slug)
            yield _request(slug, release.candidate, release.stable, objectives, release.rollout.started_at)


def _judged(place: KnownEnvironment, models: Mapping[str, ModelLook]) -> Iterator[EvidenceRequest]:
    for request in _with_traffic(place, models):
        rollout = models[request.model].release.rollout
        if rollout and rollout.traffic_since:
            asked = asked_of(rollout, request.objectives)
            yield dataclasses.replace(request, objectives=asked, since=rollout.traffic_since)


def _about_to_start(
    place: KnownEnvironment, models: Mapping[str, ModelLook], now: datetime
) -> Iterator[EvidenceRequest]:
    """Stable in the candidate's place: how it did in the last day. It agrees with itself: that is not asked."""
    for slug, model in models.items():
        stable = model.release.stable
        if stable and wants_baseline(model.release, model.observed, model.rules):
            objectives = tuple(o for o in _objectives(place, slug) if o.sli is not Sli.AGREEMENT)
            if objectives:
                yield _request(slug, stable, None, objectives, now - BASELINE)


def _objectives(place: KnownEnvironment, slug: str) -> tuple[Objective, ...]:
    return tuple(place.repo.slos[name] for name in place.repo.models[slug].slos)


def _request(
    slug: str, candidate: Application, stable: Application | None, objectives: tuple[Objective, ...], since: datetime
) -> EvidenceRequest:
    return EvidenceRequest(model=slug, candidate=candidate, stable=stable, objectives=objectives, since=since)


# --- what Ray is asked -------------------------------------------------------------------------------------------


def _runtime_reason(place: KnownEnvironment, slug: str, release: Release, runtime: RuntimeObservation) -> str:
    """Why nothing can be known of Ray, or could be told to it, that this release is waited for."""
    if not runtime.available:
        return runtime.reason
    return place.applier.not_told(release, slug, runtime)


def _out_of_place(place: KnownEnvironment, slug: str, release: Release, runtime: RuntimeObservation) -> str:
    why = out_of_place(release, slug, place.applications_of(release, slug), runtime)
    return why or place.applier.on_hold(release, runtime)


def _candidate(release: Release, slug: str, runtime: RuntimeObservation) -> Ready | Starting | Failed:
    if release.candidate is None:
        return Starting(reason="there is no candidate")
    return readiness(release.candidate.name(slug), runtime)
