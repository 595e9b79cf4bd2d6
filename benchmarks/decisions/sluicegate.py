"""Sluicegate's own rules: the judge's arithmetic for many rollouts side by side, and the phases around it.

The arithmetic is `policies/standing.py`'s, which takes arrays of any shape; what `policies/findings.py`, `judge.py` and
`rollout.py` decide about one rollout is said here once more for many. `tests/unit/test_decision_benchmark.py` holds
both against each other.

Rules, as in `rollout.py` and the built-in policy:
- FAIL rolls back at once. A step passes with PASS and after its minimum time; the last one promotes.
- A step past its maximum pauses with its weight; it goes on when the evidence says PASS. So a rollout that is undecided
  after 8 h is held, whether it is paused or not.
- One look after each bin; a new weight counts from the next bin on.
- phi is measured on stable in the day before.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from policies.dispersion import MAX_PHI, MIN_BAD
from policies.documents import RolloutPolicy
from policies.findings import NEAR_SLO, SUSPECTED
from policies.stakes import Stakes, log_mean_exp
from policies.standing import NOTHING, Counted, Setup, Standing, counted_harm, counted_suspicion, in_outage

from .outcome import HORIZON_MINUTES, Outcomes
from .traffic import SLO_ERRORS, SLO_SLOW, Bin, BoolArray, FloatArray, Traffic

SHADOW_FIRST, DEFAULT = "sluicegate shadow-first", "sluicegate default"
POLICIES = {
    SHADOW_FIRST: RolloutPolicy(name="shadow-first"),
    DEFAULT: RolloutPolicy(name="default", shadow=None),
}

FINE_MINUTES = 10.0
"""Bins are of 15 s this long, then of 60 s, which delays a later verdict by 45 s at most and saves most of the time
that this takes. Where there are fewer requests than FINE_REQUESTS a minute, they are of 60 s from the first."""
FINE_REQUESTS = 60.0
BIN_MINUTES = (0.25, 1.0)


class Indicator:
    """One objective of many rollouts: its tests over the rollout and over the step, and what was counted."""

    def __init__(self, allowed: float, policy: RolloutPolicy, dispersion: FloatArray, planned: int) -> None:
        rollouts = len(dispersion)
        self._policy = policy
        self._setup = Setup(
            allowed=allowed,
            tolerance=policy.tolerance,
            margin=policy.margin,
            dispersion=dispersion,
            planned=planned,
        )
        self._rollout, self._step = Standing.before((rollouts,)), Standing.before((rollouts,))
        self._later = np.zeros(rollouts, dtype=np.bool_)
        """Past the first step; until then the step's standing is the rollout's."""
        self._stable, self._stable_bad = np.zeros(rollouts), np.zeros(rollouts)
        self._in_step = np.zeros(rollouts)
        self._beside = np.zeros(rollouts, dtype=np.bool_)
        """Proved to be as good as a stable version that was near its SLO; a proof is kept."""

    def count(self, counted: Counted) -> None:
        """One bin more."""
        self._rollout = self._rollout.after(counted, self._setup)
        self._count_in_step(counted)
        counts = ~in_outage(counted.stable_total, counted.stable_bad, self._setup.allowed)
        self._stable += np.where(counts, counted.stable_total, 0.0)
        self._stable_bad += np.where(counts, counted.stable_bad, 0.0)
        self._in_step += counted.total
        near = (self._stable > 0) & (self._stable_bad >= NEAR_SLO * self._setup.allowed * self._stable)
        self._beside |= near & (self._rollout.best[:, 1] >= self._goal)

    def _count_in_step(self, counted: Counted) -> None:
        which = self._later
        if not which.any():
            return
        setup = dataclasses.replace(self._setup, dispersion=np.asarray(self._setup.dispersion)[which])
        moved = _kept(self._step, which).after(Counted(*(field[which] for field in counted.fields)), setup)
        self._step = _merged(self._step, which, moved)

    @property
    def _goal(self) -> float:
        return -math.log(self._policy.beta)

    @property
    def harm(self) -> FloatArray:
        """Log e-values of harm as a verdict counts them, shape (rollouts, harms)."""
        return counted_harm(self._rollout, self._setup, self._policy.min_effect)

    @property
    def passes(self) -> BoolArray:
        """Proved healthy, measured in this step, and no harm suspected (`Finding.passes`)."""
        proved = (self._rollout.best[:, 0] >= self._goal) | self._beside
        setup, least = self._setup, self._policy.min_effect
        suspected = (counted_suspicion(self._rollout, setup, least) > NOTHING).any(axis=-1)
        of_step = counted_suspicion(_kept(self._step, self._later), setup, least)
        suspected[self._later] |= (of_step > SUSPECTED).any(axis=-1)
        return proved & (self._in_step > 0) & ~suspected

    def begin_step(self, which: BoolArray) -> None:
        """A step begins with the next bin in these rollouts."""
        if which.any():
            self._step = _merged(self._step, which, Standing.before((int(which.sum()),)))
            self._later = self._later | which
        self._in_step = np.where(which, 0.0, self._in_step)

    def keep(self, kept: BoolArray) -> None:
        """Forget all rollouts but these."""
        self._rollout, self._step = _kept(self._rollout, kept), _kept(self._step, kept)
        self._stable, self._stable_bad, self._in_step = (
            a[kept] for a in (self._stable, self._stable_bad, self._in_step)
        )
        self._later, self._beside = self._later[kept], self._beside[kept]
        dispersion = np.asarray(self._setup.dispersion)[kept]
        self._setup = dataclasses.replace(self._setup, dispersion=dispersion)


class Judge:
    """The verdicts on many rollouts, look by look."""

    def __init__(self, policy: RolloutPolicy, dispersion: FloatArray, planned: int) -> None:
        calm = np.ones_like(dispersion)
        self._policy = policy
        self._errors = Indicator(SLO_ERRORS, policy, dispersion, planned)
        self._latency = Indicator(SLO_SLOW, policy, calm, planned)

    def look(self, counted: Bin, *, shadow: BoolArray) -> tuple[BoolArray, BoolArray]:
        """PASS and FAIL after one more bin."""
        self._errors.count(errors_counted(counted, shadow=shadow))
        self._latency.count(latency_counted(counted))
        harm = np.concatenate([self._errors.harm, self._latency.harm], axis=-1)
        failed = log_mean_exp(harm) >= -math.log(self._policy.alpha)
        return self._errors.passes & self._latency.passes & ~failed, failed

    def begin_step(self, which: BoolArray) -> None:
        """A step begins with the next bin in these rollouts."""
        self._errors.begin_step(which)
        self._latency.begin_step(which)

    def keep(self, kept: BoolArray) -> None:
        """Forget all rollouts but these."""
        self._errors.keep(kept)
        self._latency.keep(kept)


def errors_counted(counted: Bin, *, shadow: BoolArray) -> Counted:
    """Errors as the hosts count them: pairs in shadow, and what stable answered in the candidate's place."""
    candidate, stable = counted.candidate, counted.stable
    return Counted(
        total=candidate.total,
        bad=candidate.errors,
        stable_total=stable.total,
        stable_bad=stable.errors,
        rescued=np.where(shadow, 0.0, counted.rescued),
        told=~shadow,
        only_candidate=np.where(shadow, candidate.errors - counted.both_failed, 0.0),
        only_stable=np.where(shadow, stable.errors - counted.both_failed, 0.0),
        paired=shadow,
    )


