"""Metrics that a process hands to Ray, declared as data: what telemetry of replicas and of fronts is made of.

Rules:
- Counts are gathered and handed over by `flush`, several times per export interval: three calls into Ray per request
  would cost about 6 % of a small model's throughput. A process that is killed loses what was not exported, at most a
  flush more than without.
- Adding 0 lets a series start there: without it the first errors of a version could not be seen as an increase.
- Gauges disappear where they are not set again: whoever has them sets them with each flush.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

FLUSH_EVERY_S: Final = (
    0.25  # a quarter of the shortest export interval in use (1 s): a flush is never what evidence waits for
)

_LEAST: Final = 1e-6
"""Ray wants values above 0; a clock that did not move in between gives 0."""


class Kind(StrEnum):
    """Ray's kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric by its name in Ray, which exports it as `ray_<name>`, a counter with `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    description: str
    boundaries: tuple[float, ...] = ()
    """Of a histogram."""


class ExportedMetrics:
    """The metrics of one process. Owned by one event loop."""

    def __init__(self, metrics: Iterable[Metric], made_by: Any = None) -> None:
        """Made by `made_by`; none: by Ray Serve's metrics, inside a replica only, where Ray adds its labels."""
        maker = made_by or _ray_metrics()
        self._made = {metric.name: _made(metric, maker) for metric in metrics}
        self._pending: collections.Counter[tuple[str, tuple[tuple[str, str], ...]]] = collections.Counter()

    def add(self, name: str, number: int, **labels: str) -> None:
        """Count so many more, at the next flush; 0 lets the series start."""
        self._pending[name, tuple(labels.items())] += number

    def observe(self, name: str, value: float, **labels: str) -> None:
        """One more value of a histogram."""
        self._made[name].observe(max(value, _LEAST), tags=labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        """What a gauge shows from now on."""
        self._made[name].set(value, tags=labels)

    def flush(self) -> None:
        """Hand everything counted so far to Ray."""
        pending, self._pending = self._pending, collections.Counter()
        for (name, labels), number in pending.items():
            if number > 0:
                self._made[name].inc(number, tags=dict(labels))
            else:
                # `inc` refuses 0; recording it is what makes a series start there.
                self._made[name]._record(0.0, tags=dict(labels))  # noqa: SLF001 Ray has no public way


def _made(metric: Metric, maker: Any) -> Any:
    match metric.kind:
        case Kind.COUNTER:
            return maker.Counter(metric.name, description=metric.description, tag_keys=metric.labels)
        case Kind.GAUGE:
            return maker.Gauge(metric.name, description=metric.description, tag_keys=metric.labels)
        case Kind.HISTOGRAM:
            return maker.Histogram(
                metric.name,
                description=metric.description,
                boundaries=list(metric.boundaries),
                tag_keys=metric.labels,
            )


def _ray_metrics() -> Any:
    from ray.serve import metrics

    return metrics
