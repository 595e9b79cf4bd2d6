"""Traces of requests, by OpenTelemetry's own in-memory exporter."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from serving_runtime.tracing import OpenTelemetryTracer, Untraced, tracer

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(version: int = 1) -> tuple[OpenTelemetryTracer, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return OpenTelemetryTracer(exporter, "fraud", version, at_once=True), exporter


def test_a_request_is_one_trace_through_host_candidate_and_features() -> None:
    host, seen = traced(1)
    candidate, there = traced(2)
    with host.span("answer", CLIENTS, "r-1") as door:
        with (
            candidate.span("predict", door.traceparent, "r-1") as predict,
            candidate.span("features", predict.traceparent, "r-1") as look_up,
        ):
            look_up.note(outcome="hit")
        door.answered(200, "2")
    features, predicted = there.get_finished_spans()
    (answered,) = seen.get_finished_spans()
    chain = [answered, predicted, features]
    assert {f"{span.context.trace_id:032x}" for span in chain} == {CLIENTS.split("-")[1]}
    assert [f"{span.parent.span_id:016x}" for span in chain if span.parent] == [
        CLIENTS.split("-")[2],
        f"{answered.context.span_id:016x}",
        f"{predicted.context.span_id:016x}",
    ]
    assert {span.attributes["sluice.request_id"] for span in chain if span.attributes} == {"r-1"}
    assert dict(answered.attributes or {}) == {
        "sluice.model": "fraud",
        "sluice.version": "1",
        "sluice.request_id": "r-1",
        "http.response.status_code": 200,
        "sluice.answered_by": "2",
    }
    assert (features.attributes or {})["sluice.outcome"] == "hit"


@pytest.mark.parametrize("wrong", ["", "nonsense", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_request_without_a_trace_begins_one(wrong: str) -> None:
    host, seen = traced()
    with host.span("answer", wrong, "r-1"):
        pass
    (span,) = seen.get_finished_spans()
    assert span.parent is None


def test_a_failure_is_marked_and_its_text_is_not_kept() -> None:
    host, seen = traced()

    def fails() -> None:
        with host.span("predict", "", "r-1") as span:
            span.answered(500, "1")
            raise ValueError("what a user sent")

    with pytest.raises(ValueError, match="what a user sent"):
        fails()
    (span,) = seen.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.events == ()
    assert "what a user sent" not in span.to_json()


def test_nothing_is_traced_unless_the_environment_asks() -> None:
    none = tracer({}, "fraud", 1)
    assert isinstance(none, Untraced)
    with none.span("answer", CLIENTS, "r-1") as span:
        span.answered(200, "1")
        assert span.traceparent == ""
    assert isinstance(
        tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, "m", 1), Untraced
    )


def test_an_exporter_that_is_unknown_is_said_and_nothing_traced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert isinstance(tracer({"OTEL_TRACES_EXPORTER": "zipkin"}, "fraud", 1), Untraced)
    assert "'zipkin'; it may be otlp, console or none" in caplog.text
