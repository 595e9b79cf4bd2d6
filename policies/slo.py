"""SLOs: OpenSLO v1 documents, read as what the judge needs.

Rules:
- Written as OpenSLO v1 says, so that one file serves other tools too. Of OpenSLO, one indicator with one objective over
  a rolling window is read; a key that OpenSLO has and Sluicegate does not read is refused with what to write instead.
- The counts come from Sluicegate's own metrics (`metricSource.type: sluicegate`): `errors` as a ratio of good to total,
  `latency` as a threshold.
- A latency threshold is an edge of the histogram's buckets: between two edges nothing is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.documents import Duration
from policies.model import Objective, Sli

OPENSLO_VERSION = "openslo/v1"

LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000, 10000, 30000, 60000)
"""Upper edges of `sluice_latency_ms`, in milliseconds."""

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
    "metricSourceRef": "write type: sluicegate and spec: {sli: errors} or {sli: latency}",
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
class ErrorCounts:
    """Sluicegate's own counts of answers."""

    sli: Literal["errors"]
    """Answers with and without error, as the host counted them."""


@document(frozen=True, kw_only=True, config=_STRICT)
class LatencyCounts:
    """Sluicegate's own counts of answers by their latency."""

    sli: Literal["latency"]
    """Time in the version's own server."""


@document(frozen=True, kw_only=True, config=_STRICT)
class ErrorSource:
    """Where the counts of answers come from."""

    type: Literal["sluicegate"]
    spec: ErrorCounts


@document(frozen=True, kw_only=True, config=_STRICT)
class LatencySource:
    """Where the latencies come from."""

    type: Literal["sluicegate"]
    spec: LatencyCounts


@document(frozen=True, kw_only=True, config=_STRICT)
class ErrorMetric:
    """One of the two counts of a ratio."""

    metric_source: Annotated[ErrorSource, Field(alias="metricSource")]


@document(frozen=True, kw_only=True, config=_STRICT)
class RatioMetric:
    """Good (or bad) answers of all answers."""

    counter: Literal[True] = True
    """The counts are counters."""
    good: ErrorMetric | None = None
    """Answers without error; either this or bad."""
    bad: ErrorMetric | None = None
    """Answers with an error; either this or good."""
    total: ErrorMetric
    """All answers."""

    def __post_init__(self) -> None:
        """Raises ValueError where the ratio is not one of two counts."""
        if (self.good is None) == (self.bad is None):
            raise ValueError("a ratioMetric has total and one of good or bad")


@document(frozen=True, kw_only=True, config=_STRICT)
class ThresholdMetric:
    """Answers within a time, which the objective names."""

    metric_source: Annotated[LatencySource, Field(alias="metricSource")]


@document(frozen=True, kw_only=True, config=_STRICT)
class IndicatorSpec:
    """What is counted: one of the two."""

    ratio_metric: Annotated[RatioMetric | None, Field(alias="ratioMetric")] = None
    """For errors."""
    threshold_metric: Annotated[ThresholdMetric | None, Field(alias="thresholdMetric")] = None
    """For latency."""

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


@document(frozen=True, kw_only=True, config=_STRICT)
class ObjectiveSpec:
    """How many events must be good."""

    display_name: Annotated[str | None, Field(alias="displayName")] = None
    # Below one half the judge has no room for alternatives, and nobody would call it a service level.
    target: Annotated[float, Field(ge=0.5, lt=1)]
    """Share of good events, at least: 0.99."""
    op: Literal["lte"] | None = None
    """With a thresholdMetric: lte."""
    value: Annotated[
        float | None, Field(gt=0, json_schema_extra=lambda schema: schema.update(enum=[*LATENCY_BUCKETS_MS, None]))
    ] = None
    """With a thresholdMetric: milliseconds, an edge of the latency buckets."""


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


def objective(document: SloDocument) -> Objective | SloProblem:
    """The SLO as the judge needs it, or what about it is wrong."""
    spec, name = document.spec.objectives[0], document.metadata.name
    place: tuple[str | int, ...] = ("spec", "objectives", 0)
    if document.spec.indicator.spec.ratio_metric is not None:
        if spec.op is not None or spec.value is not None:
            return SloProblem(place, "op and value belong to a thresholdMetric: leave them out, or count latency")
        return Objective(name=name, sli=Sli.ERRORS, target=spec.target)
    if spec.op is None or spec.value is None:
        return SloProblem(place, "a thresholdMetric needs op: lte and value: <milliseconds>")
    if spec.value not in LATENCY_BUCKETS_MS:
        edges = ", ".join(str(edge) for edge in LATENCY_BUCKETS_MS)
        message = f"{spec.value:g} ms is no edge of the latency buckets; the edges are {edges}"
        return SloProblem((*place, "value"), message)
    return Objective(name=name, sli=Sli.LATENCY, target=spec.target, threshold_ms=spec.value)
