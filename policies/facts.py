"""What is known about a release at one look, and what can be noticed in it: the words between looking and deciding.

`Observed` and `Rules` are what one look and people's documents say; `Noticed`, `Idle` and `Refused` are what is made
of them. Every `Idle` has an end: a moment, or the event that it names.

This module must not hold a rule: what the facts mean is `noticing.py` and `starting.py`, what follows `rollout.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from policies.admission import Check
from policies.application import Application, Settings
from policies.capacity import Capacity
from policies.consent import ConsentLook
from policies.convergence import Failed, Ready, Starting
from policies.documents import RolloutPolicy, Trigger
from policies.evidence import Evidence
from policies.observations import Artifact, RegisteredVersion, Trip, VersionFacts
from policies.release import Cause, CauseKind, Phase, Purpose, Release, Rollout
from policies.rollout_record import Record
from policies.verdict import Verdict, VerdictKind


class Signal(StrEnum):
    """What was noticed about a release that moves it."""

    STARTED = "a new version is wanted and admitted"
    READY_FOR_SHADOW = "the candidate is warm, and a shadow step is planned"
    READY_FOR_CANARY = "the candidate is warm, and no shadow step is planned"
    READY_TO_SETTLE = (
        "the candidate is warm, and there is no stable version that could host it, or no step before 100 %"
    )
    LIVE = "every replica has the phase's weights"
    PASSED = "PASS, and another step follows"
    PASSED_LAST = "PASS, and this was the last step"
    SETTLED = "PASS at 100 % over the bake time"
    SKIPPED = "a person goes on without the evidence, and another step follows"
    SKIPPED_LAST = "a person goes on without the evidence, and this was the last step"
    SKIPPED_SETTLING = "a person ends the time at 100 % without its evidence"
    STOPPED = "harm, a failed start, a newer version, or a person"
    HALTED = "inconclusive, no metrics, or a person"
    RESUMED_WARMING = "resumed, paused from WARMING"
    RESUMED_SHADOW = "resumed, paused from SHADOW"
    RESUMED_CANARY = "resumed, paused from CANARY"
    RESUMED_SETTLING = "resumed, paused from SETTLING"
    ENDED = "traffic is back at stable and the registry was told"


RESUMED: Mapping[Phase, Signal] = {
    Phase.WARMING: Signal.RESUMED_WARMING,
    Phase.SHADOW: Signal.RESUMED_SHADOW,
    Phase.CANARY: Signal.RESUMED_CANARY,
    Phase.SETTLING: Signal.RESUMED_SETTLING,
}

# --- what is known --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observed:
    """What one look showed of one model in one environment."""

    versions: Mapping[int, RegisteredVersion] | None
    """The model's versions in the registry; none when the registry did not answer."""
    registry_reason: str = ""
    """Why not."""
    artifacts: Mapping[int, Artifact] = dataclasses.field(default_factory=dict)
    """Those of the versions that could be wanted."""
    artifact_reason: str = ""
    """Why one is missing."""
    facts: Mapping[int, VersionFacts] = dataclasses.field(default_factory=dict)
    """What a version that could be wanted and the stable one say about themselves."""
    facts_reason: str = ""
    """Why one is missing."""
    capacity: Capacity | None = None
    """What the cluster has; none where nobody asked, or knows."""
    capacity_reason: str = ""
    """Why nobody knows."""
    runtime_reason: str = ""
    """Why Ray could not be looked at; empty when it could."""
    known_revision: int = 0
    """The highest revision that replicas of this model were told of: they ignore a lower one."""
    held: Cause | None = None
    """Why this rollout is held in Ray: it was stopped without a commit, and its rollback is still to be recorded."""
    out_of_place: str = ""
    """Empty when Ray matches Git for this model, else why not."""
    candidate: Ready | Starting | Failed = dataclasses.field(default_factory=lambda: Starting(reason="not looked at"))
    evidence: tuple[Evidence, ...] = ()
    trip: Trip | None = None
    """Hosts whose guard holds the candidate out of traffic now."""
    baseline: tuple[Evidence, ...] = ()
    """What stable did in the last day (its counts stand in the place of the candidate's); asked before a start only."""
    unavailable_since: datetime | None = None
    """Since when the evidence, or before a start the baseline, has been unavailable without a break."""
    warming_since: datetime | None = None
    """Since when the candidate has had its chance to start: Git and Ray answered, look by look, without a break."""
    taken_back_from: Release | None = None
    """The release as it was last applied, when a person's commit took it back or changed it."""
    taken_back_by: str = ""
    tip: str = ""
    """The commit that was looked at."""
    record: Record | None = None
    """What is recorded of the running rollout so far."""
    consent_given: str | None = None
    """The text of the consent at the tip: somebody merged it, and it was not used yet."""
    consent: ConsentLook | None = None
    """What the forge shows of what people are asked; none where nobody is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What people wrote about this model in this environment; `settings` is none once its document is gone."""

    policy: RolloutPolicy
    trigger: Trigger
    on_rollback: str
    settings: Settings | None
    min_replicas: int = 1
    """How many replicas a candidate starts with."""
    review: Literal["none", "required", "every_step"] = "none"
    """What people must agree to."""
    review_approvals: int = 1
    """How many of them."""

    @property
    def asks_for_room(self) -> bool:
        """Must be known what the cluster has before a version starts?"""
        return self.policy.admission.capacity != "ignore"


