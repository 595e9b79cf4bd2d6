"""Fronts under convergence: added after their members, moved with them, and never left asking what is gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.asking import hosts_named
from policies.convergence import InPlace, Submit, Waiting, converge
from tests.fakes.runtime import FakeServe
from tests.unit.test_convergence import app, config, run, serving, split, submitted

V1, V2, CHURN, FRONT = "fraud-1", "fraud-2", "churn-1", "both--ensemble"


def front(*hosts: str, route: str | None = "/both", code: int = 0) -> dict[str, Any]:
    members = [
        {"model": host.split("-", maxsplit=1)[0], "name": host, "application": host, "timeout_s": 1.0} for host in hosts
    ]
    deployment = {"name": "Front", "user_config": {"front": "both", "members": members}}
    return {
        "name": FRONT,
        "route_prefix": route,
        "import_path": "m:front",
        "args": {"code": code},
        "deployments": [deployment],
    }


def asked(application: Mapping[str, Any]) -> list[str]:
    return list(hosts_named(application))


def told(serve: FakeServe) -> list[str]:
    """The hosts that the front's replicas ask now."""
    return asked({"deployments": [{"user_config": serve.told(FRONT)}]})


def test_a_front_is_added_once_its_members_serve() -> None:
    serve = serving(app(V1, "/f"))
    desired = config(app(V1, "/f"), app(CHURN, "/c"), front(V1, CHURN))
    assert list(submitted(serve, desired)) == [V1, CHURN]
    waiting = converge(desired, serve.observe())
    assert isinstance(waiting, Waiting)
    assert f"{FRONT}: is added once its members serve: {CHURN}" in waiting.reason
    serve.settle()
    assert list(submitted(serve, desired)) == [V1, CHURN, FRONT]
    serve.settle()
    assert converge(desired, serve.observe()) == InPlace()


def test_a_promotion_moves_the_front_in_the_submit_that_configures_the_new_host() -> None:
    serve = serving(app(V1, "/f", split=split(V2, 100)), app(V2), app(CHURN, "/c"), front(V1, CHURN))
    desired = config(app(V2, "/f", revision=2), app(CHURN, "/c"), front(V2, CHURN))
    first = submitted(serve, desired)
    assert asked(first[FRONT]) == [V2, CHURN]
    assert first[V1]["deployments"][0]["user_config"]["drain"] is False


def test_the_old_host_stays_until_every_replica_of_the_front_asks_the_new_one() -> None:
    serve = serving(app(V1, "/f", split=split(V2, 100)), app(V2), app(CHURN, "/c"), front(V1, CHURN))
    desired = config(app(V2, "/f", revision=2), app(CHURN, "/c"), front(V2, CHURN))
    while isinstance(step := converge(desired, serve.observe()), Submit):
        serve.apply(step.config)
        for name in (V1, V2, CHURN):  # all but the front, whose replicas are slow to hear
            serve.advance(name)
    assert isinstance(step, Waiting)
    assert serve.answering("/f") == V2
    assert V1 in serve.observe().applications
    assert told(serve) == [V1, CHURN]
    serve.advance(FRONT)
    assert told(serve) == [V2, CHURN]
    assert V1 not in submitted(serve, desired)


def test_a_reverted_promotion_leaves_the_front_where_it_is_until_the_old_host_is_back() -> None:
    serve = serving(app(V2, "/f", revision=2), front(V2))
    desired = config(app(V1, "/f", revision=3), front(V1))
    assert asked(submitted(serve, desired)[FRONT]) == [V2]
    serve.settle()
    assert asked(submitted(serve, desired)[FRONT]) == [V1]
    serve.settle()
    run(serve, desired)
    assert told(serve) == [V1]


def test_a_front_stays_as_it_is_until_a_new_member_serves() -> None:
    serve = serving(app(V1, "/f"), front(V1))
    desired = config(app(V1, "/f"), app(CHURN, "/c"), front(V1, CHURN))
    assert asked(submitted(serve, desired)[FRONT]) == [V1]
    serve.settle()
    assert asked(submitted(serve, desired)[FRONT]) == [V1, CHURN]


def test_a_front_that_is_removed_goes_before_the_hosts_it_asks() -> None:
    serve = serving(app(V1, "/f"), app(CHURN, "/c"), front(V1, CHURN))
    reasons = run(serve, config(app(CHURN, "/c")))
    dropped = [reason for reason in reasons if "drop" in reason]
    assert f"drop {FRONT}" in dropped[0]
    assert f"drop {V1}" in dropped[-1]
    assert list(serve.observe().applications) == [CHURN]


def test_an_ensemble_takes_a_models_route_without_a_moment_between() -> None:
    serve = serving(app(V1, "/f"), app(CHURN, "/c"))
    desired = config(app(V1), app(CHURN, "/c"), front(V1, CHURN, route="/f"))
    first = submitted(serve, desired)
    assert (first[V1]["route_prefix"], first[FRONT]["route_prefix"]) == ("/f", None)
    serve.settle()
    assert submitted(serve, desired)[FRONT]["route_prefix"] == "/f"


def test_a_member_that_fails_keeps_its_front_as_it_is() -> None:
    serve = serving(app(V1, "/f"), app(CHURN, "/c"), front(V1, CHURN))
    serve.failing.add(CHURN)
    serve.kill_replicas(CHURN)
    serve.settle()
    assert isinstance(converge(config(app(V1, "/f"), app(CHURN, "/c"), front(V1, CHURN)), serve.observe()), Waiting)
    assert told(serve) == [V1, CHURN]


NAMES = (V1, V2, CHURN, FRONT)
STATES = [
    config(app(V1, "/f"), front(V1)),
    config(app(V1, "/f", split=split(V2, 100)), app(V2), front(V1)),
    config(app(V2, "/f", revision=2), front(V2)),
    config(app(V2, "/f", revision=2), app(CHURN, "/c"), front(V2, CHURN)),
    config(app(V1, "/f", revision=3), front(V1, code=1)),
    config(app(V1, "/f", revision=3)),
]
SPEEDS = st.lists(st.lists(st.sampled_from(NAMES), max_size=3), max_size=12)


@settings(max_examples=150)
@given(journey=st.lists(st.tuples(st.sampled_from(STATES), SPEEDS), min_size=1, max_size=4))
def test_wherever_the_tip_jumps_a_front_asks_only_what_answers(
    journey: list[tuple[dict[str, Any], list[list[str]]]],
) -> None:
    """`speeds`: which applications get a step further after each look; at the journey's end all do."""
    serve = serving(STATES[0]["applications"][0], STATES[0]["applications"][1])
    steps = [(desired, step) for desired, speeds in journey for step in speeds]
    for desired, advanced in [*steps, *[(journey[-1][0], list(NAMES))] * 40]:
        step = converge(desired, serve.observe())
        if isinstance(step, Submit):
            serve.apply(step.config)
        for name in advanced:
            serve.advance(name)
        for host in told(serve):
            assert serve.told(host), f"the front asks {host}, which does not answer"
    assert converge(journey[-1][0], serve.observe()) == InPlace()
