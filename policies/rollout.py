"""The state machine of a release: facts in, actions out.

Everything that decides what follows what lives in this file. The rules, each with a test that carries its number:

 1. FAIL acts at once, in every phase that has traffic, also while paused, also while Ray does not match Git yet.
 2. A step passes only with PASS, its minimum time since its weight was live, and its minimum of requests.
 3. At its maximum time without PASS a step is inconclusive: PAUSED or ROLLING_BACK, as the policy says.
 4. UNAVAILABLE freezes the weight. Past its deadline it pauses. It never counts as bad and never as good.
 5. First the world matches Git, only then Git moves on; a move toward safety never waits.
 6. Every wait has a deadline, or names the event that ends it.
 7. A newer version that enters during a rollout queues; stable never changes meanwhile.
 8. A person who takes the candidate out of the trigger aborts the rollout, without quarantine.
 9. A rollback is never rolled back. Without a stable version to return to, the candidate stops at 0 %.
10. A rollout that is paused for want of metrics, or because its weights were not in place, goes on when that has ended;
    one that is paused as inconclusive goes on when the evidence says PASS; all others wait for a person.
11. A person's commit that takes a release back is obeyed: a promotion that is taken back ends the rollout, a step that
    is taken back pauses it.
12. An empty trigger, an empty or failing registry: stable stays.

The diagram in the docs is generated from TRANSITIONS. This module must not do I/O, read a clock or make up ids that its
arguments do not determine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from policies.actions import Action, Annotate, RemoveRelease, Restore, Wait, WriteHistory, WriteRecord, WriteRelease
from policies.documents import RolloutPolicy
from policies.model import (
    Application,
    Cause,
    CauseKind,
    HistoryRecord,
    Outcome,
    Phase,
    PhaseRecord,
    Quarantined,
    Refused,
    Release,
    Rollout,
    Wish,
)
from policies.noticing import (
    RESUMED,
    Idle,
    Noticed,
    Observed,
    Rules,
    Signal,
    candidate_of,
    notice,
    restores,
    rollout_of,
    verdict_on,
)
from policies.promotion import (
    at_trigger,
    keep_books,
    lift,
    lift_settings,
    may_return,
    tags_wanted,
    without_settings,
)
from policies.record import looked

# --- the table ------------------------------------------------------------------------------------------------

TRANSITIONS: Mapping[tuple[Phase, Signal], Phase] = {
    (Phase.STEADY, Signal.STARTED): Phase.WARMING,
    (Phase.WARMING, Signal.READY_FOR_SHADOW): Phase.SHADOW,
    (Phase.WARMING, Signal.READY_FOR_CANARY): Phase.CANARY,
    (Phase.WARMING, Signal.READY_TO_SETTLE): Phase.SETTLING,
    (Phase.WARMING, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.WARMING, Signal.HALTED): Phase.PAUSED,
    (Phase.SHADOW, Signal.LIVE): Phase.SHADOW,
    (Phase.SHADOW, Signal.PASSED): Phase.CANARY,
    (Phase.SHADOW, Signal.PASSED_LAST): Phase.SETTLING,
    (Phase.SHADOW, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.SHADOW, Signal.HALTED): Phase.PAUSED,
    (Phase.CANARY, Signal.LIVE): Phase.CANARY,
    (Phase.CANARY, Signal.PASSED): Phase.CANARY,
    (Phase.CANARY, Signal.PASSED_LAST): Phase.SETTLING,
    (Phase.CANARY, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.CANARY, Signal.HALTED): Phase.PAUSED,
    (Phase.PAUSED, Signal.RESUMED_WARMING): Phase.WARMING,
    (Phase.PAUSED, Signal.RESUMED_SHADOW): Phase.SHADOW,
    (Phase.PAUSED, Signal.RESUMED_CANARY): Phase.CANARY,
    (Phase.PAUSED, Signal.RESUMED_SETTLING): Phase.SETTLING,
    (Phase.PAUSED, Signal.HALTED): Phase.PAUSED,
    (Phase.PAUSED, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.SETTLING, Signal.LIVE): Phase.SETTLING,
    (Phase.SETTLING, Signal.SETTLED): Phase.STEADY,
    (Phase.SETTLING, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.SETTLING, Signal.HALTED): Phase.PAUSED,
    (Phase.ROLLING_BACK, Signal.LIVE): Phase.ROLLING_BACK,
    (Phase.ROLLING_BACK, Signal.ENDED): Phase.STEADY,
}

JUDGED = frozenset({Phase.SHADOW, Phase.CANARY, Phase.SETTLING, Phase.PAUSED})
"""Phases in which evidence is looked at."""


# --- deciding -------------------------------------------------------------------------------------------------


def decide(release: Release, observed: Observed, rules: Rules, now: datetime) -> tuple[Action, ...]:
    """What to do about one release now. Pure; the same facts give the same actions.

    Returns writes first, then what the registry is told, then the reason for waiting, if any.
    """
    kept = _obey(release, observed)
    if observed.versions is not None:
        kept = keep_books(kept, at_trigger(rules.trigger, observed.versions))
    if rules.settings is None:
        return _remove(kept, observed, rules, now)
    kept = lift_settings(kept, rules.settings)
    noticed = notice(kept, observed, rules, now, release.seen)
    if isinstance(noticed, Idle | Refused):
        return (*_bookkeeping(release, kept, noticed), *_tell(kept, observed, rules), *_wait(kept, noticed))
    following = _move(kept, noticed, rules, now)
    written = _written(release, kept, following, noticed)
    record = _recorded(kept, following, noticed, observed, rules, now)
    return (written, record, *_tell(written.release, observed, rules))


def _remove(release: Release, observed: Observed, rules: Rules, now: datetime) -> tuple[Action, ...]:
    """Its model document is gone, by a person's commit: nothing of it serves any longer, whatever it was doing."""
    why = "its model document was removed"
    gone = RemoveRelease(release=release, subject="served no longer", reasons=(why,))
    if release.rollout is None:
        return (gone,)
    cause = Cause(kind=CauseKind.REMOVED, reasons=(why,))
    ended = dataclasses.replace(release, rollout=dataclasses.replace(release.rollout, cause=cause))
    noticed = Noticed(signal=Signal.ENDED, reasons=cause.reasons, cause=cause)
    steady = dataclasses.replace(ended, phase=Phase.STEADY, candidate=None, weight_percent=0, rollout=None)
    return (gone, _recorded(ended, steady, noticed, observed, rules, now))


