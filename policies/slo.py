"""SLOs: OpenSLO v1 documents, read as what the judge needs.

Rules:
- Written as OpenSLO v1 says, so that one file serves other tools too. Of OpenSLO, one indicator with one objective over
  a rolling window is read; a key that OpenSLO has and Sluicegate does not read is refused with what to write instead.
- Every indicator is a pair of counts, good (or bad) and total. They come from Sluicegate's own metrics
  (`metricSource.type: sluicegate`: `errors`, `agreement` and `feedback` as a ratio, `latency` as a threshold), or from
  PromQL of the document's own (`Prometheus`: a ratio of two queries, or a threshold on a histogram's buckets).
- A threshold is an edge of the histogram's buckets: between two edges nothing is known. A value over time, such as a
  quantile, counts no events and is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.durations import Duration, format_duration
from policies.errors import BadInput
from policies.evidence import Objective, Queries, Sli
from policies.query_templates import bucket_pair, read_pair, read_template
from policies.release import Phase, Rollout
from policies.wrong_fields import WrongFields

OPENSLO_VERSION = "openslo/v1"

LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000, 10000, 30000, 60000)
"""Upper edges of `sluice_latency_ms`, in milliseconds."""

LEAST_SERVICE_LEVEL = 0.5
"""Nobody would call less a service level. What users report may be rare: of a hundred who see an offer five buy."""

_SHORTEST_WINDOW = timedelta(days=1)
_LONGEST_WINDOW = timedelta(days=366)
"""A day has every hour of traffic in it once; nobody plans a budget for longer than a year."""

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_NAME = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"

INSTEAD: Mapping[str, str] = {
    "indicatorRef": "write the indicator here, as spec.indicator",
    "alertPolicies": "leave it out; a rollout is judged by the objective",
    "timeSliceTarget": "leave it out; budgetingMethod is Occurrences",
    "timeSliceWindow": "leave it out; budgetingMethod is Occurrences",
    "calendar": "write duration and isRolling: true",
    "raw": "write good or bad, and total",
    "rawType": "write good or bad, and total",
    "metricSourceRef": "write type: sluicegate and spec: {sli: errors}, or type: Prometheus and spec: {query: ...}",
    "targetPercent": "write target, a share such as 0.99",
    "compositeWeight": "leave it out; write one SLO for each indicator",
}
"""Keys of OpenSLO v1 that are refused by name, with what to write instead."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Metadata:
    """Who the document is."""

    name: Annotated[str, Field(pattern=_NAME, max_length=63)]
    """What models name under `slos`."""
    display_name: Annotated[str | None, Field(alias="displayName")] = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)


@document(frozen=True, kw_only=True, config=_STRICT)
class CountSpec:
    """What is counted: `sli` with sluicegate, `query` with Prometheus."""

    sli: Literal["errors", "agreement", "feedback"] | None = None
    """Answers with and without error, as the host counted them; predictions in shadow that are stable's; or what users
    reported about answers."""
    query: Annotated[str | None, Field(max_length=2000)] = None
    """PromQL that counts events, with `{{model}}` and `{{version}}` as patterns, and `[{{window}}]`."""


@document(frozen=True, kw_only=True, config=_STRICT)
class ObservationSpec:
    """What is observed: `sli` with sluicegate, `query` with Prometheus."""

    sli: Literal["latency"] | None = None
    """Time in the version's own server."""
    query: Annotated[str | None, Field(max_length=2000)] = None
    """PromQL that selects the buckets of a classic histogram, with `{{model}}` and `{{version}}` as patterns."""


SourceType: TypeAlias = Literal["sluicegate", "Prometheus", "prometheus"]


@document(frozen=True, kw_only=True, config=_STRICT)
class CountSource:
    """Where a count comes from."""

    type: SourceType
    """Sluicegate's own metrics, or any query of the environment's Prometheus."""
    spec: CountSpec

    def __post_init__(self) -> None:
        """Raises ValueError where type and spec do not belong together."""
        _check_source(self.type, self.spec, "sli: errors, sli: agreement or sli: feedback")


@document(frozen=True, kw_only=True, config=_STRICT)
class ObservationSource:
    """Where observations come from."""

    type: SourceType
    """Sluicegate's own metrics, or a histogram in the environment's Prometheus."""
    spec: ObservationSpec

    def __post_init__(self) -> None:
        """Raises ValueError where type and spec do not belong together."""
        _check_source(self.type, self.spec, "sli: latency")


def _check_source(kind: str, spec: CountSpec | ObservationSpec, own: str) -> None:
    if kind == "sluicegate" and (spec.sli is None or spec.query is not None):
        raise ValueError(f"type: sluicegate has spec: {{{own}}}; for a query write type: Prometheus")
    if kind != "sluicegate" and (spec.query is None or spec.sli is not None):
        raise ValueError(f"type: {kind} has spec: {{query: ...}}; for {own} write type: sluicegate")


