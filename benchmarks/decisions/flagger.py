"""Flagger, from its documentation.

`docs/gitbook/usage/how-it-works.md` (1.44): `interval: 1m`, `threshold: 10`, `maxWeight: 50`, `stepWeight: 5`, metrics
`request-success-rate` (min 99) and `request-duration` (P99, max 500 ms) over one minute. Each interval the metrics are
checked; a passed check moves the weight on, or promotes at the maximum; a failed one is counted, "max number of failed
metric checks before rollback", and a passed one never takes it back. No values found is a failed check
(`pkg/controller/scheduler_metrics.go`). Left out, `threshold` is 1 (`GetAnalysisThreshold`, "default 1").
"""

from __future__ import annotations

import numpy as np

from .outcome import HORIZON_MINUTES, Outcomes, ratio_ok
from .traffic import SLO_ERRORS, Traffic

DOCS, DEFAULT = "flagger docs", "flagger default"
STEP, MAX = 0.05, 0.50
THRESHOLDS = {DOCS: 10, DEFAULT: 1}
P99 = 0.01


def run(traffic: Traffic, outcomes: Outcomes, threshold: int) -> None:
    """Decide all rollouts."""
    weight = np.full(len(outcomes.open), STEP)
    failures = np.zeros(len(outcomes.open))
    while len(outcomes.open) and traffic.minute < HORIZON_MINUTES:
        answers = traffic.next_minute(weight).candidate
        outcomes.answered(answers)
        fast = ratio_ok(answers.very_slow, answers.total, P99)
        passed = ratio_ok(answers.errors, answers.total, SLO_ERRORS) & fast
        failures += ~passed
        at_most = weight >= MAX - STEP / 2
        kept = outcomes.decide(passed & at_most, failures >= threshold, traffic.minute)
        weight = np.where(passed, weight + STEP, weight)[kept]
        failures = failures[kept]
        traffic.keep(kept)
