"""The reconciler can be killed after any action and started anywhere: the story ends the same."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from policies.release import Outcome, Phase
from tests.simulation.world import BAD, World

ACTIONS = ("commit", "apply", "mark_applied", "annotate", "restore")


def story(world: World) -> World:
    world.promote(world.register())
    world.run_until(lambda: len(world.history()) == 1)
    world.promote(world.register())
    world.run_until(lambda: len(world.history()) == 2, minutes=60)
    world.promote(world.register(BAD))
    world.run_until(lambda: len(world.history()) == 3, minutes=60)
    world.settle()
    return world


def told(world: World) -> list[tuple[int, Outcome]]:
    assert world.release.phase is Phase.STEADY
    shown = world.registry.snapshot(["fraud"]).models["fraud"]
    assert {n: v.stage for n, v in shown.items()} == {1: "Archived", 2: "Production", 3: "Archived"}
    assert [q.version for q in world.release.quarantine] == [3]
    return world.outcomes()


EXPECTED = [(1, Outcome.PROMOTED), (2, Outcome.PROMOTED), (3, Outcome.ROLLED_BACK)]


def test_without_a_crash():
    assert told(story(World())) == EXPECTED


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_after_every_second_action_of_a_kind(action):
    seen: Counter[str] = Counter()

    def due(name: str) -> bool:
        seen[name] += 1
        return name == action and seen[name] % 2 == 1

    world = story(World(due=due))
    assert world.crashes > 0
    assert told(world) == EXPECTED
    assert world.unanswered == 0


def test_killed_after_each_action_of_any_kind_once_in_three():
    count = 0

    def due(name: str) -> bool:
        nonlocal count
        count += name in ACTIONS
        return name in ACTIONS and count % 3 == 0

    world = story(World(due=due))
    assert world.crashes > 20
    assert world.unanswered == 0
    assert told(world) == EXPECTED


def test_killed_before_ray_was_told_and_away_for_longer_than_a_start_may_take():
    armed = False
    world = World(due=lambda name: armed and name == "commit")
    world.promote(world.register())
    world.run_until(lambda: len(world.history()) == 1)
    world.promote(world.register())
    armed = True
    world.run_until(lambda: world.crashes == 1)
    armed = False
    assert world.release.phase is Phase.WARMING
    world.now += timedelta(minutes=15)
    world.run_until(lambda: len(world.history()) == 2)
    assert world.outcomes()[-1] == (2, Outcome.PROMOTED)
