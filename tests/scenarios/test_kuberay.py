"""Whole rollouts where KubeRay's operator applies what Git says, some time later, and nobody submits to Ray himself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from policies.release import Outcome, Phase
from tests.fakes.operator import OperatedCluster
from tests.simulation.world import Environment, World

OPERATED = Environment("production", stage="Production", kuberay=True)
PATH = "environments/production/rayservice.yaml"


def world_with(*, versions: int = 1, guards: bool = False) -> World:
    world = World(environments=(OPERATED,), guards=guards)
    for _ in range(versions):
        world.promote(number := world.register())
        world.run_until(lambda number=number: steady_at(world, number), minutes=60)
    return world


def steady_at(world: World, version: int) -> bool:
    release = world.release
    return bool(release and release.phase is Phase.STEADY and release.stable and release.stable.version == version)


def operated(world: World) -> OperatedCluster:
    cluster: Any = world.serve
    assert isinstance(cluster, OperatedCluster)
    return cluster


def manifests(world: World) -> list[Mapping[str, Any]]:
    """Every text that the manifest had in Git, oldest first, parsed."""
    texts = [commit.files.get(PATH) for commit in world.commits()]
    changes = [text for before, text in zip([None, *texts], texts, strict=False) if text != before]
    return [yaml.safe_load(str(text)) for text in changes if text is not None]


def test_a_first_version_makes_the_cluster_and_a_second_takes_over_step_by_step():
    world = world_with(versions=2)
    assert world.outcomes() == [(1, Outcome.PROMOTED), (2, Outcome.PROMOTED)]
    assert world.unanswered == 0
    assert operated(world).tried == []
    assert operated(world).upgrades == 0


def test_x():
    world = World(environments=(OPERATED,))
    world.promote(world.register())
    try:
        world.run_until(lambda: steady_at(world, 1), minutes=30)
        world.promote(world.register())
        world.run_until(lambda: steady_at(world, 2), minutes=60)
    finally:
        for c in world.commits():
            print(c.date.strftime("%H:%M:%S"), c.message)
        print(world.reconciler.tick().remarks)
