"""Seeded disorder around rollouts that people must agree to: whatever happens, nothing starts that nobody approved."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from policies.consent import branches_of
from policies.pull_requests import PullRequest, PullRequestState, fresh
from policies.release import Phase, Purpose, Wish
from tests.simulation.world import BAD, EACH_STEP, HEALTHY, MODEL, REVIEWED, World

SEEDS = range(6)
STEPS = 150
BRANCHES = branches_of("production", MODEL)


class People:
    """Who promotes, approves, merges, closes, pushes and reverts; and what breaks meanwhile."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world, self.dice = world, dice
        self.acts: tuple[tuple[int, Callable[[], None]], ...] = (
            (40, lambda: None),
            (5, self.promote),
            (2, self.archive),
            (14, self.approve),
            (10, self.merge),
            (2, self.close),
            (3, self.push),
            (1, self.revert),
            (1, self.undo),
            (2, self.retry),
            (3, self.forge_goes),
            (2, self.registry_goes),
            (2, self.git_goes),
            (5, self.all_return),
            (3, world.restart),
        )

    def act(self) -> None:
        weights, acts = zip(*self.acts, strict=True)
        self.dice.choices(acts, weights)[0]()

    def one_open(self) -> PullRequest | None:
        found = [pull for pull in self.world.forge.pulls() if pull.state is PullRequestState.OPEN]
        return self.dice.choice(found) if found else None

    def promote(self) -> None:
        self.world.promote(self.world.register(self.dice.choice((HEALTHY, HEALTHY, BAD))))

    def archive(self) -> None:
        self.world.archive(self.dice.choice(sorted(self.world.versions)))

    def approve(self) -> None:
        if pull := self.one_open():
            self.world.forge.approve(pull.number, self.dice.choice(("ada", "grace", "sluice")))

    def merge(self) -> None:
        if pull := self.one_open():
            self.world.forge.person_merges(pull.number)

    def close(self) -> None:
        if pull := self.one_open():
            self.world.forge.person_closes(pull.number)

    def push(self) -> None:
        pull = self.one_open()
        if pull and pull.branch in self.world.repo.heads:
            self.world.repo.person_pushes(pull.branch, {"README.md": f"{self.dice.random()}\n"})

    def revert(self) -> None:
        self.world.repo.revert(self.world.repo.branch_tip or "")

    def undo(self) -> None:
        release = self.world.release
        if release and release.served and release.phase is Phase.STEADY and not release.ask:
            self.world.ask(Wish.UNDO)

    def retry(self) -> None:
        release = self.world.release
        stopped = [q.version for q in release.quarantine] if release else []
        if release and stopped and release.phase is Phase.STEADY and not release.ask:
            self.world.ask(Wish.RETRY, stopped[-1])

    def forge_goes(self) -> None:
        self.world.forge.away = "the forge does not answer"

    def registry_goes(self) -> None:
        self.world.registry.away = "connection refused"

    def git_goes(self) -> None:
        self.world.line.cut = True

    def agree(self) -> bool:
        """Everything that is open is approved and merged, and what was merged too early is approved."""
        for pull in self.world.forge.pulls():
            if pull.state is not PullRequestState.CLOSED:
                self.world.forge.approve(pull.number, "grace")
        while pull := self.one_open():
            self.world.forge.person_merges(pull.number)
        return True

    def come_to_an_end(self) -> None:
        """They agree to everything; a step that somebody closed before ends its rollout."""
        self.agree()
        release = self.world.release
        closed = [pull.branch for pull in self.world.forge.pulls() if pull.state is PullRequestState.CLOSED]
        running = release.rollout if release and release.phase is not Phase.ROLLING_BACK else None
        if running and not release.ask and any(branch.startswith(f"{BRANCHES}{running.id}-") for branch in closed):
            self.world.ask(Wish.ABORT)

    def all_return(self) -> None:
        self.world.forge.away = self.world.registry.away = None
        self.world.line.cut = False


def agreed_to(world: World, version: int) -> bool:
    """Did somebody merge a pull request about this version whose head somebody else than its author had approved?"""
    away, world.forge.away = world.forge.away, None
    try:
        return any(
            pull.state is PullRequestState.MERGED
            and pull.branch.startswith(f"{BRANCHES}v{version}-")
            and any(a.by != pull.author for a in fresh(world.forge.approvals(pull.number), pull.head))
            for pull in world.forge.pulls()
        )
    finally:
        world.forge.away = away


def open_ones(world: World) -> list[str]:
    return [pull.branch for pull in world.forge.pulls() if pull.state is PullRequestState.OPEN]


@pytest.mark.parametrize("environment", [REVIEWED, EACH_STEP], ids=["start", "each step"])
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_starts_that_nobody_approved_and_one_question_is_open_at_most(seed, environment):
    dice = random.Random(seed)
    world = World(seed, environments=(environment,))
    people = People(world, dice)
    started: set[str] = set()
    world.promote(world.register())
    world.run_until(lambda: people.agree() and world.release is not None and world.release.stable is not None)
    for _ in range(STEPS):
        people.act()
        world.step()
        assert len(open_ones(world)) <= 1
        for release in world._first.releases():
            rollout, candidate = release.rollout, release.candidate
            if rollout is None or candidate is None or rollout.id in started:
                continue
            started.add(rollout.id)
            assert rollout.purpose is Purpose.UNDO or agreed_to(world, candidate.version), rollout.id
    people.all_return()
    world.on_step = people.come_to_an_end
    world.settle(minutes=240)
    assert not world.reconciler.plan().moves
    assert len(world.repo.heads) <= 1
    assert world.unanswered == 0
