"""The rules at the top of policies/rollout.py: facts in, actions out. Each test carries its rule's number."""

from __future__ import annotations

import dataclasses

import pytest

from policies.actions import Annotate, RemoveRelease, Restore, Wait, WriteHistory, WriteRelease
from policies.application import Settings
from policies.convergence import Failed, Starting
from policies.documents import Bake, Trigger
from policies.facts import Signal
from policies.observations import Artifact, RegisteredVersion
from policies.release import Ask, Cause, CauseKind, Outcome, Phase, Quarantined, Release, Wish
from policies.rollout import TRANSITIONS, decide
from policies.stored_documents import parse_release, release_text
from policies.verdict import VerdictKind
from tests.unit.releases import (
    AWAY,
    FAILING,
    HEALTHY,
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


# --- the way up -------------------------------------------------------------------------------------------------


def test_a_version_that_enters_the_trigger_starts_a_rollout():
    release = written(decide(steady(1), observed(), RULES, NOW))
    assert (release.phase, release.candidate, release.weight_percent) == (Phase.WARMING, application(2), 0)
    assert (release.stable, release.seen, release.revision) == (application(1), (1, 2), 1)


def test_a_first_version_takes_the_route_once_it_is_warm():
    first = written(decide(steady(None), observed(versions(v1="Production")), RULES, NOW))
    assert (first.phase, first.stable) == (Phase.WARMING, None)
    warm = written(decide(first, observed(versions(v1="Production")), RULES, NOW))
    assert (warm.phase, warm.weight_percent) == (Phase.SETTLING, 100)


def test_a_warm_candidate_goes_to_shadow_first():
    assert written(decide(in_phase(Phase.WARMING), observed(), RULES, NOW)).phase is Phase.SHADOW


def test_without_a_shadow_step_a_warm_candidate_goes_to_the_first_share():
    release = written(decide(in_phase(Phase.WARMING), observed(), ruled(shadow=None), NOW))
    assert (release.phase, release.weight_percent) == (Phase.CANARY, 5)


def test_without_any_step_a_warm_candidate_settles():
    release = written(decide(in_phase(Phase.WARMING), observed(), ruled(shadow=None, steps=()), NOW))
    assert (release.phase, release.weight_percent) == (Phase.SETTLING, 100)


def test_pass_in_shadow_moves_to_the_first_share():
    release = written(decide(in_phase(Phase.SHADOW), observed(evidence=HEALTHY), RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.CANARY, 5)
    assert release.rollout.records[-2].verdict is VerdictKind.PASS


def test_pass_at_a_share_moves_to_the_next():
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=HEALTHY), RULES, NOW))
    assert (release.phase, release.weight_percent, release.rollout.step) == (Phase.CANARY, 25, 2)


def test_pass_at_the_last_share_settles_at_100():
    last = rolling(Phase.CANARY, weight=50, step=3)
    release = written(decide(last, observed(evidence=HEALTHY), RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.SETTLING, 100)


def test_settled_makes_the_candidate_stable_and_writes_its_history():
    actions = decide(in_phase(Phase.SETTLING), observed(evidence=HEALTHY), RULES, NOW)
    release = written(actions)
    assert (release.phase, release.stable, release.candidate) == (Phase.STEADY, application(2), None)
    (history,) = only(WriteHistory, actions)
    assert (history.record.outcome, history.record.version, history.record.stable_version) == (Outcome.PROMOTED, 2, 1)
    assert history.record.phases[-1].until == NOW


# --- the rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", WITH_TRAFFIC)
@pytest.mark.parametrize("out_of_place", ["", "host: not in place"])
def test_rule_1_fail_acts_at_once_in_every_phase_that_has_traffic(phase, out_of_place):
    facts = observed(evidence=FAILING, out_of_place=out_of_place)
    release = written(decide(in_phase(phase), facts, RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.ROLLING_BACK, 0)
    assert release.rollout.cause.kind is CauseKind.FAILED
    assert [(q.version, q.digest) for q in release.quarantine] == [(2, digest(2))]


def test_rule_2_a_step_does_not_pass_before_its_minimum_time():
    actions = decide(in_phase(Phase.CANARY), observed(evidence=HEALTHY), ruled(step=Bake(min_duration=7 * MINUTE)), NOW)
    (wait,) = only(Wait, actions)
    assert not only(WriteRelease, actions)
    assert wait.until == NOW + MINUTE


def test_rule_2_a_step_does_not_pass_before_its_minimum_of_requests():
    actions = decide(in_phase(Phase.CANARY), observed(evidence=HEALTHY), ruled(step=Bake(min_requests=2001)), NOW)
    assert not only(WriteRelease, actions)
    assert "of at least 2,001 requests" in reason(actions)


def test_rule_2_a_step_is_measured_from_when_its_weight_was_live_not_from_the_commit():
    actions = decide(rolling(Phase.CANARY, weight=10, step=1, live=False), observed(evidence=HEALTHY), RULES, NOW)
    release = written(actions)
    assert (release.phase, release.weight_percent) == (Phase.CANARY, 10)
    assert release.rollout.current.live_since == NOW


def test_rule_2_insufficient_evidence_is_not_a_pass():
    actions = decide(in_phase(Phase.CANARY), observed(evidence=THIN), ruled(step=Bake(min_requests=0)), NOW)
    assert not only(WriteRelease, actions)


def test_rule_3_an_inconclusive_step_pauses_with_its_weight():
    rules = ruled(step=Bake(min_duration=MINUTE, max_duration=5 * MINUTE))
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=THIN), rules, NOW))
    assert (release.phase, release.weight_percent) == (Phase.PAUSED, 10)
    assert release.rollout.cause.kind is CauseKind.INCONCLUSIVE
    assert not release.quarantine


