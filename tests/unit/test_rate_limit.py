"""How often one caller may ask."""

from __future__ import annotations

import pytest

from policies.serving import Rate
from serving_runtime.callers import Caller
from serving_runtime.rate_limit import RateLimit

SHOP, DESK = (Caller(name, frozenset({"*"})) for name in ("shop", "desk"))


def test_a_burst_passes_and_then_the_rate() -> None:
    limit = RateLimit(Rate(per_s=2, burst=3))
    assert [limit.wait_s(SHOP, 0.0) for _ in range(4)] == [0, 0, 0, 1]
    assert [limit.wait_s(SHOP, 0.5), limit.wait_s(SHOP, 0.5)] == [0, 1]


def test_what_is_refused_takes_nothing() -> None:
    limit = RateLimit(Rate(per_s=1, burst=1))
    assert limit.wait_s(SHOP, 0.0) == 0
    assert {limit.wait_s(SHOP, 0.5) for _ in range(100)} == {1}
    assert limit.wait_s(SHOP, 1.0) == 0


@pytest.mark.parametrize(("per_s", "wait_s"), [(0.1, 10), (0.3, 4), (1000.0, 1)])
def test_the_wait_is_whole_seconds_until_there_is_room(per_s: float, wait_s: int) -> None:
    limit = RateLimit(Rate(per_s=per_s, burst=1))
    assert [limit.wait_s(SHOP, 0.0), limit.wait_s(SHOP, 0.0)] == [0, wait_s]
    assert limit.wait_s(SHOP, float(wait_s)) == 0


def test_a_pause_fills_the_bucket_to_its_burst_and_no_further() -> None:
    limit = RateLimit(Rate(per_s=10, burst=2))
    assert limit.wait_s(SHOP, 0.0) == 0
    assert [limit.wait_s(SHOP, 1e6) for _ in range(3)] == [0, 0, 1]


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    limit = RateLimit(Rate(per_s=1, burst=2))
    assert [limit.wait_s(SHOP, 10.0), limit.wait_s(SHOP, 5.0), limit.wait_s(SHOP, 5.0)] == [0, 0, 1]


def test_callers_do_not_share() -> None:
    limit = RateLimit(Rate(per_s=1, burst=1))
    by_token = Caller("shop", frozenset(), by_token=True)
    assert [limit.wait_s(each, 0.0) for each in (SHOP, DESK, by_token, SHOP)] == [0, 0, 0, 1]


def test_it_remembers_so_many_callers_and_no_more() -> None:
    limit = RateLimit(Rate(per_s=0.001, burst=1), callers=100)
    for number in range(1000):
        assert limit.wait_s(Caller(str(number), frozenset()), 0.0) == 0
    assert len(limit) == 100
    assert limit.wait_s(Caller("999", frozenset()), 0.0) > 0
