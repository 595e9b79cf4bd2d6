"""Whole rollouts where KubeRay's operator applies what Git says, some time later, and nobody submits to Ray himself."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.defaults import built_in_documents
from pipelines.look import Doors
from pipelines.reconciler import Reconciler
from policies.convergence import InPlace
from policies.errors import Stalled
from policies.release import CauseKind, Outcome, Phase, Wish
from policies.stepping import arrived
from serving_runtime.kuberay import KubeRay, RayServiceStatus, ServiceState
from serving_runtime.ray_cluster import RayCluster
from tests.fakes.operator import UPGRADE, OperatedCluster, OperatorServer
from tests.simulation.world import BAD, BROKEN, HEALTHY, STAGING, TEMPLATE, Environment, World

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


def phase(world: World) -> Phase | None:
    return world.release.phase if world.release else None


def said(world: World) -> str:
    """What the next look would say: every wait and remark."""
    tick = world.reconciler.tick()
    return "\n".join([*(wait.reason for wait in tick.waits), *tick.remarks, *tick.problems])


def serves_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    apps: list[dict[str, Any]] = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    return apps


def given(manifest: Mapping[str, Any]) -> int:
    """The largest share that a candidate gets by this manifest."""
    told = [d["user_config"] for app in serves_of(manifest) for d in app["deployments"]]
    return max((one["split"]["weight_percent"] for one in told if one.get("split")), default=0)


def settle(world: World) -> None:
    """Nothing moves any more, and Ray is what Git says."""
    world.settle(minutes=120)
    world.run_until(lambda: _arrived(world), minutes=30)
    world.settle(minutes=120)


def _arrived(world: World) -> bool:
    planned = world.reconciler.plan().manifests["production"]
    assert planned.manifest is not None
    serves = bool(world.release and world.release.stable)  # else the last application is kept, and waited for
    there = not arrived(planned.manifest.config, operated(world).observe())
    return not planned.changed and there and (isinstance(planned.step, InPlace) or not serves)


def assert_at_rest(world: World) -> None:
    settle(world)
    before = world.repo.branch_tip, len(operated(world).applied)
    for _ in range(10):
        world.step()
    assert (world.repo.branch_tip, len(operated(world).applied)) == before
    assert not world.reconciler.plan().moves


# --- rollouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syncs_every", [1, 20])
def test_a_first_version_makes_the_cluster_and_a_second_takes_over_step_by_step(syncs_every: int):
    world = World(environments=(OPERATED,))
    operated(world).syncs_every = syncs_every
    for number in (1, 2):
        world.promote(world.register())
        world.run_until(lambda number=number: steady_at(world, number), minutes=120)
    assert_at_rest(world)
    assert world.outcomes() == [(1, Outcome.PROMOTED), (2, Outcome.PROMOTED)]
    assert world.unanswered == 0
    assert operated(world).tried == []
    assert operated(world).upgrades == 0
    assert {given(manifest) for manifest in manifests(world)} == {0, 10, 50, 100}


def test_in_the_end_the_manifest_says_what_the_serve_config_says():
    world = world_with(versions=2)
    assert_at_rest(world)
    serve = yaml.safe_load(str(world.tip.files["environments/production/serve.yaml"]))
    assert serves_of(manifests(world)[-1]) == serve["applications"]
    assert [app["route_prefix"] for app in serve["applications"]] == ["/models/fraud"]


def test_a_step_is_written_once_the_step_before_it_is_there():
    world = world_with(versions=1)
    operated(world).syncs_every = 10
    world.promote(world.register())
    world.run_until(lambda: steady_at(world, 2), minutes=120)
    settle(world)
    written = [manifest["spec"] for manifest in manifests(world)]
    assert [manifest["spec"] for manifest in operated(world).applied] == written


def test_a_bad_candidate_is_taken_back_by_commits_alone():
    world = world_with(versions=1)
    bad = world.register(BAD)
    world.promote(bad)
    world.run_until(lambda: len(world.history()) == 2, minutes=120)
    assert world.outcomes()[-1] == (bad, Outcome.ROLLED_BACK)
    assert_at_rest(world)
    assert [app["args"]["version"] for app in serves_of(manifests(world)[-1])] == [1]
    assert (world.unanswered, operated(world).tried) == (0, [])


def test_a_stop_does_not_wait_for_the_step_before_it():
    world = world_with(versions=1)
    world.promote(world.register())
    world.run_until(lambda: phase(world) is Phase.CANARY, minutes=60)
    operated(world).syncs_every = 10_000  # Argo CD is down: the step to 10 % is in Git and goes nowhere
    world.step()
    assert given(manifests(world)[-1]) == 10
    world.ask(Wish.ABORT)
    world.run_until(lambda: phase(world) is Phase.ROLLING_BACK)
    stopped = manifests(world)[-1]
    assert given(stopped) == 0
    assert [d["user_config"]["drain"] for app in serves_of(stopped) for d in app["deployments"]] == [False, True]
    operated(world).syncs_every = 4
    assert_at_rest(world)
    assert world.outcomes()[-1] == (2, Outcome.ABORTED)
    assert all(given(manifest) == 0 for manifest in operated(world).applied)


def test_a_version_that_cannot_start_is_blamed_and_one_that_nobody_started_is_not():
    world = world_with(versions=1)
    settle(world)
    operated(world).stopped = True
    world.promote(world.register())
    world.run_until(lambda: phase(world) is Phase.PAUSED, minutes=60)
    assert world.release is not None
    assert world.release.rollout is not None
    assert world.release.rollout.cause is not None
    assert world.release.rollout.cause.kind is CauseKind.NOT_READY
    assert "KubeRay's operator has not submitted" in str(world.release.rollout.cause.reasons)
    assert world.release.quarantine == ()
    operated(world).stopped = False
    world.run_until(lambda: steady_at(world, 2), minutes=60)
    broken = world.register(BROKEN)
    world.promote(broken)
    world.run_until(lambda: len(world.history()) == 3, minutes=60)
    assert world.outcomes()[-1] == (broken, Outcome.ROLLED_BACK)
    assert_at_rest(world)
    assert world.unanswered == 0


def test_a_promotion_that_a_person_reverts_goes_back_without_a_lost_request():
    world = world_with(versions=2)
    settle(world)
    ended = next(c for c in reversed(world.commits()) if "promoted" in c.message)
    world.repo.revert(ended.hash)
    world.settle(minutes=240)
    assert world.unanswered == 0
    assert operated(world).tried == []


@pytest.mark.parametrize("seed", range(2))
def test_however_late_git_is_applied_and_whoever_crashes_no_request_is_lost(seed: int):
    dice = random.Random(seed)
    world = World(seed, environments=(OPERATED,))

    def weather() -> None:
        operated(world).syncs_every = dice.choice((1, 3, 8, 20))
        operated(world).stopped = dice.random() < 0.1
        if dice.random() < 0.05:
            world.restart()

    world.on_step = weather
    for _ in range(3):
        world.promote(world.register(dice.choice((BAD, BROKEN, HEALTHY, HEALTHY, HEALTHY))))
        world.pass_time(dice.choice((120, 600, 2400)))
    world.on_step = lambda: None
    operated(world).stopped = False
    assert_at_rest(world)
    assert (world.unanswered, operated(world).tried) == (0, [])


def test_beside_a_plain_ray_each_goes_its_own_way():
    world = World(environments=(OPERATED, STAGING))
    operated_one, plain = world.places
    number = world.register()
    operated_one.promote(number)
    plain.promote(number)
    world.run_until(lambda: all(place.history() for place in world.places), minutes=60)
    settle(world)
    assert plain.serve.answering(plain.route) == operated_one.serve.answering(operated_one.route)
    assert plain.serve.answering(plain.route) is not None
    assert ("environments/staging/rayservice.yaml" in world.tip.files, operated(world).tried) == (False, [])


class NoManifests:
    """A way to Git whose server lets nobody write the manifest, for as long as it refuses."""

    def __init__(self, repo: Any) -> None:
        self._repo, self.refuses = repo, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repo, name)

    def commit(self, parent: str, changes: Mapping[str, str | None], message: str) -> str:
        if self.refuses and PATH in changes:
            raise Stalled("refused: no manifests by robots")
        made: str = self._repo.commit(parent, changes, message)
        return made


def test_a_server_that_refuses_the_manifest_is_said_and_tried_again():
    world = world_with(versions=1)
    settle(world)
    door = NoManifests(world.line)
    world.reconciler = world.reconciler_on(door)
    world.promote(world.register())
    world.run_until(lambda: phase(world) is Phase.WARMING, minutes=10)
    tick = world.reconciler.tick()
    assert tick.problems == ("production: rayservice.yaml is not written: refused: no manifests by robots",)
    assert tick.submitted == ()
    door.refuses = False
    world.run_until(lambda: steady_at(world, 2), minutes=120)
    assert world.unanswered == 0


# --- the cluster's template ---------------------------------------------------------------------------------------


def change_template(world: World, image: str = "registry.example.com/serving:2") -> None:
    world.template = TEMPLATE.replace("registry.example.com/serving:1", image)
    world.mend()


def images(world: World) -> list[str]:
    return [str(m["spec"]["rayClusterConfig"]).split("'image': '")[1].split("'")[0] for m in manifests(world)]


def test_a_new_template_goes_alone_and_replaces_the_cluster_without_a_lost_request():
    world = world_with(versions=1)
    settle(world)
    before = manifests(world)[-1]
    change_template(world)
    assert_at_rest(world)
    after = manifests(world)[-1]
    assert images(world)[-2:] == ["registry.example.com/serving:1", "registry.example.com/serving:2"]
    assert after["spec"]["serveConfigV2"] == before["spec"]["serveConfigV2"]
    assert operated(world).upgrades == 1
    assert world.unanswered == 0


def test_a_new_template_waits_for_the_rollout_that_runs_and_goes_before_the_next():
    world = world_with(versions=1)
    world.promote(world.register())
    world.run_until(lambda: phase(world) is Phase.CANARY, minutes=60)
    change_template(world)
    world.run_until(lambda: "the cluster's template changes once no rollout runs" in said(world), minutes=60)
    world.promote(world.register())
    world.run_until(lambda: steady_at(world, 3), minutes=240)
    order = [image[-1] for image in images(world)]
    versions = [max(app["args"]["version"] for app in serves_of(m)) for m in manifests(world)]
    first_new = order.index("2")
    assert versions[first_new] == 2
    assert max(versions[:first_new]) == 2
    assert (world.unanswered, operated(world).upgrades) == (0, 1)


def test_while_a_cluster_is_replaced_no_rollout_starts_and_the_reason_is_said():
    world = world_with(versions=1)
    settle(world)
    change_template(world)
    world.run_until(lambda: operated(world).upgrading)
    operated(world).stopped = True
    world.promote(world.register())
    world.pass_time(1200)
    assert phase(world) is Phase.STEADY
    assert UPGRADE in said(world)
    operated(world).stopped = False
    world.run_until(lambda: steady_at(world, 2), minutes=60)
    assert world.unanswered == 0


# --- what people do to the file -----------------------------------------------------------------------------------


def test_a_manifest_that_is_gone_stops_the_environment_in_words():
    world = world_with(versions=1)
    settle(world)
    text = world.tip.files[PATH]
    world.repo.person_commits({PATH: None})
    world.step()
    assert f"{PATH} is gone" in said(world)
    world.repo.person_commits({PATH: text})
    assert_at_rest(world)
    assert PATH in world.tip.files


def test_a_manifest_that_somebody_broke_stops_the_environment_in_words():
    world = world_with(versions=1)
    settle(world)
    world.repo.person_commits({PATH: "kind: RayService\n"})
    world.step()
    assert "is no RayService with spec.serveConfigV2" in said(world)


def test_without_git_it_is_said_that_nothing_can_be_stopped_beside_the_guards():
    world = world_with(versions=1)
    world.promote(world.register(BAD))
    world.run_until(lambda: phase(world) is Phase.SHADOW, minutes=60)
    world.line.cut = True
    world.pass_time(300)
    assert "KubeRay's operator applies is only changed by a commit" in said(world)
    assert operated(world).tried == []


# --- through the real doors ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def over_http(world: World, account: Path) -> Iterator[OperatorServer]:
    """The world's reconciler with the real doors to Ray and to Kubernetes, which a server answers as they would."""
    (account / "token").write_text("secret\n")
    with OperatorServer(operated(world), "ray/production", "secret") as server:
        status = RayServiceStatus(server.url, "ray/production", account)
        runtime = KubeRay(RayCluster(server.url), status.read)
        doors = dataclasses.replace(_doors(world), runtime=lambda _target: runtime)
        clock = world.reconciler._clock
        world.reconciler = Reconciler(doors, clock, built_in_documents())
        yield server


