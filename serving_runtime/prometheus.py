"""Evidence from Prometheus: the one door to it.

What is read, for all models together: the health of the scrape (one query), then for each indicator the raw samples
since the last look (one query each; the first look at a rollout also asks for each counter's last value before it).
Counting is `policies/counting.py`, the queries' text is `promql.py`. Rules:

- A version is told by the labels `model` (slug), `version` and `build` together: `Application.version` and
  `.build`. The same version with other settings is another build, and its counts are its own.
- Errors: `ray_sluice_version_requests_total`, bad of good + bad; a client's errors are no evidence. Latency:
  `ray_sluice_latency_ms`, those over the threshold of all.
- A bin is finished once every target was scraped after its end. The current bin, and those that a target still
  owes, are left out.
- The samples' own times are read, never the query's: an old sample looks fresh to Prometheus for five minutes.
- Nothing is raised for a backend that is away, stale, partial or not understood: `Source(available=False)` says it
  in words. No requests is no such thing: a version without series under a healthy scrape has zero of zero.
- Finished bins are kept between looks, so that a look costs the same in the eighth hour as in the first. They are a
  cache: a door that was just opened answers the same.

This module must not judge, and keeps nothing that Prometheus does not have. Not for use by several threads at once.
"""

from __future__ import annotations

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

from policies.counting import Ledger, Series, Unusable, VersionKey, first_edge, last_edge, milliseconds, moment
from policies.documents import PrometheusTarget, format_duration
from policies.errors import BadInput
from policies.model import Application, Evidence, Objective, Sli, Source, Trip
from serving_runtime import promql
from serving_runtime.scrape_health import Health, read_health, window

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
    edge: float | None
    """The threshold of a latency objective; None for errors."""
    first_ms: int