@document(frozen=True, kw_only=True, config=_STRICT)
class CountMetric:
    """One of the two counts of a ratio."""

    metric_source: Annotated[CountSource, Field(alias="metricSource")]


@document(frozen=True, kw_only=True, config=_STRICT)
class RatioMetric:
    """Good (or bad) events of all events."""

    counter: Literal[True] = True
    """The counts are counters."""
    good: CountMetric | None = None
    """Good events; either this or bad."""
    bad: CountMetric | None = None
    """Bad events; either this or good."""
    total: CountMetric
    """All events. With Prometheus: counted by the same process at the same moment as the good or bad ones."""

    def __post_init__(self) -> None:
        """Raises ValueError where the ratio is not one of two counts of the same kind."""
        if (self.good is None) == (self.bad is None):
            raise ValueError("a ratioMetric has total and one of good or bad")
        part, total = self.part.metric_source, self.total.metric_source
        if part.spec.sli != total.spec.sli:
            raise ValueError(
                f"a ratioMetric has one source: total is {total.spec.sli or 'a query'}, "
                f"{'good' if self.good else 'bad'} is {part.spec.sli or 'a query'}"
            )

    @property
    def part(self) -> CountMetric:
        """The count that is not total."""
        part = self.good or self.bad
        assert part is not None  # noqa: S101 one of the two is there
        return part


@document(frozen=True, kw_only=True, config=_STRICT)
class ThresholdMetric:
    """Observations up to a value, which the objective names."""

    metric_source: Annotated[ObservationSource, Field(alias="metricSource")]


@document(frozen=True, kw_only=True, config=_STRICT)
class IndicatorSpec:
    """What is counted: one of the two."""

    ratio_metric: Annotated[RatioMetric | None, Field(alias="ratioMetric")] = None
    """For errors, agreement, and any two counts."""
    threshold_metric: Annotated[ThresholdMetric | None, Field(alias="thresholdMetric")] = None
    """For latency, and any histogram."""

    def __post_init__(self) -> None:
        """Raises ValueError unless exactly one is given."""
        if (self.ratio_metric is None) == (self.threshold_metric is None):
            raise ValueError("an indicator is one of ratioMetric (errors) or thresholdMetric (latency)")


@document(frozen=True, kw_only=True, config=_STRICT)
class Indicator:
    """The SLI, written inside its SLO."""

    metadata: Metadata | None = None
    spec: IndicatorSpec


@document(frozen=True, kw_only=True, config=_STRICT)
class TimeWindow:
    """The window of the error budget."""

    duration: Duration
    """Such as 30d."""
    is_rolling: Annotated[Literal[True], Field(alias="isRolling")]
    """Always true: the window ends now."""

    def __post_init__(self) -> None:
        """Raises ValueError where there would be no budget."""
        if not _SHORTEST_WINDOW <= self.duration <= _LONGEST_WINDOW:
            right = "an error budget's window is 1d at least and 366d at most, such as 30d"
            raise WrongFields(f"{right}, not {format_duration(self.duration)}", "duration")


@document(frozen=True, kw_only=True, config=_STRICT)
class ObjectiveSpec:
    """How many events must be good."""

    display_name: Annotated[str | None, Field(alias="displayName")] = None
    # A thousandth: below it a version would need a million answers for the events that any test needs.
    target: Annotated[float, Field(ge=0.001, lt=1)]
    """Share of good events, at least: 0.99. Below 0.5 with `sli: feedback` only."""
    op: Literal["lte", "gt"] | None = None
    """With a thresholdMetric: good is what is at most the value, or what is above it (of a histogram's own only)."""
    value: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """With a thresholdMetric: an edge of the histogram's buckets. For latency milliseconds: 1, 2, 5, 10, 20, 50, 100,
    200, 300, 400, 500, 1000, 2000, 5000, 10000, 30000 or 60000."""


@document(frozen=True, kw_only=True, config=_STRICT)
class SloSpec:
    """The SLO itself."""

    description: Annotated[str | None, Field(max_length=1050)] = None
    service: str = "models"
    """OpenSLO's name for what is measured; for people."""
    indicator: Indicator
    time_window: Annotated[tuple[TimeWindow, ...], Field(alias="timeWindow", min_length=1, max_length=1)]
    """Exactly one, rolling."""
    budgeting_method: Annotated[Literal["Occurrences"], Field(alias="budgetingMethod")]
    """Each answer counts once."""
    objectives: Annotated[tuple[ObjectiveSpec, ...], Field(min_length=1, max_length=1)]
    """Exactly one."""


