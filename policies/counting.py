"""From raw samples of counters to counts of good and bad events in bins.

A sum of counters cannot be differenced: a process that restarts takes its count along, and one that starts brings
its own. So each counter is differenced by itself, and the increases are added. Rules:

- A counter belongs to one process. It is known by its event labels and by the labels that name a process for its
  life (`WorkerId`, `replica`), not by where it was scraped: an exporter that comes back under another address goes
  on with the same counters. A counter without process labels is known by all its labels.
- A value below the one before is a restart from zero. Counters of one process restart together: where one falls,
  all of them count from zero, also those that had grown past their old value by the time they were scraped.
- A counter first seen after the window's start counts from zero; one that existed before has its last value before
  the start as its baseline.
- A counter that vanishes contributes nothing more. One that comes back goes on from its last value.
- A sample at time t carries what happened up to t: it belongs to the bin that holds t in `(start, start + width]`.
- What cannot be a count (NaN, infinity, below zero), a counter read at two places at once, and a histogram without
  the bucket that is asked for are `Unusable`, with the reason: never guessed, never left out.

What Prometheus never saw is not counted: events between a process's last scrape and its end; and a restart after
which *every* counter of the process has passed its old value by the next scrape looks like growth. Less is counted
then, never more.

A ledger goes on from where it stood: entering samples in one piece or in many gives the same bins. This module must
not know PromQL, HTTP or a clock.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from policies.model import Bin, Counts

PROCESS_LABELS = ("WorkerId", "replica")
"""Labels that name a process for its whole life and are never used again: Ray's worker id, Serve's replica id."""

EVENT_LABELS = ("model", "version", "build", "outcome")
"""Sluicegate's own labels, which say what is counted."""

TOLERANCE = 1e-6
"""Counts are whole numbers in floats, exact up to 2^53; sums may be off by rounding, never by an event."""

NOTHING = Counts()

VersionKey: TypeAlias = tuple[str, str]
"""A version as the metrics label it: version number and build, `Application.version` and `.build`."""


# --- what comes in --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Series:
    """Samples of one time series: `(milliseconds since the epoch, value)`, ascending."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Unusable:
    """These samples are no evidence; `reason` completes "evidence is unavailable: "."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Counter:
    """What one process counts.

    `edge` is the upper edge of a histogram's bucket; None for a plain counter and for a histogram's count.
    """

    version: VersionKey
    outcome: str
    edge: float | None
    process: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Counter:
        """The counter that a series shows. Raises ValueError where `le` is no number."""
        process = tuple((name, labels[name]) for name in PROCESS_LABELS if name in labels)
        if not process:
            process = tuple(sorted((n, v) for n, v in labels.items() if n not in (*EVENT_LABELS, "le", "__name__")))
        edge = float(labels["le"]) if "le" in labels else None
        return cls((labels.get("version", ""), labels.get("build", "")), labels.get("outcome", ""), edge, process)


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


@dataclasses.dataclass(frozen=True)
class Increase:
    """A counter grew by `by` in `(.., at_ms]`."""

    counter: Counter
    at_ms: int
    by: float


# --- bins -----------------------------------------------------------------------------------------------------


def milliseconds(moment: datetime) -> int:
    """Since the epoch, rounded: Prometheus keeps no finer time."""
    return round(moment.timestamp() * 1000)


def moment(at_ms: int) -> datetime:
    """The UTC time of that many milliseconds since the epoch."""
    return datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)