def test_rule_3_an_inconclusive_step_rolls_back_where_the_policy_says_so():
    rules = ruled(step=Bake(min_duration=MINUTE, max_duration=5 * MINUTE), on_inconclusive="rollback")
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=THIN), rules, NOW))
    assert (release.phase, release.weight_percent) == (Phase.ROLLING_BACK, 0)


def test_rule_3_the_whole_rollout_has_a_maximum_too():
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=THIN), ruled(max_duration=5 * MINUTE), NOW))
    assert release.phase is Phase.PAUSED


def test_rule_3_past_the_rollouts_maximum_nothing_resumes_by_itself_and_nothing_flaps():
    rules = ruled(max_duration=5 * MINUTE)
    paused = written(decide(in_phase(Phase.CANARY), observed(evidence=THIN), rules, NOW))
    actions = decide(paused, observed(evidence=HEALTHY), rules, NOW + MINUTE)
    assert not only(WriteRelease, actions)
    (wait,) = only(Wait, actions)
    assert wait.reason.startswith("paused: inconclusive after ")
    assert wait.ends == "a person resumes, promotes or aborts it, or it does harm"


def test_rule_3_a_person_who_resumes_gives_the_rollout_its_whole_time_again():
    rules = ruled(max_duration=5 * MINUTE)
    paused = written(decide(in_phase(Phase.CANARY), observed(evidence=THIN), rules, NOW))
    asked = dataclasses.replace(paused, ask=Ask(wish=Wish.RESUME, by="ada", why="more traffic now"))
    resumed = written(decide(asked, observed(evidence=THIN), rules, NOW + MINUTE))
    assert (resumed.phase, resumed.rollout.clock_since) == (Phase.CANARY, NOW + MINUTE)
    assert not only(WriteRelease, decide(resumed, observed(evidence=THIN), rules, NOW + 2 * MINUTE))


def test_rule_3_a_pause_does_not_use_up_the_rollouts_time():
    hours = 8 * 60 * MINUTE
    paused = in_phase(Phase.PAUSED)
    assert paused.rollout.lasted(NOW) == paused.rollout.lasted(NOW + hours)


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.SETTLING])
def test_rule_4_unavailable_freezes_and_says_until_when(phase):
    facts = observed(evidence=AWAY, unavailable_since=NOW - MINUTE)
    actions = decide(in_phase(phase), facts, RULES, NOW)
    (wait,) = only(Wait, actions)
    assert not only(WriteRelease, actions)
    assert "Prometheus did not answer" in wait.reason
    assert wait.until == NOW - MINUTE + POLICY.metrics_deadline