def _doors(world: World) -> Doors:
    return world.reconciler._doors


def test_a_rollout_and_an_upgrade_through_the_dashboard_and_the_kubernetes_api(tmp_path: Path):
    world = World(environments=(OPERATED,))
    with over_http(world, tmp_path) as server:
        world.promote(world.register())
        world.run_until(lambda: steady_at(world, 1), minutes=60)
        world.promote(world.register())
        world.run_until(lambda: steady_at(world, 2), minutes=60)
        change_template(world)
        world.run_until(lambda: operated(world).upgrading, minutes=60)
        world.promote(world.register())
        assert "UpgradeInProgress" in said(world)
        world.run_until(lambda: steady_at(world, 3), minutes=120)
        assert (server.puts, world.unanswered, operated(world).upgrades) == (0, 0, 1)


def test_a_status_that_cannot_be_read_counts_as_an_upgrade(tmp_path: Path):
    world = world_with(versions=1)
    (tmp_path / "token").write_text("secret\n")
    with OperatorServer(operated(world), "ray/production", "secret") as server:
        door = RayServiceStatus(server.url, "ray/production", tmp_path)
        assert door.read() == ServiceState()
        (tmp_path / "token").write_text("wrong\n")
        assert "cannot be seen: the Kubernetes API answers 401" in door.read().upgrading
        (tmp_path / "token").unlink()
        assert "cannot be seen: FileNotFoundError" in door.read().upgrading
        (tmp_path / "token").write_text("secret\n")
        server.answers_status = 503
        assert "answers 503" in door.read().upgrading
        assert RayServiceStatus(server.url, "ray/other", tmp_path).read() == ServiceState(serves=False)
    assert "cannot be seen" in door.read().upgrading
    assert "no pod" in RayServiceStatus("", "ray/production", tmp_path).read().upgrading


