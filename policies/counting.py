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
- The series of a document's own queries are told apart by all their labels, and their version by the label `build`
  where they have one. What is no number there is no data. Values that Prometheus has evaluated for each bin are
  estimates already: they are added up, one for each version.
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
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from policies.evidence import Bin, Counts, Discordant, Sli

PROCESS_LABELS = ("WorkerId", "replica")
"""Labels that name a process for its whole life and are never used again: Ray's worker id, Serve's replica id."""

EVENT_LABELS = ("model", "version", "build", "outcome")
"""Sluicegate's own labels, which say what is counted."""

SCRAPE_LABELS = ("instance", "job", "pod", "container", "namespace", "endpoint")
"""Labels that say where a process was scraped: they may change while it goes on counting."""

TOLERANCE = 1e-6
"""Counts are whole numbers in floats, exact up to 2^53; sums may be off by rounding, never by an event."""

ESTIMATE_TOLERANCE = 0.05
"""Share of a bin's total by which its part may exceed it where both were estimated: `increase()` extrapolates."""

NOTHING = Counts()

VersionKey: TypeAlias = tuple[str, str]
"""A version as the metrics label it: version number and build, `Application.version` and `.build`."""


# --- what comes in --------------------------------------------------------------------------------------------


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Indicator:
    """What is counted."""

    sli: Sli
    edge: float | None = None
    """For latency, the bucket edge within which an answer is good."""
    of_buckets: bool = False
    """For queries: a process that counts its events has a bucket of the good or bad ones, too."""
    estimated: bool = False
    """For queries: the samples are no counters but what happened in the bin that ends with each."""


