"""Holds: written into what Ray shows, and read back from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from policies.holding import LEAD, Stop, has_traffic, held, holds, known_revision, lifts, why_not, with_holds
from policies.observations import RuntimeObservation
from policies.release import Cause, CauseKind, Phase, Release
from tests.fakes.runtime import FakeServe
from tests.unit.releases import NOW, application, rolling

FAILED = Cause(kind=CauseKind.FAILED, reasons=("errors 30 of 100",))
CANARY = rolling(Phase.CANARY, weight=25, traffic_revision=5)
HOST, GUEST = (application(n).name("fraud") for n in (1, 2))


def app(name: str, version: int, *, split: dict[str, Any] | None = None, **told: Any) -> dict[str, Any]:
    user_config = {"revision": 5, "model": "fraud", "version": version, "drain": False, "hold": False, "split": split}
    return {"name": name, "import_path": "m:build", "deployments": [{"name": "M", "user_config": user_config | told}]}


def showing(*apps: dict[str, Any]) -> RuntimeObservation:
    serve = FakeServe()
    serve.apply({"applications": [{"route_prefix": None, **each} for each in apps]})
    serve.settle()
    return serve.observe()


def running(weight: int = 25, *, shadow: bool = False, **told: Any) -> RuntimeObservation:
    split = {"application": GUEST, "weight_percent": weight, "shadow": shadow}
    return showing(app(HOST, 1, split=split, **told), app(GUEST, 2, **told))


def stop(release: Release = CANARY) -> Stop:
    return Stop(slug="fraud", release=release, cause=FAILED, at=NOW)


def after_a_hold(release: Release = CANARY) -> RuntimeObservation:
    return showing(*with_holds([stop(release)], running())["applications"])


@pytest.mark.parametrize(("weight", "shadow", "has"), [(25, False, True), (0, True, True), (0, False, False)])
def test_copies_are_traffic_too(weight, shadow, has):
    assert has_traffic(CANARY, "fraud", running(weight, shadow=shadow)) is has


def test_a_hold_is_read_back_with_its_reasons_and_its_time():
    cause = held(CANARY, "fraud", after_a_hold())
    assert cause == Cause(kind=FAILED.kind, reasons=(f"stopped at {NOW.isoformat()} without a commit", *FAILED.reasons))


def test_one_end_of_a_hold_is_enough_to_read_it():
    both = with_holds([stop()], running())["applications"]
    for one in both:
        assert held(CANARY, "fraud", showing(one)) is not None


def test_a_hold_of_another_rollout_says_nothing_about_this_one():
    later = dataclasses.replace(CANARY, rollout=dataclasses.replace(CANARY.rollout, id="r2"))
    assert held(later, "fraud", after_a_hold()) is None


def test_a_hold_without_a_reason_counts_all_the_same():
    cause = held(CANARY, "fraud", running(0, hold=True))
    assert cause is not None
    assert cause.quarantines


def test_a_hold_leads_by_more_revisions_than_a_submit_under_way_can_have():
    assert known_revision("fraud", after_a_hold()) == 5 + LEAD
    assert {revision for _, revision in holds(after_a_hold())} == {5 + LEAD}


def test_a_hold_is_lifted_by_a_higher_revision_only():
    assert not lifts({"revision": 105}, {"revision": 105, "hold": True})
    assert lifts({"revision": 106}, {"revision": 105, "hold": True})
    assert lifts({"revision": 1}, {"revision": 105, "hold": False})


def test_other_models_are_left_as_they_are():
    other = app("churn--v1", 1) | {"route_prefix": "/churn"}
    observed = showing(*(a.submitted for a in running().applications.values()), other)
    config = with_holds([stop()], observed)
    assert other in config["applications"]
    assert len(config["applications"]) == 3


def test_ray_that_is_away_cannot_be_told():
    assert "Ray cannot be seen: down" in why_not(stop(), RuntimeObservation(available=False, reason="down"))


def test_a_first_version_has_nobody_who_could_answer_in_its_place():
    assert "no stable version" in why_not(stop(dataclasses.replace(CANARY, stable=None)), running())


def test_a_candidate_that_has_the_route_itself_is_left_to_git():
    """An emergency: stable fails, and the swap back is a commit's, make before break."""
    host, guest = app(HOST, 1), {**app(GUEST, 2), "route_prefix": "/models/fraud"}
    assert "has the route itself" in why_not(stop(), showing(host, guest))


def test_a_tip_that_is_older_than_what_ray_was_told_stops_nothing():
    assert "went on" in why_not(stop(dataclasses.replace(CANARY, traffic_revision=4)), running())
    assert not why_not(stop(), running())
    assert not why_not(stop(dataclasses.replace(CANARY, traffic_revision=6)), running())


def test_a_hold_that_was_half_undone_is_made_again():
    """A submit that was under way put the host's share back; the candidate still says that it is held."""
    applications = with_holds([stop()], running())["applications"]
    observed = showing(running().applications[HOST].submitted, next(a for a in applications if a["name"] == GUEST))
    assert has_traffic(CANARY, "fraud", observed)
    assert not why_not(stop(), observed)
    assert known_revision("fraud", showing(*with_holds([stop()], observed)["applications"])) > 5 + LEAD
