"""A release after a signal, in the phase that the table says: weight, records, quarantine, what becomes stable. Pure.

Which phase follows is not decided here: that is the table in `rollout.py`.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime

from policies.application import Application
from policies.documents import RolloutPolicy
from policies.facts import RESUMED, Noticed, Rules, Signal, Start, candidate_of, rollout_of
from policies.promotion import lift, without_settings
from policies.release import CauseKind, Phase, PhaseRecord, Purpose, Quarantined, Refused, Release, Rollout, Wish

PROMOTED = frozenset({Signal.SETTLED, Signal.SKIPPED_SETTLING})
"""Signals with which the candidate becomes stable."""

SERVED_KEPT = 5
"""Applications that an undo can go back to. Nobody goes back further in an emergency, and what a model looked like five
promotions ago may be in no artifact store any more."""


def moved(release: Release, phase: Phase, noticed: Noticed, rules: Rules, now: datetime) -> Release:
    """The release after this signal, in this phase."""
    if noticed.signal is Signal.LIVE:  # what a person asked for meanwhile is still to be done
        return _seen_live(release, live_since=now)
    release = dataclasses.replace(release, ask=None, rollout=_clock(release, noticed, now))
    if noticed.start:
        return _start(release, noticed.start, now)
    if phase is Phase.STEADY:
        return _end(release, noticed, now)
    if noticed.signal is Signal.STOPPED:
        release = _quarantine(release, noticed, now)
    return _enter(release, phase, noticed, rules.policy, now)


def _clock(release: Release, noticed: Noticed, now: datetime) -> Rollout | None:
    """A person who resumes, promotes or agrees gives the rollout its whole time again; what resumes by itself does not.

    So a rollout does not run out of time while it waits for people.
    """
    wish = release.ask.wish if release.ask else None
    resumed = wish is Wish.RESUME and noticed.signal in RESUMED.values()
    asked = resumed or noticed.agreed or noticed.signal in (Signal.SKIPPED, Signal.SKIPPED_LAST)
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
        refused=_not_asked_again(release, version),
        rollout=Rollout(
            id=f"{now:%Y%m%d-%H%M%S}-v{version}-{candidate.build}",
            started_at=now,
            records=(PhaseRecord(phase=Phase.WARMING, weight_percent=0, since=now, reasons=start.reasons),),
            purpose=start.purpose,
            asked_by=start.asked_by,
            admission=start.admission,
            dispersion=start.dispersion,
            budget=start.budget,
        ),
    )


def _not_asked_again(release: Release, version: int) -> tuple[Refused, ...]:
    """Without the version that starts. What was refused before is old then; new settings make nothing old."""
    others = tuple(r for r in release.refused if r.version != version)
    if _serves(release, version):
        return others
    return tuple(dataclasses.replace(r, checks=()) for r in others)


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
            records=(*rollout.records[:-1], closed(rollout.current, noticed, now), entered),
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


def _seen_live(release: Release, *, live_since: datetime) -> Release:
    rollout = rollout_of(release)
    current = dataclasses.replace(rollout.current, live_since=live_since)
    return dataclasses.replace(release, rollout=dataclasses.replace(rollout, records=(*rollout.records[:-1], current)))


def closed(record: PhaseRecord, noticed: Noticed, now: datetime) -> PhaseRecord:
    """The record of a phase that has ended."""
    return dataclasses.replace(record, until=now, verdict=noticed.verdict, reasons=(*record.reasons, *noticed.reasons))


def _serves(release: Release, version: int) -> bool:
    return release.stable is not None and release.stable.version == version
