"""The metrics of one replica, as `METRICS` declares them.

Rules:
- Labels are bounded: a model's slug, the versions this replica was configured with, closed sets of outcomes and
  reasons, and the segments that the model document lists. Nothing else of a request is ever a label. Ray keeps a series
  for as long as its process lives: a replica shows at most SERIES_ALONE + SERIES_PER_CANDIDATE for each challenger it
  was given, and a challenger costs a commit.
- Series for good and bad start at 0, or the first errors of a version could not be seen as an increase.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from policies.slo import LATENCY_BUCKETS_MS
from serving_runtime.callers import Reason
from serving_runtime.events import (
    AgreementEvent,
    Event,
    FallbackEvent,
    FeedbackEvent,
    RefusedFeedbackEvent,
    ShadowEvent,
    VersionEvent,
)
from serving_runtime.exported_metrics import ExportedMetrics, Kind, Metric
from serving_runtime.feedback import Refusal
from serving_runtime.guard import Tripped
from serving_runtime.look_ups import LookUp
from serving_runtime.model_server import Stage
from serving_runtime.outcomes import CaptureOutcome, Fallback, Joint, Outcome, Served, UserOutcome

_log = logging.getLogger(__name__)

BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MOST_SEGMENTS = 21  # the most that a model document can list, and `other`
SERIES_ALONE = 5 + 3 + 2 + len(Refusal) + 4 + len(Stage) + MOST_SEGMENTS
"""Of a replica without challenger, a histogram counted as one: users' and its own outcomes, feedback good and bad,
reports refused, latency, batches, revision and memory, stages of its start, segments."""
SERIES_PER_CANDIDATE = 4 + 5 + 2 + len(Fallback) + 2 + 3 + MOST_SEGMENTS
"""One more challenger's: outcomes, pairs, agreement, fallbacks, feedback, three gauges, segments."""

_VERSION = ("model", "version", "build")

METRICS: Final = (
    Metric(
        "sluice_version_requests",
        Kind.COUNTER,
        (*_VERSION, "outcome"),
        "Requests a version answered or should have answered, counted by the host.",
    ),
    Metric("sluice_answers", Kind.COUNTER, ("model", "outcome"), "What users got."),
    Metric(
        "sluice_shadow",
        Kind.COUNTER,
        (*_VERSION, "outcome"),
        "Copies in shadow: the candidate's outcome, then stable's.",
    ),
    Metric(
        "sluice_agreement",
        Kind.COUNTER,
        (*_VERSION, "outcome"),
        "Copies in shadow that both answered well: whether all predictions agree.",
    ),
    Metric(
        "sluice_fallbacks",
        Kind.COUNTER,
        (*_VERSION, "reason"),
        "Requests drawn for the candidate that stable answered.",
    ),
    Metric(
        "sluice_feedback",
        Kind.COUNTER,
        (*_VERSION, "outcome"),
        "What users reported about answers, by the version they were drawn for.",
    ),
    Metric("sluice_feedback_refused", Kind.COUNTER, ("model", "reason"), "Reports that belong to no answer."),
    Metric("sluice_refused", Kind.COUNTER, ("model", "reason"), "Requests of who may not call, by why."),
    Metric("sluice_lookups", Kind.COUNTER, (*_VERSION, "outcome"), "Keys whose features were looked up."),
    Metric(
        "sluice_capture_requests",
        Kind.COUNTER,
        ("model", "outcome"),
        "Sampled requests: taken, and what became of each.",
    ),
    Metric(
        "sluice_latency_ms",
        Kind.HISTOGRAM,
        _VERSION,
        "Time in a version's own server, copies included, in milliseconds.",
        LATENCY_BUCKETS_MS,
    ),
    Metric(
        "sluice_segment_latency_ms",
        Kind.HISTOGRAM,
        ("model", "version", "segment"),
        "How long users of a segment waited, in milliseconds.",
        LATENCY_BUCKETS_MS,
    ),
    Metric(
        "sluice_lookup_ms",
        Kind.HISTOGRAM,
        _VERSION,
        "Time that a request waited for features, in milliseconds.",
        LATENCY_BUCKETS_MS,
    ),
    Metric(
        "sluice_batch_rows",
        Kind.HISTOGRAM,
        _VERSION,
        "Rows that were predicted in one call, where batching is on.",
        BATCH_BUCKETS_ROWS,
    ),
    Metric("sluice_host_revision", Kind.GAUGE, _VERSION, "Revision of the configuration a replica has."),
    Metric("sluice_breaker_open", Kind.GAUGE, _VERSION, "1 while the transport to the candidate fails."),
    Metric("sluice_replica_memory_bytes", Kind.GAUGE, _VERSION, "Memory of a replica that is in RAM (RSS), in bytes."),
    Metric(
        "sluice_load_seconds",
        Kind.GAUGE,
        (*_VERSION, "stage"),
        "How long the start of a replica took, by stage, in seconds.",
    ),
    Metric(
        "sluice_guard_requests",
        Kind.GAUGE,
        _VERSION,
        "Requests of the candidate that the guard has stopped, up to then.",
    ),
    Metric("sluice_guard_bad", Kind.GAUGE, _VERSION, "Bad answers among them that stable gave well."),
    Metric(
        "sluice_access_trouble",
        Kind.GAUGE,
        ("model", "source"),
        "1 while the keys of callers, or those of their tokens, cannot be read.",
    ),
)
"""All metrics of a replica; `docs/metrics.md` says what each label's values mean."""


