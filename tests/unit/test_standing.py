"""Every test on one objective: each formula beside an independent computation, and what moves which."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from policies.bets import bounds, equal_grid, share_grid, share_log_ratio
from policies.evidence import Counts
from policies.standing import (
    AWAY_BINS,
    FORGIVING,
    Counted,
    Harm,
    Setup,
    Standing,
    Test,
    counted_harm,
    counted_suspicion,
    least_effect,
)

SETUP = Setup(allowed=0.01, tolerance=1.5, margin=1.25, dispersion=1.0, planned=1920)
EVENTS = st.integers(0, 400)


def bins(
    *rows: tuple[float, float, float, float], rescued: float | None = None, pairs: tuple[float, float] | None = None
):
    """Bins of `(total, bad, stable's total, stable's bad)`, oldest first."""
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4)
    size = len(columns)
    return Counted(
        total=columns[:, 0],
        bad=columns[:, 1],
        stable_total=columns[:, 2],
        stable_bad=columns[:, 3],
        rescued=np.full(size, rescued or 0.0),
        told=np.full(size, rescued is not None),
        only_candidate=np.full(size, pairs[0] if pairs else 0.0),
        only_stable=np.full(size, pairs[1] if pairs else 0.0),
        paired=np.full(size, pairs is not None),
    )


def log_e(counted: Counted, setup: Setup = SETUP) -> dict[Test, float]:
    end = Standing.before().through(counted, setup).end
    return {test: float(end.stakes.log_e[test]) for test in Test}


# --- whose the bad events are -----------------------------------------------------------------------------------


@given(bad=EVENTS, stable_bad=EVENTS, n=st.integers(1, 10**6), m=st.integers(1, 10**6), limit=st.floats(1, 3))
def test_the_ratio_is_that_of_two_binomial_likelihoods(bad: int, stable_bad: int, n: int, m: int, limit: float) -> None:
    risks = share_grid(limit)
    rho, q = n * limit / (n * limit + m), n * risks / (n * risks + m)
    events = bad + stable_bad
    expected = stats.binom.logpmf(bad, events, q) - stats.binom.logpmf(bad, events, rho)
    found = share_log_ratio(bad, stable_bad, n, m, risks, limit)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(0, 10), (10, 0), (0, 0)])
def test_a_bin_without_both_sides_says_nothing(n: int, m: int) -> None:
    assert not share_log_ratio(3 if n else 0, 3 if m else 0, n, m, share_grid(1.0), 1.0).any()


@pytest.mark.parametrize("grid", [share_grid(1.5), equal_grid(1.25)])
@pytest.mark.parametrize(("n", "m"), [(5, 95), (50, 50), (500, 500)])
def test_a_bet_on_the_share_is_fair_at_its_limit_and_loses_beyond(grid, n: int, m: int) -> None:
    """The mean ratio over all outcomes is 1 at the limit and at most 1 on the hypothesis' side of it."""
    limit = 1.5 if grid[0] > 1.5 else 1.25
    side = 0.5 if grid[0] > 1.5 else 2.0
    for risk, bound in ((limit, 1.0), (limit * side, 1.0)):
        share = n * risk / (n * risk + m)
        events = 12
        chances = stats.binom.pmf(np.arange(events + 1), events, share)
        ratios = np.array([share_log_ratio(x, events - x, n, m, grid, limit) for x in range(events + 1)])
        means = (chances[:, np.newaxis] * np.exp(ratios)).sum(axis=0)
        assert (means <= bound + 1e-9).all()
        assert risk != limit or means == pytest.approx(1.0)


def test_equal_rates_of_any_size_and_outages_are_hypergeometric_and_so_safer() -> None:
    """Half of all answers bad: of the bad ones of a bin the candidate's part spreads less than a binomial."""
    n, m, events = 30, 70, 50
    chances = stats.hypergeom.pmf(np.arange(events + 1), n + m, n, events)
    ratios = np.array([share_log_ratio(x, events - x, n, m, share_grid(1.0), 1.0) for x in range(events + 1)])
    assert ((chances[:, np.newaxis] * np.exp(ratios)).sum(axis=0) <= 1).all()


# --- bounds -----------------------------------------------------------------------------------------------------


