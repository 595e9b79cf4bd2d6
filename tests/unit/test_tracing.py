"""Traces of requests, by OpenTelemetry's own in-memory exporter."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.testclient import TestClient

from serving_runtime.model_server import ModelServer
from serving_runtime.protocol import Call
from serving_runtime.tracing import OpenTelemetryTracer, Tracer, Untraced, below, tracer
from tests.fakes.bare_model import BareModel
from tests.fakes.replica import replica

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def call(traceparent: str) -> Call:
    return Call(b"{}", "application/json", "r-1", headers={"traceparent": traceparent} if traceparent else {})


def traced(version: int = 1) -> tuple[OpenTelemetryTracer, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return OpenTelemetryTracer(exporter, "fraud", version, at_once=True), exporter


def test_a_request_is_one_trace_through_host_candidate_and_features() -> None:
    host, seen = traced(1)
    candidate, there = traced(2)
    with host.span("answer", call(CLIENTS)) as door:
        handed_over = below(call(CLIENTS), door)
        with (
            candidate.span("predict", handed_over) as predict,
            candidate.span("features", below(handed_over, predict)) as look_up,
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
    with host.span("answer", call(wrong)):
        pass
    (span,) = seen.get_finished_spans()
    assert span.parent is None


def test_a_failure_is_marked_and_its_text_is_not_kept() -> None:
    host, seen = traced()

    def fails() -> None:
        with host.span("predict", call("")) as span:
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
    with none.span("answer", call(CLIENTS)) as span:
        span.answered(200, "1")
        assert span.traceparent == ""
    assert isinstance(
        tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, "m", 1), Untraced
    )


def test_an_exporter_that_is_unknown_is_said_and_nothing_traced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert isinstance(tracer({"OTEL_TRACES_EXPORTER": "zipkin"}, "fraud", 1), Untraced)
    assert "'zipkin'; it may be otlp, console or none" in caplog.text


def asked(door: Tracer | None, own: Tracer | None) -> None:
    """One request of a client that traces, to a replica whose parts trace so."""
    server = ModelServer(BareModel(lambda data: data), lambda _ms: None, tracer=own)
    headers = {"traceparent": CLIENTS, "x-request-id": "r-1"}
    client = TestClient(replica(server, tracer=door))
    assert client.post("/invocations", json={"inputs": [1.0]}, headers=headers).status_code == 200


def test_a_replica_continues_a_clients_trace_through_door_and_model() -> None:
    door, at_the_door = traced(7)
    own, at_the_model = traced(7)
    asked(door, own)
    (answered,), (predicted,) = at_the_door.get_finished_spans(), at_the_model.get_finished_spans()
    assert (answered.name, predicted.name) == ("answer", "predict")
    assert (answered.attributes or {})["sluice.answered_by"] == "7"
    assert answered.parent is not None
    assert f"{answered.parent.span_id:016x}" == CLIENTS.split("-")[2]
    assert predicted.parent is not None
    assert predicted.parent.span_id == answered.context.span_id
    assert predicted.context.trace_id == answered.context.trace_id


def test_a_door_that_traces_nothing_passes_a_clients_trace_on_as_it_is() -> None:
    own, seen = traced(7)
    asked(None, own)
    (predicted,) = seen.get_finished_spans()
    assert predicted.parent is not None
    assert f"{predicted.parent.span_id:016x}" == CLIENTS.split("-")[2]