@document(frozen=True, kw_only=True, config=_STRICT)
class SloDocument:
    """`kind: SLO`, OpenSLO v1: what a version's answers are held to."""

    metadata: Metadata
    spec: SloSpec


@dataclasses.dataclass(frozen=True)
class SloProblem:
    """Why a well-formed SLO cannot be judged: the place in the document, and what would be right."""

    path: tuple[str | int, ...]
    message: str


Place: TypeAlias = tuple[str | int, ...]

_OBJECTIVE: Place = ("spec", "objectives", 0)
_INDICATOR: Place = ("spec", "indicator", "spec")
_QUERY: Place = ("metricSource", "spec", "query")


def objective(document: SloDocument) -> Objective | SloProblem:
    """The SLO as the judge needs it, or what about it is wrong."""
    spec = document.spec.objectives[0]
    if spec.target < LEAST_SERVICE_LEVEL and _sli(document) is not Sli.FEEDBACK:
        message = f"{spec.target:g} is no service level: at least {LEAST_SERVICE_LEVEL:g} of the events should be good"
        return SloProblem((*_OBJECTIVE, "target"), message)
    ratio, threshold = document.spec.indicator.spec.ratio_metric, document.spec.indicator.spec.threshold_metric
    plain = Objective(
        name=document.metadata.name,
        sli=Sli.ERRORS,
        target=spec.target,
        window=document.spec.time_window[0].duration,
    )
    if ratio is not None:
        if spec.op is not None or spec.value is not None:
            return SloProblem(_OBJECTIVE, "op and value belong to a thresholdMetric: leave them out, or count latency")
        return _of_ratio(plain, ratio)
    assert threshold is not None  # noqa: S101 one of the two is there
    if spec.op is None or spec.value is None:
        return SloProblem(_OBJECTIVE, "a thresholdMetric needs op: lte and value: <milliseconds>")
    query = threshold.metric_source.spec.query
    if query is not None:
        return _of_buckets(plain, query, spec.value, within_is_good=spec.op == "lte")
    return _of_latency(plain, spec)


def _sli(document: SloDocument) -> Sli | None:
    """What a ratio counts; none for queries of its own and for thresholds."""
    ratio = document.spec.indicator.spec.ratio_metric
    return Sli(ratio.total.metric_source.spec.sli) if ratio and ratio.total.metric_source.spec.sli else None


def asked_of(rollout: Rollout, objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Those of a model's objectives that a rollout can have evidence for, in order.

    Predictions are compared in shadow only: a rollout that has no SHADOW phase (the policy's choice, or a first
    version, an undo, an emergency) is not held to agreement, instead of waiting for what cannot come.
    """
    shadowed = any(record.phase is Phase.SHADOW for record in rollout.records)
    return tuple(one for one in objectives if shadowed or one.sli is not Sli.AGREEMENT)


def _of_ratio(plain: Objective, ratio: RatioMetric) -> Objective | SloProblem:
    total, part = ratio.total.metric_source.spec, ratio.part.metric_source.spec
    if total.sli is not None:
        return dataclasses.replace(plain, sli=Sli(total.sli))
    which = "good" if ratio.good else "bad"
    queries = Queries(total=total.query or "", **{which: part.query or ""})
    for name, query in (("total", queries.total), (which, queries.good or queries.bad)):
        place = (*_INDICATOR, "ratioMetric", name, *_QUERY)
        try:
            read_template(query)
            if name == which:
                read_pair(queries)
        except BadInput as problem:
            return SloProblem(place, str(problem))
    return dataclasses.replace(plain, sli=Sli.QUERIES, queries=queries)


def _of_buckets(plain: Objective, query: str, edge: float, *, within_is_good: bool) -> Objective | SloProblem:
    try:
        queries = bucket_pair(query, edge, within_is_good=within_is_good)
        read_pair(queries)
    except BadInput as problem:
        return SloProblem((*_INDICATOR, "thresholdMetric", *_QUERY), str(problem))
    return dataclasses.replace(plain, sli=Sli.QUERIES, queries=queries)


def _of_latency(plain: Objective, spec: ObjectiveSpec) -> Objective | SloProblem:
    if spec.op != "lte":
        return SloProblem((*_OBJECTIVE, "op"), "an answer in time takes at most so long: write op: lte")
    if spec.value not in LATENCY_BUCKETS_MS:
        edges = ", ".join(str(edge) for edge in LATENCY_BUCKETS_MS)
        message = f"{spec.value:g} ms is no edge of the latency buckets; the edges are {edges}"
        return SloProblem((*_OBJECTIVE, "value"), message)
    return dataclasses.replace(plain, sli=Sli.LATENCY, threshold_ms=spec.value)
