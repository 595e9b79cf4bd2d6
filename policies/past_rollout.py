"""A rollout as it was: its record read as what happened when. Pure."""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from policies.budget import LEAST_BUDGET
from policies.convergence import Failed, Ready, Starting
from policies.documents import RolloutPolicy
from policies.durations import parse_duration
from policies.errors import BadInput
from policies.evidence import Bin, Evidence
from policies.facts import Signal
from policies.observations import Trip
from policies.record import SLUICEGATE, recorded_evidence
from policies.release import Ask, Cause, CauseKind, Outcome, Phase, PhaseRecord, Purpose, Release, Wish
from policies.rollout_record import HistoryRecord, LookRecord, Record
from policies.verdict import VerdictKind

_TRIPPED = re.compile(r"guard of (\d+) host replicas? stopped it: ([\d,]+) of its ([\d,]+) answers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Past:
    """A rollout as it was, finished or not."""

    model: str
    environment: str
    rollout: str
    version: int
    digest: str
    stable_version: int | None
    started_at: datetime
    phases: tuple[PhaseRecord, ...]
    record: Record
    evidence: tuple[Evidence, ...]
    dispersion: Mapping[str, float] = dataclasses.field(default_factory=dict)
    budget: Mapping[str, float] = dataclasses.field(default_factory=dict)
    purpose: Purpose | None = None
    outcome: Outcome | None = None
    """None: it is under way."""
    cause: Cause | None = None
    ended_at: datetime | None = None

    @property
    def asked_by(self) -> str:
        """Who asked for it; empty: its version entered the trigger."""
        actor = next((look.actor for look in self.started), SLUICEGATE)
        return "" if actor == SLUICEGATE else actor

    @property
    def started(self) -> tuple[LookRecord, ...]:
        """The look that started it; none where its record was begun anew on the way."""
        return tuple(look for look in self.record.looks[:1] if look.signal == Signal.STARTED.name)

    @property
    def metrics_deadline(self) -> timedelta:
        """How long the policy of the record waited for metrics."""
        return parse_duration(self.record.policy.get("metrics_deadline", "10m"))

    def phase_at(self, moment: datetime) -> PhaseRecord | None:
        """The phase that lasted then."""
        at = bisect_right(self.phases, moment, key=lambda phase: phase.since)
        return self.phases[at - 1] if at else None

    def stopped(self, now: datetime, kind: CauseKind) -> bool:
        """Had this stopped it by now?"""
        since = next((p.since for p in self.phases if p.phase is Phase.ROLLING_BACK), None)
        return self.cause is not None and self.cause.kind is kind and since is not None and now >= since

    def removed(self, now: datetime) -> bool:
        """Had its model document been removed by then?"""
        removed = self.cause is not None and self.cause.kind is CauseKind.REMOVED
        return removed and self.ended_at is not None and now >= self.ended_at

    def readiness(self, now: datetime) -> Ready | Starting | Failed:
        """Was the candidate warm by then?"""
        warm = next((p.since for p in self.phases if p.phase in (Phase.SHADOW, Phase.CANARY, Phase.SETTLING)), None)
        if warm is not None and now >= warm:
            return Ready()
        failed = self.cause and self.cause.kind is CauseKind.NOT_READY
        stopped = next((p.since for p in self.phases if p.phase is Phase.ROLLING_BACK), None)
        if warm is None and failed and self.cause and stopped is not None and now >= stopped:
            return Failed(message="; ".join(self.cause.reasons))
        return Starting(reason="it was not warm yet")

    def trip(self, now: datetime, build: str) -> Trip | None:
        """The guard's, from when it was seen to have stopped the candidate."""
        if not self.stopped(now, CauseKind.GUARD) or self.cause is None:
            return None
        said = _TRIPPED.search(" ".join(self.cause.reasons))
        hosts, bad, requests = (int(n.replace(",", "")) for n in said.groups()) if said else (1, 0, 0)
        at = next(p.since for p in self.phases if p.phase is Phase.ROLLING_BACK)
        return Trip(build=build, hosts=hosts, requests=requests, bad=bad, at=at)

    @property
    def lag(self) -> timedelta:
        """How long after its end a bin was known, at the soonest."""
        seen = [
            look.at - measure.until
            for look in self.record.looks
            for measure in look.measures
            if measure.until is not None
        ]
        return max(min(seen, default=timedelta()), timedelta())

    @property
    def asks(self) -> Mapping[datetime, Ask]:
        """What people wanted, by the look that carried it out."""
        return {look.at: ask for look in self.record.looks if (ask := _asked(look))}

    def blind(self) -> Iterator[tuple[datetime, datetime, str]]:
        """When the metrics were away for longer than the policy waited: from, until, and why."""
        looks = self.record.looks
        for i, look in enumerate(looks):
            if look.verdict is VerdictKind.UNAVAILABLE and look.signal == Signal.HALTED.name and look.ask is None:
                back = next((after.at for after in looks[i + 1 :]), datetime.max.replace(tzinfo=look.at.tzinfo))
                yield look.at - self.metrics_deadline, back, "; ".join(look.reasons)

    def allowances(self, policy: RolloutPolicy) -> Mapping[str, float]:
        """What it might have spent by this policy: the recorded allowances are for the recorded share."""
        if policy.budget is None:
            return {}
        recorded = (self.record.policy.get("budget") or {}).get("share", policy.budget.share)
        least = {name: LEAST_BUDGET * self.dispersion.get(name, 1.0) for name in self.budget}
        if recorded == policy.budget.share:
            return self.budget
        return {name: max(least[name], events * policy.budget.share / recorded) for name, events in self.budget.items()}


def finished(history: HistoryRecord, evidence: Sequence[Evidence] = ()) -> Past:
    """A finished rollout; `evidence` where its record has none."""
    record = history.record or Record(rollout=history.rollout)
    return Past(
        model=history.model,
        environment=history.environment,
        rollout=history.rollout,
        version=history.version,
        digest=history.digest,
        stable_version=history.stable_version,
        started_at=history.started_at,
        phases=history.phases,
        record=record,
        evidence=recorded_evidence(record) or tuple(evidence),
        dispersion=history.dispersion,
        budget=history.budget,
        purpose=history.purpose,
        outcome=history.outcome,
        cause=history.cause,
        ended_at=history.ended_at,
    )


def under_way(release: Release, record: Record | None, evidence: Sequence[Evidence] = ()) -> Past:
    """The rollout that is under way. Raises BadInput where none is."""
    rollout, candidate = release.rollout, release.candidate
    if rollout is None or candidate is None:
        raise BadInput(f"{release.model} ({release.environment}) is {release.phase}: no rollout is under way")
    known = record or Record(rollout=rollout.id)
    return Past(
        model=release.model,
        environment=release.environment,
        rollout=rollout.id,
        version=candidate.version,
        digest=candidate.digest,
        stable_version=release.stable.version if release.stable else None,
        started_at=rollout.started_at,
        phases=rollout.records,
        record=known,
        evidence=recorded_evidence(known) or tuple(evidence),
        dispersion=rollout.dispersion,
        budget=rollout.budget,
        purpose=rollout.purpose,
        cause=rollout.cause,
    )


def spans(evidence: Evidence) -> Iterator[tuple[Bin, datetime]]:
    """Each bin with its end."""
    bins = evidence.bins
    yield from zip(bins, (*(b.start for b in bins[1:]), *(b.start + evidence.width for b in bins[-1:])), strict=True)


def _asked(look: LookRecord) -> Ask | None:
    """What a person wanted then; a commit that took the release back is repeated as a wish with the same effect."""
    if look.ask or look.actor == SLUICEGATE:
        return look.ask
    wish = {Signal.STOPPED.name: Wish.ABORT, Signal.HALTED.name: Wish.PAUSE}.get(look.signal)
    return Ask(wish=wish, by=look.actor, why="; ".join(look.reasons)) if wish else None
