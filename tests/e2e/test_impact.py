"""The rules of `policies/impact_rules.py` on a real Ray Serve, by the process ids of the replicas.

Each example of `pipelines/field_examples.py` is submitted before and after its change, as the renderer makes it, but
for the model's code: a small application that takes the same `user_config` starts in two seconds. A new application is
submitted under the old one's name, too, which is what a changed setting would do if it were no application of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest
import requests

from pipelines.field_effects import under_old_names
from pipelines.field_examples import ENVIRONMENT, EXAMPLES, Example, repos
from pipelines.serve_configs import meant
from policies.convergence import application_in_place
from policies.impact import Effect, impact
from policies.observations import ApplicationStatus
from serving_runtime.ray_cluster import ray_token
from tests.conditions import wait_until

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

pytestmark = [pytest.mark.real, pytest.mark.faults]  # minutes, all together

READY_S = 90.0
"""A replica starts in 2-3 s here; on a loaded machine ten times that."""
NEIGHBOUR = {
    "name": "neighbour",
    "route_prefix": "/neighbour",
    "import_path": "tests.contracts.small_app:build",
    "args": {"version": "1"},
    "deployments": [{"name": "Model", "user_config": {"revision": 1}, "ray_actor_options": {"num_cpus": 0.1}}],
}
CANNOT_START = {"settings.gpus", "settings.custom"}
"""No GPU and no such resource here: a successor is seen to be started, and waits."""
CANNOT_BUILD = {"settings.image", "settings.packages", "settings.environment"}
"""No container runtime and no such package here. Serve runs the application's code in its new environment before it
starts a replica there, so that fails; that `runtime_env` restarts is seen by `settings.env`."""
BUILD_FAILS_S = 180.0
"""Ray makes a virtual environment first, and tries again."""
NO_SUCH_PACKAGE = "./no-such-package"


def of_models() -> list[Any]:
    return [pytest.param(each, id=each.field) for each in EXAMPLES if each.kind == "Model"]


class Cluster:
    """The Serve that is asked, and who its replicas are."""

    def __init__(self, session: RaySession) -> None:
        self._session = session
        self.door = session.cluster

    def replicas(self) -> dict[tuple[str, str], tuple[str, int | None]]:
        """State and process by application and replica."""
        token = ray_token(self._session.environment)
        answer = requests.get(
            f"{self._session.dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        )
        return {
            (app["name"], replica["replica_id"]): (replica["state"], replica.get("pid"))
            for app in answer.json()["applications"].values()
            for deployment in app["deployments"].values()
            for replica in deployment["replicas"]
        }

    def running(self) -> dict[tuple[str, str], int | None]:
        return {who: pid for who, (state, pid) in self.replicas().items() if state == "RUNNING"}

    def submit(self, config: Mapping[str, Any]) -> None:
        self.door.apply({"applications": [*config.get("applications", ()), NEIGHBOUR]})

    def reach(self, config: Mapping[str, Any]) -> dict[tuple[str, str], int | None]:
        """Submit, wait until all of it runs and nothing else does; the replicas' processes."""
        self.submit(config)
        wanted = [*config.get("applications", ()), NEIGHBOUR]
        names = {app["name"] for app in wanted}

        def in_place() -> bool:
            seen = self.door.observe()
            shown = {name for name, _ in self.running()}
            return shown == names and not any(application_in_place(app, seen) for app in wanted)

        wait_until(in_place, READY_S, f"{sorted(names)} in place")
        return self.running()

    def told_once_more(self, config: Mapping[str, Any]) -> dict[tuple[str, str], int | None]:
        """The same with a higher revision: Serve does one thing after the other, so whatever came before has begun."""
        return self.reach({"applications": [_revised(app) for app in config["applications"]]})


@pytest.fixture
def cluster(ray_session: RaySession) -> Cluster:
    return Cluster(ray_session)


@pytest.mark.parametrize("example", of_models())
def test_every_field_of_the_model_document_does_what_the_table_says(cluster: Cluster, example: Example) -> None:
    startable = example.field not in CANNOT_START | CANNOT_BUILD
    before, after = configs(example, startable=startable)
    found = impact(before, after, None)
    effects = {effect for each in found.deployments for effect in each.effects}
    first = cluster.reach(before)
    if Effect.STOPS in effects and not after["applications"]:
        left = cluster.reach(after)
        assert left.items() <= first.items(), "the neighbour is not touched"
    elif example.field in CANNOT_BUILD:
        assert effects == {Effect.RESTARTS}
        is_built_anew(cluster, first, after)
    elif Effect.RESTARTS in effects:
        restarts(cluster, first, after, startable=startable)
    else:
        then = cluster.reach(after)
        assert first.items() <= then.items(), f"{example.field}: in place, and yet other processes"
        assert first.items() <= cluster.told_once_more(after).items()


