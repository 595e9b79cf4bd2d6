"""What every `Runtime` does: the in-memory Serve and the real one behind the control door, by the same tests."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest

from pipelines.ports import Runtime
from policies.convergence import Failed, InPlace, Ready, Submit, application_in_place, converge, readiness
from policies.errors import Retry, Stalled
from serving_runtime.ray_cluster import RayCluster
from tests.conditions import wait_until
from tests.fakes.runtime import FakeServe

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

READY_S = 60.0
"""A replica starts in 2-3 s here; a start that fails three times takes 9 s; others may use the machine."""
GONE_S = 60.0
"""A deleted application drains for 5 s; then its replicas end."""
COUNTED_S = 60.0
"""Ray counts what is reserved every 5 s; what was deleted before still drains."""
LOADERS = 4
"""Clients that ask without a break while routes move."""


class World(Protocol):
    """A Serve under test."""

    @property
    def runtime(self) -> Runtime:
        """The door to it."""

    def answer(self, route: str) -> int | str:
        """The version that answers a request to `route`, or what came instead."""

    def away(self) -> Runtime:
        """The same kind of door to a Serve that does not answer."""


class MemoryWorld:
    def __init__(self) -> None:
        self.runtime = FakeServe(advance_on_observe=True)

    def answer(self, route: str) -> int | str:
        name = self.runtime.answering(route)
        return int(name.rsplit("-", 1)[1]) if name else "no owner"

    def away(self) -> Runtime:
        away = FakeServe()
        away.away = "no answer in time"
        return away


class RealWorld:
    def __init__(self, session: RaySession) -> None:
        self.runtime: Runtime = session.cluster
        self._http = session.http
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer(self, route: str) -> int | str:
        try:
            with self._opener.open(self._http + route, timeout=10) as answer:
                return int(json.load(answer)["version"])
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read(200)!r}"

    def away(self) -> Runtime:
        return RayCluster("http://127.0.0.1:1")  # a privileged port that nobody listens on


@pytest.fixture(params=["memory", pytest.param("ray", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> World:
    return MemoryWorld() if request.param == "memory" else RealWorld(request.getfixturevalue("ray_session"))


def app(name: str, route: str | None = None, *, fail: str = "", **user_config: Any) -> dict[str, Any]:
    told = {"revision": 1, "drain": False, "model": "m", "split": None, **user_config}
    return {
        "name": name,
        "route_prefix": route,
        "import_path": "tests.contracts.small_app:build",
        "args": {"version": name.rsplit("-", 1)[1], **({"fail": fail} if fail else {})},
        "deployments": [
            {
                "name": "Model",
                "user_config": told,
                "autoscaling_config": {"min_replicas": 1, "max_replicas": 1},
                "ray_actor_options": {"num_cpus": 1.0},
            }
        ],
    }


def config(*apps: dict[str, Any]) -> dict[str, Any]:
    return {"applications": list(apps)}


def reach(world: World, desired: Mapping[str, Any]) -> list[str]:
    """Look and submit until everything is in place; the reasons of every submit."""
    reasons: list[str] = []

    def in_place() -> bool:
        step = converge(desired, world.runtime.observe())
        if isinstance(step, Submit):
            reasons.append(step.reason)
            world.runtime.apply(step.config)
        return step == InPlace()

    wait_until(in_place, READY_S + GONE_S, f"in place: {desired}")
    return reasons


def test_what_is_submitted_is_shown_as_it_was_and_becomes_ready(world: World) -> None:
    if isinstance(world, MemoryWorld):
        world.runtime.failing.add("m-9")
    desired = config(app("m-1", "/m"), app("m-9", fail="no such artifact"))
    world.runtime.apply(desired)
    wait_until(lambda: readiness("m-1", world.runtime.observe()) == Ready(), READY_S, "m-1 ready")
    wait_until(lambda: world.answer("/m") == 1, READY_S, "version 1 answers")
    wait_until(lambda: isinstance(readiness("m-9", world.runtime.observe()), Failed), READY_S, "m-9 failed")
    seen = world.runtime.observe()
    assert {name: a.submitted for name, a in seen.applications.items()} == {
        a["name"]: a for a in desired["applications"]
    }
    assert application_in_place(desired["applications"][0], seen) == ""
    assert "RuntimeError" in application_in_place(desired["applications"][1], seen)
    assert [d.replicas_running for d in seen.applications["m-1"].deployments] == [1]


def test_a_user_config_changes_in_place_and_what_is_left_out_goes(world: World) -> None:
    reach(world, config(app("m-1", "/m"), app("m-2")))
    changed = config(app("m-1", "/m", revision=2))
    world.runtime.apply(changed)
    assert readiness("m-2", world.runtime.observe()) != Ready()
    wait_until(lambda: application_in_place(changed["applications"][0], world.runtime.observe()) == "", READY_S, "m-1")
    wait_until(lambda: "m-2" not in world.runtime.observe().applications, GONE_S, "m-2 gone")
    assert world.answer("/m") == 1


def test_a_promotion_and_its_revert_lose_no_request(world: World) -> None:
    before = config(app("m-1", "/m"), app("m-2"))
    reach(world, before)
    wait_until(lambda: world.answer("/m") == 1, READY_S, "version 1 answers")
    with Load(world, "/m") as load:
        promotion = reach(world, config(app("m-2", "/m", revision=2)))
        wait_until(lambda: world.answer("/m") == 2, READY_S, "version 2 answers")
        revert = reach(world, before)
        wait_until(lambda: world.answer("/m") == 1, READY_S, "version 1 answers again")
    assert load.lost == []
    assert load.versions >= {1, 2}
    assert promotion[-1] == "drop m-1"
    assert revert[0].startswith(("add m-1", "change m-2"))


def test_an_empty_config_is_never_submitted(world: World) -> None:
    reach(world, config(app("m-1", "/m")))
    with pytest.raises(Stalled, match="delete everything"):
        world.runtime.apply(config())
    assert readiness("m-1", world.runtime.observe()) == Ready()


def test_what_serve_refuses_stalls_with_its_words(world: World) -> None:
    with pytest.raises(Stalled, match="import_path"):
        world.runtime.apply(config({"name": "m-1"}))
    with pytest.raises(Stalled, match="unique"):
        world.runtime.apply(config(app("m-1", "/m"), app("m-2", "/m")))


def test_what_replicas_reserve_is_not_free(world: World) -> None:
    reach(world, config(app("m-1", "/m")))

    def reserved() -> float:
        try:
            capacity = world.runtime.capacity()
        except Retry:  # Ray counts every few seconds, and has not yet
            return -1.0
        return capacity.total["CPU"] - capacity.free["CPU"]

    wait_until(lambda: reserved() == 1.0, COUNTED_S, "one CPU is reserved")
    assert world.runtime.capacity().total["CPU"] == 16.0


def test_one_that_is_away_is_an_observation_and_a_retry(world: World) -> None:
    away = world.away()
    seen = away.observe()
    assert not seen.available
    assert seen.reason
    with pytest.raises(Retry):
        away.apply(config(app("m-1", "/m")))
    with pytest.raises(Retry):
        away.capacity()


class Load:
    """Clients that ask one route without a break, and count what they lose."""

    def __init__(self, world: World, route: str) -> None:
        self.lost: list[tuple[float, str]] = []
        self.versions: set[int] = set()
        self._world, self._route, self._stop = world, route, threading.Event()
        self._clients = [threading.Thread(target=self._ask) for _ in range(LOADERS)]

    def _ask(self) -> None:
        while not self._stop.wait(0.005):
            version = self._world.answer(self._route)
            if isinstance(version, int):
                self.versions.add(version)
            else:
                self.lost.append((time.monotonic(), version))

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join()
