"""The door of a replica: one HTTP request -> a `Call` for the host -> one HTTP answer.

Rules:
- What never reaches a version is refused here and counted as refused: an unknown path, a wrong method, a body that is
  too large or that its client gave up sending, a request that there is no room for (`room.py`).
- Who may call (`access.py`), and by which way (`public_route.py`), is asked before anything is read. Only what
  `endpoints.OPEN` names is answered to everybody.
- Errors are in the words of the protocol that the path belongs to.
- A body is read only up to its limits (`arrivals.py`), and takes no place before it is here.
- Every answer names the version that gave it.
- Nothing here knows Ray: the door is called with Starlette's `Request`, by Serve or by a test.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serving_runtime import feedback
from serving_runtime.access import Gate
from serving_runtime.arrivals import Arrivals
from serving_runtime.callers import ANYBODY, FEEDBACK, FORCE, Caller, Refusal
from serving_runtime.description import Described
from serving_runtime.doorstep import REQUEST_ID_HEADER, REQUEST_ID_LIMIT_CHARS
from serving_runtime.endpoints import OPEN, Endpoint, Found, below_route, find_endpoint, is_v2
from serving_runtime.event_stream import ACCEPT, EVENT_STREAM, asked_for_events
from serving_runtime.exchange import NOT_HERE, request_id, spoken
from serving_runtime.feedback import RECEIPT_HEADER
from serving_runtime.host import DEFAULT_TIMEOUT_S, Host, Reply
from serving_runtime.open_inference import in_protocol, live, model_metadata, ready, server_metadata
from serving_runtime.open_inference_tensors import LENGTH_HEADER
from serving_runtime.openapi import openapi
from serving_runtime.protocol import JSON, Answer, Call, CallKind, error_answer, overloaded
from serving_runtime.public_route import PublicRoute
from serving_runtime.room import Room
from serving_runtime.tracing import TRACEPARENT, Tracer, Untraced, below

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from serving_runtime.stream_counts import Streamed

VERSION_HEADER: Final = "x-sluice-version"
CARRIED: Final = {
    CallKind.INVOCATIONS: frozenset({TRACEPARENT.encode()}),
    CallKind.INFER: frozenset({TRACEPARENT.encode(), LENGTH_HEADER.encode()}),
}
"""Headers that a protocol itself needs behind the door; the host names others."""
UNTOLD: Final = (32, 256, DEFAULT_TIMEOUT_S)
"""Places, line and patience until the first configuration arrives, which Serve delivers before the first request."""
SLOW_BESIDE: Final = 8
"""Slow bodies that take no room from the line: half of what Serve lets through above it (`serve_config.SPARE`)."""
_CONTENT_TYPE, _REQUEST_ID = b"content-type", REQUEST_ID_HEADER.encode()
_VERSION: Final = VERSION_HEADER.encode()
_OF_EVERY_CALL: Final = frozenset({_CONTENT_TYPE, _REQUEST_ID})
_MAY_NOT_REPORT: Final = "This caller's key or token does not have the permission feedback, which reports need."


class Door:
    """HTTP for one replica."""

    def __init__(
        self,
        host: Host,
        about: Described,
        refused: Callable[[], None],
        gate: Gate,
        route: PublicRoute,
        tracer: Tracer | None = None,
    ) -> None:
        """`about` is this replica's own version; `refused()` is called for each request that is turned away here."""
        self._tracer = tracer or Untraced()
        self._host = host
        self._gate, self._route = gate, route
        self._room, self._arrivals = Room(), Arrivals()
        self._about = about
        self._refused = refused
        self._names: frozenset[str] = frozenset()
        self._encoded: dict[CallKind, frozenset[bytes]] = {}

    async def __call__(self, request: Request) -> Response:
        """One HTTP request."""
        path = below_route(request.scope["path"], request.scope.get("root_path", ""), self._where)
        found = find_endpoint(request.method, path)
        kind = CallKind.INFER if is_v2(path) else CallKind.INVOCATIONS
        if isinstance(found, Answer):
            return self._refuse(spoken(found, kind))
        caller = ANYBODY if found.endpoint in OPEN else await self._let_in(request)
        if isinstance(caller, Refusal):
            return self._refuse(spoken(caller.answer._replace(headers=tuple(caller.headers.items())), kind))
        if found.model is not None and (unknown := self._unknown(found)) is not None:
            return self._refuse(unknown)
        match found.endpoint:
            case Endpoint.INVOCATIONS | Endpoint.V2_INFER | Endpoint.V2_VERSION_INFER:
                return await self._ask(request, kind, caller, found.version)
            case Endpoint.FEEDBACK:
                return await self._report(request, caller)
            case _:
                return self._respond(self._tell(found.endpoint), self._about.named.version)

    async def ask(self, call: Call, *, version: str | None = None, may_force: bool = False) -> tuple[Answer, str]:
        """What a front hands over, which has asked who calls: the same room and the same host as for everybody.

        Of its headers only those go on that would over HTTP. `version`: answered by this one, or 404.
        """
        if (unknown := self._unknown(Found(Endpoint.V2_VERSION_INFER, self._about.named.model, version))) is not None:
            self._refused()
            return unknown, self._about.named.version
        if not await self._room.enter(*self._limits, len(call.body)):
            self._refused()
            return overloaded(call.request_id), self._about.named.version
        wanted = {name.decode() for name in self._wanted(call.kind)}
        known = {name: value for name, value in call.headers.items() if name in wanted}
        try:
            reply = await self._answer(dataclasses.replace(call, headers=known), version, may_force=may_force)
        finally:
            self._room.leave()
        return reply.answer, str(reply.version)

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return self._room.waiting

    @property
    def _where(self) -> str:
        return self._host.config.route if self._host.config else ""

    async def _let_in(self, request: Request) -> Caller | Refusal:
        config = self._host.config
        model, route, public = (config.model, config.route, config.public) if config else ("", "", True)
        if not self._route.leads_here(public=public, route=route, root_path=request.scope.get("root_path", "")):
            return self._gate.internal(route, model)
        return await self._gate.admit(request.scope["headers"], model)

    def _tell(self, endpoint: Endpoint) -> Answer:
        """What a replica knows without its model."""
        match endpoint:
            case Endpoint.VERSION:
                from mlflow.version import VERSION

                return Answer(200, VERSION.encode())
            case Endpoint.OPENAPI:
                return Answer(200, json.dumps(openapi(self._about, self._where)).encode())
            case Endpoint.V2_SERVER:
                return server_metadata(importlib.metadata.version("sluicegate"))
            case Endpoint.V2_LIVE:
                return live()
            case Endpoint.V2_READY:
                return ready()
            case Endpoint.V2_MODEL | Endpoint.V2_VERSION:
                return model_metadata(self._about)
            case Endpoint.V2_MODEL_READY | Endpoint.V2_VERSION_READY:
                return ready(self._about.named)
            case _:
                return Answer(200, b"\n")

    def _unknown(self, found: Found) -> Answer | None:
        """The answer to a path that names another model or version than this one."""
        named = self._about.named
        if found.model == named.model and found.version in (None, named.version):
            return None
        if found.model == named.model and found.version is not None:
            match found.endpoint:
                case Endpoint.V2_VERSION_INFER if found.version in self._host.versions:  # the host says who may ask it
                    return None
                case Endpoint.V2_VERSION_READY if self._host.is_ready(found.version):
                    return None
        if found.endpoint in OPEN:
            return NOT_HERE
        asked = f"{found.model}" if found.version is None else f"version {found.version} of {found.model}"
        words = f"Here is version {named.version} of {named.model}, and no {asked[:100]}."
        return in_protocol(error_answer(404, "RESOURCE_DOES_NOT_EXIST", words))

    async def _ask(self, request: Request, kind: CallKind, caller: Caller, version: str | None) -> Response:
        """A request for a prediction: read it, find it room, let the host answer. `version`: its path's."""
        places, line, _ = self._limits
        if self._room.is_full(places, line):  # before its body is read, which would be for nothing
            return self._refuse(spoken(overloaded(request_id(request)), kind))
        body = await self._arrivals.read(request, self._most_slow)
        if isinstance(body, Answer):
            return self._refuse(spoken(body, kind))
        if not await self._room.enter(*self._limits, len(body)):
            return self._refuse(spoken(overloaded(request_id(request)), kind))
        try:
            call = self._call(request, body, kind)
            if self._about.streams and asked_for_events(request.headers.get(ACCEPT, ""), body):
                call = dataclasses.replace(call, headers={**call.headers, ACCEPT: EVENT_STREAM})
            reply = await self._answer(call, version, may_force=FORCE in caller.permissions)
        finally:
            self._room.leave()
        answer = spoken(reply.answer, kind)
        if reply.receipt:
            answer = answer._replace(headers=(*answer.headers, (RECEIPT_HEADER, reply.receipt)))
        if reply.streamed is None:
            return self._respond(answer, str(reply.version))
        return self._stream(call, reply, answer, reply.streamed)

    async def _answer(self, call: Call, version: str | None, *, may_force: bool) -> Reply:
        with self._tracer.span("answer", call) as span:
            reply = await self._host.answer(below(call, span), may_force=may_force, version=version)
            span.answered(reply.answer.status, str(reply.version))
        return reply

    def _stream(self, call: Call, reply: Reply, head: Answer, streamed: Streamed) -> Response:
        from serving_runtime.streamed_answers import EventResponse, follow

        events = follow(head, call.request_id, self._host.timeout_s, streamed)
        return EventResponse(events, {VERSION_HEADER: str(reply.version), **dict(head.headers)})

    async def _report(self, request: Request, caller: Caller) -> Response:
        """What a user says about an answer. It is no request for one: nobody's outcome.

        Where callers have names, only those report whose key or token says so: reports move rollouts.
        """
        if caller is not ANYBODY and FEEDBACK not in caller.permissions:
            return self._refuse(error_answer(403, "PERMISSION_DENIED", _MAY_NOT_REPORT))
        body = await self._arrivals.read(request, self._most_slow, feedback.BODY_LIMIT_BYTES)
        answer = body if isinstance(body, Answer) else self._host.report(body)
        return self._respond(answer, self._about.named.version)

    def _call(self, request: Request, body: bytes, kind: CallKind) -> Call:
        wanted = self._wanted(kind)
        headers: dict[str, str] = {}
        known: dict[bytes, str] = {}
        for name, value in request.scope["headers"]:
            if name in wanted:
                headers[name.decode()] = value.decode("latin-1")
            if name in _OF_EVERY_CALL:
                known.setdefault(name, value.decode("latin-1"))
        its_id = known.get(_REQUEST_ID, "")[:REQUEST_ID_LIMIT_CHARS]
        return Call(body, known.get(_CONTENT_TYPE), its_id, kind, headers)

    def _wanted(self, kind: CallKind) -> frozenset[bytes]:
        """Names of the headers that go along with a call, as ASGI has them."""
        names = self._host.headers
        if names is not self._names:
            encoded = frozenset(name.encode("ascii") for name in names)
            self._names = names
            self._encoded = {each: encoded | CARRIED[each] for each in CallKind}
        return self._encoded[kind]

    @property
    def _limits(self) -> tuple[int, int, float]:
        """Places, line and patience. Slow bodies take room from the line: Serve counts them all."""
        config = self._host.config
        if config is None:
            return UNTOLD
        line = config.max_queued_requests - max(0, self._arrivals.slow - SLOW_BESIDE)
        return config.max_ongoing_requests, line, config.request_timeout_s

    @property
    def _most_slow(self) -> int:
        """At most half of the line."""
        config = self._host.config
        return SLOW_BESIDE + (config.max_queued_requests if config else UNTOLD[1]) // 2

    def _refuse(self, answer: Answer) -> Response:
        self._refused()
        return self._respond(answer, self._about.named.version)

    def _respond(self, answer: Answer, version: str) -> Response:
        if answer.content_type == JSON and not answer.headers:
            from serving_runtime.json_response import JsonResponse

            return JsonResponse(answer.body, answer.status, (_VERSION, version.encode()))
        from starlette.responses import Response

        headers = {VERSION_HEADER: version, **dict(answer.headers)}
        return Response(answer.body, answer.status, headers, media_type=answer.content_type)
