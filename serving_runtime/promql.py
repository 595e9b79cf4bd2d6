"""The text of Prometheus queries: which series are asked for, and nothing that a stranger wrote is taken as syntax.

Rules:
- Every value in a matcher goes through `_string`, every value in a pattern through `_pattern` first.
- A query names models, builds and outcomes: the answer's size is bounded by what is judged, not by what is stored.

This module must not speak HTTP and holds no arithmetic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

REQUESTS = "ray_sluice_version_requests_total"
"""One for each request a version answered or should have answered, by outcome; counted by the host."""

LATENCY_BUCKETS = "ray_sluice_latency_ms_bucket"
LATENCY_COUNT = "ray_sluice_latency_ms_count"
"""Time in the version's own server."""

HOSTS = "ray_sluice_host_revision"
"""Every replica of ours shows it as long as it lives: where it is, there Sluicegate's metrics are scraped."""


def requests(models: Iterable[str], builds: Iterable[str], where: Mapping[str, str]) -> str:
    """Selector of what versions answered, good and bad; `where` are labels that all series have."""
    return _selector(
        REQUESTS, _equal(where), _one_of("model", models), _one_of("build", builds), _one_of("outcome", ("good", "bad"))
    )


def latencies(models: Iterable[str], builds: Iterable[str], edges: Iterable[float], where: Mapping[str, str]) -> str:
    """Selector of latency counts, and of the buckets that end at `edges` (milliseconds), however these are written."""
    written = [text for edge in edges for text in bucket_labels(edge)]
    return _selector(
        None,
        _one_of("__name__", (LATENCY_BUCKETS, LATENCY_COUNT)),
        _equal(where),
        _one_of("model", models),
        _one_of("build", builds),
        _one_of("le", ("", *written)),  # the count has no `le`
    )


def health(where: Mapping[str, str]) -> str:
    """Selector of what says whether the scrape is healthy: each target's `up`, and the hosts' own sign of life."""
    return _selector(None, _one_of("__name__", ("up", HOSTS)), _equal(where))


def samples(selector: str, window_ms: int) -> str:
    """Raw samples of the last `window_ms` before the query's time, with the times at which they were scraped.

    Not a range query: it repeats an old sample for five minutes under new times, and drops one of two in a step.
    """
    return f"{selector}[{window_ms}ms]"


def last_values(selector: str, window_ms: int) -> str:
    """The last sample of each series in the last `window_ms` before the query's time."""
    return f"last_over_time({selector}[{window_ms}ms])"


def bucket_labels(edge: float) -> tuple[str, ...]:
    """How exporters write a bucket's upper edge: Ray `200.0`, Go clients `200` and `1e+06`."""
    plain = (str(int(edge)),) if edge.is_integer() else ()
    return tuple(dict.fromkeys((*plain, repr(edge), f"{edge:g}")))


def _selector(name: str | None, *matchers: Iterable[str]) -> str:
    return (name or "") + "{" + ",".join(one for some in matchers for one in some) + "}"


def _equal(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={_string(value)}" for name, value in sorted(labels.items())]


def _one_of(name: str, values: Iterable[str]) -> list[str]:
    return [f"{name}=~{_string('|'.join(_pattern(v) for v in sorted(set(values))))}"]


def _pattern(text: str) -> str:
    """A regular expression that matches `text` and nothing else; Prometheus anchors it at both ends."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def _string(text: str) -> str:
    """A PromQL string literal; JSON's escapes are Go's."""
    return json.dumps(text, ensure_ascii=False)
