"""A force-push or a restored backup stops the environment, in words, until a person accepts the new history."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipelines.commands.accepting import accept
from policies.accepted_history import AcceptedHistory, counts, later_than
from policies.errors import BadInput
from policies.layout import accepted_history_path
from policies.release import Outcome, Phase
from policies.stored_documents import accepted_history_text, parse_accepted_history
from tests.scenarios.test_whole_rollouts import assert_at_rest, serving, with_first
from tests.simulation.world import BAD, World
from tests.unit.releases import NOW

FIRST, SECOND = "a" * 40, "b" * 40


def accepted(world: World, commit: str | None = None, why: str = "the backup is good") -> AcceptedHistory:
    tip = world.repo.branch_tip or ""
    return accept(world.repo, "production", commit or tip, by="Ada", why=why, now=world.now).accepted


def after(hours: int) -> AcceptedHistory:
    return AcceptedHistory(commit=FIRST, by="Ada", why="so", at=NOW + timedelta(hours=hours))


def with_a_lost_promotion() -> tuple[World, str, str]:
    """v2 was promoted, and the branch was moved back to before it; the commits that are there and were lost."""
    world = with_first()
    there = world.repo.branch_tip or ""
    world.promote(world.register())
    world.run_until(lambda: serving(world, 2))
    world.step()
    lost = world.repo.branch_tip or ""
    world.repo.force_push(there)
    return world, there, lost


def restored_from_backup(world: World, commit: str) -> None:
    """The whole server is as it was then, its refs included."""
    world.repo.force_push(commit)
    world.repo._applied["production"] = commit


# --- what counts ------------------------------------------------------------------------------------------------


def test_an_acceptance_counts_for_what_had_an_older_one_or_none():
    assert counts(after(1), None)
    assert counts(after(2), after(1))
    assert not counts(None, None)
    assert not counts(None, after(1))
    assert not counts(after(1), after(1))
    assert not counts(after(1), after(2))


def test_an_acceptance_is_later_than_any_before_it_whatever_the_clock_says():
    assert later_than(NOW, None, None) == NOW
    assert later_than(NOW, after(1), None) > after(1).at


def test_what_was_accepted_reads_back():
    one = AcceptedHistory(commit=FIRST, let_go=SECOND, by="Ada", why="restored: 'so'", at=NOW)
    assert parse_accepted_history(accepted_history_text(one)) == one


# --- stopping ---------------------------------------------------------------------------------------------------


def test_a_rewritten_branch_stops_the_environment_and_says_both_commits_and_what_to_do():
    world, there, lost = with_a_lost_promotion()
    submits = len(world.serve.submits)
    tick = world.step()
    said = " ".join(tick.problems)
    assert there in said
    assert lost in said
    assert f"sluice accept-history --environment production --commit {there}" in said
    world.promote(world.register())
    world.pass_time(600)
    assert (world.repo.branch_tip, len(world.serve.submits)) == (there, submits)
    assert world.serve.answering("/models/fraud") is not None


def test_another_process_stops_too():
    world, there, _ = with_a_lost_promotion()
    world.restart()
    tick = world.step()
    assert "does not descend" in " ".join(tick.problems)
    assert world.repo.branch_tip == there


def test_the_old_history_brought_back_is_enough():
    world, _, lost = with_a_lost_promotion()
    world.step()
    world.repo.force_push(lost)
    assert not world.step().problems
    assert serving(world, 2)
    assert_at_rest(world)


def test_a_restored_backup_is_seen_by_a_process_that_saw_more():
    world, there, lost = with_a_lost_promotion()
    restored_from_backup(world, there)
    tick = world.step()
    assert f"does not descend from {lost}, which was seen last" in " ".join(tick.problems)


def test_a_restored_backup_is_seen_by_a_new_process_that_looks_at_ray():
    world, there, _ = with_a_lost_promotion()
    restored_from_backup(world, there)
    world.restart()
    submits = len(world.serve.submits)
    tick = world.step()
    assert "Ray was told revision" in " ".join(tick.problems)
    assert "accept-history" in " ".join(tick.problems)
    world.pass_time(60)
    assert len(world.serve.submits) == submits


def test_a_guard_still_stops_a_candidate_on_a_rewritten_branch():
    world = with_first()
    there = world.commits()[0].hash  # without a release: the world then knows who answers by what it saw last
    world.promote(world.register())
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.CANARY)
    candidate = world.release.candidate
    world.step()
    world.repo.force_push(there)
    world.truths[candidate.digest] = BAD
    world.run_until(lambda: not world.places[0].gives(), minutes=5)
    assert world.repo.branch_tip == there


# --- accepting --------------------------------------------------------------------------------------------------


def test_a_person_accepts_and_every_reconciler_goes_on():
    world, there, lost = with_a_lost_promotion()
    world.join()
    world.step()
    done = accepted(world)
    assert (done.commit, done.let_go, done.by) == (there, lost, "Ada")
    assert not world.step().problems
    assert not world.rival.tick().problems
    world.restart()
    assert not world.step().problems
    assert_at_rest(world)
    assert world.unanswered == 0


def test_what_was_lost_is_read_as_a_revert_so_a_bad_version_stays_in_quarantine():
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.SHADOW)
    there = world.repo.branch_tip or ""
    world.run_until(lambda: len(world.history()) == 2)
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    world.repo.force_push(there)
    world.step()
    accepted(world)
    world.pass_time(60)
    assert 2 in {q.version for q in world.release.quarantine}
    assert world.release.weight_percent == 0 or world.release.phase is Phase.PAUSED


@pytest.mark.parametrize("new_process", [False, True])
def test_a_restored_backup_goes_on_once_it_is_accepted(new_process):
    world, there, _ = with_a_lost_promotion()
    restored_from_backup(world, there)
    if new_process:
        world.restart()
    assert world.step().problems
    accepted(world)
    assert not world.step().problems
    world.restart()
    assert not world.step().problems
    assert_at_rest(world)


def test_an_acceptance_is_no_leave_for_the_next_force_push():
    world, _, _ = with_a_lost_promotion()
    accepted(world)
    world.pass_time(30)
    good = world.repo.branch_tip or ""
    world.repo.person_commits({"models/README.md": "for people\n"})
    world.pass_time(30)
    world.repo.force_push(good)
    assert "does not descend" in " ".join(world.step().problems)


def test_histories_that_are_put_back_and_forth_are_asked_for_each_time():
    world, _, lost = with_a_lost_promotion()
    accepted(world)
    world.pass_time(30)
    second = world.repo.branch_tip or ""
    world.repo.force_push(lost)
    assert "does not descend" in " ".join(world.step().problems)
    accepted(world)
    assert not world.step().problems
    world.repo.force_push(second)
    world.restart()
    assert "does not descend" in " ".join(world.step().problems)


def test_a_branch_that_moves_on_after_the_rewriting_is_accepted_by_the_commit_that_was_named():
    world, there, _ = with_a_lost_promotion()
    world.repo.person_commits({"models/README.md": "for people\n"})
    assert world.step().problems
    assert accepted(world, there).commit == there
    assert not world.step().problems


@pytest.mark.parametrize(
    ("environment", "commit", "why", "words"),
    [
        ("production", SECOND, "so", "is not in the branch, whose tip is"),
        ("production", "abc", "so", "is not in the branch"),
        ("prod", None, "so", "is no environment here; there are: production"),
        ("production", None, " \n", "--why is empty"),
    ],
)
def test_what_cannot_be_accepted_is_refused_in_words(environment, commit, why, words):
    world, _, _ = with_a_lost_promotion()
    tip = world.repo.branch_tip or ""
    with pytest.raises(BadInput, match=words):
        accept(world.repo, environment, commit or tip, by="Ada", why=why, now=world.now)
    assert world.repo.branch_tip == tip


def test_a_name_of_the_tip_that_is_too_short_is_said_to_be_too_short():
    world, _, _ = with_a_lost_promotion()
    tip = world.repo.branch_tip or ""
    with pytest.raises(BadInput, match="too short for a name of the tip: write 8 characters of it or more"):
        accept(world.repo, "production", tip[:7], by="Ada", why="so", now=world.now)
    assert world.repo.branch_tip == tip


def test_somebody_who_commits_meanwhile_takes_nothing_from_an_acceptance():
    world, there, _ = with_a_lost_promotion()
    world.repo.conflict_next_push()
    assert accepted(world, there).commit == there
    assert accepted_history_path("production") in world.repo.read().files
