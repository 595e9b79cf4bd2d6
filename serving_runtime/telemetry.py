"""The metrics of one replica, as Ray exports them (`ray_` before each name, `_total` after a counter's).

| metric | kind | labels | counts |
|---|---|---|---|
| sluice_version_requests | counter | model, version, build, outcome | by version, counted by the host |
| sluice_answers | counter | model, outcome | what users got |
| sluice_shadow | counter | model, version, build, outcome | copies: candidate's outcome first, stable's second |
| sluice_agreement | counter | model, version, build, outcome | copies that both answered well: do predictions agree |
| sluice_capture_requests | counter | model, outcome | sampled requests: taken, and what became of each |
| sluice_refused | counter | model, reason | who may not call, by why |
| sluice_access_trouble | gauge | model, source | 1 while keys or tokens' keys cannot be read, else 0 |
| sluice_latency_ms | histogram | model, version, build | time in a version's own server, copies included |
| sluice_batch_rows | histogram | model, version, build | rows that were predicted in one call, where batching is on |
| sluice_lookups | counter | model, version, build, outcome | keys whose features were looked up |
| sluice_lookup_ms | histogram | model, version, build | time that a request waited for features |
| sluice_fallbacks | counter | model, version, build, reason | what stable answered in the candidate's place |
| sluice_feedback | counter | model, version, build, outcome | what users reported about a version's answers |
| sluice_feedback_refused | counter | model, reason | reports that belong to no answer |
| sluice_latency_ms | histogram | model, version, build | time in a version's own server, copies included |
| sluice_segment_latency_ms | histogram | model, version, segment | how long users of a segment waited |
| sluice_host_revision | gauge | model, version, build | the revision of the configuration a replica has |
| sluice_breaker_open | gauge | model, version, build | 1 while the transport to the candidate fails |
| sluice_replica_memory_bytes | gauge | model, version, build | memory of a replica that is in RAM |
| sluice_load_seconds | gauge | model, version, build, stage | how long a replica's start took: fetch, load, warm_up |
| sluice_guard_requests | gauge | model, version, build | the candidate's requests up to the guard's trip |
| sluice_guard_bad | gauge | model, version, build | bad answers among them that stable gave well |

Rules:
- Labels are bounded: a model's slug, the versions this replica was configured with, closed sets of outcomes and
  reasons, and the segments that the model document lists. Nothing else of a request is ever a label. Ray keeps a series
  for as long as its process lives: a replica shows at most SERIES_ALONE + SERIES_PER_CANDIDATE for each challenger it
  was given, and a challenger costs a commit.
- Series for good and bad start at 0, or the first errors of a version could not be seen as an increase.
- Counts are gathered and handed to Ray by `flush`, several times per export interval: three calls into Ray per request
  would cost about 6 % of a small model's throughput. A replica that is killed loses what was not exported, at most a
  flush more than without.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping
from typing import Any

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
from serving_runtime.feedback import Refusal
from serving_runtime.guard import Tripped
from serving_runtime.look_ups import LookUp
from serving_runtime.model_server import Stage
from serving_runtime.outcomes import CaptureOutcome, Fallback, Joint, Outcome, Served, UserOutcome

_log = logging.getLogger(__name__)

LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000, 10000, 30000, 60000)
BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FLUSH_EVERY_S = 0.25  # a quarter of the shortest export interval in use (1 s): a flush is never what evidence waits for

_LEAST_MS = 1e-6  # Ray wants values above 0; a clock that did not move in between gives 0

MOST_SEGMENTS = 21  # the most that a model document can list, and `other`
SERIES_ALONE = 5 + 3 + 2 + len(Refusal) + 4 + len(Stage) + MOST_SEGMENTS
"""Of a replica without challenger, a histogram counted as one: users' and its own outcomes, feedback good and bad,
reports refused, latency, batches, revision and memory, stages of its start, segments."""
SERIES_PER_CANDIDATE = 4 + 5 + 2 + len(Fallback) + 2 + 3 + MOST_SEGMENTS
"""One more challenger's: outcomes, pairs, agreement, fallbacks, feedback, three gauges, segments."""

_VERSION_TAGS = ("model", "version", "build")
_Key = tuple[str, tuple[tuple[str, str], ...]]


