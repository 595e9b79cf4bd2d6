"""The judge's arithmetic: what a bet against a hypothesis about a bad rate has become, given counts.

A bet starts with one unit and is kept up from bin to bin; its worth is the e-value E. Where the hypothesis holds, the
chance that E *ever* reaches 1/a is at most a (Ville 1939), so it may be looked at after every bin for as long as one
likes.

The bet is the likelihood ratio of an alternative p_j against a limit p_0 (Wald 1945), mixed with equal stakes over a
log grid of alternatives (Howard, Ramdas, McAuliffe and Sekhon 2021). With x bad of n requests:

    E = mean_j (p_j / p_0)^x ((1 - p_j) / (1 - p_0))^(n - x)

- Alternatives above p_0: the bet loses in the mean at every bad rate up to p_0, also at one that moves. It shows harm.
- Alternatives below p_0: the bet loses in the mean at every bad rate from p_0 on. It proves health.

Rules:
- E-values are logarithms everywhere, summed by log-sum-exp: ten million requests neither overflow nor meet a floor.
  (With `max(tail, 1e-300)` a perfect candidate fails at 70,000 requests, and a bad one is proved healthy.)
- Nothing here knows objectives, policies or verdicts.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from policies.model import Counts

FloatArray = npt.NDArray[np.float64]

GRID_SIZE = 16
"""Alternatives per bet: between 12 and 24 the mean time to a verdict hardly changes (by a tenth)."""

SMALLEST_HARM = 1.3
"""The mildest harm bet on, times the limit: milder harm takes days of traffic to tell from luck."""

LARGEST_HARM = 0.9
"""The worst bad rate bet on: nearer to 1, a single good answer would end the bet."""

BEST_HEALTH = 100.0
"""The best alternative is the limit over this: a candidate without an error needs 1.14 times the fewest."""

WORST_HEALTH = 1.2
"""The worst alternative is the limit over this: a candidate near its limit can still be proved, slowly."""

_STANDSTILL = 1e-15
"""A bet that gains less per request does not move: that is a double's rounding."""


def harm_grid(allowed: float) -> FloatArray:
    """Bad rates above `allowed`, shape (GRID_SIZE,), log-spaced in [1.3 allowed, 0.9].

    Where the limit is so high that this interval nearly closes, the good rates are log-spaced instead, in
    [(1 - allowed) / 100, (1 - allowed) / 1.3]. Raises ValueError unless 0 < allowed < 1.
    """
    _require_rate(allowed)
    lowest = SMALLEST_HARM * allowed
    if lowest * SMALLEST_HARM < LARGEST_HARM:
        return np.geomspace(lowest, LARGEST_HARM, GRID_SIZE)
    return 1.0 - np.geomspace((1.0 - allowed) / BEST_HEALTH, (1.0 - allowed) / SMALLEST_HARM, GRID_SIZE)


def health_grid(allowed: float) -> FloatArray:
    """Bad rates below `allowed`, shape (GRID_SIZE,), log-spaced in [allowed / 100, allowed / 1.2].

    Raises ValueError unless 0 < allowed < 1.
    """
    _require_rate(allowed)
    return np.geomspace(allowed / BEST_HEALTH, allowed / WORST_HEALTH, GRID_SIZE)


def mixture_log_e(bad: npt.ArrayLike, total: npt.ArrayLike, grid: FloatArray, allowed: float) -> FloatArray:
    """Logarithm of E (the module's formula) for counts since the bet began.

    `bad` (x) and `total` (n) have one shape, any; the answer has it too. `grid` holds the p_j, `allowed` is p_0.
    Exactly 0 where there were no requests.
    """
    x = np.asarray(bad, dtype=np.float64)[..., np.newaxis]
    n = np.asarray(total, dtype=np.float64)[..., np.newaxis]
    gain_bad, gain_good = _gains(grid, allowed)
    return log_mean_exp(x * gain_bad + (n - x) * gain_good)


def harm_log_e(counts: Counts, allowed: float) -> float:
    """Log e-value against "the bad rate is at most `allowed`": large shows harm."""
    return float(mixture_log_e(counts.bad, counts.total, harm_grid(allowed), allowed))


def health_log_e(counts: Counts, allowed: float) -> float:
    """Log e-value against "the bad rate is at least `allowed`": large proves health."""
    return float(mixture_log_e(counts.bad, counts.total, health_grid(allowed), allowed))


def requests_to_prove(counts: Counts, allowed: float, goal: float, *, rate: float) -> float:
    """How many more requests, of which a share `rate` is bad, bring the log e-value of health to `goal`.

    0 when it is there already; infinity when it never gets there at that rate.
    """
    gain_bad, gain_good = _gains(health_grid(allowed), allowed)
    now = counts.bad * gain_bad + (counts.total - counts.bad) * gain_good
    slope = rate * gain_bad + (1.0 - rate) * gain_good
    if log_mean_exp(now) >= goal:
        return 0.0
    if slope.max() <= _STANDSTILL:
        return math.inf
    return float(_crossing(now, slope, goal))


def log_mean_exp(logs: FloatArray) -> FloatArray:
    """Logarithm of the mean over the last axis of what `logs` are logarithms of, without overflow.

    Minus infinity is a bet that has lost all; a mean of such is minus infinity.
    """
    largest = np.maximum(logs.max(axis=-1), -np.finfo(np.float64).max)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is wanted where all have lost all
        return np.asarray(largest + np.log(np.exp(logs - largest[..., np.newaxis]).mean(axis=-1)))


def _crossing(now: FloatArray, slope: FloatArray, goal: float) -> int:
    """The first whole m at which log_mean_exp(now + m slope) has reached `goal`.

    It is convex in m and below the goal at 0, so it crosses it once.
    """
    growing = slope > _STANDSTILL
    # Here the best of the growing bets has reached the goal all alone.
    alone = float(((goal + math.log(slope.size) - now[growing]) / slope[growing]).min())
    low, high = 0, math.ceil(alone)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_mean_exp(now + middle * slope) >= goal else (middle, high)
    return high


def _gains(grid: FloatArray, allowed: float) -> tuple[FloatArray, FloatArray]:
    """What one bad and one good request add to the logarithm of each bet."""
    return np.log(grid / allowed), np.log1p(-grid) - math.log1p(-allowed)


def _require_rate(allowed: float) -> None:
    if not 0.0 < allowed < 1.0:
        raise ValueError(f"an SLO allows a share of bad requests above 0 and below 1, not {allowed}")
