"""What sticky arms do to the judge's promise: how often it rolls back a version that is no different. Seeded.

Users differ: in how often they ask (log-normal, sigma 1) and in how often they end well or badly (beta, its spread is
`differ`: the correlation of two requests of one user). Each user is drawn once, and stays. ADR 15 has the figures,
which `python -m tests.simulation.test_sticky_arms` prints.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from policies.stakes import FloatArray, log_mean_exp
from policies.standing import Counted, Setup, Standing, counted_harm

BINS = 120
PER_BIN = 1200.0
"""144,000 requests in all, of both arms."""
LEVEL = math.log(100)
ALPHA = 0.01
MIN_EFFECT = 0.001
ERRORS = Setup(allowed=0.05, tolerance=1.5, margin=1.25, dispersion=1.0, planned=BINS)
PURCHASES = Setup(allowed=0.97, good_is_rare=True, tolerance=1.1, margin=1.25, dispersion=1.0, planned=BINS)
RARE = 0.01, 0.05
"""How often users meet an error, and how often they buy."""


class Users(NamedTuple):
    """Who asks."""

    number: int
    differ: float
    sticky: bool = True


def rolled_back(users: Users, setup: Setup, *, share: float = 0.5, rollouts: int = 200, seed: int = 1) -> float:
    """Share of rollouts of a version that is no different which end with a FAIL."""
    dice = np.random.default_rng(seed)
    rate = RARE[1] if setup.good_is_rare else RARE[0]
    arms = np.array([_arms(dice, users, rate, share) for _ in range(rollouts)]).T
    standing, failed = Standing.before((rollouts,)), np.zeros(rollouts, np.bool_)
    for _ in range(BINS):
        standing = standing.after(_bin(dice, arms, rare_is_good=setup.good_is_rare), setup)
        failed |= log_mean_exp(counted_harm(standing, setup, MIN_EFFECT)) >= LEVEL
    return float(failed.mean())


def _arms(dice: np.random.Generator, users: Users, rate: float, share: float) -> tuple[float, float, float]:
    """One rollout: the candidate's part of the requests, and the rate of rare events in each arm."""
    asks = dice.lognormal(0.0, 1.0, users.number)
    asks /= asks.sum()
    spread = 1.0 / users.differ - 1.0 if users.differ else math.inf
    own = dice.beta(rate * spread, (1.0 - rate) * spread, users.number) if users.differ else np.full(users.number, rate)
    if not users.sticky:
        return share, float(asks @ own), float(asks @ own)
    there = dice.random(users.number) < share
    part = float(asks @ there)
    return part, float(asks @ (own * there)) / part, float(asks @ (own * ~there)) / (1.0 - part)


def _bin(dice: np.random.Generator, arms: FloatArray, *, rare_is_good: bool) -> Counted:
    part, rate, stable_rate = arms
    n, m = (dice.poisson(PER_BIN * p).astype(np.float64) for p in (part, 1.0 - part))
    x, y = (dice.binomial(t.astype(np.int64), r).astype(np.float64) for t, r in ((n, rate), (m, stable_rate)))
    zero, no = np.zeros(n.shape), np.zeros(n.shape, np.bool_)
    return Counted(n, n - x if rare_is_good else x, m, m - y if rare_is_good else y, zero, no, zero, zero, no)


def test_requests_that_are_drawn_by_themselves_keep_the_promise_however_users_differ() -> None:
    for setup in (ERRORS, PURCHASES):
        assert rolled_back(Users(1_000, 0.1, sticky=False), setup) <= 2 * ALPHA


def test_many_users_keep_the_promise_and_few_that_differ_much_do_not() -> None:
    assert rolled_back(Users(50_000, 0.1), PURCHASES, rollouts=100) <= 2 * ALPHA
    assert rolled_back(Users(1_000, 0.1), PURCHASES) > 5 * ALPHA
    assert rolled_back(Users(1_000, 0.0), PURCHASES) <= 2 * ALPHA


def test_more_tolerance_buys_the_promise_back() -> None:
    few = Users(1_000, 0.1)
    wide = dataclasses.replace(PURCHASES, tolerance=1.5)
    assert rolled_back(few, wide) <= 2 * ALPHA < rolled_back(few, PURCHASES)


if __name__ == "__main__":
    for number in (1_000, 10_000, 100_000):
        for differ in (0.01, 0.1, 0.5):
            who = Users(number, differ)
            found = [rolled_back(who, ERRORS, share=s, rollouts=1000) for s in (0.1, 0.5)]
            found += [
                rolled_back(who, dataclasses.replace(PURCHASES, tolerance=t), rollouts=1000)
                for t in (1.0, 1.1, 1.25, 1.5)
            ]
            print(number, differ, *(f"{100 * f:.1f}" for f in found))  # noqa: T201 what it is run for
