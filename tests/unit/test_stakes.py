"""A bet that may start at any time, against its definition summed directly in high precision."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.stakes import FIRST, TAIL, Schedule, Stakes, log_mean_exp, log_sum_exp

getcontext().prec = 60

PRIOR = np.array([0.25, 0.5, 0.25])
RATIOS = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=8)


def directly(ratios: list[list[float]], shares: list[float]) -> Decimal:
    """E as it is defined: a unit over starts and alternatives, each product from its own start on."""
    total = Decimal(1) - sum(map(Decimal, shares), Decimal(0))
    for start, share in enumerate(shares):
        for j, prior in enumerate(PRIOR):
            product = Decimal(share) * Decimal(float(prior))
            for row in ratios[start:]:
                product *= Decimal(row[j]).exp()
            total += product
    return total


def walked(ratios: list[list[float]], schedule: Schedule) -> Stakes:
    stakes = Stakes.none_placed((), 3)
    for row in ratios:
        stakes = stakes.moved(np.array(row), np.array(True), schedule, PRIOR)
    return stakes


@given(ratios=RATIOS, planned=st.integers(1, 6))
def test_the_recursion_is_the_sum_over_all_starts(ratios: list[list[float]], planned: int) -> None:
    schedule = Schedule.searching(planned)
    shares = [float(schedule.share(np.array(k))) for k in range(len(ratios))]
    expected = float(directly(ratios, shares).ln())
    assert float(walked(ratios, schedule).log_e) == pytest.approx(expected, abs=1e-9)


@given(ratios=RATIOS)
def test_a_steadfast_bet_is_one_product_for_each_alternative(ratios: list[list[float]]) -> None:
    products = [math.fsum(row[j] for row in ratios) for j in range(3)]
    expected = float(log_sum_exp(np.array(products) + np.log(PRIOR)))
    assert float(walked(ratios, Schedule.steadfast()).log_e) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("planned", [1, 10, 1920])
def test_the_shares_of_all_starts_are_one_unit(planned: int) -> None:
    schedule = Schedule.searching(planned)
    shares = schedule.share(np.arange(planned * 1000.0))
    assert shares[0] == FIRST
    assert math.fsum(shares[: planned + 1]) == pytest.approx(1.0 - TAIL)
    assert 1.0 - TAIL / 500 <= math.fsum(shares) <= 1.0 + 1e-12
    assert (shares > 0).all()


def test_before_the_first_bin_it_is_worth_exactly_one() -> None:
    assert float(Stakes.none_placed((), 3).log_e) == 0.0


def test_a_bin_that_is_not_bet_on_changes_nothing() -> None:
    stakes = walked([[1.0, 2.0, 3.0]], Schedule.searching(5))
    after = stakes.moved(np.array([9.0, 9.0, 9.0]), np.array(False), Schedule.searching(5), PRIOR)
    assert float(after.log_e) == float(stakes.log_e)
    assert float(after.bins) == 1.0


def test_thousands_side_by_side_are_each_as_if_alone() -> None:
    randomness = np.random.default_rng(1)
    ratios, moves = randomness.normal(size=(6, 40, 3)), randomness.random((6, 40)) < 0.7
    schedule, together = Schedule.searching(4), Stakes.none_placed((40,), 3)
    for row, move in zip(ratios, moves, strict=True):
        together = together.moved(row, move, schedule, PRIOR)
    for n in range(40):
        taken = [list(ratios[k, n]) for k in range(6) if moves[k, n]]
        assert float(together.log_e[n]) == pytest.approx(float(walked(taken, schedule).log_e) if taken else 0.0)


def test_nothing_overflows_however_long_it_wins_or_loses() -> None:
    for ratio in (-50.0, 50.0):
        stakes = walked([[ratio] * 3] * 5000, Schedule.searching(10))
        assert math.isfinite(float(stakes.log_e)) or ratio < 0


def test_lost_bets_weigh_nothing() -> None:
    assert log_mean_exp(np.array([0.0, -math.inf])) == pytest.approx(-math.log(2))
    assert log_mean_exp(np.array([-math.inf, -math.inf])) == -math.inf
    assert log_sum_exp(np.array([5000.0, 5000.0])) == pytest.approx(5000.0 + math.log(2))
