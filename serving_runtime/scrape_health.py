"""Whether the scrape can be believed, from each target's `up` and the hosts' own sign of life. Pure.

Rules:
- The samples' own times count, against `now`: Prometheus shows an old sample as fresh for five minutes.
- Only targets of the jobs that carry Sluicegate's hosts matter: an unrelated exporter that is down stops nothing.
  No host at all is no evidence: Ray is not scraped, and zero requests would be a guess.
- One of these targets down means that a part of the counts is missing: the whole is unavailable.
- A target that left (a node that was removed) has no fresh `up`; it is waited for as long as a sample may be old,
  then forgotten.
- For counters of somebody else's, which a document's own query names, the targets of their jobs are judged the same
  way, but by the interval at which they are in fact scraped.
- One model under two Ray clusters at once is ambiguous: the environment's labels must tell them apart.

This module must not know HTTP or count requests.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from policies.counters import Series
from serving_runtime.promql import HOSTS

STALE_SCRAPES = 4
"""Scrapes that may be missing: a timeout loses one now and then, a restart of Prometheus two; four are an outage."""

WINDOW_SCRAPES = 6
"""How far back to look for a newest sample: beyond STALE_SCRAPES, so that a stale one is seen with its age."""

SHORTEST_WINDOW = timedelta(minutes=5)
"""The same in time: an outage of less than this is told with its age, a longer one as "nothing since"."""

NAMED_TARGETS = 3
"""Targets named in a reason; more is a list nobody reads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """What the scrape's samples say. `reason` is empty when they can be believed."""

    reason: str = ""
    age: timedelta | None = None
    """Age of the newest sample."""
    complete_ms: int = 0
    """Every target was scraped at or after this (milliseconds since the epoch)."""
    ambiguous: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Models whose series come from several clusters at once, with the reason."""
    jobs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Jobs whose counters cannot be believed, with the reason: a target is down, or none was scraped lately."""


def window(interval: timedelta) -> timedelta:
    """How far back the samples must reach that `read_health` is given."""
    return max(SHORTEST_WINDOW, WINDOW_SCRAPES * interval)


def read_health(series: Iterable[Series], now_ms: int, interval: timedelta) -> Health:
    """Health from the raw samples of `promql.health` over the last `window(interval)`.

    `interval` is the scrape interval.
    """
    every = [s for s in series if s.samples]
    targets = [s for s in every if s.labels.get("__name__") == "up"]
    hosts = [s for s in every if s.labels.get("__name__") == HOSTS]
    if not targets:
        return Health(reason=f"Prometheus scraped nothing in the last {_text(window(interval))} under these labels")
    newest_ms = max(_last(t) for t in targets)
    age = timedelta(milliseconds=now_ms - newest_ms)
    oldest_ms = now_ms - STALE_SCRAPES * interval // timedelta(milliseconds=1)
    if newest_ms < oldest_ms:
        return Health(reason=_stale(age, interval), age=age)
    if not hosts:
        return Health(reason=_no_host(len(targets), window(interval)), age=age)
    jobs = {h.labels.get("job") for h in hosts}
    ours = [t for t in targets if t.labels.get("job") in jobs and _last(t) >= oldest_ms]
    if not ours:
        newest_ms = max((_last(t) for t in targets if t.labels.get("job") in jobs), default=_last(hosts[0]))
        age = timedelta(milliseconds=now_ms - newest_ms)
        return Health(reason=_stale(age, interval), age=age)
    down = [t for t in ours if t.samples[-1][1] != 1]
    return Health(
        reason=_down(down, len(ours), now_ms) if down else "",
        age=age,
        complete_ms=min(_last(t) for t in ours),
        ambiguous=_ambiguous(hosts, oldest_ms),
        jobs=_troubled(targets, now_ms, interval),
    )


def _troubled(targets: Iterable[Series], now_ms: int, interval: timedelta) -> Mapping[str, str]:
    """Jobs that cannot be believed, with the reason."""
    by_job: dict[str, list[Series]] = defaultdict(list)
    for target in targets:
        by_job[target.labels.get("job", "")].append(target)
    reasons = {job: _trouble(some, now_ms, interval) for job, some in by_job.items()}
    return {job: reason for job, reason in reasons.items() if reason}


def _trouble(targets: Sequence[Series], now_ms: int, interval: timedelta) -> str:
    own = max(interval, *(_spacing(t) for t in targets))
    oldest_ms = now_ms - STALE_SCRAPES * own // timedelta(milliseconds=1)
    fresh = [t for t in targets if _last(t) >= oldest_ms]
    if not fresh:
        return _stale(timedelta(milliseconds=now_ms - max(_last(t) for t in targets)), own)
    down = [t for t in fresh if t.samples[-1][1] != 1]
    return _down(down, len(fresh), now_ms) if down else ""


def _spacing(series: Series) -> timedelta:
    """The mean time between its samples."""
    gaps = len(series.samples) - 1
    return timedelta(milliseconds=(_last(series) - series.samples[0][0]) // gaps) if gaps else timedelta()


def _last(series: Series) -> int:
    return series.samples[-1][0]


def _ambiguous(hosts: Iterable[Series], oldest_ms: int) -> Mapping[str, str]:
    sessions: dict[str, set[str]] = defaultdict(set)
    for host in hosts:
        if _last(host) >= oldest_ms and "SessionName" in host.labels:
            sessions[host.labels.get("model", "")].add(host.labels["SessionName"])
    return {
        model: f"ambiguous: hosts of this model run in {len(names)} Ray clusters at once ({', '.join(sorted(names))}); "
        "tell them apart by the environment's prometheus.labels"
        for model, names in sessions.items()
        if len(names) > 1
    }


def _stale(age: timedelta, interval: timedelta) -> str:
    return (
        f"stale: the newest sample is {_text(age)} old, more than {STALE_SCRAPES} scrape intervals of "
        f"{_text(interval)}: nobody scrapes, or scrape_interval in sluice.yaml is not Prometheus's"
    )


def _no_host(targets: int, looked_back: timedelta) -> str:
    return (
        f"none of the {targets} targets that Prometheus scrapes under these labels shows a host of Sluicegate "
        f"(no {HOSTS} in the last {_text(looked_back)}): does it scrape this Ray cluster?"
    )


def _down(down: Sequence[Series], of: int, now_ms: int) -> str:
    named = ", ".join(_named(t, now_ms) for t in down[:NAMED_TARGETS])
    more = f" and {len(down) - NAMED_TARGETS} more" if len(down) > NAMED_TARGETS else ""
    return f"{len(down)} of {of} scrape targets down, their counts are missing: {named}{more}"


def _named(target: Series, now_ms: int) -> str:
    name = f"{target.labels.get('job', '?')} {target.labels.get('instance', '?')}"
    answered = [at_ms for at_ms, value in target.samples if value == 1]
    if not answered:
        silent = timedelta(milliseconds=now_ms - target.samples[0][0])
        return f"{name} (no answer for {_text(silent)})"
    return f"{name} (last answered {_text(timedelta(milliseconds=now_ms - answered[-1]))} ago)"


def _text(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 above, minutes read better