def latency_counted(counted: Bin) -> Counted:
    """Slow answers as each version's own server counts them: nobody tells pairs or rescues."""
    nothing, nobody = np.zeros_like(counted.candidate.total), np.zeros(counted.candidate.total.shape, dtype=np.bool_)
    return Counted(
        total=counted.candidate.total,
        bad=counted.candidate.slow,
        stable_total=counted.stable.total,
        stable_bad=counted.stable.slow,
        rescued=nothing,
        told=nobody,
        only_candidate=nothing,
        only_stable=nothing,
        paired=nobody,
    )


def run(traffic: Traffic, outcomes: Outcomes, policy: RolloutPolicy) -> None:
    """Decide all rollouts."""
    weights = np.array([*([0] if policy.shadow else []), *policy.steps, 100]) / 100
    bakes = [*([policy.shadow] if policy.shadow else []), *(policy.step for _ in policy.steps), policy.settle]
    least = np.array([bake.min_duration.total_seconds() / 60 for bake in bakes])
    fine_until = FINE_MINUTES if traffic.requests_per_minute >= FINE_REQUESTS else 0.0
    whole = policy.max_duration.total_seconds() / 60
    planned = round(fine_until / BIN_MINUTES[0] + (whole - fine_until) / BIN_MINUTES[1])
    judge = Judge(policy, dispersion(traffic.day_before()), planned)
    step, since = np.zeros(len(outcomes.open), dtype=np.int64), np.zeros(len(outcomes.open))
    while len(outcomes.open) and traffic.minute < HORIZON_MINUTES:
        shadow = weights[step] == 0
        width = BIN_MINUTES[0] if traffic.minute < fine_until else BIN_MINUTES[1]
        counted = traffic.next_bin(width, weights[step], shadow=shadow)
        outcomes.answered(counted.candidate, users=~shadow)
        passed, failed = judge.look(counted, shadow=shadow)
        now = traffic.minute
        moves = passed & (now - since >= least[step] - 1e-9)
        last = step == len(weights) - 1
        kept = outcomes.decide(moves & last, failed, now)
        step, since = np.where(moves & ~last, step + 1, step), np.where(moves & ~last, now, since)
        judge.begin_step(moves & ~last)
        if not kept.all():
            step, since = step[kept], since[kept]
            judge.keep(kept)
            traffic.keep(kept)