def test_rule_4_unavailable_past_its_deadline_pauses_and_blames_nobody():
    facts = observed(evidence=AWAY, unavailable_since=NOW - 11 * MINUTE)
    release = written(decide(in_phase(Phase.CANARY), facts, RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.PAUSED, 10)
    assert release.rollout.cause.kind is CauseKind.NO_METRICS
    assert not release.quarantine


def test_rule_5_git_does_not_move_up_before_ray_matches():
    actions = decide(in_phase(Phase.CANARY), observed(evidence=HEALTHY, out_of_place="host: UPDATING"), RULES, NOW)
    assert not only(WriteRelease, actions)
    assert "host: UPDATING" in reason(actions)


def test_rule_5_no_rollout_starts_before_ray_matches():
    actions = decide(steady(1), observed(out_of_place="fraud--v1: UNHEALTHY"), RULES, NOW)
    assert not only(WriteRelease, actions)
    assert "first Ray must match Git" in reason(actions)


def test_rule_6_ray_that_stays_out_of_place_after_weights_were_live_pauses_and_goes_on_when_it_is_back():
    rules = ruled(step=Bake(min_duration=MINUTE, max_duration=5 * MINUTE))
    facts = observed(out_of_place="Ray cannot be seen: no answer", evidence=HEALTHY)
    release = written(decide(in_phase(Phase.CANARY), facts, rules, NOW))
    assert (release.phase, release.weight_percent, release.quarantine) == (Phase.PAUSED, 10, ())
    assert "Ray cannot be seen" in release.rollout.cause.reasons[0]
    again = written(decide(release, observed(evidence=THIN), rules, NOW))
    assert (again.phase, again.weight_percent) == (Phase.CANARY, 10)


def test_new_settings_for_a_stable_version_that_was_deleted_wait_and_say_so():
    actions = decide(steady(1), observed({}), ruled(settings=Settings(cpus=2)), NOW)
    assert "not in the registry any more" in reason(actions)


def test_rule_6_a_candidate_that_never_gets_ready_is_rolled_back():
    facts = observed(candidate=Starting(reason="DEPLOYING"), out_of_place="fraud--v2: DEPLOYING")
    release = written(decide(in_phase(Phase.WARMING), facts, ruled(ready_deadline=5 * MINUTE), NOW))
    assert (release.phase, release.rollout.cause.kind) == (Phase.ROLLING_BACK, CauseKind.NOT_READY)
    assert release.quarantine[0].version == 2


def test_rule_6_a_cluster_that_is_away_is_not_the_versions_fault():
    facts = observed(candidate=Starting(reason="?"), out_of_place="Ray cannot be seen", runtime_reason="no answer")
    release = written(decide(in_phase(Phase.WARMING), facts, ruled(ready_deadline=5 * MINUTE), NOW))
    assert (release.phase, release.quarantine) == (Phase.PAUSED, ())


def test_rule_6_a_candidate_is_not_to_blame_for_a_time_in_which_nobody_told_ray_to_start_it():
    """The process was away, or Git was, when its deadline passed."""
    facts = observed(candidate=Starting(reason="not in Ray"), out_of_place="not in Ray", warming_since=NOW - MINUTE)
    actions = decide(in_phase(Phase.WARMING), facts, ruled(ready_deadline=5 * MINUTE), NOW)
    (wait,) = only(Wait, actions)
    assert not only(WriteRelease, actions)
    assert wait.until == NOW + 4 * MINUTE


def test_rule_6_a_warm_candidate_is_not_to_blame_for_its_host():
    facts = observed(out_of_place="fraud--v1: deployment Model is UNHEALTHY")
    release = written(decide(in_phase(Phase.WARMING), facts, ruled(ready_deadline=5 * MINUTE), NOW))
    assert (release.phase, release.rollout.paused_from, release.quarantine) == (Phase.PAUSED, Phase.WARMING, ())


def test_rule_6_a_candidate_that_cannot_start_is_rolled_back_at_once():
    facts = observed(candidate=Failed(message="ImportError: no module named x"), out_of_place="DEPLOY_FAILED")
    release = written(decide(in_phase(Phase.WARMING), facts, RULES, NOW))
    assert release.phase is Phase.ROLLING_BACK
    assert "no module named x" in release.rollout.cause.reasons[0]


@pytest.mark.parametrize("message", ["x" * 3_000_000, "half a character: \ud800", "NUL \0 and \x1b[31mred\x1b[0m"])
def test_rule_6_whatever_serve_says_of_a_failed_start_can_be_written_and_read(message):
    actions = decide(in_phase(Phase.WARMING), observed(candidate=Failed(message=message)), RULES, NOW)
    release = written(actions)
    assert parse_release(release_text(release)) == release
    assert len(release_text(release)) < 20_000


def test_rule_6_weights_that_never_get_in_place_pause():
    late = rolling(Phase.CANARY, weight=10, step=1, live=False)
    release = written(decide(late, observed(out_of_place="UPDATING"), ruled(ready_deadline=5 * MINUTE), NOW))
    assert (release.phase, release.rollout.paused_from) == (Phase.PAUSED, Phase.CANARY)


def test_rule_7_a_newer_version_queues_and_stable_does_not_change():
    facts = observed(versions(v1="Production", v2="Production", v3="Production"), evidence=THIN)
    release = written(decide(in_phase(Phase.CANARY), facts, RULES, NOW))
    assert (release.phase, release.queued, release.seen) == (Phase.CANARY, 3, (1, 2, 3))
    assert release.stable == application(1)


def test_rule_7_the_candidate_that_a_newer_version_pushed_out_goes_on():
    facts = observed(versions(v1="Archived", v2="Archived", v3="Production"), evidence=THIN)
    release = written(decide(in_phase(Phase.CANARY), facts, RULES, NOW))
    assert (release.phase, release.queued) == (Phase.CANARY, 3)
    again = decide(release, facts, RULES, NOW)
    assert not only(WriteRelease, again)


def test_rule_7_the_queued_version_starts_when_the_rollout_has_ended():
    waiting = steady(2, queued=3, seen=(2, 3))
    release = written(decide(waiting, observed(versions(v2="Production", v3="Production")), RULES, NOW))
    assert (release.phase, release.candidate.version, release.queued) == (Phase.WARMING, 3, None)


def test_rule_7_the_candidate_that_is_entered_again_after_it_was_pushed_out_is_not_queued_behind_itself():
    """It would start once more, and lift its own quarantine, after it failed."""
    pushed_out = in_phase(Phase.CANARY, seen=(3,), queued=3)
    back = versions(v1="Archived", v2="Production", v3="Archived")
    release = written(decide(pushed_out, observed(back, evidence=THIN), ruled(on_rollback="annotate"), NOW))
    assert (release.phase, release.queued, release.seen) == (Phase.CANARY, None, (2,))


def test_rule_7_the_candidate_that_is_entered_again_while_it_goes_back_is_tried_again():
    cause = Cause(kind=CauseKind.FAILED, reasons=("harm",))
    going = rolling(Phase.ROLLING_BACK, cause=cause, seen=(3,), queued=3)
    facts = observed(versions(v1="Archived", v2="Production", v3="Archived"))
    actions = decide(going, facts, RULES, NOW)
    ended = written(actions)
    assert not only(Restore, actions)
    assert (ended.phase, ended.queued) == (Phase.STEADY, 2)
    assert written(decide(ended, facts, RULES, NOW)).candidate.version == 2


@pytest.mark.parametrize("phase", [Phase.WARMING, *WITH_TRAFFIC])
def test_rule_8_a_person_who_takes_the_candidate_out_while_another_is_queued_aborts_it_and_the_other_is_next(phase):
    both = in_phase(phase, seen=(1, 2, 3), queued=3)
    facts = observed(versions(v1="Production", v2="Archived", v3="Production"), evidence=THIN)
    release = written(decide(both, facts, RULES, NOW))
    assert (release.phase, release.queued) == (Phase.ROLLING_BACK, 3)
    assert release.rollout.cause.kind is CauseKind.WITHDRAWN


@pytest.mark.parametrize("phase", [Phase.WARMING, *WITH_TRAFFIC])
def test_rule_8_a_person_who_takes_the_candidate_out_aborts_without_quarantine(phase):
    release = written(decide(in_phase(phase), observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert (release.phase, release.weight_percent, release.quarantine) == (Phase.ROLLING_BACK, 0, ())
    assert release.rollout.cause.kind is CauseKind.WITHDRAWN


def test_rule_8_an_alias_that_goes_back_to_stable_takes_the_candidate_out_at_once():
    facts = observed({1: RegisteredVersion(number=1, stage="None", aliases=frozenset({"champion"}))}, evidence=THIN)
    rules = ruled(trigger=Trigger(alias="champion"))
    release = written(decide(in_phase(Phase.CANARY, seen=(2,)), facts, rules, NOW))
    assert (release.phase, release.rollout.cause.kind) == (Phase.ROLLING_BACK, CauseKind.WITHDRAWN)


def test_rule_8_an_abort_by_a_person_does_not_move_the_registry_back():
    release = written(decide(in_phase(Phase.CANARY), observed(versions(v1="Archived", v2="Staging")), RULES, NOW))
    later = decide(release, observed(versions(v1="Archived", v2="Staging")), RULES, NOW)
    assert not only(Restore, later)


def test_rule_9_a_rollback_is_never_rolled_back():
    left = {signal for phase, signal in TRANSITIONS if phase is Phase.ROLLING_BACK}
    assert left == {Signal.LIVE, Signal.ENDED}


def test_rule_9_without_stable_a_failed_first_version_stops_at_0():
    first = rolling(Phase.SETTLING, weight=100, stable=None, candidate=application(1), seen=(1,))
    release = written(decide(first, observed(versions(v1="Production"), evidence=FAILING), RULES, NOW))
    assert (release.phase, release.weight_percent, release.stable) == (Phase.ROLLING_BACK, 0, None)


def test_rule_10_a_pause_for_want_of_metrics_ends_when_they_return():
    cause = Cause(kind=CauseKind.NO_METRICS, reasons=("no answer",))
    paused = rolling(Phase.PAUSED, weight=10, step=1, paused_from=Phase.CANARY, cause=cause)
    assert "no answer" in reason(decide(paused, observed(evidence=AWAY), RULES, NOW))
    release = written(decide(paused, observed(evidence=THIN), RULES, NOW))
    assert (release.phase, release.weight_percent, release.rollout.step) == (Phase.CANARY, 10, 1)
    assert release.rollout.current.live_since == NOW


@pytest.mark.parametrize("steps", [(20, 50), (1,), ()])
def test_rule_10_what_goes_on_after_a_pause_has_the_weight_it_had_whatever_the_steps_are_by_now(steps):
    cause = Cause(kind=CauseKind.NO_METRICS, reasons=("no answer",))
    paused = rolling(Phase.PAUSED, weight=10, step=1, paused_from=Phase.CANARY, cause=cause)
    release = written(decide(paused, observed(evidence=THIN), ruled(steps=steps), NOW))
    assert (release.phase, release.weight_percent) == (Phase.CANARY, 10)


@pytest.mark.parametrize(
    ("steps", "phase", "weight"),
    [((5, 7, 30), Phase.CANARY, 30), ((20, 50), Phase.CANARY, 20), ((5, 7), Phase.SETTLING, 100)],
)
def test_rule_2_a_pass_leads_to_the_next_higher_share_of_steps_that_were_changed_meanwhile(steps, phase, weight):
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=HEALTHY), ruled(steps=steps), NOW))
    assert (release.phase, release.weight_percent) == (phase, weight)


