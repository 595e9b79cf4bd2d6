"""Evidence from Prometheus: the one door to it.

What is read, for all models together: the health of the scrape (one query), then for each indicator the raw samples
since the last look (one query each; the first look at a rollout also asks for each counter's last value before it).
Counting is `policies/counting.py`, the queries' text is `promql.py`. Rules:

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

import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol, TypeAlias

from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from requests import ConnectionError as NoConnection
from requests import RequestException, Response, Session, Timeout
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry as HttpRetry

from policies.counting import (
    Indicator,
    Ledger,
    Role,
    Series,
    Unusable,
    VersionKey,
    first_edge,
    last_edge,
    milliseconds,
    moment,
)
from policies.documents import PrometheusTarget
from policies.durations import format_duration
from policies.errors import BadInput
from policies.model import (
    Application,
    Bin,
    Evidence,
    Objective,
    Queries,
    Sli,
    Source,
)
from policies.observations import Trip
from policies.query_templates import Blank, Gap, Pair, read_pair
from serving_runtime import promql
from serving_runtime.guard_trips import read_trip
from serving_runtime.scrape_health import Health, read_health, window

_LOG = logging.getLogger(__name__)

CONNECT_S = 5.0
"""A server that is there accepts at once; two more tries follow."""

READ_S = 30.0
"""For an answer: Prometheus gives a query up before (QUERY_S), so longer means that it hangs."""

QUERY_S = 25
"""Asked of Prometheus: below READ_S, so that its own reason arrives."""

CONNECT_TRIES = 2
"""More tries after the first where a connection is refused or a gateway says 502 to 504: a restart takes a moment."""

MODELS_PER_QUERY = 50
"""Names of 50 models are at most 2.5 kB and fit into a URL (the client sends no bodies); more models, more queries."""

BINS_PER_QUERY = 2000
"""A rollout of eight hours at 15 s in one answer, some 50 kB for each series; a longer past is read in pieces."""

MOST_BINS = 200_000
"""Five weeks at 15 s: a rollout that was forgotten for longer is started anew, not judged."""

BASELINE = timedelta(days=1)
"""How far before a window a counter's last value is looked for; after a longer outage an old counter counts as new."""

KEPT = timedelta(minutes=15)
"""A ledger that nobody asks for is let go: some looks may fail, and a service's own past is asked for a few times."""

ESTIMATE_SCRAPES = 4
"""Scrapes in a bin of evaluated queries: `increase()` needs two samples, and with fewer than four says little."""

TRIP_PAST = timedelta(hours=1)
"""How far back a guard's trip is followed; it is made a rollback within a few looks."""

SHORTEST_INTERVAL = timedelta(seconds=1)
"""Ray reports no faster."""

LONGEST_ERROR = 200
"""Characters of a server's error page in a reason."""


