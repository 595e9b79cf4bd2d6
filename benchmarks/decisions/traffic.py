"""Simulated traffic to a stable version and a candidate: what is true, and what was counted, bin by bin.

Rules:
- A truth says what both versions do, minute by minute, from the candidate's first request on. Nothing else differs
  between the rules that are compared.
- Arrays have one element per rollout; all rollouts of a cell run side by side.
- Requests arrive at random (Poisson), errors and slow answers are independent given the moment's rate, but for `bursts`
  and `clusters`, which are each version's own: a burst of one version's says nothing about the other's.
- Seeded: the same seed gives the same traffic, as long as the same is asked for.

This module must not know rules.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SLO_ERRORS = 0.01
"""Share of answers that may be errors: SLO 99 %."""

SLO_SLOW = 0.05
"""Share of answers that may be over the latency target: SLO 95 %."""

STABLE_ERRORS = 0.003
STABLE_SLOW = 0.01

VERY_SLOW_PART = 2 / 3
"""Of a slow candidate's slow answers those over 500 ms, which is what Flagger's documented latency check looks at.
Stable, and a healthy candidate, have none."""

DAY_MINUTES = 1440.0
WAVE = 0.8
"""How far the hour of the day moves the error rate, as a part of its mean; traffic moves by half of that."""

BURST_SHAPE = 0.5
"""A version's error rate in one minute is gamma distributed with this shape about its mean (bursts)."""

OUTAGE_RATE = 0.5
OUTAGE_MINUTES = 5.0
OUTAGE_WITHIN_MINUTES = 60.0
"""The outage begins at a random moment of the first hour."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """What a candidate is like. Defaults: as healthy as stable."""

    name: str
    errors: float = STABLE_ERRORS
    slow: float = STABLE_SLOW
    from_minute: float = 0.0
    """When it begins to be like that; until then it is healthy."""
    until_minute: float = math.inf
    wave: bool = False
    bursts: bool = False
    cluster: float = 1.0
    """Mean number of errors in a row (geometric)."""
    outage: bool = False
    """Both versions fail half of their requests for a while."""

    @property
    def healthy(self) -> bool:
        """Within both SLOs at all times, but for what both versions share."""
        return self.errors <= SLO_ERRORS and self.slow <= SLO_SLOW

    @property
    def bad(self) -> bool:
        """Outside an SLO, and not only while it starts."""
        return not self.healthy and math.isinf(self.until_minute)


TRUTHS = (
    Truth(name="healthy"),
    Truth(name="1.5 %", errors=0.015),
    Truth(name="5 %", errors=0.05),
    Truth(name="50 %", errors=0.5),
    Truth(name="slow", slow=0.3),
    Truth(name="slow start", slow=0.3, until_minute=2.0),
    Truth(name="wave", wave=True),
    Truth(name="bursts", bursts=True),
    Truth(name="clusters 5", cluster=5.0),
    Truth(name="clusters 20", cluster=20.0),
    Truth(name="outage", outage=True),
    Truth(name="turns bad 20", errors=0.05, from_minute=20.0),
    Truth(name="turns bad 60", errors=0.05, from_minute=60.0),
)


@dataclasses.dataclass(frozen=True)
class Answers:
    """One version's answers in a bin, one element per rollout."""

    total: FloatArray
    errors: FloatArray
    slow: FloatArray
    very_slow: FloatArray

    @property
    def bad(self) -> FloatArray:
        """Errors and slow answers; one that is both counts twice."""
        return self.errors + self.slow


@dataclasses.dataclass(frozen=True)
class Bin:
    """What was counted in one bin."""

    candidate: Answers
    stable: Answers
    both_failed: FloatArray
    """In shadow: requests that both versions answered with an error."""
    rescued: FloatArray
    """Of the candidate's errors those that stable, asked in its place, answered without."""


