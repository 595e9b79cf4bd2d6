"""The arithmetic of the judge, against the formula summed directly and against what makes it valid."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln, xlog1py, xlogy

from policies.bets import (
    GRID_SIZE,
    FloatArray,
    harm_grid,
    health_grid,
    log_mean_exp,
    requests_to_prove,
)
from policies.evidence import Counts
from tests.unit.single_bets import harm_log_e, health_log_e, mixture_log_e

Grid = Callable[[float], FloatArray]

RATES = st.sampled_from([1e-6, 0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.7, 0.95])
GRIDS = pytest.mark.parametrize("grid_of", [harm_grid, health_grid])
PROVED = math.log(100)


def counts(total: float, bad: float) -> Counts:
    return Counts(total, bad)


def summed_directly(total: int, bad: int, grid: FloatArray, allowed: float) -> float:
    """The formula as it is written, with sixty digits and exponents of any size, and its logarithm at the end."""
    with localcontext(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN):
        limit = Decimal(allowed)
        ratios = [
            (Decimal(p) / limit) ** bad * ((1 - Decimal(p)) / (1 - limit)) ** (total - bad)
            for p in (float(p) for p in grid)
        ]
        return float((sum(ratios, Decimal(0)) / len(ratios)).ln())


# --- the grids ------------------------------------------------------------------------------------------------


@given(allowed=st.floats(1e-9, 1 - 1e-9))
def test_alternatives_of_harm_are_above_the_limit_and_below_one(allowed: float) -> None:
    grid = harm_grid(allowed)
    assert grid.shape == (GRID_SIZE,)
    assert np.all(grid > allowed)
    assert np.all(grid < 1)
    assert np.all(np.diff(grid) > 0) or np.all(np.diff(grid) < 0)


@given(allowed=st.floats(1e-9, 1 - 1e-9))
def test_alternatives_of_health_are_below_the_limit_and_above_zero(allowed: float) -> None:
    grid = health_grid(allowed)
    assert grid.shape == (GRID_SIZE,)
    assert np.all(grid < allowed)
    assert np.all(grid > 0)
    assert np.all(np.diff(grid) > 0)


def test_the_grid_of_harm_is_spaced_as_the_design_says() -> None:
    grid = harm_grid(0.01)
    assert grid[0] == pytest.approx(0.013)
    assert grid[-1] == pytest.approx(0.9)
    assert np.diff(np.log(grid)) == pytest.approx(math.log(0.9 / 0.013) / (GRID_SIZE - 1))


@GRIDS
@pytest.mark.parametrize("allowed", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_limit_that_is_no_share_is_refused(grid_of: Grid, allowed: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        grid_of(allowed)


# --- the formula ----------------------------------------------------------------------------------------------


@GRIDS
@pytest.mark.parametrize(
    ("total", "bad"),
    [(0, 0), (1, 0), (1, 1), (37, 2), (1204, 31), (1204, 1204), (70_000, 0), (100_000, 999), (10_000_000, 100_000)],
)
@pytest.mark.parametrize("allowed", [0.001, 0.01, 0.3, 0.9])
def test_log_sum_exp_is_the_direct_sum(grid_of: Grid, total: int, bad: int, allowed: float) -> None:
    grid = grid_of(allowed)
    ours = float(mixture_log_e(bad, total, grid, allowed))
    assert ours == pytest.approx(summed_directly(total, bad, grid, allowed), rel=1e-9, abs=1e-9)


@given(allowed=RATES, total=st.integers(0, 10**7), share=st.floats(0, 1))
def test_log_sum_exp_is_the_direct_sum_anywhere(allowed: float, total: int, share: float) -> None:
    bad = round(total * share)
    expected = summed_directly(total, bad, harm_grid(allowed), allowed)
    # Ten million terms of size 14 at most, each good to 16 digits.
    assert harm_log_e(counts(total, bad), allowed) == pytest.approx(expected, rel=1e-9, abs=1e-7)


@GRIDS
@pytest.mark.parametrize("allowed", [0.01, 0.2, 0.8])
def test_at_the_limit_a_bet_is_fair(grid_of: Grid, allowed: float) -> None:
    """The mean of E over all outcomes of 40 requests is exactly 1, in fractions: what Ville's inequality needs."""
    limit, total = Fraction(allowed), 40
    grid = [Fraction(float(p)) for p in grid_of(allowed)]
    mean = sum(
        math.comb(total, bad)
        * limit**bad
        * (1 - limit) ** (total - bad)
        * sum((p / limit) ** bad * ((1 - p) / (1 - limit)) ** (total - bad) for p in grid)
        / len(grid)
        for bad in range(total + 1)
    )
    assert mean == 1


