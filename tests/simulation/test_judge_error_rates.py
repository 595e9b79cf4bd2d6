"""How often the judge errs when it is asked after every bin, and how soon it sees what is there. Seeded.

Rollouts are drawn as arrays, and a whole rollout's e-values come from the function that the judge calls; one test shows
that the judge itself, asked bin by bin, says the same.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from policies.bets import harm_grid, health_grid, mixture_log_e
from policies.documents import RolloutPolicy
from policies.judge import judge
from policies.model import Bin, Counts, Evidence, Objective, Sli, Source, VerdictKind
from policies.stakes import FloatArray

ROLLOUTS = 2000
"""Gives a rate of 1 % to 0.22 % (one standard error)."""
LOOKS = 400
"""Every 15 s for an hour and forty minutes."""
SIGMAS = 3.0
"""Of Monte Carlo error allowed above a promise. The seeds are fixed, so a pass stays a pass."""
ALLOWED = 0.01
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WIDTH = timedelta(seconds=15)

TRAFFIC = pytest.mark.parametrize("per_bin", [2, 30, 300])


def drawn(
    seed: int, rates: FloatArray | float, per_bin: float, rollouts: int = ROLLOUTS, looks: int = LOOKS
) -> tuple[FloatArray, FloatArray]:
    """`(bad, total)` per bin, shape (rollouts, looks), at bad rates that may differ by bin."""
    randomness = np.random.default_rng(seed)
    total = randomness.poisson(per_bin, (rollouts, looks))
    return randomness.binomial(total, rates).astype(np.float64), total.astype(np.float64)


def harm_path(bad: FloatArray, total: FloatArray, allowed: float = ALLOWED) -> FloatArray:
    return mixture_log_e(bad.cumsum(axis=1), total.cumsum(axis=1), harm_grid(allowed), allowed)


def health_path(bad: FloatArray, total: FloatArray, allowed: float = ALLOWED) -> FloatArray:
    return mixture_log_e(bad.cumsum(axis=1), total.cumsum(axis=1), health_grid(allowed), allowed)


def share_that_ever_reaches(path: FloatArray, level: float) -> float:
    return float((path.max(axis=1) >= -math.log(level)).mean())


def at_most(level: float) -> float:
    """The promise and the error of measuring it."""
    return level + SIGMAS * math.sqrt(level * (1 - level) / ROLLOUTS)


# --- the promises ---------------------------------------------------------------------------------------------


@TRAFFIC
def test_a_version_exactly_at_its_slo_is_rolled_back_at_most_as_often_as_promised(per_bin: float) -> None:
    path = harm_path(*drawn(1, ALLOWED, per_bin))
    assert share_that_ever_reaches(path, 0.01) <= at_most(0.01)
    assert share_that_ever_reaches(path, 0.1) <= at_most(0.1)


def test_the_promise_is_not_kept_by_never_failing() -> None:
    """A good test uses up a good part of its alpha at the edge of the SLO; one that does not is needlessly slow."""
    assert share_that_ever_reaches(harm_path(*drawn(1, ALLOWED, 2)), 0.1) >= 0.02
    assert share_that_ever_reaches(health_path(*drawn(5, ALLOWED, 30)), 0.1) >= 0.04


def test_a_rate_that_moves_below_the_slo_is_as_safe() -> None:
    waves = ALLOWED * (0.5 + 0.5 * np.sin(np.arange(LOOKS) / 20))
    assert share_that_ever_reaches(harm_path(*drawn(2, waves, 30)), 0.01) <= at_most(0.01)


def test_two_objectives_at_their_slo_share_one_alpha() -> None:
    errors = harm_path(*drawn(3, ALLOWED, 30))
    latency = harm_path(*drawn(4, 0.05, 30), allowed=0.05)
    mean = np.logaddexp(errors, latency) - math.log(2)
    assert share_that_ever_reaches(mean, 0.01) <= at_most(0.01)
    assert share_that_ever_reaches(mean, 0.1) <= at_most(0.1)


@TRAFFIC
@pytest.mark.parametrize("times", [1.0, 1.5])
def test_a_version_outside_its_slo_is_proved_healthy_at_most_as_often_as_promised(per_bin: float, times: float) -> None:
    path = health_path(*drawn(5, times * ALLOWED, per_bin))
    assert share_that_ever_reaches(path, 0.01) <= at_most(0.01)
    assert share_that_ever_reaches(path, 0.1) <= at_most(0.1)


# --- how good it is -------------------------------------------------------------------------------------------


def requests_until(path: FloatArray, total: FloatArray, level: float) -> float:
    """Mean requests until the path reaches 1/level; all of them must."""
    reached = path >= -math.log(level)
    assert reached.any(axis=1).all()
    return float(total.cumsum(axis=1)[np.arange(len(path)), reached.argmax(axis=1)].mean())


def fewest(rate: float, allowed: float, level: float) -> float:
    """Requests that a test needs in the mean that knows the rate: ln(1/level) by relative entropy (Wald 1945)."""
    entropy = rate * math.log(rate / allowed) if rate else 0.0
    return -math.log(level) / (entropy + (1 - rate) * math.log((1 - rate) / (1 - allowed)))


@pytest.mark.parametrize(("rate", "at_most_times"), [(0.02, 1.7), (0.05, 1.6), (0.2, 1.8)])
def test_harm_is_seen_within_a_small_factor_of_the_limit(rate: float, at_most_times: float) -> None:
    bad, total = drawn(6, rate, 0.1 / rate, rollouts=400, looks=2000)
    needed = requests_until(harm_path(bad, total), total, 0.01)
    assert needed <= at_most_times * fewest(rate, ALLOWED, 0.01)


@pytest.mark.parametrize(("rate", "at_most_times"), [(0.0, 1.2), (0.001, 1.3), (0.003, 1.4)])
def test_health_is_proved_within_a_small_factor_of_the_limit(rate: float, at_most_times: float) -> None:
    bad, total = drawn(7, rate, 10, rollouts=400, looks=2000)
    needed = requests_until(health_path(bad, total), total, 0.01)
    assert needed <= at_most_times * fewest(rate, ALLOWED, 0.01)


# --- the judge itself ------------------------------------------------------------------------------------------


def evidence(bad: FloatArray, total: FloatArray) -> Evidence:
    bins = tuple(
        Bin(start=START + i * WIDTH, candidate=Counts(float(n), float(x)), stable=Counts())
        for i, (x, n) in enumerate(zip(bad, total, strict=True))
    )
    objective = Objective(name="errors", sli=Sli.ERRORS, target=1 - ALLOWED)
    return Evidence(objective=objective, width=WIDTH, bins=bins, source=Source(available=True, query="drawn"))


def verdicts(whole: Evidence, policy: RolloutPolicy) -> list[VerdictKind]:
    """What the judge says when it is asked after each bin."""
    ends = [b.start + whole.width for b in whole.bins]
    looks = [(dataclasses.replace(whole, bins=whole.bins[: count + 1]), end) for count, end in enumerate(ends)]
    return [judge([seen], policy, step_since=START, now=end).kind for seen, end in looks]


@pytest.mark.parametrize("times", [0.0, 0.3, 1.0, 2.0, 5.0])
def test_the_judge_asked_after_every_bin_says_what_its_e_values_say(times: float) -> None:
    policy = RolloutPolicy(name="default", alpha=0.1, beta=0.1, min_effect=0.0)
    bad, total = drawn(8, times * ALLOWED, 30, rollouts=3, looks=360)
    rates = bad.cumsum(axis=1) / np.maximum(total.cumsum(axis=1), 1)
    harm, proof = harm_path(bad, total), np.maximum.accumulate(health_path(bad, total), axis=1)
    for run in range(len(bad)):
        fails = (harm[run] >= math.log(10)) & (rates[run] >= ALLOWED)
        passes = ~fails & (proof[run] >= math.log(10)) & (harm[run] < 0)
        expected = np.where(fails, VerdictKind.FAIL, np.where(passes, VerdictKind.PASS, VerdictKind.INSUFFICIENT))
        assert verdicts(evidence(bad[run], total[run]), policy) == list(expected)
