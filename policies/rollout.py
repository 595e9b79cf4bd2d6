"""The state machine of a release: facts in, actions out.

Everything that decides what follows what lives in this file; what a release looks like afterwards is in `moving.py`.
The rules, each with a test that carries its number:

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
22. Where people must agree, a rollout starts, or goes a step up, once they did; what goes back asks nobody.

The diagram in the docs is generated from TRANSITIONS. This module must not do I/O, read a clock or make up ids that its
arguments do not determine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from policies.actions import Action, RemoveRelease, UseConsent, Wait, WriteHistory, WriteRecord, WriteRelease
from policies.bookkeeping import book_entries, books, revised
from policies.consenting import consented
from policies.facts import Idle, Noticed, Observed, Rules, Signal, Start, candidate_of, rollout_of
from policies.moving import PROMOTED, closed, moved
from policies.noticing import notice
from policies.record import looked
from policies.release import Cause, CauseKind, Outcome, Phase, Refused, Release
from policies.rollout_record import HistoryRecord
from policies.starting import what_starts
from policies.telling import tell

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


# --- deciding -------------------------------------------------------------------------------------------------


def decide(release: Release, observed: Observed, rules: Rules, now: datetime) -> tuple[Action, ...]:
    """What to do about one release now. Pure; the same facts give the same actions.

    Returns writes first, then what the registry is told, then the reason for waiting, if any.
    """
    kept, wish = books(release, observed, rules)
    if rules.settings is None:
        return _remove(kept, observed, rules, now)
    noticed, asks = consented(kept, notice(kept, observed, rules, now, release.seen), observed, rules)
    if isinstance(noticed, Idle | Refused):
        said = tell(kept, observed, rules)
        return (*book_entries(release, kept, noticed, wish), *asks, *said, *_wait(kept, noticed))
    # KeyError where the table has no row: that is a bug
    following = moved(kept, TRANSITIONS[kept.phase, noticed.signal], noticed, rules, now)
    written = _written(release, kept, following, noticed, wish)
    record = _recorded(kept, following, noticed, observed, rules, now)
    return (written, record, *asks, *tell(written.release, observed, rules))


def wants_baseline(release: Release, observed: Observed, rules: Rules) -> bool:
    """Would a rollout over a stable version begin now, and must be known first how stable does?"""
    kept, _ = books(release, observed, rules)
    if rules.settings is None or kept.phase is not Phase.STEADY or kept.stable is None:
        return False
    return isinstance(what_starts(kept, observed, rules), Start)


def _remove(release: Release, observed: Observed, rules: Rules, now: datetime) -> tuple[Action, ...]:
    """Its model document is gone, by a person's commit: nothing of it serves any longer, whatever it was doing."""
    why = "its model document was removed"
    given = observed.consent_given is not None
    used = (UseConsent(model=release.model, environment=release.environment),) if given else ()
    gone = RemoveRelease(release=release, subject="served no longer", reasons=(why,))
    if release.rollout is None:
        return (gone, *used)
    cause = Cause(kind=CauseKind.REMOVED, reasons=(why,))
    ended = dataclasses.replace(release, rollout=dataclasses.replace(release.rollout, cause=cause))
    noticed = Noticed(signal=Signal.ENDED, reasons=cause.reasons, cause=cause)
    steady = dataclasses.replace(ended, phase=Phase.STEADY, candidate=None, weight_percent=0, rollout=None)
    return (gone, *used, _recorded(ended, steady, noticed, observed, rules, now))


_REFUSED_ENDS = "what is asked of it holds (it is asked again while it is at the trigger), or another version enters"

_CLOSED_ENDS = "it leaves the trigger and enters it again, somebody asks for it (`sluice retry`), or another one enters"


def _wait(release: Release, noticed: Idle | Refused) -> tuple[Action, ...]:
    refused = _CLOSED_ENDS if isinstance(noticed, Refused) and noticed.pull_request else _REFUSED_ENDS
    until, ends = (noticed.until, noticed.ends) if isinstance(noticed, Idle) else (None, refused)
    where = {"model": release.model, "environment": release.environment}
    return (Wait(**where, reason=noticed.reason, until=until, ends=ends),)


# --- what is written ------------------------------------------------------------------------------------------


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
        phases=(*rollout.records[:-1], closed(rollout.current, noticed, now)),
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
        release=revised(release, following),
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