# --- what was noticed -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """A rollout that may begin."""

    candidate: Application
    reasons: tuple[str, ...]
    purpose: Purpose | None = None
    asked_by: str = ""
    """Who asked for it; empty: its version entered the trigger."""
    admission: tuple[Check, ...] = ()
    """What was asked of it before; nothing where it served before."""
    dispersion: Mapping[str, float] = dataclasses.field(default_factory=dict)
    budget: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noticed:
    """A signal with its reasons; `cause` with STOPPED and HALTED, `start` with STARTED."""

    signal: Signal
    reasons: tuple[str, ...] = ()
    verdict: VerdictKind | None = None
    """What it was decided by, or, where a person did not wait for it, what it was."""
    cause: Cause | None = None
    start: Start | None = None
    by: str = ""
    """The person whose wish or commit it was; empty: nobody's."""
    agreed: bool = False
    """People were asked for it, and agreed."""
    judged: Verdict | None = None
    """What the evidence said at this look, with its figures; none where nothing is judged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Idle:
    """No signal, and why; `until` is when patience ends, else `ends` names the event that ends the wait."""

    reason: str
    until: datetime | None = None
    ends: str = ""

    def __post_init__(self) -> None:
        """A wait has an end. Raises ValueError: nothing may wait for ever without a word."""
        if self.until is None and not self.ends:
            raise ValueError(f"a wait without an end: {self.reason}")


def stop(kind: CauseKind, *reasons: str, by: str = "") -> Noticed:
    """The rollout ends, because of this."""
    return Noticed(signal=Signal.STOPPED, reasons=reasons, cause=Cause(kind=kind, reasons=reasons), by=by)


def halt(kind: CauseKind, *reasons: str, by: str = "") -> Noticed:
    """The rollout's clock stops and its weight stays, because of this."""
    return Noticed(signal=Signal.HALTED, reasons=reasons, cause=Cause(kind=kind, reasons=reasons), by=by)


# --- small readings -------------------------------------------------------------------------------------------


def paused_from(release: Release, phase: Phase) -> bool:
    """Is it paused, and is that what goes on then?"""
    return release.phase is Phase.PAUSED and rollout_of(release).paused_from is phase


def rollout_of(release: Release) -> Rollout:
    """The running rollout. Raises ValueError where there is none: that is a bug."""
    if release.rollout is None:
        raise ValueError(f"{release.model} is in {release.phase} without a rollout")
    return release.rollout


def candidate_of(release: Release) -> Application:
    """The running rollout's candidate. Raises ValueError where there is none: that is a bug."""
    if release.candidate is None:
        raise ValueError(f"{release.model} is in {release.phase} without a candidate")
    return release.candidate