def test_rule_10_an_inconclusive_pause_does_not_end_while_the_requests_of_a_step_are_lacking():
    """It would only become inconclusive again, for hours."""
    cause = Cause(kind=CauseKind.INCONCLUSIVE, reasons=("too few requests",))
    paused = rolling(Phase.PAUSED, weight=10, step=1, paused_from=Phase.CANARY, cause=cause)
    facts = observed(evidence=HEALTHY)
    assert not only(WriteRelease, decide(paused, facts, ruled(step=Bake(min_requests=2001)), NOW))
    assert written(decide(paused, facts, ruled(step=Bake(min_requests=1900)), NOW)).phase is Phase.CANARY


def test_rule_10_an_inconclusive_pause_ends_with_pass():
    cause = Cause(kind=CauseKind.INCONCLUSIVE, reasons=("too few requests",))
    paused = rolling(Phase.PAUSED, weight=10, step=1, paused_from=Phase.CANARY, cause=cause)
    assert not only(WriteRelease, decide(paused, observed(evidence=THIN), RULES, NOW))
    assert written(decide(paused, observed(evidence=HEALTHY), RULES, NOW)).phase is Phase.CANARY


def test_rule_10_a_pause_that_a_person_asked_for_waits_for_a_person():
    paused = in_phase(Phase.PAUSED)
    assert not only(WriteRelease, decide(paused, observed(evidence=HEALTHY), RULES, NOW))
    asked = dataclasses.replace(paused, ask=Ask(wish=Wish.RESUME, by="ada", why="checked by hand"))
    release = written(decide(asked, observed(evidence=HEALTHY), RULES, NOW))
    assert (release.phase, release.ask) == (Phase.CANARY, None)


