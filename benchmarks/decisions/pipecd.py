"""PipeCD's analysis stage with CANARY_BASELINE, from its documentation and sources.

`docs/.../automated-deployment-analysis.md` (0.49): canary and baseline at 20 % each, `duration: 30m`, `interval: 5m`,
`deviation: HIGH`, of the error ratio over the last 5 minutes. Each interval compares the points of the last interval by
Mann-Whitney's test at a significance of 0.05 (`metrics_analyzer.go`: "Typically 5% is used"); `failureLimit` is 0 by
default, so the first failure ends the deployment. A variant without a single data point fails where the other has some;
equal samples pass. Points come a minute apart, from the
interval's start to its end (`prometheus.go`). The example has no latency metric.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np

from .outcome import Outcomes
from .traffic import BoolArray, FloatArray, Traffic

NAME = "pipecd"
SHARE = 0.20
DURATION, INTERVAL, WINDOW = 30, 5, 5
ALPHA = 0.05


def run(traffic: Traffic, outcomes: Outcomes) -> None:
    """Decide all rollouts."""
    counted = np.zeros((2, 2, 0, len(outcomes.open)))  # version, (errors, total), minute, rollout
    for minute in range(1, DURATION + 1):
        answers = traffic.next_minute(SHARE, stable_share=SHARE)
        both = answers.candidate, answers.stable
        outcomes.answered(answers.candidate)
        new = np.array([[[v.errors], [v.total]] for v in both])
        counted = np.concatenate([counted, new], axis=2)
        if minute % INTERVAL:
            continue
        canary, baseline = (_points(counted[version]) for version in (0, 1))
        failed = ~acceptable(canary, baseline)
        last = minute == DURATION
        kept = outcomes.decide(~failed if last else np.zeros_like(failed), failed, traffic.minute)
        counted = counted[..., kept]
        traffic.keep(kept)


def acceptable(canary: FloatArray, baseline: FloatArray) -> BoolArray:
    """Does the canary not deviate upwards? Samples of shape (rollouts, points), NaN where there is no data point."""
    passed = np.empty(len(canary), dtype=np.bool_)
    for i, (x, y) in enumerate(zip(canary, baseline, strict=True)):
        passed[i] = _acceptable(_seen(x), _seen(y))
    return passed


def _points(counted: FloatArray) -> FloatArray:
    """The error ratio over the last WINDOW minutes at each minute of the last interval, (rollouts, points)."""
    ends = range(max(1, counted.shape[1] - INTERVAL), counted.shape[1] + 1)
    sums = [counted[:, max(0, end - WINDOW) : end].sum(axis=1) for end in ends]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([errors / total for errors, total in sums], axis=-1)


def _seen(points: FloatArray) -> tuple[float, ...]:
    return tuple(points[~np.isnan(points)].tolist())


def _acceptable(canary: tuple[float, ...], baseline: tuple[float, ...]) -> bool:
    if not canary and not baseline:
        return True
    if not canary or not baseline:
        return False
    merged = sorted({*canary, *baseline})
    if len(merged) == 1:
        return True
    rank = {value: i for i, value in enumerate(merged)}
    both = tuple(rank[v] for v in canary), tuple(rank[v] for v in baseline)
    return _p_value(tuple(sorted(both[0])), tuple(sorted(both[1]))) > ALPHA


@lru_cache(maxsize=200_000)
def _p_value(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """1 - P(U <= u - 1) over all ways to divide the values, ties counted half: as `mannwhitney.go` computes it."""
    values = np.array([*first, *second], dtype=np.float64)
    wins = (values[:, np.newaxis] > values) + 0.5 * (values[:, np.newaxis] == values)
    members = np.array(list(combinations(range(len(values)), len(first))))
    inside = np.zeros((len(members), len(values)), dtype=np.bool_)
    np.put_along_axis(inside, members, values=True, axis=1)
    u = np.einsum("ki,ij,kj->k", inside.astype(np.float64), wins, (~inside).astype(np.float64))
    return float((u > u[0] - 1.0 + 1e-9).mean())