# --- bookkeeping: what changes without a change of phase ---------------------------------------------------------


def _obey(release: Release, observed: Observed) -> Release:
    """A release that a person's commit changed: what was learnt since is kept, its revision is the highest.

    That of a model which was removed and came back counts from what its replicas know, or they would ignore it.
    """
    before = observed.taken_back_from
    if before is None:
        if observed.known_revision <= release.traffic_revision:
            return release
        return dataclasses.replace(release, revision=max(release.revision + 1, observed.known_revision))
    known = {(q.version, q.build): q for q in (*before.quarantine, *release.quarantine)}
    return dataclasses.replace(
        release,
        revision=max(release.revision, before.revision, observed.known_revision),
        seen=tuple(sorted({*release.seen, *before.seen})),
        quarantine=tuple(known.values()),
    )


def _bookkeeping(release: Release, kept: Release, noticed: Idle | Refused) -> tuple[Action, ...]:
    subject = _books_in_words(release, kept)
    if isinstance(noticed, Refused):
        others = tuple(r for r in kept.refused if r.version != noticed.version)
        seen = tuple(sorted({*kept.seen, noticed.version}))
        kept = dataclasses.replace(kept, refused=(*others, noticed), seen=seen, queued=None)
        subject = f"v{noticed.version} refused"
    if kept == release:
        return ()
    reasons = (noticed.reason,)
    return (WriteRelease(release=_revised(release, kept), subject=subject, reasons=reasons),)


def _books_in_words(release: Release, kept: Release) -> str:
    if kept.queued != release.queued and kept.queued is not None:
        return f"v{kept.queued} queued behind the running rollout"
    left = sorted(set(release.seen) - set(kept.seen))
    came = sorted(set(kept.seen) - set(release.seen))
    words = [f"v{n} left the trigger" for n in left] + [f"v{n} is at the trigger again" for n in came]
    return ", ".join(words) or "a person's commit taken up"


def _wait(release: Release, noticed: Idle | Refused) -> tuple[Action, ...]:
    until = noticed.until if isinstance(noticed, Idle) else None
    return (Wait(model=release.model, environment=release.environment, reason=noticed.reason, until=until),)


