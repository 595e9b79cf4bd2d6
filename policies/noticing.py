"""Noticing: what the facts say about a release, as one signal with its reasons, or why there is none.

The numbered rules stand at the top of `rollout.py`, which holds the table of what a signal leads to. A person's
commits, wishes and moves in the registry come first, then harm, then progress.

This module must not change a release or say what follows; it only reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from policies.convergence import Failed, Ready, Starting
from policies.documents import Bake, RolloutPolicy, Trigger
from policies.judge import judge
from policies.model import (
    Application,
    Cause,
    CauseKind,
    Evidence,
    Phase,
    Record,
    Refused,
    RegisteredVersion,
    Release,
    Rollout,
    Settings,
    Verdict,
    VerdictKind,
    Wish,
)
from policies.promotion import Nothing, admit, at_trigger, wanted


class Signal(StrEnum):
    """What was noticed about a release that moves it."""

    STARTED = "a new version is wanted and admitted"
    READY_FOR_SHADOW = "the candidate is warm, and a shadow step is planned"
    READY_FOR_CANARY = "the candidate is warm, and no shadow step is planned"
    READY_TO_SETTLE = "the candidate is warm, and there is no stable version or no step before 100 %"
    LIVE = "every replica has the phase's weights"
    PASSED = "PASS, and another step follows"
    PASSED_LAST = "PASS, and this was the last step"
    SETTLED = "PASS at 100 % over the bake time"
    STOPPED = "harm, a failed start, or a person"
    HALTED = "inconclusive, no metrics, or a person"
    RESUMED_WARMING = "resumed, paused from WARMING"
    RESUMED_SHADOW = "resumed, paused from SHADOW"
    RESUMED_CANARY = "resumed, paused from CANARY"
    RESUMED_SETTLING = "resumed, paused from SETTLING"
    ENDED = "traffic is back at stable and the registry was told"


# Of one reason. Serve hands on whole tracebacks; a release is written with each reason up to four times, and a file
# above 1 MiB could not be written at all: then nothing would move any more, the way back to stable included.
REASON_LIMIT = 2000
# Above two minutes, seconds only distract.
_LONGEST_IN_SECONDS = 120

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
    digests: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Digests of the versions that could be wanted."""
    digest_reason: str = ""
    """Why one is missing."""
    runtime_reason: str = ""
    """Why Ray could not be looked at; empty when it could."""
    known_revision: int = 0
    """The highest revision that replicas of this model were told of: they ignore a lower one."""
    out_of_place: str = ""
    """Empty when Ray matches Git for this model, else why not."""
    candidate: Ready | Starting | Failed = dataclasses.field(default_factory=lambda: Starting(reason="not looked at"))
    evidence: tuple[Evidence, ...] = ()
    unavailable_since: datetime | None = None
    """Since when the evidence has been unavailable without a break."""
    warming_since: datetime | None = None
    """Since when the candidate has had its chance to start: Git and Ray answered, look by look, without a break."""
    taken_back_from: Release | None = None
    """The release as it was last applied, when a person's commit took it back or changed it."""
    taken_back_by: str = ""
    tip: str = ""
    """The commit that was looked at."""
    record: Record | None = None
    """What is recorded of the running rollout so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What people wrote about this model in this environment; `settings` is none once its document is gone."""

    policy: RolloutPolicy
    trigger: Trigger
    on_rollback: str
    settings: Settings | None


# --- what was noticed -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noticed:
    """A signal with its reasons; `cause` with STOPPED and HALTED, `candidate` with STARTED."""

    signal: Signal
    reasons: tuple[str, ...] = ()
    verdict: VerdictKind | None = None
    cause: Cause | None = None
    candidate: Application | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Idle:
    """No signal, and why; `until` is when patience ends."""

    reason: str
    until: datetime | None = None


# --- noticing -------------------------------------------------------------------------------------------------