@pytest.mark.parametrize("phase", [Phase.WARMING, *WITH_TRAFFIC])
def test_rule_10_a_person_can_abort_in_every_phase(phase):
    asked = in_phase(phase, ask=Ask(wish=Wish.ABORT, by="ada", why="wrong features"))
    release = written(decide(asked, observed(evidence=HEALTHY), RULES, NOW))
    assert (release.phase, release.quarantine) == (Phase.ROLLING_BACK, ())


def test_rule_11_a_promotion_that_is_taken_back_ends_the_rollout_and_is_not_tried_again():
    promoted = steady(2, revision=12, seen=(1, 2))
    reverted = in_phase(Phase.SETTLING, revision=11)
    facts = observed(evidence=HEALTHY, taken_back_from=promoted, taken_back_by="ada")
    release = written(decide(reverted, facts, RULES, NOW))
    assert (release.phase, release.stable, release.revision) == (Phase.ROLLING_BACK, application(1), 13)
    ended = dataclasses.replace(release, phase=Phase.STEADY, candidate=None, rollout=None)
    assert not only(WriteRelease, decide(ended, observed(), RULES, NOW))


def test_rule_11_a_step_that_is_taken_back_pauses():
    ahead = rolling(Phase.CANARY, weight=25, step=2, revision=9)
    back = rolling(Phase.CANARY, weight=10, step=1, revision=8)
    facts = observed(evidence=HEALTHY, taken_back_from=ahead, taken_back_by="ada")
    release = written(decide(back, facts, RULES, NOW))
    assert (release.phase, release.weight_percent, release.revision) == (Phase.PAUSED, 10, 10)


