"""Convergence: facts about Ray in, the next submit out; and from anywhere to anywhere without a request lost."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.convergence import (
    Failed,
    InPlace,
    Ready,
    Refused,
    Starting,
    Submit,
    Waiting,
    application_in_place,
    converge,
    readiness,
)
from policies.errors import Stalled
from policies.observations import RuntimeObservation
from tests.fakes.runtime import FakeServe


def split(candidate: str, weight: int, *, shadow: bool = False) -> dict[str, Any]:
    return {"application": candidate, "weight_percent": weight, "shadow": shadow}


def app(name: str, route: str | None = None, *, code: int = 0, **user_config: Any) -> dict[str, Any]:
    told = {"revision": 1, "drain": False, "model": name.split("-", maxsplit=1)[0], "split": None, **user_config}
    deployment = {"name": "Model", "user_config": told, "autoscaling_config": {"min_replicas": 1}}
    return {
        "name": name,
        "route_prefix": route,
        "import_path": "m:build",
        "args": {"code": code},
        "deployments": [deployment],
    }


def config(*apps: dict[str, Any]) -> dict[str, Any]:
    return {"applications": list(apps)}


def serving(*apps: dict[str, Any]) -> FakeServe:
    serve = FakeServe()
    serve.apply(config(*apps))
    serve.settle()
    serve.submits.clear()
    return serve


def submitted(serve: FakeServe, desired: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The applications of the next submit, which is made."""
    step = converge(desired, serve.observe())
    assert isinstance(step, Submit), step
    serve.apply(step.config)
    return {a["name"]: a for a in step.config["applications"]}


def weight(application: Mapping[str, Any]) -> Any:
    return application["deployments"][0]["user_config"]["split"]["weight_percent"]


def run(serve: FakeServe, desired: Mapping[str, Any]) -> list[str]:
    """Converge with Serve settling in between; the reasons of every submit."""
    reasons = []
    while not isinstance(step := converge(desired, serve.observe()), InPlace):
        assert isinstance(step, Submit), step
        assert len(reasons) < 20, reasons
        reasons.append(step.reason)
        serve.apply(step.config)
        serve.settle()
    return reasons


V1, V2 = "fraud-1", "fraud-2"


def test_a_missing_application_is_added() -> None:
    serve = serving(app("churn-1", "/c"))
    assert list(submitted(serve, config(app(V1, "/f"), app("churn-1", "/c")))) == [V1, "churn-1"]


def test_what_is_in_place_is_left_alone() -> None:
    serve = serving(app(V1, "/f"))
    assert converge(config(app(V1, "/f")), serve.observe()) == InPlace()
    assert serve.submits == []


def test_a_field_that_is_absent_is_as_good_as_an_empty_one() -> None:
    serve = serving({**app(V1, "/f"), "runtime_env": {}})
    assert converge(config(app(V1, "/f")), serve.observe()) == InPlace()


def test_promotion_swaps_the_routes_in_one_submit_then_drains_then_drops() -> None:
    serve = serving(app(V1, "/f", split=split(V2, 100)), app(V2))
    desired = config(app(V2, "/f", revision=2))
    assert submitted(serve, desired)[V2]["route_prefix"] is None  # its new user_config first
    serve.settle()
    swap = submitted(serve, desired)
    assert (swap[V2]["route_prefix"], swap[V1]["route_prefix"]) == ("/f", None)
    serve.settle()
    drain = submitted(serve, desired)
    assert drain[V1]["deployments"][0]["user_config"]["drain"] is True
    serve.settle()
    assert list(submitted(serve, desired)) == [V2]
    serve.settle()
    assert converge(desired, serve.observe()) == InPlace()


def test_a_reverted_promotion_starts_the_old_version_before_it_gets_the_route() -> None:
    serve = serving(app(V2, "/f", revision=2))
    desired = config(app(V1, "/f", split=split(V2, 100)), app(V2))
    first = submitted(serve, desired)
    assert (first[V1]["route_prefix"], first[V2]["route_prefix"]) == (None, "/f")
    while not isinstance(converge(desired, serve.observe()), Submit):
        assert serve.answering("/f") == V2
        serve.advance()
    assert submitted(serve, desired)[V1]["route_prefix"] == "/f"


