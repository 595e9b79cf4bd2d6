"""What KubeRay's manifest says next: the numbered rules of `policies/stepping.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from policies.convergence import InPlace, Refused, Submit, Waiting
from policies.observations import RuntimeObservation
from policies.ray_service import RayService
from policies.release import Phase, Release
from policies.stepping import NextManifest, arrived, next_manifest, not_told, on_hold, with_stops
from tests.unit.releases import application, rolling, steady
from tests.unit.test_convergence import app, config, serving, split

HEAD = {"metadata": {"name": "production"}, "spec": {"rayClusterConfig": {"image": 1}}}
NEW_HEAD = {"metadata": {"name": "production"}, "spec": {"rayClusterConfig": {"image": 2}}}
ONE = app("m-1", "/m")
UPGRADE = "KubeRay replaces the cluster"


def step(
    desired: Mapping[str, Any],
    written: Mapping[str, Any] | None,
    observed: RuntimeObservation,
    *releases: Release,
    head: Mapping[str, Any] | None = HEAD,
) -> NextManifest:
    there = RayService(HEAD, written) if written else None
    return next_manifest(desired, there, head, observed, releases or (steady(),))


def splitting(weight: int, revision: int = 1) -> dict[str, Any]:
    """Version 1 gives version 2 a share."""
    return config(app("m-1", "/m", revision=revision, split=split("m-2", weight)), app("m-2", revision=revision))


def stopped() -> dict[str, Any]:
    """Version 2 is stopped at both ends, at revision 2."""
    return config(app("m-1", "/m", revision=2), app("m-2", revision=2, drain=True))


def upgrading(*apps: dict[str, Any]) -> RuntimeObservation:
    return dataclasses.replace(serving(*apps).observe(), upgrading=UPGRADE)


def test_1_a_step_waits_for_the_one_before():
    observed = serving(ONE).observe()
    written = config(ONE, app("m-2"))
    found = step(config(ONE, app("m-2"), app("m-3")), written, observed)
    assert found.changed == ""
    assert isinstance(found.step, Waiting)
    assert "m-2 is not there" in found.step.reason
    there = step(config(ONE, app("m-2"), app("m-3")), written, serving(ONE, app("m-2")).observe())
    assert there.changed == "add m-3"
    assert there.manifest == RayService(HEAD, config(ONE, app("m-2"), app("m-3")))


def test_1_what_is_still_there_has_not_arrived_either():
    observed = serving(ONE, app("m-2")).observe()
    assert "m-2 is still there" in arrived(config(ONE), observed)
    assert "m-1 (route_prefix)" in arrived(config(app("m-1"), app("m-2")), observed)
    assert arrived(config(ONE, app("m-2")), observed) == ""
    assert "no route to host" in arrived(config(ONE), RuntimeObservation(available=False, reason="no route to host"))


def test_2_a_stop_does_not_wait_and_changes_nothing_else():
    written = splitting(50)
    found = step(stopped(), written, serving(*splitting(10)["applications"]).observe(), rolling(Phase.ROLLING_BACK))
    assert found.changed.startswith("stop what must stop")
    assert found.manifest is not None
    assert found.manifest.config == stopped()


def test_2_more_traffic_is_no_stop_nor_is_an_older_revision_nor_a_drain_of_who_has_the_route():
    assert with_stops(splitting(10), splitting(50, revision=2)) == splitting(10)
    older = config(app("m-1", "/m", revision=0), app("m-2"))
    assert with_stops(splitting(10), older) == splitting(10)
    drained = config(app("m-1", "/m", revision=2, drain=True))
    assert with_stops(config(ONE), drained) == config(ONE)


def test_3_the_template_goes_alone_when_nothing_else_does():
    observed = serving(ONE).observe()
    found = step(config(ONE), config(ONE), observed, head=NEW_HEAD)
    assert found.manifest == RayService(NEW_HEAD, config(ONE))
    assert "template" in found.changed
    with_more = step(config(ONE, app("m-2")), config(ONE), observed, head=NEW_HEAD)
    assert with_more.manifest == RayService(HEAD, config(ONE, app("m-2")))
    waits = step(config(ONE), config(ONE), observed, rolling(Phase.PAUSED), head=NEW_HEAD)
    assert (waits.changed, waits.manifest) == ("", RayService(HEAD, config(ONE)))
    assert "fraud is PAUSED" in str(waits.step)


def test_3_a_template_that_is_gone_changes_nothing():
    assert step(config(ONE), config(ONE), serving(ONE).observe(), head=None) == NextManifest(
        InPlace(), RayService(HEAD, config(ONE))
    )
    assert isinstance(step(config(ONE), None, serving(ONE).observe(), head=None).step, Refused)


def test_3_an_upgrade_does_not_hold_up_the_template_that_ends_it():
    found = step(config(ONE), config(ONE), upgrading(ONE), head=NEW_HEAD)
    assert found.manifest == RayService(NEW_HEAD, config(ONE))


def test_4_while_a_cluster_is_replaced_nothing_starts_and_only_stops_are_written():
    assert step(config(ONE, app("m-2")), config(ONE), upgrading(ONE)) == NextManifest(
        Waiting(UPGRADE), RayService(HEAD, config(ONE))
    )
    found = step(stopped(), splitting(50), upgrading(*splitting(50)["applications"]))
    assert found.manifest is not None
    assert found.manifest.config == stopped()
    written = RayService(HEAD, config(ONE))
    assert on_hold(written, HEAD, upgrading(ONE), rolling(Phase.CANARY)) == UPGRADE
    assert on_hold(written, NEW_HEAD, serving(ONE).observe(), steady()) != ""
    assert on_hold(written, NEW_HEAD, serving(ONE).observe(), rolling(Phase.CANARY)) == ""
    assert on_hold(written, HEAD, serving(ONE).observe(), steady()) == ""


def test_5_a_candidate_that_nobody_told_ray_of_had_no_chance():
    release, name = rolling(Phase.WARMING), application(2).name("fraud")
    assert "has not submitted" in not_told(release, "fraud", serving(ONE).observe())
    assert not_told(release, "fraud", serving(ONE, app(name)).observe()) == ""
    assert not_told(release, "fraud", upgrading(ONE, app(name))) == UPGRADE
    assert not_told(rolling(Phase.CANARY), "fraud", serving(ONE).observe()) == ""


def test_6_where_nothing_was_submitted_nothing_is_waited_for():
    nothing = RuntimeObservation(available=True)
    found = step(config(ONE), config(app("m-9", "/m")), nothing)
    assert found.manifest == RayService(HEAD, config(ONE))
    assert isinstance(step(config(ONE), config(ONE), nothing).step, Waiting)


def test_the_first_manifest_comes_with_the_first_application_and_adopts_what_is_there():
    away = RuntimeObservation(available=False, reason="no such host")
    assert step(config(), None, away).manifest is None
    first = step(config(ONE), None, away)
    assert isinstance(first.step, Submit)
    assert first.manifest == RayService(HEAD, config(ONE))
    adopted = step(config(app("m-2", "/m")), None, serving(ONE).observe())
    assert adopted.manifest is not None
    routes = {each["name"]: each["route_prefix"] for each in adopted.manifest.config["applications"]}
    assert routes == {"m-2": None, "m-1": "/m"}
