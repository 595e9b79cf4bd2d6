"""What stops a rollout besides FAIL: a newer version, a guard, a spent budget; and failures that are too old to act on.

Rules 3, 4, 17, 18, 19 and 20 of policies/rollout.py.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta

import pytest

from policies.actions import Restore, WriteHistory, WriteRelease
from policies.application import Settings
from policies.documents import Bake
from policies.evidence import Sli
from policies.judged import STALE_FAILURE, is_as_good_as_stable
from policies.observations import Trip
from policies.release import Cause, CauseKind, Outcome, Phase, Purpose, Quarantined, Release
from policies.rollout import decide
from policies.verdict import Measure, Verdict, VerdictKind
from tests.unit.releases import (
    AWAY,
    HEALTHY,
    LATENCY,
    MINUTE,
    NOW,
    POLICY,
    RULES,
    THIN,
    application,
    digest,
    evidence,
    in_phase,
    observed,
    only,
    reason,
    rolling,
    ruled,
    steady,
    versions,
    written,
)

WITH_TRAFFIC = [Phase.SHADOW, Phase.CANARY, Phase.SETTLING, Phase.PAUSED]
NEWER = versions(v1="Archived", v2="Archived", v3="Production")
SUPERSEDE = ruled(on_newer="supersede")

# --- a newer version ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.SHADOW, Phase.CANARY, Phase.PAUSED])
def test_rule_17_a_newer_version_ends_the_rollout_where_the_policy_says_supersede(phase):
    """Trap: a new revision in mid-canary leaves it stuck or flapping."""
    release = written(decide(in_phase(phase), observed(NEWER, evidence=THIN), SUPERSEDE, NOW))
    assert (release.phase, release.weight_percent, release.queued) == (Phase.ROLLING_BACK, 0, 3)
    assert (release.rollout.cause.kind, release.quarantine) == (CauseKind.SUPERSEDED, ())


def test_rule_17_what_was_superseded_is_recorded_so_the_registry_is_left_alone_and_the_newer_starts():
    going = written(decide(in_phase(Phase.CANARY), observed(NEWER, evidence=THIN), SUPERSEDE, NOW))
    live = decide(going, observed(NEWER), SUPERSEDE, NOW)
    ended = decide(written(live), observed(NEWER), SUPERSEDE, NOW)
    assert not only(Restore, (*live, *ended))
    (history,) = only(WriteHistory, ended)
    assert (history.record.outcome, history.record.version) == (Outcome.SUPERSEDED, 2)
    started = written(decide(written(ended), observed(NEWER), SUPERSEDE, NOW))
    assert (started.phase, started.candidate, started.queued) == (Phase.WARMING, application(3), None)


@pytest.mark.parametrize("phase", WITH_TRAFFIC)
def test_rule_17_a_newer_version_that_arrives_during_a_rollout_queues_by_default_latest_wins(phase):
    release = written(decide(in_phase(phase), observed(NEWER, evidence=THIN), RULES, NOW))
    assert (release.phase, release.queued) == (phase, 3)
    latest = versions(v1="Archived", v2="Archived", v3="Archived", v4="Production")
    assert written(decide(release, observed(latest, evidence=THIN), RULES, NOW)).queued == 4


def test_rule_17_settling_is_not_superseded_it_is_over_soon():
    release = written(decide(in_phase(Phase.SETTLING), observed(NEWER, evidence=THIN), SUPERSEDE, NOW))
    assert (release.phase, release.queued) == (Phase.SETTLING, 3)


def test_rule_17_never_during_a_rollback():
    """Never roll back a rollback."""
    cause = Cause(kind=CauseKind.FAILED, reasons=("harm",))
    going = rolling(Phase.ROLLING_BACK, cause=cause, seen=(3,), queued=3)
    for write in only(WriteRelease, decide(going, observed(NEWER), SUPERSEDE, NOW)):
        assert (write.release.phase, write.release.queued) == (Phase.STEADY, 3)


def test_rule_17_an_undo_is_not_superseded():
    undo = in_phase(Phase.CANARY, purpose=Purpose.UNDO)
    assert written(decide(undo, observed(NEWER, evidence=THIN), SUPERSEDE, NOW)).phase is Phase.CANARY


def test_rule_17_new_settings_that_were_superseded_are_tried_again_where_the_newer_version_fails():
    rules = ruled(on_newer="supersede", settings=Settings(cpus=2))
    wide = in_phase(Phase.CANARY, candidate=application(1, cpus=2), seen=(1,))
    both = versions(v1="Production", v3="Production")
    going = written(decide(wide, observed(both, evidence=THIN), rules, NOW))
    assert (going.phase, going.quarantine) == (Phase.ROLLING_BACK, ())
    after = steady(1, seen=(1, 3))
    assert written(decide(after, observed(both), rules, NOW)).candidate == application(1, cpus=2)


def test_rule_17_no_rollout_ends_for_a_version_that_could_not_start():
    entry = Quarantined(version=9, digest=digest(3), build="b", rollout="r0", since=NOW, reasons=("bad",))
    canary = in_phase(Phase.CANARY, quarantine=(entry,))
    assert written(decide(canary, observed(NEWER, evidence=THIN), SUPERSEDE, NOW)).phase is Phase.CANARY
    unread = observed(NEWER, evidence=THIN, artifacts={})
    assert written(decide(in_phase(Phase.CANARY), unread, SUPERSEDE, NOW)).phase is Phase.CANARY


# --- the guard ----------------------------------------------------------------------------------------------------


def trip(**fields) -> Trip:
    known = {"build": application(2).build, "hosts": 2, "requests": 7.0, "bad": 6.0, "at": NOW - MINUTE}
    return Trip(**{**known, **fields})


@pytest.mark.parametrize("phase", WITH_TRAFFIC)
@pytest.mark.parametrize("seen", [HEALTHY, AWAY, ()])
def test_rule_18_a_guard_that_holds_the_candidate_ends_the_rollout_whatever_else_is_known(phase, seen):
    """The reconciler sees the guard's trip and makes it a recorded rollback: also paused, also without Prometheus."""
    facts = observed(evidence=seen, trip=trip(), unavailable_since=NOW, out_of_place="not in place")
    release = written(decide(in_phase(phase), facts, RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.ROLLING_BACK, 0)
    assert release.rollout.cause.kind is CauseKind.GUARD
    assert "the guard of 2 host replicas stopped it: 6 of its 7 answers" in release.rollout.cause.reasons[0]
    assert [q.version for q in release.quarantine] == [2]


def test_rule_18_a_guard_acts_before_weights_were_seen_to_be_live():
    late = rolling(Phase.CANARY, weight=10, live=False)
    assert written(decide(late, observed(trip=trip()), RULES, NOW)).phase is Phase.ROLLING_BACK


@pytest.mark.parametrize("other", [trip(build="another"), trip(at=NOW - 60 * MINUTE)])
def test_rule_18_a_trip_of_another_build_or_of_an_earlier_attempt_stops_nothing(other):
    for write in only(WriteRelease, decide(in_phase(Phase.CANARY), observed(evidence=THIN, trip=other), RULES, NOW)):
        assert write.release.phase is Phase.CANARY


# --- the rollout's own budget -------------------------------------------------------------------------------------


def spending(phase: Phase = Phase.CANARY, **fields) -> Release:
    return in_phase(phase, **{"budget": {"errors": 30.0}, **fields})


@pytest.mark.parametrize("phase", [Phase.CANARY, Phase.SETTLING, Phase.PAUSED])
def test_rule_19_a_rollout_that_has_spent_its_part_of_the_budget_is_taken_back(phase):
    spent = observed(evidence=(evidence(total=20_000, bad=232, stable_bad=200), evidence(LATENCY)))
    release = written(decide(spending(phase), spent, RULES, NOW))
    assert (release.phase, release.rollout.cause.kind) == (Phase.ROLLING_BACK, CauseKind.BUDGET)
    assert "this rollout may spend 30 of the error budget" in release.rollout.cause.reasons[0]
    assert [q.version for q in release.quarantine] == [2]


def test_rule_19_copies_in_shadow_cost_no_budget():
    spent = observed(evidence=(evidence(total=20_000, bad=232, stable_bad=200), evidence(LATENCY)))
    for write in only(WriteRelease, decide(spending(Phase.SHADOW), spent, RULES, NOW)):
        assert write.release.phase is not Phase.ROLLING_BACK


# --- a dispersion that was edited ---------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [1e6, 1e308, math.inf, math.nan, 0.5, -1.0])
def test_no_dispersion_that_a_person_writes_into_a_release_makes_the_judge_blind(phi):
    canary = in_phase(Phase.CANARY, dispersion={"errors": phi})
    bad = observed(evidence=(evidence(bad=400), evidence(LATENCY)))
    assert written(decide(canary, bad, RULES, NOW)).phase is Phase.ROLLING_BACK


# --- failures that are too old ------------------------------------------------------------------------------------

LONG_AGO = NOW - STALE_FAILURE - MINUTE


def failed_until(moment) -> tuple:
    return (evidence(bad=300, ends=moment), evidence(LATENCY, ends=moment))


def since_long_ago(phase: Phase, **fields) -> Release:
    """Live since an hour."""
    release = in_phase(phase, **fields)
    hour = timedelta(hours=1)
    records = tuple(
        dataclasses.replace(
            r, since=r.since - hour, live_since=r.live_since and r.live_since - hour, until=r.until and r.until - hour
        )
        for r in release.rollout.records
    )
    rollout = dataclasses.replace(release.rollout, started_at=release.rollout.started_at - hour, records=records)
    return dataclasses.replace(release, rollout=rollout)


@pytest.mark.parametrize("phase", WITH_TRAFFIC)
def test_rule_20_failure_evidence_older_than_20_minutes_does_not_trigger(phase):
    """It freezes: a process that was away finds a world that others may have mended since."""
    rules = ruled(step=Bake(max_duration=timedelta(hours=3)), metrics_deadline=timedelta(minutes=5))
    facts = observed(evidence=failed_until(LONG_AGO))
    actions = decide(since_long_ago(phase), facts, rules, NOW)
    for write in only(WriteRelease, actions):
        assert write.release.phase is Phase.PAUSED
    if not only(WriteRelease, actions):
        assert "too old to act on" in reason(actions) or phase is Phase.PAUSED


def test_rule_20_a_failure_that_is_fresh_still_acts_on_what_was_counted_before():
    fresh = (evidence(bad=300, ends=NOW - STALE_FAILURE + MINUTE), evidence(LATENCY))
    assert (
        written(decide(since_long_ago(Phase.CANARY), observed(evidence=fresh), RULES, NOW)).phase is Phase.ROLLING_BACK
    )


def test_rule_20_what_is_too_old_freezes_and_then_pauses_for_a_person_blaming_nobody():
    rules = ruled(step=Bake(max_duration=timedelta(hours=3)), metrics_deadline=timedelta(minutes=5))
    canary = since_long_ago(Phase.CANARY)
    first = decide(canary, observed(evidence=failed_until(LONG_AGO)), rules, NOW)
    assert "the weight is frozen: the newest failure is of 2026-11-23 11:39:00 UTC" in reason(first)
    later = NOW + 5 * MINUTE
    paused = written(decide(canary, observed(evidence=failed_until(LONG_AGO)), rules, later))
    assert (paused.phase, paused.weight_percent, paused.quarantine) == (Phase.PAUSED, 10, ())
    assert paused.rollout.cause.kind is CauseKind.NO_METRICS


def test_rule_20_a_spent_budget_is_no_reason_either_once_it_is_old():
    old = (evidence(total=20_000, bad=232, stable_bad=200, ends=LONG_AGO), evidence(LATENCY, ends=LONG_AGO))
    for write in only(
        WriteRelease, decide(since_long_ago(Phase.CANARY, budget={"errors": 30.0}), observed(evidence=old), RULES, NOW)
    ):
        assert write.release.phase is not Phase.ROLLING_BACK


# --- inconclusive, and no metrics ---------------------------------------------------------------------------------


def test_rule_4_where_the_policy_says_so_a_rollout_without_metrics_is_taken_back_and_nobody_is_blamed():
    rules = ruled(on_metrics_down="rollback")
    frozen = decide(in_phase(Phase.CANARY), observed(evidence=AWAY, unavailable_since=NOW - MINUTE), rules, NOW)
    assert not only(WriteRelease, frozen)
    facts = observed(evidence=AWAY, unavailable_since=NOW - POLICY.metrics_deadline)
    release = written(decide(in_phase(Phase.CANARY), facts, rules, NOW))
    assert (release.phase, release.weight_percent, release.quarantine) == (Phase.ROLLING_BACK, 0, ())
    assert release.rollout.cause.kind is CauseKind.NO_METRICS


RULES_5 = ruled(step=Bake(min_duration=MINUTE, max_duration=5 * MINUTE))
IF_EQUAL = ruled(on_inconclusive="promote_if_stable_equal", step=Bake(min_duration=MINUTE, max_duration=5 * MINUTE))


def test_rule_3_an_inconclusive_step_pauses_where_the_candidate_is_not_proved_equal_to_stable():
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=THIN), IF_EQUAL, NOW))
    assert (release.phase, release.weight_percent) == (Phase.PAUSED, 10)