def test_a_route_does_not_move_to_an_application_whose_replicas_died() -> None:
    serve = serving(app(V1, "/f"), app(V2))
    serve.kill_replicas(V2)
    step = converge(config(app(V2, "/f")), serve.observe())
    assert isinstance(step, Waiting)
    assert serve.answering("/f") == V1


def test_weight_waits_until_the_candidate_is_ready() -> None:
    serve = serving(app(V1, "/f"))
    desired = config(app(V1, "/f", split=split(V2, 25)), app(V2))
    assert weight(submitted(serve, desired)[V1]) == 0
    assert isinstance(converge(desired, serve.observe()), Waiting)
    serve.settle()
    assert weight(submitted(serve, desired)[V1]) == 25


def test_copies_wait_too() -> None:
    serve = serving(app(V1, "/f"))
    first = submitted(serve, config(app(V1, "/f", split=split(V2, 0, shadow=True)), app(V2)))
    assert first[V1]["deployments"][0]["user_config"]["split"]["shadow"] is False


def test_a_candidate_that_turns_unhealthy_keeps_its_weight_for_the_judge() -> None:
    desired = config(app(V1, "/f", split=split(V2, 25)), app(V2))
    serve = serving(*desired["applications"])
    serve.failing.add(V2)
    serve.kill_replicas(V2)
    serve.settle()
    step = converge(desired, serve.observe())
    assert isinstance(step, Waiting)
    assert "cannot start" in step.reason


def test_a_candidate_that_is_gone_loses_its_weight_until_it_is_back() -> None:
    serve = serving(app(V1, "/f", split=split(V2, 25)))
    assert weight(submitted(serve, config(app(V1, "/f", split=split(V2, 25)), app(V2)))[V1]) == 0


def test_a_rollback_is_submitted_while_another_application_cannot_start() -> None:
    serve = serving(app(V1, "/f", split=split(V2, 50)), app(V2))
    serve.failing.add("churn-1")
    stop = config(app("churn-1", "/c"), app(V1, "/f", revision=2), app(V2, revision=2, drain=True))
    step = submitted(serve, stop)
    serve.advance(V1)
    serve.advance(V2)
    assert step[V2]["deployments"][0]["user_config"]["drain"] is True
    assert serve.told(V1)["split"] is None
    assert serve.told(V2)["drain"] is True


def test_a_candidate_that_the_tip_no_longer_names_drains_at_once_and_goes_last() -> None:
    serve = serving(app(V1, "/f", split=split(V2, 50)), app(V2))
    desired = config(app(V1, "/f", revision=2))
    assert submitted(serve, desired)[V2]["deployments"][0]["user_config"]["drain"] is True
    serve.advance(V2)
    assert isinstance(converge(desired, serve.observe()), Waiting)  # its host has not confirmed yet
    serve.advance(V1)
    assert list(submitted(serve, desired)) == [V1]


def test_a_failed_application_is_left_to_whoever_decides_and_others_go_on() -> None:
    serve = serving(app(V1, "/f"))
    serve.failing.add(V2)
    desired = config(app(V1, "/f"), app(V2))
    submitted(serve, desired)
    serve.settle()
    step = converge(desired, serve.observe())
    assert isinstance(step, Waiting)
    assert "cannot start" in step.reason
    assert run(serve, config(app(V1, "/f", revision=2))) != []


def test_another_models_old_version_is_dropped_although_this_one_fails() -> None:
    serve = serving(app(V1, "/f"), app("churn-1", "/c"), app("churn-2"))
    serve.failing.add(V1)
    serve.kill_replicas(V1)
    serve.settle()
    desired = config(app(V1, "/f"), app("churn-2", "/c"))
    for _ in range(3):
        last = submitted(serve, desired)
        serve.settle()
    assert list(last) == [V1, "churn-2"]


def test_a_name_that_is_being_deleted_must_be_gone_first() -> None:
    serve = serving(app(V1, "/f"), app(V2))
    serve.apply(config(app(V1, "/f")))
    desired = config(app(V1, "/f"), app(V2))
    step = converge(desired, serve.observe())
    assert step == Waiting(f"{V2}: is still being deleted")
    serve.settle()
    assert list(submitted(serve, desired)) == [V1, V2]


