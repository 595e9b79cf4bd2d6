"""Noticing: what the facts say about a release, as one signal with its reasons, or why there is none.

The numbered rules stand at the top of `rollout.py`, which holds the table of what a signal leads to. What stops a
rollout comes first (a person, a newer version, harm), then what people wish, then progress.

This module must not change a release or say what follows; it only reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from policies.commit_message import one_line
from policies.convergence import Ready, Starting
from policies.documents import Bake, RolloutPolicy
from policies.evidence import Sli
from policies.facts import (
    RESUMED,
    Idle,
    Noticed,
    Observed,
    Rules,
    Signal,
    candidate_of,
    halt,
    paused_from,
    rollout_of,
    stop,
)
from policies.judged import in_shadow, is_as_good_as_stable, judged, stale_since
from policies.promotion import at_trigger
from policies.release import Ask, Cause, CauseKind, Phase, Purpose, Refused, Release, Wish
from policies.starting import notice_steady
from policies.stopping import notice_held, notice_stop
from policies.verdict import Verdict, VerdictKind

# Of one reason. Serve hands on whole tracebacks; a release is written with each reason up to four times, and a file
# above 1 MiB could not be written at all: then nothing would move any more, the way back to stable included.
REASON_LIMIT = 2000
# Above two minutes, seconds only distract.
_LONGEST_IN_SECONDS = 120
_BY_A_PERSON = "a person resumes, promotes or aborts it, or it does harm"
_BEFORE_IT_IS_WARM = "a person resumes or aborts it, or it cannot start"


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
    start = noticed.start and dataclasses.replace(noticed.start, reasons=reasons)
    return dataclasses.replace(noticed, reasons=reasons, cause=cause, start=start)


def _storable(reason: str) -> str:
    """A reason on one printable line, and without its middle where it is long: what and why are at the ends."""
    text = one_line(reason, len(reason))
    half = REASON_LIMIT // 2
    return text if len(text) <= REASON_LIMIT else f"{text[:half]} ... {text[-half:]}"


def _noticed(
    release: Release, observed: Observed, rules: Rules, now: datetime, seen: Collection[int]
) -> Noticed | Idle | Refused:
    if release.phase is Phase.STEADY:
        return notice_steady(release, observed, rules, now)
    if release.phase is Phase.ROLLING_BACK:
        return _notice_rolling_back(release, observed, rules, now)
    verdict = judged(release, observed, rules, now)
    noticed = (
        notice_held(release, observed, now, verdict)
        or notice_stop(release, observed, rules, now, seen=seen, verdict=verdict)
        or _notice_wish(release, observed, rules, verdict)
        or _notice_progress(release, observed, rules, now, verdict)
    )
    seen_requests = rollout_of(release).traffic_since is not None
    return dataclasses.replace(noticed, judged=verdict) if isinstance(noticed, Noticed) and seen_requests else noticed


# --- wishes that go on ------------------------------------------------------------------------------------------


def _notice_wish(release: Release, observed: Observed, rules: Rules, verdict: Verdict) -> Noticed | Idle | None:
    """What a person asks for; harm comes first (rule 1)."""
    ask = release.ask
    if ask is None:
        return None
    if ask.wish is Wish.PAUSE and not release.waits_for_a_person:
        return halt(CauseKind.ASKED, f"{ask.by} asked to pause: {ask.why}", by=ask.by)
    if ask.wish is Wish.RESUME and release.phase is Phase.PAUSED:
        return _resume(release, f"{ask.by} asked to resume: {ask.why}", by=ask.by)
    if ask.wish is Wish.PROMOTE:
        return _notice_promote(release, ask, observed, rules, verdict)
    return None


def _notice_promote(
    release: Release, ask: Ask, observed: Observed, rules: Rules, verdict: Verdict
) -> Noticed | Idle | None:
    """Rule 14. Not before the world matches Git (rule 5): until then its step goes on, or pauses, as it would."""
    if release.phase is not Phase.PAUSED and (observed.out_of_place or rollout_of(release).current.live_since is None):
        return None
    if observed.out_of_place:
        why = f"{ask.by} asked to go on without the analysis; first Ray must match Git: {observed.out_of_place}"
        return Idle(reason=why, ends="Ray matches Git")
    reasons = (
        f"{ask.by} asked to go on without the analysis: {ask.why}",
        f"skipped: {verdict.kind}",
        *verdict.reasons,
    )
    signal = _SKIPPED[_next_step(release, rules.policy)]
    return Noticed(signal=signal, verdict=verdict.kind, reasons=reasons, by=ask.by)


_SKIPPED: Mapping[Signal, Signal] = {
    Signal.PASSED: Signal.SKIPPED,
    Signal.PASSED_LAST: Signal.SKIPPED_LAST,
    Signal.SETTLED: Signal.SKIPPED_SETTLING,
}

# --- progress -----------------------------------------------------------------------------------------------------


def _notice_progress(
    release: Release, observed: Observed, rules: Rules, now: datetime, verdict: Verdict
) -> Noticed | Idle:
    if release.phase is Phase.WARMING:
        return _notice_warming(release, observed, rules, now)
    if release.phase is Phase.PAUSED:
        return _notice_paused(release, observed, rules, now, verdict)
    record = rollout_of(release).current
    if record.live_since is None:
        return _notice_live(release, observed, rules, now)
    if observed.out_of_place:
        return _notice_out_of_place(release, observed, rules, now)
    return _notice_verdict(release, observed, rules, now, verdict)


def _notice_warming(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    since = rollout_of(release).current.since
    ready = isinstance(observed.candidate, Ready)
    if ready and not observed.out_of_place:
        return Noticed(signal=_first_step(release, rules.policy), reasons=("the candidate is warm",))
    why = observed.candidate.reason if isinstance(observed.candidate, Starting) else observed.out_of_place
    late = f"not ready after {_minutes(rules.policy.ready_deadline)}: {observed.runtime_reason or why}"
    if ready or observed.runtime_reason:  # the version is not to blame for its host, nor for a cluster that is away
        deadline = since + rules.policy.ready_deadline
        return halt(CauseKind.NOT_READY, late) if now >= deadline else Idle(reason=f"not yet: {why}", until=deadline)
    # nor for a time in which nobody could tell Ray to start it
    deadline = max(since, observed.warming_since or since) + rules.policy.ready_deadline
    if now >= deadline:
        return stop(CauseKind.NOT_READY, late)
    return Idle(reason=f"the candidate is warming up: {why}", until=deadline)


def _first_step(release: Release, policy: RolloutPolicy) -> Signal:
    purpose, shadow = rollout_of(release).purpose, policy.shadow is not None
    if purpose is Purpose.UNDO:  # it served before: one step, among many requests, and no hours in shadow
        shadow = False
    if release.stable is None or purpose is Purpose.EMERGENCY or not (shadow or policy.steps):
        return Signal.READY_TO_SETTLE
    return Signal.READY_FOR_SHADOW if shadow else Signal.READY_FOR_CANARY


def _notice_live(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    deadline = rollout_of(release).current.since + rules.policy.ready_deadline
    if not observed.out_of_place:
        return Noticed(signal=Signal.LIVE, reasons=("every replica has it",))
    if now >= deadline:
        return halt(CauseKind.NOT_READY, f"weights not in place after {_minutes(rules.policy.ready_deadline)}")
    return Idle(reason=f"weights are on their way: {observed.out_of_place}", until=deadline)


def _notice_out_of_place(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle:
    """Rule 5: it was live and is so no longer. Nobody is blamed; a person is called when the step's time is over."""
    most = _step_ends(release, rules, now)
    if now >= most:
        return halt(CauseKind.NOT_READY, f"Ray does not match Git: {observed.out_of_place}")
    return Idle(reason=f"Ray must match Git first: {observed.out_of_place}", until=most)


