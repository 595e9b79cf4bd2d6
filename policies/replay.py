"""What another policy would have done with a rollout that was: its recorded bins, through the same code as live.

A release is stepped through `rollout.decide` as the reconciler steps one: at the end of every recorded bin and at every
recorded look, with the evidence as far as it was known then. Rules:

- Whatever the policy does not decide happens as it did: when the candidate was warm, when weights were live, when
  people asked for something, took the candidate out of the trigger or removed the model, and when metrics were away. As
  long as the phases are the recorded ones, weights are live when they were; afterwards at once.
- The bins are the recorded ones, whatever share the candidate would have had. From where that is another one than it
  had, the replay says so: it would have seen other requests.
- Nothing is known after the last bin. A rollout that is still under way there has no outcome; a way back to stable
  needs no evidence and is gone to its end.
- With the policy of the record, the replay gives the recorded decisions, at the same moments to within a look.

This module must not do I/O or read a clock.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from policies.actions import Wait, WriteHistory, WriteRecord, WriteRelease
from policies.application import Application, Settings
from policies.documents import RolloutPolicy, Trigger
from policies.errors import BadInput
from policies.evidence import Evidence, Source
from policies.facts import Observed, Rules
from policies.observations import Artifact, RegisteredVersion
from policies.past_rollout import Past, spans
from policies.release import Cause, CauseKind, Outcome, Phase, PhaseRecord, Release, Rollout
from policies.rollout import JUDGED, decide
from policies.rollout_record import HistoryRecord, LookRecord, Record
from policies.slo import asked_of
from policies.stored_documents import plain

SOON = timedelta(seconds=1)
"""After something changed the reconciler looks again this soon."""

MOST_LOOKS = 250_000
"""Five weeks of bins of 15 s; a replay that takes longer than that is a mistake of its own."""

_TRIGGER = Trigger(stage="Production")
_NO_DIGEST = f"sha256:{0:064x}"
_RAY_DIFFERS = "Ray does not match Git"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """What would have happened."""

    past: Past
    policy: RolloutPolicy
    phases: tuple[PhaseRecord, ...]
    looks: tuple[LookRecord, ...]
    outcome: Outcome | None
    """None: still under way where the data ends."""
    ended_at: datetime | None
    cause: Cause | None
    waits: str
    """Why it had not moved where the data ends; empty where it has ended."""
    unknown: tuple[str, ...]
    """What this replay cannot know, and why."""

    @property
    def same(self) -> bool:
        """Did it go through the same phases, at the same shares, to the same end?"""
        return self.outcome == self.past.outcome and _shares(self.phases) == _shares(self.past.phases)


def replay(past: Past, policy: RolloutPolicy) -> Replay:
    """Step the rollout through `decide` with this policy. Raises BadInput where there is nothing to judge again."""
    if not past.evidence and any(phase.live_since and phase.phase in JUDGED for phase in past.phases):
        raise BadInput(f"{past.rollout} has no recorded bins: nothing can be judged again")
    return _Replaying(past, policy).to_the_end()


def _shares(phases: Sequence[PhaseRecord]) -> list[tuple[Phase, int]]:
    return [(phase.phase, phase.weight_percent) for phase in phases]


class _Replaying:
    """One replay; its state is a release and a record, as in Git."""

    def __init__(self, past: Past, policy: RolloutPolicy) -> None:
        self._past = past
        self._ends = [[end for _, end in spans(e)] for e in past.evidence]
        self._lag = past.lag
        self._asks = past.asks
        self._blind = tuple(past.blind())
        self._candidate = Application(version=past.version, digest=past.digest)
        self._rules = Rules(policy=policy, trigger=_TRIGGER, on_rollback="annotate", settings=Settings())
        self._newer = 1 + max(past.version, past.stable_version or 0)
        self._release = self._begun()
        self._record = Record(rollout=past.rollout, looks=past.started)
        self._ended: HistoryRecord | None = None
        self._waits = ""
        self._patience = 2 * max((e.width for e in past.evidence), default=SOON)
        self._differs: tuple[datetime, PhaseRecord, PhaseRecord] | None = None

    def to_the_end(self) -> Replay:
        """From the recorded start to the end, or to where the data ends."""
        now = self._past.started_at
        moments = self._moments()
        at = 0
        for _ in range(MOST_LOOKS):
            at = bisect_right(moments, now)
            scheduled = moments[at] if at < len(moments) else None
            moved = self._look(now)
            if self._ended:
                break
            if scheduled is None and self._release.phase is not Phase.ROLLING_BACK:
                break
            soon = now + SOON if (moved and not self._as_recorded()) or scheduled is None else None
            now = min(filter(None, (scheduled, soon)))
        return self._told(now)

    def _begun(self) -> Release:
        past = self._past
        stable = None
        if past.stable_version is not None:  # with other settings: it may be the same version with new ones
            stable = Application(version=past.stable_version, digest=_NO_DIGEST, settings=Settings(cpus=2))
        seen = {past.version, *([past.stable_version] if past.stable_version is not None else [])}
        warming = dataclasses.replace(
            past.phases[0], live_since=None, until=None, verdict=None, reasons=past.phases[0].reasons[:1]
        )
        return Release(
            model=past.model,
            environment=past.environment,
            revision=1,
            phase=Phase.WARMING,
            stable=stable,
            candidate=self._candidate,
            seen=tuple(sorted(seen)),
            rollout=Rollout(
                id=past.rollout,
                started_at=past.started_at,
                records=(warming,),
                purpose=past.purpose,
                asked_by=past.asked_by,
                dispersion=past.dispersion,
                budget=past.allowances(self._rules.policy),
            ),
        )

    def _moments(self) -> list[datetime]:
        """When is looked: when each bin was known, and when a look was recorded. Ascending."""
        known = {end + self._lag for ends in self._ends for end in ends}
        return sorted({*known, *(look.at for look in self._past.record.looks), *self._edges()})

    def _edges(self) -> Iterator[datetime]:
        """Where phases began, were live and ended: in old histories nothing else tells of looks."""
        for phase in self._past.phases:
            yield phase.since
            yield from filter(None, (phase.live_since, phase.until))

    # --- one look -------------------------------------------------------------------------------------------------

    def _look(self, now: datetime) -> bool:
        """Decide and take over what was decided; returns whether the rollout moved."""
        release = dataclasses.replace(self._release, ask=self._asks.get(now))
        if self._past.stopped(now, CauseKind.SUPERSEDED):
            release = dataclasses.replace(release, queued=self._newer, seen=tuple(sorted({*release.seen, self._newer})))
        rules = self._rules if not self._past.removed(now) else dataclasses.replace(self._rules, settings=None)
        moved, self._waits = False, ""
        for action in decide(release, self._observed(now), rules, now):
            if isinstance(action, WriteRelease):
                release = action.release
            elif isinstance(action, WriteRecord):
                self._record, moved = action.record, True
            elif isinstance(action, WriteHistory):
                self._ended, moved = action.record, True
            elif isinstance(action, Wait):
                self._waits = action.reason
        self._release = dataclasses.replace(release, ask=None)
        if not self._ended:
            self._compare(now)
        return moved

    def _observed(self, now: datetime) -> Observed:
        past = self._past
        known = {*self._release.seen, self._newer}
        present = {n for n in known if n != past.version or not self._past.stopped(now, CauseKind.WITHDRAWN)}
        present -= {self._newer} if not self._past.stopped(now, CauseKind.SUPERSEDED) else set()
        return Observed(
            versions={
                n: RegisteredVersion(number=n, stage="Production" if n in present else "Archived") for n in known
            },
            artifacts={self._newer: Artifact(digest=_NO_DIGEST)},
            trip=past.trip(now, self._candidate.build) if self._rules.policy.guard else None,
            out_of_place=self._out_of_place(now),
            candidate=past.readiness(now),
            evidence=self._evidence(now),
            unavailable_since=next((since for since, until, _ in self._blind if since <= now < until), None),
            tip="",
            record=self._record,
        )

    def _evidence(self, now: datetime) -> tuple[Evidence, ...]:
        if self._release.phase not in JUDGED:
            return ()
        why = next((why for since, until, why in self._blind if since <= now < until), "")
        rollout = self._release.rollout
        asked = asked_of(rollout, [e.objective for e in self._past.evidence]) if rollout else ()
        if why:
            return tuple(
                dataclasses.replace(e, bins=(), source=Source(available=False, query=e.source.query, reason=why))
                for e in self._past.evidence
                if e.objective in asked
            )
        return tuple(
            dataclasses.replace(e, bins=e.bins[: bisect_right(ends, now - self._lag)])
            for e, ends in zip(self._past.evidence, self._ends, strict=True)
            if e.objective in asked
        )

    def _out_of_place(self, now: datetime) -> str:
        """Empty when the weights are in place: as recorded, while the phases are; else always."""
        recorded = self._recorded_now()
        if recorded is None or recorded.phase is Phase.WARMING:
            return ""
        if recorded.live_since is None:
            in_place = recorded.until is not None and (
                now >= recorded.until if recorded.phase is Phase.PAUSED else now > recorded.until
            )
            return "" if in_place else "the weights were not in place"
        lost = recorded.until is not None and any(reason.startswith(_RAY_DIFFERS) for reason in recorded.reasons)
        late = now < recorded.live_since or (lost and now > recorded.live_since)
        return "the weights were not in place" if late else ""

    # --- as recorded, or not --------------------------------------------------------------------------------------

    def _as_recorded(self) -> bool:
        """Are the phases so far those that were?"""
        return self._recorded_now() is not None

    def _recorded_now(self) -> PhaseRecord | None:
        """The recorded phase that this one repeats; none where another way was taken."""
        records = self._release.rollout.records if self._release.rollout else ()
        recorded = self._past.phases[: len(records)]
        return recorded[-1] if recorded and _shares(records) == _shares(recorded) else None

    def _compare(self, now: datetime) -> None:
        """Note since when the candidate's share is another one than it was, where that lasts longer than a look."""
        records = self._release.rollout.records if self._release.rollout else ()
        here, was = (records[-1] if records else None), self._past.phase_at(now)
        over = was is not None and was.until is not None and now >= was.until
        if self._differs and now - self._differs[0] > self._patience:
            return
        if here is None or was is None or over or _exposure(here, records) == _exposure(was, self._past.phases):
            self._differs = None
        else:
            self._differs = self._differs or (now, here, was)

    # --- the answer -----------------------------------------------------------------------------------------------

    def _told(self, now: datetime) -> Replay:
        ended, rollout = self._ended, self._release.rollout
        return Replay(
            past=self._past,
            policy=self._rules.policy,
            phases=ended.phases if ended else rollout.records if rollout else (),
            looks=ended.record.looks if ended and ended.record else self._record.looks,
            outcome=ended.outcome if ended else None,
            ended_at=ended.ended_at if ended else None,
            cause=ended.cause if ended else rollout.cause if rollout else None,
            waits="" if ended else self._waits,
            unknown=tuple(self._unknown(now)),
        )

    def _changed(self, field: str) -> bool:
        """Is that field of the policy another one than recorded?"""
        recorded = self._past.record.policy
        return field in recorded and recorded[field] != plain(self._rules.policy)[field]

    def _unknown(self, now: datetime) -> Iterator[str]:
        if self._differs and now - self._differs[0] > self._patience:
            at, here, was = self._differs
            yield (
                f"from {at:%H:%M:%S} UTC the candidate would have been at {_in_words(here)}, where it was at "
                f"{_in_words(was)}: it would have seen other requests than the recorded ones, which are judged here"
            )
        if self._ended is None and self._past.outcome is not None:
            yield f"what is recorded ends at {now:%Y-%m-%d %H:%M:%S} UTC: what would have followed is not known"
        for evidence in self._past.evidence:
            fine = next((b.start for b, end in spans(evidence) if end - b.start <= evidence.width), None)
            if fine is not None and fine != evidence.bins[0].start:
                yield (
                    f"{evidence.objective.name}: bins before {fine:%Y-%m-%d %H:%M:%S} UTC are recorded coarser than "
                    "they were judged"
                )
        if self._past.cause and self._past.cause.kind is CauseKind.GUARD and self._changed("guard"):
            yield "the guard stopped it; when one with another alpha would have is not recorded"
        if self._changed("on_newer") and self._rules.policy.on_newer == "supersede":
            yield "whether a newer version entered the trigger meanwhile is not recorded"
        changed = [look.at for look in self._past.record.looks if look.new_policy]
        if changed:
            yield f"the policy was changed at {changed[0]:%H:%M:%S} UTC: the record has the one that was in force last"


def _exposure(phase: PhaseRecord, phases: Sequence[PhaseRecord]) -> tuple[bool, int]:
    """What of the requests the candidate sees in one of these phases: copies of all, or a share.

    A pause keeps what was before it.
    """
    gone_on = [p.phase for p in phases[: phases.index(phase) + 1] if p.phase is not Phase.PAUSED]
    return gone_on[-1:] == [Phase.SHADOW], phase.weight_percent


def _in_words(phase: PhaseRecord) -> str:
    if phase.phase in (Phase.WARMING, Phase.ROLLING_BACK):
        return f"{phase.phase}, without traffic"
    return f"{phase.phase} {phase.weight_percent} %" if phase.weight_percent else str(phase.phase)