Read: TypeAlias = dict[Page, Ledger | Unusable]


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

    def evidence(self, requests: Sequence[Question], now: datetime) -> Mapping[str, tuple[Evidence, ...]]:
        """Evidence by the request's model, one for each objective in order; a few queries for all of them.

        Never raises for a backend that is away: the evidence says so in its source. Ask for all rollouts at once: what
        is not asked for in a look is forgotten, and read from its start when it is asked for again.
        """
        if not requests:
            return {}
        pages = {self._page(question, objective) for question in requests for objective in question.objectives}
        health = self._health(now)
        upto_ms = last_edge(moment(health.complete_ms), self._width)
        read = self._read(pages, upto_ms) if not health.reason else dict.fromkeys(pages, Unusable(health.reason))
        read |= {page: Unusable(health.ambiguous[page.model]) for page in pages if page.model in health.ambiguous}
        known = {page: self._ledgers[page] for page in pages if page in self._ledgers}
        begun = {
            page: found for page, found in read.items() if isinstance(found, Ledger) and found.upto_ms > page.first_ms
        }
        self._ledgers = known | begun
        return {
            question.model: tuple(
                self._evidence(objective, read[page], self._query(page), health, upto_ms)
                for objective, page in ((o, self._page(question, o)) for o in question.objectives)
            )
            for question in requests
        }

    # --- the answer -------------------------------------------------------------------------------------------

    def _page(self, question: Question, objective: Objective) -> Page:
        if objective.sli is Sli.LATENCY and objective.threshold_ms is None:
            raise ValueError(f"the latency objective {objective.name} has no threshold")
        edge = objective.threshold_ms if objective.sli is Sli.LATENCY else None
        stable = _key(question.stable) if question.stable else None
        return Page(question.model, _key(question.candidate), stable, edge, first_edge(question.since, self._width))

    def trips(self, requests: Sequence[Question], now: datetime) -> Mapping[str, Trip]:
        """Guards that have stopped the request's candidate, by model."""
        del requests, now
        return {}

    def _query(self, page: Page) -> str:
        """What a person would paste into Prometheus to see these series."""
        return self._selector([page])

    def _evidence(
        self, objective: Objective, found: Ledger | Unusable, query: str, health: Health, upto_ms: int
    ) -> Evidence:
        if isinstance(found, Unusable):
            source = Source(available=False, query=query, reason=found.reason, age=health.age)
            return Evidence(objective=objective, width=self._width, bins=(), source=source)
        late = max(0, (found.upto_ms - upto_ms) // self._width_ms)  # the clock of who asks went back
        bins = found.bins[: len(found.bins) - late] if late else found.bins
        source = Source(available=True, query=query, age=health.age)
        return Evidence(objective=objective, width=self._width, bins=bins, source=source)

    # --- looking ----------------------------------------------------------------------------------------------

    def _health(self, now: datetime) -> Health:
        look_back_ms = window(self._width) // timedelta(milliseconds=1)
        query = promql.samples(promql.health(self._target.labels), look_back_ms)
        try:
            return read_health(self._ask(query, milliseconds(now)), milliseconds(now), self._width)
        except Away as away:
            return Health(reason=str(away))

    def _read(self, pages: Iterable[Page], upto_ms: int) -> Read:
        """Each page's ledger with the bins up to `upto_ms`, or why it cannot be had."""
        read: Read = {}
        gone: Away | None = None
        for batch in self._batches(pages):
            try:
                if gone and gone.wholly:
                    raise gone
                read |= self._advanced(batch, upto_ms)
            except Away as away:
                gone = away
                read |= {page: Unusable(str(away)) for page in batch}
        return read

    def _batches(self, pages: Iterable[Page]) -> Iterator[Mapping[Page, Ledger]]:
        """Ledgers that can be read by the same queries: of one indicator, and standing at the same edge."""
        together: dict[tuple[bool, bool, int], list[tuple[Page, Ledger]]] = defaultdict(list)
        for page in sorted(pages, key=str):
            known = self._ledgers.get(page)
            ledger = known or _empty(page, self._width_ms)
            together[page.edge is None, known is None, ledger.upto_ms].append((page, ledger))
        for some in together.values():
            for start in range(0, len(some), MODELS_PER_QUERY):
                yield dict(some[start : start + MODELS_PER_QUERY])

    def _advanced(self, batch: Mapping[Page, Ledger], upto_ms: int) -> Read:
        """The ledgers of one batch, read on in pieces. Raises Away."""
        start_ms = next(iter(batch.values())).upto_ms
        if (upto_ms - start_ms) // self._width_ms > MOST_BINS:
            long_ago = (
                f"the rollout's traffic began at {moment(start_ms):%Y-%m-%d}, too long ago to read: start it anew"
            )
            return dict.fromkeys(batch, Unusable(long_ago))
        if start_ms >= upto_ms:
            return dict(batch)
        selector = self._selector(batch)
        read: Read = dict(batch)
        if not any(page in self._ledgers for page in batch):
            before = self._ask(promql.last_values(selector, BASELINE // timedelta(milliseconds=1)), start_ms)
            read |= {page: ledger.opened(_of(before, page)) for page, ledger in batch.items()}
        while start_ms < upto_ms:
            end_ms = min(upto_ms, start_ms + BINS_PER_QUERY * self._width_ms)
            series = self._ask(promql.samples(selector, end_ms - start_ms), end_ms)
            read = {page: _entered(ledger, _of(series, page), end_ms) for page, ledger in read.items()}
            start_ms = end_ms
        return read

    def _selector(self, pages: Iterable[Page]) -> str:
        pages = list(pages)
        models = {page.model for page in pages}
        builds = {key[1] for page in pages for key in (page.candidate, page.stable) if key}
        edges = {page.edge for page in pages if page.edge is not None}
        if edges:
            return promql.latencies(models, builds, edges, self._target.labels)
        return promql.requests(models, builds, self._target.labels)

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


def _empty(page: Page, width_ms: int) -> Ledger:
    return Ledger(
        candidate=page.candidate, stable=page.stable, edge=page.edge, width_ms=width_ms, upto_ms=page.first_ms
    )


def _of(series: Iterable[Series], page: Page) -> list[Series]:
    return [one for one in series if one.labels.get("model") == page.model]


def _entered(ledger: Ledger | Unusable, series: Iterable[Series], upto_ms: int) -> Ledger | Unusable:
    return ledger if isinstance(ledger, Unusable) else ledger.entered(series, upto_ms)