def _step_ends(release: Release, rules: Rules, now: datetime) -> datetime:
    """When the step, or the whole rollout, has had its time."""
    live_since = rollout_of(release).current.live_since or now
    left = rules.policy.max_duration - rollout_of(release).lasted(now)
    return min(live_since + _bake(release.phase, rules.policy).max_duration, now + left)


def _notice_verdict(
    release: Release, observed: Observed, rules: Rules, now: datetime, verdict: Verdict
) -> Noticed | Idle:
    bake = _bake(release.phase, rules.policy)
    live_since = rollout_of(release).current.live_since or now
    least, most = live_since + bake.min_duration, _step_ends(release, rules, now)
    if verdict.kind is VerdictKind.UNAVAILABLE:
        return _notice_blind(observed, verdict, rules.policy, now, most)
    lacking = _lacking_requests(release, observed, bake)
    if verdict.kind is VerdictKind.PASS and now >= least and not lacking:
        return Noticed(signal=_next_step(release, rules.policy), verdict=verdict.kind, reasons=verdict.reasons)
    if now >= most:
        return _time_is_over(release, verdict, rules.policy, now, lacking)
    if verdict.kind is VerdictKind.PASS and now < least:
        return Idle(reason=f"PASS so far; the step bakes for {_minutes(bake.min_duration)}", until=least)
    return Idle(reason=lacking or "; ".join(verdict.reasons), until=most)


