"""The text of Prometheus queries: which series are asked for, and nothing that a stranger wrote is taken as syntax.

Rules:
- Every value in a matcher goes through `_string`, every value in a pattern through `_pattern` first; what goes into a
  text of a document's own query is escaped for the quotes that stand around it there.
- A query names models, builds and outcomes: the answer's size is bounded by what is judged, not by what is stored.

This module must not speak HTTP and holds no arithmetic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping

from policies.counters import Role
from policies.query_templates import Blank, Gap, Pair, Parts, bucket_labels

REQUESTS = "ray_sluice_version_requests_total"
"""One for each request a version answered or should have answered, by outcome; counted by the host."""

SHADOW = "ray_sluice_shadow_total"
"""One for each copy in shadow, by both outcomes, the candidate's first."""

AGREEMENT = "ray_sluice_agreement_total"
"""One for each copy in shadow that both versions answered, by whether they predict the same."""

FEEDBACK = "ray_sluice_feedback_total"
"""One for each report of a user about an answer, by the version that its request was drawn for."""

GUARD_REQUESTS = "ray_sluice_guard_requests"
GUARD_BAD = "ray_sluice_guard_bad"
"""What a host's guard had counted when it stopped the candidate; shown for as long as it does."""

PAIRS = ("good_good", "good_bad", "bad_good", "bad_bad")

ROLE = "sluice_role"
"""A label that evaluated queries are given, so that one answer holds both."""

LATENCY_BUCKETS = "ray_sluice_latency_ms_bucket"
LATENCY_COUNT = "ray_sluice_latency_ms_count"
"""Time in the version's own server."""

HOSTS = "ray_sluice_host_revision"
"""Every replica of ours shows it as long as it lives: where it is, there Sluicegate's metrics are scraped."""


def requests(models: Iterable[str], builds: Iterable[str], where: Mapping[str, str]) -> str:
    """Selector of what versions answered, and of the pairs in shadow; `where` are labels that all series have."""
    return _selector(
        None,
        _one_of("__name__", (REQUESTS, SHADOW)),
        _equal(where),
        _one_of("model", models),
        _one_of("build", builds),
        _one_of("outcome", ("good", "bad", "rescued", *PAIRS)),
    )


def agreement(models: Iterable[str], builds: Iterable[str], where: Mapping[str, str]) -> str:
    """Selector of the predictions of candidates in shadow that were compared with stable's."""
    return _good_and_bad(AGREEMENT, models, builds, where)


def feedback(models: Iterable[str], builds: Iterable[str], where: Mapping[str, str]) -> str:
    """Selector of what users reported about versions."""
    return _good_and_bad(FEEDBACK, models, builds, where)


def _good_and_bad(metric: str, models: Iterable[str], builds: Iterable[str], where: Mapping[str, str]) -> str:
    return _selector(
        metric,
        _equal(where),
        _one_of("model", models),
        _one_of("build", builds),
        _one_of("outcome", ("good", "bad")),
    )


def guards(models: Iterable[str], builds: Iterable[str], where: Mapping[str, str]) -> str:
    """Selector of what guards show that have stopped a candidate."""
    return _selector(
        None,
        _one_of("__name__", (GUARD_REQUESTS, GUARD_BAD)),
        _equal(where),
        _one_of("model", models),
        _one_of("build", builds),
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


# --- a document's own queries ---------------------------------------------------------------------------------


def filled(
    parts: Parts, models: Collection[str], versions: Collection[str], where: Mapping[str, str], window_ms: int = 0
) -> str:
    """A document's query for these models and versions, among the series that have the labels `where`."""
    texts = {
        Blank.MODEL: _any_of(models),
        Blank.VERSION: _any_of(versions),
        Blank.WINDOW: f"{window_ms}ms",
        Blank.LABELS: "".join(f",{one}" for one in _equal(where)),
    }
    return "".join(_filled(part, texts[part.blank]) if isinstance(part, Gap) else part for part in parts)


def _filled(gap: Gap, text: str) -> str:
    return _QUOTED[gap.quote](text) if gap.quote else text


def _any_of(values: Iterable[str]) -> str:
    return f"(?:{'|'.join(_pattern(v) for v in sorted(set(values)))})"


def _in_single_quotes(text: str) -> str:
    return _string(text)[1:-1].replace('\\"', '"').replace("'", "\\'")


_QUOTED: Mapping[str, Callable[[str], str]] = {
    '"': lambda text: _string(text)[1:-1],
    "'": _in_single_quotes,
    "`": lambda text: text.replace("`", r"\x60"),  # nothing is escaped there, but in the pattern it is
}


def part_role(pair: Pair) -> Role:
    """What the query beside total counts."""
    return Role.GOOD if pair.part_is_good else Role.BAD


def total_role(pair: Pair) -> Role:
    """What the query of total counts."""
    return Role.UNPROVED if pair.part_is_good else Role.TOTAL


def evaluated(total: str, part: str, pair: Pair, *, window_ms: int, step_ms: int) -> str:
    """Both expressions at each multiple of `step_ms` in the last `window_ms`, told apart by the label ROLE."""
    marked = (
        f'label_replace({text},"{ROLE}","{role}","","")'
        for text, role in ((total, total_role(pair)), (part, part_role(pair)))
    )
    return f"({' or '.join(marked)})[{window_ms}ms:{step_ms}ms]"


# --- the small parts ------------------------------------------------------------------------------------------


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
