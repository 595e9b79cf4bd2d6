"""What the tests find in the evidence of one objective; `judge.py` puts the findings of all together.

Rules:
- A harm test is one row of HARM_TESTS: how it bets, and how far the candidate is above what it is compared with. Every
  objective is put to every row, all rows have the same weight, and a row that is added is in every verdict.
- The proof of health is kept: it counts from the bin at which it first reached 1/beta, whatever comes after.
- Evidence that cannot be believed is not put to any test.

This module must not decide what a verdict is.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np

from policies.bets import FloatArray, harm_log_e, health_grid, mixture_log_e
from policies.documents import RolloutPolicy
from policies.model import Bin, Counts, Evidence, Objective


@dataclasses.dataclass(frozen=True)
class Series:
    """The candidate's counts of one objective as arrays of one length: an element per bin, oldest first."""

    bad: FloatArray
    total: FloatArray

    @property
    def counts(self) -> Counts:
        """All bins together."""
        return Counts(float(self.total.sum()), float(self.bad.sum()))

    def start_at(self, index: int) -> Series:
        """The bins from `index` on."""
        return Series(self.bad[index:], self.total[index:])


@dataclasses.dataclass(frozen=True)
class HarmTest:
    """One way to look for harm."""

    name: str
    log_e: Callable[[Series, Objective], float]
    """Log e-value after the series' last bin of a bet that began with its first."""
    effect: Callable[[Series, Objective], float]
    """How far the bad rate is above what this test compares it with; minus infinity without requests."""


def _log_e_against_slo(series: Series, objective: Objective) -> float:
    return harm_log_e(series.counts, objective.allowed_bad_rate)


def _effect_against_slo(series: Series, objective: Objective) -> float:
    counts = series.counts
    return counts.bad / counts.total - objective.allowed_bad_rate if counts.total else -math.inf


HARM_TESTS = (HarmTest("SLO", _log_e_against_slo, _effect_against_slo),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Harm:
    """What one harm test found. E-values as logarithms."""

    test: HarmTest
    log_e: float
    """Over the rollout."""
    counted: float
    """The same, but 0 at most where the effect is below the policy's minimum: too little to call it harm."""
    step_log_e: float
    """Over this step; exactly 0 without requests."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One objective: what was counted, and what the tests found in it."""

    evidence: Evidence
    """What was judged: no bins from the future."""
    trouble: str = ""
    """Why it cannot be believed; then there is nothing else."""
    counts: Counts = dataclasses.field(default_factory=Counts)
    """The candidate's, over the rollout."""
    harms: tuple[Harm, ...] = ()
    """In the order of HARM_TESTS."""
    proof: float = 0.0
    """The largest log e-value that the proof of health had after any bin."""
    proved_at: datetime | None = None
    """The end of the bin with which it first reached 1/beta."""
    step: Counts | None = None
    """The candidate's counts since the step's weights were live; none while they are not."""

    @property
    def objective(self) -> Objective:
        """What was asked."""
        return self.evidence.objective

    @property
    def harm(self) -> float:
        """What the worst harm test counts for."""
        return max((h.counted for h in self.harms), default=-math.inf)

    @property
    def step_is_clean(self) -> bool:
        """Measured in this step, and every bet on harm has lost since its start."""
        return bool(self.step and self.step.total > 0 and all(h.step_log_e < 0 for h in self.harms))


def find(evidence: Evidence, policy: RolloutPolicy, *, step_since: datetime | None, now: datetime) -> Finding:
    """Put one objective to all tests. Bins that start at or after `now` are left out."""
    bins = evidence.bins[: _first_at(evidence.bins, now)]
    judged, series = dataclasses.replace(evidence, bins=bins), _series(bins)
    if trouble := _trouble(judged, series):
        return Finding(evidence=judged, trouble=trouble)
    step = series.start_at(len(bins) if step_since is None else _first_at(bins, step_since))
    proof, proved_at = _proof(judged, series, policy.beta)
    return Finding(
        evidence=judged,
        counts=series.counts,
        harms=tuple(_harm(test, evidence.objective, series, step, policy.min_effect) for test in HARM_TESTS),
        proof=proof,
        proved_at=proved_at,
        step=None if step_since is None else step.counts,
    )


def _first_at(bins: Sequence[Bin], moment: datetime) -> int:
    return bisect_left(bins, moment, key=lambda b: b.start)


def _series(bins: Sequence[Bin]) -> Series:
    return Series(
        bad=np.fromiter((b.candidate.bad for b in bins), np.float64, len(bins)),
        total=np.fromiter((b.candidate.total for b in bins), np.float64, len(bins)),
    )


def _trouble(evidence: Evidence, series: Series) -> str:
    """Why this evidence cannot be believed, or nothing.

    Counts are differences of counters that others keep. An impossible one is a fault of the measurement, and a bet on
    it would blame the candidate.
    """
    if not evidence.source.available:
        return evidence.source.reason or "the source gives no reason"
    possible = np.isfinite(series.total) & (series.bad >= 0) & (series.bad <= series.total)
    if possible.all():
        return ""
    first = evidence.bins[int(possible.argmin())]
    counts = first.candidate
    return f"impossible counts at {first.start:%H:%M:%S} UTC: {counts.bad:g} bad of {counts.total:g}"


def _harm(test: HarmTest, objective: Objective, series: Series, step: Series, min_effect: float) -> Harm:
    log_e = test.log_e(series, objective)
    matters = test.effect(series, objective) >= min_effect
    counted = log_e if matters else min(log_e, 0.0)
    return Harm(test=test, log_e=log_e, counted=counted, step_log_e=test.log_e(step, objective))


def _proof(evidence: Evidence, series: Series, beta: float) -> tuple[float, datetime | None]:
    """The proof's largest log e-value, and when it first reached 1/beta."""
    allowed = evidence.objective.allowed_bad_rate
    path = mixture_log_e(series.bad.cumsum(), series.total.cumsum(), health_grid(allowed), allowed)
    reached = path >= -math.log(beta)
    first = evidence.bins[int(reached.argmax())].start if reached.any() else None
    return float(path.max(initial=0.0)), first + evidence.width if first else None