# --- phi ----------------------------------------------------------------------------------------------------------

BLOCK_MINUTES = (1, 5)


def dispersion(counted: FloatArray) -> FloatArray:
    """As `policies/dispersion.py`, of many rollouts: stable's requests and errors, shape (2, minutes, rollouts)."""
    widest = np.ones(counted.shape[-1])
    for per in BLOCK_MINUTES:
        whole = counted.shape[1] // per * per
        total, bad = counted[:, :whole].reshape(2, -1, per, counted.shape[-1]).sum(axis=2)
        left = bad - bad.sum(axis=0) / np.maximum(total.sum(axis=0), 1) * total
        with np.errstate(divide="ignore", invalid="ignore"):
            index = (np.diff(left, axis=0) ** 2).sum(axis=0) / (2 * bad.sum(axis=0)) * len(left) / (len(left) - 1)
        widest = np.fmax(widest, index)
    return np.where(counted[1].sum(axis=0) < MIN_BAD, 1.0, np.minimum(widest, MAX_PHI).round(2))


# --- inside -------------------------------------------------------------------------------------------------------


def _kept(standing: Standing, kept: BoolArray) -> Standing:
    stakes = Stakes(
        standing.stakes.placed[kept],
        standing.stakes.unplaced[kept],
        standing.stakes.bins[kept],
    )
    return Standing(stakes, standing.best[kept], standing.rising[kept], standing.quiet[kept])


def _merged(standing: Standing, which: BoolArray, others: Standing) -> Standing:
    """The same, but `others` in these rollouts."""

    def merged(old: FloatArray, new: FloatArray) -> FloatArray:
        together = old.copy()
        together[which] = new
        return together

    stakes = Stakes(
        merged(standing.stakes.placed, others.stakes.placed),
        merged(standing.stakes.unplaced, others.stakes.unplaced),
        merged(standing.stakes.bins, others.stakes.bins),
    )
    return Standing(
        stakes,
        merged(standing.best, others.best),
        merged(standing.rising, others.rising),
        merged(standing.quiet, others.quiet),
    )