@given(allowed=RATES, share=st.floats(0, 1), total=st.integers(1, 60))
def test_bets_lose_in_the_mean_where_their_hypothesis_holds(allowed: float, share: float, total: int) -> None:
    bad = np.arange(total + 1.0)

    def mean(grid: FloatArray, rate: float) -> float:
        ways = gammaln(total + 1) - gammaln(bad + 1) - gammaln(total - bad + 1)
        chance = ways + xlogy(bad, rate) + xlog1py(total - bad, -rate)
        return float(np.exp(chance + mixture_log_e(bad, np.full_like(bad, total), grid, allowed)).sum())

    assert mean(harm_grid(allowed), allowed * share) <= 1 + 1e-9
    assert mean(health_grid(allowed), allowed + (1 - allowed) * share) <= 1 + 1e-9


@given(allowed=RATES, total=st.integers(1, 10**7), share=st.floats(0, 1))
def test_a_bad_request_more_shows_more_harm_and_less_health(allowed: float, total: int, share: float) -> None:
    fewer, more = counts(total, int((total - 1) * share)), counts(total, int((total - 1) * share) + 1)
    assert harm_log_e(more, allowed) > harm_log_e(fewer, allowed)
    assert health_log_e(more, allowed) < health_log_e(fewer, allowed)


@given(allowed=RATES, total=st.integers(0, 10**7), share=st.floats(0, 1))
def test_a_good_request_more_shows_less_harm_and_more_health(allowed: float, total: int, share: float) -> None:
    fewer, more = counts(total, int(total * share)), counts(total + 1, int(total * share))
    assert harm_log_e(more, allowed) < harm_log_e(fewer, allowed)
    assert health_log_e(more, allowed) > health_log_e(fewer, allowed)


@given(allowed=RATES, total=st.integers(0, 10**12), share=st.floats(0, 1))
def test_nothing_overflows(allowed: float, total: int, share: float) -> None:
    seen = counts(total, total * share)
    assert math.isfinite(harm_log_e(seen, allowed))
    assert math.isfinite(health_log_e(seen, allowed))


@GRIDS
def test_no_requests_are_worth_exactly_one(grid_of: Grid) -> None:
    for allowed in (1e-6, 0.01, 0.5, 0.99):
        assert float(mixture_log_e(0, 0, grid_of(allowed), allowed)) == 0.0


def test_the_floor_trap() -> None:
    """With a floored tail function a perfect candidate fails at 70,000 requests and a bad one is proved healthy."""
    for total in (70_000, 10_000_000):
        perfect, broken = counts(total, 0), counts(total, total)
        assert harm_log_e(perfect, 0.01) < -0.003 * total
        assert health_log_e(perfect, 0.01) > 0.009 * total
        assert harm_log_e(broken, 0.01) > 4 * total
        assert health_log_e(broken, 0.01) < -0.1 * total


def test_paths_have_the_shape_of_their_counts() -> None:
    bad, total = np.array([[0, 1, 1], [2, 2, 5]]), np.array([[10, 20, 30], [10, 20, 30]])
    path = mixture_log_e(bad, total, harm_grid(0.01), 0.01)
    assert path.shape == (2, 3)
    assert path[1, 2] == harm_log_e(counts(30, 5), 0.01)


def test_lost_bets_weigh_nothing() -> None:
    assert log_mean_exp(np.array([0.0, -math.inf])) == pytest.approx(-math.log(2))
    assert log_mean_exp(np.array([-math.inf, -math.inf])) == -math.inf
    assert log_mean_exp(np.array([5000.0, 5000.0])) == pytest.approx(5000.0)


# --- how much is enough ---------------------------------------------------------------------------------------


def test_a_perfect_candidate_is_proved_near_the_fewest_requests_possible() -> None:
    # No test can prove 1 % with fewer than ln(100) / -ln(0.99) = 459 good requests.
    needed = requests_to_prove(counts(0, 0), 0.01, PROVED, rate=0.0)
    assert 459 <= needed <= 1.2 * 459
    assert health_log_e(counts(needed, 0), 0.01) >= PROVED > health_log_e(counts(needed - 1, 0), 0.01)


@given(allowed=RATES, total=st.integers(0, 10**5), share=st.floats(0, 1), rate=st.floats(0, 0.8))
def test_the_forecast_is_where_the_proof_comes_about(allowed: float, total: int, share: float, rate: float) -> None:
    seen, rate = counts(total, total * share), rate * allowed
    needed = requests_to_prove(seen, allowed, PROVED, rate=rate)
    assert math.isfinite(needed)

    def proof_after(more: float) -> float:
        return health_log_e(seen + counts(more, more * rate), allowed)

    assert proof_after(needed) >= PROVED - 1e-6
    assert needed == 0 or proof_after(needed - 1) < PROVED + 1e-6


@pytest.mark.parametrize("rate", [0.01, 0.02, 1.0])
def test_a_rate_outside_the_limit_never_proves_health(rate: float) -> None:
    assert requests_to_prove(counts(1000, 0), 0.01, PROVED, rate=0.0) == 0
    assert requests_to_prove(counts(100, 100 * rate), 0.01, PROVED, rate=rate) == math.inf
