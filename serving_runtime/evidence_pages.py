"""One page of evidence: one rollout by one indicator, the queries that it needs, and the ledger that they fill.

`where` are the labels that tell the environment's Ray from others in the same Prometheus. This module must not ask
Prometheus, and does not count: that is `policies/counting.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from policies.application import Application
from policies.counters import Role, Series, Unusable, VersionKey, moment
from policies.counting import Indicator, Ledger, last_edge
from policies.evidence import Bin, Objective, Queries, Sli
from policies.query_templates import Blank, Gap, Pair, read_pair
from serving_runtime import promql
from serving_runtime.prometheus_api import Away
from serving_runtime.scrape_health import Health

MODELS_PER_QUERY = 50
"""Names of 50 models are at most 2.5 kB and fit into a URL (the client sends no bodies); more models, more queries."""

ESTIMATE_SCRAPES = 4
"""Scrapes in a bin of evaluated queries: `increase()` needs two samples, and with fewer than four says little."""


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


def page_of(question: Question, objective: Objective, width_ms: int) -> Page:
    """The page of one rollout's objective, where Prometheus scrapes every `width_ms` milliseconds."""
    indicator = Indicator(sli=objective.sli)
    stable = version_key(question.stable) if question.stable else None
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
    return Page(question.model, version_key(question.candidate), stable, indicator, objective.queries, width_ms)


def version_key(application: Application) -> VersionKey:
    """A version as its metrics label it."""
    return str(application.version), application.build


# --- its queries ----------------------------------------------------------------------------------------------


def query_of(page: Page, where: Mapping[str, str]) -> str:
    """What a person would paste into Prometheus to see these series."""
    if not page.queries:
        return selectors([page], where)[0][0]
    pair = _pair(page.queries)
    total, part = _filled([page], pair, where)
    return f"total: {total}; {'good' if pair.part_is_good else 'bad'}: {part}"


def selectors(pages: Iterable[Page], where: Mapping[str, str]) -> Sequence[tuple[str, Role | None]]:
    """What selects these pages' counters, and what a document says that each selector counts."""
    pages = list(pages)
    models = {page.model for page in pages}
    builds = {key[1] for page in pages for key in (page.candidate, page.stable) if key}
    sli = pages[0].indicator.sli
    if sli is Sli.LATENCY:
        edges = {page.indicator.edge for page in pages if page.indicator.edge is not None}
        return ((promql.latencies(models, builds, edges, where), None),)
    if sli is Sli.QUERIES:
        pair = _pair(pages[0].queries)
        total, part = _filled(pages, pair, where)
        return ((total, promql.total_role(pair)), (part, promql.part_role(pair)))
    own = {Sli.AGREEMENT: promql.agreement, Sli.FEEDBACK: promql.feedback}
    select = own.get(sli, promql.requests)
    return ((select(models, builds, where), None),)


def models_per_query(queries: Queries | None) -> int:
    """Fewer where a query names each model several times."""
    if queries is None:
        return MODELS_PER_QUERY
    pair = _pair(queries)
    texts = [template.whole for template in (pair.total, pair.part)]
    named = [sum(isinstance(part, Gap) and part.blank is Blank.MODEL for part in parts) for parts in texts]
    return max(1, MODELS_PER_QUERY // (max(named) if pair.exact else sum(named)))


def evaluated(pages: Iterable[Page], where: Mapping[str, str], window_ms: int) -> str:
    """The one query that has Prometheus evaluate a document's two expressions, bin by bin."""
    pages = list(pages)
    pair = _pair(pages[0].queries)
    total, part = _filled(pages, pair, where)
    return promql.evaluated(total, part, pair, window_ms=window_ms, step_ms=pages[0].width_ms)


def _filled(pages: Iterable[Page], pair: Pair, where: Mapping[str, str]) -> tuple[str, str]:
    """A document's two queries for these pages: their counters, or the whole expressions."""
    pages = list(pages)
    models = {page.model for page in pages}
    versions = {key[0] for page in pages for key in (page.candidate, page.stable) if key}
    total, part = (
        promql.filled(template.counters if pair.exact else template.whole, models, versions, where, pages[0].width_ms)
        for template in (pair.total, pair.part)
    )
    return total, part


def _pair(queries: Queries | None) -> Pair:
    """Raises ValueError (as BadInput) for what no document could have said."""
    if queries is None:
        raise ValueError("an objective that counts by queries has none")
    return read_pair(queries)


# --- its ledger -----------------------------------------------------------------------------------------------


def empty_ledger(page: Page, first_ms: int) -> Ledger:
    """Nothing counted yet; bins begin at `first_ms`."""
    return Ledger(
        candidate=page.candidate,
        stable=page.stable,
        indicator=page.indicator,
        width_ms=page.width_ms,
        upto_ms=first_ms,
    )


def finished_until(page: Page, health: Health) -> int:
    """The end of the last bin that is finished."""
    return last_edge(moment(health.complete_ms), timedelta(milliseconds=page.width_ms))


def bins_between(ledger: Ledger, first_ms: int, upto_ms: int) -> tuple[Bin, ...]:
    """Those that were asked for: the ledger may have begun earlier, and the clock of who asks may have gone back."""
    start, end = ((edge_ms - ledger.first_ms) // ledger.width_ms for edge_ms in (first_ms, upto_ms))
    return ledger.bins[max(0, start) : max(0, end)]


def believed(page: Page, found: Ledger | Unusable, health: Health) -> Ledger | Unusable:
    """What was read, unless the scrape says that it is not all."""
    if page.model in health.ambiguous:
        return Unusable(health.ambiguous[page.model])
    if page.indicator.sli is Sli.QUERIES and isinstance(found, Ledger):
        jobs = {dict(source).get("job", "") for places in found.readings.values() for source in places}
        for job in sorted(jobs & set(health.jobs)):
            return Unusable(f"job {job}: {health.jobs[job]}")
    return found


def marked(series: Series, role: Role | None) -> Series:
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


def series_of(page: Page, series: Iterable[Series]) -> list[Series]:
    """Of a batch's answer what belongs to this page's model."""
    return [one for one in series if one.labels.get("model") == page.model]


def entered(ledger: Ledger | Unusable, series: Iterable[Series], upto_ms: int) -> Ledger | Unusable:
    """The ledger with these samples; what is unusable stays so."""
    return ledger if isinstance(ledger, Unusable) else ledger.entered(series, upto_ms)
