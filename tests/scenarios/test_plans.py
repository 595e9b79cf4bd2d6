"""What `sluice plan` says a commit would do to what serves, before it is made."""

from __future__ import annotations

import json

from pipelines.commands.views import plan_impacts, plan_json, plan_lines
from policies.impact import Effect
from tests.scenarios.test_whole_rollouts import with_first
from tests.simulation.world import World


def effects(world: World) -> list[tuple[Effect, ...]]:
    return [each.effects for found in plan_impacts(world.reconciler.plan()).values() for each in found.deployments]


def test_a_plan_says_what_its_commit_starts_and_whom_it_asks() -> None:
    world = with_first()
    world.settle()
    assert effects(world) == []
    world.promote(world.register())
    assert effects(world) == [(Effect.IN_PLACE,), (Effect.STARTS,)]  # stable is told the new revision
    said = "\n".join(plan_lines(world.reconciler.plan()))
    assert "starts: a candidate beside fraud--v1-" in said
    assert "no request stalls" in said
    told = json.loads(plan_json(world.reconciler.plan()))["impact"]
    assert [each["effects"] for each in next(iter(told.values()))] == [["in place"], ["starts"]]