def test_rule_11_a_rollback_that_is_taken_back_does_not_bring_the_bad_version_back():
    entry = Quarantined(
        version=2, digest=digest(2), build=application(2).build, rollout="r1", since=NOW, reasons=("bad",)
    )
    before = steady(1, revision=12, quarantine=(entry,), seen=(1,))
    facts = observed(evidence=HEALTHY, taken_back_from=before, taken_back_by="ada")
    release = written(decide(in_phase(Phase.CANARY, revision=9), facts, RULES, NOW))
    assert release.phase is Phase.ROLLING_BACK
    assert release.quarantine == (entry,)


def test_rule_11_taking_back_to_steady_takes_a_higher_revision_and_forgets_nothing_seen():
    before = in_phase(Phase.CANARY, revision=9)
    facts = observed(taken_back_from=before, taken_back_by="ada")
    release = written(decide(steady(1, revision=3), facts, RULES, NOW))
    assert (release.phase, release.revision, release.seen) == (Phase.STEADY, 10, (1, 2))


@pytest.mark.parametrize("registry", [{}, versions(v1="Archived"), None])
def test_rule_12_an_empty_trigger_or_registry_leaves_stable_alone(registry):
    facts = observed({}, registry_reason="down") if registry is None else observed(registry)
    facts = dataclasses.replace(facts, versions=registry)
    for write in only(WriteRelease, decide(steady(1), facts, RULES, NOW)):
        assert (write.release.phase, write.release.stable) == (Phase.STEADY, application(1))


HELD = Cause(kind=CauseKind.GUARD, reasons=("stopped at 12:00 without a commit", "3 of 3 requests failed"))


@pytest.mark.parametrize("phase", WITH_TRAFFIC)
@pytest.mark.parametrize("wish", [None, Wish.PAUSE, Wish.RESUME])
def test_rule_13_what_is_held_in_ray_is_a_rollback_still_to_be_recorded_whatever_else_is_so(phase, wish):
    asked = Ask(wish=wish, by="Ada", why="because") if wish else None
    release = written(decide(in_phase(phase, ask=asked), observed(evidence=HEALTHY, held=HELD), RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.ROLLING_BACK, 0)
    assert release.rollout.cause == HELD
    assert [q.version for q in release.quarantine] == [2]


def test_rule_13_the_evidence_tells_more_than_the_hold():
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=FAILING, held=HELD), RULES, NOW))
    assert release.rollout.cause.kind is CauseKind.FAILED
    assert "e-value" in release.rollout.cause.reasons[0]
    assert release.rollout.cause.reasons[-1] == HELD.reasons[0]


def test_rule_13_a_commit_that_takes_a_step_back_does_not_lift_a_hold():
    before = dataclasses.replace(in_phase(Phase.CANARY), weight_percent=50, revision=9)
    facts = observed(evidence=HEALTHY, taken_back_from=before, taken_back_by="Ada", held=HELD, known_revision=109)
    release = written(decide(in_phase(Phase.CANARY), facts, RULES, NOW))
    assert release.phase is Phase.ROLLING_BACK
    assert release.traffic_revision > 109


# --- going back ---------------------------------------------------------------------------------------------------


def rolled_back(**fields) -> Release:
    cause = Cause(kind=CauseKind.FAILED, reasons=("errors 300 of 2,000",))
    return rolling(Phase.ROLLING_BACK, cause=cause, **fields)


def test_a_rollback_moves_the_registry_back_and_waits_for_it():
    actions = decide(rolled_back(), observed(), RULES, NOW)
    (restore,) = only(Restore, actions)
    assert (restore.candidate, restore.stable) == (2, 1)
    assert not only(WriteRelease, actions)


def test_a_rollback_ends_when_the_registry_agrees():
    actions = decide(rolled_back(), observed(versions(v1="Production", v2="Archived")), RULES, NOW)
    assert written(actions).phase is Phase.STEADY
    (history,) = only(WriteHistory, actions)
    assert history.record.outcome is Outcome.ROLLED_BACK


def test_a_rollback_ends_without_the_registry_past_its_deadline():
    facts = dataclasses.replace(observed(), versions=None, registry_reason="down")
    release = written(decide(rolled_back(), facts, ruled(registry_deadline=5 * MINUTE), NOW))
    assert release.phase is Phase.STEADY


def test_a_rollback_only_annotates_where_the_environment_says_so():
    actions = decide(rolled_back(), observed(), ruled(on_rollback="annotate"), NOW)
    assert written(actions).phase is Phase.STEADY
    assert not only(Restore, actions)