def _tell(release: Release, observed: Observed, rules: Rules) -> tuple[Action, ...]:
    """What the registry should show by now and does not: tags, and after a rollback its trigger."""
    if observed.versions is None:
        return ()
    differing = tags_wanted(release, observed.versions)
    tags = tuple(
        Annotate(model=release.model, environment=release.environment, version=n, tags=said)
        for n, said in sorted(differing.items())
    )
    if release.phase is not Phase.ROLLING_BACK or not restores(release, rules):
        return tags
    candidate = candidate_of(release).version
    if candidate not in at_trigger(rules.trigger, observed.versions):
        return tags
    stable = may_return(release, rules.trigger, observed.versions)
    move = Restore(model=release.model, environment=release.environment, candidate=candidate, stable=stable)
    return (*tags, move)


# --- moving ---------------------------------------------------------------------------------------------------


def _move(release: Release, noticed: Noticed, rules: Rules, now: datetime) -> Release:
    """The release after this signal. Raises KeyError where the table has no row: that is a bug."""
    phase = TRANSITIONS[release.phase, noticed.signal]
    release = dataclasses.replace(release, ask=None, rollout=_clock(release, noticed, now))
    if noticed.signal is Signal.STARTED and noticed.candidate:
        return _start(release, noticed.candidate, noticed, now)
    if noticed.signal is Signal.LIVE:
        return _with_current(release, live_since=now)
    if phase is Phase.STEADY:
        return _end(release, noticed)
    if noticed.signal is Signal.STOPPED:
        release = _quarantine(release, noticed, now)
    return _enter(release, phase, noticed, rules.policy, now)


def _clock(release: Release, noticed: Noticed, now: datetime) -> Rollout | None:
    """A person who resumes gives the rollout its whole time again; what resumes by itself does not."""
    asked = release.ask is not None and release.ask.wish is Wish.RESUME and noticed.signal in RESUMED.values()
    return dataclasses.replace(release.rollout, clock_since=now) if release.rollout and asked else release.rollout


def _start(release: Release, candidate: Application, noticed: Noticed, now: datetime) -> Release:
    version = candidate.version
    known = {*release.seen, version} if not _serves(release, version) else {*release.seen}
    return dataclasses.replace(
        release,
        phase=Phase.WARMING,
        candidate=candidate,
        weight_percent=0,
        seen=tuple(sorted(known)),
        queued=None,
        quarantine=lift(release.quarantine, version) if not _serves(release, version) else release.quarantine,
        refused=tuple(r for r in release.refused if r.version != version),
        rollout=Rollout(
            id=f"{now:%Y%m%d-%H%M%S}-v{version}-{candidate.build}",
            started_at=now,
            records=(PhaseRecord(phase=Phase.WARMING, weight_percent=0, since=now, reasons=noticed.reasons),),
        ),
    )


def _enter(release: Release, phase: Phase, noticed: Noticed, policy: RolloutPolicy, now: datetime) -> Release:
    rollout = rollout_of(release)
    step = rollout.step
    if noticed.signal is Signal.PASSED:  # the policy may have other steps by now: never the same share again, nor less
        step = next(i for i, share in enumerate(policy.steps) if share > release.weight_percent)
    weight = _weight(release, phase, noticed.signal, step, policy)
    unmoved = weight == release.weight_percent and Phase.PAUSED in (phase, release.phase)
    entered = PhaseRecord(
        phase=phase,
        weight_percent=weight,
        since=now,
        live_since=now if unmoved and rollout.current.live_since else None,
    )
    return dataclasses.replace(
        release,
        phase=phase,
        weight_percent=weight,
        rollout=dataclasses.replace(
            rollout,
            step=step,
            records=(*rollout.records[:-1], _closed(rollout.current, noticed, now), entered),
            paused_from=(rollout.paused_from or release.phase) if phase is Phase.PAUSED else None,
            cause=noticed.cause,
        ),
    )


def _weight(release: Release, phase: Phase, signal: Signal, step: int, policy: RolloutPolicy) -> int:
    """Share of the phase that begins. Going on after a pause is no PASS: the policy may have other steps by now."""
    if phase is Phase.PAUSED or signal is Signal.RESUMED_CANARY:
        return release.weight_percent
    if phase is Phase.SETTLING:
        return 100
    return policy.steps[step] if phase is Phase.CANARY else 0


def _revised(before: Release, after: Release) -> Release:
    """`after` with the next revision; `traffic_revision` follows only where something else serves than before.

    `before` is the release in Git. Where a person's commit took it back, the hosts already know higher revisions.
    """
    revision = after.revision + 1
    moved = _serving(before) != _serving(after) or after.revision != before.revision
    return dataclasses.replace(
        after, revision=revision, traffic_revision=revision if moved else before.traffic_revision
    )


