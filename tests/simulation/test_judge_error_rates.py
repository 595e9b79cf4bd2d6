"""How often the judge errs when it is asked after every bin, and how soon it sees what is there. Seeded Monte Carlo.

Rollouts are drawn as arrays and stand side by side in the same `Standing` that the judge uses; one test shows that the
judge itself, asked bin by bin, says the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from policies.documents import RolloutPolicy
from policies.evidence import Bin, Counts, Evidence, Objective, Sli, Source
from policies.judge import judge
from policies.stakes import FloatArray, log_mean_exp
from policies.standing import Counted, Setup, Standing, counted_harm, counted_suspicion
from policies.verdict import VerdictKind

ROLLOUTS = 400
"""Gives a rate of 1 % to 0.5 % (one standard error): enough to see what would be wrong, not to quote a figure. What is
quoted comes from `make bench-decisions`."""
LOOKS = 360
"""Every 15 s for an hour and a half."""
SIGMAS = 3.0
"""Of Monte Carlo error allowed above a promise. The seeds are fixed, so a pass stays a pass."""
ALLOWED = 0.01
LEVEL = math.log(100)
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WIDTH = timedelta(seconds=15)
SETUP = Setup(allowed=ALLOWED, tolerance=1.5, margin=1.25, dispersion=1.0, planned=1920)

Rate = Callable[[int], float]


@dataclasses.dataclass
class Drawn:
    """Many rollouts of one kind: what the tests said after each bin."""

    failed_at: FloatArray
    """The look at which the mean harm reached 1/alpha first; infinity where it never did."""
    proved_at: FloatArray
    requests: FloatArray
    """The candidate's up to there, by look."""


def drawn(
    seed: int,
    candidate: Rate | float,
    stable: Rate | float,
    per_bin: float,
    *,
    share: Rate | float | None = None,
    clusters: float = 1.0,
    dispersion: float = 1.0,
    rollouts: int = ROLLOUTS,
    looks: int = LOOKS,
    objectives: int = 1,
) -> Drawn:
    """Rollouts with bad rates by bin.

    `share` of the traffic is the candidate's; None is a shadow: a copy of each request. `clusters` is the mean size of
    geometric clusters in which bad answers come.
    """
    randomness = np.random.default_rng(seed)
    setup = dataclasses.replace(SETUP, dispersion=dispersion)
    standings = [Standing.before((rollouts,)) for _ in range(objectives)]
    failed, proved = np.full(rollouts, np.inf), np.full(rollouts, np.inf)
    requests = np.zeros((looks, rollouts))
    for k in range(looks):
        part = _at(share, k) if share is not None else 1.0
        for i in range(objectives):
            n = randomness.poisson(per_bin * part, rollouts).astype(np.float64)
            m = randomness.poisson(per_bin * (1.0 if share is None else 1.0 - part), rollouts).astype(np.float64)
            counts = (
                n,
                _bad(randomness, n, _at(candidate, k), clusters),
                m,
                _bad(randomness, m, _at(stable, k), clusters),
            )
            standings[i] = standings[i].after(_counted(*counts), setup)
        requests[k] = n
        harms = np.concatenate([counted_harm(s, setup, 0.001) for s in standings], axis=-1)
        failed = np.where((log_mean_exp(harms) >= LEVEL) & np.isinf(failed), k, failed)
        proved = np.where((standings[0].best[..., 0] >= LEVEL) & np.isinf(proved), k, proved)
    return Drawn(failed, proved, requests.cumsum(axis=0))


def _at(rate: Rate | float, k: int) -> float:
    return rate(k) if callable(rate) else rate


def _bad(randomness: np.random.Generator, total: FloatArray, rate: float, clusters: float) -> FloatArray:
    if clusters == 1.0:
        return randomness.binomial(total.astype(np.int64), rate).astype(np.float64)
    starts = randomness.poisson(total * rate / clusters)
    sizes = np.where(starts > 0, starts + randomness.negative_binomial(np.maximum(starts, 1), 1 / clusters), 0)
    return np.minimum(sizes, total)


def _counted(n: FloatArray, x: FloatArray, m: FloatArray, y: FloatArray) -> Counted:
    zero, no = np.zeros(n.shape), np.zeros(n.shape, np.bool_)
    return Counted(n, x, m, y, zero, no, zero, zero, no)


def share_of(times: FloatArray) -> float:
    return float(np.isfinite(times).mean())


def at_most(level: float, rollouts: int = ROLLOUTS) -> float:
    """The promise and the error of measuring it."""
    return level + SIGMAS * math.sqrt(level * (1 - level) / rollouts)


# --- the promises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_bin", [2.5, 150])
def test_a_version_at_the_slo_itself_is_rolled_back_at_most_as_often_as_promised_at_360_looks(per_bin: float) -> None:
    """Stable is there too, so that neither harm is true; without a stable version, all of it is the SLO's test."""
    assert share_of(drawn(1, ALLOWED, ALLOWED, per_bin, rollouts=1000).failed_at) <= at_most(0.01, 1000)
    assert share_of(drawn(2, ALLOWED, 0.0, per_bin, share=1.0, rollouts=1000).failed_at) <= at_most(0.01, 1000)


def test_a_version_at_the_tolerance_is_rolled_back_at_most_as_often_as_promised() -> None:
    assert share_of(drawn(3, 0.0045, 0.003, 150, share=0.2).failed_at) <= at_most(0.01)


def test_two_objectives_share_one_alpha() -> None:
    assert share_of(drawn(4, ALLOWED, ALLOWED, 15, objectives=2).failed_at) <= at_most(0.01)


