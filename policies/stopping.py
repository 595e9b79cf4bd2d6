"""Noticing what stops a rollout: a person, a newer version, a candidate that cannot start, and harm.

Rules, the first that holds counts:
- A hold: it was stopped in Ray without a commit, and nothing but its rollback may lift that. What the evidence says
  by now tells more than what whoever held it could leave behind.
- A person's commit, wish to abort, or move of the candidate out of the trigger. A rollout that a person asked for
  (undo, retry) began without its version at the trigger: that it is not there takes nothing out.
- A newer version, where the policy lets it supersede. Not in SETTLING: the candidate has passed every step and answers
  everybody, and is stable or out within `settle.max_duration`; traffic would move back only to start over. Not an undo:
  it leads away from trouble, in one step. Not for a version that could not start.
- A guard that holds the candidate: hosts keep it out of traffic and say so at every scrape. It needs no other evidence.
  One that tripped before this rollout began speaks of an earlier attempt.
- FAIL, and a budget that is spent, where the newest failure is fresh (`judged.py`).

This module must not change a release.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from datetime import datetime

from policies.admission_rules import admission_of
from policies.budget import spent
from policies.convergence import Failed
from policies.facts import Noticed, Observed, Rules, Signal, candidate_of, halt, paused_from, rollout_of, stop
from policies.judged import stale_since
from policies.promotion import application_of, at_trigger
from policies.release import Cause, CauseKind, Phase, Purpose, Release, Wish
from policies.verdict import Verdict, VerdictKind


def notice_stop(
    release: Release, observed: Observed, rules: Rules, now: datetime, *, seen: Collection[int], verdict: Verdict
) -> Noticed | None:
    """STOPPED, or HALTED by a person's commit; none where the rollout may go on.

    `seen` are the versions that were at the trigger at the last look.
    """
    return (
        _notice_person(release, observed, rules, seen)
        or _notice_superseded(release, observed, rules)
        or notice_harm(release, observed, now, verdict)
    )


def notice_held(release: Release, observed: Observed, now: datetime, verdict: Verdict) -> Noticed | None:
    """The rollback that is still to be recorded (rule 13); none where nothing is held."""
    held = observed.held
    if held is None:
        return None
    harm = notice_harm(release, observed, now, verdict)
    if harm is None or harm.cause is None:
        return stop(held.kind, *held.reasons)
    reasons = (*harm.reasons, held.reasons[0])
    return dataclasses.replace(harm, reasons=reasons, cause=dataclasses.replace(harm.cause, reasons=reasons))


# --- people -----------------------------------------------------------------------------------------------------


def _notice_person(release: Release, observed: Observed, rules: Rules, seen: Collection[int]) -> Noticed | None:
    """What people did to end it: their commits, their wish, their moves in the registry."""
    if observed.taken_back_from is not None:
        return _notice_taken_back(release, observed.taken_back_from, observed.taken_back_by)
    ask = release.ask
    if ask and ask.wish is Wish.ABORT:
        return stop(CauseKind.ASKED, f"{ask.by} asked to abort: {ask.why}", by=ask.by)
    return _notice_withdrawn(release, observed, rules, seen)


def _notice_taken_back(release: Release, before: Release, by: str) -> Noticed | None:
    candidate = release.candidate
    promoted = before.phase is Phase.STEADY and candidate is not None and before.stable == candidate
    quarantined = candidate is not None and any(q.build == candidate.build for q in before.quarantine)
    if release.stable is None and not quarantined:
        return _keep(release, by)  # there is nothing to go back to
    if promoted or quarantined or release.phase is Phase.WARMING or before.candidate != candidate:
        return stop(CauseKind.REVERTED, f"a commit by {by} took the release back", by=by)
    return _keep(release, by)


def _keep(release: Release, by: str) -> Noticed | None:
    """What a person's commit brought back stays as it is until a person goes on."""
    if release.waits_for_a_person:
        return None
    why = f"a commit by {by} took the release back to {release.phase}; it waits for a person"
    return halt(CauseKind.REVERTED, why, by=by)