class RayTelemetry:
    """The `Tally` of a host, and the latency of its own server. Owned by one event loop."""

    def __init__(self, model: str, served: Served, made_by: Any = None) -> None:
        """`model` is the slug, `served` the version of this replica.

        `made_by` makes the metrics; none: Ray Serve does, inside a replica only.
        """
        self._metrics = ExportedMetrics(METRICS, made_by)
        self._model = model
        self._own = self._labels(served)
        self._loads: dict[Stage, float] = {}
        for outcome in UserOutcome:
            self._metrics.add("sluice_answers", 0, model=model, outcome=outcome)
        for reason in Reason:
            self._metrics.add("sluice_refused", 0, model=model, reason=reason)

    # --- Tally -------------------------------------------------------------------------------------------------

    def count(self, event: Event, number: int) -> None:
        """Add to the counts of a version, or of a pair in shadow."""
        match event:
            case VersionEvent(served, outcome):
                self._metrics.add("sluice_version_requests", number, **self._labels(served), outcome=outcome)
            case ShadowEvent(served, joint):
                self._metrics.add("sluice_shadow", number, **self._labels(served), outcome=joint)
            case AgreementEvent(served, agrees):
                outcome = Outcome.GOOD if agrees else Outcome.BAD
                self._metrics.add("sluice_agreement", number, **self._labels(served), outcome=outcome)
            case FallbackEvent(served, why):
                self._metrics.add("sluice_fallbacks", number, **self._labels(served), reason=why)
            case FeedbackEvent(served, good):
                outcome = Outcome.GOOD if good else Outcome.BAD
                self._metrics.add("sluice_feedback", number, **self._labels(served), outcome=outcome)
            case RefusedFeedbackEvent(refusal):
                self._metrics.add("sluice_feedback_refused", number, model=self._model, reason=refusal)

    def answered(self, outcome: UserOutcome) -> None:
        """A user got this."""
        self._metrics.add("sluice_answers", 1, model=self._model, outcome=outcome)

    def announce(self, served: Served, *, candidate: bool) -> None:
        """Let the series of a version start at 0. Only a candidate is rescued, copied to and compared."""
        labels = self._labels(served)
        for outcome in Outcome:
            if candidate or outcome is not Outcome.RESCUED:
                self._metrics.add("sluice_version_requests", 0, **labels, outcome=outcome)
        if candidate:
            for joint in Joint:
                self._metrics.add("sluice_shadow", 0, **labels, outcome=joint)
            for agreement in (Outcome.GOOD, Outcome.BAD):
                self._metrics.add("sluice_agreement", 0, **labels, outcome=agreement)
            for why in Fallback:
                self._metrics.add("sluice_fallbacks", 0, **labels, reason=why)

    def segment_took(self, version: int, segment: str, elapsed_ms: float) -> None:
        """A user of this segment waited that long for an answer of this version."""
        where = {"model": self._model, "version": str(version), "segment": segment}
        self._metrics.observe("sluice_segment_latency_ms", elapsed_ms, **where)

    # --- the replica's own -------------------------------------------------------------------------------------

    def took(self, elapsed_ms: float) -> None:
        """This version's own server was busy with one request for that long."""
        self._metrics.observe("sluice_latency_ms", elapsed_ms, **self._own)

    def took_batch(self, rows: int) -> None:
        """So many rows were predicted in one call."""
        self._metrics.observe("sluice_batch_rows", rows, **self._own)

    def announce_lookups(self) -> None:
        """Let the series of look-ups start at 0: this version has features."""
        for outcome in LookUp:
            self.looked_up(outcome, 0)

    def looked_up(self, outcome: LookUp, number: int) -> None:
        """So many keys were looked up with this outcome."""
        self._metrics.add("sluice_lookups", number, **self._own, outcome=outcome)

    def waited_for_features(self, elapsed_ms: float) -> None:
        """One request waited for the source of its features for that long."""
        self._metrics.observe("sluice_lookup_ms", elapsed_ms, **self._own)

    def refused(self, reason: Reason) -> None:
        """Somebody was not let in."""
        self._metrics.add("sluice_refused", 1, model=self._model, reason=reason)

    def troubled(self, troubles: Mapping[str, str]) -> None:
        """What is wrong with the sources of `access`, by name; refreshed with each flush."""
        for source, trouble in troubles.items():
            self._metrics.set("sluice_access_trouble", float(bool(trouble)), model=self._model, source=source)

    def captured(self, counts: Mapping[CaptureOutcome, int]) -> None:
        """What became of sampled requests; the series of a replica begin with the first of them."""
        for outcome in CaptureOutcome if counts else ():
            self._metrics.add("sluice_capture_requests", counts.get(outcome, 0), model=self._model, outcome=outcome)

    def loaded(self, stage: Stage, seconds: float) -> None:
        """A stage of this replica's start is over."""
        _log.info("%s took %.1f s", stage, seconds)
        self._loads[stage] = seconds

    def flush(
        self,
        revision: int,
        tripped: tuple[Served, Tripped] | None,
        memory_bytes: int | None,
        breaker: tuple[Served, bool] | None = None,
    ) -> None:
        """Hand everything counted so far to Ray, and refresh the gauges, which disappear otherwise.

        `tripped` is the candidate that the guard has stopped here, for as long as it holds; `memory_bytes` is this
        replica's, none where it is unknown; `breaker` is the candidate, while there is one, and whether its breaker is
        open.
        """
        self._metrics.flush()
        self._metrics.set("sluice_host_revision", revision, **self._own)
        if breaker is not None:
            candidate, is_open = breaker
            self._metrics.set("sluice_breaker_open", float(is_open), **self._labels(candidate))
        for stage, seconds in self._loads.items():
            self._metrics.set("sluice_load_seconds", seconds, **self._own, stage=stage)
        if memory_bytes is not None:
            self._metrics.set("sluice_replica_memory_bytes", memory_bytes, **self._own)
        if tripped is not None:
            served, trip = tripped
            self._metrics.set("sluice_guard_requests", trip.requests, **self._labels(served))
            self._metrics.set("sluice_guard_bad", trip.bad, **self._labels(served))

    def _labels(self, served: Served) -> dict[str, str]:
        return {"model": self._model, "version": str(served.version), "build": served.build}
