"""Rollouts that people must agree to by a pull request, each to its fixed point, on a forge and a Git in memory."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines.commands.in_force import in_force
from pipelines.commands.running import Narrator
from pipelines.commands.views import ReleaseView, plan_lines, releases, status_lines
from pipelines.consents import ask
from pipelines.vouched import Trust
from policies.actions import AskConsent
from policies.consent_words import WITHDRAWN
from policies.pull_requests import PullRequest, PullRequestState
from policies.release import Outcome, Phase, Wish
from tests.scenarios.test_whole_rollouts import assert_at_rest, serving
from tests.simulation.world import BAD, EACH_STEP, HEALTHY, MODEL, REVIEWED, Environment, Truth, World

OPEN, CLOSED, MERGED = PullRequestState.OPEN, PullRequestState.CLOSED, PullRequestState.MERGED
PLACE = "environments/production/consents/fraud.yaml"


def newest(world: World) -> PullRequest | None:
    return next(reversed(world.forge.pulls()), None)


def asked(world: World, number: int) -> PullRequest:
    """The pull request of this number, once it is there."""
    world.run_until(lambda: len(world.forge.pulls()) >= number)
    return world.forge.pull_request(number)


def agree(world: World, number: int, by: str = "grace") -> None:
    """Somebody approves what it is now, and merges."""
    world.forge.approve(number, by)
    world.forge.person_merges(number)


def waits(world: World) -> str:
    """Why nothing moves, in the words of the next look."""
    return "; ".join(wait.reason for wait in world.reconciler.plan().waits)


def shown(world: World, *, last_words: bool = True) -> tuple[ReleaseView, ...]:
    """What `sluice status` knows, from Git and where wanted from the last look's words."""
    found = in_force(world.repo, Trust())
    return releases(found.documents, world.reconciler.plan().waits if last_words else (), found.branches)


def status(world: World, *, last_words: bool = True) -> str:
    return "\n".join(status_lines(shown(world, last_words=last_words), world.now))


def told(world: World) -> str:
    return "\n".join(snapshot.message for snapshot in world.commits())


def reviewed(environment: Environment = REVIEWED) -> World:
    """v1 serves, agreed to by Grace; people are asked about what comes next."""
    world = World(environments=(environment,))
    world.promote(world.register())
    agree(world, asked(world, 1).number)
    if environment is EACH_STEP:
        agree(world, asked(world, 2).number)
    world.run_until(lambda: serving(world, 1))
    return world


def wanted(world: World, truth: Truth = HEALTHY) -> PullRequest:
    """A person promotes a new version; the pull request that asks about it."""
    before = len(world.forge.pulls())
    world.promote(world.register(truth))
    return asked(world, before + 1)


# --- merged -------------------------------------------------------------------------------------------------------


def test_a_version_is_deployed_once_its_pull_request_is_approved_and_merged():
    world = reviewed()
    world.registry.log_metric(MODEL, 1, "auc", 0.9)
    pull = wanted(world)
    submits = len(world.serve.submits)
    world.pass_time(600)
    assert (serving(world, 1), len(world.serve.submits)) == (True, submits)
    assert world.versions[2].tags["sluice.production.phase"] == "IN_REVIEW"
    assert world.versions[2].tags["sluice.production.review"] == pull.url
    assert pull.branch.startswith("sluice/production/fraud/v2-")
    assert pull.title == "fraud (production): start v2 over v1"
    assert f"pull request {pull.number} ({pull.url}) has no approval of its head {pull.head[:8]}" in waits(world)
    world.forge.approve(pull.number, "grace")
    assert "may be merged (approved by grace)" in waits(world)
    world.forge.person_merges(pull.number)
    lost = world.unanswered
    world.run_until(lambda: serving(world, 2))
    assert (world.outcomes()[-1], world.unanswered) == ((2, Outcome.PROMOTED), lost)
    assert f"pull request {pull.number} ({pull.url}) was merged, approved by grace" in told(world)
    assert PLACE not in world.tip.files
    assert world.repo.heads == {}
    assert_at_rest(world)
    assert len(world.forge.pulls()) == 2


