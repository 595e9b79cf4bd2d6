"""The guard at the host: what it stops, how soon, and how rarely it is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.bets import harm_grid, rate_log_ratio
from policies.stakes import FloatArray, Schedule, Stakes
from serving_runtime.guard import Guard, Recent, prior, ratios, stake, unplaced, words
from serving_runtime.user_config import GuardTerms

ALLOWED, ALPHA = 0.01, 0.001
TERMS = GuardTerms(allowed=ALLOWED, alpha=ALPHA)
PATHS = 20_000
"""Gives a rate of 0.1 % to 0.022 % (one standard error)."""
SIGMAS = 3.0
"""Of Monte Carlo error allowed above a promise. The seeds are fixed, so a pass stays a pass."""


def guard(allowed: float = ALLOWED, alpha: float = ALPHA, *, good: int = 0) -> Guard:
    """One that has seen so many good answers."""
    one = Guard(GuardTerms(allowed=allowed, alpha=alpha))
    for _ in range(good):
        one.candidate_answered(well=True)
    return one


def failures_until_trip(one: Guard) -> int:
    """Nothing but bad answers from now on."""
    count = 1
    while not one.candidate_answered(well=False):
        count += 1
    return count


# --- how soon --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("allowed", "failures"), [(0.001, 2), (0.01, 3), (0.05, 4)])
def test_the_guard_trips_within_10_requests_when_all_fail(allowed: float, failures: int) -> None:
    assert failures_until_trip(guard(allowed)) == failures


@pytest.mark.parametrize(("allowed", "failures"), [(0.001, 4), (0.01, 6), (0.05, 10)])
def test_the_guard_after_100000_good_requests(allowed: float, failures: int) -> None:
    assert failures_until_trip(guard(allowed, good=100_000)) == failures


@pytest.mark.parametrize(("rate", "failures"), [(0.1, 6.3), (0.3, 3.6), (0.5, 3.1)])
def test_the_fewer_requests_fail_the_more_it_must_see(rate: float, failures: float) -> None:
    draws = np.random.default_rng(7)
    seen = []
    for _ in range(200):
        one = guard()
        while one.tripped is None:
            one.candidate_answered(well=bool(draws.random() >= rate))
        seen.append(one.tripped.bad)
    assert np.mean(seen) == pytest.approx(failures, abs=0.3)


def test_a_trip_stays_as_it_was() -> None:
    one = guard()
    failures_until_trip(one)
    before = one.tripped
    assert before is not None
    assert (before.requests, before.bad) == (3, 3)
    for _ in range(1000):
        assert not one.candidate_answered(well=True)
        assert not one.both_answered(candidate_well=True, stable_well=False)
    assert one.tripped == before


def test_a_trip_says_its_arithmetic() -> None:
    one = guard(good=20)
    failures_until_trip(one)
    assert one.tripped is not None
    assert words(one.tripped, TERMS) == (
        "4 bad answers, which stable gave well, of 24 requests; the SLO allows 1 %; e-value 2.36e+04 >= 1e+03"
    )


# --- how rarely it is wrong ------------------------------------------------------------------------------------------


def share_tripped(rate: float, requests: int, *, seed: int) -> float:
    """Of `PATHS` candidates with that bad rate, those that are stopped within so many requests."""
    draws, grid = np.random.default_rng(seed), harm_grid(ALLOWED)
    weights, (bad, good) = prior(grid, ALLOWED), ratios(grid, ALLOWED)
    worth, tripped = np.zeros((PATHS, grid.size)), np.zeros(PATHS, dtype=bool)
    for request in range(requests):
        failed = draws.random(PATHS) < rate
        worth = (worth + stake(request)) * np.where(failed[:, np.newaxis], bad, good)
        tripped |= (worth @ weights + unplaced(request + 1)) * ALPHA >= 1.0
    return float(tripped.mean())


def test_a_version_at_its_slo_is_stopped_with_a_chance_of_alpha_at_most() -> None:
    """By Monte Carlo, over 2,000 requests."""
    assert share_tripped(ALLOWED, 2000, seed=11) <= ALPHA + SIGMAS * math.sqrt(ALPHA / PATHS)


def test_the_monte_carlo_above_is_of_this_guard() -> None:
    draws, grid = np.random.default_rng(3), harm_grid(ALLOWED)
    weights, by_outcome = prior(grid, ALLOWED), ratios(grid, ALLOWED)
    for _ in range(20):
        one, worth = guard(), np.zeros_like(grid)
        for request in range(300):
            failed = bool(draws.random() < 0.05)
            worth = (worth + stake(request)) * by_outcome[0 if failed else 1]
            reached = float(weights @ worth) + unplaced(request + 1) >= 1.0 / ALPHA
            assert one.candidate_answered(well=not failed) == reached
            if reached:
                break


class World:
    """Requests at one host: a healthy candidate and stable, which fail independently at the same rate."""

    def __init__(self, seed: int) -> None:
        self.draws = np.random.default_rng(seed)
        self.guard = guard()

    def canary(self, requests: int, rate: float, weight: float) -> None:
        for _ in range(requests):
            candidate_well, stable_well = (bool(x) for x in self.draws.random(2) >= rate)
            to_candidate = bool(self.draws.random() < weight)
            if to_candidate and (candidate_well or stable_well):
                self.guard.candidate_answered(well=candidate_well)
            control = weight > 0.5 and self.guard.suspects
            if not (to_candidate and candidate_well) or control:
                self.guard.stable_answered(well=stable_well)

    def shadow(self, requests: int, rate: float) -> None:
        for _ in range(requests):
            candidate_well, stable_well = (bool(x) for x in self.draws.random(2) >= rate)
            self.guard.stable_answered(well=stable_well)
            self.guard.both_answered(candidate_well=candidate_well, stable_well=stable_well)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
@pytest.mark.parametrize(("weight", "stopped"), [(0.05, 0), (0.25, 0), (0.5, 1), (1.0, 5)])
def test_a_shared_outage_does_not_trip_the_guard(rate: float, weight: float, stopped: int) -> None:
    """Each fails independently of the other for 1,000 requests, after 500 healthy ones; of 30 candidates.

    At 100 % stable is asked only once the candidate is suspected, and that can be too late.
    """
    worlds = [World(seed) for seed in range(30)]
    for world in worlds:
        world.canary(500, 0.003, weight)
        world.canary(1000, rate, weight)
    assert sum(world.guard.tripped is not None for world in worlds) <= stopped


def test_what_both_fail_is_no_evidence() -> None:
    one = guard()
    for _ in range(1000):
        one.stable_answered(well=False)
        assert not one.both_answered(candidate_well=False, stable_well=False)
    assert one.tripped is None


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_a_shared_outage_in_shadow_does_not_trip_the_guard(rate: float) -> None:
    """From the first request on."""
    worlds = [World(seed) for seed in range(30)]
    for world in worlds:
        world.shadow(1000, rate)
    assert [world for world in worlds if world.guard.tripped] == []


def test_in_shadow_it_asks_for_more_because_no_user_waits() -> None:
    one, copies = guard(), 1
    while not one.both_answered(candidate_well=False, stable_well=True):
        copies += 1
    assert copies == 12


def test_an_outage_that_is_over_is_forgotten() -> None:
    one = guard()
    for _ in range(200):
        one.stable_answered(well=False)
    for _ in range(1000):
        one.stable_answered(well=True)
    assert failures_until_trip(one) == 3


def test_it_suspects_from_the_first_bad_answer_until_enough_good_ones() -> None:
    one = guard()
    assert not one.suspects
    one.candidate_answered(well=True)
    assert not one.suspects
    one.candidate_answered(well=False)
    assert one.suspects
    for _ in range(100):
        one.candidate_answered(well=True)
    assert not one.suspects


def test_recent_is_the_worst_of_short_and_long_memory() -> None:
    recent = Recent()
    recent.add(bad=True)
    assert recent.rate == pytest.approx(1 / 8)
    for _ in range(30):
        recent.add(bad=False)
    assert recent.rate == pytest.approx((31 / 32) ** 30 / 32), "the short one has forgotten"


# --- the formula -----------------------------------------------------------------------------------------------------


def directly(outcomes: Sequence[bool]) -> float:
    """E as the mixture that the recursion stands for: over alternatives and start times, each product by itself."""
    grid = harm_grid(ALLOWED)
    worth = 1.0 - math.fsum(stake(k) for k in range(len(outcomes)))
    for p, weight in zip(grid, prior(grid, ALLOWED), strict=True):
        for start in range(len(outcomes)):
            bets = [p / ALLOWED if bad else (1 - p) / (1 - ALLOWED) for bad in outcomes[start:]]
            worth += weight * stake(start) * math.prod(bets)
    return worth


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_the_recursion_is_the_mixture_over_start_times(outcomes: list[bool]) -> None:
    reached = next((n for n in range(1, len(outcomes) + 1) if directly(outcomes[:n]) >= 1 / ALPHA), None)
    one = guard()
    for bad in outcomes:
        one.candidate_answered(well=not bad)
    if reached is None:
        assert one.tripped is None
        return
    assert one.tripped is not None
    assert one.tripped.requests == reached
    assert one.tripped.bad == sum(outcomes[:reached])
    assert math.exp(one.tripped.log_e) == pytest.approx(directly(outcomes[:reached]), rel=1e-9)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_it_is_the_recursion_of_the_judge(outcomes: list[bool]) -> None:
    grid, one = harm_grid(ALLOWED), guard()
    stakes = Stakes.none_placed((), grid.size)
    for request, bad in enumerate(outcomes):
        placed = np.array(stake(request))
        schedule = Schedule(first=placed, later=placed, bins=len(outcomes))
        ratio = rate_log_ratio(float(bad), 1.0, grid, ALLOWED)
        stakes = stakes.moved(ratio, np.array(True), schedule, prior(grid, ALLOWED))
        if one.candidate_answered(well=not bad):
            assert one.tripped is not None
            assert one.tripped.log_e == pytest.approx(float(stakes.log_e), rel=1e-9)
            return
        assert stakes.log_e < -math.log(ALPHA)


@given(st.floats(0.0005, 0.5))
def test_the_prior_is_a_distribution_above_what_is_allowed(allowed: float) -> None:
    grid = harm_grid(allowed)
    weights = prior(grid, allowed)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights > 0).all()
    assert grid.min() > allowed


@given(st.floats(0.0005, 0.5), st.floats(0.0, 1.0))
def test_no_bet_gains_in_the_mean_at_any_rate_that_is_allowed(allowed: float, share: float) -> None:
    grid = harm_grid(ALLOWED)
    bad, good = ratios(grid, allowed)
    rate: float = share * min(allowed, float(grid.min()))
    assert mean(rate, bad, good).max() <= 1.0 + 1e-12


def mean(rate: float, bad: FloatArray, good: FloatArray) -> FloatArray:
    return rate * bad + (1 - rate) * good


def test_the_stakes_add_up_to_one_and_never_end() -> None:
    assert math.fsum(stake(k) for k in range(1000)) + unplaced(1000) == pytest.approx(1.0)
    assert stake(0) == 0.5
    assert stake(10_000_000) > 1e-10
