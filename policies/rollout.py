"""The state machine of a release: facts in, actions out.

Everything that decides what follows what lives in this file. The rules, each with a test that carries its number:

 1. FAIL acts at once, in every phase that has traffic, also while paused, also while Ray does not match Git yet.
 2. A step passes only with PASS, its minimum time since its weight was live, and its minimum of requests.
 3. At its maximum time without PASS a step is inconclusive: PAUSED or ROLLING_BACK, as the policy says, or on where it
    is proved to be as good as stable and the policy says so.
 4. UNAVAILABLE freezes the weight. Past its deadline it pauses, or is taken back without blame where the policy says
    so. It never counts as bad and never as good.
 5. First the world matches Git, only then Git moves on; a move toward safety never waits.
 6. Every wait has a deadline, or names the event that ends it.
 7. A newer version that enters during a rollout queues, the latest only; stable never changes meanwhile.
 8. A person who takes the candidate out of the trigger aborts the rollout, without quarantine.
 9. A rollback is never rolled back. Without a stable version to return to, the candidate stops at 0 %.
10. A rollout that is paused for want of metrics, or because its weights were not in place, goes on when that has ended;
    one that is paused as inconclusive goes on when the evidence says PASS; all others wait for a person.
11. A person's commit that takes a release back is obeyed: a promotion that is taken back ends the rollout, a step that
    is taken back pauses it.
12. An empty trigger, an empty or failing registry: stable stays.
13. Git that is away never keeps a failing candidate in traffic: what was stopped in Ray meanwhile is a rollback still
    to be recorded, and that comes before everything else.
14. A person may go on without the analysis: who and why stand in record and commit, and harm still takes it back.
15. A person may go back to what served before, in one step that is judged; the registry follows where it may.
16. A version that was stopped is tried again when a person asks for it, on fresh evidence, with every step.
17. A newer version ends the running rollout where the policy says supersede: without quarantine, and not in SETTLING.
18. A guard that holds the candidate ends the rollout in every phase that has traffic, whatever else is known.
19. No rollout starts while the service burns its error budget, but an undo and an emergency; one that has spent its
    own part is taken back.
20. A failure older than 20 minutes is no reason to act: it freezes.
21. A wish that would change nothing is dropped with words; none acts in a later phase.

The diagram in the docs is generated from TRANSITIONS. This module must not do I/O, read a clock or make up ids that its
arguments do not determine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from policies.actions import Action, Annotate, RemoveRelease, Restore, Wait, WriteHistory, WriteRecord, WriteRelease
from policies.application import Application
from policies.documents import RolloutPolicy
from policies.facts import RESUMED, Idle, Noticed, Observed, Rules, Signal, Start, candidate_of, rollout_of
from policies.noticing import notice, restores
from policies.promotion import (
    at_trigger,
    keep_books,
    lift,
    lift_settings,
    may_enter,
    tags_wanted,
    without_settings,
)
from policies.record import looked
from policies.release import (
    Cause,
    CauseKind,
    Outcome,
    Phase,
    PhaseRecord,
    Purpose,
    Quarantined,
    Refused,
    Release,
    Rollout,
    Wish,
)
from policies.rollout_record import HistoryRecord
from policies.starting import what_starts
from policies.wishes import carried_out

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
    (Phase.SHADOW, Signal.SKIPPED): Phase.CANARY,
    (Phase.SHADOW, Signal.SKIPPED_LAST): Phase.SETTLING,
    (Phase.SHADOW, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.SHADOW, Signal.HALTED): Phase.PAUSED,
    (Phase.CANARY, Signal.LIVE): Phase.CANARY,
    (Phase.CANARY, Signal.PASSED): Phase.CANARY,
    (Phase.CANARY, Signal.PASSED_LAST): Phase.SETTLING,
    (Phase.CANARY, Signal.SKIPPED): Phase.CANARY,
    (Phase.CANARY, Signal.SKIPPED_LAST): Phase.SETTLING,
    (Phase.CANARY, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.CANARY, Signal.HALTED): Phase.PAUSED,
    (Phase.PAUSED, Signal.RESUMED_WARMING): Phase.WARMING,
    (Phase.PAUSED, Signal.RESUMED_SHADOW): Phase.SHADOW,
    (Phase.PAUSED, Signal.RESUMED_CANARY): Phase.CANARY,
    (Phase.PAUSED, Signal.RESUMED_SETTLING): Phase.SETTLING,
    (Phase.PAUSED, Signal.SKIPPED): Phase.CANARY,
    (Phase.PAUSED, Signal.SKIPPED_LAST): Phase.SETTLING,
    (Phase.PAUSED, Signal.SKIPPED_SETTLING): Phase.STEADY,
    (Phase.PAUSED, Signal.HALTED): Phase.PAUSED,
    (Phase.PAUSED, Signal.LIVE): Phase.PAUSED,
    (Phase.PAUSED, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.SETTLING, Signal.LIVE): Phase.SETTLING,
    (Phase.SETTLING, Signal.SETTLED): Phase.STEADY,
    (Phase.SETTLING, Signal.SKIPPED_SETTLING): Phase.STEADY,
    (Phase.SETTLING, Signal.STOPPED): Phase.ROLLING_BACK,
    (Phase.SETTLING, Signal.HALTED): Phase.PAUSED,
    (Phase.ROLLING_BACK, Signal.LIVE): Phase.ROLLING_BACK,
    (Phase.ROLLING_BACK, Signal.ENDED): Phase.STEADY,
}

JUDGED = frozenset({Phase.SHADOW, Phase.CANARY, Phase.SETTLING, Phase.PAUSED})
"""Phases in which evidence is looked at."""

PROMOTED = frozenset({Signal.SETTLED, Signal.SKIPPED_SETTLING})
"""Signals with which the candidate becomes stable."""

SERVED_KEPT = 5
"""Applications that an undo can go back to. Nobody goes back further in an emergency, and what a model looked like five
promotions ago may be in no artifact store any more."""


# --- deciding -------------------------------------------------------------------------------------------------


def decide(release: Release, observed: Observed, rules: Rules, now: datetime) -> tuple[Action, ...]:
    """What to do about one release now. Pure; the same facts give the same actions.

    Returns writes first, then what the registry is told, then the reason for waiting, if any.
    """
    kept, wish = _books(release, observed, rules)
    if rules.settings is None:
        return _remove(kept, observed, rules, now)
    noticed = notice(kept, observed, rules, now, release.seen)
    if isinstance(noticed, Idle | Refused):
        return (*_bookkeeping(release, kept, noticed, wish), *_tell(kept, observed, rules), *_wait(kept, noticed))
    following = _move(kept, noticed, rules, now)
    written = _written(release, kept, following, noticed, wish)
    record = _recorded(kept, following, noticed, observed, rules, now)
    return (written, record, *_tell(written.release, observed, rules))


def wants_baseline(release: Release, observed: Observed, rules: Rules) -> bool:
    """Would a rollout over a stable version begin now, and must be known first how stable does?"""
    kept, _ = _books(release, observed, rules)
    if rules.settings is None or kept.phase is not Phase.STEADY or kept.stable is None:
        return False
    return isinstance(what_starts(kept, observed, rules), Start)


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


def _books(release: Release, observed: Observed, rules: Rules) -> tuple[Release, str]:
    """The release with everything that changes without a change of phase, and what became of a wish, in words."""
    kept, wish = carried_out(_obey(release, observed), observed.versions)
    if observed.versions is not None:
        kept = keep_books(kept, at_trigger(rules.trigger, observed.versions))
    return (lift_settings(kept, rules.settings) if rules.settings else kept), wish


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
        ask=None,
    )


def _bookkeeping(release: Release, kept: Release, noticed: Idle | Refused, wish: str) -> tuple[Action, ...]:
    subject = wish or _books_in_words(release, kept)
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
    if not words and dataclasses.replace(kept, revision=release.revision) == release:
        return "its revision goes on from what Ray was told"
    return ", ".join(words) or "a person's commit taken up"


def _wait(release: Release, noticed: Idle | Refused) -> tuple[Action, ...]:
    until, ends = (noticed.until, noticed.ends) if isinstance(noticed, Idle) else (None, "another version enters")
    where = {"model": release.model, "environment": release.environment}
    return (Wait(**where, reason=noticed.reason, until=until, ends=ends),)


def _tell(release: Release, observed: Observed, rules: Rules) -> tuple[Action, ...]:
    """What the registry should show by now and does not: tags, and its trigger after a rollback or a person's wish."""
    if observed.versions is None:
        return ()
    differing = tags_wanted(release, observed.versions)
    tags = tuple(
        Annotate(model=release.model, environment=release.environment, version=n, tags=said)
        for n, said in sorted(differing.items())
    )
    present = at_trigger(rules.trigger, observed.versions)
    move = _back(release, observed, rules, present) or _forward(release, observed, rules, present)
    return (*tags, move) if move else tags


