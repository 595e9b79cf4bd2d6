"""A release: the desired state of one model in one environment, with the rollout that is under way.

Rules:
- Every value is immutable and holds its invariants from construction on; nothing checks it again.
- What is stored in Git is a strict pydantic dataclass: unknown keys are an error.
- Times are timezone-aware UTC datetimes, durations are timedeltas, shares are percent where the name says so.

This module must not do I/O, read a clock or hold a rule about what follows what: that is `rollout.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field
from pydantic.dataclasses import dataclass as document

from policies.admission import Check
from policies.application import Application
from policies.names import ROLLOUT_ID
from policies.stored_values import STRICT, YEARS, Digest, Percent, Words
from policies.verdict import VerdictKind


class Phase(StrEnum):
    """Where a release is. What follows what is the TRANSITIONS table of `rollout.py`."""

    STEADY = "STEADY"
    WARMING = "WARMING"
    SHADOW = "SHADOW"
    CANARY = "CANARY"
    PAUSED = "PAUSED"
    SETTLING = "SETTLING"
    ROLLING_BACK = "ROLLING_BACK"


PAUSES = (Phase.WARMING, Phase.SHADOW, Phase.CANARY, Phase.SETTLING)
"""Phases that can be paused, and gone on with."""


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


class Purpose(StrEnum):
    """What a rollout that is no ordinary one is for."""

    UNDO = "undo"
    """Back to a version that served before: one step, then 100 %; still guarded."""
    EMERGENCY = "emergency"
    """The version carries the emergency tag: it may start while the service burns its error budget."""


class CauseKind(StrEnum):
    """Why a rollout stopped on its way up."""

    FAILED = "failed"
    """The evidence said FAIL."""
    GUARD = "guard"
    """The guard at a host stopped the candidate."""
    BUDGET = "budget spent"
    """The rollout has spent its share of the error budget."""
    SUPERSEDED = "superseded"
    """A newer version entered the trigger, and the policy lets it."""
    NOT_READY = "not ready"
    """The candidate could not start, or not before its deadline."""
    INCONCLUSIVE = "inconclusive"
    """The time of a step passed without a PASS."""
    NO_METRICS = "no metrics"
    """The evidence was unavailable for longer than the policy waits."""
    WITHDRAWN = "withdrawn"
    """A person took the candidate out of the trigger."""
    REVERTED = "reverted"
    """A person's commit took the release back."""
    ASKED = "asked"
    """A person asked for it."""
    REMOVED = "removed"
    """The model's document was removed."""


@document(frozen=True, kw_only=True, config=STRICT)
class Cause:
    """Why a release is PAUSED or ROLLING_BACK."""

    kind: CauseKind
    reasons: tuple[Words, ...]

    @property
    def quarantines(self) -> bool:
        """True where the version itself is to blame; a person's change of mind blames nobody."""
        return self.kind in (
            CauseKind.FAILED,
            CauseKind.GUARD,
            CauseKind.BUDGET,
            CauseKind.NOT_READY,
            CauseKind.INCONCLUSIVE,
        )


@document(frozen=True, kw_only=True, config=STRICT)
class PhaseRecord:
    """One phase or step of a rollout, as it was. `until` and `verdict` are none while it lasts."""

    phase: Phase
    weight_percent: Percent
    since: AwareDatetime
    live_since: AwareDatetime | None = None
    """When every replica was seen to have this phase's weights: evidence counts from here."""
    until: AwareDatetime | None = None
    verdict: VerdictKind | None = None
    reasons: tuple[Words, ...] = ()


@document(frozen=True, kw_only=True, config=STRICT)
class Rollout:
    """One attempt of a candidate to become stable."""

    id: Annotated[str, Field(pattern=f"^{ROLLOUT_ID}$")]
    started_at: AwareDatetime
    step: Annotated[int, Field(ge=0)] = 0
    """Index into the policy's steps; counts in CANARY, and in PAUSED when paused from there."""
    records: tuple[PhaseRecord, ...]
    """Every phase so far, the current one last."""
    paused_from: Phase | None = None
    clock_since: AwareDatetime | None = None
    """When a person resumed it last: the policy's max_duration counts from there; none: from the start."""
    cause: Cause | None = None
    """Why it is PAUSED or ROLLING_BACK."""
    purpose: Purpose | None = None
    """None: an ordinary rollout, with every step of the policy."""
    asked_by: Words = ""
    """Who asked for it (`sluice undo`, `sluice retry`); empty: its version entered the trigger."""
    admission: tuple[Check, ...] = ()
    """What was asked of its version before it started."""
    dispersion: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """phi by objective, measured before the rollout; one that is not named counts as 1."""
    budget: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Bad events in excess that it may cause, by objective; one that is not named is not counted."""

    def __post_init__(self) -> None:
        """A rollout is in some phase. Raises ValueError."""
        if not self.records:
            raise ValueError("a rollout has at least one phase record")

    @property
    def moments(self) -> tuple[datetime, ...]:
        """All that it names."""
        of_phases = (moment for r in self.records for moment in (r.since, r.live_since, r.until))
        return tuple(m for m in (self.started_at, self.clock_since, *of_phases) if m is not None)

    @property
    def current(self) -> PhaseRecord:
        """The phase that lasts now."""
        return self.records[-1]

    def lasted(self, now: datetime) -> timedelta:
        """How long it has been under way since a person started or resumed it; while PAUSED the clock stands still."""
        since = self.clock_since or self.started_at
        spans = ((max(r.since, since), r.until or now) for r in self.records if r.phase is not Phase.PAUSED)
        return sum((max(end - start, timedelta()) for start, end in spans), timedelta())

    @property
    def traffic_since(self) -> datetime | None:
        """When the candidate first saw requests, copies included: the judge's start."""
        phases = (Phase.SHADOW, Phase.CANARY, Phase.SETTLING, Phase.PAUSED)
        seen = [r.live_since for r in self.records if r.live_since and r.phase in phases]
        return seen[0] if seen else None


