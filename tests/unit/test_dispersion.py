"""phi: 1 for independent errors, the size of the clusters otherwise, and never fooled by waves of traffic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from policies.dispersion import MAX_PHI, MIN_BAD, dispersion, dispersions
from policies.evidence import Bin, Counts, Evidence, Source
from tests.unit.releases import AWAY, ERRORS, LATENCY, NOW

WIDTH = timedelta(seconds=15)
A_DAY = 24 * 60 * 4
Random = np.random.Generator


def day(counts: Callable[[Random, int], tuple[float, float]], seed: int = 1, bins: int = A_DAY) -> Evidence:
    """A day of bins; `counts(random, i)` gives (total, bad) of the i-th."""
    random = np.random.default_rng(seed)
    made = tuple(
        Bin(start=NOW - (bins - i) * WIDTH, candidate=Counts(*counts(random, i)), stable=Counts()) for i in range(bins)
    )
    return Evidence(objective=ERRORS, width=WIDTH, bins=made, source=Source(available=True, query="x"))


def independent(rate: float, total: int) -> Callable[[Random, int], tuple[float, float]]:
    return lambda random, _: (total, float(random.binomial(total, rate)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("total", [3, 15, 150])
def test_phi_of_independent_errors_is_about_1(seed, total):
    assert 1 <= dispersion(day(independent(0.003, total), seed)) < 1.4


@pytest.mark.parametrize("size", [5, 20])
def test_phi_of_clusters_of_a_size_is_that_size(size):
    clusters = day(lambda random, _: (150, float(size * random.poisson(0.45 / size))))
    assert dispersion(clusters) == pytest.approx(size, rel=0.35)


def test_phi_of_geometric_clusters_is_twice_their_mean_less_one():
    clusters = day(lambda random, _: (600, float(random.geometric(0.2, random.poisson(0.3)).sum())))
    assert dispersion(clusters) == pytest.approx(2 * 5 - 1, rel=0.35)


def test_a_burst_that_lasts_for_minutes_shows_in_coarser_blocks():
    """Ten minutes in an hour with eight times the rate: hardly seen in bins of 15 s, but in minutes."""
    bursts = day(lambda random, i: (60, float(random.binomial(60, 0.024 if i // 40 % 6 == 0 else 0.003))))
    bad = np.array([b.candidate.bad for b in bursts.bins])
    assert bad.var(ddof=1) / bad.mean() < 2
    assert dispersion(bursts) > 4


def test_waves_of_traffic_are_not_clusters():
    waves = day(lambda random, i: independent(0.01, round(20 + 180 * (1 + math.sin(i / A_DAY * 6.3)) / 2))(random, i))
    assert dispersion(waves) < 1.3


def test_waves_of_the_error_rate_are_not_clusters():
    waves = day(lambda random, i: independent(0.003 * (1 + 0.8 * math.sin(i / A_DAY * 6.3)), 1500)(random, i))
    assert dispersion(waves) < 1.4


def test_a_single_cluster_is_one():
    assert dispersion(day(lambda _, i: (10, 10.0 if i == 7 else 0.0))) == pytest.approx(10, rel=0.1)


def test_few_bad_events_say_nothing():
    few = day(lambda _, i: (10, 4.0 if i == 7 else 0.0))
    assert few.candidate.bad < MIN_BAD
    assert dispersion(few) == 1


def test_a_short_baseline_says_nothing():
    assert dispersion(day(lambda _, i: (100, 50.0 * (i % 2)), bins=4)) == 1


@pytest.mark.parametrize(("minutes", "rate", "total"), [(5, 0.5, 150), (30, 0.5, 15), (30, 0.05, 150), (120, 0.5, 150)])
def test_an_outage_is_no_cluster_and_does_not_blind_the_judge_for_a_day(minutes, rate, total):
    def counts(random: Random, i: int) -> tuple[float, float]:
        out = 1003 <= i < 1003 + 4 * minutes
        return independent(rate if out else 0.003, total)(random, i)

    assert dispersion(day(counts)) < 3


def test_a_day_with_clusters_and_an_outage_has_the_phi_of_its_clusters():
    def counts(random: Random, i: int) -> tuple[float, float]:
        return (150, 75.0) if 1000 <= i < 1040 else (150, float(20 * random.poisson(0.45 / 20)))

    assert dispersion(day(counts)) == pytest.approx(20, rel=0.35)


def test_phi_is_bounded():
    assert dispersion(day(lambda random, _: (150, 100.0 * random.binomial(1, 0.002)))) == MAX_PHI


@pytest.mark.parametrize("bad", [math.nan, -1.0, 11.0])
def test_impossible_counts_say_nothing(bad):
    assert dispersion(day(lambda _, i: (10, bad if i == 5 else 3.0 * (i % 9 == 0)))) == 1


def test_only_what_is_believed_and_above_1_is_recorded():
    clusters = day(lambda random, _: (150, float(20 * random.poisson(0.02))))
    calm = dataclasses.replace(day(lambda _, __: (10, 0.0)), objective=LATENCY)
    assert list(dispersions((clusters, calm, AWAY[0]))) == ["errors"]
    assert dispersions(()) == {}
