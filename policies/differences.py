"""What counters grew by between their samples. Pure.

A sum of counters cannot be differenced: a process that restarts takes its count along, and one that starts brings
its own. So each counter is differenced by itself, and the increases are added. Rules:

- A value below the one before is a restart from zero. Counters of one process restart together: where one falls,
  all of them count from zero, also those that had grown past their old value by the time they were scraped.
- A counter first seen after the window's start counts from zero; one that existed before has its last value before
  the start as its baseline.
- A counter that vanishes contributes nothing more. One that comes back goes on from its last value.
- Values that Prometheus has evaluated for each bin are estimates already: they are added up, one for each version.
- What cannot be a count (NaN, infinity, below zero), and a counter read at two places at once, are `Unusable`.

What Prometheus never saw is not counted: events between a process's last scrape and its end; and a restart after
which *every* counter of the process has passed its old value by the next scrape looks like growth. Less is counted
then, never more.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from policies.counters import (
    Counter,
    Increase,
    Process,
    Reading,
    Readings,
    Source,
    Unusable,
    VersionKey,
    moment,
    process_of,
)

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
        Increase(counter, to, value - (0.0 if _within(restarts[process_of(counter)], since, to) else before))
        for counter, some_steps in steps.items()
        for since, to, before, value in some_steps
    ]
    return tuple(i for i in grown if i.by), {c: _since_restart(r, restarts[process_of(c)]) for c, r in after.items()}


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


def _restarts(steps: Mapping[Counter, Sequence[_Step]]) -> Mapping[Process, Sequence[int]]:
    """When each process was first seen after a restart: some counter of it fell. Ascending."""
    found: dict[Process, set[int]] = defaultdict(set)
    for counter, some in steps.items():
        found[process_of(counter)].update(to for _, to, before, value in some if value < before)
    return defaultdict(tuple, {process: sorted(times) for process, times in found.items()})


def _within(times: Sequence[int], since: int, to: int) -> bool:
    """Is one of the ascending `times` in `(since, to]`?"""
    return bisect_right(times, to) > bisect_right(times, since)


def _since_restart(readings: Mapping[Source, Reading], restarts: Sequence[int]) -> Mapping[Source, Reading]:
    """Readings older than the process's last restart stand at zero."""
    if not restarts:
        return readings
    return {s: Reading(r.at_ms, 0.0) if r.at_ms < restarts[-1] else r for s, r in readings.items()}