def test_share_and_error_rate_that_move_together_blame_nobody() -> None:
    """A share pooled over bins gave 68 % false alarms here."""

    def rate(k: int) -> float:
        return 0.001 if k < LOOKS // 2 else 0.009

    def share(k: int) -> float:
        return 0.05 if k < LOOKS // 2 else 0.5

    assert share_of(drawn(5, rate, rate, 150, share=share).failed_at) <= at_most(0.01)


@pytest.mark.parametrize("share", [None, 0.05, 0.5])
def test_a_shared_outage_blames_nobody(share: float | None) -> None:
    """Both fail half of all answers for five minutes."""

    def rate(k: int) -> float:
        return 0.5 if 80 <= k < 100 else 0.003

    assert share_of(drawn(6, rate, rate, 15, share=share).failed_at) <= at_most(0.01)


def test_a_wave_over_the_day_blames_nobody() -> None:
    def rate(k: int) -> float:
        return 0.005 + 0.004 * math.sin(k / 40)

    assert share_of(drawn(7, rate, rate, 150, share=0.1).failed_at) <= at_most(0.01)


@pytest.mark.parametrize("clusters", [5.0, 20.0])
def test_clusters_of_errors_blame_nobody_where_their_dispersion_is_known(clusters: float) -> None:
    """Geometric clusters of mean c have variance / mean = 2 c - 1 per bin. Without phi they do roll back."""
    known = drawn(8, 0.003, 0.003, 150, clusters=clusters, dispersion=2 * clusters - 1)
    unknown = drawn(8, 0.003, 0.003, 150, clusters=clusters)
    assert share_of(known.failed_at) <= at_most(0.01)
    assert share_of(unknown.failed_at) > 0.05


@pytest.mark.parametrize("per_bin", [2.5, 150])
def test_a_version_outside_its_slo_is_proved_healthy_at_most_as_often_as_promised(per_bin: float) -> None:
    assert share_of(drawn(9, ALLOWED, ALLOWED, per_bin).proved_at) <= at_most(0.01)
    assert share_of(drawn(10, 1.5 * ALLOWED, 0.003, per_bin).proved_at) <= at_most(0.001)


# --- how good it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "minutes"), [(0.015, 60), (0.05, 5), (0.5, 1)])
def test_a_bad_version_is_seen_in_shadow_at_60_requests_a_minute(rate: float, minutes: float) -> None:
    seen = drawn(11, rate, 0.003, 15, rollouts=100, looks=1200)
    assert share_of(seen.failed_at) >= 0.995
    assert float((seen.failed_at[np.isfinite(seen.failed_at)] + 1).mean()) / 4 <= minutes
    assert share_of(seen.proved_at) <= 0.01


@pytest.mark.parametrize("after", [20, 60])
def test_turning_bad_after_minutes_of_health_is_seen_within_minutes(after: int) -> None:
    """To 5 % at 60 requests a minute, shadow: one product since the start takes 24 minutes after an hour."""

    def rate(k: int) -> float:
        return 0.05 if k >= 4 * after else 0.003

    seen = drawn(12, rate, 0.003, 15, rollouts=100, looks=4 * after + 160)
    assert share_of(seen.failed_at) == 1.0
    assert float(seen.failed_at.mean()) / 4 - after <= 10


def test_health_is_proved_within_a_small_factor_of_the_limit() -> None:
    """No test can prove 1 % with fewer than ln(100) / KL(rate, 1 %) requests in the mean (Wald 1945)."""
    for rate, factor in ((0.0, 1.25), (0.003, 1.5)):
        entropy = (rate * math.log(rate / ALLOWED) if rate else 0.0) + (1 - rate) * math.log((1 - rate) / (1 - ALLOWED))
        seen = drawn(13, rate, rate, 10, rollouts=100, looks=1000)
        assert share_of(seen.proved_at) == 1.0
        needed = seen.requests[seen.proved_at.astype(int), np.arange(100)].mean()
        assert needed <= factor * LEVEL / entropy


# --- the judge itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [0.0, 0.3, 1.0, 2.0, 5.0])
def test_the_judge_asked_after_every_bin_says_what_its_e_values_say(times: float) -> None:
    policy = RolloutPolicy(name="default")
    randomness = np.random.default_rng(14)
    total, stable_total = (randomness.poisson(30, 200).astype(np.float64) for _ in range(2))
    bad, stable_bad = (
        randomness.binomial(n.astype(int), r) for n, r in ((total, times * ALLOWED), (stable_total, 0.003))
    )
    rows = list(zip(total, bad.astype(float), stable_total, stable_bad.astype(float), strict=True))
    bins = tuple(
        Bin(START + i * WIDTH, Counts(float(n), float(x)), Counts(float(m), float(y)))
        for i, (n, x, m, y) in enumerate(rows)
    )
    objective = Objective(name="errors", sli=Sli.ERRORS, target=1 - ALLOWED)
    whole = Evidence(objective=objective, width=WIDTH, bins=bins, source=Source(available=True, query="drawn"))
    setup = dataclasses.replace(SETUP, planned=policy.max_duration // WIDTH)
    standing = Standing.before()
    for i, row in enumerate(rows):
        standing = standing.after(_counted(*(np.array(v) for v in row)), setup)
        fails = float(log_mean_exp(counted_harm(standing, setup, policy.min_effect))) >= LEVEL
        verdict = judge([whole], policy, step_since=START, now=START + (i + 1) * WIDTH)
        assert (verdict.kind is VerdictKind.FAIL) == fails
        if verdict.kind is VerdictKind.PASS:
            assert standing.best[0] >= LEVEL
            assert (counted_suspicion(standing, setup, policy.min_effect) <= 1e-9).all()