def restarts(
    cluster: Cluster, first: Mapping[tuple[str, str], int | None], after: Mapping[str, Any], *, startable: bool
) -> None:
    """A successor is started while the one before serves; where it can be ready, that one goes."""
    (old,) = (who for who in first if who[0] != "neighbour")
    cluster.submit(after)
    unserved: list[object] = []

    def successor() -> bool:
        replicas = cluster.replicas()
        if not any(state == "RUNNING" and who[0] == old[0] for who, (state, _) in replicas.items()):
            unserved.append(replicas)
        return any(who[0] == old[0] and who != old for who in replicas)

    wait_until(successor, READY_S, f"a successor of {old}")
    assert not unserved, "the surge keeps one replica running"
    if not startable:
        cluster.reach({})  # it would be tried again and again
    else:
        then = cluster.reach(after)
        assert first[old] not in then.values()
        assert len(then) == len(first)


def is_built_anew(cluster: Cluster, first: Mapping[tuple[str, str], int | None], after: Mapping[str, Any]) -> None:
    """It is other code to Serve; what served before serves on."""
    (name,) = (app["name"] for app in after["applications"])
    cluster.submit(after)

    def failed() -> bool:
        return cluster.door.observe().applications[name].status is ApplicationStatus.DEPLOY_FAILED

    wait_until(failed, BUILD_FAILS_S, f"{name} fails to be built")
    assert first.items() <= cluster.running().items()
    cluster.reach({})


def configs(example: Example, *, startable: bool) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both, with the small application; a setting's new application under the old one's name."""
    before, after = (meant(repo, ENVIRONMENT) for repo in repos(example, given_before=startable))
    return _small(before), _small(under_old_names(before, after))


def _small(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "applications": [
            {**app, **_without_index(app), "import_path": NEIGHBOUR["import_path"]} for app in config["applications"]
        ]
    }


def _without_index(app: Mapping[str, Any]) -> dict[str, Any]:
    """Packages that no index is asked for."""
    environment = app.get("runtime_env") or {}
    named = {key: [NO_SUCH_PACKAGE] if key in ("pip", "uv") else value for key, value in environment.items()}
    return {"runtime_env": named} if named else {}


def _revised(app: Mapping[str, Any]) -> dict[str, Any]:
    deployments = [
        {**d, "user_config": {**d["user_config"], "revision": d["user_config"]["revision"] + 1}}
        for d in app["deployments"]
    ]
    return {**app, "deployments": deployments}


# --- settings are applications of their own, and a surge is what keeps requests from stalling -----------------------


def test_a_new_application_leaves_the_old_ones_replicas_alone(cluster: Cluster) -> None:
    (example,) = (each for each in EXAMPLES if each.field == "settings.cpus" and each.kind == "Model")
    before, after = (_small(meant(repo, ENVIRONMENT)) for repo in repos(example))
    first = cluster.reach(before)
    (new,) = after["applications"]
    both = cluster.reach({"applications": [*before["applications"], {**new, "route_prefix": None}]})
    assert first.items() <= both.items()
    assert {name for name, _ in both} == {"neighbour", *(a["name"] for a in before["applications"]), new["name"]}


@pytest.mark.parametrize(("surge", "stalls"), [(100, False), (0, True)])
def test_without_a_surge_a_single_replica_stops_before_its_successor_starts(
    cluster: Cluster, surge: int, stalls: bool
) -> None:
    (example,) = (each for each in EXAMPLES if each.field == "settings.cpus" and each.kind == "Model")
    before, after = configs(example, startable=True)
    for config in (before, after):
        config["applications"][0]["deployments"][0]["max_surge_percent"] = surge
    (found,) = impact(before, after, None).deployments
    assert found.stall.stalls is stalls
    first = cluster.reach(before)
    (old,) = (who for who in first if who[0] != "neighbour")
    cluster.submit(after)
    counts: list[int] = []

    def replaced() -> bool:
        running = [who for who in cluster.running() if who[0] == old[0]]
        counts.append(len(running))
        return bool(running) and old not in running

    wait_until(replaced, READY_S, "replaced")
    assert (min(counts) == 0) is stalls