def _notice_blind(
    observed: Observed, verdict: Verdict, policy: RolloutPolicy, now: datetime, most: datetime
) -> Noticed | Idle:
    """Rule 4: nobody is blamed, nothing moves; past the deadline a person is called, or the weight taken back."""
    since = observed.unavailable_since or stale_since(observed.evidence) or now
    deadline = min(since + policy.metrics_deadline, most)
    if now < deadline:
        return Idle(reason=f"the weight is frozen: {'; '.join(verdict.reasons)}", until=deadline)
    signal = Signal.STOPPED if policy.on_metrics_down == "rollback" else Signal.HALTED
    cause = Cause(kind=CauseKind.NO_METRICS, reasons=verdict.reasons)
    return Noticed(signal=signal, verdict=verdict.kind, reasons=verdict.reasons, cause=cause)


def _time_is_over(release: Release, verdict: Verdict, policy: RolloutPolicy, now: datetime, lacking: str) -> Noticed:
    """Rule 3. As good as stable is enough for a step's own time, not for that of the whole rollout."""
    rollout = rollout_of(release)
    lasted = _minutes(now - (rollout.current.live_since or now))
    may_go_on = policy.on_inconclusive == "promote_if_stable_equal" and not lacking
    if (
        may_go_on
        and rollout.lasted(now) < policy.max_duration
        and is_as_good_as_stable(verdict, policy, exposed=not in_shadow(release))
    ):
        words = f"no PASS after {lasted}, but the candidate is as good as stable and shows no harm; the policy goes on"
        return Noticed(signal=_next_step(release, policy), verdict=verdict.kind, reasons=(words, *verdict.reasons))
    reasons = (f"inconclusive after {lasted}", *((lacking,) if lacking else ()), *verdict.reasons)
    signal = Signal.STOPPED if policy.on_inconclusive == "rollback" else Signal.HALTED
    cause = Cause(kind=CauseKind.INCONCLUSIVE, reasons=reasons)
    return Noticed(signal=signal, verdict=verdict.kind, reasons=reasons, cause=cause)