def notice(
    release: Release, observed: Observed, rules: Rules, now: datetime, seen: Collection[int] = ()
) -> Noticed | Idle | Refused:
    """One signal with its reasons, or why there is none, or a version that is refused.

    `seen` are the versions that were at the trigger at the last look. Its words can be stored, whoever said them.
    """
    noticed = _noticed(release, observed, rules, now, seen)
    if isinstance(noticed, Idle | Refused):
        return dataclasses.replace(noticed, reason=_storable(noticed.reason))
    reasons = tuple(_storable(r) for r in noticed.reasons)
    cause = noticed.cause and dataclasses.replace(noticed.cause, reasons=tuple(map(_storable, noticed.cause.reasons)))
    return dataclasses.replace(noticed, reasons=reasons, cause=cause)


def _storable(reason: str) -> str:
    """A reason without halves of characters, and without its middle where it is long: what and why are at the ends."""
    text = reason.encode("utf-8", "replace").decode()
    half = REASON_LIMIT // 2
    return text if len(text) <= REASON_LIMIT else f"{text[:half]} ... {text[-half:]}"


def _noticed(
    release: Release, observed: Observed, rules: Rules, now: datetime, seen: Collection[int]
) -> Noticed | Idle | Refused:
    if release.phase is Phase.STEADY:
        return _notice_steady(release, observed, rules)
    if release.phase is Phase.ROLLING_BACK:
        return _notice_rolling_back(release, observed, rules, now)
    return (
        _notice_person(release, observed, rules, seen)
        or _notice_harm(release, observed, rules, now)
        or _notice_progress(release, observed, rules, now)
    )


def _notice_steady(release: Release, observed: Observed, rules: Rules) -> Noticed | Idle | Refused:
    if observed.versions is None:
        return Idle(reason=f"the registry cannot be read: {observed.registry_reason}")
    if rules.settings is None:
        raise ValueError(f"{release.model} has no document: it is removed, not looked after")
    want = wanted(release, rules.trigger, at_trigger(rules.trigger, observed.versions), rules.settings)
    if isinstance(want, Nothing):
        return Idle(reason=want.reason)
    if observed.out_of_place:
        return Idle(reason=f"v{want.version} is wanted; first Ray must match Git: {observed.out_of_place}")
    if want.version not in observed.versions:
        return Idle(reason=f"v{want.version} is wanted with new settings, but it is not in the registry any more")
    if not observed.versions[want.version].ready:
        return Idle(reason=f"v{want.version} is wanted, but the registry has not finished registering it")
    if want.version not in observed.digests:
        return Idle(reason=f"v{want.version} is wanted, but its artifact cannot be read: {observed.digest_reason}")
    candidate = Application(version=want.version, digest=observed.digests[want.version], settings=rules.settings)
    refused = admit(release, candidate)
    if refused:
        return refused
    return Noticed(signal=Signal.STARTED, candidate=candidate, reasons=(f"v{want.version} entered {rules.trigger}",))


def _notice_person(release: Release, observed: Observed, rules: Rules, seen: Collection[int]) -> Noticed | None:
    """What people did: their commits, their wishes, their moves in the registry."""
    if observed.taken_back_from is not None:
        return _notice_taken_back(release, observed.taken_back_from, observed.taken_back_by)
    ask = release.ask
    if ask and ask.wish is Wish.ABORT:
        return _stop(CauseKind.ASKED, f"{ask.by} asked to abort: {ask.why}")
    if ask and ask.wish is Wish.PAUSE and not release.waits_for_a_person:
        return _halt(CauseKind.ASKED, f"{ask.by} asked to pause: {ask.why}")
    if ask and ask.wish is Wish.RESUME and release.phase is Phase.PAUSED:
        return _resume(release, f"{ask.by} asked to resume: {ask.why}")
    return _notice_withdrawn(release, observed, rules, seen)


def _notice_taken_back(release: Release, before: Release, by: str) -> Noticed | None:
    candidate = release.candidate
    promoted = before.phase is Phase.STEADY and candidate is not None and before.stable == candidate
    quarantined = candidate is not None and any(q.build == candidate.build for q in before.quarantine)
    if release.stable is None and not quarantined:
        return _keep(release, by)  # there is nothing to go back to
    if promoted or quarantined or release.phase is Phase.WARMING or before.candidate != candidate:
        return _stop(CauseKind.REVERTED, f"a commit by {by} took the release back")
    return _keep(release, by)


