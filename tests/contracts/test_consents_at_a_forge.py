"""People asked at a forge of each dialect, on real Git: what is put is what is looked at later, by whoever looks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.consents import Asking, ConsentLooker, ask, tell, withdraw
from policies.actions import Action, AskConsent, TellReviewers, UseConsent, WithdrawConsent
from policies.consent import ConsentLook
from policies.consenting import consented
from policies.facts import Idle, Noticed, Observed, Rules, Signal
from policies.pull_requests import PullRequestState
from policies.release import Refused, Release
from policies.starting import what_starts
from registry_bridge.config_repo import ConfigRepo
from tests.contracts.forge_harness import ForgeServers, RealStage
from tests.fakes.forge.server import GIT_TOKEN
from tests.unit.releases import NOW, RULES, observed, steady, versions

PLACE = "environments/production/consents/fraud.yaml"
REQUIRED = dataclasses.replace(RULES, review="required")
V3 = observed(versions(v1="Archived", v2="Archived", v3="Production"))


class Asked:
    """One model's question, put and looked at by a process that may be a new one each time."""

    def __init__(self, stage: RealStage, folder: Path) -> None:
        self.stage, self._folder, self._processes = stage, folder, 0
        self.release: Release = steady()
        self.rules: Rules = REQUIRED
        self.seen: Observed = observed()

    def look(self) -> tuple[Noticed | Idle | Refused, list[Action]]:
        """Look, decide and do it, as a process that was just started."""
        self._processes += 1
        cache = self._folder / f"cache-{self._processes}"
        repo = ConfigRepo(f"{self.stage.server.url}/{self.stage.hub.name}.git", "main", cache, token=GIT_TOKEN)
        door, target, tip = self.stage.door_of("our-token"), self.stage.target(), repo.read()
        asking = {"fraud": Asking(self.release, self.seen, self.rules)}
        looks = ConsentLooker(repo, lambda _: door).looks(target, tip.commit, asking, NOW)
        given = tip.files.get(PLACE)
        seen = dataclasses.replace(self.seen, consent=looks.get("fraud"), consent_given=given)
        start = what_starts(self.release, seen, self.rules)
        assert not isinstance(start, Idle | Refused)
        noticed = Noticed(signal=Signal.STARTED, start=start)
        outcome, actions = consented(self.release, noticed, seen, self.rules)
        for action in actions:
            match action:
                case AskConsent():
                    ask(repo, door, action, tip.commit)
                case WithdrawConsent():
                    withdraw(repo, door, action)
                case TellReviewers():
                    tell(door, action)
                case _:
                    assert isinstance(action, UseConsent)
        return outcome, list(actions)

    def shown(self) -> ConsentLook:
        door = self.stage.door_of("our-token")
        repo = ConfigRepo(
            f"{self.stage.server.url}/{self.stage.hub.name}.git", "main", self._folder / "shown", token=GIT_TOKEN
        )
        asking = {"fraud": Asking(self.release, self.seen, self.rules)}
        tip = repo.read().commit
        return ConsentLooker(repo, lambda _: door).looks(self.stage.target(), tip, asking, NOW)["fraud"]


@pytest.fixture(params=["github", "gitea", "gitlab"])
def question(request: pytest.FixtureRequest, forge_servers: ForgeServers, tmp_path: Path) -> Asked:
    return Asked(forge_servers.stage(request.param, tmp_path / "forge"), tmp_path)


def test_it_is_put_once_and_stays_as_it_was_put(question: Asked) -> None:
    outcome, actions = question.look()
    assert [type(action) for action in actions] == [AskConsent]
    again, nothing = question.look()
    assert (nothing, isinstance(outcome, Idle), isinstance(again, Idle)) == ([], True, True)
    look = question.shown()
    assert look.pull is not None
    assert look.consent is not None
    assert (look.pull.state, look.pull.branch, look.pull.head) == (
        PullRequestState.OPEN,
        look.consent.branch,
        look.head,
    )
    assert look.head_text == look.consent.text
    assert len(question.stage.hub.pulls) == 1


def test_approved_and_merged_it_is_agreed_to(question: Asked) -> None:
    question.look()
    number = question.stage.hub.pulls[0].number
    question.stage.approve(number, "ada")
    question.stage.person_merges(number)
    outcome, actions = question.look()
    assert isinstance(outcome, Noticed)
    assert (outcome.agreed, [type(action) for action in actions]) == (True, [UseConsent])
    assert "approved by ada" in outcome.reasons[-1]


def test_merged_with_an_approval_of_before_a_push_it_is_not_until_that_head_is_approved(question: Asked) -> None:
    question.look()
    pull = question.stage.hub.pulls[0]
    question.stage.approve(pull.number, "ada")
    question.stage.hub.commit(pull.branch, {"note.txt": "one more word"})
    question.stage.person_merges(pull.number)
    outcome, actions = question.look()
    assert isinstance(outcome, Idle)
    assert [type(action) for action in actions] == [TellReviewers]
    assert len(question.stage.comments(pull.number)) == 1
    question.look()
    assert len(question.stage.comments(pull.number)) == 1
    question.stage.approve(pull.number, "ada")
    assert isinstance(question.look()[0], Noticed)


def test_closed_by_a_person_it_is_a_no_and_by_us_it_is_not(question: Asked) -> None:
    question.look()
    older = question.stage.hub.pulls[0]
    question.seen = V3
    question.look()  # v3 took its place
    assert (older.state, question.stage.hub.tip(older.branch)) == ("closed", "")
    question.seen = observed()
    outcome, actions = question.look()
    assert isinstance(outcome, Idle)
    assert sorted(type(action).__name__ for action in actions) == ["AskConsent", "WithdrawConsent"]
    question.stage.hub.close(question.stage.hub.pulls[-1])
    refused, _ = question.look()
    assert isinstance(refused, Refused)
    assert refused.pull_request == question.stage.hub.pulls[-1].number


def test_killed_after_the_push_it_goes_on_with_the_pull_request(question: Asked) -> None:
    question.look()
    first = question.stage.hub.pulls.pop()
    question.look()
    (second,) = question.stage.hub.pulls
    assert (second.branch, second.head) == (first.branch, first.head)