def _back(release: Release, observed: Observed, rules: Rules, present: frozenset[int]) -> Restore | None:
    """After a rollback the trigger goes back to stable, where stable may return."""
    if release.phase is not Phase.ROLLING_BACK or not restores(release, rules):
        return None
    candidate, stable = candidate_of(release).version, release.stable.version if release.stable else None
    if candidate not in present:
        return None
    versions = observed.versions or {}
    returns = stable if stable is not None and may_enter(stable, rules.trigger, versions) else None
    return Restore(model=release.model, environment=release.environment, candidate=candidate, stable=returns)


def _forward(release: Release, observed: Observed, rules: Rules, present: frozenset[int]) -> Restore | None:
    """At 100 % the trigger follows a rollout that a person asked for, or registry and Git would not agree.

    Only from stable to the candidate, and only while the candidate is not there: a person who moves either of them
    since is not fought. The candidate is known at the trigger from then on, so who takes it out aborts.
    """
    asked = release.phase is Phase.SETTLING and rollout_of(release).asked_by and rules.on_rollback == "restore"
    if not asked or release.stable is None:
        return None
    candidate, stable = candidate_of(release).version, release.stable.version
    gone = stable not in present or candidate in present
    if gone or not may_enter(candidate, rules.trigger, observed.versions or {}):
        return None
    return Restore(model=release.model, environment=release.environment, candidate=stable, stable=candidate)


