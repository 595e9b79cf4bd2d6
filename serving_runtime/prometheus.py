"""Evidence from Prometheus: the one door to it.

What is read, for all models together: the health of the scrape (one query), then for each indicator the raw samples
since the last look (one query each; the first look at a rollout also asks for each counter's last value before it).
Counting is `policies/counting.py`, the queries' text is `promql.py`, which of them a rollout needs
`evidence_pages.py`, the asking `prometheus_api.py`. Rules:

- A version is told by the labels `model` (slug), `version` and `build` together: `Application.version` and
  `.build`. The same version with other settings is another build, and its counts are its own.
- Errors: `ray_sluice_version_requests_total`, bad and rescued of all; a client's errors are no evidence. With them come
  the pairs of `ray_sluice_shadow_total`. Latency: `ray_sluice_latency_ms`, those over the threshold of all. Agreement:
  `ray_sluice_agreement_total`, of the candidate alone. Feedback: `ray_sluice_feedback_total`.
- A document's own queries: the raw samples of its counters, a query for each of the two counts; or, where they are
  expressions, both evaluated in one query, in bins of ESTIMATE_SCRAPES scrapes. Their targets must be well, too.
- A bin is finished once every target was scraped after its end. The current bin, and those that a target still
  owes, are left out.
- The samples' own times are read, never the query's: an old sample looks fresh to Prometheus for five minutes.
- Nothing is raised for a backend that is away, stale, partial or not understood: `Source(available=False)` says it
  in words. No requests is no such thing: a version without series under a healthy scrape has zero of zero.
- Finished bins are kept between looks, so that a look costs the same in the eighth hour as in the first; a window whose
  start moves on costs no more. They are a cache: a door that was just opened answers the same. What nobody has asked
  for in KEPT, and bins before the window that is asked for, are let go.

This module must not judge, and keeps nothing that Prometheus does not have. Not for use by several threads at once.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

from policies.counters import Series, Unusable, milliseconds, moment
from policies.counting import Ledger, first_edge
from policies.documents import PrometheusTarget
from policies.durations import format_duration
from policies.errors import BadInput
from policies.evidence import Evidence, Objective, Queries, Sli, Source
from policies.observations import Trip
from serving_runtime import promql
from serving_runtime.evidence_pages import (
    MODELS_PER_QUERY,
    Page,
    Question,
    believed,
    bins_between,
    empty_ledger,
    entered,
    evaluated,
    finished_until,
    marked,
    models_per_query,
    page_of,
    query_of,
    selectors,
    series_of,
    version_key,
)
from serving_runtime.guard_trips import read_trip
from serving_runtime.prometheus_api import READ_S, Away, PrometheusApi
from serving_runtime.scrape_health import Health, read_health, window

_LOG = logging.getLogger(__name__)

BINS_PER_QUERY = 2000
"""A rollout of eight hours at 15 s in one answer, some 50 kB for each series; a longer past is read in pieces."""

MOST_BINS = 200_000
"""Five weeks at 15 s: a rollout that was forgotten for longer is started anew, not judged."""

BASELINE = timedelta(days=1)
"""How far before a window a counter's last value is looked for; after a longer outage an old counter counts as new."""

KEPT = timedelta(minutes=15)
"""A ledger that nobody asks for is let go: some looks may fail, and a service's own past is asked for a few times."""

TRIP_PAST = timedelta(hours=1)
"""How far back a guard's trip is followed; it is made a rollback within a few looks."""

SHORTEST_INTERVAL = timedelta(seconds=1)
"""Ray reports no faster."""

Read: TypeAlias = dict[Page, Ledger | Unusable]
_Batch: TypeAlias = dict[Page, Ledger]


