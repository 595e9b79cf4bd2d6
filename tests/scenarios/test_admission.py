"""Admission over whole rollouts: what is refused stays out in every place where people look, and comes in by itself."""

from __future__ import annotations

import json

from pipelines.commands.views import history_lines, plan_json, plan_lines
from policies.model_signatures import Column, Signature, Type
from policies.release import Outcome, Phase
from tests.scenarios.test_whole_rollouts import assert_at_rest, serving, with_first
from tests.simulation.world import MODEL, POLICY, World

ASKS = """\
admission:
  tags: {validated: "yes"}
  metrics: [{metric: auc, margin: 0.01}]
"""
RETYPED = Signature(inputs=(Column("amount", Type("string")),))


def asking(terms: str = ASKS) -> World:
    """v1 serves, and the policy asks from now on."""
    world = with_first()
    world.registry.log_metric(MODEL, 1, "auc", 0.9)
    world.repo.person_commits({"policies/quick.yaml": POLICY % world.steps + terms})
    return world


def refused(world: World) -> list[int]:
    return [r.version for r in world.release.refused] if world.release else []


def log(world: World) -> str:
    return "\n".join(snapshot.message for snapshot in world.commits())


def test_a_version_without_tag_and_metric_waits_and_is_promoted_once_it_has_both():
    world = asking()
    lost = world.unanswered
    world.promote(world.register())
    world.run_until(lambda: refused(world) == [2])
    assert_at_rest(world)
    assert serving(world, 1)
    tags = world.versions[2].tags
    assert tags["sluice.production.phase"] == "REFUSED"
    assert tags["sluice.production.admission"].startswith("refused: tags fail, metrics fail, ")
    assert "(set on v2 in MLflow: validated=yes)" in tags["sluice.production.verdict"]
    assert "fail: metrics: auc is not known: run fraud-2 has not logged it" in log(world)

    world.registry.set_tag(MODEL, 2, "validated", "yes")
    assert_at_rest(world)
    assert world.versions[2].tags["sluice.production.admission"].startswith("refused: metrics fail, ")
    world.registry.log_metric(MODEL, 2, "auc", 0.895)
    (plan,) = [line for line in plan_lines(world.reconciler.plan()) if "pass: metrics" in line]
    assert plan == "  pass: metrics: auc is 0.895, v1 has 0.9; it may be worse by 0.01"
    world.run_until(lambda: serving(world, 2))
    assert world.unanswered == lost
    assert refused(world) == []
    told = history_lines(world.history()[-1:], long=True)
    assert "      v2 was refused before, and may be tried by now" in told
    assert "      pass: tags: it carries validated" in told
    assert world.versions[2].tags["sluice.production.admission"].startswith("admitted: ")
    assert_at_rest(world)


def test_while_it_is_refused_every_plan_says_why_and_what_ends_it():
    world = asking()
    world.promote(world.register())
    world.run_until(lambda: refused(world) == [2])
    world.settle()
    plan = world.reconciler.plan()
    assert not plan.moves
    (line,) = plan_lines(plan)
    assert "waits: v2 is not admitted: tags: the tag validated is missing (set on v2 in MLflow: validated=yes)" in line
    assert "it is asked again while it is at the trigger" in line
    (action,) = json.loads(plan_json(plan))["actions"]
    assert action["action"] == "Wait"


def test_a_changed_signature_is_refused_and_a_later_version_that_kept_it_is_promoted():
    world = with_first()
    retyped = world.register()
    world.registry.sign(MODEL, retyped, RETYPED)
    world.promote(retyped)
    world.run_until(lambda: refused(world) == [retyped])
    assert "fail: signature: against v1: input amount is string, was double" in log(world)
    assert_at_rest(world)
    world.promote(world.register(), archive=False)
    world.run_until(lambda: serving(world, 3))
    assert world.outcomes()[-1] == (3, Outcome.PROMOTED)
    world.repo.person_commits({"policies/quick.yaml": POLICY % world.steps + "admission: {signature: any}\n"})
    assert_at_rest(world)
    assert serving(world, 3)  # v2 is still at the trigger, and old by now


def test_the_policy_that_asks_no_longer_lets_it_in():
    world = with_first()
    retyped = world.register()
    world.registry.sign(MODEL, retyped, RETYPED)
    world.promote(retyped)
    world.run_until(lambda: refused(world) == [retyped])
    world.repo.person_commits({"policies/quick.yaml": POLICY % world.steps + "admission: {signature: any}\n"})
    world.run_until(lambda: serving(world, retyped))
    assert world.outcomes()[-1] == (retyped, Outcome.PROMOTED)


def test_pickled_files_are_said_and_stop_nothing_unless_the_policy_denies_them():
    world = with_first()
    pickled = world.register()
    world.registry.pickle(MODEL, pickled, "model.pkl")
    world.promote(pickled)
    world.run_until(lambda: serving(world, pickled))
    assert "warn: pickle: what unpickles can run anything: model.pkl" in log(world)
    world.repo.person_commits({"policies/quick.yaml": POLICY % world.steps + "admission: {pickle: deny}\n"})
    other = world.register()
    world.registry.pickle(MODEL, other, "model.pkl")
    world.promote(other)
    world.run_until(lambda: refused(world) == [other])
    assert serving(world, pickled)


def test_a_version_waits_for_room_where_the_policy_requires_it_and_starts_when_there_is_some():
    world = asking("admission: {capacity: require}\n")
    world.serve.has = {"CPU": 1.5}
    version = world.register()
    world.promote(version)
    world.run_until(lambda: refused(world) == [version])
    assert "fail: capacity: beside what runs there is no room for 1 more, each of which reserves 1 CPU" in log(world)
    assert_at_rest(world)
    world.serve.has = {"CPU": 2.0}
    world.run_until(lambda: serving(world, version))


def test_a_registry_that_is_away_refuses_nobody():
    world = asking()
    version = world.register()
    world.promote(version)
    world.registry.unknown = "the artifact store does not answer"
    world.pass_time(60)
    assert refused(world) == []
    assert world.release is not None
    assert world.release.phase is Phase.STEADY
    waits = [action.reason for action in world.reconciler.plan().waits]
    assert waits == [
        f"v{version} is wanted, but what is asked of it cannot be read: the artifact store does not answer"
    ]
    world.registry.unknown = None
    world.run_until(lambda: refused(world) == [version])
