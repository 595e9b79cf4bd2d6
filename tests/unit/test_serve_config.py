"""The Serve config that is committed: what each phase serves, and that it is read as strictly as it is written."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from policies.documents import Agreement, Autoscaling, Guard, ModelDocument, RolloutPolicy
from policies.errors import BadInput
from policies.model import (
    Objective,
    Phase,
    Purpose,
    Release,
    Settings,
    Sli,
)
from policies.observations import Artifact
from policies.promotion import application_of
from policies.serving import (
    Access,
    ApiKeys,
    Batching,
    Capture,
    Features,
    ForcedVersion,
    Placement,
    Rate,
    RequestKey,
    Segments,
)
from policies.strict_yaml import parse as parse_yaml
from serving_runtime.app_arguments import AppArguments
from serving_runtime.serve_config import SPARE, Surroundings, ToServe, parse, render, text
from serving_runtime.user_config import AgreementTerms, GuardTerms, parse_user_config
from tests.unit.releases import application, rolling, steady

MODEL = ModelDocument(name="fraud")
AROUND = Surroundings(tracking_uri="http://127.0.0.1:5000")
STABLE, CANDIDATE = application(1).name("fraud"), application(2).name("fraud")


ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
AGREEMENT = Objective(name="agreement", sli=Sli.AGREEMENT, target=0.95)


def to_serve(release: Release, model: ModelDocument = MODEL, *objectives: Objective, **policy: Any) -> ToServe:
    return ToServe(
        release=release, model=model, policy=RolloutPolicy(name="default", **policy), objectives=objectives or (ERRORS,)
    )


def served(release: Release, model: ModelDocument = MODEL) -> dict[str, dict[str, Any]]:
    return {app["name"]: app for app in render([to_serve(release, model)], AROUND)["applications"]}


def told(app: dict[str, Any]) -> dict[str, Any]:
    user_config: dict[str, Any] = app["deployments"][0]["user_config"]
    return user_config


def split_of(release: Release, model: ModelDocument = MODEL) -> Any:
    return told(served(release, model)[STABLE])["split"]


def test_a_steady_release_serves_its_stable_version_on_the_route() -> None:
    apps = served(steady(1))
    assert list(apps) == [STABLE]
    assert apps[STABLE]["route_prefix"] == "/models/fraud"
    assert told(apps[STABLE])["split"] is None


def test_a_warming_candidate_runs_without_route_and_without_share() -> None:
    apps = served(rolling(Phase.WARMING))
    assert list(apps) == [STABLE, CANDIDATE]
    assert (apps[STABLE]["route_prefix"], apps[CANDIDATE]["route_prefix"]) == ("/models/fraud", None)
    assert split_of(rolling(Phase.WARMING)) is None


def test_shadow_sends_copies_and_no_share() -> None:
    split = split_of(rolling(Phase.SHADOW))
    assert (split["application"], split["weight_percent"], split["shadow"]) == (CANDIDATE, 0, True)


def test_a_canary_has_the_committed_weight() -> None:
    split = split_of(rolling(Phase.CANARY, weight=25))
    assert (split["weight_percent"], split["shadow"]) == (25, False)


def test_a_replica_is_told_how_its_model_answers() -> None:
    model = dataclasses.replace(
        MODEL,
        max_queued_requests=7,
        memory_limit_mib=512,
        batching=Batching(max_batch_size=8),
        sticky=RequestKey(field="user"),
        segments=Segments(key=RequestKey(header="x-country"), values=("de", "at")),
        forced_version=ForcedVersion(),
        capture=Capture(share=0.1, to="s3://captured/fraud", exclude=("card",)),
    )
    around = dataclasses.replace(AROUND, access=Access(keys=ApiKeys(env="SLUICE_KEYS"), rate=Rate(per_s=5)))
    (app,) = render([to_serve(steady(1), model)], around)["applications"]
    config = parse_user_config(told(app))
    assert config.max_queued_requests == 7
    deployment = app["deployments"][0]
    assert deployment["max_ongoing_requests"] == config.max_ongoing_requests + 7 + SPARE
    assert deployment["max_queued_requests"] == deployment["max_ongoing_requests"]
    assert deployment["backpressure_config"] == {"status_code": 503, "retry_after_s": 1}
    for name in ("memory_limit_mib", "batching", "sticky", "segments", "forced_version", "capture"):
        assert getattr(config, name) == getattr(model, name)
    assert config.access == around.access


def test_what_restarts_replicas_comes_with_the_application() -> None:
    features = Features(entry_point="shop.features:store", key="user", defaults={"age": None}, options={"ttl": 3})
    settings = Settings(placement=Placement(bundles=({"CPU": 1.0},)), features=features)
    stable = dataclasses.replace(application(1), settings=settings)
    (app,) = render([to_serve(dataclasses.replace(steady(1), stable=stable))], AROUND)["applications"]
    assert AppArguments.parse(app["args"]).features == features
    assert app["deployments"][0]["placement_group_bundles"] == [{"CPU": 1.0}]
    assert parse(text({"applications": [app]}))["applications"] == [app]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), None),
        (Settings(packages=("own==1",)), {"pip": ["own==1"]}),
        (Settings(environment="pip"), {"pip": ["scikit-learn==1.7.2"]}),
        (Settings(environment="uv", packages=("own==1",)), {"uv": ["scikit-learn==1.7.2", "own==1"]}),
        (Settings(environment="image", image="models/fraud:3"), {"image_uri": "models/fraud:3"}),
    ],
)
def test_packages_come_from_where_the_document_says(settings: Settings, expected: dict[str, Any] | None) -> None:
    asked = Artifact(digest=application(1).digest, requirements=("scikit-learn==1.7.2",))
    stable = application_of(1, asked, settings)
    (app,) = render([to_serve(dataclasses.replace(steady(1), stable=stable))], AROUND)["applications"]
    assert app.get("runtime_env") == expected
    assert parse(text({"applications": [app]}))["applications"] == [app]


def test_settings_that_nobody_wrote_keep_the_build_of_an_older_sluicegate() -> None:
    assert application(1).build == dataclasses.replace(application(1), settings=Settings(environment="inherit")).build
    assert application(1).build != dataclasses.replace(application(1), settings=Settings(environment="uv")).build
    assert set(application(1).settings.fields) == {"cpus", "gpus", "memory_mib", "custom", "packages", "env"}


@pytest.mark.parametrize(("paused_from", "weight", "shadow"), [(Phase.CANARY, 25, False), (Phase.SHADOW, 0, True)])
def test_a_paused_release_keeps_what_it_was_paused_from(paused_from: Phase, weight: int, shadow: bool) -> None:
    split = split_of(rolling(Phase.PAUSED, weight=weight, paused_from=paused_from))
    assert (split["weight_percent"], split["shadow"]) == (weight, shadow)


def test_in_settling_the_candidate_answers_all_and_stable_still_has_the_route() -> None:
    apps = served(rolling(Phase.SETTLING, weight=100))
    assert told(apps[STABLE])["split"]["weight_percent"] == 100
    assert (apps[STABLE]["route_prefix"], apps[CANDIDATE]["route_prefix"]) == ("/models/fraud", None)


def test_a_rollback_stops_at_both_ends() -> None:
    apps = served(rolling(Phase.ROLLING_BACK))
    assert told(apps[STABLE])["split"] is None
    assert told(apps[CANDIDATE])["drain"] is True
    assert told(apps[STABLE])["drain"] is False


@pytest.mark.parametrize(
    ("phase", "route"), [(Phase.WARMING, None), (Phase.SETTLING, "/models/fraud"), (Phase.ROLLING_BACK, None)]
)
def test_a_first_version_gets_the_route_once_it_is_warm(phase: Phase, route: str | None) -> None:
    apps = served(rolling(phase, stable=None))
    assert {name: app["route_prefix"] for name, app in apps.items()} == {CANDIDATE: route}


def test_a_first_version_that_is_paused_in_settling_keeps_the_route() -> None:
    apps = served(rolling(Phase.PAUSED, stable=None, paused_from=Phase.SETTLING))
    assert apps[CANDIDATE]["route_prefix"] == "/models/fraud"


def emergency(phase: Phase, **fields: Any) -> dict[str, dict[str, Any]]:
    return served(rolling(phase, weight=100, purpose=Purpose.EMERGENCY, **fields))


def test_in_an_emergency_the_candidate_takes_the_route_once_it_is_warm_because_its_host_is_failing() -> None:
    assert emergency(Phase.WARMING)[STABLE]["route_prefix"] == "/models/fraud"
    for apps in (emergency(Phase.SETTLING), emergency(Phase.PAUSED, paused_from=Phase.SETTLING)):
        assert (apps[STABLE]["route_prefix"], apps[CANDIDATE]["route_prefix"]) == (None, "/models/fraud")
        assert (told(apps[STABLE])["split"], told(apps[CANDIDATE])["drain"]) == (None, False)


def test_an_emergency_that_fails_gives_the_route_back_and_answers_until_stable_has_it() -> None:
    apps = emergency(Phase.ROLLING_BACK)
    assert (apps[STABLE]["route_prefix"], apps[CANDIDATE]["route_prefix"]) == ("/models/fraud", None)
    assert told(apps[CANDIDATE])["drain"] is False


def test_a_release_without_versions_serves_nothing() -> None:
    assert render([to_serve(steady(None))], AROUND) == {"applications": []}


def test_every_application_carries_the_revision_that_last_changed_what_serves() -> None:
    release = rolling(Phase.CANARY, weight=5, revision=7, traffic_revision=6)
    assert {told(app)["revision"] for app in served(release).values()} == {6}


def test_a_candidate_has_half_of_the_requests_time_unless_the_document_says_otherwise() -> None:
    release = rolling(Phase.CANARY, weight=5)
    assert split_of(release)["timeout_s"] == 15.0
    longer = ModelDocument(name="fraud", candidate_timeout=timedelta(seconds=90), candidate_max_ongoing=3)
    assert (split_of(release, longer)["timeout_s"], split_of(release, longer)["max_ongoing"]) == (30.0, 3)


def split_with(*objectives: Objective, **policy: Any) -> Any:
    asked = to_serve(rolling(Phase.CANARY, weight=5), MODEL, *objectives, **policy)
    return told(render([asked], AROUND)["applications"][0])["split"]


def test_the_guard_knows_what_the_strictest_slo_of_errors_allows() -> None:
    assert split_with(ERRORS)["guard"] == {"allowed": 0.01, "alpha": 0.001}
    strict = Objective(name="strict", sli=Sli.ERRORS, target=0.999)
    assert split_with(ERRORS, strict, guard=Guard(alpha=0.01))["guard"] == {"allowed": 0.001, "alpha": 0.01}


def test_there_is_no_guard_without_an_slo_of_errors_or_where_the_policy_leaves_it_out() -> None:
    assert split_with(ERRORS, guard=None)["guard"] is None
    assert split_with(Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=200))["guard"] is None


def test_predictions_are_compared_where_an_slo_asks_for_it() -> None:
    assert split_with(ERRORS)["agreement"] is None
    assert split_with(ERRORS, AGREEMENT)["agreement"] == {"tolerance": None}
    assert split_with(AGREEMENT, agreement=Agreement(tolerance=0.01))["agreement"] == {"tolerance": 0.01}


def test_what_is_told_about_guard_and_agreement_is_what_a_host_understands() -> None:
    asked = to_serve(rolling(Phase.SHADOW), MODEL, ERRORS, AGREEMENT, agreement=Agreement(tolerance=0.01))
    config = render([asked], AROUND)
    assert parse(text(config)) == config
    split = parse_user_config(told(config["applications"][0])).split
    assert split is not None
    assert split.guard == GuardTerms(allowed=0.01, alpha=0.001)
    assert split.agreement == AgreementTerms(tolerance=0.01)


def test_a_config_of_an_older_sluicegate_is_still_read() -> None:
    config = render([to_serve(rolling(Phase.CANARY, weight=5))], AROUND)
    split = told(config["applications"][0])["split"]
    del split["guard"], split["agreement"]
    assert parse(text(config)) == config


def test_settings_come_from_the_frozen_application_and_not_from_the_document() -> None:
    release = steady(1, stable=application(1, cpus=2.0, gpus=0.5, memory_mib=512, custom={"tpu": 1.0}))
    (app,) = served(release).values()
    assert app["deployments"][0]["ray_actor_options"] == {
        "num_cpus": 2.0,
        "num_gpus": 0.5,
        "memory": 512 * 1024 * 1024,
        "resources": {"tpu": 1.0},
    }
    assert "runtime_env" not in app


def test_packages_and_variables_are_the_runtime_environment() -> None:
    release = steady(1, stable=application(1, packages=("xgboost==3.0",), env={"B": "2", "A": "1"}))
    (app,) = served(release).values()
    assert app["runtime_env"] == {"pip": ["xgboost==3.0"], "env_vars": {"A": "1", "B": "2"}}


def test_the_order_of_models_does_not_matter() -> None:
    other = dataclasses.replace(steady(1), model="churn")
    pair, twin = to_serve(steady(1)), to_serve(other, ModelDocument(name="churn"))
    assert text(render([pair, twin], AROUND)) == text(render([twin, pair], AROUND))


EVERY_RELEASE = [
    steady(1),
    rolling(Phase.CANARY, weight=50),
    rolling(Phase.ROLLING_BACK, stable=None),
    steady(1, stable=application(1, packages=("torch",), env={"NO": "no"}, gpus=1, custom={"x": 0.5})),
]
WIDE = ModelDocument(name="fraud", route="/fraud/v1", autoscaling=Autoscaling(min_replicas=2, max_replicas=9))


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_what_is_written_is_read_back_the_same(release: Release) -> None:
    config = render([to_serve(release, WIDE)], AROUND)
    assert parse(text(config)) == config
    assert text(parse(text(config))) == text(config)


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_serve_accepts_it_and_knows_every_key(release: Release) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = render([to_serve(release, WIDE)], AROUND)
    for app in ServeDeploySchema.model_validate(config).applications:
        known = app.model_dump(exclude_unset=True)
        (given,) = (a for a in config["applications"] if a["name"] == app.name)
        assert unknown_keys(given, known) == []


def unknown_keys(given: Any, known: Any, path: str = "") -> list[str]:
    """Keys that Serve's own schema dropped, at any depth."""
    if isinstance(given, dict):
        lost = [f"{path}.{key}" for key in given if key not in known]
        return lost + [
            k for key in given if key in known for k in unknown_keys(given[key], known[key], f"{path}.{key}")
        ]
    pairs = zip(given, known, strict=True) if isinstance(given, list) else ()
    return [k for one, other in pairs for k in unknown_keys(one, other, path)]


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_replicas_understand_their_user_config(release: Release) -> None:
    for app in served(release, WIDE).values():
        assert parse_user_config(told(app)).revision == release.traffic_revision


def test_yaml_readers_of_others_read_the_same() -> None:
    import yaml

    written = text(render([to_serve(EVERY_RELEASE[3], WIDE)], AROUND))
    assert yaml.safe_load(written) == parse_yaml(written, "serve.yaml").data


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("max_surge_percent", "max_surge_percentage", "max_surge_percent"),
        ("import_path: serving_runtime.app:build", "import_path: os:system", "import_path"),
        ("route_prefix", "route", "route"),
        ("name: Model", "name: Other", "name"),
    ],
)
def test_what_nobody_wrote_is_refused_with_its_line(old: str, new: str, word: str) -> None:
    written = text(render([to_serve(steady(1))], AROUND)).replace(old, new, 1)
    with pytest.raises(BadInput, match=rf"environments/e/serve.yaml:\d+.*{word}"):
        parse(written, "environments/e/serve.yaml")


def test_an_empty_file_names_no_application() -> None:
    assert parse("") == {"applications": []}