def test_the_pull_request_says_what_a_reviewer_needs_and_follows_what_changes():
    world = reviewed()
    world.registry.log_metric(MODEL, 1, "auc", 0.9)
    pull = wanted(world)
    assert "| auc |" not in pull.body
    world.registry.log_metric(MODEL, 2, "auc", 0.925)
    world.pass_time(60)
    said = world.forge.pull_request(pull.number).body
    assert "| `auc` | 0.925 | 0.9 | +0.025 |" in said
    assert "The same as that of v1." in said
    assert "- **pass** signature" in said
    assert "1. v2 starts at 0 %: 1 replica, each with 1 CPU; it is ready within 2m." in said
    assert "3. It answers 10 %, 50 %, each for 20s at least (5m at most) and with a PASS" in said
    assert "Harm takes it back to v1 at once, without a review." in said
    assert world.forge.pull_request(pull.number).head == pull.head


def test_while_people_are_asked_plan_and_status_say_so():
    world = reviewed()
    world.settle()
    world.promote(world.register())
    plan = world.reconciler.plan()
    lines = plan_lines(plan)
    assert plan.moves
    assert any("pull request from sluice/production/fraud/v2-" in line for line in lines)
    world.pass_time(30)
    assert not world.reconciler.plan().moves
    said = status(world)
    assert "v2 is wanted; pull request 2 (" in said
    assert "it ends when it is approved and merged, or closed: v2 is refused then" in said


def test_a_first_version_that_people_are_asked_about_is_in_the_status_before_it_has_a_release():
    world = World(environments=(REVIEWED,))
    assert status(world, last_words=False).startswith("no release yet")
    assert "no version has entered stage Production yet" in status(world)
    world.promote(world.register())
    pull = asked(world, 1)
    head, why = status(world).splitlines()
    assert head == "fraud (production): STEADY, nothing serves"
    assert f"v1 is wanted; pull request 1 ({pull.url})" in why
    by_git_alone = status(world, last_words=False)
    assert f"people are asked by a pull request from {pull.branch}; it ends when it is merged or closed" in by_git_alone
    (view,) = shown(world)
    assert (view.model, view.environment, view.stable, view.candidate) == ("fraud", "production", None, None)
    agree(world, 1)
    world.run_until(lambda: serving(world, 1))
    assert status(world).startswith("fraud (production): STEADY, v1 serves")


def test_a_version_that_people_closed_stays_in_the_status_until_it_leaves_the_trigger():
    world = reviewed()
    pull = wanted(world)
    world.forge.person_closes(pull.number)
    world.run_until(lambda: bool(world.release and world.release.refused))
    world.settle()
    for last_words in (True, False):
        line = f"  refused: v2 was not agreed to: pull request 2 ({pull.url}) was closed"
        assert line in status(world, last_words=last_words).splitlines()
        (view,) = shown(world, last_words=last_words)
        assert [(one.version, one.pull_request) for one in view.refused] == [(2, 2)]
    world.promote(1)
    world.settle()
    assert "refused" not in status(world)
    assert [view.refused for view in shown(world)] == [()]


def test_the_log_says_each_thing_that_people_do_with_a_pull_request_once():
    world = reviewed()
    lines: list[str] = []
    narrator = Narrator(lines.append, None)

    def looks() -> list[str]:
        """What is news in three looks."""
        before = len(lines)
        for _ in range(3):
            narrator(world.step())
        return lines[before:]

    pull = wanted(world)
    assert sum(f"has no approval of its head {pull.head[:8]}" in line for line in looks()) == 1
    world.forge.person_merges(pull.number)
    merged = looks()
    assert sum("was merged at" in line and "has no approval" in line for line in merged) == 1
    assert looks() == []


# --- not agreed to ------------------------------------------------------------------------------------------------


def test_a_closed_pull_request_refuses_the_version_and_the_registry_is_told():
    world = reviewed()
    pull = wanted(world)
    world.forge.person_closes(pull.number)
    world.run_until(lambda: bool(world.release and world.release.refused))
    assert_at_rest(world)
    assert serving(world, 1)
    tags = world.versions[2].tags
    assert tags["sluice.production.phase"] == "REFUSED"
    assert tags["sluice.production.verdict"] == f"v2 was not agreed to: pull request 2 ({pull.url}) was closed"
    assert world.repo.heads == {}
    assert len(world.forge.pulls()) == 2


@pytest.mark.parametrize("again", ["entered", "retry"])
def test_a_version_that_was_refused_by_people_is_asked_about_again_when_somebody_wants_it_again(again):
    world = reviewed()
    world.forge.person_closes(wanted(world).number)
    world.run_until(lambda: bool(world.release and world.release.refused))
    if again == "retry":
        world.ask(Wish.RETRY, 2)
    else:
        world.archive(2)
        world.pass_time(30)
        world.promote(2)
    agree(world, asked(world, 3).number)
    world.run_until(lambda: serving(world, 2))
    assert [pull.state for pull in world.forge.pulls()] == [MERGED, CLOSED, MERGED]
    assert_at_rest(world)


