"""One bet from the first request to the last, mixed over its alternatives: what the grids of `bets.py` are worth alone.

The judge's tests begin at any bin and go on (`standing.py`); these are the sums that they are held against.
"""

from __future__ import annotations

import numpy.typing as npt

from policies.bets import harm_grid, health_grid, rate_log_ratio
from policies.evidence import Counts
from policies.stakes import FloatArray, log_mean_exp


def mixture_log_e(bad: npt.ArrayLike, total: npt.ArrayLike, grid: FloatArray, allowed: float) -> FloatArray:
    """Logarithm of E for counts since the bet began; `bad` and `total` have one shape, the answer has it too."""
    return log_mean_exp(rate_log_ratio(bad, total, grid, allowed))


def harm_log_e(counts: Counts, allowed: float) -> float:
    """Log e-value against "the bad rate is at most `allowed`": large shows harm."""
    return float(mixture_log_e(counts.bad, counts.total, harm_grid(allowed), allowed))


def health_log_e(counts: Counts, allowed: float) -> float:
    """Log e-value against "the bad rate is at least `allowed`": large proves health."""
    return float(mixture_log_e(counts.bad, counts.total, health_grid(allowed), allowed))
