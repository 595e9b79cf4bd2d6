"""What became of many rollouts under one rule, kept while they go on."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from .traffic import Answers, BoolArray, FloatArray

HORIZON_MINUTES = 480.0
"""A rollout that nobody has decided after 8 h is held: a person has to."""


class Result(IntEnum):
    """How a rollout ended."""

    HELD = 0
    PROMOTED = 1
    ROLLED_BACK = -1


class Outcomes:
    """Results by rollout; `open` names the rollouts that are not decided yet, in the order of the arrays given."""

    def __init__(self, rollouts: int) -> None:
        self.result = np.full(rollouts, Result.HELD, dtype=np.int64)
        self.minutes = np.full(rollouts, np.nan)
        """From the candidate's first request to the verdict; NaN where there is none."""
        self.bad_answers = np.zeros(rollouts)
        """Bad answers that the candidate gave to users before the verdict."""
        self.served = np.zeros(rollouts, dtype=np.bool_)
        """Did it ever answer a user?"""
        self.open: npt.NDArray[np.int64] = np.arange(rollouts)

    def answered(self, answers: Answers, *, users: BoolArray | bool = True) -> None:
        """The candidate's answers of a bin; those where `users` is False were copies."""
        real = np.broadcast_to(np.asarray(users), answers.total.shape)
        self.bad_answers[self.open] += np.where(real, answers.bad, 0.0)
        self.served[self.open] |= real & (answers.total > 0)

    def decide(self, promoted: BoolArray, rolled_back: BoolArray, minute: float) -> BoolArray:
        """These have ended now. Returns which of the open ones go on."""
        for which, result in ((promoted, Result.PROMOTED), (rolled_back, Result.ROLLED_BACK)):
            self.result[self.open[which]] = result
            self.minutes[self.open[which]] = minute
        going_on = ~(promoted | rolled_back)
        self.open = self.open[going_on]
        return going_on


def ratio_ok(bad: FloatArray, total: FloatArray, allowed: float) -> BoolArray:
    """Is the share of bad answers at most `allowed`? False without requests: a rule that sees NaN fails."""
    return (total > 0) & (bad <= allowed * total + 1e-9)