def _notice_withdrawn(release: Release, observed: Observed, rules: Rules, seen: Collection[int]) -> Noticed | None:
    """Rule 8. A candidate that leaves as another version enters was pushed out by it, and goes on (rule 7)."""
    candidate = release.candidate
    if observed.versions is None or candidate is None:
        return None
    stable = release.stable.version if release.stable else None
    if stable == candidate.version:
        return None  # new settings for the same version: the trigger has no say
    never_there = bool(rollout_of(release).asked_by) and candidate.version not in seen
    present = at_trigger(rules.trigger, observed.versions)
    entered = present - {*seen, stable}
    pushed_out = bool(entered) or (release.queued is not None and candidate.version not in seen)
    if candidate.version in present or pushed_out or never_there:
        return None
    return stop(CauseKind.WITHDRAWN, f"v{candidate.version} was taken out of {rules.trigger}")


# --- a newer version ----------------------------------------------------------------------------------------------


def _notice_superseded(release: Release, observed: Observed, rules: Rules) -> Noticed | None:
    newer, candidate, policy = release.queued, candidate_of(release), rules.policy
    if policy.on_newer != "supersede" or newer is None or newer == candidate.version:
        return None
    if release.phase is Phase.SETTLING or rollout_of(release).purpose is Purpose.UNDO:
        return None
    if not _could_start(newer, release, observed, rules):
        return None
    why = (
        f"v{newer} entered {rules.trigger}, and by the policy {policy.name} it ends the rollout of v{candidate.version}"
    )
    return stop(CauseKind.SUPERSEDED, why)


def _could_start(version: int, release: Release, observed: Observed, rules: Rules) -> bool:
    registered, artifact = (observed.versions or {}).get(version), observed.artifacts.get(version)
    if registered is None or not registered.ready or artifact is None or rules.settings is None:
        return False
    admission = admission_of(release, application_of(version, artifact, rules.settings), observed, rules)
    return not isinstance(admission, str) and admission.admitted


# --- harm ---------------------------------------------------------------------------------------------------------


def notice_harm(release: Release, observed: Observed, now: datetime, verdict: Verdict) -> Noticed | None:
    """What must stop the candidate at once: rules 1 and 5."""
    if release.phase is Phase.WARMING or paused_from(release, Phase.WARMING):
        if isinstance(observed.candidate, Failed):
            return stop(CauseKind.NOT_READY, f"the candidate cannot start: {observed.candidate.message}")
        return None
    if (tripped := _tripped(release, observed)) is not None:
        return tripped
    if verdict.kind is VerdictKind.FAIL:
        return _stop_with(verdict, CauseKind.FAILED, verdict.reasons)
    since = stale_since(observed.evidence)
    overspent = spent(observed.evidence, rollout_of(release))
    if overspent and since is not None and now < since:
        return _stop_with(verdict, CauseKind.BUDGET, (*overspent, *verdict.reasons))
    return None


def _stop_with(verdict: Verdict, kind: CauseKind, reasons: tuple[str, ...]) -> Noticed:
    cause = Cause(kind=kind, reasons=reasons)
    return Noticed(signal=Signal.STOPPED, verdict=verdict.kind, reasons=reasons, cause=cause)


def _tripped(release: Release, observed: Observed) -> Noticed | None:
    trip = observed.trip
    if trip is None or trip.build != candidate_of(release).build or trip.at < rollout_of(release).started_at:
        return None
    hosts = "1 host replica" if trip.hosts == 1 else f"{trip.hosts} host replicas"
    return stop(
        CauseKind.GUARD,
        f"the guard of {hosts} stopped it: {trip.bad:,.0f} of its {trip.requests:,.0f} answers there were bad where "
        f"stable answered well, seen at {trip.at:%Y-%m-%d %H:%M:%S} UTC",
    )