def test_a_version_that_leaves_the_trigger_is_asked_about_no_longer():
    world = reviewed()
    pull = wanted(world)
    world.archive(2)
    world.run_until(lambda: newest(world).state is CLOSED)
    assert WITHDRAWN in newest(world).body
    assert "it is wanted no longer" in world.forge.comments(pull.number)[-1]
    assert_at_rest(world)
    assert (serving(world, 1), world.repo.heads) == (True, {})


def test_a_newer_version_takes_the_place_of_the_one_that_was_asked_about():
    world = reviewed()
    older = wanted(world)
    newer = wanted(world)
    world.pass_time(30)
    assert [pull.state for pull in world.forge.pulls()] == [MERGED, CLOSED, OPEN]
    assert world.forge.comments(older.number) == ["Closed by Sluicegate: superseded: v3 is what is wanted now."]
    assert list(world.repo.heads) == [newer.branch]
    agree(world, newer.number)
    world.run_until(lambda: serving(world, 3))
    assert_at_rest(world)


def test_what_was_superseded_and_is_wanted_again_was_nobodys_no():
    world = reviewed()
    wanted(world)
    wanted(world)
    world.pass_time(30)
    world.promote(2)
    agree(world, asked(world, 4).number)
    world.run_until(lambda: serving(world, 2))
    assert [pull.state for pull in world.forge.pulls()] == [MERGED, CLOSED, CLOSED, MERGED]
    assert world.release.refused == ()


# --- what was approved is what starts -----------------------------------------------------------------------------


def test_an_approval_of_an_older_head_starts_nothing_until_the_head_is_approved():
    world = reviewed()
    pull = wanted(world)
    world.forge.approve(pull.number, "grace")
    head = world.repo.person_pushes(pull.branch, {"README.md": "by somebody\n"})
    assert f"grace approved {pull.head[:8]}, another commit, so that is stale" in waits(world)
    world.forge.person_merges(pull.number)
    world.pass_time(300)
    assert serving(world, 1)
    assert f"was merged at {head[:8]} and has no approval of its head" in waits(world)
    assert "Nothing was started by it" in world.forge.comments(pull.number)[-1]
    world.forge.approve(pull.number, "grace")
    world.run_until(lambda: serving(world, 2))
    assert_at_rest(world)


def test_a_merge_that_nobody_approved_is_asked_about_anew_once_it_is_reverted():
    world = reviewed()
    pull = wanted(world)
    world.forge.person_merges(pull.number)
    world.pass_time(60)
    assert serving(world, 1)
    world.repo.revert(world.repo.branch_tip)
    agree(world, asked(world, 3).number)
    world.run_until(lambda: serving(world, 2))
    assert_at_rest(world)


def test_what_somebody_changed_on_the_branch_does_not_start():
    world = reviewed()
    pull = wanted(world)
    text = world.repo.commits[pull.head].files[PLACE]
    assert isinstance(text, str)
    head = world.repo.person_pushes(pull.branch, {PLACE: text.replace("version: 2", "version: 7")})
    assert f"somebody changed the branch: at {head[:8]} {PLACE} is not what was asked" in waits(world)
    world.pass_time(60)
    assert "take the change back, or close the pull request" in world.forge.comments(pull.number)[-1]
    agree(world, pull.number)
    world.run_until(lambda: len(world.forge.pulls()) == 3)
    assert serving(world, 1)
    agree(world, 3)
    world.run_until(lambda: serving(world, 2))
    assert_at_rest(world)


def test_a_file_that_somebody_put_on_the_branch_without_a_pull_request_starts_nothing():
    world = reviewed()
    pull = wanted(world)
    world.repo.person_commits({PLACE: world.repo.commits[pull.head].files[PLACE]})
    world.pass_time(120)
    assert serving(world, 1)
    assert f"{PLACE} is on the branch, and pull request 2 ({pull.url}) is open" in waits(world)


def test_nobody_approves_what_he_asked_himself_nor_one_whom_the_forge_does_not_count():
    world = reviewed()
    pull = wanted(world)
    world.forge.approve(pull.number, pull.author)
    world.forge.approve(pull.number, "stranger", official=False)
    world.forge.person_merges(pull.number)
    world.pass_time(120)
    assert serving(world, 1)
    assert "has no approval of its head" in waits(world)