def _keep(release: Release, by: str) -> Noticed | None:
    """What a person's commit brought back stays as it is until a person goes on."""
    if release.waits_for_a_person:
        return None
    why = f"a commit by {by} took the release back to {release.phase}; it waits for a person"
    return _halt(CauseKind.REVERTED, why)


def _notice_withdrawn(release: Release, observed: Observed, rules: Rules, seen: Collection[int]) -> Noticed | None:
    """Rule 8. A candidate that leaves as another version enters was pushed out by it, and goes on (rule 7)."""
    candidate = release.candidate
    if observed.versions is None or candidate is None:
        return None
    stable = release.stable.version if release.stable else None
    if stable == candidate.version:
        return None  # new settings for the same version: the trigger has no say
    present = at_trigger(rules.trigger, observed.versions)
    entered = present - {*seen, stable}
    pushed_out = bool(entered) or (release.queued is not None and candidate.version not in seen)
    if candidate.version in present or pushed_out:
        return None
    return _stop(CauseKind.WITHDRAWN, f"v{candidate.version} was taken out of {rules.trigger}")


def _notice_harm(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | None:
    """What must stop the candidate at once: rules 1 and 5."""
    if release.phase is Phase.WARMING or _paused_from(release, Phase.WARMING):
        if isinstance(observed.candidate, Failed):
            return _stop(CauseKind.NOT_READY, f"the candidate cannot start: {observed.candidate.message}")
        return None
    verdict = _judged(release, observed, rules, now)
    if verdict.kind is not VerdictKind.FAIL:
        return None
    return Noticed(
        signal=Signal.STOPPED,
        verdict=verdict.kind,
        reasons=verdict.reasons,
        cause=Cause(kind=CauseKind.FAILED, reasons=verdict.reasons),
    )


def _notice_progress(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    if release.phase is Phase.WARMING:
        return _notice_warming(release, observed, rules, now)
    if release.phase is Phase.PAUSED:
        return _notice_paused(release, observed, rules, now)
    record = rollout_of(release).current
    if record.live_since is None:
        return _notice_live(release, observed, rules, now)
    if observed.out_of_place:
        return _notice_out_of_place(release, observed, rules, now)
    return _notice_verdict(release, observed, rules, now)


def _notice_warming(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    since = rollout_of(release).current.since
    ready = isinstance(observed.candidate, Ready)
    if ready and not observed.out_of_place:
        return Noticed(signal=_first_step(release, rules.policy), reasons=("the candidate is warm",))
    why = observed.candidate.reason if isinstance(observed.candidate, Starting) else observed.out_of_place
    late = f"not ready after {_minutes(rules.policy.ready_deadline)}: {observed.runtime_reason or why}"
    if ready or observed.runtime_reason:  # the version is not to blame for its host, nor for a cluster that is away
        deadline = since + rules.policy.ready_deadline
        return _halt(CauseKind.NOT_READY, late) if now >= deadline else Idle(reason=f"not yet: {why}", until=deadline)
    # nor for a time in which nobody could tell Ray to start it
    deadline = max(since, observed.warming_since or since) + rules.policy.ready_deadline
    if now >= deadline:
        return _stop(CauseKind.NOT_READY, late)
    return Idle(reason=f"the candidate is warming up: {why}", until=deadline)


def _first_step(release: Release, policy: RolloutPolicy) -> Signal:
    if release.stable is None or (policy.shadow is None and not policy.steps):
        return Signal.READY_TO_SETTLE
    return Signal.READY_FOR_SHADOW if policy.shadow else Signal.READY_FOR_CANARY


def _notice_live(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    deadline = rollout_of(release).current.since + rules.policy.ready_deadline
    if not observed.out_of_place:
        return Noticed(signal=Signal.LIVE, reasons=("every replica has it",))
    if now >= deadline:
        return _halt(CauseKind.NOT_READY, f"weights not in place after {_minutes(rules.policy.ready_deadline)}")
    return Idle(reason=f"weights are on their way: {observed.out_of_place}", until=deadline)


def _notice_out_of_place(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    """Rule 5: it was live and is so no longer. Nobody is blamed; a person is called when the step's time is over."""
    most = _step_ends(release, rules, now)
    if now >= most:
        return _halt(CauseKind.NOT_READY, f"Ray does not match Git: {observed.out_of_place}")
    return Idle(reason=f"Ray must match Git first: {observed.out_of_place}", until=most)


def _step_ends(release: Release, rules: Rules, now: datetime) -> datetime:
    """When the step, or the whole rollout, has had its time."""
    live_since = rollout_of(release).current.live_since or now
    left = rules.policy.max_duration - rollout_of(release).lasted(now)
    return min(live_since + _bake(release.phase, rules.policy).max_duration, now + left)


def _notice_verdict(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    verdict = _judged(release, observed, rules, now)
    bake = _bake(release.phase, rules.policy)
    live_since = rollout_of(release).current.live_since or now
    least, most = live_since + bake.min_duration, _step_ends(release, rules, now)
    if verdict.kind is VerdictKind.UNAVAILABLE:
        return _notice_blind(observed, verdict, rules, now, most)
    lacking = _lacking_requests(release, observed, bake)
    if verdict.kind is VerdictKind.PASS and now >= least and not lacking:
        return Noticed(signal=_next_step(release, rules.policy), verdict=verdict.kind, reasons=verdict.reasons)
    if now >= most:
        return _inconclusive(verdict, rules.policy, _minutes(now - live_since), lacking)
    if verdict.kind is VerdictKind.PASS and now < least:
        return Idle(reason=f"PASS so far; the step bakes for {_minutes(bake.min_duration)}", until=least)
    return Idle(reason=lacking or "; ".join(verdict.reasons), until=most)


def _notice_blind(observed: Observed, verdict: Verdict, rules: Rules, now: datetime, most: datetime) -> Noticed | Idle:
    """Rule 4: nobody is blamed, nothing moves; past the deadline a person is called."""
    since = observed.unavailable_since or now
    deadline = min(since + rules.policy.metrics_deadline, most)
    why = "; ".join(verdict.reasons)
    if now >= deadline:
        return Noticed(
            signal=Signal.HALTED,
            verdict=verdict.kind,
            reasons=verdict.reasons,
            cause=Cause(kind=CauseKind.NO_METRICS, reasons=verdict.reasons),
        )
    return Idle(reason=f"the weight is frozen: {why}", until=deadline)


def _inconclusive(verdict: Verdict, policy: RolloutPolicy, lasted: str, lacking: str) -> Noticed:
    reasons = (f"inconclusive after {lasted}", *((lacking,) if lacking else ()), *verdict.reasons)
    signal = Signal.STOPPED if policy.on_inconclusive == "rollback" else Signal.HALTED
    cause = Cause(kind=CauseKind.INCONCLUSIVE, reasons=reasons)
    return Noticed(signal=signal, verdict=verdict.kind, reasons=reasons, cause=cause)


def _notice_paused(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    """Rule 10."""
    cause = rollout_of(release).cause
    why = "; ".join(cause.reasons) if cause else "no cause recorded"
    if cause and cause.kind is CauseKind.NOT_READY and not observed.out_of_place:
        return _resume(release, "Ray matches Git by now")
    if cause is None or _paused_from(release, Phase.WARMING):
        return Idle(reason=f"paused until a person resumes or aborts: {why}")
    verdict = _judged(release, observed, rules, now)
    if cause.kind is CauseKind.NO_METRICS and verdict.kind is not VerdictKind.UNAVAILABLE:
        return _resume(release, "the metrics are back")
    over = rollout_of(release).lasted(now) >= rules.policy.max_duration
    lacking = _lacking_requests(release, observed, _bake(rollout_of(release).paused_from, rules.policy))
    if cause.kind is CauseKind.INCONCLUSIVE and verdict.kind is VerdictKind.PASS and not over and not lacking:
        return _resume(release, "the evidence says PASS by now", *verdict.reasons)
    return Idle(reason=f"paused until a person resumes or aborts: {why}")


def _notice_rolling_back(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    record = rollout_of(release).current
    if record.live_since is None:
        deadline = record.since + rules.policy.ready_deadline
        if not observed.out_of_place or now >= deadline:
            return Noticed(signal=Signal.LIVE, reasons=(observed.out_of_place or "the candidate has no traffic",))
        return Idle(reason=f"traffic is going back to stable: {observed.out_of_place}", until=deadline)
    return _notice_restored(release, observed, rules, now)


def _notice_restored(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    deadline = rollout_of(release).current.since + rules.policy.registry_deadline
    if not restores(release, rules):
        return Noticed(signal=Signal.ENDED, reasons=("traffic is back at stable",))
    if observed.versions is not None and candidate_of(release).version not in at_trigger(
        rules.trigger, observed.versions
    ):
        return Noticed(signal=Signal.ENDED, reasons=("traffic is back at stable and the registry agrees",))
    if now >= deadline:
        return Noticed(signal=Signal.ENDED, reasons=(f"the registry could not be told: {observed.registry_reason}",))
    return Idle(reason=f"the registry is told: v{candidate_of(release).version} leaves {rules.trigger}", until=deadline)


def restores(release: Release, rules: Rules) -> bool:
    """Is the registry's trigger to be moved back? Not when a person moved it, nor for new settings of one version.

    Nor when a person entered the version again after it was stopped: it is queued then.
    """
    cause = rollout_of(release).cause
    by_registry = cause is not None and cause.kind is CauseKind.WITHDRAWN
    same_version = release.stable is not None and release.stable.version == candidate_of(release).version
    entered_again = release.queued == candidate_of(release).version
    return rules.on_rollback == "restore" and not by_registry and not same_version and not entered_again


# --- the verdict, and what a step asks ----------------------------------------------------------------------------


def _judged(release: Release, observed: Observed, rules: Rules, now: datetime) -> Verdict:
    if rollout_of(release).traffic_since is None:
        return Verdict(kind=VerdictKind.INSUFFICIENT, reasons=("the candidate has seen no request yet",))
    return judge(observed.evidence, rules.policy, step_since=rollout_of(release).current.live_since, now=now)


def verdict_on(release: Release, observed: Observed, rules: Rules, now: datetime) -> Verdict:
    """What the evidence says of the running rollout, whatever else was noticed."""
    return _judged(release, observed, rules, now)


def _bake(phase: Phase | None, policy: RolloutPolicy) -> Bake:
    if phase is Phase.SHADOW and policy.shadow:
        return policy.shadow
    return policy.settle if phase is Phase.SETTLING else policy.step


def _lacking_requests(release: Release, observed: Observed, bake: Bake) -> str:
    live_since = rollout_of(release).current.live_since
    if live_since is None or not observed.evidence:
        return ""
    requests = min(e.since(live_since).candidate.total for e in observed.evidence)
    if requests >= bake.min_requests:
        return ""
    return f"{requests:,.0f} of at least {bake.min_requests:,} requests in this step"


def _next_step(release: Release, policy: RolloutPolicy) -> Signal:
    if release.phase is Phase.SETTLING:
        return Signal.SETTLED
    higher = any(share > release.weight_percent for share in policy.steps)
    return Signal.PASSED if higher else Signal.PASSED_LAST


# --- small readings --------------------------------------------------------------------------------------------


def _paused_from(release: Release, phase: Phase) -> bool:
    return release.phase is Phase.PAUSED and rollout_of(release).paused_from is phase


def _stop(kind: CauseKind, reason: str) -> Noticed:
    return Noticed(signal=Signal.STOPPED, reasons=(reason,), cause=Cause(kind=kind, reasons=(reason,)))


def _halt(kind: CauseKind, reason: str) -> Noticed:
    return Noticed(signal=Signal.HALTED, reasons=(reason,), cause=Cause(kind=kind, reasons=(reason,)))


def _resume(release: Release, *reasons: str) -> Noticed:
    origin = rollout_of(release).paused_from
    if origin is None:
        raise ValueError(f"{release.model} is PAUSED from nowhere")
    return Noticed(signal=RESUMED[origin], reasons=reasons)


def _minutes(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.0f} s" if seconds < _LONGEST_IN_SECONDS else f"{seconds / 60:.0f} min"


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
