"""Argo Rollouts, inline analysis with failureLimit 0, from its documentation.

`docs/features/analysis.md` (1.10): the steps of the example (setWeight 20, 40, 60, 80), each followed by an inline
analysis of `count: 5` measurements at `interval: 60s` of a success rate over the last minute; any measurement that does
not meet `successCondition` counts against `failureLimit`, whose default is 0: the first one aborts the rollout. No
requests make the query NaN, which meets no condition (and is a failed measurement). The condition here is the SLO,
`result[0] >= 0.99`; the example has no latency metric.
"""

from __future__ import annotations

import numpy as np

from .outcome import Outcomes, ratio_ok
from .traffic import SLO_ERRORS, Traffic

NAME = "argo inline"
WEIGHTS = (0.20, 0.40, 0.60, 0.80)
COUNT = 5


def run(traffic: Traffic, outcomes: Outcomes) -> None:
    """Decide all rollouts."""
    for weight in WEIGHTS:
        for number in range(COUNT):
            answers = traffic.next_minute(weight).candidate
            outcomes.answered(answers)
            failed = ~ratio_ok(answers.errors, answers.total, SLO_ERRORS)
            last = weight == WEIGHTS[-1] and number == COUNT - 1
            traffic.keep(outcomes.decide(~failed if last else np.zeros_like(failed), failed, traffic.minute))