def test_as_many_approvals_are_needed_as_the_environment_says():
    world = reviewed(Environment("production", stage="Production", review="required", approvals=0))
    pull = wanted(world)
    sluice = str(world.tip.files["sluice.yaml"])
    world.repo.person_commits({"sluice.yaml": sluice.replace("review_approvals: 0", "review_approvals: 2")})
    world.forge.approve(pull.number, "grace")
    assert "has 1 of 2 approvals of its head" in waits(world)
    world.forge.approve(pull.number, "ada")
    assert "may be merged (approved by ada, grace)" in waits(world)
    world.forge.person_merges(pull.number)
    world.run_until(lambda: serving(world, 2))


def test_a_start_that_somebody_reverts_is_not_agreed_to_any_more():
    world = reviewed()
    agree(world, wanted(world).number)
    world.run_until(lambda: world.release.phase is Phase.WARMING)
    world.repo.revert(world.repo.branch_tip)
    world.run_until(lambda: serving(world, 1) and PLACE not in world.tip.files)
    assert_at_rest(world)
    world.archive(2)
    world.pass_time(30)
    world.promote(2)
    pull = asked(world, 3)
    world.pass_time(60)
    assert (serving(world, 1), pull.state) == (True, OPEN)


# --- what never waits ---------------------------------------------------------------------------------------------


def test_a_rollback_and_an_undo_wait_for_nobody():
    world = reviewed()
    agree(world, wanted(world).number)
    world.run_until(lambda: serving(world, 2))
    agree(world, wanted(world, BAD).number)
    world.run_until(lambda: len(world.history()) == 3 and serving(world, 2))
    assert world.outcomes()[-1] == (3, Outcome.ROLLED_BACK)
    world.ask(Wish.UNDO)
    world.run_until(lambda: serving(world, 1))
    assert [pull.state for pull in world.forge.pulls()] == [MERGED, MERGED, MERGED]
    assert_at_rest(world)


def test_a_version_that_was_rolled_back_is_asked_about_again_before_it_is_tried_again():
    world = reviewed()
    agree(world, wanted(world, BAD).number)
    world.run_until(lambda: len(world.history()) == 2 and serving(world, 1))
    world.ask(Wish.RETRY, 2)
    pull = asked(world, 3)
    world.pass_time(120)
    assert (serving(world, 1), pull.state) == (True, OPEN)


def test_with_the_forge_away_what_runs_goes_on_and_what_must_be_asked_waits_and_says_why():
    world = reviewed()
    agree(world, wanted(world).number)
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    world.forge.away = "the forge does not answer"
    world.run_until(lambda: serving(world, 2))
    world.promote(world.register())
    world.pass_time(120)
    assert serving(world, 2)
    assert waits(world) == "v3 is wanted; its review cannot be read: the forge does not answer"
    world.forge.away = None
    agree(world, asked(world, 3).number)
    world.run_until(lambda: serving(world, 3))
    assert_at_rest(world)


def test_a_registry_that_is_away_withdraws_nothing():
    world = reviewed()
    pull = wanted(world)
    world.registry.away = "connection refused"
    world.pass_time(120)
    assert world.forge.pull_request(pull.number).state is OPEN
    world.registry.away = None
    agree(world, pull.number)
    world.run_until(lambda: serving(world, 2))


def test_a_protected_branch_is_respected_in_the_servers_words():
    world = reviewed()
    world.repo.refuses_branches = "branches below sluice/ are protected"
    world.promote(world.register())
    tick = world.step()
    assert any("branches below sluice/ are protected" in problem for problem in tick.problems)
    assert world.forge.pulls()[1:] == []
    world.repo.refuses_branches = None
    pull = asked(world, 2)
    agree(world, pull.number)
    world.repo.refuses = "main is protected"
    tick = world.step()
    assert any("main is protected" in problem for problem in tick.problems)
    assert serving(world, 1)
    world.repo.refuses = None
    world.run_until(lambda: serving(world, 2))
    assert_at_rest(world)


def test_an_environment_that_asks_no_longer_starts_and_closes_what_it_asked():
    world = reviewed()
    pull = wanted(world)
    sluice = str(world.tip.files["sluice.yaml"])
    world.repo.person_commits({"sluice.yaml": sluice.replace("review: required", "review: none")})
    world.run_until(lambda: serving(world, 2))
    assert world.forge.pull_request(pull.number).state is CLOSED
    assert world.repo.heads == {}


# --- killed, and two at once --------------------------------------------------------------------------------------

