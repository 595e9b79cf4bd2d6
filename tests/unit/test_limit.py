"""The fewest events that any test needs, beside scipy's optimiser and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import rel_entr

from policies.limit import Truth, fewest_events, fewest_minutes, information

SLO = 0.01
TOLERANCE = 1.5


def shadow(candidate_rate: float, stable_rate: float = 0.003, per_minute: float = 60.0) -> Truth:
    """Both versions see every request."""
    return Truth(
        candidate_rate=candidate_rate,
        stable_rate=stable_rate,
        candidate_events=per_minute,
        stable_events=per_minute,
    )


def divergence(p: float, q: float) -> float:
    return float(rel_entr(p, q) + rel_entr(1 - p, 1 - q))


def by_scipy(truth: Truth, constraints: list[dict[str, object]], start: tuple[float, float]) -> float:
    """The smallest summed divergence under the constraints, by sequential quadratic programming."""

    def summed(q: np.ndarray) -> float:
        return truth.candidate_events * divergence(truth.candidate_rate, q[0]) + truth.stable_events * divergence(
            truth.stable_rate, q[1]
        )

    found = minimize(
        summed,
        start,
        method="SLSQP",
        bounds=[(1e-9, 1 - 1e-9)] * 2,
        constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return float(found.fun)


@pytest.mark.parametrize("candidate_rate", [0.012, 0.015, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("stable_rate", [0.0005, 0.003, 0.009])
@pytest.mark.parametrize("stable_part", [0.05, 1.0, 19.0])
def test_it_is_what_scipys_optimiser_finds(candidate_rate: float, stable_rate: float, stable_part: float):
    truth = Truth(
        candidate_rate=candidate_rate, stable_rate=stable_rate, candidate_events=1.0, stable_events=stable_part
    )
    within = by_scipy(
        truth,
        [
            {"type": "ineq", "fun": lambda q: TOLERANCE * q[1] - q[0]},
            {"type": "ineq", "fun": lambda q: SLO - q[0]},
        ],
        (min(SLO, TOLERANCE * stable_rate) / 2, stable_rate),
    )
    shared = by_scipy(truth, [{"type": "ineq", "fun": lambda q: q[1] - q[0]}], (stable_rate / 2, stable_rate))
    strict = information(truth, allowed=SLO, tolerance=TOLERANCE, forgives_outages=False)
    assert strict == pytest.approx(within, rel=1e-4)
    assert information(truth, allowed=SLO, tolerance=TOLERANCE) == pytest.approx(min(within, shared), rel=1e-4)


def test_without_stable_it_is_the_distance_to_the_slo():
    truth = Truth(candidate_rate=0.05, stable_rate=0.0, candidate_events=10.0, stable_events=0.0)
    minutes = fewest_minutes(truth, alpha=0.01, allowed=SLO, tolerance=TOLERANCE, forgives_outages=False)
    assert minutes == pytest.approx(math.log(100) / (10 * divergence(0.05, SLO)))


def test_a_shared_outage_that_is_forgiven_can_be_told_from_harm_where_the_rates_are_pooled():
    pooled = (0.05 + 0.003) / 2
    nats = divergence(0.05, pooled) + divergence(0.003, pooled)
    assert information(shadow(0.05, per_minute=1), allowed=SLO, tolerance=TOLERANCE) == pytest.approx(nats, rel=1e-6)


def test_the_figures_of_the_design():
    minutes = [
        fewest_minutes(shadow(rate, per_minute=n), alpha=0.01, allowed=SLO, tolerance=TOLERANCE, forgives_outages=False)
        for rate, n in ((0.05, 10), (0.05, 60), (0.05, 600), (0.015, 10), (0.015, 60), (0.015, 600))
    ]
    assert [round(m, 1) for m in minutes] == [10.8, 1.8, 0.2, 194.1, 32.4, 3.2]


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.0045])
def test_a_blameless_candidate_is_never_shown_to_harm(rate: float):
    assert fewest_events(shadow(rate), alpha=0.01, allowed=SLO, tolerance=TOLERANCE) == math.inf


def test_a_candidate_within_its_slo_that_is_twice_as_bad_as_stable_does_harm():
    assert fewest_events(shadow(0.008), alpha=0.01, allowed=SLO, tolerance=TOLERANCE) < math.inf


def test_events_are_minutes_times_traffic():
    truth = shadow(0.05, per_minute=600)
    limits = {"alpha": 0.01, "allowed": SLO, "tolerance": TOLERANCE}
    assert fewest_events(truth, **limits) == pytest.approx(600 * fewest_minutes(truth, **limits))
