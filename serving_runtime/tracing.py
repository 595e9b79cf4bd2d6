"""Traces: one for each request, through host, candidate and features, by OpenTelemetry.

| variable | meaning |
|---|---|
| OTEL_EXPORTER_OTLP_ENDPOINT | send spans there (OTLP over HTTP), as `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` |
| OTEL_TRACES_EXPORTER | `otlp`, `console` or `none`; without it `otlp` where an endpoint is set, else none |
| OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, ... | OpenTelemetry's own |

Rules:
- Off unless the environment asks for it, and then the request path does nothing but pass a client's `traceparent` on.
- The context travels with the call, in `traceparent` (W3C Trace Context): from the door to this version's server, to
  the candidate's, to the look-up. Nothing depends on which task or thread a call is in.
- A span has the request id, the model and the version that answered; never a body, a header or a key.
- Spans are sent by a thread, in batches, and dropped when its queue is full: nobody waits for a collector.
- An own provider: the process's global one belongs to the model's code, which may trace by itself.

This module must not decide what is worth a span: whoever does the work says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from serving_runtime.protocol import Call

_log = logging.getLogger(__name__)

TRACEPARENT: Final = "traceparent"
SERVICE: Final = "sluicegate"
SERVER_ERROR: Final = 500


class Span(Protocol):
    """Something that takes a while."""

    @property
    def traceparent(self) -> str:
        """What a child needs; empty where nothing is traced."""

    def answered(self, status: int, version: str) -> None:
        """It ended in this HTTP status, by this version."""

    def note(self, **attributes: str | float | bool) -> None:
        """Something worth knowing about it."""


class Tracer(Protocol):
    """Where spans come from."""

    def span(self, name: str, call: Call) -> contextlib.AbstractContextManager[Span]:
        """A span below what the call's `traceparent` names; without one, or with a wrong one, it begins a trace."""

    def close(self) -> None:
        """Send what is left. Blocks for seconds at most."""


class Untraced:
    """Traces nothing."""

    traceparent: str = ""

    def answered(self, status: int, version: str) -> None:
        """Nobody is told."""

    def note(self, **attributes: str | float | bool) -> None:
        """Nobody is told."""

    def span(self, _name: str, _call: Call) -> contextlib.AbstractContextManager[Span]:
        """Itself: there is nothing to begin or to end."""
        return contextlib.nullcontext(self)

    def close(self) -> None:
        """There is nothing left."""


class OpenTelemetryTracer:
    """Spans by OpenTelemetry's SDK."""

    def __init__(self, exporter: Any, model: str, version: int, *, at_once: bool = False) -> None:
        """`exporter` is a `SpanExporter`; `at_once` sends each span when it ends, in the caller's time (tests)."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        self._about: Mapping[str, str] = {"sluice.model": model, "sluice.version": str(version)}
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        self._provider.add_span_processor(SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)

    @contextlib.contextmanager
    def span(self, name: str, call: Call) -> Iterator[Span]:
        """A span below the call's own."""
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = call.headers.get(TRACEPARENT)
        above = TraceContextTextMapPropagator().extract({TRACEPARENT: parent}, Context()) if parent else Context()
        attributes = {**self._about, "sluice.request_id": call.request_id}
        # What the model raises stays in the log: its text may repeat what a user sent.
        span = self._tracer.start_span(name, above, attributes=attributes, record_exception=False)
        try:
            yield _OpenTelemetrySpan(span)
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class _OpenTelemetrySpan:
    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def answered(self, status: int, version: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attributes({"http.response.status_code": status, "sluice.answered_by": version})
        if status >= SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)

    def note(self, **attributes: str | float | bool) -> None:
        self._span.set_attributes({f"sluice.{name}": value for name, value in attributes.items()})


def below(call: Call, span: Span) -> Call:
    """The call as it goes on from within the span."""
    if not span.traceparent:
        return call
    return dataclasses.replace(call, headers={**call.headers, TRACEPARENT: span.traceparent})


def tracer(environment: Mapping[str, str], model: str, version: int) -> Tracer:
    """The tracer that the environment asks for; never raises: what is wrong with it is logged, and nothing traced."""
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    wanted = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    try:
        match wanted:
            case "none":
                return Untraced()
            case "console":
                from opentelemetry.sdk.trace.export import ConsoleSpanExporter

                return OpenTelemetryTracer(ConsoleSpanExporter(), model, version)
            case "otlp":
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                return OpenTelemetryTracer(OTLPSpanExporter(), model, version)
    except ImportError as error:
        _log.error("nothing is traced: %s; install sluicegate[traces]", error)
        return Untraced()
    _log.error("nothing is traced: OTEL_TRACES_EXPORTER is %.40r; it may be otlp, console or none", wanted)
    return Untraced()
