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
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from policies.evidence import Counts
from policies.stakes import FloatArray, log_mean_exp

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

LARGEST_RISK = 100.0
"""The worst relative risk bet on, times the tolerance."""

_STANDSTILL = 1e-15
"""A bet that gains less per request does not move: that is a double's rounding."""


@lru_cache(maxsize=64)
def harm_grid(allowed: float) -> FloatArray:
    """Bad rates above `allowed`, shape (GRID_SIZE,), log-spaced in [1.3 allowed, 0.9].

    Where the limit is so high that this interval nearly closes, the good rates are log-spaced instead, in
    [(1 - allowed) / 100, (1 - allowed) / 1.3]. Raises ValueError unless 0 < allowed < 1.
    """
    _require_rate(allowed)
    lowest = SMALLEST_HARM * allowed
    if lowest * SMALLEST_HARM < LARGEST_HARM:
        return _fixed(np.geomspace(lowest, LARGEST_HARM, GRID_SIZE))
    return _fixed(1.0 - np.geomspace((1.0 - allowed) / BEST_HEALTH, (1.0 - allowed) / SMALLEST_HARM, GRID_SIZE))


@lru_cache(maxsize=64)
def health_grid(allowed: float) -> FloatArray:
    """Bad rates below `allowed`, shape (GRID_SIZE,), log-spaced in [allowed / 100, allowed / 1.2].

    Raises ValueError unless 0 < allowed < 1.
    """
    _require_rate(allowed)
    return _fixed(np.geomspace(allowed / BEST_HEALTH, allowed / WORST_HEALTH, GRID_SIZE))


@lru_cache(maxsize=64)
def share_grid(tolerance: float) -> FloatArray:
    """Relative risks above `tolerance`, shape (GRID_SIZE,), log-spaced in tolerance times [1.3, 100]."""
    return _fixed(tolerance * np.geomspace(SMALLEST_HARM, LARGEST_RISK, GRID_SIZE))


@lru_cache(maxsize=64)
def equal_grid(margin: float) -> FloatArray:
    """Relative risks below `margin`, shape (GRID_SIZE,), log-spaced in margin over [1.2, 100]."""
    return _fixed(margin / np.geomspace(BEST_HEALTH, WORST_HEALTH, GRID_SIZE))


@lru_cache(maxsize=64)
def drop_grid(tolerance: float) -> FloatArray:
    """How many times the candidate's good rate stable's is, above `tolerance`: tolerance times 1 plus [0.03, 30].

    Log-spaced in what lies above 1: with the rates of `share_grid`, which begin at 1.3, a drop by a tenth would never
    show, and of what users report a tenth is much.
    """
    return _fixed(tolerance * _FINE)


@lru_cache(maxsize=64)
def near_grid(margin: float) -> FloatArray:
    """The same below `margin`: margin over 1 plus [0.03, 30]."""
    return _fixed(margin / _FINE[::-1])


_FINE = 1.0 + np.geomspace(0.03, 30.0, GRID_SIZE)
"""Three in a hundred is what a test can tell with ten thousand good events; thirty times is all or nothing."""


def _fixed(grid: FloatArray) -> FloatArray:
    """The same grid for everybody, so nobody may change it."""
    grid.flags.writeable = False
    return grid


def rate_log_ratio(bad: npt.ArrayLike, total: npt.ArrayLike, grid: FloatArray, allowed: float) -> FloatArray:
    """Logarithm of the likelihood ratio of each bad rate in `grid` to `allowed`, for `bad` of `total` requests.

    ln LR_j = x ln(p_j/p_0) + (n - x) ln((1 - p_j)/(1 - p_0)) (Wald 1945). `bad` and `total` have one shape (...), the
    answer has (..., alternatives). A bet on it loses in the mean at every rate up to p_0 where p_j > p_0, at every rate
    from p_0 on where p_j < p_0.
    """
    x = np.asarray(bad, dtype=np.float64)[..., np.newaxis]
    n = np.asarray(total, dtype=np.float64)[..., np.newaxis]
    gain_bad, gain_good = _gains(grid, allowed)
    return np.asarray(x * gain_bad + (n - x) * gain_good)