def test_a_cluster_that_came_back_empty_gets_everything_again() -> None:
    desired = config(app(V1, "/f", split=split(V2, 25)), app(V2))
    serve = serving(*desired["applications"])
    serve.restart_empty()
    assert list(submitted(serve, desired)) == [V1, V2]
    serve.settle()
    run(serve, desired)
    assert serve.told(V1)["split"]["weight_percent"] == 25


def test_an_empty_tip_is_refused() -> None:
    step = converge(config(), serving(app(V1, "/f")).observe())
    assert isinstance(step, Refused)
    assert "delete everything" in step.reason


def test_where_git_wants_nothing_the_last_application_is_kept_drained_and_without_a_route() -> None:
    serve = serving(app(V1, "/f"), app("churn-1", "/c"))
    while isinstance(step := converge(config(), serve.observe(), expected_empty=True), Submit):
        serve.apply(step.config)
        serve.settle()
    assert isinstance(step, Waiting)
    assert "never sent an empty list" in step.reason
    assert list(serve.observe().applications) == ["churn-1"]
    assert serve.answering("/c") is None


def test_nothing_is_in_place_where_nothing_is_wanted_and_nothing_runs() -> None:
    assert converge(config(), RuntimeObservation(available=True), expected_empty=True) == InPlace()


def test_ray_that_is_away_is_waited_for_with_its_reason() -> None:
    away = RuntimeObservation(available=False, reason="no answer in time")
    assert converge(config(app(V1, "/f")), away) == Waiting("Ray cannot be seen: no answer in time")
    assert readiness(V1, away) == Starting("Ray cannot be seen: no answer in time")


def test_in_place_means_that_serve_shows_the_whole_user_config() -> None:
    serve = serving(app(V1, "/f", revision=2))
    seen = serve.observe()
    assert application_in_place(app(V1, "/f", revision=2), seen) == ""
    assert application_in_place(app(V1, "/f", revision=3), seen) == f"{V1}: deployments not submitted yet"
    serve.apply(config(app(V1, "/f", revision=3)))
    assert application_in_place(app(V1, "/f", revision=3), serve.observe()) == f"{V1}: DEPLOYING"
    assert application_in_place(app(V2), seen) == f"{V2}: not in Ray"


def test_readiness_says_why_not() -> None:
    serve = serving(app(V1, "/f"))
    assert readiness(V1, serve.observe()) == Ready()
    assert readiness(V2, serve.observe()) == Starting("not in Ray")
    serve.failing.add(V2)
    serve.apply(config(app(V1, "/f"), app(V2)))
    assert isinstance(readiness(V2, serve.observe()), Starting)
    serve.settle()
    assert readiness(V2, serve.observe()) == Failed(f"RuntimeError: {V2} cannot start")


def test_routes_that_two_models_exchange_move_together() -> None:
    serve = serving(app(V1, "/f"), app("churn-1", "/c"))
    reasons = run(serve, config(app(V1, "/c"), app("churn-1", "/f")))
    assert len(reasons) == 1
    assert (serve.answering("/c"), serve.answering("/f")) == (V1, "churn-1")


# --- from any state to any state --------------------------------------------------------------------------------

NAMES = ("a-1", "a-2", "a-3", "b-1", "b-2")
ROUTES = ("/x", "/y", "/z")
WEIGHTS = st.sampled_from((0, 10, 100))
SPEEDS = st.lists(st.lists(st.sampled_from(NAMES), max_size=3), max_size=25)
LOOKS = 80
"""More than enough: the longest way is add, configure, move, drain, delete for each of five names, three steps each."""


@st.composite
def configs(draw: st.DrawFn, *, least: int = 1) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=least))
    routes = draw(st.permutations([*ROUTES, None, None]))
    apps = []
    for name, route in zip(names, routes, strict=False):
        others = [n for n in names if n != name]
        divided = draw(st.none() | st.builds(split, st.sampled_from(others), WEIGHTS)) if others else None
        told = {"split": divided, "revision": draw(st.integers(1, 3)), "drain": draw(st.booleans())}
        apps.append(app(name, route, code=draw(st.integers(0, 1)), **told))
    return config(*apps)