class Question(Protocol):
    """What is asked about one rollout: `pipelines.ports.EvidenceRequest`."""

    @property
    def model(self) -> str:
        """The model's slug."""

    @property
    def candidate(self) -> Application:
        """Who is judged."""

    @property
    def stable(self) -> Application | None:
        """Who serves meanwhile."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """By what."""

    @property
    def since(self) -> datetime:
        """Bins from the first clock-aligned edge at or after this."""


class Page(NamedTuple):
    """Which ledger: one rollout, one indicator."""

    model: str
    candidate: VersionKey
    stable: VersionKey | None
    indicator: Indicator
    queries: Queries | None
    width_ms: int


Read: TypeAlias = dict[Page, Ledger | Unusable]
_Batch: TypeAlias = dict[Page, Ledger]


class Away(Exception):
    """Prometheus did not answer; the text is the reason. It never leaves this module.

    With `wholly`, asking on in the same look is of no use.
    """

    def __init__(self, reason: str, *, wholly: bool) -> None:
        super().__init__(reason)
        self.wholly = wholly


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
        self._read_s = read_s
        self._width = target.scrape_interval
        self._width_ms = self._width // timedelta(milliseconds=1)
        self._url = target.url.rstrip("/")
        self._client = _client(self._url, headers)
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
            for page in (self._page(question, objective) for objective in question.objectives):
                first_ms = first_edge(question.since, timedelta(milliseconds=page.width_ms))
                asked[page] = min(first_ms, asked.get(page, first_ms))
        health = self._health(now)
        read: Read = {page: Unusable(health.reason) for page in asked}
        if not health.reason:
            read = self._read(asked, health)
        self._keep(asked, read, now)
        return {
            question.model: tuple(
                self._evidence(objective, self._page(question, objective), read, question.since, health)
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
            try:
                found = self._ask(promql.samples(selector, TRIP_PAST // timedelta(milliseconds=1)), milliseconds(now))
            except Away as away:
                # The evidence of the same look says so to people, and the host's guard holds meanwhile.
                _LOG.warning("whether a guard has tripped cannot be seen: %s", away)
                continue
            series += found
        shown = {
            question.model: read_trip(
                series, question.model, _key(question.candidate), milliseconds(now), self._target.scrape_interval
            )
            for question in requests
        }
        return {model: trip for model, trip in shown.items() if trip}

    # --- the answer -------------------------------------------------------------------------------------------

    def _page(self, question: Question, objective: Objective) -> Page:
        indicator, width_ms = Indicator(sli=objective.sli), self._width_ms
        stable = _key(question.stable) if question.stable else None
        if objective.sli is Sli.LATENCY:
            if objective.threshold_ms is None:
                raise ValueError(f"the latency objective {objective.name} has no threshold")
            indicator = Indicator(sli=Sli.LATENCY, edge=objective.threshold_ms)
        if objective.sli is Sli.AGREEMENT:
            stable = None  # it is what the candidate is compared with
        if objective.sli is Sli.QUERIES:
            pair = _pair(objective.queries)
            indicator = Indicator(sli=Sli.QUERIES, of_buckets=pair.of_buckets, estimated=not pair.exact)
            width_ms *= 1 if pair.exact else ESTIMATE_SCRAPES
        return Page(question.model, _key(question.candidate), stable, indicator, objective.queries, width_ms)

    def _evidence(self, objective: Objective, page: Page, read: Read, since: datetime, health: Health) -> Evidence:
        width, query = timedelta(milliseconds=page.width_ms), self._query(page)
        found = _believed(page, read[page], health)
        if isinstance(found, Unusable):
            source = Source(available=False, query=query, reason=found.reason, age=health.age)
            return Evidence(objective=objective, width=width, bins=(), source=source)
        bins = _bins(found, first_edge(since, width), _upto(page, health))
        source = Source(available=True, query=query, age=health.age)
        return Evidence(objective=objective, width=width, bins=bins, source=source)

    def _query(self, page: Page) -> str:
        """What a person would paste into Prometheus to see these series."""
        if not page.queries:
            return self._selectors([page])[0][0]
        pair = _pair(page.queries)
        total, part = self._filled([page], pair)
        return f"total: {total}; {'good' if pair.part_is_good else 'bad'}: {part}"

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
            return read_health(self._ask(query, milliseconds(now)), milliseconds(now), self._width)
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
                read |= self._advanced(batch, _upto(next(iter(batch)), health))
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
            ledger = known or _empty(page, asked[page])
            together[page.indicator.sli, page.queries, known is None, ledger.upto_ms][page] = ledger
        # A document's own queries come last: one that takes too long must not keep the others from being asked.
        for (_, queries, _, _), batch in sorted(together.items(), key=lambda item: item[0][1] is not None):
            size, some = _models_per_query(queries), list(batch.items())
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
            read |= {page: ledger.opened(_of(before, page)) for page, ledger in batch.items()}
        while start_ms < upto_ms:
            end_ms = min(upto_ms, start_ms + BINS_PER_QUERY * one.width_ms)
            series = self._samples(batch, start_ms, end_ms)
            read = {page: _entered(ledger, _of(series, page), end_ms) for page, ledger in read.items()}
            start_ms = end_ms
        return read

    def _baselines(self, batch: _Batch, at_ms: int) -> list[Series]:
        """The last value of each counter before that time. Raises Away."""
        return [
            _marked(one, role)
            for selector, role in self._selectors(batch)
            for one in self._ask(promql.last_values(selector, BASELINE // timedelta(milliseconds=1)), at_ms)
        ]

    def _samples(self, batch: _Batch, start_ms: int, end_ms: int) -> list[Series]:
        """What happened between two edges. Raises Away."""
        page = next(iter(batch))
        if page.indicator.estimated:
            pair = _pair(page.queries)
            total, part = self._filled(batch, pair)
            text = promql.evaluated(total, part, pair, window_ms=end_ms - start_ms, step_ms=page.width_ms)
            return [_marked(one, None) for one in self._ask(text, end_ms)]
        return [
            _marked(one, role)
            for selector, role in self._selectors(batch)
            for one in self._ask(promql.samples(selector, end_ms - start_ms), end_ms)
        ]

    def _selectors(self, pages: Iterable[Page]) -> Sequence[tuple[str, Role | None]]:
        """What selects these pages' counters, and what a document says that each selector counts."""
        pages = list(pages)
        models = {page.model for page in pages}
        builds = {key[1] for page in pages for key in (page.candidate, page.stable) if key}
        sli, where = pages[0].indicator.sli, self._target.labels
        if sli is Sli.LATENCY:
            edges = {page.indicator.edge for page in pages if page.indicator.edge is not None}
            return ((promql.latencies(models, builds, edges, where), None),)
        if sli is Sli.QUERIES:
            pair = _pair(pages[0].queries)
            total, part = self._filled(pages, pair)
            return ((total, promql.total_role(pair)), (part, promql.part_role(pair)))
        selectors = {Sli.AGREEMENT: promql.agreement, Sli.FEEDBACK: promql.feedback}
        select = selectors.get(sli, promql.requests)
        return ((select(models, builds, where), None),)

    def _filled(self, pages: Iterable[Page], pair: Pair) -> tuple[str, str]:
        """A document's two queries for these pages: their counters, or the whole expressions."""
        pages = list(pages)
        models = {page.model for page in pages}
        versions = {key[0] for page in pages for key in (page.candidate, page.stable) if key}
        total, part = (
            promql.filled(
                template.counters if pair.exact else template.whole,
                models,
                versions,
                self._target.labels,
                pages[0].width_ms,
            )
            for template in (pair.total, pair.part)
        )
        return total, part

    def _ask(self, query: str, at_ms: int) -> list[Series]:
        """One query at a time (milliseconds since the epoch). Raises Away, and nothing of the client's own errors."""
        try:
            answer = self._client.custom_query(
                query,
                params={"time": f"{at_ms / 1000:.3f}", "timeout": f"{QUERY_S}s"},
                timeout=(CONNECT_S, self._read_s),
            )
            return [_series(item) for item in answer]
        except PrometheusApiClientException as error:
            raise _refused(self._url, error) from error
        except Timeout as error:
            raise Away(f"Prometheus at {self._url} did not answer within {self._read_s:g} s", wholly=True) from error
        except NoConnection as error:
            words = (
                f"did not answer within {self._read_s:g} s" if _hung(error) else f"cannot be reached: {_cause(error)}"
            )
            raise Away(f"Prometheus at {self._url} {words}", wholly=True) from error
        except PartialAnswer as error:
            raise Away(f"Prometheus answered in part only: {error}", wholly=False) from error
        except (RequestException, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            # A server error page, a proxy's login page, a scalar: whatever it is, it is no answer to this question.
            raise Away(
                f"what answers at {self._url} is not understood: {type(error).__name__} {_short(str(error))}",
                wholly=False,
            ) from error


class PartialAnswer(RequestException):
    """Prometheus answered with warnings: some of the data is missing, and the client would not say so."""


def _client(url: str, headers: Mapping[str, str] | None) -> PrometheusConnect:
    retry = HttpRetry(
        total=CONNECT_TRIES,
        connect=CONNECT_TRIES,
        read=0,
        backoff_factor=0.2,
        status_forcelist=[502, 503, 504],
        raise_on_status=False,
    )
    session = Session()
    session.hooks["response"].append(_refuse_partial)
    return PrometheusConnect(url=url, headers=dict(headers or {}), session=session, retry=retry)


def _refuse_partial(response: Response, *_: Any, **__: Any) -> None:
    """Raises PartialAnswer where the answer has warnings.

    The bytes looked for first are a key of the answer: in a label's value the quotes would be escaped.
    """
    if b'"warnings":' not in response.content:
        return
    answer = response.json()
    warnings = answer.get("warnings") if isinstance(answer, dict) else None
    if warnings:
        raise PartialAnswer(_short("; ".join(str(w) for w in warnings)))


def _refused(url: str, error: Exception) -> Away:
    status = re.search(r"HTTP Status Code (\d+)", str(error))
    return Away(
        f"Prometheus at {url} refused the query: {_short(str(error))}",
        wholly=status is None or status[1].startswith("5") or status[1] in ("401", "403"),
    )


def _hung(error: NoConnection) -> bool:
    """A read that timed out is no `Timeout` where retries are set: urllib3 has counted it as its last try."""
    return bool(error.args) and isinstance(getattr(error.args[0], "reason", None), ReadTimeoutError)


def _cause(error: BaseException) -> str:
    """The innermost words (Connection refused) rather than the pool's account of it."""
    words = str(error)
    return _short(words.rsplit(": ", 1)[-1].rstrip("')\""))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + "..."


def _series(item: Any) -> Series:
    """One element of an answer, vector or matrix. Raises KeyError, TypeError, ValueError for anything else."""
    points = item["values"] if "values" in item else [item["value"]]
    labels = {str(name): str(value) for name, value in item["metric"].items()}
    return Series(labels, [(round(float(at) * 1000), float(value)) for at, value in points])


def _key(application: Application) -> VersionKey:
    return str(application.version), application.build


def _pair(queries: Queries | None) -> Pair:
    """Raises ValueError (as BadInput) for what no document could have said."""
    if queries is None:
        raise ValueError("an objective that counts by queries has none")
    return read_pair(queries)


def _models_per_query(queries: Queries | None) -> int:
    """Fewer where a query names each model several times."""
    if queries is None:
        return MODELS_PER_QUERY
    pair = _pair(queries)
    texts = [template.whole for template in (pair.total, pair.part)]
    named = [sum(isinstance(part, Gap) and part.blank is Blank.MODEL for part in parts) for parts in texts]
    return max(1, MODELS_PER_QUERY // (max(named) if pair.exact else sum(named)))


def _empty(page: Page, first_ms: int) -> Ledger:
    return Ledger(
        candidate=page.candidate,
        stable=page.stable,
        indicator=page.indicator,
        width_ms=page.width_ms,
        upto_ms=first_ms,
    )


def _upto(page: Page, health: Health) -> int:
    """The end of the last bin that is finished."""
    return last_edge(moment(health.complete_ms), timedelta(milliseconds=page.width_ms))


def _bins(ledger: Ledger, first_ms: int, upto_ms: int) -> tuple[Bin, ...]:
    """Those that were asked for: the ledger may have begun earlier, and the clock of who asks may have gone back."""
    start, end = ((edge_ms - ledger.first_ms) // ledger.width_ms for edge_ms in (first_ms, upto_ms))
    return ledger.bins[max(0, start) : max(0, end)]


def _believed(page: Page, found: Ledger | Unusable, health: Health) -> Ledger | Unusable:
    """What was read, unless the scrape says that it is not all."""
    if page.model in health.ambiguous:
        return Unusable(health.ambiguous[page.model])
    if page.indicator.sli is Sli.QUERIES and isinstance(found, Ledger):
        jobs = {dict(source).get("job", "") for places in found.readings.values() for source in places}
        for job in sorted(jobs & set(health.jobs)):
            return Unusable(f"job {job}: {health.jobs[job]}")
    return found


def _marked(series: Series, role: Role | None) -> Series:
    """A series of a document's own query with its role, which an evaluated one has as a label. Raises Away."""
    told = Role(series.labels[promql.ROLE]) if promql.ROLE in series.labels else role
    if told is None:
        return series
    labels = {name: value for name, value in series.labels.items() if name != promql.ROLE}
    if not {"model", "version"} <= set(labels):
        raise Away(
            f"the query of {told} answers without the labels model and version: write sum by (model, version) (...)",
            wholly=False,
        )
    return dataclasses.replace(series, labels=labels, role=told)


def _of(series: Iterable[Series], page: Page) -> list[Series]:
    return [one for one in series if one.labels.get("model") == page.model]


def _entered(ledger: Ledger | Unusable, series: Iterable[Series], upto_ms: int) -> Ledger | Unusable:
    return ledger if isinstance(ledger, Unusable) else ledger.entered(series, upto_ms)
