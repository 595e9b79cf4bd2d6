"""A person edits a release's file while a canary runs: honoured, or refused in words; never half of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest

from policies.hand_edits import refusal
from policies.release import Ask, Outcome, Phase, Release, Wish
from policies.stored_documents import release_text
from tests.scenarios.test_whole_rollouts import assert_at_rest, serving, with_first
from tests.simulation.world import BAD, World
from tests.unit.releases import application, rolling

Edit = Callable[[Release], Release]


def in_canary() -> World:
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release is not None and world.release.weight_percent == 50)
    world.step()
    return world


def edit(world: World, how: Edit) -> str:
    assert world.release is not None
    return world.repo.person_commits({world.places[0].path: release_text(how(world.release))})


def with_more(release: Release) -> Release:
    return dataclasses.replace(release, weight_percent=90)


def with_another_candidate(release: Release) -> Release:
    assert release.candidate is not None
    return dataclasses.replace(release, candidate=dataclasses.replace(release.candidate, version=9))


def with_another_stable(release: Release) -> Release:
    return dataclasses.replace(release, stable=release.candidate)


def raised(how: Edit) -> Edit:
    """The same by somebody who knows that a revision grows."""
    return lambda release: dataclasses.replace(how(release), revision=release.revision + 1)


GIVING = {
    "more requests": (with_more, r"gives v2 90 % where it had 50 %.*sluice promote"),
    "another candidate": (with_another_candidate, "makes v9 the candidate by hand"),
    "another stable": (with_another_stable, "makes v2 stable by hand"),
}


@pytest.mark.parametrize("what", GIVING)
@pytest.mark.parametrize("knows_revisions", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
def test_an_edit_that_gives_is_refused_with_who_and_what_and_a_revert_mends_it(what, knows_revisions, restarts):
    world = in_canary()
    how, words = GIVING[what]
    submits, told = len(world.serve.submits), world.serve.told(world.serve.answering("/models/fraud"))
    commit = edit(world, raised(how) if knows_revisions else how)
    if restarts:
        world.restart()
    tick = world.step()
    said = " ".join(tick.problems)
    assert commit in said
    assert "Ada <ada@example.com>" in said
    assert re.search(words, said), said
    world.pass_time(120)
    assert world.repo.branch_tip == commit
    assert len(world.serve.submits) == submits
    assert world.serve.told(world.serve.answering("/models/fraud")) == told
    world.repo.revert(commit)
    world.run_until(lambda: serving(world, 2))
    assert world.unanswered == 0
    assert_at_rest(world)


def test_a_refused_edit_keeps_no_failing_candidate_in_traffic():
    world = in_canary()
    candidate = world.release.candidate
    commit = edit(world, with_more)
    world.truths[candidate.digest] = BAD
    assert world.places[0].gives()
    world.run_until(lambda: not world.places[0].gives(), minutes=5)
    assert world.repo.branch_tip == commit  # by Ray alone: the tip is still refused
    assert world.unanswered == 0


@pytest.mark.parametrize("knows_revisions", [False, True])
def test_a_lower_weight_is_honoured_and_nothing_is_lost(knows_revisions):
    world = in_canary()

    def with_less(release: Release) -> Release:
        return dataclasses.replace(release, weight_percent=10)

    edit(world, raised(with_less) if knows_revisions else with_less)
    assert not world.step().problems
    world.run_until(lambda: world.serve.told(world.serve.answering("/models/fraud"))["split"]["weight_percent"] == 10)
    assert world.unanswered == 0


def test_a_candidate_that_is_dropped_by_hand_is_out_of_traffic_and_not_tried_again():
    world = in_canary()

    def dropped(release: Release) -> Release:
        return dataclasses.replace(release, phase=Phase.STEADY, candidate=None, rollout=None, weight_percent=0)

    edit(world, dropped)
    assert not world.step().problems
    world.run_until(lambda: not world.places[0].gives(), minutes=2)
    world.pass_time(300)
    assert serving(world, 1)
    assert world.unanswered == 0
    assert_at_rest(world)


def test_a_wish_that_is_written_by_hand_is_the_wish():
    world = in_canary()
    wish = Ask(wish=Wish.ABORT, by="Ada", why="by hand")
    edit(world, lambda release: dataclasses.replace(release, ask=wish))
    world.run_until(lambda: serving(world, 1))
    assert world.outcomes()[-1] == (2, Outcome.ABORTED)


def test_a_quarantine_that_is_lifted_by_hand_is_refused():
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: serving(world, 1) and len(world.history()) == 2)
    world.step()
    edit(world, lambda release: dataclasses.replace(release, quarantine=()))
    assert "takes v2 out of the quarantine by hand: use `sluice lift`" in " ".join(world.step().problems)


def test_what_broke_in_an_edit_is_refused_with_its_line():
    world = in_canary()
    path = world.places[0].path
    text = str(world.tip.files[path])
    world.repo.person_commits({path: text.replace("phase: CANARY", "phase: CANRAY")})
    assert f"{path}:" in " ".join(world.step().problems)
    world.repo.person_commits({path: text})
    world.run_until(lambda: serving(world, 2))


def test_a_commit_of_ours_that_was_not_applied_yet_is_no_edit():
    """The process died between its commit and the ref that says it was applied."""
    world = in_canary()
    before = world.repo.applied("production")
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.SETTLING)
    world.repo.mark_applied("production", before or "")
    world.restart()
    assert not world.step().problems
    world.run_until(lambda: serving(world, 2))


def test_what_gives_is_told_from_what_does_not():
    before = rolling(Phase.CANARY, weight=50)
    assert refusal(before, dataclasses.replace(before, weight_percent=90)) != ""
    assert refusal(before, dataclasses.replace(before, stable=application(7))) != ""
    assert refusal(before, dataclasses.replace(before, stable=None)) == (
        "it makes nothing stable by hand: a version serves after a rollout (or `sluice undo`)"
    )
    assert refusal(before, dataclasses.replace(before, weight_percent=10)) == ""


# --- reverts ------------------------------------------------------------------------------------------------------


def promoted() -> World:
    """v2 was promoted, and that was the last commit."""
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: serving(world, 2))
    world.step()
    return world


def ask(world: World, *wishes: Wish) -> None:
    for wish in wishes:
        world.places[0].ask(wish)


@pytest.mark.parametrize("wishes", [(), (Wish.PAUSE,), (Wish.PAUSE, Wish.ABORT), (Wish.PAUSE, Wish.ABORT, Wish.ABORT)])
def test_a_promotion_that_is_reverted_ends_at_stable_whatever_is_wished_on_top(wishes):
    world = promoted()
    world.repo.revert(world.repo.branch_tip)
    ask(world, *wishes)
    assert world.release is not None
    assert world.release.stable is not None
    assert world.release.stable.version == 1
    assert not world.step().problems
    world.run_until(lambda: serving(world, 1), minutes=10)
    assert world.outcomes()[-1] == (2, Outcome.ABORTED)
    assert world.unanswered == 0
    assert_at_rest(world)


@pytest.mark.parametrize("wishes", [(), (Wish.ABORT,), (Wish.PAUSE, Wish.ABORT)])
def test_the_promotion_of_a_first_version_that_is_reverted_waits_for_a_person_and_the_hosts_are_told(wishes):
    world = with_first()
    world.repo.revert(world.repo.branch_tip)
    ask(world, *wishes)
    assert not world.step().problems
    world.settle()
    assert world.release is not None
    assert world.release.phase is Phase.PAUSED
    told = world.serve.told(world.serve.answering("/models/fraud"))
    assert told["revision"] == world.release.traffic_revision
    assert not world.step().problems


def test_a_rollback_that_is_reverted_lifts_no_quarantine_however_many_wishes_come_on_top():
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.ROLLING_BACK)
    before = world.release
    assert [q.version for q in before.quarantine] == [2]
    world.repo.revert(world.repo.branch_tip)
    ask(world, Wish.PAUSE, Wish.ABORT)
    assert world.release.revision > before.revision
    assert not world.release.quarantine
    assert not world.step().problems
    world.run_until(lambda: serving(world, 1), minutes=10)
    assert [q.version for q in world.release.quarantine] == [2]
    assert_at_rest(world)


def test_a_revert_that_was_decided_already_is_no_edit_where_the_process_died_before_it_was_applied():
    world = promoted()
    before = world.repo.applied("production")
    world.repo.revert(world.repo.branch_tip)
    world.run_until(lambda: serving(world, 1), minutes=10)
    world.repo.mark_applied("production", before or "")
    world.restart()
    assert not world.step().problems
    assert_at_rest(world)


@pytest.mark.parametrize("what", GIVING)
def test_a_wish_on_top_of_an_edit_that_gives_lets_nothing_through(what):
    world = in_canary()
    how, words = GIVING[what]
    submits = len(world.serve.submits)
    commit = edit(world, how)
    ask(world, Wish.PAUSE, Wish.ABORT)
    said = " ".join(world.step().problems)
    assert commit in said
    assert re.search(words, said), said
    assert len(world.serve.submits) == submits


def test_an_edit_that_gives_with_a_lower_revision_is_no_revert():
    world = in_canary()
    edit(world, lambda release: dataclasses.replace(with_more(release), revision=release.revision - 1))
    assert "gives v2 90 % where it had 50 %" in " ".join(world.step().problems)


def test_an_edit_that_was_reverted_counts_no_more_when_it_is_put_back():
    world = in_canary()
    put_back = world.repo.revert(edit(world, with_more))
    assert not world.step().problems
    again = world.repo.revert(put_back)
    said = " ".join(world.step().problems)
    assert again in said
    assert "gives v2 90 % where it had 50 %" in said