class Amount(NamedTuple):
    """What one more of a counter adds to its bin."""

    total: float = 0.0
    bad: float = 0.0
    rescued: float = 0.0
    pairs: float = 0.0
    """Requests that both versions answered."""
    only_candidate_bad: float = 0.0
    only_stable_bad: float = 0.0


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
    indicator: Indicator
    width_ms: int
    upto_ms: int
    """The end of the last finished bin: a clock-aligned edge."""
    bins: tuple[Bin, ...] = ()
    readings: Readings = dataclasses.field(default_factory=dict)

    @property
    def first_ms(self) -> int:
        """The start of the first bin."""
        return self.upto_ms - len(self.bins) * self.width_ms

    def from_edge(self, first_ms: int) -> Ledger:
        """The same without the bins before an edge that is not before the ledger's own start."""
        return dataclasses.replace(self, bins=self.bins[max(0, (first_ms - self.first_ms) // self.width_ms) :])

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
        if any(counter.version == UNTOLD for counter, _, _ in inside):
            return Unusable(
                f"candidate and stable are both version {self.candidate[0]}, and the series have no label build that "
                "tells them apart"
            )
        if silent := self._silent(inside):
            return silent
        found = evaluated(self.readings, inside) if self.indicator.estimated else increases(self.readings, inside)
        if isinstance(found, Unusable):
            return found
        grown, readings = found
        bins = self._missing(readings) or self._bins(grown, upto_ms)
        if isinstance(bins, Unusable):
            return bins
        return dataclasses.replace(self, bins=self.bins + bins, readings=readings, upto_ms=upto_ms)

    def _own(self, series: Iterable[Series]) -> Iterator[tuple[Counter, Source, Sequence[tuple[int, float]]]]:
        for one in series:
            counter, samples = Counter.of(one), one.samples
            if one.role:
                counter = dataclasses.replace(counter, version=self._told(counter.version))
                samples = [s for s in samples if not math.isnan(s[1])]
            ours = counter.version in (self.candidate, self.stable, UNTOLD)
            if ours and samples and amount(counter, self.indicator):
                yield counter, tuple(sorted((n, v) for n, v in one.labels.items() if n != "__name__")), samples

    def _told(self, version: VersionKey) -> VersionKey:
        """The version that a series without a build is about."""
        if version[1]:
            return version
        same = {key for key in (self.candidate, self.stable) if key and key[0] == version[0]}
        return version if not same else UNTOLD if len(same) > 1 else next(iter(same))

    def _missing(self, readings: Readings) -> Unusable | None:
        """Counts without their other half: what they would say is unknown."""
        if self.indicator.edge is not None:
            counted = {(c.version, c.process) for c in readings if c.edge is None}
            within = {(c.version, c.process) for c in readings if c.edge is not None}
            what = f"the latency histogram of version {{}} has no bucket that ends at {self.indicator.edge:g} ms"
            answers = "how many answers were within it is unknown"
        elif self.indicator.of_buckets:
            counted = {(c.version, c.process) for c in readings if c.outcome in (Role.TOTAL, Role.UNPROVED)}
            within = {(c.version, c.process) for c in readings if c.outcome in (Role.GOOD, Role.BAD)}
            what, answers = "the histogram of version {} has no bucket that ends at this edge", "it is no evidence"
        else:
            return self._nothing_good(readings)
        if counted == within:
            return None
        version, _ = min(counted ^ within)
        return Unusable(f"{what.format(version[0])} beside its count: {answers}")

    def _nothing_good(self, readings: Readings) -> Unusable | None:
        """A query that finds nothing anywhere is taken for a wrong one, never for a service that fails everything."""
        roles = {counter.outcome for counter in readings}
        if Role.UNPROVED in roles and Role.GOOD not in roles:
            return Unusable(
                "events are counted, and the query of good ones has no series for any version: is it right? (That "
                "nothing was good is believed only where some version shows the series.)"
            )
        newest: dict[tuple[Process, str], int] = defaultdict(int)
        for counter, places in readings.items():
            whose = (_process(counter), counter.outcome)
            newest[whose] = max([newest[whose], *(reading.at_ms for reading in places.values())])
        for (process, role), at_ms in newest.items():
            others_ms = newest.get((process, Role.UNPROVED), 0)
            if role == Role.GOOD and at_ms < others_ms and not self.indicator.estimated:
                return _good_ended(process[0], at_ms, others_ms)
        return None

    def _silent(self, inside: Iterable[tuple[Counter, Source, Sequence[tuple[int, float]]]]) -> Unusable | None:
        """Evaluated counts of stable's events in a bin for which the query of good ones says nothing of any version."""
        if not self.indicator.estimated or self.stable is None:
            return None
        told: dict[str, set[int]] = defaultdict(set)
        for counter, _, samples in inside:
            if counter.outcome == Role.GOOD or counter.version == self.stable:
                told[counter.outcome].update(at_ms for at_ms, value in samples if value or counter.outcome == Role.GOOD)
        silent = told[Role.UNPROVED] - told[Role.GOOD]
        return _good_ended(self.stable, max(told[Role.GOOD], default=0), min(silent)) if silent else None

    def _bins(self, grown: Iterable[Increase], upto_ms: int) -> tuple[Bin, ...] | Unusable:
        added: dict[tuple[int, VersionKey], list[float]] = defaultdict(lambda: [0.0] * len(Amount._fields))
        parts: dict[Counter, Sequence[tuple[int, float]]] = {}  # a day of a service is a million increases
        for counter, at_ms, by in grown:
            if counter not in parts:
                parts[counter] = [(i, a) for i, a in enumerate(amount(counter, self.indicator) or ()) if a]
            here = added[-(-at_ms // self.width_ms) * self.width_ms, counter.version]
            for i, one in parts[counter]:
                here[i] += one * by
        sums = {place: Amount(*found) for place, found in added.items()}
        for place, found in sums.items():
            spare = max(1.0, ESTIMATE_TOLERANCE * found.total) if self.indicator.estimated else TOLERANCE
            if not -spare <= found.bad <= found.total + spare:
                return Unusable(
                    f"the counts of version {place[1][0]} contradict each other: {found.bad:g} bad of {found.total:g} "
                    f"in the bin that ends at {moment(place[0]):%H:%M:%S}"
                )
        ends = range(self.upto_ms + self.width_ms, upto_ms + 1, self.width_ms)
        return tuple(self._bin(end, sums) for end in ends)

    def _bin(self, end_ms: int, sums: Mapping[tuple[int, VersionKey], Amount]) -> Bin:
        candidate = sums.get((end_ms, self.candidate))
        stable = sums.get((end_ms, self.stable)) if self.stable else None
        errors = self.indicator.sli is Sli.ERRORS
        return Bin(
            moment(end_ms - self.width_ms),
            _counts(candidate),
            _counts(stable),
            rescued=(candidate.rescued if candidate else 0.0) if errors else None,
            pairs=_pairs(candidate),
        )


def _good_ended(version: VersionKey, at_ms: int, others_ms: int) -> Unusable:
    since = f"nothing since {moment(at_ms):%H:%M:%S}" if at_ms else "nothing"
    return Unusable(
        f"stale: of good events of version {version[0]} there is {since}, but its events are counted at "
        f"{moment(others_ms):%H:%M:%S}"
    )


UNTOLD: VersionKey = ("", "?")
"""Candidate or stable: the same number, and no build. No version is called that."""


def _counts(found: Amount | None) -> Counts:
    return Counts(found.total, min(found.total, max(0.0, found.bad))) if found and found.total else NOTHING


def _pairs(found: Amount | None) -> Discordant | None:
    return Discordant(found.only_candidate_bad, found.only_stable_bad) if found and found.pairs else None


_AMOUNTS: Mapping[Sli, Mapping[str, Amount]] = {
    Sli.ERRORS: {
        "good": Amount(total=1),
        "bad": Amount(total=1, bad=1),
        "rescued": Amount(total=1, bad=1, rescued=1),
        "good_good": Amount(pairs=1),
        "good_bad": Amount(pairs=1, only_stable_bad=1),
        "bad_good": Amount(pairs=1, only_candidate_bad=1),
        "bad_bad": Amount(pairs=1),
    },
    Sli.AGREEMENT: {"good": Amount(total=1), "bad": Amount(total=1, bad=1)},
    Sli.FEEDBACK: {"good": Amount(total=1), "bad": Amount(total=1, bad=1)},
    Sli.QUERIES: {
        Role.TOTAL: Amount(total=1),
        Role.UNPROVED: Amount(total=1, bad=1),
        Role.GOOD: Amount(bad=-1),
        Role.BAD: Amount(bad=1),
    },
}
"""By outcome. What is not named is no evidence: a client's error, a copy that was not sent."""


def amount(counter: Counter, indicator: Indicator) -> Amount | None:
    """What one more of this counter adds; None for what is no evidence.

    For a latency histogram the count adds an answer that is bad until its bucket says it was within.
    """
    if indicator.sli is Sli.LATENCY:
        return {None: Amount(total=1, bad=1), indicator.edge: Amount(bad=-1)}.get(counter.edge)
    return _AMOUNTS[indicator.sli].get(counter.outcome) if counter.edge is None else None


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


def evaluated(
    readings: Readings, series: Iterable[tuple[Counter, Source, Sequence[tuple[int, float]]]]
) -> tuple[tuple[Increase, ...], Readings] | Unusable:
    """What Prometheus says happened in the bins that end at the samples; readings say who has had any."""
    after = dict(readings)
    grown: list[Increase] = []
    seen: dict[tuple[VersionKey, str], set[Source]] = defaultdict(set)
    for counter, source, samples in series:
        whose = (counter.version, counter.outcome)
        seen[whose].add(source)
        if len(seen[whose]) > 1:
            return Unusable(
                f"the query of {counter.outcome} has several series for version {counter.version[0]} where one is "
                "expected: write sum by (model, version) (...)"
            )
        for at_ms, value in samples:
            if not _countable(value):
                return Unusable(_no_count(counter, at_ms, value))
            grown.append(Increase(counter, at_ms, value))
            after[counter] = {source: Reading(at_ms, value)}
    return tuple(i for i in grown if i.by), after


def _no_count(counter: Counter, at_ms: int, value: float) -> str:
    return f"the query of {counter.outcome} is {value:g} for version {counter.version[0]} at {moment(at_ms):%H:%M:%S}"


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
