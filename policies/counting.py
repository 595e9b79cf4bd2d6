"""Samples of counters to counts of good and bad events in bins.

Rules:
- A sample at time t carries what happened up to t: it belongs to the bin that holds t in `(start, start + width]`.
- The version of a series of a document's own query is told by the label `build` where it has one. What is no number
  there is no data.
- What contradicts itself, and a histogram without the bucket that is asked for, are `Unusable`, with the reason: never
  guessed, never left out.

A ledger goes on from where it stood: entering samples in one piece or in many gives the same bins. What a counter is,
is in `counters.py`, what it grew by in `differences.py`. This module must not know PromQL, HTTP or a clock.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from policies.counters import (
    Counter,
    Increase,
    Process,
    Reading,
    Readings,
    Role,
    Series,
    Source,
    Unusable,
    VersionKey,
    milliseconds,
    moment,
    process_of,
)
from policies.differences import evaluated, increases
from policies.evidence import Bin, Counts, Discordant, Sli

TOLERANCE = 1e-6
"""Counts are whole numbers in floats, exact up to 2^53; sums may be off by rounding, never by an event."""

ESTIMATE_TOLERANCE = 0.05
"""Share of a bin's total by which its part may exceed it where both were estimated: `increase()` extrapolates."""

NOTHING = Counts()


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


# --- bins -----------------------------------------------------------------------------------------------------


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
            whose = (process_of(counter), counter.outcome)
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
