"""Fronts as applications: who hosts each member in every phase, and what is served before there are hosts."""

from __future__ import annotations

from typing import Any

import pytest

from policies.application import Settings
from policies.documents import GrpcEntry, ModelDocument, RolloutPolicy
from policies.fronts import GRPC_APPLICATION, EnsembleDocument, Fronts
from policies.release import Phase, Purpose, Release
from policies.serving import Access, Placement
from serving_runtime.front_config import EnsembleArgs, GrpcArgs, parse_front_args, parse_front_config
from serving_runtime.serve_config import Surroundings, ToServe, parse, render, text
from serving_runtime.serve_fronts import render_fronts
from tests.unit.releases import application, rolling, steady

BOTH = EnsembleDocument(name="both", members=("fraud", "Churn"))
GRPC = GrpcEntry(enabled=True)
AROUND = Surroundings(tracking_uri="http://127.0.0.1:5000")
V1, V2 = application(1).name("fraud"), application(2).name("fraud")


def served(release: Release) -> ToServe:
    model = ModelDocument(name=release.model)
    return ToServe(release=release, model=model, policy=RolloutPolicy(name="default"), objectives=())


CHURN = served(steady(1, model="Churn"))


def fronts(release: Release, *ensembles: EnsembleDocument, **rest: Any) -> dict[str, dict[str, Any]]:
    rendered = render_fronts(Fronts(ensembles=ensembles, **rest), [served(release), CHURN], AROUND)
    return {app["name"]: app for app in rendered}


def hosts(app: dict[str, Any]) -> list[str]:
    return [member["application"] for member in app["deployments"][0]["user_config"]["members"]]


def test_an_ensemble_names_its_members_hosts_in_the_documents_order() -> None:
    (app,) = fronts(steady(1), BOTH).values()
    assert (app["name"], app["route_prefix"]) == ("both--ensemble", "/ensembles/both")
    members = app["deployments"][0]["user_config"]["members"]
    assert [(m["name"], m["timeout_s"]) for m in members] == [("fraud", 24.0), ("Churn", 24.0)]
    assert hosts(app)[0] == V1
    assert hosts(app)[1].startswith("churn-")


@pytest.mark.parametrize(
    ("release", "host"),
    [
        (rolling(Phase.WARMING), V1),
        (rolling(Phase.CANARY, weight=25), V1),
        (rolling(Phase.SETTLING, weight=100), V1),
        (rolling(Phase.ROLLING_BACK), V1),
        (steady(2), V2),
        (rolling(Phase.SETTLING, weight=100, stable=None), V2),
        (rolling(Phase.SETTLING, weight=100, purpose=Purpose.EMERGENCY), V2),
    ],
)
def test_the_host_is_who_has_the_route(release: Release, host: str) -> None:
    (app,) = fronts(release, BOTH).values()
    assert hosts(app)[0] == host
    versions = render([served(release)], AROUND)["applications"]
    assert [v["name"] for v in versions if v["route_prefix"]] == [host]


def test_an_ensemble_without_enough_members_is_not_served_yet() -> None:
    assert fronts(steady(None), BOTH) == {}
    left_out = EnsembleDocument(name="both", members=("fraud", "Churn"), on_failure="leave_out")
    (app,) = fronts(steady(None), left_out).values()
    assert len(hosts(app)) == 1


def test_the_entry_for_grpc_knows_every_model_that_has_a_host() -> None:
    (app,) = fronts(steady(1), grpc=GRPC).values()
    assert (app["name"], app["args"]) == (GRPC_APPLICATION, {"kind": "grpc"})
    assert app["route_prefix"], "Serve's proxy forwards gRPC only to applications that have a route"
    assert max(hosts(app)) == V1
    assert render_fronts(Fronts(grpc=GRPC), [served(steady(None))], AROUND) == []


def test_who_may_call_is_told_to_fronts_too() -> None:
    around = Surroundings(tracking_uri="x", access=Access(open=True))
    for app in render_fronts(Fronts(ensembles=(BOTH,), grpc=GRPC), [served(steady(1)), CHURN], around):
        assert parse_front_config(app["deployments"][0]["user_config"]).access == Access(open=True)


def test_what_restarts_is_the_function_and_what_changes_in_place_is_the_host() -> None:
    one, other = fronts(steady(1), BOTH)["both--ensemble"], fronts(steady(2), BOTH)["both--ensemble"]
    assert one["args"] == other["args"] == {"kind": "ensemble", "name": "both", "combine": "mean", "options": {}}
    assert [key for key in one if one[key] != other[key]] == ["deployments"]
    assert [key for key, told in one["deployments"][0].items() if told != other["deployments"][0][key]] == [
        "user_config"
    ]


def test_settings_reach_the_replicas() -> None:
    settings = Settings(cpus=0.25, packages=("mine==1",), env={"A": "b"})
    (app,) = fronts(steady(1), EnsembleDocument(name="both", members=("fraud",), settings=settings)).values()
    assert app["runtime_env"] == {"pip": ["mine==1"], "env_vars": {"A": "b"}}
    assert app["deployments"][0]["ray_actor_options"] == {"num_cpus": 0.25}
    assert "placement" not in app["deployments"][0]["user_config"]


def test_a_placement_is_told_twice_or_serve_would_take_no_notice_of_a_change() -> None:
    placement = Placement(bundles=({"CPU": 1.0}, {"CPU": 2.0}), strategy="SPREAD")
    placed = EnsembleDocument(name="both", members=("fraud", "Churn"), settings=Settings(cpus=0.5, placement=placement))
    models = [served(steady(1)), CHURN]
    (app,) = render_fronts(Fronts(ensembles=(placed,)), models, AROUND)
    (deployment,) = app["deployments"]
    assert deployment["placement_group_bundles"] == [{"CPU": 1.0}, {"CPU": 2.0}]
    assert deployment["placement_group_strategy"] == "SPREAD"
    assert parse_front_config(deployment["user_config"]).placement == placement
    config = {"applications": [*render(models, AROUND)["applications"], app]}
    assert parse(text(config)) == config


def test_the_file_is_read_back_as_strictly_as_it_is_written() -> None:
    models = [served(steady(1)), CHURN]
    config = {
        "applications": [
            *render(models, AROUND)["applications"],
            *render_fronts(Fronts(ensembles=(BOTH,), grpc=GRPC), models, AROUND),
        ]
    }
    written = text(config)
    assert parse(written) == config
    with pytest.raises(Exception, match="combin: is not known here"):
        parse(written.replace("combine: mean", "combin: mean"))


def test_args_and_user_configs_are_read_by_the_replica() -> None:
    both, grpc = render_fronts(Fronts(ensembles=(BOTH,), grpc=GRPC), [served(steady(1)), CHURN], AROUND)
    assert isinstance(parse_front_args(both["args"]), EnsembleArgs)
    assert isinstance(parse_front_args(grpc["args"]), GrpcArgs)
    told = both["deployments"][0]["user_config"]
    assert parse_front_config({**told, "from_a_newer_release": 1}).members[0].application == V1
