"""Kayenta's NetflixACAJudge, three judgements of an hour, from its documentation and sources.

Spinnaker compares a canary with a baseline of the same size, a fresh deployment of the running version (best practices:
same traffic, at least 50 points per metric, several hours); `interval: 3600`, `count: 3`, `step: 60`, thresholds
`pass: 90`, `marginal: 75` are those of Argo Rollouts' documentation of Kayenta. A metric fails when the lower end of
Mann-Whitney's 98 % interval of the shift is above a quarter of Hodges and Lehmann's estimate
(`NetflixACAJudge.scala`, `MannWhitneyClassifier.scala`). Metrics here are errors and slow answers per minute
(direction `increase`, nanStrategy `replace`: no data is 0), a group each: one that fails leaves a score of 50, below
marginal, and ends the canary. Canary and baseline get 10 % of the requests each.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from .outcome import Outcomes
from .ranks import exceeds, median_difference, rank_z
from .traffic import Bin, BoolArray, FloatArray, Traffic

NAME = "kayenta"
SHARE = 0.10
JUDGEMENTS, POINTS = 3, 60
CONFIDENCE = 0.98
FRACTION = 0.25
CHUNK = 100


def run(traffic: Traffic, outcomes: Outcomes) -> None:
    """Decide all rollouts."""
    for number in range(JUDGEMENTS):
        minutes: list[Bin] = []
        for _ in range(POINTS):
            minutes.append(traffic.next_minute(SHARE, stable_share=SHARE))
            outcomes.answered(minutes[-1].candidate)
        failed = np.zeros(len(outcomes.open), dtype=np.bool_)
        for metric in ("errors", "slow"):
            canary, baseline = (
                np.stack([getattr(getattr(m, version), metric) for m in minutes], axis=-1)
                for version in ("candidate", "stable")
            )
            failed |= is_high(canary, baseline)
        last = number == JUDGEMENTS - 1
        traffic.keep(outcomes.decide(~failed if last else np.zeros_like(failed), failed, traffic.minute))


def is_high(canary: FloatArray, baseline: FloatArray) -> BoolArray:
    """Is the metric classified High? Samples of shape (rollouts, points)."""
    level = float(norm.ppf(0.5 + CONFIDENCE / 2))
    found = []
    for start in range(0, len(canary), CHUNK):  # the comparison of all pairs is large
        x, y = canary[start : start + CHUNK], baseline[start : start + CHUNK]
        bound = FRACTION * np.abs(median_difference(x, y))
        found.append(exceeds(rank_z(x, y, shift=bound), level))
    return np.concatenate(found) if found else np.zeros(0, dtype=np.bool_)