# --- moving ---------------------------------------------------------------------------------------------------


def _move(release: Release, noticed: Noticed, rules: Rules, now: datetime) -> Release:
    """The release after this signal. Raises KeyError where the table has no row: that is a bug."""
    phase = TRANSITIONS[release.phase, noticed.signal]
    if noticed.signal is Signal.LIVE:  # what a person asked for meanwhile is still to be done
        return _with_current(release, live_since=now)
    release = dataclasses.replace(release, ask=None, rollout=_clock(release, noticed, now))
    if noticed.start:
        return _start(release, noticed.start, now)
    if phase is Phase.STEADY:
        return _end(release, noticed, now)
    if noticed.signal is Signal.STOPPED:
        release = _quarantine(release, noticed, now)
    return _enter(release, phase, noticed, rules.policy, now)


def _clock(release: Release, noticed: Noticed, now: datetime) -> Rollout | None:
    """A person who resumes or promotes gives the rollout its whole time again; what resumes by itself does not."""
    wish = release.ask.wish if release.ask else None
    resumed = wish is Wish.RESUME and noticed.signal in RESUMED.values()
    asked = resumed or noticed.signal in (Signal.SKIPPED, Signal.SKIPPED_LAST)
    return dataclasses.replace(release.rollout, clock_since=now) if release.rollout and asked else release.rollout


def _start(release: Release, start: Start, now: datetime) -> Release:
    candidate = start.candidate
    version, again = candidate.version, _serves(release, candidate.version)
    known = {*release.seen} if again or start.asked_by else {*release.seen, version}
    return dataclasses.replace(
        release,
        phase=Phase.WARMING,
        candidate=candidate,
        weight_percent=0,
        seen=tuple(sorted(known)),
        queued=None if release.queued == version or not start.asked_by else release.queued,
        quarantine=release.quarantine if again else lift(release.quarantine, version),
        refused=tuple(r for r in release.refused if r.version != version),
        rollout=Rollout(
            id=f"{now:%Y%m%d-%H%M%S}-v{version}-{candidate.build}",
            started_at=now,
            records=(PhaseRecord(phase=Phase.WARMING, weight_percent=0, since=now, reasons=start.reasons),),
            purpose=start.purpose,
            asked_by=start.asked_by,
            dispersion=start.dispersion,
            budget=start.budget,
        ),
    )


def _enter(release: Release, phase: Phase, noticed: Noticed, policy: RolloutPolicy, now: datetime) -> Release:
    rollout = rollout_of(release)
    step = _step(release, noticed.signal, policy)
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