def test_a_first_version_that_cannot_start_gives_way_to_the_next():
    world = World(environments=(OPERATED,))
    world.promote(broken := world.register(BROKEN))
    world.run_until(lambda: bool(world.history()), minutes=60)
    assert world.outcomes() == [(broken, Outcome.ROLLED_BACK)]
    assert f"v{broken}" in str(world.release.quarantine) or world.release.quarantine[0].version == broken
    world.promote(good := world.register())
    world.run_until(lambda: steady_at(world, good), minutes=60)
    assert_at_rest(world)


def test_without_access_to_kubernetes_an_upgrade_is_a_step_that_does_not_arrive():
    world = World(environments=(OPERATED,))
    operated(world).status_is_read = False
    world.promote(world.register())
    world.run_until(lambda: steady_at(world, 1), minutes=60)
    settle(world)
    change_template(world)
    world.run_until(lambda: operated(world).upgrading, minutes=30)
    operated(world).stopped = True
    world.promote(world.register())
    world.pass_time(30)
    assert "the last step in rayservice.yaml has not reached Ray yet" in said(world)
    operated(world).stopped = False
    world.run_until(lambda: steady_at(world, 2), minutes=60)
    assert (world.unanswered, operated(world).tried) == (0, [])


def test_an_upgrade_that_never_ends_is_taken_back_with_the_template():
    world = world_with(versions=1)
    settle(world)
    change_template(world)
    world.run_until(lambda: operated(world).upgrading, minutes=30)
    operated(world).hangs = True
    world.pass_time(600)
    assert operated(world).upgrading
    world.template = TEMPLATE
    world.mend()
    assert_at_rest(world)
    assert images(world)[-1] == "registry.example.com/serving:1"
    assert not operated(world).upgrading
    assert world.unanswered == 0