class RayTelemetry:
    """The `Tally` of a host, and the latency of its own server. Owned by one event loop."""

    def __init__(self, model: str, served: Served, made_by: Any = None) -> None:
        """`model` is the slug, `served` the version of this replica.

        Counters, gauges and histograms are made by `made_by`; none: Ray Serve's, which must be made inside a replica,
        where Ray adds its labels.
        """
        metrics = made_by or _ray_metrics()
        self._model = model
        self._own = self._labels(served)
        self._counters = {
            "requests": metrics.Counter(
                "sluice_version_requests",
                description="Requests a version answered or should have answered, counted by the host.",
                tag_keys=(*_VERSION_TAGS, "outcome"),
            ),
            "answers": metrics.Counter("sluice_answers", description="What users got.", tag_keys=("model", "outcome")),
            "shadow": metrics.Counter(
                "sluice_shadow",
                description="Copies in shadow: the candidate's outcome, then stable's.",
                tag_keys=(*_VERSION_TAGS, "outcome"),
            ),
            "agreement": metrics.Counter(
                "sluice_agreement",
                description="Copies in shadow that both answered well: whether all predictions agree.",
                tag_keys=(*_VERSION_TAGS, "outcome"),
            ),
            "lookups": metrics.Counter(
                "sluice_lookups",
                description="Keys whose features were looked up.",
                tag_keys=(*_VERSION_TAGS, "outcome"),
            ),
        }
        self._counters["capture"] = metrics.Counter(
            "sluice_capture_requests",
            description="Sampled requests: taken, and what became of each.",
            tag_keys=("model", "outcome"),
        )
        self._counters["refused"] = metrics.Counter(
            "sluice_refused", description="Requests of who may not call, by why.", tag_keys=("model", "reason")
        )
        self._trouble = metrics.Gauge(
            "sluice_access_trouble",
            description="1 while the keys of callers, or those of their tokens, cannot be read.",
            tag_keys=("model", "source"),
        )
        self._counters |= {
            "fallbacks": metrics.Counter(
                "sluice_fallbacks",
                description="Requests drawn for the candidate that stable answered.",
                tag_keys=(*_VERSION_TAGS, "reason"),
            ),
            "feedback": metrics.Counter(
                "sluice_feedback",
                description="What users reported about answers, by the version they were drawn for.",
                tag_keys=(*_VERSION_TAGS, "outcome"),
            ),
            "feedback_refused": metrics.Counter(
                "sluice_feedback_refused",
                description="Reports that belong to no answer.",
                tag_keys=("model", "reason"),
            ),
        }
        self._segments = metrics.Histogram(
            "sluice_segment_latency_ms",
            description="How long users of a segment waited, in milliseconds.",
            boundaries=list(LATENCY_BUCKETS_MS),
            tag_keys=("model", "version", "segment"),
        )
        self._breaker = metrics.Gauge(
            "sluice_breaker_open", description="1 while the transport to the candidate fails.", tag_keys=_VERSION_TAGS
        )
        self._latency = metrics.Histogram(
            "sluice_latency_ms",
            description="Time in a version's own server, in milliseconds.",
            boundaries=list(LATENCY_BUCKETS_MS),
            tag_keys=_VERSION_TAGS,
        )
        self._batch_rows = metrics.Histogram(
            "sluice_batch_rows",
            description="Rows that were predicted in one call.",
            boundaries=list(BATCH_BUCKETS_ROWS),
            tag_keys=_VERSION_TAGS,
        )
        self._lookup_ms = metrics.Histogram(
            "sluice_lookup_ms",
            description="Time that a request waited for features, in milliseconds.",
            boundaries=list(LATENCY_BUCKETS_MS),
            tag_keys=_VERSION_TAGS,
        )
        self._revision = metrics.Gauge(
            "sluice_host_revision", description="Revision of the configuration a replica has.", tag_keys=_VERSION_TAGS
        )
        self._memory = metrics.Gauge(
            "sluice_replica_memory_bytes",
            description="Memory of a replica that is in RAM (RSS), in bytes.",
            tag_keys=_VERSION_TAGS,
        )
        self._load_seconds = metrics.Gauge(
            "sluice_load_seconds",
            description="How long the start of a replica took, in seconds.",
            tag_keys=(*_VERSION_TAGS, "stage"),
        )
        self._loads: dict[Stage, float] = {}
        self._guard_requests = metrics.Gauge(
            "sluice_guard_requests",
            description="Requests of the candidate that the guard has stopped, up to then.",
            tag_keys=_VERSION_TAGS,
        )
        self._guard_bad = metrics.Gauge(
            "sluice_guard_bad", description="Bad answers among them that stable gave well.", tag_keys=_VERSION_TAGS
        )
        self._pending: collections.Counter[_Key] = collections.Counter()
        for outcome in UserOutcome:
            self._add("answers", {"model": model, "outcome": outcome}, 0)
        for reason in Reason:
            self._add("refused", {"model": model, "reason": reason}, 0)

    # --- Tally -------------------------------------------------------------------------------------------------

    def count(self, event: Event, number: int) -> None:
        """Add to the counts of a version, or of a pair in shadow."""
        match event:
            case VersionEvent(served, outcome):
                self._add("requests", {**self._labels(served), "outcome": outcome}, number)
            case ShadowEvent(served, joint):
                self._add("shadow", {**self._labels(served), "outcome": joint}, number)
            case AgreementEvent(served, agrees):
                outcome = Outcome.GOOD if agrees else Outcome.BAD
                self._add("agreement", {**self._labels(served), "outcome": outcome}, number)
            case FallbackEvent(served, why):
                self._add("fallbacks", {**self._labels(served), "reason": why}, number)
            case FeedbackEvent(served, good):
                outcome = Outcome.GOOD if good else Outcome.BAD
                self._add("feedback", {**self._labels(served), "outcome": outcome}, number)
            case RefusedFeedbackEvent(refusal):
                self._add("feedback_refused", {"model": self._model, "reason": refusal}, number)

    def answered(self, outcome: UserOutcome) -> None:
        """A user got this."""
        self._add("answers", {"model": self._model, "outcome": outcome}, 1)

    def announce(self, served: Served, *, candidate: bool) -> None:
        """Let the series of a version start at 0. Only a candidate is rescued, copied to and compared."""
        labels = self._labels(served)
        for outcome in Outcome:
            if candidate or outcome is not Outcome.RESCUED:
                self._add("requests", {**labels, "outcome": outcome}, 0)
        if candidate:
            for joint in Joint:
                self._add("shadow", {**labels, "outcome": joint}, 0)
            for agreement in (Outcome.GOOD, Outcome.BAD):
                self._add("agreement", {**labels, "outcome": agreement}, 0)
            for why in Fallback:
                self._add("fallbacks", {**labels, "reason": why}, 0)

    def segment_took(self, version: int, segment: str, elapsed_ms: float) -> None:
        """A user of this segment waited that long for an answer of this version."""
        tags = {"model": self._model, "version": str(version), "segment": segment}
        self._segments.observe(max(elapsed_ms, _LEAST_MS), tags=tags)

    # --- the replica's own -------------------------------------------------------------------------------------

    def took(self, elapsed_ms: float) -> None:
        """This version's own server was busy with one request for that long."""
        self._latency.observe(max(elapsed_ms, _LEAST_MS), tags=dict(self._own))

    def took_batch(self, rows: int) -> None:
        """So many rows were predicted in one call."""
        self._batch_rows.observe(rows, tags=dict(self._own))

    def announce_lookups(self) -> None:
        """Let the series of look-ups start at 0: this version has features."""
        for outcome in LookUp:
            self.looked_up(outcome, 0)

    def looked_up(self, outcome: LookUp, number: int) -> None:
        """So many keys were looked up with this outcome."""
        self._add("lookups", {**self._own, "outcome": outcome}, number)

    def waited_for_features(self, elapsed_ms: float) -> None:
        """One request waited for the source of its features for that long."""
        self._lookup_ms.observe(max(elapsed_ms, 1e-6), tags=dict(self._own))

    def refused(self, reason: Reason) -> None:
        """Somebody was not let in."""
        self._add("refused", {"model": self._model, "reason": reason}, 1)

    def troubled(self, troubles: Mapping[str, str]) -> None:
        """What is wrong with the sources of `access`, by name; refreshed with each flush."""
        for source, trouble in troubles.items():
            self._trouble.set(1.0 if trouble else 0.0, tags={"model": self._model, "source": source})

    def captured(self, counts: Mapping[CaptureOutcome, int]) -> None:
        """What became of sampled requests; the series of a replica begin with the first of them."""
        for outcome in CaptureOutcome if counts else ():
            self._add("capture", {"model": self._model, "outcome": outcome}, counts.get(outcome, 0))

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
        pending, self._pending = self._pending, collections.Counter()
        for (name, labels), number in pending.items():
            self._record(name, dict(labels), number)
        self._revision.set(revision, tags=dict(self._own))
        if breaker is not None:
            candidate, is_open = breaker
            self._breaker.set(float(is_open), tags=self._labels(candidate))
        for stage, seconds in self._loads.items():
            self._load_seconds.set(seconds, tags={**self._own, "stage": stage})
        if memory_bytes is not None:
            self._memory.set(memory_bytes, tags=dict(self._own))
        if tripped is not None:
            served, trip = tripped
            self._guard_requests.set(trip.requests, tags=self._labels(served))
            self._guard_bad.set(trip.bad, tags=self._labels(served))

    def _record(self, name: str, labels: dict[str, str], number: int) -> None:
        if number > 0:
            self._counters[name].inc(number, tags=labels)
        else:
            # `inc` refuses 0; recording it is what makes a series start there.
            self._counters[name]._record(0.0, tags=labels)  # noqa: SLF001 Ray has no public way

    def _add(self, name: str, labels: dict[str, str], number: int) -> None:
        self._pending[name, tuple(labels.items())] += number

    def _labels(self, served: Served) -> dict[str, str]:
        return {"model": self._model, "version": str(served.version), "build": served.build}


def _ray_metrics() -> Any:
    from ray.serve import metrics

    return metrics