def _notice_paused(
    release: Release, observed: Observed, rules: Rules, now: datetime, verdict: Verdict
) -> Noticed | Idle:
    """Rule 10."""
    cause = rollout_of(release).cause
    why = "; ".join(cause.reasons) if cause else "no cause recorded"
    if cause and cause.kind is CauseKind.NOT_READY and not observed.out_of_place:
        return _resume(release, "Ray matches Git by now")
    if cause is None or paused_from(release, Phase.WARMING):
        return Idle(reason=f"paused: {why}", ends=_ends(release, resumes_on_pass=False))
    if rollout_of(release).current.live_since is None and not observed.out_of_place:
        return Noticed(signal=Signal.LIVE, reasons=("every replica has it",))  # paused before it was: it is judged too
    if cause.kind is CauseKind.NO_METRICS and verdict.kind is not VerdictKind.UNAVAILABLE:
        return _resume(release, "the metrics are back")
    over = rollout_of(release).lasted(now) >= rules.policy.max_duration
    lacking = _lacking_requests(release, observed, _bake(rollout_of(release).paused_from, rules.policy))
    if cause.kind is CauseKind.INCONCLUSIVE and verdict.kind is VerdictKind.PASS and not over and not lacking:
        return _resume(release, "the evidence says PASS by now", *verdict.reasons)
    return Idle(reason=f"paused: {why}", ends=_ends(release, resumes_on_pass=not over))


def _ends(release: Release, *, resumes_on_pass: bool) -> str:
    """What ends a pause: what it goes on with by itself, a person, and what takes it back."""
    by_itself = {
        CauseKind.NOT_READY: "Ray matches Git",
        CauseKind.NO_METRICS: "the metrics are back",
        **({CauseKind.INCONCLUSIVE: "the evidence says PASS"} if resumes_on_pass else {}),
    }
    cause = rollout_of(release).cause
    event = by_itself.get(cause.kind) if cause else None
    otherwise = _BEFORE_IT_IS_WARM if paused_from(release, Phase.WARMING) else _BY_A_PERSON
    return f"{event}, {otherwise}" if event else otherwise


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
    by_registry = cause is not None and cause.kind in (CauseKind.WITHDRAWN, CauseKind.SUPERSEDED)
    same_version = release.stable is not None and release.stable.version == candidate_of(release).version
    entered_again = release.queued == candidate_of(release).version
    return rules.on_rollback == "restore" and not by_registry and not same_version and not entered_again


# --- what a step asks ----------------------------------------------------------------------------


def _bake(phase: Phase | None, policy: RolloutPolicy) -> Bake:
    if phase is Phase.SHADOW and policy.shadow:
        return policy.shadow
    return policy.settle if phase is Phase.SETTLING else policy.step


def _lacking_requests(release: Release, observed: Observed, bake: Bake) -> str:
    live_since = rollout_of(release).current.live_since
    if live_since is None or not observed.evidence:
        return ""
    # Predictions are compared in shadow only, and users report about answers that they got.
    elsewhere = Sli.FEEDBACK if in_shadow(release) else Sli.AGREEMENT
    counted = [e for e in observed.evidence if e.objective.sli is not elsewhere]
    requests = min((e.since(live_since).candidate.total for e in counted), default=bake.min_requests)
    if requests >= bake.min_requests:
        return ""
    return f"{requests:,.0f} of at least {bake.min_requests:,} requests in this step"


def _next_step(release: Release, policy: RolloutPolicy) -> Signal:
    if release.phase is Phase.SETTLING or paused_from(release, Phase.SETTLING):
        return Signal.SETTLED
    higher = any(share > release.weight_percent for share in policy.steps)
    return Signal.PASSED if higher else Signal.PASSED_LAST


# --- small readings --------------------------------------------------------------------------------------------


def _resume(release: Release, *reasons: str, by: str = "") -> Noticed:
    origin = rollout_of(release).paused_from
    if origin is None:
        raise ValueError(f"{release.model} is PAUSED from nowhere")
    return Noticed(signal=RESUMED[origin], reasons=reasons, by=by)


def _minutes(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.0f} s" if seconds < _LONGEST_IN_SECONDS else f"{seconds / 60:.0f} min"
