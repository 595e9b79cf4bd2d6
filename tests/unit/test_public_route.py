"""Whether a request came by its model's route."""

from __future__ import annotations

import pytest

from serving_runtime.public_route import ROUTE_LOST_S, PublicRoute

ROUTE = "/models/fraud"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_version_that_is_public_answers_wherever_it_is_asked() -> None:
    route = PublicRoute(Clock())
    assert route.leads_here(public=True, route=ROUTE, root_path="")
    assert route.leads_here(public=True, route=ROUTE, root_path=ROUTE)


@pytest.mark.parametrize("root_path", ["", "/", "/models/other", "/models/fraud/", "/models"])
def test_a_version_that_is_not_is_not_asked_directly(root_path: str) -> None:
    assert not PublicRoute(Clock()).leads_here(public=False, route=ROUTE, root_path=root_path)


def test_nothing_is_public_because_nobody_knows_the_route() -> None:
    assert not PublicRoute(Clock()).leads_here(public=False, route="", root_path="/anything")


def test_whoever_has_the_route_by_serves_own_word_answers() -> None:
    assert PublicRoute(Clock()).leads_here(public=False, route=ROUTE, root_path=ROUTE)
    assert PublicRoute(Clock()).leads_here(public=False, route=ROUTE, root_path=f"/mounted{ROUTE}")


@pytest.mark.parametrize("told", [{"public": True, "root_path": ""}, {"public": False, "root_path": ROUTE}])
def test_who_has_lost_the_route_answers_those_who_have_not_heard(told: dict[str, object]) -> None:
    clock = Clock()
    route = PublicRoute(clock)
    assert route.leads_here(route=ROUTE, **told)  # type: ignore[arg-type]
    clock.now += ROUTE_LOST_S - 1
    assert route.leads_here(public=False, route=ROUTE, root_path="")
    clock.now += 2
    assert not route.leads_here(public=False, route=ROUTE, root_path="")
