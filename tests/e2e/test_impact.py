"""The rules of `policies/impact_rules.py` on a real Ray Serve, by the process ids of the replicas.

Each example of `pipelines/field_examples.py` is submitted before and after its change, as the renderer makes it, but
for the model's code: a small application that takes the same `user_config` starts in two seconds. A new application is
submitted under the old one's name, too, which is what a changed setting would do if it were no application of its own.

A neighbour is told something new in each submit. Serve takes a whole config over at once: when the neighbour has heard,
whatever the change does has begun.
"""

from __future__ import annotations

import json
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
NEIGHBOUR = "neighbour"
SMALL_APP = "tests.contracts.small_app:build"
CANNOT_START = {"settings.gpus", "settings.custom"}
"""No GPU and no such resource here: a successor is seen to be started, and waits."""
CANNOT_BUILD = "settings.image"
"""No container runtime here. Serve runs the application's code in its new environment before it starts a replica there:
that it tries to is seen, and that it leaves the replicas alone when that fails."""
NOT_ALONE = {"settings.placement.bundles", "settings.placement.strategy"}
"""Serve 2.60 takes no notice of a placement group that changes alone: it does as soon as another field changes too."""
PACKAGES = "PACKAGES"
"""Lists of packages stand as this variable in the `runtime_env`, which Serve compares as a whole. For a real one Ray
would copy the virtual environment that it runs in, which takes minutes, and uv itself would come from an index."""


def of_models() -> list[Any]:
    return [pytest.param(each, id=each.field) for each in EXAMPLES if each.kind == "Model"]


Processes = Mapping[tuple[str, str], int | None]
"""Of replicas, by application and replica."""


