"""How soon anybody can know: the fewest events that any test needs to show harm that is there.

A test that is wrong about blameless versions with chance alpha at most, however often it looks, and that even knows how
bad the candidate is, needs at least

    T* = ln(1/alpha) / inf sum_v n_v KL(p_v || q_v),      KL(p || q) = p ln(p/q) + (1 - p) ln((1 - p)/(1 - q))

events in the mean, with n_v events of each version v per event of the candidate, p_v their true bad rates, and the
infimum over all rates q under which the candidate is blameless (Wald 1945; Lorden 1970; Garivier and Kaufmann 2016).

Rules:
- Blameless is a candidate with q_c <= t q_s (the policy's tolerance), and either within the SLO or, where shared
  outages blame nobody, no worse than stable. Without that second way out the limit is lower, and no judge that forgives
  an outage can reach it.
- Rates are shares, times are whatever the caller counts events per.

This module must not know tests: it says what is possible, not what is done.
"""

from __future__ import annotations

import dataclasses
import math

_HALVINGS = 100
"""Of the interval in which the least telling rate lies: more than a double has digits."""

_SMALLEST = 1e-300
"""The smallest rate that is tried: its logarithm is finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """Bad rates of both versions and how many events they have per minute."""

    candidate_rate: float
    stable_rate: float
    candidate_events: float
    """Per minute, above 0."""
    stable_events: float
    """Per minute; 0: nothing is known of stable."""


def information(truth: Truth, *, allowed: float, tolerance: float, forgives_outages: bool = True) -> float:
    """Nats per minute by which the truth differs from the nearest blameless one; 0 where it is blameless itself.

    `allowed` is the share of bad events that the SLO allows.
    """
    within_slo = _nearest(truth, tolerance, highest=allowed)
    if not forgives_outages:
        return within_slo
    return min(within_slo, _nearest(truth, 1.0, highest=1.0))


def fewest_minutes(
    truth: Truth, *, alpha: float, allowed: float, tolerance: float, forgives_outages: bool = True
) -> float:
    """T* in minutes; infinity where the candidate is blameless."""
    nats = information(truth, allowed=allowed, tolerance=tolerance, forgives_outages=forgives_outages)
    return math.log(1.0 / alpha) / nats if nats > 0 else math.inf


def fewest_events(
    truth: Truth, *, alpha: float, allowed: float, tolerance: float, forgives_outages: bool = True
) -> float:
    """T* in events of the candidate; infinity where it is blameless."""
    minutes = fewest_minutes(
        truth, alpha=alpha, allowed=allowed, tolerance=tolerance, forgives_outages=forgives_outages
    )
    return minutes * truth.candidate_events


def fewest_events_to_prove(rate: float, *, beta: float, allowed: float) -> float:
    """T* of a proof of health in events of the candidate: ln(1/beta) / KL(rate || allowed); infinity from there on."""
    return math.log(1.0 / beta) / _divergence(rate, allowed) if rate < allowed else math.inf


def _nearest(truth: Truth, tolerance: float, *, highest: float) -> float:
    """Nats per minute to the nearest rates with q_c <= tolerance q_s and q_c <= highest.

    Given q_c, the nearest q_s is stable's own rate or q_c / tolerance, whichever is higher; what remains is convex in
    q_c, and is halved down to where its slope changes sign.
    """
    p_c, p_s = truth.candidate_rate, truth.stable_rate
    if p_c <= min(highest, tolerance * p_s):
        return 0.0
    low, high = _SMALLEST, min(highest, p_c)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(truth, tolerance, middle) < 0 else (low, middle)
    q_c = (low + high) / 2
    q_s = max(p_s, q_c / tolerance)
    return truth.candidate_events * _divergence(p_c, q_c) + truth.stable_events * _divergence(p_s, q_s)


def _slope(truth: Truth, tolerance: float, q_c: float) -> float:
    """The derivative of the summed divergence by q_c."""
    slope = truth.candidate_events * _divergence_slope(truth.candidate_rate, q_c)
    q_s = q_c / tolerance
    if q_s > truth.stable_rate:
        slope += truth.stable_events * _divergence_slope(truth.stable_rate, q_s) / tolerance
    return slope


def _divergence(p: float, q: float) -> float:
    """KL(p || q) of two rates, in nats; 0 ln 0 is 0."""
    if p == q:
        return 0.0
    bad = p * math.log(p / q) if p > 0 else 0.0
    good = (1.0 - p) * (math.log1p(-p) - math.log1p(-q)) if p < 1 else 0.0
    return bad + good


def _divergence_slope(p: float, q: float) -> float:
    """The derivative of KL(p || q) by q."""
    return (q - p) / (q * (1.0 - q)) if q < 1 else math.inf