def _serving(release: Release) -> tuple[object, ...]:
    """Everything of a release that a replica or a route can tell."""
    paused_from = release.rollout.paused_from if release.rollout else None
    phase = paused_from if release.phase is Phase.PAUSED else release.phase
    return (phase, release.stable, release.candidate, release.weight_percent)


def _quarantine(release: Release, noticed: Noticed, now: datetime) -> Release:
    """What is not tried again by itself: a version that is to blame, and new settings whoever stopped them.

    A version left the trigger, or stays in `seen`; settings are still in the model's document and would start again.
    """
    candidate = candidate_of(release)
    if noticed.cause is None or not (noticed.cause.quarantines or _serves(release, candidate.version)):
        return release
    entry = Quarantined(
        version=candidate.version,
        digest=candidate.digest,
        build=candidate.build,
        rollout=rollout_of(release).id,
        since=now,
        reasons=noticed.cause.reasons,
    )
    others = tuple(q for q in release.quarantine if q.build != candidate.build)
    return dataclasses.replace(release, quarantine=(*others, entry))


def _end(release: Release, noticed: Noticed) -> Release:
    ended = dataclasses.replace(release, phase=Phase.STEADY, candidate=None, weight_percent=0, rollout=None)
    if noticed.signal is not Signal.SETTLED:
        return ended
    return dataclasses.replace(without_settings(ended), stable=release.candidate)


def _recorded(
    before: Release, after: Release, noticed: Noticed, observed: Observed, rules: Rules, now: datetime
) -> WriteRecord | WriteHistory:
    """The look, in the record of the rollout that runs after it or, where that has ended, in its history."""
    verdict = verdict_on(before, observed, rules, now) if before.phase in JUDGED else None
    record = looked(before, after, noticed, observed=observed, verdict=verdict, policy=rules.policy, now=now)
    if before.rollout and not after.rollout:
        return WriteHistory(record=dataclasses.replace(_history(before, noticed, now), record=record))
    return WriteRecord(model=before.model, environment=before.environment, record=record)


def _history(release: Release, noticed: Noticed, now: datetime) -> HistoryRecord:
    rollout, candidate = rollout_of(release), candidate_of(release)
    if noticed.signal is Signal.SETTLED:
        outcome = Outcome.PROMOTED
    else:
        outcome = Outcome.ROLLED_BACK if rollout.cause and rollout.cause.quarantines else Outcome.ABORTED
    return HistoryRecord(
        model=release.model,
        environment=release.environment,
        rollout=rollout.id,
        version=candidate.version,
        digest=candidate.digest,
        stable_version=release.stable.version if release.stable else None,
        outcome=outcome,
        started_at=rollout.started_at,
        ended_at=now,
        cause=rollout.cause,
        phases=(*rollout.records[:-1], _closed(rollout.current, noticed, now)),
    )


def _written(release: Release, kept: Release, following: Release, noticed: Noticed) -> WriteRelease:
    candidate = following.candidate or kept.candidate or following.stable
    version = f"v{candidate.version}" if candidate else ""
    return WriteRelease(
        release=_revised(release, following),
        subject=f"{version} {_in_words(kept, following, noticed)}",
        reasons=noticed.reasons,
        verdict=noticed.verdict or "",
    )


def _in_words(before: Release, after: Release, noticed: Noticed) -> str:
    phase = f"{after.phase} {after.weight_percent} %" if after.phase is Phase.CANARY else str(after.phase)
    if noticed.signal is Signal.LIVE:
        return f"{phase}: live"
    if noticed.signal is Signal.SETTLED:
        return "promoted: SETTLING -> STEADY"
    if noticed.signal is Signal.ENDED:
        return "is out: ROLLING_BACK -> STEADY"
    return f"{before.phase} -> {phase}"


# --- small readings --------------------------------------------------------------------------------------------


def _with_current(release: Release, *, live_since: datetime) -> Release:
    rollout = rollout_of(release)
    current = dataclasses.replace(rollout.current, live_since=live_since)
    return dataclasses.replace(release, rollout=dataclasses.replace(rollout, records=(*rollout.records[:-1], current)))


def _closed(record: PhaseRecord, noticed: Noticed, now: datetime) -> PhaseRecord:
    return dataclasses.replace(record, until=now, verdict=noticed.verdict, reasons=(*record.reasons, *noticed.reasons))


def _serves(release: Release, version: int) -> bool:
    return release.stable is not None and release.stable.version == version