def _step(release: Release, signal: Signal, policy: RolloutPolicy) -> int:
    """Index of the share that follows. An undo has one step, the last: it served before, and trouble is to end soon."""
    rollout = rollout_of(release)
    if signal is Signal.READY_FOR_CANARY and rollout.purpose is Purpose.UNDO:
        return len(policy.steps) - 1
    if signal in (Signal.PASSED, Signal.SKIPPED):
        # the policy may have other steps by now: never the same share again, nor less
        return next(i for i, share in enumerate(policy.steps) if share > release.weight_percent)
    return rollout.step


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
    Those that a newer version ended may: what becomes of that one decides.
    """
    candidate = candidate_of(release)
    if noticed.cause is None or noticed.cause.kind is CauseKind.SUPERSEDED:
        return release
    if not (noticed.cause.quarantines or _serves(release, candidate.version)):
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
    served = tuple(a for a in release.served if a.build != candidate.build)  # no undo leads to it any more
    return dataclasses.replace(release, quarantine=(*others, entry), served=served)


def _end(release: Release, noticed: Noticed, now: datetime) -> Release:
    ended = dataclasses.replace(release, phase=Phase.STEADY, candidate=None, weight_percent=0, rollout=None)
    if noticed.signal not in PROMOTED:
        return ended
    lifted = without_settings(ended)
    undone = _undone_settings(release, noticed, now)
    return dataclasses.replace(
        lifted, stable=release.candidate, served=_trail(release), quarantine=(*lifted.quarantine, *undone)
    )


def _trail(release: Release) -> tuple[Application, ...]:
    """What served before the candidate, now that it is stable. Going back to one of these takes the later ones off.

    So an undo of an undo goes back further, and what was undone comes again only by all steps.
    """
    candidate = candidate_of(release)
    trail = (*release.served, release.stable) if release.stable else release.served
    builds = [application.build for application in trail]
    end = builds.index(candidate.build) if candidate.build in builds else len(trail)
    return trail[:end][-SERVED_KEPT:]


def _undone_settings(release: Release, noticed: Noticed, now: datetime) -> tuple[Quarantined, ...]:
    """New settings that a person undid: they are still in the model's document, and would start again."""
    candidate, stable = candidate_of(release), release.stable
    if rollout_of(release).purpose is not Purpose.UNDO or stable is None or stable.version != candidate.version:
        return ()
    why = (f"undone by {rollout_of(release).asked_by}", *noticed.reasons)
    return (
        Quarantined(
            version=stable.version,
            digest=stable.digest,
            build=stable.build,
            rollout=rollout_of(release).id,
            since=now,
            reasons=why,
        ),
    )


def _recorded(
    before: Release, after: Release, noticed: Noticed, observed: Observed, rules: Rules, now: datetime
) -> WriteRecord | WriteHistory:
    """The look, in the record of the rollout that runs after it or, where that has ended, in its history."""
    record = looked(before, after, noticed, observed=observed, policy=rules.policy, now=now)
    if before.rollout and not after.rollout:
        return WriteHistory(record=dataclasses.replace(_history(before, noticed, now), record=record))
    return WriteRecord(model=before.model, environment=before.environment, record=record)


def _history(release: Release, noticed: Noticed, now: datetime) -> HistoryRecord:
    rollout, candidate = rollout_of(release), candidate_of(release)
    return HistoryRecord(
        model=release.model,
        environment=release.environment,
        rollout=rollout.id,
        version=candidate.version,
        digest=candidate.digest,
        stable_version=release.stable.version if release.stable else None,
        outcome=Outcome.PROMOTED if noticed.signal in PROMOTED else _outcome(rollout.cause),
        started_at=rollout.started_at,
        ended_at=now,
        cause=rollout.cause,
        phases=(*rollout.records[:-1], _closed(rollout.current, noticed, now)),
        purpose=rollout.purpose,
        dispersion=rollout.dispersion,
        budget=rollout.budget,
    )


def _outcome(cause: Cause | None) -> Outcome:
    """How a rollout ended that did not end at the top: by a person, by a newer version, or rolled back."""
    by_a_person = (CauseKind.ASKED, CauseKind.WITHDRAWN, CauseKind.REVERTED, CauseKind.REMOVED)
    if cause is None or cause.kind in by_a_person:
        return Outcome.ABORTED
    return Outcome.SUPERSEDED if cause.kind is CauseKind.SUPERSEDED else Outcome.ROLLED_BACK


def _written(release: Release, kept: Release, following: Release, noticed: Noticed, wish: str) -> WriteRelease:
    candidate = following.candidate or kept.candidate or following.stable
    version = f"v{candidate.version}" if candidate else ""
    return WriteRelease(
        release=_revised(release, following),
        subject=f"{version} {_in_words(kept, following, noticed)}",
        reasons=(*((wish,) if wish else ()), *noticed.reasons),
        verdict=noticed.verdict or "",
    )


def _in_words(before: Release, after: Release, noticed: Noticed) -> str:
    phase = f"{after.phase} {after.weight_percent} %" if after.phase is Phase.CANARY else str(after.phase)
    if noticed.signal is Signal.LIVE:
        return f"{phase}: live"
    if noticed.signal is Signal.SETTLED:
        return "promoted: SETTLING -> STEADY"
    if noticed.signal is Signal.SKIPPED_SETTLING:
        return f"promoted by a person: {before.phase} -> STEADY"
    if noticed.signal in (Signal.SKIPPED, Signal.SKIPPED_LAST):
        return f"{before.phase} -> {phase}, its analysis skipped by a person"
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
