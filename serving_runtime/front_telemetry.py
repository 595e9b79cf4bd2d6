"""The metrics of a front's replica, as `METRICS` declares them.

Rules:
- As in `telemetry.py`: labels are bounded, series start at 0, counts are handed over by `flush`.
- The hosts count their members' requests too, as for any user: these series say what a front made of them.
"""

from __future__ import annotations

from typing import Final

from policies.slo import LATENCY_BUCKETS_MS
from serving_runtime.callers import Reason
from serving_runtime.exported_metrics import ExportedMetrics, Kind, Metric
from serving_runtime.outcomes import Outcome, UserOutcome

_ANSWERS = (UserOutcome.OK, UserOutcome.CLIENT_ERROR, UserOutcome.ERROR, UserOutcome.REFUSED)
_HEARD = (Outcome.GOOD, Outcome.BAD, Outcome.CLIENT_ERROR)

METRICS: Final = (
    Metric("sluice_front_answers", Kind.COUNTER, ("front", "outcome"), "What users of a front got."),
    Metric("sluice_front_members", Kind.COUNTER, ("front", "model", "outcome"), "What members answered a front."),
    Metric("sluice_front_refused", Kind.COUNTER, ("front", "reason"), "Requests of who may not call, by why."),
    Metric(
        "sluice_front_latency_ms",
        Kind.HISTOGRAM,
        ("front",),
        "Time from a front's request to its answer, in milliseconds.",
        LATENCY_BUCKETS_MS,
    ),
)
"""All metrics of a front's replica."""


class FrontTelemetry:
    """Where one front counts. Owned by one event loop."""

    def __init__(self, front: str) -> None:
        """Must be made inside a replica: Ray adds its labels there."""
        self._front = front
        self._metrics = ExportedMetrics(METRICS)
        for outcome in _ANSWERS:
            self._metrics.add("sluice_front_answers", 0, front=self._front, outcome=outcome)
        for reason in Reason:
            self._metrics.add("sluice_front_refused", 0, front=self._front, reason=reason)

    def announce(self, model: str) -> None:
        """From now on this member can be counted: its series start at 0."""
        for outcome in _HEARD:
            self._metrics.add("sluice_front_members", 0, front=self._front, model=model, outcome=outcome)

    def answered(self, outcome: UserOutcome, elapsed_ms: float) -> None:
        """A user got this, after so long."""
        self._metrics.add("sluice_front_answers", 1, front=self._front, outcome=outcome)
        self._metrics.observe("sluice_front_latency_ms", elapsed_ms, front=self._front)

    def refused(self) -> None:
        """Somebody was turned away at the door."""
        self._metrics.add("sluice_front_answers", 1, front=self._front, outcome=UserOutcome.REFUSED)

    def may_not(self, reason: Reason) -> None:
        """Somebody was not let in."""
        self._metrics.add("sluice_front_refused", 1, front=self._front, reason=reason)

    def heard(self, model: str, outcome: Outcome) -> None:
        """A member answered, or did not."""
        self._metrics.add("sluice_front_members", 1, front=self._front, model=model, outcome=outcome)

    def flush(self) -> None:
        """Hand everything counted so far to Ray."""
        self._metrics.flush()