def first_edge(since: datetime, width: timedelta) -> int:
    """The first clock-aligned edge at or after `since`, in milliseconds: a multiple of `width`."""
    width_ms = width // timedelta(milliseconds=1)
    return -(-milliseconds(since) // width_ms) * width_ms


def last_edge(until: datetime, width: timedelta) -> int:
    """The last clock-aligned edge at or before `until`, in milliseconds."""
    width_ms = width // timedelta(milliseconds=1)
    return milliseconds(until) // width_ms * width_ms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """Finished bins of a candidate and its stable version for one indicator, and what is needed to go on from there."""

    candidate: VersionKey
    stable: VersionKey | None
    edge: float | None
    """For latency, the bucket edge within which an answer is good; None counts outcomes."""
    width_ms: int
    upto_ms: int
    """The end of the last finished bin: a clock-aligned edge."""
    bins: tuple[Bin, ...] = ()
    readings: Readings = dataclasses.field(default_factory=dict)

    def opened(self, before: Iterable[Series]) -> Ledger:
        """The same with baselines: each series' last sample at or before `upto_ms`, if it has one."""
        readings: dict[Counter, dict[Source, Reading]] = defaultdict(dict)
        for counter, source, samples in self._own(before):
            earlier = [s for s in samples if s[0] <= self.upto_ms]
            if earlier:
                readings[counter][source] = Reading(*earlier[-1])
        return dataclasses.replace(self, readings={**self.readings, **readings})

    def entered(self, series: Iterable[Series], upto_ms: int) -> Ledger | Unusable:
        """The ledger with the bins up to the edge `upto_ms` finished.

        `series` holds all samples in `(self.upto_ms, upto_ms]`; others, and those of other versions, are left out.
        """
        inside = [
            (counter, source, [s for s in samples if self.upto_ms < s[0] <= upto_ms])
            for counter, source, samples in self._own(series)
        ]
        found = increases(self.readings, inside)
        if isinstance(found, Unusable):
            return found
        grown, readings = found
        missing = self._missing_bucket(readings)
        bins = missing or self._bins(grown, upto_ms)
        if isinstance(bins, Unusable):
            return bins
        return dataclasses.replace(self, bins=self.bins + bins, readings=readings, upto_ms=upto_ms)

    def _own(self, series: Iterable[Series]) -> Iterator[tuple[Counter, Source, Sequence[tuple[int, float]]]]:
        for one in series:
            counter = Counter.of(one.labels)
            if counter.version in (self.candidate, self.stable) and weight(counter, self.edge):
                yield counter, tuple(sorted((n, v) for n, v in one.labels.items() if n != "__name__")), one.samples

    def _missing_bucket(self, readings: Readings) -> Unusable | None:
        if self.edge is None:
            return None
        counted = {(c.version, c.process) for c in readings if c.edge is None}
        within = {(c.version, c.process) for c in readings if c.edge is not None}
        if counted == within:
            return None
        version, _ = min(counted ^ within)
        return Unusable(
            f"the latency histogram of version {version[0]} has no bucket that ends at {self.edge:g} ms beside its "
            "count: how many answers were within it is unknown"
        )

    def _bins(self, grown: Iterable[Increase], upto_ms: int) -> tuple[Bin, ...] | Unusable:
        total: dict[tuple[int, VersionKey], float] = defaultdict(float)
        bad: dict[tuple[int, VersionKey], float] = defaultdict(float)
        for increase in grown:
            per_total, per_bad = weight(increase.counter, self.edge) or (0.0, 0.0)
            place = (-(-increase.at_ms // self.width_ms) * self.width_ms, increase.counter.version)
            total[place] += per_total * increase.by
            bad[place] += per_bad * increase.by
        for place, count in bad.items():
            if not -TOLERANCE <= count <= total[place] + TOLERANCE:
                return Unusable(
                    f"the counts of version {place[1][0]} contradict each other: {count:g} bad of {total[place]:g} "
                    f"in the bin that ends at {moment(place[0]):%H:%M:%S}"
                )

        def counts(end_ms: int, version: VersionKey | None) -> Counts:
            place = (end_ms, version or ("", ""))
            return Counts(total[place], max(0.0, bad[place])) if place in total else NOTHING

        ends = range(self.upto_ms + self.width_ms, upto_ms + 1, self.width_ms)
        return tuple(
            Bin(moment(end - self.width_ms), counts(end, self.candidate), counts(end, self.stable)) for end in ends
        )


def weight(counter: Counter, edge: float | None) -> tuple[float, float] | None:
    """What one more of this counter adds to (total, bad); None for what is no evidence (a client's error).

    For a histogram (`edge` is asked for) the count adds an answer that is bad until its bucket says it was within.
    """
    if edge is None:
        return {"good": (1.0, 0.0), "bad": (1.0, 1.0)}.get(counter.outcome) if counter.edge is None else None
    return {None: (1.0, 1.0), edge: (0.0, -1.0)}.get(counter.edge)


# --- differences ----------------------------------------------------------------------------------------------

_Step: TypeAlias = tuple[int, int, float, float]
"""From, to (milliseconds), value there before, value there after; a new counter comes from `_NEVER`."""

_NEVER = Reading(-1, 0.0)


def increases(
    readings: Readings, series: Iterable[tuple[Counter, Source, Sequence[tuple[int, float]]]]
) -> tuple[tuple[Increase, ...], Readings] | Unusable:
    """What each counter grew by at each of its samples, and the readings to go on from.

    Samples must be younger than the readings.
    """
    samples: dict[Counter, list[tuple[int, Source, float]]] = defaultdict(list)
    for counter, source, some in series:
        samples[counter].extend((at_ms, source, value) for at_ms, value in some)
    after: dict[Counter, Mapping[Source, Reading]] = dict(readings)
    steps: dict[Counter, list[_Step]] = {}
    for counter, seen in samples.items():
        walked = _walk(counter, readings.get(counter, {}), sorted(seen))
        if isinstance(walked, Unusable):
            return walked
        steps[counter], after[counter] = walked
    restarts = _restarts(steps)
    grown = [
        Increase(counter, to, value - (0.0 if _within(restarts[_process(counter)], since, to) else before))
        for counter, some_steps in steps.items()
        for since, to, before, value in some_steps
    ]
    return tuple(i for i in grown if i.by), {c: _since_restart(r, restarts[_process(c)]) for c, r in after.items()}


def _walk(
    counter: Counter, known: Mapping[Source, Reading], samples: Sequence[tuple[int, Source, float]]
) -> tuple[list[_Step], Mapping[Source, Reading]] | Unusable:
    """The steps of one counter, in order of time, over all places where it was scraped."""
    places = dict(known)
    steps: list[_Step] = []
    for at_ms, source, value in samples:
        latest = max(places.values(), key=lambda r: r.at_ms, default=None)
        here = places.get(source)
        if here and latest and here.at_ms < latest.at_ms:
            return Unusable(_two_places(counter, source, places))
        last = here or latest or _NEVER
        if not _countable(value) or not _countable(last.value):
            return Unusable(
                f"a counter of version {counter.version[0]} reads {value:g} at {moment(at_ms):%H:%M:%S}, "
                f"after {last.value:g}: that is no count"
            )
        steps.append((last.at_ms, at_ms, last.value, value))
        places[source] = Reading(at_ms, value)
    return steps, places


def _countable(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _two_places(counter: Counter, source: Source, places: Mapping[Source, Reading]) -> str:
    other = max((s for s in places if s != source), key=lambda s: places[s].at_ms)
    differing = [
        " ".join(f"{n}={v}" for n, v in sorted(set(one) - set(two))) for one, two in ((source, other), (other, source))
    ]
    return (
        f"ambiguous: one process that counts version {counter.version[0]} is scraped at two places at once "
        f"({differing[0]} and {differing[1]}): scrape it once, or select one place by the environment's "
        "prometheus.labels"
    )


def _process(counter: Counter) -> Process:
    return counter.version, counter.process


def _restarts(steps: Mapping[Counter, Sequence[_Step]]) -> Mapping[Process, Sequence[int]]:
    """When each process was first seen after a restart: some counter of it fell. Ascending."""
    found: dict[Process, set[int]] = defaultdict(set)
    for counter, some in steps.items():
        found[_process(counter)].update(to for _, to, before, value in some if value < before)
    return defaultdict(tuple, {process: sorted(times) for process, times in found.items()})


def _within(times: Sequence[int], since: int, to: int) -> bool:
    """Is one of the ascending `times` in `(since, to]`?"""
    return bisect_right(times, to) > bisect_right(times, since)


def _since_restart(readings: Mapping[Source, Reading], restarts: Sequence[int]) -> Mapping[Source, Reading]:
    """Readings older than the process's last restart stand at zero."""
    if not restarts:
        return readings
    return {s: Reading(r.at_ms, 0.0) if r.at_ms < restarts[-1] else r for s, r in readings.items()}