def measure(**fields) -> Measure:
    known = {"objective": "errors", "sli": Sli.ERRORS, "allowed": 0.01, "query": "x", "step_total": 900.0}
    return Measure(**{**known, "harm_slo": -0.4, "harm_stable": -0.1, "proof": 0.3, "equal": 2.1, **fields})


@pytest.mark.parametrize(
    ("fields", "good"),
    [
        ({}, True),
        ({"equal": 1.9}, False),
        ({"equal": None, "proof": 2.0}, True),
        ({"equal": None, "proof": None}, False),
        ({"equal": 0.0, "proved_at": NOW}, True),
        ({"harm_stable": 0.1}, False),
        ({"harm_slo": 0.0}, True),
        ({"harm_slo": 0.01}, False),
        ({"harm_stable": None}, True),
        ({"harm_slo": None, "harm_stable": None}, False),
        ({"step_total": 0.0}, False),
        ({"step_total": 0.0, "sli": Sli.AGREEMENT}, True),
        ({"trouble": "stale"}, False),
    ],
)
def test_rule_3_as_good_as_stable_is_proved_or_equal_measured_in_this_step_and_without_harm(fields, good):
    verdict = Verdict(kind=VerdictKind.INSUFFICIENT, reasons=("x",), measures=(measure(), measure(**fields)))
    assert is_as_good_as_stable(verdict, POLICY) is good
    assert -math.log10(POLICY.beta) == 2
    assert not is_as_good_as_stable(dataclasses.replace(verdict, measures=()), POLICY)