@document(frozen=True, kw_only=True, config=STRICT)
class Quarantined:
    """A version that was rolled back; neither it nor its digest under another number is tried again by itself."""

    version: int
    digest: Digest
    build: str
    """The application that was rolled back: where only the settings were new, only they are quarantined."""
    rollout: str
    since: AwareDatetime
    reasons: tuple[Words, ...]


@document(frozen=True, kw_only=True, config=STRICT)
class Refused:
    """A version that entered the trigger and was not tried, with the reason."""

    version: int
    reason: Words
    checks: tuple[Check, ...] = ()
    """Its admission. While they are here it is asked again at every look; older ones, and those of which something
    else was started since, have none any more."""
    pull_request: Annotated[int, Field(ge=1)] | None = None
    """The one that a person closed."""


class Wish(StrEnum):
    """What a person can ask of a release."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    PROMOTE = "promote"
    """Go on to the next step, without waiting for its evidence; harm still takes it back."""
    UNDO = "undo"
    """Back to the version that served before this one; while nothing runs."""
    RETRY = "retry"
    """Try a version that was stopped again, on fresh evidence; while nothing runs."""
    LIFT = "lift"
    """Take a version out of the quarantine."""


@document(frozen=True, kw_only=True, config=STRICT)
class Ask:
    """A person's wish, committed to a release; the next look carries it out and removes it."""

    wish: Wish
    by: Words
    why: Words
    version: int | None = None
    """With RETRY and LIFT: which."""


@document(frozen=True, kw_only=True, config=STRICT)
class Release:
    """The desired state of one model in one environment. It lives in Git and nowhere else."""

    model: Annotated[str, Field(min_length=1)]
    """The registered model's name in MLflow."""
    environment: Annotated[str, Field(min_length=1)]
    revision: Annotated[int, Field(ge=0)] = 0
    """Grows with every change."""
    traffic_revision: Annotated[int, Field(ge=0)] = 0
    """The revision that last changed what serves; hosts ignore a lower one."""
    phase: Phase = Phase.STEADY
    stable: Application | None = None
    candidate: Application | None = None
    weight_percent: Percent = 0
    """Share of requests that the candidate answers."""
    rollout: Rollout | None = None
    seen: tuple[int, ...] = ()
    """Versions seen at the trigger, ascending: only what is new there is wanted."""
    queued: int | None = None
    """The version that entered the trigger last while a rollout was running."""
    quarantine: tuple[Quarantined, ...] = ()
    refused: tuple[Refused, ...] = ()
    ask: Ask | None = None
    served: tuple[Application, ...] = ()
    """Applications that were stable before this one, the latest last."""

    @property
    def candidate_takes_the_route(self) -> bool:
        """Is it answered by the candidate itself at 100 %, without a host? A failing stable version is a bad one."""
        emergency = self.rollout is not None and self.rollout.purpose is Purpose.EMERGENCY
        return self.candidate is not None and (self.stable is None or emergency)

    @property
    def waits_for_a_person(self) -> bool:
        """Is it PAUSED because a person wanted it so? Other pauses may end by themselves."""
        cause = self.rollout.cause if self.rollout else None
        return self.phase is Phase.PAUSED and (cause is None or cause.kind in (CauseKind.ASKED, CauseKind.REVERTED))

    @property
    def contradiction(self) -> str:
        """What the state machine could not have written; empty for nothing. A person can commit anything."""
        running = self.phase is not Phase.STEADY
        if running != (self.rollout is not None) or running != (self.candidate is not None):
            return f"{self.phase} has {'a rollout and a candidate' if running else 'neither a rollout nor a candidate'}"
        if self.phase is Phase.PAUSED and self.rollout and self.rollout.paused_from not in PAUSES:
            return f"PAUSED says in paused_from what goes on: one of {', '.join(PAUSES)}"
        moments = (*(q.since for q in self.quarantine), *(self.rollout.moments if self.rollout else ()))
        if wrong := next((m for m in moments if m.year not in YEARS), None):
            return f"{wrong.isoformat()} is no moment of a rollout"
        return ""
