"""Rollouts that people must agree to, on the real stack and the test forge, which keeps the stack's own Git repo.

One story under load: a version is superseded, the next one closed, the one after approved, moved, merged, approved
again, and then carried to the top. Each test below says what must have held.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

from pipelines.demo.load import Counters
from pipelines.local_stack import ENVIRONMENT, LocalStack
from policies.layout import consent_path
from policies.release import Outcome, Phase
from policies.rollout_record import HistoryRecord
from tests.e2e.brisk_documents import LENIENT, model_text, policy_text, slo_text
from tests.e2e.world import Begun, World, ask_people, clear
from tests.fakes.forge.gitea_api import GiteaApi
from tests.fakes.forge.hub import Hub, Person, Pull
from tests.fakes.forge.server import ForgeServer

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

MODEL = "agreed"
TOKEN = "a-token-of-the-forge"
GRACE = Person("grace")
GOOD = {"scale": 1.0, "unlucky": False}
DOCUMENTS = {
    "policies/slo-lenient.yaml": slo_text(LENIENT, 0.80),
    "policies/rollout-half.yaml": policy_text("half", shadow="null", steps=[50]),
    f"models/{MODEL}.yaml": model_text(MODEL, rollout="half", slo=LENIENT),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What was seen when people had been asked."""

    pull: Pull
    """As it was at the end."""
    first_body: str
    branches: str
    phase: str
    """Of the version, as its tag says."""
    words: str
    """Why it waited."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Story:
    """What was seen."""

    superseded: Asked
    closed: Asked
    verdict: str
    """Of the version that was closed, as its tag says."""
    merged: Asked
    stale_words: str
    served_meanwhile: frozenset[str]
    record: HistoryRecord
    requests: Counters
    branches: str
    log: str
    left: Mapping[str, object]


class Forge:
    """The forge, as people use it."""

    def __init__(self, hub: Hub, world: World) -> None:
        self.hub, self._world = hub, world

    def asked(self, number: int, version: int) -> Asked:
        """The pull request about this version, and what is said everywhere while it is open."""
        world, hub = self._world, self.hub
        world.wait(lambda: len(hub.pulls) >= number, f"pull request {number}", world.problems)
        pull = hub.pulls[number - 1]
        words = f"pull request {pull.number} ("
        world.wait(lambda: words in world.waits(MODEL), "the reconciler's words about it", lambda: world.waits(MODEL))
        world.wait(lambda: "review" in world.tags(MODEL, version), "its tag", lambda: str(world.tags(MODEL, version)))
        phase = world.tags(MODEL, version)["phase"]
        return Asked(pull=pull, first_body=pull.body, branches=self.branches, phase=phase, words=world.waits(MODEL))

    @property
    def branches(self) -> str:
        return self.hub.git("for-each-ref", "--format=%(refname)", "refs/heads/sluice")


@pytest.fixture(scope="module")
def story(ray_session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("reviewed")
    stack = LocalStack(folder / "stack", ray=ray_session, documents=DOCUMENTS, reconcile=False)
    server = ForgeServer(stack.folder / "git", GiteaApi)
    server.hub.people = {TOKEN: Person("sluice")}
    with pytest.MonkeyPatch.context() as environment, server, stack:
        environment.setenv("SLUICE_FORGE_TOKEN", TOKEN)
        world = World(folder, stack)
        world.begin([Begun(model=MODEL, configs=[GOOD] * 4, stable=1)])
        ask_people(stack, server.url)
        stack.start_reconciler()
        world.await_steady(MODEL, 1)
        yield told(world, Forge(server.hub, world))
        stack.stop()
        clear(ray_session)


def told(world: World, forge: Forge) -> Story:
    hub = forge.hub
    with world.load(MODEL) as load:
        world.await_answers(load, 1)
        world.promote(MODEL, 2)
        superseded = forge.asked(1, 2)
        world.promote(MODEL, 3)
        closed = forge.asked(2, 3)
        hub.close(closed.pull)
        world.await_release(MODEL, lambda r: [x.version for x in r.refused] == [3], "with v3 refused")
        world.wait(lambda: world.tags(MODEL, 3).get("phase") == "REFUSED", "its tag", lambda: str(world.tags(MODEL, 3)))
        verdict = world.tags(MODEL, 3)["verdict"]
        world.promote(MODEL, 4)
        merged = forge.asked(3, 4)
        hub.review(merged.pull.number, GRACE)
        hub.commit(merged.pull.branch, {"note.txt": "one more word"})
        hub.merge(merged.pull, GRACE, None, "merge")
        stale = "which is stale"
        world.wait(lambda: "stale" in world.waits(MODEL), stale, lambda: world.waits(MODEL))
        world.await_looks(2)
        stale_words, meanwhile = world.waits(MODEL), frozenset(load.counters().by_version)
        hub.review(merged.pull.number, GRACE)
        world.await_phase(MODEL, Phase.CANARY, 50)
        world.await_steady(MODEL, 4)
        world.await_looks(1)
        world.await_answers(load, 10)
        requests = load.stop()
    tip = world.stack.repo.read()
    return Story(
        superseded=superseded,
        closed=closed,
        verdict=verdict,
        merged=merged,
        stale_words=stale_words,
        served_meanwhile=meanwhile,
        record=world.records(MODEL)[-1],
        requests=requests,
        branches=forge.branches,
        log=(world.stack.folder / "reconciler.log").read_text(encoding="utf-8"),
        left={"consent": tip.files.get(consent_path(ENVIRONMENT, MODEL)), "git equals ray": world.git_equals_ray()},
    )


def test_a_promotion_in_the_registry_opens_a_pull_request_and_says_so_everywhere(story: Story) -> None:
    asked = story.superseded
    assert asked.phase == "IN_REVIEW"
    assert asked.pull.branch in asked.branches
    assert asked.pull.title == f"{MODEL} ({ENVIRONMENT}): start v2 over v1"
    assert "Merged, its rollout starts. Closed, v2 is refused." in asked.first_body
    assert "The same as that of v1." in asked.first_body
    assert "has no approval of its head" in asked.words


def test_a_newer_version_closes_the_pull_request_of_the_older_one_with_a_word(story: Story) -> None:
    pull = story.superseded.pull
    assert pull.state == "closed"
    (word,) = [comment.body.partition("-->\n")[2] for comment in pull.comments]
    assert word == "Closed by Sluicegate: superseded: v3 is what is wanted now."
    assert pull.branch not in story.closed.branches


def test_a_pull_request_that_people_close_refuses_the_version_and_the_registry_says_it(story: Story) -> None:
    number = story.closed.pull.number
    assert story.verdict.startswith(f"v3 was not agreed to: pull request {number} (")
    assert story.verdict.endswith("was closed")


def test_a_merge_with_an_approval_of_an_older_head_starts_nothing_and_says_so(story: Story) -> None:
    pull = story.merged.pull
    assert f"was merged at {pull.head[:8]} and has no approval of its head" in story.stale_words
    assert f"{GRACE.name} approved a commit of no known name, so that is stale" in story.stale_words  # Gitea's API
    assert story.served_meanwhile == {"1"}
    assert "Nothing was started by it" in pull.comments[-1].body


def test_approved_and_merged_it_goes_through_its_canary_to_the_top(story: Story) -> None:
    assert (story.record.version, story.record.outcome) == (4, Outcome.PROMOTED)
    weights = [(phase.phase, phase.weight_percent) for phase in story.record.phases]
    assert weights == [(Phase.WARMING, 0), (Phase.CANARY, 50), (Phase.SETTLING, 100)]
    assert any("was merged, approved by grace" in reason for reason in story.record.phases[0].reasons)


def test_no_request_is_lost_and_nothing_of_it_is_left(story: Story) -> None:
    assert story.requests.failed == 0, story.requests
    assert story.requests.by_version.keys() == {"1", "4"}
    assert story.branches == ""
    assert story.left == {"consent": None, "git equals ray": True}


def test_the_token_of_the_forge_is_in_no_log(story: Story) -> None:
    assert "people are asked by" in story.log
    assert TOKEN not in story.log