def test_rule_3_where_the_policy_says_so_what_is_as_good_as_stable_goes_on_at_the_steps_end_and_says_why():
    """Proved in shadow; then five bad answers of a hundred in this step: too suspicious for a PASS, and no harm."""
    shadow = evidence(total=40_000, bad=40, stable_bad=40, minutes=1, ends=NOW - 6 * MINUTE)
    step = evidence(total=100, bad=5)
    seen = (dataclasses.replace(step, bins=(*shadow.bins, *step.bins)),)
    assert written(decide(in_phase(Phase.CANARY), observed(evidence=seen), RULES_5, NOW)).phase is Phase.PAUSED
    (write,) = only(WriteRelease, decide(in_phase(Phase.CANARY), observed(evidence=seen), IF_EQUAL, NOW))
    assert (write.release.phase, write.release.weight_percent) == (Phase.CANARY, 25)
    assert "no PASS after 6 min, but the candidate is as good as stable and shows no harm" in write.reasons[0]
    assert write.release.rollout.records[-2].verdict is VerdictKind.INSUFFICIENT
    over = dataclasses.replace(IF_EQUAL, policy=dataclasses.replace(IF_EQUAL.policy, max_duration=5 * MINUTE))
    assert written(decide(in_phase(Phase.CANARY), observed(evidence=seen), over, NOW)).phase is Phase.PAUSED
