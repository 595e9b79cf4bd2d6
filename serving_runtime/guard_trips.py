"""The trips of hosts' guards, from the gauges that a host shows for as long as its guard has stopped a candidate. Pure.

Rules:
- A series is one host replica. It counts while its newest sample is fresh: a host that has let go, or is gone, shows
  nothing any more, and Prometheus would repeat it for five minutes.
- A trip lasts from the first sample of the newest unbroken run.

This module must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

from policies.counters import Series, VersionKey, moment
from policies.observations import Trip
from serving_runtime.promql import GUARD_BAD, GUARD_REQUESTS
from serving_runtime.scrape_health import STALE_SCRAPES


class _Shown(NamedTuple):
    since_ms: int
    value: float


def read_trip(
    series: Iterable[Series], model: str, candidate: VersionKey, now_ms: int, interval: timedelta
) -> Trip | None:
    """What the guards of all host replicas say of one candidate; none where none has tripped."""
    longest_ms = STALE_SCRAPES * interval // timedelta(milliseconds=1)
    requests: dict[object, _Shown] = {}
    bad: dict[object, _Shown] = {}
    for one in series:
        whose = (one.labels.get("version", ""), one.labels.get("build", ""))
        if one.labels.get("model") != model or whose != candidate:
            continue
        shown = _shown(one, now_ms, longest_ms)
        if shown and one.labels.get("__name__") in (GUARD_REQUESTS, GUARD_BAD):
            (requests if one.labels["__name__"] == GUARD_REQUESTS else bad)[_host(one.labels)] = shown
    if not requests:
        return None
    return Trip(
        build=candidate[1],
        hosts=len(requests),
        requests=sum(shown.value for shown in requests.values()),
        bad=sum(shown.value for host, shown in bad.items() if host in requests),
        at=moment(min(shown.since_ms for shown in requests.values())),
    )


def _host(labels: Mapping[str, str]) -> object:
    return tuple(sorted((name, value) for name, value in labels.items() if name != "__name__"))


def _shown(series: Series, now_ms: int, longest_ms: int) -> _Shown | None:
    """The newest value and since when one was shown without a break; none where it is old or no count."""
    samples = [(at_ms, value) for at_ms, value in series.samples if at_ms <= now_ms]
    if not samples or now_ms - samples[-1][0] > longest_ms or not 0 <= samples[-1][1] < float("inf"):
        return None
    *_, since_ms = _starts(samples, longest_ms)
    return _Shown(since_ms, samples[-1][1])


def _starts(samples: list[tuple[int, float]], longest_ms: int) -> Iterator[int]:
    """When each unbroken run began."""
    yield samples[0][0]
    for (before_ms, _), (at_ms, _) in pairwise(samples):
        if at_ms - before_ms > longest_ms:
            yield at_ms
