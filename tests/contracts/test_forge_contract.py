"""The port `Forge`: one suite for the forge in memory and for each dialect, over HTTP and on real Git repos."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import BadInput, Conflict, Retry, Stalled
from policies.pull_requests import CommitStatus, PullRequestState, StatusState, fresh, stale
from registry_bridge.forge import BODY_CHARACTERS
from tests.contracts.forge_harness import ForgeServers, Stage

BRANCH = "sluice/prod/fraud-model"


@pytest.fixture(params=["memory", "github", "gitea", "gitlab"])
def stage(request: pytest.FixtureRequest, forge_servers: ForgeServers, tmp_path: Path) -> Stage:
    return forge_servers.stage(request.param, tmp_path)


def test_nothing_is_found_before_it_is_opened(stage: Stage) -> None:
    assert stage.door.find(BRANCH) is None
    stage.push(BRANCH)
    assert stage.door.find(BRANCH) is None


def test_a_pull_request_is_opened_and_found_by_its_branch(stage: Stage) -> None:
    head = stage.push(BRANCH)
    opened = stage.door.open(BRANCH, "Roll out fraud v2", "why\n\n| a | b |")
    assert (opened.branch, opened.base, opened.head) == (BRANCH, "main", head)
    assert (opened.title, opened.body, opened.author) == ("Roll out fraud v2", "why\n\n| a | b |", "sluice")
    assert opened.state is PullRequestState.OPEN
    assert opened.merge_commit is None
    assert str(opened.number) in opened.url
    assert stage.door.find(BRANCH) == opened == stage.door.pull_request(opened.number)
    assert stage.door.find("sluice/prod/other") is None


def test_opening_again_brings_it_up_to_date(stage: Stage) -> None:
    stage.push(BRANCH)
    first = stage.door.open(BRANCH, "one", "x")
    again = stage.door.open(BRANCH, "two", "y")
    assert (again.number, again.title, again.body) == (first.number, "two", "y")
    assert stage.door.find(BRANCH) == again


def test_a_branch_that_was_not_pushed_opens_nothing(stage: Stage) -> None:
    with pytest.raises(Stalled):
        stage.door.open("never/pushed", "t", "b")


def test_the_head_follows_a_push(stage: Stage) -> None:
    stage.push(BRANCH, "one")
    opened = stage.door.open(BRANCH, "t", "b")
    second = stage.push(BRANCH, "two")
    assert stage.door.pull_request(opened.number).head == second != opened.head


def test_a_closed_one_is_found_until_there_is_a_newer_and_stays_closed(stage: Stage) -> None:
    stage.push(BRANCH, "one")
    first = stage.door.open(BRANCH, "t", "b")
    closed = stage.door.close(first.number, "superseded by v3")
    assert closed.state is PullRequestState.CLOSED
    assert stage.comments(first.number) == ["superseded by v3"]
    assert stage.door.close(first.number, "again") == closed
    assert stage.comments(first.number) == ["superseded by v3"]
    assert stage.door.find(BRANCH) == closed
    second = stage.door.open(BRANCH, "t", "b")
    assert second.number != first.number
    assert stage.door.find(BRANCH) == second


def test_there_is_no_pull_request_that_was_never_opened(stage: Stage) -> None:
    with pytest.raises(Stalled):
        stage.door.pull_request(4711)


def test_it_is_merged_from_the_head_that_was_looked_at(stage: Stage) -> None:
    head = stage.push(BRANCH)
    opened = stage.door.open(BRANCH, "t", "b")
    commit = stage.door.merge(opened.number, head)
    merged = stage.door.pull_request(opened.number)
    assert merged.state is PullRequestState.MERGED
    assert merged.merge_commit == commit != head
    assert merged.head == head
    assert stage.door.merge(opened.number, head) == commit
    assert stage.door.close(opened.number, "too late") == merged


def test_a_merge_of_another_head_is_a_conflict(stage: Stage) -> None:
    seen = stage.push(BRANCH, "one")
    opened = stage.door.open(BRANCH, "t", "b")
    stage.push(BRANCH, "two")
    with pytest.raises(Conflict):
        stage.door.merge(opened.number, seen)
    assert stage.door.pull_request(opened.number).state is PullRequestState.OPEN


def test_what_a_person_merged_is_merged(stage: Stage) -> None:
    head = stage.push(BRANCH)
    opened = stage.door.open(BRANCH, "t", "b")
    stage.person_merges(opened.number)
    found = stage.door.find(BRANCH)
    assert found is not None
    assert found.state is PullRequestState.MERGED
    assert stage.door.merge(opened.number, head) == found.merge_commit


def test_a_closed_one_is_not_merged(stage: Stage) -> None:
    head = stage.push(BRANCH)
    opened = stage.door.open(BRANCH, "t", "b")
    stage.door.close(opened.number)
    with pytest.raises(Stalled, match="closed"):
        stage.door.merge(opened.number, head)


def test_a_forge_that_refuses_says_why(stage: Stage) -> None:
    head = stage.push(BRANCH)
    opened = stage.door.open(BRANCH, "t", "b")
    stage.protect()
    with pytest.raises(Stalled, match=r"(?i)approv"):
        stage.door.merge(opened.number, head)
    assert stage.door.pull_request(opened.number).state is PullRequestState.OPEN


def test_an_approval_is_for_its_commit_and_stale_after_a_push(stage: Stage) -> None:
    first = stage.push(BRANCH, "one")
    number = stage.door.open(BRANCH, "t", "b").number
    assert tuple(stage.door.approvals(number)) == ()
    stage.approve(number, "ada")
    (approval,) = given = stage.door.approvals(number)
    assert (approval.by, approval.commit) == ("ada", first)
    assert fresh(given, first) == (approval,)
    second = stage.push(BRANCH, "two")
    given = stage.door.approvals(number)
    assert fresh(given, second) == ()
    assert [each.by for each in stale(given, second)] == ["ada"]
    stage.approve(number, "ada")
    assert [each.by for each in fresh(stage.door.approvals(number), second)] == ["ada"]


def test_an_objection_takes_an_approval_back(stage: Stage) -> None:
    stage.push(BRANCH)
    number = stage.door.open(BRANCH, "t", "b").number
    stage.approve(number, "ada")
    stage.approve(number, "ben")
    stage.object_to(number, "ada")
    assert [each.by for each in stage.door.approvals(number)] == ["ben"]


def test_a_strangers_approval_does_not_count(stage: Stage) -> None:
    head = stage.push(BRANCH)
    number = stage.door.open(BRANCH, "t", "b").number
    stage.approve(number, "mallory", official=False)
    assert fresh(stage.door.approvals(number), head) == ()


def test_a_comment_is_written_once_and_then_replaced(stage: Stage) -> None:
    stage.push(BRANCH)
    number = stage.door.open(BRANCH, "t", "b").number
    first = stage.door.comment(number, "sluice:review", "one")
    assert stage.door.comment(number, "sluice:review", "two") == first
    assert stage.door.comment(number, "sluice:other", "three") != first
    assert stage.comments(number) == ["two", "three"]


def test_a_marker_is_a_word(stage: Stage) -> None:
    number_of_none = 1
    with pytest.raises((BadInput, Stalled)):
        stage.door.comment(number_of_none, "--> <script>", "x")


def test_a_long_text_is_cut_and_says_so(stage: Stage) -> None:
    stage.push(BRANCH)
    opened = stage.door.open(BRANCH, "t", "x" * (BODY_CHARACTERS + 1))
    assert len(opened.body) == BODY_CHARACTERS
    assert opened.body.endswith("the forge takes no longer text)")
    stage.door.comment(opened.number, "sluice:review", "y" * 100_000)
    assert len(stage.comments(opened.number)[0]) == BODY_CHARACTERS


def test_a_status_is_shown_and_may_be_repeated(stage: Stage) -> None:
    head = stage.push(BRANCH)
    for state in (StatusState.PENDING, StatusState.FAILURE, StatusState.FAILURE, StatusState.SUCCESS):
        stage.door.set_status(head, CommitStatus(context="sluice/review", state=state, description=state.value * 30))
    shown = stage.statuses()
    assert {(commit, context) for commit, context, _ in shown} == {(head, "sluice/review")}
    assert shown[-1][2].startswith("success")


def test_a_forge_that_is_away_is_tried_again(stage: Stage) -> None:
    stage.push(BRANCH)
    stage.outage()
    with pytest.raises(Retry):
        stage.door.find(BRANCH)
