"""A counter, as samples show it: whose it is, and what was last seen of it.

Rules:
- A counter belongs to one process. It is known by its event labels and by the labels that name a process for its
  life (`WorkerId`, `replica`), not by where it was scraped: an exporter that comes back under another address goes
  on with the same counters. A counter without process labels is known by all its labels.
- The series of a document's own queries are told apart by all their labels.

This module must not know PromQL, HTTP or a clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, TypeAlias

PROCESS_LABELS = ("WorkerId", "replica")
"""Labels that name a process for its whole life and are never used again: Ray's worker id, Serve's replica id."""

EVENT_LABELS = ("model", "version", "build", "outcome")
"""Sluicegate's own labels, which say what is counted."""

SCRAPE_LABELS = ("instance", "job", "pod", "container", "namespace", "endpoint")
"""Labels that say where a process was scraped: they may change while it goes on counting."""

VersionKey: TypeAlias = tuple[str, str]
"""A version as the metrics label it: version number and build, `Application.version` and `.build`."""


class Role(StrEnum):
    """Which query of a document's own pair brought a series."""

    TOTAL = "total"
    """Each event counts, and is not bad until the other query says so."""
    UNPROVED = "unproved"
    """Each event counts, and is bad until the other query says that it was good."""
    GOOD = "good"
    BAD = "bad"


@dataclasses.dataclass(frozen=True)
class Series:
    """Samples of one time series: `(milliseconds since the epoch, value)`, ascending."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[int, float]]
    role: Role | None = None
    """None: a metric of Sluicegate's own."""


@dataclasses.dataclass(frozen=True)
class Unusable:
    """These samples are no evidence; `reason` completes "evidence is unavailable: "."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Counter:
    """What one process counts.

    `edge` is the upper edge of a histogram's bucket; None for a plain counter and for a histogram's count.
    `outcome` is the role for a series of a document's own query, and `more` the labels that tell it from others.
    """

    version: VersionKey
    outcome: str
    edge: float | None
    process: tuple[tuple[str, str], ...]
    more: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, series: Series) -> Counter:
        """The counter that a series shows. Raises ValueError where `le` is no number."""
        labels = series.labels
        version = (labels.get("version", ""), labels.get("build", ""))
        process = tuple((name, labels[name]) for name in PROCESS_LABELS if name in labels)
        place = SCRAPE_LABELS if process else ()
        if not process:
            process = tuple(sorted((n, v) for n, v in labels.items() if n not in (*EVENT_LABELS, "le", "__name__")))
        if series.role:
            own = ("model", "version", "build", *PROCESS_LABELS, *place)
            more = tuple(sorted((n, v) for n, v in labels.items() if n not in own))
            return cls(version, series.role, None, process, more)
        return cls(version, labels.get("outcome", ""), float(labels["le"]) if "le" in labels else None, process)


@dataclasses.dataclass(frozen=True)
class Reading:
    """The last that was seen of a counter at one place."""

    at_ms: int
    value: float


Source: TypeAlias = tuple[tuple[str, str], ...]
"""Every label of a series but its name: the same counter scraped at two places has two."""

Process: TypeAlias = tuple[VersionKey, tuple[tuple[str, str], ...]]
"""What one process counts about one version: these counters start together."""

Readings: TypeAlias = Mapping[Counter, Mapping[Source, Reading]]


class Increase(NamedTuple):
    """A counter grew by `by` in `(.., at_ms]`."""

    counter: Counter
    at_ms: int
    by: float


def process_of(counter: Counter) -> Process:
    """Whose counter it is."""
    return counter.version, counter.process


def milliseconds(moment: datetime) -> int:
    """Since the epoch, rounded: Prometheus keeps no finer time."""
    return round(moment.timestamp() * 1000)


def moment(at_ms: int) -> datetime:
    """The UTC time of that many milliseconds since the epoch."""
    return datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