def test_what_was_rolled_back_stays_down_while_it_stays_at_the_trigger():
    entry = Quarantined(version=2, digest=digest(2), build="b", rollout="r1", since=NOW, reasons=("bad",))
    actions = decide(steady(1, seen=(1, 2), quarantine=(entry,)), observed(), RULES, NOW)
    assert not only(WriteRelease, actions)


def test_the_same_digest_under_another_number_is_refused():
    entry = Quarantined(version=2, digest=digest(3), build="b", rollout="r1", since=NOW, reasons=("bad",))
    facts = observed(versions(v1="Production", v3="Production"))
    actions = decide(steady(1, quarantine=(entry,)), facts, RULES, NOW)
    release = written(actions)
    assert (release.phase, release.refused[0].version) == (Phase.STEADY, 3)
    assert "rolled back" in reason(actions)
    assert not only(WriteRelease, decide(release, facts, RULES, NOW))


def test_a_quarantined_version_that_left_and_entered_again_is_tried_again():
    entry = Quarantined(version=2, digest=digest(2), build="b", rollout="r1", since=NOW, reasons=("bad",))
    release = written(decide(steady(1, quarantine=(entry,)), observed(), RULES, NOW))
    assert (release.phase, release.quarantine) == (Phase.WARMING, ())


def test_packages_that_replicas_could_not_run_with_are_refused_before_anything_is_deployed():
    wants = Artifact(digest=digest(2), requirements=("pydantic==1.10.2", "numpy"))
    seen = observed(artifacts={2: wants})
    installs = dataclasses.replace(RULES, settings=Settings(environment="pip"))
    refused = written(decide(steady(1), seen, installs, NOW))
    assert (refused.phase, refused.candidate, refused.refused[0].version) == (Phase.STEADY, None, 2)
    assert "pydantic==1.10.2, and replicas need pydantic" in refused.refused[0].reason


def test_a_version_that_serves_with_the_clusters_packages_is_not_asked_what_it_needs():
    wants = Artifact(digest=digest(2), requirements=("pydantic==1.10.2",))
    started = written(decide(steady(1), observed(artifacts={2: wants}), RULES, NOW))
    assert started.candidate == application(2)


def test_what_a_version_asks_for_is_frozen_when_it_starts():
    wants = Artifact(digest=digest(2), requirements=("own==1",))
    installs = dataclasses.replace(RULES, settings=Settings(environment="uv"))
    started = written(decide(steady(1), observed(artifacts={2: wants}), installs, NOW))
    assert started.candidate is not None
    assert started.candidate.requirements == ("own==1",)


def test_two_versions_that_enter_at_once_are_refused_in_words():
    facts = observed(versions(v1="Production", v2="Production", v3="Production"))
    actions = decide(steady(1), facts, RULES, NOW)
    assert not only(WriteRelease, actions)
    assert "v2 and v3" in reason(actions)
    resolved = observed(versions(v1="Production", v2="Archived", v3="Production"))
    assert written(decide(steady(1), resolved, RULES, NOW)).candidate.version == 3


def test_new_settings_are_a_rollout_of_the_same_version():
    rules = ruled(settings=Settings(cpus=2))
    release = written(decide(steady(1), observed(versions(v1="Production")), rules, NOW))
    assert release.candidate == application(1, cpus=2)
    assert release.candidate.build != release.stable.build


def test_new_settings_that_were_rolled_back_are_not_tried_again():
    wide = application(1, cpus=2)
    entry = Quarantined(version=1, digest=digest(1), build=wide.build, rollout="r", since=NOW, reasons=("bad",))
    rules = ruled(settings=Settings(cpus=2))
    actions = decide(steady(1, quarantine=(entry,)), observed(versions(v1="Production")), rules, NOW)
    assert not only(WriteRelease, actions)
    assert "not tried again" in reason(actions)


def test_a_removed_document_removes_the_release():
    actions = decide(steady(1), observed(), ruled(settings=None), NOW)
    assert [type(a) for a in actions] == [RemoveRelease]


def test_the_registry_is_told_what_a_version_is():
    actions = decide(steady(1), observed(versions(v1="Production")), RULES, NOW)
    (tags,) = only(Annotate, actions)
    assert (tags.version, tags.tags) == (1, {"sluice.production.phase": "STABLE"})


def test_a_look_at_unchanged_facts_changes_nothing():
    registry = {
        n: dataclasses.replace(v, tags={"sluice.production.phase": "STABLE"})
        for n, v in versions(v1="Production").items()
    }
    assert [type(a) for a in decide(steady(1), observed(registry), RULES, NOW)] == [Wait]


def test_every_phase_can_be_left_and_reached():
    assert {phase for phase, _ in TRANSITIONS} == set(Phase)
    assert set(TRANSITIONS.values()) == set(Phase)


