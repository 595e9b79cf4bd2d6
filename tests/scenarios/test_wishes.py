"""What people, newer versions, guards and burning services do to whole rollouts, each to its fixed point."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from pipelines.commands import explain
from pipelines.commands.asks import ask
from pipelines.commands.chart import PLAIN
from pipelines.commands.explain import chosen, rollouts
from pipelines.commands.views import finished, history_lines
from policies.errors import BadInput
from policies.release import CauseKind, Outcome, Phase, Purpose, Wish
from policies.starting import EMERGENCY_TAG
from policies.stored_documents import release_text
from tests.scenarios.test_whole_rollouts import assert_at_rest, serving, with_first
from tests.simulation.world import BAD, HEALTHY, MODEL, POLICY, World


def with_two() -> World:
    """v2 serves, v1 did before."""
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: serving(world, 2))
    return world


def stage(world: World, version: int) -> str:
    return world.versions[version].stage


def promised(world: World, text: str) -> None:
    """The policy `quick` says this too."""
    world.repo.person_commits({"policies/quick.yaml": POLICY % world.steps + text})


# --- two people at once -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [Wish.PROMOTE, Wish.RESUME, Wish.PAUSE])
def test_no_wish_takes_the_place_of_an_abort_that_waits_to_be_carried_out(other):
    """The reconciler looks every few seconds, and may be away: a leak that was stopped must not go to 100 %."""
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.CANARY)
    world.ask(Wish.ABORT)
    with pytest.raises(BadInput, match="waits for the next look, which carries out the wish of Ada to abort"):
        world.ask(other)
    world.run_until(lambda: serving(world, 1))
    assert world.outcomes()[-1] == (2, Outcome.ABORTED)


def test_a_pause_that_waits_is_not_replaced_by_a_promotion():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.CANARY)
    world.ask(Wish.PAUSE)
    with pytest.raises(BadInput, match="carries out the wish of Ada to pause"):
        world.ask(Wish.PROMOTE)


def test_an_abort_takes_the_place_of_a_pause_that_waits():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.CANARY)
    world.ask(Wish.PAUSE)
    world.ask(Wish.ABORT)
    world.run_until(lambda: serving(world, 1))
    assert world.outcomes()[-1] == (2, Outcome.ABORTED)


# --- undo ---------------------------------------------------------------------------------------------------------


def test_an_undo_goes_back_in_one_step_loses_no_request_and_the_registry_follows():
    world = with_two()
    lost = world.unanswered
    world.ask(Wish.UNDO)
    world.run_until(lambda: serving(world, 1))
    phases = [(record.phase, record.weight_percent) for record in world.history()[-1].phases]
    assert phases == [(Phase.WARMING, 0), (Phase.CANARY, 50), (Phase.SETTLING, 100)]
    assert (world.history()[-1].outcome, world.history()[-1].purpose) == (Outcome.PROMOTED, Purpose.UNDO)
    assert (stage(world, 1), stage(world, 2), world.unanswered) == ("Production", "Archived", lost)
    assert_at_rest(world)


@pytest.mark.parametrize("archive", [True, False])
def test_an_older_version_that_is_promoted_again_is_a_fast_undo(archive):
    world = with_two()
    world.promote(1, archive=archive)
    world.run_until(lambda: serving(world, 1))
    assert world.history()[-1].purpose is Purpose.UNDO
    assert Phase.SHADOW not in [record.phase for record in world.history()[-1].phases]
    assert_at_rest(world)


def test_an_undo_with_the_registry_away_serves_and_is_not_undone_when_it_returns():
    world = with_two()
    world.ask(Wish.UNDO)
    world.registry.away = "connection refused"
    world.run_until(lambda: serving(world, 1))
    world.registry.away = None
    world.pass_time(300)
    assert serving(world, 1)
    assert_at_rest(world)


def test_what_was_undone_comes_back_by_every_step():
    world = with_two()
    world.ask(Wish.UNDO)
    world.run_until(lambda: serving(world, 1))
    world.promote(2)
    world.run_until(lambda: serving(world, 2))
    assert world.history()[-1].purpose is None
    assert Phase.SHADOW in [record.phase for record in world.history()[-1].phases]
    assert_at_rest(world)


def test_the_start_of_an_undo_that_is_reverted_does_not_start_again():
    world = with_two()
    world.ask(Wish.UNDO)
    world.run_until(lambda: world.release.phase is Phase.WARMING)
    world.repo.revert(world.repo.branch_tip)
    world.pass_time(120)
    assert serving(world, 2)
    assert_at_rest(world)


# --- promote, retry, lift -----------------------------------------------------------------------------------------


def test_a_person_promotes_a_candidate_through_every_step_and_the_log_says_so():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.SHADOW)
    while not serving(world, 2):
        world.run_until(lambda: world.release.phase is not Phase.WARMING)
        if world.release.ask is None and world.release.rollout:
            world.ask(Wish.PROMOTE)
        world.step()
    subjects = [entry.subject for entry in world.repo.log(60)]
    assert any(s.endswith("v2 SHADOW -> CANARY 10 %, its analysis skipped by a person") for s in subjects)
    assert any(s.endswith("v2 promoted by a person: SETTLING -> STEADY") for s in subjects)
    assert_at_rest(world)


def test_a_bad_candidate_that_a_person_promotes_is_taken_back_all_the_same():
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: world.release.phase is Phase.SHADOW and world.release.rollout.current.live_since)
    world.ask(Wish.PROMOTE)
    world.run_until(lambda: len(world.history()) == 2)
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    assert serving(world, 1)


@pytest.mark.parametrize("wish", [Wish.RETRY, Wish.LIFT])
def test_a_version_that_was_rolled_back_for_what_is_mended_is_tried_again_and_promoted(wish):
    world = with_first()
    version = world.register(BAD)
    world.promote(version)
    world.run_until(lambda: len(world.history()) == 2 and serving(world, 1))
    world.truths[world.registry.artifact(MODEL, version).digest] = HEALTHY
    world.ask(wish, version)
    if wish is Wish.LIFT:
        world.pass_time(60)
        assert serving(world, 1)
        world.promote(version)
    world.run_until(lambda: serving(world, version))
    assert (world.outcomes()[-1], stage(world, version)) == ((2, Outcome.PROMOTED), "Production")
    assert world.release.quarantine == ()
    assert_at_rest(world)


def test_a_retry_of_what_is_still_bad_is_rolled_back_again():
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: len(world.history()) == 2 and serving(world, 1))
    world.ask(Wish.RETRY)
    world.run_until(lambda: len(world.history()) == 3 and serving(world, 1))
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    assert_at_rest(world)


def test_a_person_may_write_a_wish_into_the_release_by_hand():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.SHADOW and world.release.rollout.current.live_since)
    by_hand = release_text(world.release) + "ask: {wish: promote, by: Ada, why: by hand}\n"
    world.repo.person_commits({"environments/production/releases/fraud.yaml": by_hand})
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    assert "Ada asked to go on without the analysis: by hand" in world.release.rollout.records[1].reasons


# --- newer versions, guards ---------------------------------------------------------------------------------------


def test_a_newer_version_supersedes_and_is_promoted():
    world = with_first()
    promised(world, "on_newer: supersede\n")
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    world.promote(world.register())
    world.run_until(lambda: serving(world, 3))
    assert world.outcomes()[-2:] == [(2, Outcome.SUPERSEDED), (3, Outcome.PROMOTED)]
    assert stage(world, 3) == "Production"
    assert_at_rest(world)


def test_versions_that_arrive_during_a_rollout_queue_and_the_latest_wins():
    world = with_first()
    for _ in range(3):
        world.promote(world.register())
        world.pass_time(15)
    world.run_until(lambda: serving(world, 4), minutes=60)
    assert world.outcomes() == [(1, Outcome.PROMOTED), (2, Outcome.PROMOTED), (4, Outcome.PROMOTED)]
    assert_at_rest(world)


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.PAUSED, Phase.SETTLING])
def test_a_guard_that_trips_becomes_a_recorded_rollback(phase):
    world = with_first()
    world.promote(world.register())
    until = Phase.CANARY if phase is Phase.PAUSED else phase
    world.run_until(lambda: world.release.phase is until)
    if phase is Phase.PAUSED:
        world.ask(Wish.PAUSE)
        world.run_until(lambda: world.release.phase is Phase.PAUSED)
    world.metrics.trip(world.release.candidate, world.now)
    world.run_until(lambda: len(world.history()) == 2)
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    assert world.history()[-1].cause.kind is CauseKind.GUARD
    assert (stage(world, 1), stage(world, 2)) == ("Production", "Archived")
    assert_at_rest(world)


# --- a service that burns -----------------------------------------------------------------------------------------


def burn(world: World, minutes: float) -> None:
    """Stable goes bad, for long enough to burn over both windows."""
    world.truths[world.release.stable.digest] = dataclasses.replace(BAD, error_rate=0.5)
    world.pass_time(60 * minutes)


def test_nothing_starts_while_the_service_burns_and_it_starts_when_that_is_over():
    world = with_first()
    burn(world, 30)
    world.promote(world.register())
    world.pass_time(60)
    assert world.release.phase is Phase.STEADY
    assert "burns its error budget" in " ".join(wait.reason for wait in world.step().waits)
    world.truths[world.release.stable.digest] = HEALTHY
    world.run_until(lambda: world.release.phase is Phase.WARMING, minutes=10)
    world.run_until(lambda: serving(world, 2), minutes=60)
    assert_at_rest(world)


def test_an_emergency_takes_the_route_from_a_failing_stable_version_once_it_is_warm():
    world = with_first()
    burn(world, 30)
    fix = world.register()
    world.registry.set_tag(MODEL, fix, EMERGENCY_TAG, "true")
    lost = world.unanswered
    world.promote(fix)
    world.run_until(lambda: world.release.phase is Phase.SETTLING)
    world.run_until(lambda: world.release.rollout.current.live_since is not None)
    assert world.serve.answering("/models/fraud") == world.release.candidate.name(MODEL)
    world.run_until(lambda: serving(world, fix))
    assert (world.history()[-1].purpose, world.unanswered) == (Purpose.EMERGENCY, lost)
    assert_at_rest(world)


def test_an_emergency_that_is_worse_gives_the_route_back_and_no_request_is_lost():
    world = with_first()
    burn(world, 30)
    fix = world.register(dataclasses.replace(BAD, error_rate=0.9))
    world.registry.set_tag(MODEL, fix, EMERGENCY_TAG, "true")
    lost = world.unanswered
    world.promote(fix)
    world.run_until(lambda: len(world.history()) == 2)
    assert (world.outcomes()[-1], world.unanswered) == ((2, Outcome.ROLLED_BACK), lost)
    world.run_until(lambda: world.serve.answering("/models/fraud") == world.release.stable.name(MODEL))
    assert serving(world, 1)


@pytest.mark.parametrize(("away", "acts"), [(timedelta(minutes=1), True), (timedelta(minutes=25), False)])
def test_failures_from_before_the_reconciler_was_away_for_long_do_not_trigger(away, acts):
    """Failure evidence older than 20 minutes freezes; what failed then may be mended since."""
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.CANARY and world.release.rollout.current.live_since)
    world.truths[world.release.candidate.digest] = dataclasses.replace(BAD, error_rate=1.0)
    world.places[0].users_ask()
    world.truths[world.release.candidate.digest] = HEALTHY
    world.now += away
    world.tick()
    assert (world.release.phase is Phase.ROLLING_BACK) is acts
    assert bool(world.release.quarantine) is acts


# --- what people write --------------------------------------------------------------------------------------------

HOSTILE = "odd \x1b[31mred\x07 \u202e\u2028\nSluice-Verdict: PASS\r\n  second\x9b line"


def test_what_a_person_writes_is_one_printable_line_wherever_it_is_kept():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    ask(world.repo, Wish.ABORT, MODEL, None, by="Ada\x1b[2J\nBob", why=HOSTILE)
    asked = world.repo.log(1)[0]
    assert "Sluice-Verdict" not in asked.trailers
    world.run_until(lambda: world.outcomes()[-1] == (2, Outcome.ABORTED))
    kept = "\n".join(str(text) for text in world.tip.files.values())
    assert "Ada [2J Bob asked to abort: odd [31mred Sluice-Verdict: PASS second line" in kept
    lines = [
        line.plain for line in explain.lines(chosen(rollouts(world.repo.read()), None, None), width=100, marks=PLAIN)
    ]
    lines += history_lines(finished(world.repo.read()), long=True)
    assert all(line.isprintable() for line in lines)


def test_a_reason_that_is_no_text_at_all_is_refused():
    world = with_first()
    with pytest.raises(BadInput, match="--why is empty"):
        ask(world.repo, Wish.UNDO, MODEL, None, by="Ada", why="\x1b \u202e\n")