class Traffic:
    """The traffic of many rollouts, drawn bin by bin. `minute` is when the next bin starts."""

    def __init__(self, truth: Truth, requests_per_minute: float, rollouts: int, seed: tuple[int, ...]) -> None:
        self.truth = truth
        self.requests_per_minute = requests_per_minute
        self.minute = 0.0
        self._random = np.random.default_rng(seed)
        self._phase = self._random.uniform(0.0, DAY_MINUTES, rollouts)
        self._outage_from = self._random.uniform(0.0, OUTAGE_WITHIN_MINUTES, rollouts)
        self._carry = np.zeros((2, rollouts))
        self._burst = np.ones((2, rollouts))
        self._burst_minute: int | None = None

    def keep(self, kept: BoolArray) -> None:
        """Forget all rollouts but these."""
        if not kept.all():
            self._phase, self._outage_from = self._phase[kept], self._outage_from[kept]
            self._carry, self._burst = self._carry[:, kept], self._burst[:, kept]

    def next_bin(
        self,
        minutes: float,
        candidate_share: FloatArray | float,
        *,
        shadow: BoolArray | bool = False,
        stable_share: float | None = None,
    ) -> Bin:
        """The next bin, of so many minutes.

        The candidate answers `candidate_share` of the requests, stable the rest or `stable_share` of them; in
        `shadow` both answer each request.
        """
        rollouts = len(self._phase)
        share = np.broadcast_to(np.asarray(candidate_share, dtype=np.float64), (rollouts,))
        in_shadow = np.broadcast_to(np.asarray(shadow), (rollouts,))
        self._burst_anew()
        mean = self._requests(self.minute) * minutes
        requests = self._random.poisson(mean * np.where(in_shadow, 1.0, share)).astype(np.float64)
        others = self._random.poisson(mean * (1.0 - share if stable_share is None else stable_share))
        candidate = self._answers(0, requests, *self._candidate_rates())
        stable = self._answers(1, np.where(in_shadow, requests, others), STABLE_ERRORS, STABLE_SLOW)
        failed = candidate.errors.astype(np.int64)
        rescued = self._random.binomial(failed, 1.0 - self._rate(1, STABLE_ERRORS)).astype(np.float64)
        self.minute += minutes
        return Bin(candidate, stable, self._both(candidate, stable, in_shadow), rescued)

    def next_minute(self, candidate_share: FloatArray | float, *, stable_share: float | None = None) -> Bin:
        """The next minute, as one bin."""
        return self.next_bin(1.0, candidate_share, stable_share=stable_share)

    def day_before(self) -> FloatArray:
        """Stable's requests and errors in each minute of the day before the rollout, shape (2, minutes, rollouts)."""
        minutes = np.arange(-DAY_MINUTES, 0.0)[:, np.newaxis]
        mean = np.broadcast_to(self._requests(minutes), (len(minutes), len(self._phase)))
        requests = self._random.poisson(mean).astype(np.float64)
        if self.truth.cluster > 1:
            return np.stack([requests, np.stack([self._clustered(1, n, STABLE_ERRORS) for n in requests])])
        rate = STABLE_ERRORS * (self._wave(minutes, WAVE) if self.truth.wave else np.ones_like(mean))
        if self.truth.bursts:
            rate = np.minimum(rate * self._random.gamma(BURST_SHAPE, 1.0 / BURST_SHAPE, rate.shape), 1.0)
        return np.stack([requests, self._random.binomial(requests.astype(np.int64), rate)])

    # --- inside ---------------------------------------------------------------------------------------------------

    def _burst_anew(self) -> None:
        """Each minute has its own burst."""
        if self.truth.bursts and math.floor(self.minute) != self._burst_minute:
            self._burst_minute = math.floor(self.minute)
            self._burst = self._random.gamma(BURST_SHAPE, 1.0 / BURST_SHAPE, self._burst.shape)

    def _wave(self, minute: FloatArray | float, height: float) -> FloatArray:
        return 1.0 + height * np.sin(2 * np.pi * (minute + self._phase) / DAY_MINUTES)

    def _requests(self, minute: FloatArray | float) -> FloatArray:
        """Per minute, of all versions together."""
        still = np.full(self._phase.shape, self.requests_per_minute)
        return still * self._wave(minute, WAVE / 2) if self.truth.wave else still

    def _candidate_rates(self) -> tuple[float, float]:
        if self.truth.from_minute <= self.minute < self.truth.until_minute:
            return self.truth.errors, self.truth.slow
        return STABLE_ERRORS, STABLE_SLOW

    def _answers(self, version: int, requests: FloatArray, errors: float, slow: float) -> Answers:
        slow_answers = self._random.binomial(requests.astype(np.int64), slow).astype(np.float64)
        very = VERY_SLOW_PART if slow > STABLE_SLOW else 0.0
        very_slow = self._random.binomial(slow_answers.astype(np.int64), very).astype(np.float64)
        return Answers(requests, self._errors(version, requests, errors), slow_answers, very_slow)

    def _both(self, candidate: Answers, stable: Answers, in_shadow: BoolArray) -> FloatArray:
        """Errors are independent given the moment's rate, also those of two versions on one request."""
        failed, stable_failed = (np.where(in_shadow, v.errors, 0).astype(np.int64) for v in (candidate, stable))
        others = np.where(in_shadow, stable.total, 0).astype(np.int64) - stable_failed
        return self._random.hypergeometric(stable_failed, others, failed).astype(np.float64)

    def _errors(self, version: int, requests: FloatArray, mean: float) -> FloatArray:
        if self.truth.cluster > 1:
            return self._clustered(version, requests, mean)
        return self._random.binomial(requests.astype(np.int64), self._rate(version, mean)).astype(np.float64)

    def _rate(self, version: int, mean: float) -> FloatArray | float:
        """The moment's chance that an answer is an error; for clusters its mean."""
        rate: FloatArray | float = mean
        if self.truth.wave:
            rate = rate * self._wave(self.minute, WAVE)
        if self.truth.bursts:
            rate = np.minimum(rate * self._burst[version], 1.0)
        if self.truth.outage:
            during = (self.minute >= self._outage_from) & (self.minute < self._outage_from + OUTAGE_MINUTES)
            rate = np.where(during, OUTAGE_RATE, rate)
        return rate

    def _clustered(self, version: int, requests: FloatArray, mean: float) -> FloatArray:
        """Errors in geometric runs of consecutive requests of this version; a run goes on in its next bin."""
        size, carry = self.truth.cluster, self._carry[version]
        first = np.minimum(carry, requests)
        open_to_start = requests - first
        starts = self._random.binomial(open_to_start.astype(np.int64), mean / size)
        more = np.where(starts > 0, self._random.negative_binomial(np.maximum(starts, 1), 1.0 / size), 0)
        wanted = starts + more
        taken = np.minimum(wanted, open_to_start)
        self._carry[version] = carry - first + wanted - taken
        return first + taken