class Cluster:
    """The Serve that is asked, and who its replicas are."""

    def __init__(self, session: RaySession) -> None:
        self._session = session
        self._told = 0
        self.door = session.cluster

    def replicas(self) -> dict[tuple[str, str], tuple[str, int | None]]:
        """State and process, as Serve shows them. While it builds an application's code it shows none of it."""
        return {
            (app["name"], replica["replica_id"]): (replica["state"], replica.get("pid"))
            for app in self._get("/api/serve/applications/")["applications"].values()
            for deployment in app["deployments"].values()
            for replica in deployment["replicas"]
        }

    def running(self) -> dict[tuple[str, str], int | None]:
        return {who: pid for who, (state, pid) in self.replicas().items() if state == "RUNNING"}

    def alive(self) -> dict[tuple[str, str], int | None]:
        """The processes that there are, as Ray itself knows them."""
        shown = self._get("/api/v0/actors?limit=10000&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE")
        names = {actor["name"]: actor["pid"] for actor in shown["data"]["result"]["result"]}
        replicas = {name.partition("::")[2]: pid for name, pid in names.items() if name.startswith("SERVE_REPLICA::")}
        return {(who.split("#")[0], who.split("#")[2]): pid for who, pid in replicas.items()}

    def answers(self, config: Mapping[str, Any]) -> bool:
        """Does the config's one application answer at its route?"""
        (app,) = config["applications"]
        return requests.get(f"{self._session.http}{app['route_prefix']}", timeout=10).ok

    def submit(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What was submitted: the config, and the neighbour with something new to be told."""
        self._told += 1
        submitted = {"applications": [*config.get("applications", ()), neighbour(self._told)]}
        self.door.apply(submitted)
        return submitted

    def reach(self, config: Mapping[str, Any]) -> dict[tuple[str, str], int | None]:
        """Submit, wait until all of it runs and nothing else does; the replicas' processes."""
        wanted = self.submit(config)["applications"]
        names = {app["name"] for app in wanted}

        def in_place() -> bool:
            seen = self.door.observe()
            shown = {name for name, _ in self.running()}
            return shown == names and not any(application_in_place(app, seen) for app in wanted)

        wait_until(in_place, READY_S, f"{sorted(names)} in place")
        return self.running()

    def _get(self, path: str) -> Any:
        token = ray_token(self._session.environment)
        answer = requests.get(
            f"{self._session.dashboard}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=10
        )
        answer.raise_for_status()
        return answer.json()


def neighbour(revision: int) -> dict[str, Any]:
    told = {"user_config": {"revision": revision}, "ray_actor_options": {"num_cpus": 0.1}}
    return {
        "name": NEIGHBOUR,
        "route_prefix": f"/{NEIGHBOUR}",
        "import_path": SMALL_APP,
        "args": {"version": "1"},
        "deployments": [{"name": "Model", **told}],
    }


@pytest.fixture(scope="module")
def cluster(ray_session: RaySession) -> Cluster:
    return Cluster(ray_session)


@pytest.mark.parametrize("example", of_models())
def test_every_field_of_the_model_document_does_what_the_table_says(cluster: Cluster, example: Example) -> None:
    before, after = configs(example)
    effects = {effect for each in impact(before, after, None).deployments for effect in each.effects}
    first = cluster.reach(before)
    if Effect.STOPS in effects and not after["applications"]:
        left = cluster.reach(after)
        assert left.items() <= first.items(), "the neighbour is not touched"
    elif example.field in CANNOT_START:
        assert effects == {Effect.RESTARTS}
        wait_for_a_successor(cluster, first, after)
        assert cluster.reach(before) == first, "where the successor cannot start, the one before serves on"
    elif example.field == CANNOT_BUILD:
        assert effects == {Effect.RESTARTS}
        fails_to_be_built(cluster, first, before, after)
        assert cluster.reach(before) == first, "where it cannot be built, the one before serves on"
    elif Effect.RESTARTS in effects:
        if example.field in NOT_ALONE:
            assert cluster.reach(after) == first, f"{example.field} alone: Serve takes notice, and the table may say so"
            after = revised(after)
        then = restarted(cluster, first, after)
        assert len(then) == len(first)
        assert set(then.values()) & set(first.values()) == {first[who] for who in first if who[0] == NEIGHBOUR}
    else:
        then = cluster.reach(after)
        assert first.items() <= then.items(), f"{example.field}: in place, and yet other processes"


def wait_for_a_successor(cluster: Cluster, first: Processes, after: Mapping[str, Any]) -> None:
    """It is started while the one before serves."""
    old = the_one_of(first)
    cluster.submit(after)
    unserved: list[object] = []

    def successor() -> bool:
        replicas = {who: state for who, (state, _) in cluster.replicas().items() if who[0] == old[0]}
        if "RUNNING" not in replicas.values() if replicas else old not in cluster.alive():
            unserved.append(replicas)
        return any(who != old for who in replicas)

    wait_until(successor, READY_S, f"a successor of {old}")
    assert not unserved, "the surge keeps one replica running"


def restarted(cluster: Cluster, first: Processes, after: Mapping[str, Any]) -> Processes:
    """Who runs once the successor is ready and the one before goes; how long it takes to go is another matter."""
    old = the_one_of(first)
    wait_for_a_successor(cluster, first, after)
    running: list[Processes] = []

    def replaced() -> bool:
        running.append(cluster.running())
        return old not in running[-1] and old[0] in {name for name, _ in running[-1]}

    wait_until(replaced, READY_S, f"{old} replaced")
    return running[-1]


def fails_to_be_built(cluster: Cluster, first: Processes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """It is other code to Serve; what served before serves on."""
    (name,) = (app["name"] for app in after["applications"])
    wait_until(lambda: cluster.answers(before), READY_S, f"{name} answers")
    cluster.submit(after)

    def failed() -> bool:
        return cluster.door.observe().applications[name].status is ApplicationStatus.DEPLOY_FAILED

    wait_until(failed, READY_S, f"{name} fails to be built")
    assert first.items() <= cluster.alive().items()
    assert cluster.answers(before)


def the_one_of(processes: Processes) -> tuple[str, str]:
    """The replica of the one application beside the neighbour."""
    (only,) = (who for who in processes if who[0] != NEIGHBOUR)
    return only


def configs(example: Example) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both, with the small application; a setting's new application under the old one's name.

    Where replicas are replaced that is a name of the example's own: whatever the test before left is no part of it, and
    may take its time to go.
    """
    lacking = {*CANNOT_START, CANNOT_BUILD}
    before, after = (meant(repo, ENVIRONMENT) for repo in repos(example, given_before=example.field not in lacking))
    both = small(before), small(under_old_names(before, after))
    if example.is_setting and example.field not in lacking:
        return named_after(example, both[0]), named_after(example, both[1])
    return both


def small(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "applications": [
            {**app, **_without_packages(app), "import_path": SMALL_APP, "args": {"version": 1, **app["args"]}}
            for app in config["applications"]
        ]
    }


def _without_packages(app: Mapping[str, Any]) -> dict[str, Any]:
    environment = app.get("runtime_env") or {}
    packages = {key: listed for key, listed in environment.items() if key in ("pip", "uv")}
    if not packages:
        return {}
    variables = {**environment.get("env_vars", {}), PACKAGES: json.dumps(packages)}
    kept = {key: value for key, value in environment.items() if key not in packages}
    return {"runtime_env": {**kept, "env_vars": variables}}


def named_after(example: Example, config: Mapping[str, Any]) -> dict[str, Any]:
    own = f"{example.kind}-{example.field}".lower().replace(".", "-").replace("_", "-")
    (app,) = config["applications"]
    return {"applications": [{**app, "name": own, "route_prefix": f"/{own}"}]}


def revised(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a higher revision: another field of the deployment changes as well."""
    (app,) = config["applications"]
    (deployment,) = app["deployments"]
    told = {**deployment["user_config"], "revision": deployment["user_config"]["revision"] + 1}
    return {"applications": [{**app, "deployments": [{**deployment, "user_config": told}]}]}


# --- a front keeps its name: what a version's new application is spared ---------------------------------------------


def test_a_front_whose_placement_changes_gets_other_replicas(cluster: Cluster) -> None:
    (example,) = (e for e in EXAMPLES if e.kind == "Ensemble" and e.field == "settings.placement.bundles")
    before, after = (named_after(example, _front(meant(repo, ENVIRONMENT))) for repo in repos(example))
    (found,) = impact(before, after, None).deployments
    assert found.effects == (Effect.RESTARTS,)
    first = cluster.reach(before)
    then = restarted(cluster, first, after)
    assert set(then.values()) & set(first.values()) == {first[who] for who in first if who[0] == NEIGHBOUR}


def _front(config: Mapping[str, Any]) -> dict[str, Any]:
    (front,) = (app for app in small(config)["applications"] if app["deployments"][0]["name"] == "Front")
    (deployment,) = front["deployments"]
    return {"applications": [{**front, "deployments": [{**deployment, "name": "Model"}]}]}


# --- settings are applications of their own, and a surge is what keeps requests from stalling -----------------------


def test_a_new_application_leaves_the_old_ones_replicas_alone(cluster: Cluster) -> None:
    (example,) = (each for each in EXAMPLES if each.field == "settings.cpus" and each.kind == "Model")
    before, after = (small(meant(repo, ENVIRONMENT)) for repo in repos(example))
    first = cluster.reach(before)
    (new,) = after["applications"]
    both = cluster.reach({"applications": [*before["applications"], {**new, "route_prefix": None}]})
    assert first.items() <= both.items()
    assert {name for name, _ in both} == {NEIGHBOUR, *(a["name"] for a in before["applications"]), new["name"]}


@pytest.mark.parametrize(("surge", "stalls"), [(100, False), (0, True)])
def test_without_a_surge_a_single_replica_stops_before_its_successor_starts(
    cluster: Cluster, surge: int, stalls: bool
) -> None:
    (example,) = (each for each in EXAMPLES if each.field == "settings.cpus" and each.kind == "Model")
    before, after = configs(example)
    for config in (before, after):
        config["applications"][0]["deployments"][0]["max_surge_percent"] = surge
    (found,) = impact(before, after, None).deployments
    assert found.stall.stalls is stalls
    first = cluster.reach(before)
    old = the_one_of(first)
    cluster.submit(after)
    counts: list[int] = []

    def replaced() -> bool:
        running = [who for who in cluster.running() if who[0] == old[0]]
        counts.append(len(running))
        return bool(running) and old not in running

    wait_until(replaced, READY_S, "replaced")
    assert (min(counts) == 0) is stalls