class PrometheusMetrics:
    """The port `Metrics` on a real Prometheus, or on what speaks its API."""

    def __init__(
        self, target: PrometheusTarget, headers: Mapping[str, str] | None = None, *, read_s: float = READ_S
    ) -> None:
        """`headers` go along with each query (`Authorization`); `read_s` is how long an answer may take, seconds.

        Raises BadInput for a scrape interval under a second.
        """
        if target.scrape_interval < SHORTEST_INTERVAL:
            raise BadInput(
                f"prometheus.scrape_interval {format_duration(target.scrape_interval)} is too short: "
                f"write at least {format_duration(SHORTEST_INTERVAL)}, as Prometheus scrapes Ray"
            )
        self._target = target
        self._width = target.scrape_interval
        self._width_ms = self._width // timedelta(milliseconds=1)
        self._api = PrometheusApi(target.url, headers, read_s=read_s)
        self._ledgers: dict[Page, Ledger] = {}
        self._asked: dict[Page, datetime] = {}

    def evidence(self, requests: Sequence[Question], now: datetime) -> Mapping[str, tuple[Evidence, ...]]:
        """Evidence by the request's model, one for each objective in order; a few queries for all of them.

        Never raises for a backend that is away: the evidence says so in its source. Ask for all rollouts at once: what
        is asked for one by one is read one by one.
        """
        if not requests:
            return {}
        asked: dict[Page, int] = {}
        for question in requests:
            for page in (page_of(question, objective, self._width_ms) for objective in question.objectives):
                first_ms = first_edge(question.since, timedelta(milliseconds=page.width_ms))
                asked[page] = min(first_ms, asked.get(page, first_ms))
        health = self._health(now)
        read: Read = {page: Unusable(health.reason) for page in asked}
        if not health.reason:
            read = self._read(asked, health)
        self._keep(asked, read, now)
        return {
            question.model: tuple(
                self._evidence(objective, page_of(question, objective, self._width_ms), read, question.since, health)
                for objective in question.objectives
            )
            for question in requests
        }

    def trips(self, requests: Sequence[Question], now: datetime) -> Mapping[str, Trip]:
        """Guards that have stopped the request's candidate, by model. One query for all.

        A trip counts while its host goes on showing it. Never raises: a backend that is away shows none.
        """
        series: list[Series] = []
        for start in range(0, len(requests), MODELS_PER_QUERY):
            some = requests[start : start + MODELS_PER_QUERY]
            builds = {question.candidate.build for question in some}
            selector = promql.guards({question.model for question in some}, builds, self._target.labels)
            query = promql.samples(selector, TRIP_PAST // timedelta(milliseconds=1))
            try:
                found = self._api.series(query, milliseconds(now))
            except Away as away:
                # The evidence of the same look says so to people, and the host's guard holds meanwhile.
                _LOG.warning("whether a guard has tripped cannot be seen: %s", away)
                continue
            series += found
        shown = {
            question.model: read_trip(
                series, question.model, version_key(question.candidate), milliseconds(now), self._target.scrape_interval
            )
            for question in requests
        }
        return {model: trip for model, trip in shown.items() if trip}

    # --- the answer -------------------------------------------------------------------------------------------

    def _evidence(self, objective: Objective, page: Page, read: Read, since: datetime, health: Health) -> Evidence:
        width, query = timedelta(milliseconds=page.width_ms), query_of(page, self._target.labels)
        found = believed(page, read[page], health)
        if isinstance(found, Unusable):
            source = Source(available=False, query=query, reason=found.reason, age=health.age)
            return Evidence(objective=objective, width=width, bins=(), source=source)
        bins = bins_between(found, first_edge(since, width), finished_until(page, health))
        source = Source(available=True, query=query, age=health.age)
        return Evidence(objective=objective, width=width, bins=bins, source=source)

    def _keep(self, asked: Mapping[Page, int], read: Read, now: datetime) -> None:
        """What was read for the next look, without what is no longer asked for."""
        for page, first_ms in asked.items():
            found = read[page]
            self._asked[page] = now
            if isinstance(found, Ledger) and found.upto_ms > first_ms:
                self._ledgers[page] = found.from_edge(first_ms)
        self._asked = {page: last for page, last in self._asked.items() if now - last <= KEPT}
        self._ledgers = {page: ledger for page, ledger in self._ledgers.items() if page in self._asked}

    # --- looking ----------------------------------------------------------------------------------------------

    def _health(self, now: datetime) -> Health:
        look_back_ms = window(self._width) // timedelta(milliseconds=1)
        query = promql.samples(promql.health(self._target.labels), look_back_ms)
        try:
            return read_health(self._api.series(query, milliseconds(now)), milliseconds(now), self._width)
        except Away as away:
            return Health(reason=str(away))

    def _read(self, asked: Mapping[Page, int], health: Health) -> Read:
        """Each page's ledger with all finished bins, or why it cannot be had."""
        read: Read = {}
        gone: Away | None = None
        for batch in self._batches(asked):
            try:
                if gone and gone.wholly:
                    raise gone
                read |= self._advanced(batch, finished_until(next(iter(batch)), health))
            except Away as away:
                gone = away
                read |= {page: Unusable(str(away)) for page in batch}
        return read

    def _known(self, page: Page, first_ms: int) -> Ledger | None:
        """The ledger that can be gone on with."""
        ledger = self._ledgers.get(page)
        return ledger if ledger and ledger.first_ms <= first_ms <= ledger.upto_ms else None

    def _batches(self, asked: Mapping[Page, int]) -> Iterator[_Batch]:
        """Ledgers that can be read by the same queries: of one indicator, and standing at the same edge."""
        together: dict[tuple[Sli, Queries | None, bool, int], _Batch] = defaultdict(dict)
        for page in sorted(asked, key=str):
            known = self._known(page, asked[page])
            ledger = known or empty_ledger(page, asked[page])
            together[page.indicator.sli, page.queries, known is None, ledger.upto_ms][page] = ledger
        # A document's own queries come last: one that takes too long must not keep the others from being asked.
        for (_, queries, _, _), batch in sorted(together.items(), key=lambda item: item[0][1] is not None):
            size, some = models_per_query(queries), list(batch.items())
            for start in range(0, len(some), size):
                yield dict(some[start : start + size])

    def _advanced(self, batch: _Batch, upto_ms: int) -> Read:
        """The ledgers of one batch, read on in pieces. Raises Away."""
        one, start_ms = next(iter(batch)), next(iter(batch.values())).upto_ms
        if (upto_ms - start_ms) // one.width_ms > MOST_BINS:
            long_ago = (
                f"the rollout's traffic began at {moment(start_ms):%Y-%m-%d}, too long ago to read: start it anew"
            )
            return dict.fromkeys(batch, Unusable(long_ago))
        if start_ms >= upto_ms:
            return dict(batch)
        read: Read = dict(batch)
        if not any(ledger.bins for ledger in batch.values()) and not one.indicator.estimated:
            before = self._baselines(batch, start_ms)
            read |= {page: ledger.opened(series_of(page, before)) for page, ledger in batch.items()}
        while start_ms < upto_ms:
            end_ms = min(upto_ms, start_ms + BINS_PER_QUERY * one.width_ms)
            series = self._samples(batch, start_ms, end_ms)
            read = {page: entered(ledger, series_of(page, series), end_ms) for page, ledger in read.items()}
            start_ms = end_ms
        return read

    def _baselines(self, batch: _Batch, at_ms: int) -> list[Series]:
        """The last value of each counter before that time. Raises Away."""
        return [
            marked(one, role)
            for selector, role in selectors(batch, self._target.labels)
            for one in self._api.series(promql.last_values(selector, BASELINE // timedelta(milliseconds=1)), at_ms)
        ]

    def _samples(self, batch: _Batch, start_ms: int, end_ms: int) -> list[Series]:
        """What happened between two edges. Raises Away."""
        page = next(iter(batch))
        if page.indicator.estimated:
            text = evaluated(batch, self._target.labels, window_ms=end_ms - start_ms)
            return [marked(one, None) for one in self._api.series(text, end_ms)]
        return [
            marked(one, role)
            for selector, role in selectors(batch, self._target.labels)
            for one in self._api.series(promql.samples(selector, end_ms - start_ms), end_ms)
        ]
