"""What a change of the Serve config does: the rules, whether requests would stall, and what is reserved meanwhile."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.capacity import Capacity, Node, added, beyond, bundles, in_words, times
from policies.documents import Autoscaling, ModelDocument
from policies.evidence import Objective, Sli
from policies.impact import DeploymentImpact, Effect, Impact, impact
from policies.impact_rules import RULES, rule_of
from policies.impact_words import lines
from policies.release import Phase, Release
from policies.serving import Batching, Placement
from serving_runtime.serve_config import Surroundings, ToServe, render
from tests.fakes.runtime import FakeServe
from tests.unit.releases import POLICY, application, rolling, steady

MODEL = ModelDocument(name="fraud")
AROUND = Surroundings(tracking_uri="http://127.0.0.1:5000")
V1, V2 = application(1).name("fraud"), application(2).name("fraud")
ROOMY = Capacity(nodes=(Node(total={"CPU": 64, "memory": 2**40}, free={"CPU": 64, "memory": 2**40}),))


def config(release: Release, model: ModelDocument = MODEL, **around: Any) -> dict[str, Any]:
    errors = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
    return render(
        [ToServe(release=release, model=model, policy=POLICY, objectives=(errors,))],
        Surroundings(**{**dataclasses.asdict(AROUND), **around}),
    )


def only(found: Impact) -> DeploymentImpact:
    (deployment,) = found.deployments
    return deployment


def fields(deployment: DeploymentImpact) -> dict[str, Effect]:
    return {change.field: change.effect for change in deployment.changes}


def with_deployment(**changed: Any) -> dict[str, Any]:
    """The config with fields of its one deployment changed by hand, as an older or newer renderer may have left it."""
    after = copy.deepcopy(config(steady(1)))
    deployment = after["applications"][0]["deployments"][0]
    for name, value in changed.items():
        deployment[name] = value
    return after


# --- the rules ----------------------------------------------------------------------------------------------------


def test_what_does_not_differ_has_no_impact() -> None:
    same = impact(config(rolling(Phase.CANARY, weight=10)), config(rolling(Phase.CANARY, weight=10)), ROOMY)
    assert same.deployments == ()
    assert (same.extra_meanwhile, same.extra_after, same.shortage) == ({}, {}, ())
    assert lines(same) == ["what serves stays as it is"]


def test_what_replicas_are_told_changes_in_place() -> None:
    after = config(steady(1), dataclasses.replace(MODEL, batching=Batching(), max_ongoing_requests=8))
    found = only(impact(config(steady(1)), after, None))
    assert found.effects == (Effect.IN_PLACE,)
    assert fields(found).keys() == {
        "user_config.batching",
        "user_config.max_ongoing_requests",
        "user_config.max_queued_requests",
        "max_ongoing_requests",
        "max_queued_requests",
    }
    assert not found.stall.stalls


def test_where_mlflow_is_restarts_every_version() -> None:
    """It is an argument of the application, and no part of its build."""
    before, after = config(steady(1)), config(steady(1), tracking_uri="http://other:5000")
    found = only(impact(before, after, None))
    assert fields(found) == {"args.tracking_uri": Effect.RESTARTS}
    assert not found.stall.stalls
    assert "a replica stops when its own is ready" in found.stall.why


def test_new_settings_are_an_application_of_their_own() -> None:
    after = config(
        steady(1, stable=application(1, cpus=2)), dataclasses.replace(MODEL, settings=application(1, cpus=2).settings)
    )
    found = impact(config(steady(1)), after, None)
    starts, stops = found.deployments
    assert starts.effects == (Effect.STARTS, Effect.MOVES_TRAFFIC)
    assert starts.replaces == stops.application == V1
    assert "the same version with other settings" in starts.changes[0].why
    assert stops.effects == (Effect.STOPS,)
    assert not starts.stall.stalls
    assert not stops.stall.stalls
    assert found.extra_meanwhile == {"CPU": 2.0}
    assert found.extra_after == {"CPU": 1.0}


def test_a_step_moves_traffic_and_nothing_else() -> None:
    found = only(impact(config(rolling(Phase.CANARY, weight=5)), config(rolling(Phase.CANARY, weight=10)), None))
    (change,) = found.changes
    assert (change.field, change.effect) == ("user_config.split.share", Effect.MOVES_TRAFFIC)
    assert (change.before, change.after) == (f"5 % to {V2}", f"10 % to {V2}")


def test_a_shadow_step_moves_copies() -> None:
    found = only(impact(config(rolling(Phase.WARMING)), config(rolling(Phase.SHADOW)), None))
    assert [(c.before, c.after) for c in found.changes] == [(None, f"copies to {V2}")]


def test_a_candidate_that_is_named_and_gets_nothing_moves_nobody() -> None:
    before, after = config(rolling(Phase.CANARY, weight=5)), config(rolling(Phase.CANARY, weight=5))
    for each in (before, after):
        each["applications"][0]["deployments"][0]["user_config"]["split"]["weight_percent"] = 0
    after["applications"][0]["deployments"][0]["user_config"]["split"]["timeout_s"] = 3.0
    assert fields(only(impact(before, after, None))) == {"user_config.split.timeout_s": Effect.IN_PLACE}


def test_a_stop_is_seen_at_both_ends() -> None:
    found = impact(config(rolling(Phase.CANARY, weight=5)), config(rolling(Phase.ROLLING_BACK)), None)
    host, candidate = found.deployments
    assert fields(host) == {"user_config.split.share": Effect.MOVES_TRAFFIC}
    assert fields(candidate) == {"user_config.drain": Effect.MOVES_TRAFFIC}


def test_a_candidate_starts_beside_the_version_that_serves() -> None:
    found = impact(config(steady(1)), config(rolling(Phase.WARMING)), None)
    candidate = found.deployments[-1]
    assert candidate.effects == (Effect.STARTS,)
    assert candidate.replaces == ""
    assert V1 in candidate.changes[0].why


def test_another_route_leaves_callers_of_the_old_one_without_an_answer() -> None:
    found = only(impact(config(steady(1)), config(steady(1), dataclasses.replace(MODEL, route="/fraud")), None))
    assert fields(found)["route_prefix"] is Effect.MOVES_TRAFFIC
    assert found.stall.stalls
    assert "/models/fraud" in found.stall.why


def test_a_model_that_is_removed_stops_and_its_route_with_it() -> None:
    found = only(impact(config(steady(1)), {"applications": []}, None))
    assert found.effects == (Effect.STOPS, Effect.MOVES_TRAFFIC)
    assert found.stall.stalls


def test_routes_that_swap_at_a_promotion_leave_nobody_without() -> None:
    found = impact(config(rolling(Phase.SETTLING)), config(steady(2)), None)
    assert {each.application: each.effects for each in found.deployments} == {
        V2: (Effect.MOVES_TRAFFIC,),
        V1: (Effect.STOPS,),
    }
    assert not any(each.stall.stalls for each in found.deployments)


@pytest.mark.parametrize(
    ("field", "effect"),
    [
        ("args.features.timeout_ms", Effect.RESTARTS),
        ("user_config.members.fraud.application", Effect.MOVES_TRAFFIC),
        ("user_config.members.fraud.timeout_s", Effect.IN_PLACE),
        ("user_config.split.guard.alpha", Effect.IN_PLACE),
        ("autoscaling_config", Effect.RESTARTS),
        ("autoscaling_config.max_replicas", Effect.IN_PLACE),
        ("autoscaling_config.policy", Effect.RESTARTS),
        ("autoscaling_config.policy.name", Effect.RESTARTS),
        ("a_field_of_a_later_serve", Effect.RESTARTS),
    ],
)
def test_the_longest_row_counts_and_what_nobody_has_seen_counts_as_the_worst(field: str, effect: Effect) -> None:
    assert rule_of(field).effect is effect


@pytest.mark.parametrize(
    "rule", [r for r in RULES if not r.field.startswith("user_config.members")], ids=lambda r: r.field
)
def test_the_serve_in_memory_restarts_by_the_same_table(rule: Any) -> None:
    """What runs on the fake (the simulation, the scenarios) must not believe other rules."""
    before = config(rolling(Phase.CANARY, weight=5))
    after = copy.deepcopy(before)
    if rule.field in ("route_prefix", "import_path", "runtime_env", "args"):
        after["applications"][0][rule.field] = "/other" if rule.field == "route_prefix" else {"other": 1}
    else:
        _set(after["applications"][0]["deployments"][0], rule.field)
    serve = FakeServe()
    serve.apply(before)
    serve.settle()
    serve.apply(after)
    restarts = serve.restarting(V1)
    assert restarts == (Effect.RESTARTS in impact(before, after, None).deployments[0].effects)
    assert restarts == (rule.effect is Effect.RESTARTS)


def _set(deployment: dict[str, Any], field: str) -> None:
    where = {
        "user_config.split.share": "user_config.split.weight_percent",
        "autoscaling_config.*": "autoscaling_config.max_replicas",
    }
    values = {
        "autoscaling_config": None,
        "user_config": {"revision": 9},
        "ray_actor_options": {"num_cpus": 2},
        "placement_group_bundles": [{"CPU": 2}],
    }
    *parents, last = where.get(field, field).split(".")
    for parent in parents:
        deployment = deployment[parent]
    deployment[last] = values.get(field, 77)


# --- would requests stall? ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surge", "replicas", "stalls", "words"),
    [
        (100, 1, False, "1 successor at a time"),
        (100, 4, False, "4 successors at a time"),
        (25, 4, False, "1 successor at a time"),
        (1, 3, False, "1 successor at a time"),
        (0, 1, True, "nobody answers"),
        (0, 3, False, "1 of 3 replicas stop at a time"),
        (0, 10, False, "2 of 10 replicas stop at a time"),
        (None, 1, True, "nobody answers"),
    ],
)
def test_a_restart_stalls_where_the_last_replica_stops_first(
    surge: int | None, replicas: int, stalls: bool, words: str
) -> None:
    scaling = {"min_replicas": replicas, "max_replicas": replicas, "target_ongoing_requests": 2.0}
    same = {"max_surge_percent": surge, "autoscaling_config": scaling}
    before = with_deployment(**same)
    after = with_deployment(**same, ray_actor_options={"num_cpus": 2.0})
    found = only(impact(before, after, None))
    assert found.effects == (Effect.RESTARTS,)
    assert (found.stall.stalls, words in found.stall.why) == (stalls, True)


def test_a_surge_that_comes_with_the_change_counts() -> None:
    before = with_deployment(max_surge_percent=0)
    after = with_deployment(max_surge_percent=100, ray_actor_options={"num_cpus": 2.0})
    assert not only(impact(before, after, None)).stall.stalls


# --- what is reserved ---------------------------------------------------------------------------------------------


def scaled(least: int, most: int) -> ModelDocument:
    return dataclasses.replace(MODEL, autoscaling=Autoscaling(min_replicas=least, max_replicas=most))


def test_old_and_new_replicas_are_reserved_side_by_side() -> None:
    before, after = config(steady(1), scaled(3, 5)), config(steady(1), scaled(3, 5), tracking_uri="http://other:5000")
    found = impact(before, after, ROOMY)
    assert only(found).reserved.meanwhile == {"CPU": 6.0}
    assert (found.extra_meanwhile, found.extra_after) == ({"CPU": 3.0}, {})
    assert found.reserved.at_most == {"CPU": 5.0}
    assert found.shortage == ()


def test_more_replicas_are_more_after_too() -> None:
    found = impact(config(steady(1), scaled(1, 1)), config(steady(1), scaled(4, 4)), ROOMY)
    assert only(found).effects == (Effect.IN_PLACE,)
    assert (found.extra_meanwhile, found.extra_after) == ({"CPU": 3.0}, {"CPU": 3.0})


def nodes(*cpus: tuple[float, float]) -> Capacity:
    """Nodes by what they have and what of it is free."""
    return Capacity(nodes=tuple(Node(total={"CPU": total}, free={"CPU": free}) for total, free in cpus))


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        (nodes((8, 2)), "2 CPU is missing"),
        (nodes((8, 2), (8, 2)), "on no single node"),
        (nodes((2, 2), (2, 2)), "can never start"),
        (nodes((8, 4)), ""),
        (nodes((8, 1), (8, 4)), ""),
    ],
)
def test_what_the_cluster_does_not_have_is_said(capacity: Capacity, words: str) -> None:
    new = application(1, cpus=4)
    found = impact(config(steady(1)), config(steady(1, stable=new), MODEL), capacity)
    assert found.extra_meanwhile == {"CPU": 4.0}
    assert words in "".join(found.shortage)
    assert bool(words) == bool(found.shortage)


def test_a_placement_group_needs_a_node_for_each_bundle() -> None:
    apart = application(1, placement=Placement(bundles=({"CPU": 2}, {"CPU": 2})))
    together = application(1, placement=Placement(bundles=({"CPU": 2}, {"CPU": 2}), strategy="STRICT_PACK"))
    for release, short in ((apart, False), (together, True)):
        found = impact({}, config(steady(1, stable=release)), nodes((3, 3), (3, 3)))
        assert bool(found.shortage) is short


def test_words_say_what_is_more_and_what_the_cluster_has() -> None:
    before, after = config(steady(1)), config(steady(1), tracking_uri="http://other:5000")
    said = "\n".join(lines(impact(before, after, nodes((4, 3)))))
    assert f"{V1}: restarts" in said
    assert "reserved: 1 CPU more meanwhile, nothing more after" in said
    assert "the cluster has 4 CPU on 1 node; free now: 3 CPU" in said
    assert "what the cluster has is not known" in "\n".join(lines(impact(before, after, None)))


# --- whatever the configs -----------------------------------------------------------------------------------------

AMOUNTS = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "tpu"]), st.integers(0, 8).map(float))
RELEASES = st.sampled_from(
    [
        steady(1),
        steady(None),
        steady(2),
        steady(1, stable=application(1, cpus=3, memory_mib=512)),
        steady(1, stable=application(1, gpus=0.5, packages=("polars",))),
        *(rolling(phase) for phase in (Phase.WARMING, Phase.SHADOW, Phase.SETTLING, Phase.ROLLING_BACK)),
        rolling(Phase.CANARY, weight=25),
    ]
)
MODELS = st.builds(
    dataclasses.replace,
    st.just(MODEL),
    autoscaling=st.integers(1, 5).flatmap(
        lambda least: st.builds(Autoscaling, min_replicas=st.just(least), max_replicas=st.integers(least, 9))
    ),
    route=st.sampled_from([None, "/fraud"]),
    batching=st.none() | st.builds(Batching, max_batch_size=st.integers(2, 64)),
)
CONFIGS = st.builds(config, RELEASES, MODELS, tracking_uri=st.sampled_from(["http://one:5000", "http://two:5000"]))


@given(before=CONFIGS, after=CONFIGS)
def test_whatever_changes_is_told_once_and_nothing_else_is(before: dict[str, Any], after: dict[str, Any]) -> None:
    found = impact(before, after, ROOMY)
    differing = {name for name in _apps(before) | _apps(after) if _apps(before).get(name) != _apps(after).get(name)}
    assert {each.application for each in found.deployments} == differing
    for each in found.deployments:
        there, then = each.application in _apps(before), each.application in _apps(after)
        assert (Effect.STARTS in each.effects) == (not there)
        assert (Effect.STOPS in each.effects) == (not then)
        assert each.changes
        assert each.stall.why


@given(before=CONFIGS, after=CONFIGS)
def test_meanwhile_is_never_less_than_before_or_after(before: dict[str, Any], after: dict[str, Any]) -> None:
    reserved, back = impact(before, after, None).reserved, impact(after, before, None).reserved
    assert not beyond(reserved.before, reserved.meanwhile)
    assert not beyond(reserved.after, reserved.meanwhile)
    assert not beyond(reserved.meanwhile, added(reserved.before, reserved.after))
    assert (back.before, back.after) == (reserved.after, reserved.before)


@given(before=CONFIGS, after=CONFIGS, free=st.lists(AMOUNTS, max_size=4))
def test_what_is_missing_in_sum_is_always_said(
    before: dict[str, Any], after: dict[str, Any], free: list[dict[str, float]]
) -> None:
    capacity = Capacity(nodes=tuple(Node(total=added(each), free=added(each)) for each in free))
    found = impact(before, after, capacity)
    if beyond(found.extra_meanwhile, capacity.free):
        assert found.shortage
    if not found.extra_meanwhile:
        assert not any("missing" in each for each in found.shortage)


def _apps(config: dict[str, Any]) -> dict[str, Any]:
    return {app["name"]: app for app in config["applications"]}


def test_what_one_replica_reserves() -> None:
    assert bundles({}) == ({"CPU": 1.0},)  # Ray's own default for an actor of Serve
    assert bundles({"ray_actor_options": {"num_cpus": 0, "num_gpus": 0.5, "resources": {"tpu": 1}}}) == (
        {"GPU": 0.5, "tpu": 1},
    )
    assert in_words(times({"CPU": 0.5, "memory": 64 * 2**20, "tpu": 1}, 2)) == "1 CPU, 128 MiB of memory, 2 tpu"
    assert in_words({}) == "nothing"
