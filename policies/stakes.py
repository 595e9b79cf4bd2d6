"""A bet that may start at any time: stakes on alternatives, moved on bin by bin.

One unit is divided over start times (h_k, summing to 1 at most) and, at each start, over alternatives (pi_j). What was
placed is multiplied by each bin's likelihood ratio; what was not placed yet stays as it is:

    R_j <- (R_j + pi_j h_k) LR_jk,      E = sum_j R_j + (1 - sum_{i<=k} h_i)

That is a mixture of the e-processes that begin at each start, and so one itself: where the hypothesis holds, the chance
that E ever reaches 1/a is at most a (Ville 1939). A bet that started an hour ago and lost everything does not keep
a new one from winning: health shown for an hour does not hide a change (Shin, Ramdas and Rinaldo 2024, e-detectors).

Rules:
- Logarithms throughout, added by log-sum-exp.
- Arrays of any leading shape: one rollout, or thousands side by side.
- Nothing here knows what is bet on.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FIRST = 0.75
"""The share of a searching bet that starts with the first bin: most bad versions are bad from their first request."""

TAIL = 0.05
"""The share that starts after the planned bins: a rollout that a person keeps PAUSED for a day is judged still, and a
change at twice the planned time is bet on with a sixteenth of what one within it is."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When stakes are placed.

    `first` of the unit on the first bin, `later` on each of the `bins` that follow, and `tail` on all after these: bins
    / (k (k - 1)) of it on the k-th, which is all of it in the end.
    """

    first: FloatArray
    """Shape (...), broadcast with the bets."""
    later: FloatArray
    bins: int
    tail: FloatArray = dataclasses.field(default_factory=lambda: np.array(0.0))

    @classmethod
    def searching(cls, planned: int) -> Schedule:
        """It looks for a change at any bin: FIRST on the first, TAIL after the planned ones, the rest on these."""
        bins = max(1, planned)
        return cls(np.array(FIRST), np.array((1.0 - FIRST - TAIL) / bins), bins, np.array(TAIL))

    @classmethod
    def steadfast(cls) -> Schedule:
        """All of it on the first bin."""
        return cls(np.array(1.0), np.array(0.0), 0)

    def share(self, number: FloatArray) -> FloatArray:
        """The share of the unit that starts with a bet's bin `number`, counted from 0."""
        late = self.tail * self.bins / np.maximum(number * (number - 1.0), 1.0)
        return np.where(number == 0, self.first, np.where(number <= self.bins, self.later, late))


@dataclasses.dataclass(frozen=True)
class Stakes:
    """What has become of the unit. `placed` has shape (..., alternatives), the others (...)."""

    placed: FloatArray
    """Logarithms of R_j."""
    unplaced: FloatArray
    """1 - sum of h so far."""
    bins: FloatArray
    """How many bins it has been bet on."""

    @classmethod
    def none_placed(cls, shape: tuple[int, ...], alternatives: int) -> Stakes:
        """Before the first bin."""
        return cls(np.full((*shape, alternatives), -np.inf), np.ones(shape), np.zeros(shape))

    def moved(
        self, log_ratio: FloatArray, moves: npt.NDArray[np.bool_], schedule: Schedule, prior: FloatArray
    ) -> Stakes:
        """After one more bin.

        `log_ratio` (..., alternatives) is the bin's log likelihood ratio and `prior` (alternatives,) holds the
        pi_j. Bets that do not take part in this bin (`moves` is False, shape (...)) stay as they are.
        """
        share = np.where(moves, schedule.share(self.bins), 0.0)
        with np.errstate(divide="ignore"):  # nothing placed is minus infinity
            added = np.log(share)[..., np.newaxis] + np.log(prior)
        grown = np.logaddexp(self.placed, added) + np.where(moves[..., np.newaxis], log_ratio, 0.0)
        unplaced = np.maximum(self.unplaced - share, 0.0)  # a double's rounding must not make it negative
        return Stakes(grown, unplaced, self.bins + moves)

    @cached_property
    def log_e(self) -> FloatArray:
        """Logarithm of E, shape (...); exactly 0 before the first bin."""
        with np.errstate(divide="ignore"):
            return np.logaddexp(log_sum_exp(self.placed), np.log(self.unplaced))


_LOWEST = -float(np.finfo(np.float64).max)


def log_sum_exp(logs: FloatArray) -> FloatArray:
    """Logarithm of the sum over the last axis of what `logs` are logarithms of, without overflow."""
    largest = np.maximum(logs.max(axis=-1), _LOWEST)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is wanted where all have lost all
        return np.asarray(largest + np.log(np.exp(logs - largest[..., np.newaxis]).sum(axis=-1)))


def log_mean_exp(logs: FloatArray) -> FloatArray:
    """The same of the mean. Minus infinity is a bet that has lost all; a mean of such is minus infinity."""
    return log_sum_exp(logs) - math.log(logs.shape[-1])
