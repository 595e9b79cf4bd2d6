"""One cell of the table: a rule, a traffic and a truth; and the figures that are made of its rollouts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from policies.limit import Truth as Rates
from policies.limit import fewest_minutes

from . import argo, flagger, kayenta, pipecd, sluicegate
from .outcome import HORIZON_MINUTES, Outcomes, Result
from .traffic import SLO_ERRORS, SLO_SLOW, STABLE_ERRORS, STABLE_SLOW, TRUTHS, FloatArray, Traffic, Truth

RATES = (10, 60, 600, 6000)
"""Requests per minute, of all versions together."""

RULES: Mapping[str, Callable[[Traffic, Outcomes], None]] = {
    **{name: partial(sluicegate.run, policy=policy) for name, policy in sluicegate.POLICIES.items()},
    argo.NAME: argo.run,
    **{name: partial(flagger.run, threshold=threshold) for name, threshold in flagger.THRESHOLDS.items()},
    kayenta.NAME: kayenta.run,
    pipecd.NAME: pipecd.run,
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is simulated."""

    rule: str
    requests_per_minute: int
    truth: str

    @property
    def told(self) -> Truth:
        """The truth itself."""
        return next(t for t in TRUTHS if t.name == self.truth)

    def outcomes(self, rollouts: int, seed: int, part: int) -> Outcomes:
        """Some of its rollouts; the same seed and part give the same ones."""
        truth = next(i for i, t in enumerate(TRUTHS) if t.name == self.truth)
        rule = list(RULES).index(self.rule)
        traffic = Traffic(
            self.told, self.requests_per_minute, rollouts, (seed, rule, self.requests_per_minute, truth, part)
        )
        outcomes = Outcomes(rollouts)
        RULES[self.rule](traffic, outcomes)
        return outcomes

    def row(self, parts: Sequence[Outcomes]) -> dict[str, str | int | float | None]:
        """The cell's figures."""
        result, minutes = _joined(parts, "result"), _joined(parts, "minutes")
        bad, served = _joined(parts, "bad_answers"), _joined(parts, "served")
        promoted, rolled_back = result == Result.PROMOTED, result == Result.ROLLED_BACK
        row: dict[str, str | int | float | None] = {
            "rule": self.rule,
            "requests_per_minute": self.requests_per_minute,
            "truth": self.truth,
            "rolled_back": _share(rolled_back),
            "promoted": _share(promoted),
            "held": _share(result == Result.HELD),
            "bad_answers_mean": _rounded(bad.mean()),
            "minutes_mean": _mean(minutes[promoted | rolled_back]),
            "rollouts": len(result),
            "minutes_over_limit": None,
            "minutes_over_slo_limit": None,
            "limit_minutes": None,
            "minutes_to_rollback": _mean(minutes[rolled_back]),
            "minutes_to_promotion": _mean(minutes[promoted]),
            "promoted_while_bad": _share(promoted & (minutes > self.told.from_minute)) if self.told.bad else 0.0,
            "never_answered_a_user": _share(~served),
            "bad_answers_in_8h_mean": _rounded((bad + np.where(promoted, self._after(minutes), 0.0)).mean()),
        }
        return row | self._over_limit(row["minutes_to_rollback"])

    def _after(self, minutes: FloatArray) -> FloatArray:
        """Bad answers expected from a promoted version until 8 h after its first request."""
        truth = self.told
        end = min(truth.until_minute, HORIZON_MINUTES)
        like_that = np.maximum(end - np.maximum(np.nan_to_num(minutes), truth.from_minute), 0.0)
        healthy = HORIZON_MINUTES - np.nan_to_num(minutes) - like_that
        per_minute = like_that * (truth.errors + truth.slow) + healthy * (STABLE_ERRORS + STABLE_SLOW)
        return np.asarray(self.requests_per_minute * per_minute)

    def _over_limit(self, minutes: object) -> dict[str, str | int | float | None]:
        """How our own rules compare with the fewest minutes, for a version that is bad from its first request on."""
        policy = sluicegate.POLICIES.get(self.rule)
        if policy is None or not self.told.bad or self.told.from_minute or not isinstance(minutes, float):
            return {}
        look = sluicegate.BIN_MINUTES[self.requests_per_minute < sluicegate.FINE_REQUESTS]
        limits = {outages: self.limit(forgives_outages=outages) for outages in (True, False)}
        looks = {outages: math.ceil(limit / look - 1e-9) * look for outages, limit in limits.items()}
        return {
            "minutes_over_limit": _rounded(minutes / looks[True]),
            "minutes_over_slo_limit": _rounded(minutes / looks[False]),
            "limit_minutes": _rounded(limits[True]),
        }

    def limit(self, *, forgives_outages: bool) -> float:
        """T* in minutes, at the traffic of the policy's first step: of the indicator that tells soonest."""
        policy = sluicegate.POLICIES[self.rule]
        share = 1.0 if policy.shadow else policy.steps[0] / 100
        others = 1.0 if policy.shadow else 1.0 - share
        indicators = ((self.told.errors, STABLE_ERRORS, SLO_ERRORS), (self.told.slow, STABLE_SLOW, SLO_SLOW))
        return min(
            fewest_minutes(
                Rates(
                    candidate_rate=candidate,
                    stable_rate=stable,
                    candidate_events=share * self.requests_per_minute,
                    stable_events=others * self.requests_per_minute,
                ),
                alpha=policy.alpha,
                allowed=allowed,
                tolerance=policy.tolerance,
                forgives_outages=forgives_outages,
            )
            for candidate, stable, allowed in indicators
        )


def all_cells() -> list[Cell]:
    """Every cell, those that take longest first."""
    return [Cell(rule, rate, truth.name) for rule in RULES for rate in RATES for truth in TRUTHS]


def _joined(parts: Sequence[Outcomes], name: str) -> FloatArray:
    return np.concatenate([getattr(part, name) for part in parts])


def _share(which: FloatArray) -> float:
    return round(float(which.mean()), 5)


def _mean(values: FloatArray) -> float | None:
    return _rounded(values.mean()) if len(values) else None


def _rounded(value: float) -> float:
    """Four digits and two decimals are more than a simulation of thousands can tell."""
    return round(float(value), 2)