def test_a_paused_release_is_still_judged_and_its_evidence_can_be_harm():
    bad = decide(in_phase(Phase.PAUSED), observed(evidence=(evidence(bad=400),)), RULES, NOW)
    assert written(bad).phase is Phase.ROLLING_BACK


@pytest.mark.parametrize("how", ["asked", "reverted"])
def test_rule_10_a_pause_that_would_end_by_itself_waits_once_a_person_wants_it_so(how):
    cause = Cause(kind=CauseKind.NO_METRICS, reasons=("no answer",))
    ask = Ask(wish=Wish.PAUSE, by="Ada", why="a sale") if how == "asked" else None
    paused = rolling(Phase.PAUSED, weight=10, step=1, paused_from=Phase.CANARY, cause=cause, ask=ask)
    before = None if how == "asked" else rolling(Phase.CANARY, weight=10, step=1, revision=9)
    facts = observed(evidence=THIN, taken_back_from=before, taken_back_by="Ada")
    held = written(decide(paused, facts, RULES, NOW))
    assert (held.phase, held.weight_percent, held.rollout.paused_from) == (Phase.PAUSED, 10, Phase.CANARY)
    assert not only(WriteRelease, decide(held, observed(evidence=HEALTHY), RULES, NOW))
    resumed = dataclasses.replace(held, ask=Ask(wish=Wish.RESUME, by="Ada", why="over"))
    assert written(decide(resumed, observed(evidence=THIN), RULES, NOW)).phase is Phase.CANARY


# --- new settings for the version that serves ---------------------------------------------------------------------


def new_settings(phase: Phase, **fields) -> Release:
    weight = 10 if phase is Phase.CANARY else 0
    return rolling(phase, weight=weight, step=1, candidate=application(1, cpus=2), seen=(1,), **fields)


ONLY_V1 = versions(v1="Production")


@pytest.mark.parametrize("stop", ["abort", "revert"])
def test_new_settings_that_a_person_stopped_do_not_start_again_by_themselves(stop):
    rules = ruled(settings=Settings(cpus=2))
    asked = Ask(wish=Wish.ABORT, by="Ada", why="not now") if stop == "abort" else None
    rollout = new_settings(Phase.CANARY, ask=asked)
    before = None if stop == "abort" else steady(1, stable=application(1, cpus=2), revision=9)
    facts = observed(ONLY_V1, evidence=THIN, taken_back_from=before, taken_back_by="Ada")
    going = written(decide(rollout, facts, rules, NOW))
    live = written(decide(going, observed(ONLY_V1), rules, NOW))
    ended = written(decide(live, observed(ONLY_V1), rules, NOW))
    assert (ended.phase, ended.stable) == (Phase.STEADY, application(1))
    again = decide(ended, observed(ONLY_V1), rules, NOW)
    assert not only(WriteRelease, again)
    assert "not tried again" in reason(again)


def test_new_settings_that_were_stopped_are_tried_again_once_the_document_asked_for_others():
    entry = Quarantined(
        version=1, digest=digest(1), build=application(1, cpus=2).build, rollout="r1", since=NOW, reasons=("x",)
    )
    back = written(decide(steady(1, quarantine=(entry,)), observed(ONLY_V1), RULES, NOW))
    assert back.quarantine == ()
    assert not only(WriteRelease, decide(back, observed(ONLY_V1), RULES, NOW))
    assert written(decide(back, observed(ONLY_V1), ruled(settings=Settings(cpus=2)), NOW)).phase is Phase.WARMING


def test_settings_that_were_stopped_do_not_blame_their_version_once_another_serves():
    entry = Quarantined(
        version=1, digest=digest(1), build=application(1, cpus=2).build, rollout="r1", since=NOW, reasons=("x",)
    )
    settling = in_phase(Phase.SETTLING, quarantine=(entry,))
    release = written(decide(settling, observed(evidence=HEALTHY), RULES, NOW))
    assert (release.stable, release.quarantine) == (application(2), ())


# --- the registry after a rollback --------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "returns"), [("Production", None), ("Archived", 1), ("None", 1), ("Staging", 1)])
def test_a_rollback_in_staging_does_not_pull_its_stable_version_out_of_production(stage, returns):
    cause = Cause(kind=CauseKind.FAILED, reasons=("harm",))
    going = rolling(Phase.ROLLING_BACK, cause=cause, seen=(2,))
    rules = ruled(trigger=Trigger(stage="Staging"))
    (restore,) = only(Restore, decide(going, observed(versions(v1=stage, v2="Staging")), rules, NOW))
    assert (restore.candidate, restore.stable) == (2, returns)