def share_log_ratio(
    bad: npt.ArrayLike,
    stable_bad: npt.ArrayLike,
    total: npt.ArrayLike,
    stable_total: npt.ArrayLike,
    risks: FloatArray,
    limit: float,
) -> FloatArray:
    """The same for whose the bad events are: each relative risk in `risks` against `limit`, all arrays of one shape.

    Of the bad events of one bin the candidate's part is rho = n_c t / (n_c t + n_s) where its bad rate is t times
    stable's, whatever that rate is in this bin: so it holds with shares and rates that move, and an outage that both
    share says nothing. ln LR_j = x_c ln(q_j/rho) + x_s ln((1 - q_j)/(1 - rho)), q_j the same with r_j (the binomial
    test of two Poisson rates, Przyborowski and Wilenski 1940; as an e-value: Turner, Ly and Gruenwald 2024). Where
    rates are large the part is hypergeometric, and spreads less than this allows for. 0 where a side has no requests.
    """
    xc, xs, nc, ns = (np.asarray(a, dtype=np.float64)[..., np.newaxis] for a in (bad, stable_bad, total, stable_total))
    with np.errstate(divide="ignore", invalid="ignore"):
        stable = -np.log((nc * risks + ns) / (nc * limit + ns))
        ratio = xc * (np.log(risks / limit) + stable) + xs * stable
    return np.where((nc > 0) & (ns > 0), ratio, 0.0)


def bounds(counts: Counts, below: float, above: float) -> tuple[float, float]:
    """A lower and an upper bound of the bad rate, valid at any time: ever wrong with chance `below` and `above`.

    The rates p whose mixture bet E(p) = B(x + 1/2, n - x + 1/2) / B(1/2, 1/2) / (p^x (1 - p)^(n - x)) has not reached
    the reciprocal (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021). (0, 1) without requests.
    """
    x, n = counts.bad, counts.total
    if n <= 0:
        return 0.0, 1.0
    mixture = _log_beta(x + 0.5, n - x + 0.5) - _log_beta(0.5, 0.5)

    def log_e(p: float) -> float:
        return mixture - (x * math.log(p) if x else 0.0) - ((n - x) * math.log1p(-p) if n > x else 0.0)

    best = x / n
    lower = _edge(log_e, best, 0.0, -math.log(below)) if x > 0 else 0.0
    upper = _edge(log_e, best, 1.0, -math.log(above)) if x < n else 1.0
    return lower, upper


_HALVINGS = 60
"""Of an interval: a double has no more digits."""


def _edge(log_e: Callable[[float], float], inside: float, outside: float, level: float) -> float:
    """Where `log_e`, which grows from `inside` to `outside`, reaches `level`."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        inside, outside = (middle, outside) if log_e(middle) < level else (inside, middle)
    return outside if outside not in (0.0, 1.0) else inside


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def requests_to_prove(
    counts: Counts, allowed: float, goal: float, *, rate: float, grid: FloatArray | None = None
) -> float:
    """How many more requests, of which a share `rate` is bad, bring the log e-value of health to `goal`.

    The alternatives are `grid`, or those of health. 0 when it is there already; infinity when it never gets there at
    that rate.
    """
    gain_bad, gain_good = _gains(health_grid(allowed) if grid is None else grid, allowed)
    now = counts.bad * gain_bad + (counts.total - counts.bad) * gain_good
    slope = rate * gain_bad + (1.0 - rate) * gain_good
    if log_mean_exp(now) >= goal:
        return 0.0
    if slope.max() <= _STANDSTILL:
        return math.inf
    return float(_crossing(now, slope, goal))


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