ACTS = ("propose", "open", "update", "close", "drop", "comment", "commit")


def story(world: World) -> None:
    """v1 and v3 are agreed to; v2 is superseded, v4 is closed."""
    world.promote(world.register())
    agree(world, asked(world, 1).number)
    world.run_until(lambda: serving(world, 1))
    wanted(world)
    agree(world, wanted(world).number)
    world.run_until(lambda: serving(world, 3), minutes=60)
    world.forge.person_closes(wanted(world).number)
    world.run_until(lambda: [r.version for r in world.release.refused] == [4])
    world.settle()


@pytest.mark.parametrize("act", ACTS)
def test_killed_after_every_second_act_of_a_kind_the_story_ends_the_same(act):
    seen: Counter[str] = Counter()

    def due(name: str) -> bool:
        seen[name] += 1
        return name == act and seen[name] % 2 == 1

    world = World(environments=(REVIEWED,), due=due)
    story(world)
    assert seen[act] == 0 or world.crashes > 0
    assert [pull.state for pull in world.forge.pulls()] == [MERGED, CLOSED, MERGED, CLOSED]
    assert (serving(world, 3), world.unanswered, world.repo.heads) == (True, 0, {})


def test_two_reconcilers_ask_once():
    world = World(environments=(REVIEWED,))
    world.join()
    story(world)
    assert [pull.state for pull in world.forge.pulls()] == [MERGED, CLOSED, MERGED, CLOSED]
    assert (serving(world, 3), world.unanswered, world.repo.heads) == (True, 0, {})


def test_two_who_ask_at_the_same_instant_ask_once():
    world = reviewed()
    world.settle()
    world.promote(world.register())
    late = world.reconciler.plan()
    pull = asked(world, 2)
    (action,) = [a for actions in late.actions.values() for a in actions if isinstance(a, AskConsent)]
    ask(world.repo, world.forge, action, late.look.tip.commit)
    assert world.repo.heads == {pull.branch: pull.head}
    assert len(world.forge.pulls()) == 2


# --- every step ---------------------------------------------------------------------------------------------------


def test_with_every_step_each_weight_waits_for_its_pull_request():
    world = reviewed(EACH_STEP)
    before = len(world.forge.pulls())
    agree(world, wanted(world).number)
    titles = []
    for number in range(before + 2, before + 6):
        pull = asked(world, number)
        titles.append(pull.title)
        weight = world.release.weight_percent
        world.pass_time(600)
        assert world.release.weight_percent == weight
        agree(world, number)
    world.run_until(lambda: serving(world, 2))
    assert titles == [
        "fraud (production): v2 to 10 % over v1",
        "fraud (production): v2 to 50 % over v1",
        "fraud (production): v2 to 100 % over v1",
        "fraud (production): v2 becomes stable over v1",
    ]
    assert world.unanswered == 0
    assert_at_rest(world)
    assert (world.repo.heads, PLACE in world.tip.files) == ({}, False)


def test_a_step_that_is_closed_stays_where_it_is_and_is_taken_back_when_it_turns_bad():
    world = reviewed(EACH_STEP)
    number = wanted(world).number
    agree(world, number)
    agree(world, asked(world, number + 1).number)
    step = asked(world, number + 2)
    world.forge.person_closes(step.number)
    world.pass_time(600)
    assert (world.release.phase, world.release.weight_percent) == (Phase.CANARY, 10)
    assert "was closed: the rollout stays where it is" in waits(world)
    world.truths[world.registry.artifact(MODEL, 2).digest] = BAD
    world.run_until(lambda: serving(world, 1))
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    assert_at_rest(world)
    assert world.repo.heads == {}


def test_a_rollback_withdraws_the_step_that_people_were_asked_about():
    world = reviewed(EACH_STEP)
    number = wanted(world).number
    agree(world, number)
    agree(world, asked(world, number + 1).number)
    step = asked(world, number + 2)
    world.truths[world.registry.artifact(MODEL, 2).digest] = BAD
    world.run_until(lambda: serving(world, 1))
    assert_at_rest(world)
    assert world.forge.pull_request(step.number).state is CLOSED
    assert world.repo.heads == {}


def test_a_person_who_promotes_a_step_agrees_to_it():
    world = reviewed(EACH_STEP)
    number = wanted(world).number
    agree(world, number)
    asked(world, number + 1)
    world.ask(Wish.PROMOTE)
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    assert world.forge.pull_request(number + 1).state is OPEN
    world.run_until(lambda: world.forge.pull_request(number + 1).state is CLOSED)