@given(total=st.integers(1, 10**6), share=st.floats(0, 1), level=st.sampled_from([0.05, 0.01, 0.001]))
def test_the_bounds_are_where_the_mixture_reaches_its_level(total: int, share: float, level: float) -> None:
    bad = round(total * share)
    lower, upper = bounds(Counts(total, bad), level, level)
    assert 0 <= lower <= bad / total <= upper <= 1
    for edge in (lower, upper):
        if 1e-12 < edge < 1 - 1e-12:
            log_mixture = stats.betabinom.logpmf(bad, total, 0.5, 0.5)
            assert log_mixture - stats.binom.logpmf(bad, total, edge) == pytest.approx(-math.log(level), abs=1e-3)


def test_without_a_request_a_rate_may_be_anything() -> None:
    assert bounds(Counts(0, 0), 0.01, 0.01) == (0.0, 1.0)


def test_bounds_that_are_looked_at_after_every_bin_err_no_more_often_than_they_say() -> None:
    randomness = np.random.default_rng(3)
    wrong, rollouts = 0, 300
    for _ in range(rollouts):
        total = np.arange(1, 41) * 50
        bad = randomness.binomial(50, 0.02, size=40).cumsum()
        seen = [bounds(Counts(float(n), float(x)), 0.05, 0.05) for n, x in zip(total, bad, strict=True)]
        wrong += any(not lower <= 0.02 <= upper for lower, upper in seen)
    assert wrong / rollouts <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / rollouts)


# --- which test moves when ----------------------------------------------------------------------------------------


def test_stable_without_traffic_for_a_minute_leaves_the_slo_alone() -> None:
    both, alone = (100, 10, 100, 0), (100, 10, 0, 0)
    hosted = log_e(bins(both))
    assert (hosted[Test.ALONE], hosted[Test.OUTAGE]) == (0.0, 0.0)
    by_chance = log_e(bins(both, *[alone] * AWAY_BINS))
    assert by_chance[Test.ALONE] == 0.0
    assert by_chance[Test.SLO] > hosted[Test.SLO]
    assert by_chance[Test.SHARED] == pytest.approx(hosted[Test.SHARED])
    assert log_e(bins(both, *[alone] * (AWAY_BINS + 1)))[Test.ALONE] > 0


def test_without_a_stable_version_everything_is_the_candidates() -> None:
    found = log_e(bins((100, 10, 0, 0), rescued=0.0))
    assert found[Test.ALONE] > 0
    assert found[Test.OUTAGE] == 0.0
    assert (found[Test.SLO], found[Test.SHARED], found[Test.STABLE]) == (0.0, 0.0, 0.0)


def test_what_stable_fails_as_well_is_an_outage() -> None:
    away = [(100, 30, 0, 0)] * 10
    start = bins((100, 0, 100, 0))

    def after(rescued: float) -> Standing:
        return Standing.before().through(start, SETUP).end.through(bins(*away, rescued=rescued), SETUP).end

    assert after(rescued=30.0).harm[Harm.SLO] > math.log(1000)
    assert after(rescued=15.0).harm[Harm.SLO] < FORGIVING
    assert counted_suspicion(after(rescued=15.0), SETUP, 0.001)[Harm.SLO] < 0


def test_what_was_not_rescued_is_not_held_against_the_candidate_alone() -> None:
    away = [(100, 30, 0, 0)] * 10
    start = Standing.before().through(bins((100, 0, 100, 0)), SETUP).end
    found = {r: start.through(bins(*away, rescued=r), SETUP).end.stakes.log_e for r in (0.0, 30.0)}
    assert found[0.0][Test.ALONE] < 0
    assert found[30.0][Test.ALONE] > math.log(1000)


def test_an_outage_at_a_hundred_percent_is_not_forgotten_by_a_bet_that_begins_after_it() -> None:
    """It made the harm alone huge for hours; a new bet on a stable that does well would meet it."""
    standing = Standing.before().through(bins((100, 0, 100, 0)), SETUP).end
    standing = standing.through(bins(*[(100, 50, 0, 0)] * 20, rescued=25.0), SETUP).end
    after = standing.through(bins(*[(100, 0.5, 0, 0)] * 60, rescued=0.5), SETUP).end
    assert after.stakes.log_e[Test.ALONE] > math.log(1000)
    assert after.harm[Harm.SLO] < math.log(100)


