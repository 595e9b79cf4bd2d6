"""Amounts and names of resources: what Ray refuses is refused in a document, and what Ray takes is taken."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from policies.application import Settings
from policies.serving import Placement
from serving_runtime.serve_config import actor_options, placement


class Replica:
    """What Serve would run."""


def ray_takes(settings: dict[str, Any]) -> bool:
    """Does Serve take what would be rendered of these, had nobody looked at them?"""
    from ray.serve._private.config import ReplicaConfig

    unchecked: Any = SimpleNamespace(**{**dataclasses.asdict(Settings()), **settings})
    bundles = placement(unchecked).get("placement_group_bundles")
    try:
        ReplicaConfig.create(Replica, ray_actor_options=actor_options(unchecked), placement_group_bundles=bundles)
    except ValueError:
        return False
    return True


def is_read(settings: dict[str, Any]) -> bool:
    try:
        Settings(**settings)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({"cpus": 0.0001}, True),
        ({"cpus": 0.00009}, False),
        ({"gpus": 0.0}, True),
        ({"gpus": 0.5}, True),
        ({"gpus": 0.00001}, False),
        ({"custom": {"tpu_slice": 0.0001, "node:10.0.0.1": 0.01, "none": 0}}, True),
        ({"custom": {"x": 0.00001}}, False),
        ({"custom": {"x": -1}}, False),
        ({"custom": {"CPU": 1}}, False),
        ({"custom": {"GPU": 1}}, False),
        ({"custom": {"memory": 1}}, False),
        ({"custom": {"object_store_memory": 1}}, False),
        ({"custom": {"bundle": 1}}, False),
    ],
)
def test_a_document_takes_what_ray_takes(settings: dict[str, Any], taken: bool) -> None:
    assert ray_takes(settings) is taken
    assert is_read(settings) is taken


@pytest.mark.parametrize(
    ("bundles", "taken"),
    [
        ([{"CPU": 1}], True),
        ([{"CPU": 1, "memory": 2**30}, {"GPU": 0.5}], True),
        ([{"CPU": 0.5}, {"CPU": 2}], False),
        ([{"CPU": 1}, {}], False),
    ],
)
def test_a_placement_holds_the_replica_in_its_first_bundle(bundles: list[dict[str, float]], taken: bool) -> None:
    written = SimpleNamespace(bundles=bundles, strategy="PACK")
    assert ray_takes({"placement": written}) is taken
    assert is_read({"placement": {"bundles": tuple(bundles)}}) is taken


@pytest.mark.parametrize(
    "bundle",
    [{"CPU": 1.0, "x": 0.00001}, {"CPU": 1.0, "object_store_memory": 1.0}, {"CPU": 1.0, "bundle": 1.0}, {"": 1.0}],
)
def test_a_bundle_that_ray_would_refuse_later_is_refused_too(bundle: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Placement(bundles=(bundle,))
    assert Placement(bundles=({"CPU": 1.0, "memory": 2.0**30},)).bundles


def test_what_the_replica_reserves_itself_is_added_up() -> None:
    settings = Settings(cpus=0.5, gpus=1, memory_mib=64, custom={"tpu_slice": 2, "none": 0})
    assert settings.reserved == {"CPU": 0.5, "GPU": 1.0, "memory": 64 * 2**20, "tpu_slice": 2.0}
    with pytest.raises(ValidationError, match="there it lacks 64 MiB of memory"):
        Settings(memory_mib=64, placement=Placement(bundles=({"CPU": 1.0},)))
