"""The metrics of a front's replica, as Ray exports them (`ray_` before each name, `_total` after a counter's).

| metric | kind | labels | counts |
|---|---|---|---|
| sluice_front_answers | counter | front, outcome | what users of a front got |
| sluice_front_members | counter | front, model, outcome | what members answered it |
| sluice_front_refused | counter | front, reason | who may not call, by why |
| sluice_front_latency_ms | histogram | front | time from a front's request to its answer |

Rules:
- As in `telemetry.py`: labels are bounded, series start at 0, counts are handed over by `flush`.
- The hosts count their members' requests too, as for any user: these series say what a front made of them.
"""

from __future__ import annotations

import collections

from serving_runtime.callers import Reason
from serving_runtime.outcomes import Outcome, UserOutcome
from serving_runtime.telemetry import LATENCY_BUCKETS_MS

_ANSWERS = (UserOutcome.OK, UserOutcome.CLIENT_ERROR, UserOutcome.ERROR, UserOutcome.REFUSED)
_HEARD = (Outcome.GOOD, Outcome.BAD, Outcome.CLIENT_ERROR)

_Key = tuple[str, tuple[tuple[str, str], ...]]


class FrontTelemetry:
    """Where one front counts. Owned by one event loop."""

    def __init__(self, front: str) -> None:
        """Must be made inside a replica: Ray adds its labels there."""
        from ray.serve import metrics

        self._front = front
        self._counters = {
            "answers": metrics.Counter(
                "sluice_front_answers", description="What users of a front got.", tag_keys=("front", "outcome")
            ),
            "members": metrics.Counter(
                "sluice_front_members",
                description="What members answered a front.",
                tag_keys=("front", "model", "outcome"),
            ),
            "refused": metrics.Counter(
                "sluice_front_refused",
                description="Requests of who may not call, by why.",
                tag_keys=("front", "reason"),
            ),
        }
        self._latency = metrics.Histogram(
            "sluice_front_latency_ms",
            description="Time from a front's request to its answer, in milliseconds.",
            boundaries=list(LATENCY_BUCKETS_MS),
            tag_keys=("front",),
        )
        self._pending: collections.Counter[_Key] = collections.Counter()
        for outcome in _ANSWERS:
            self._add("answers", 0, outcome=outcome)
        for reason in Reason:
            self._add("refused", 0, reason=reason)

    def announce(self, model: str) -> None:
        """From now on this member can be counted: its series start at 0."""
        for outcome in _HEARD:
            self._add("members", 0, model=model, outcome=outcome)

    def answered(self, outcome: UserOutcome, elapsed_ms: float) -> None:
        """A user got this, after so long."""
        self._add("answers", 1, outcome=outcome)
        # Ray wants values above 0; a clock that did not move in between gives 0.
        self._latency.observe(max(elapsed_ms, 1e-6), tags={"front": self._front})

    def refused(self) -> None:
        """Somebody was turned away at the door."""
        self._add("answers", 1, outcome=UserOutcome.REFUSED)

    def may_not(self, reason: Reason) -> None:
        """Somebody was not let in."""
        self._add("refused", 1, reason=reason)

    def heard(self, model: str, outcome: Outcome) -> None:
        """A member answered, or did not."""
        self._add("members", 1, model=model, outcome=outcome)

    def flush(self) -> None:
        """Hand everything counted so far to Ray."""
        pending, self._pending = self._pending, collections.Counter()
        for (name, labels), number in pending.items():
            if number > 0:
                self._counters[name].inc(number, tags=dict(labels))
            else:
                # `inc` refuses 0; recording it is what makes a series start there.
                self._counters[name]._record(0.0, tags=dict(labels))  # noqa: SLF001 Ray has no public way

    def _add(self, name: str, number: int, **labels: str) -> None:
        self._pending[name, tuple({"front": self._front, **labels}.items())] += number