def test_harm_against_the_slo_is_the_smaller_of_both_with_the_outage_forgiven() -> None:
    counted = bins(*[(100, 6, 100, 1)] * 6)
    standing = Standing.before().through(counted, SETUP).end
    each = log_e(counted)
    assert standing.harm[Harm.SLO] == pytest.approx(min(each[Test.SLO], FORGIVING + each[Test.SHARED]))
    assert counted_suspicion(standing, SETUP, 0.001)[Harm.SLO] == pytest.approx(min(each[Test.SLO], each[Test.SHARED]))
    assert standing.harm[Harm.STABLE] == pytest.approx(each[Test.STABLE])


def test_a_dispersion_takes_from_every_bet_what_it_says() -> None:
    one = bins((1000, 60, 1000, 3))
    plain, clustered = log_e(one), log_e(one, dataclasses.replace(SETUP, dispersion=10.0))
    assert clustered[Test.SLO] < plain[Test.SLO] / 5
    assert 0 < clustered[Test.STABLE] < plain[Test.STABLE] / 5


# --- the effect -------------------------------------------------------------------------------------------------


def test_the_effect_is_that_of_the_time_in_which_harm_has_been_rising() -> None:
    """An hour of health must not thin out what the last minutes show."""
    hour, turned = [(100, 0, 100, 0)] * 240, [(100, 10, 100, 1)] * 8
    standing = Standing.before().through(bins(*hour, *turned), SETUP).end
    assert standing.effect(0.01)[Harm.STABLE] == pytest.approx(0.09, abs=0.01)
    assert standing.effect(0.01)[Harm.SLO] == pytest.approx(0.09, abs=0.01)


def test_a_difference_too_small_to_matter_counts_for_nothing_however_certain() -> None:
    counted = bins(*[(100_000, 350, 100_000, 100)] * 20)
    standing = Standing.before().through(counted, SETUP).end
    assert standing.harm[Harm.STABLE] > math.log(1e6)
    assert counted_harm(standing, SETUP, 0.001)[Harm.STABLE] == standing.harm[Harm.STABLE]
    assert counted_harm(standing, SETUP, 0.003)[Harm.STABLE] == 0.0


def test_the_least_effect_is_a_tenth_of_what_the_slo_allows() -> None:
    assert least_effect(0.05, 0.001) == pytest.approx(0.005)
    assert least_effect(0.001, 0.001) == pytest.approx(0.001)


# --- bin by bin, and all at once ----------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)).map(
        lambda r: (float(r[0]), float(min(r[0], r[1])), float(r[2]), float(min(r[2], r[3])))
    ),
    min_size=1,
    max_size=25,
)


@given(rows=ROWS, cut=st.integers(0, 25))
def test_in_one_piece_or_in_many_it_stands_the_same(rows: list[tuple[float, float, float, float]], cut: int) -> None:
    whole = Standing.before().through(bins(*rows), SETUP).end
    parts = Standing.before()
    for part in (rows[:cut], rows[cut:]):
        if part:
            parts = parts.through(bins(*part), SETUP).end
    single = Standing.before()
    for row in rows:
        single = single.after(Counted(*(a[0] for a in bins(row).fields)), SETUP)
    for other in (parts, single):
        assert other.stakes.log_e == pytest.approx(whole.stakes.log_e)
        assert other.best == pytest.approx(whole.best)
        assert other.rising == pytest.approx(whole.rising)
        assert other.quiet == pytest.approx(whole.quiet)


def test_bins_with_no_requests_at_all_change_nothing() -> None:
    some = [(30.0, 1.0, 30.0, 0.0)] * 3
    padded = [*some[:1], (0.0, 0.0, 0.0, 0.0), *some[1:]]
    one, other = (Standing.before().through(bins(*rows), SETUP).end for rows in (some, padded))
    assert one.stakes.log_e == pytest.approx(other.stakes.log_e)


def test_ten_million_healthy_requests_never_fail() -> None:
    """At a third of the SLO, and at the SLO itself beside a stable that is no better."""
    for rate in (0.003, 0.01):
        standing = Standing.before().through(bins(*[(10_000, 10_000 * rate) * 2] * 1000), SETUP).end
        assert (counted_harm(standing, SETUP, 0.001) < math.log(100)).all()