@st.composite
def anywhere(draw: st.DrawFn) -> FakeServe:
    """A Serve in the middle of whatever: some configs were put, at any speed, and replicas died."""
    serve = FakeServe()
    for put in draw(st.lists(configs(), max_size=3)):
        try:
            serve.apply(put)
        except Stalled:
            continue  # a name that is still being deleted
        for name in draw(st.lists(st.sampled_from(NAMES), max_size=12)):
            serve.advance(name)
    shown = sorted(serve.observe().applications)
    for name in draw(st.lists(st.sampled_from(shown), max_size=1)) if shown else []:
        serve.kill_replicas(name)
    return serve


def traffic(application: Mapping[str, Any]) -> dict[str, int]:
    """Weight by the candidate's name."""
    told = application["deployments"][0]["user_config"]["split"]
    return {told["application"]: told["weight_percent"]} if told and told["weight_percent"] else {}


def check_submit(step: Submit, seen: RuntimeObservation) -> None:
    assert step.config["applications"], "an empty list would delete everything"
    for application in step.config["applications"]:
        before = seen.applications.get(application["name"])
        had = traffic(before.submitted) if before else {}
        for candidate, percent in traffic(application).items():
            ready = readiness(candidate, seen) == Ready()
            assert ready or percent <= had.get(candidate, 0) or candidate in had, "weight on what does not run"


@settings(max_examples=300, deadline=None)
@given(serve=anywhere(), desired=configs(), speeds=SPEEDS)
def test_from_anywhere_to_anywhere_without_losing_a_route(
    serve: FakeServe, desired: dict[str, Any], speeds: list[list[str]]
) -> None:
    """`speeds`: which applications get a step further after each look; then all do."""
    routes = {route for a in desired["applications"] if (route := a["route_prefix"])}
    served: set[str] = set()
    untouched = copy.deepcopy(desired)
    for look in range(LOOKS):
        now = {route for route in routes if serve.answering(route)}
        assert served <= now, f"{served - now} was served and is not"
        served = now
        seen = serve.observe()
        step = converge(desired, seen)
        if isinstance(step, Submit):
            check_submit(step, seen)
            serve.apply(step.config)
        for name in speeds[look] if look < len(speeds) else NAMES:
            serve.advance(name)
    assert converge(desired, serve.observe()) == InPlace()
    assert routes == served
    assert desired == untouched


def held(serve: FakeServe, revision: int) -> None:
    """Somebody without Git takes V2 out of traffic."""
    serve.apply(
        config(
            app(V1, "/f", revision=revision, hold=True, split=split(V2, 0)),
            app(V2, revision=revision, hold=True, drain=True),
        )
    )
    serve.settle()
    serve.submits.clear()


def test_rule_9_a_hold_is_no_drift_that_may_be_repaired() -> None:
    desired = config(app(V1, "/f", split=split(V2, 25)), app(V2))
    serve = serving(*desired["applications"])
    held(serve, 101)
    step = converge(desired, serve.observe())
    assert isinstance(step, Waiting)
    assert "held" in step.reason


def test_rule_9_a_hold_does_not_keep_anything_else_from_changing() -> None:
    desired = config(app(V1, "/f", split=split(V2, 25)), app(V2))
    serve = serving(*desired["applications"])
    held(serve, 101)
    told = submitted(serve, config(*desired["applications"], app("churn-1", "/c")))
    assert sorted(told) == ["churn-1", V1, V2]
    assert weight(told[V1]) == 0


def test_rule_9_a_hold_ends_with_a_higher_revision() -> None:
    serve = serving(app(V1, "/f", split=split(V2, 25)), app(V2))
    held(serve, 101)
    rolled_back = config(app(V1, "/f", revision=102), app(V2, revision=102, drain=True))
    told = submitted(serve, rolled_back)
    assert told[V1]["deployments"][0]["user_config"]["split"] is None
    serve.settle()
    assert converge(rolled_back, serve.observe()) == InPlace()
