"""The door of a replica: one HTTP request -> a `Call` for the host -> one HTTP answer.

Rules:
- What never reaches a version is refused here and counted as refused: an unknown path, a wrong method, a body that is
  too large or that its client gave up sending.
- Who may call (`access.py`), and by which way (`public_route.py`), is asked before anything is read. Only what
  `endpoints.OPEN` names is answered to everybody.
- A body is read only up to its limit.
- Every answer names the version that gave it.
- Nothing here knows Ray: the door is called with Starlette's `Request`, by Serve or by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from serving_runtime import feedback
from serving_runtime.access import Gate
from serving_runtime.callers import Caller, Refusal
from serving_runtime.endpoints import OPEN, Endpoint, allowed_methods, below_route, find_endpoint
from serving_runtime.feedback import RECEIPT_HEADER
from serving_runtime.host import Host
from serving_runtime.protocol import BODY_LIMIT_BYTES, Answer, Call, too_large
from serving_runtime.public_route import PublicRoute

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

VERSION_HEADER: Final = "x-sluice-version"
REQUEST_ID_HEADER: Final = "x-request-id"
REQUEST_ID_LIMIT_CHARS: Final = 128  # it goes to logs and error bodies; every id in use is shorter
METHOD_NOT_ALLOWED: Final = 405
CLIENT_GONE: Final = 499  # nobody reads it; it is what Serve calls an aborted request in its own metrics


class Door:
    """HTTP for one replica."""

    def __init__(self, host: Host, version: int, refused: Callable[[], None], gate: Gate, route: PublicRoute) -> None:
        """`version` is this replica's own; `refused()` is called for each request that is turned away here."""
        self._host = host
        self._gate, self._route = gate, route
        self._version = str(version)
        self._refused = refused
        self._names: frozenset[str] = frozenset()
        self._encoded: frozenset[bytes] = frozenset()

    async def __call__(self, request: Request) -> Response:
        """One HTTP request."""
        route = self._host.config.route if self._host.config else ""
        path = below_route(request.scope["path"], request.scope.get("root_path", ""), route)
        endpoint = find_endpoint(request.method, path)
        if endpoint not in OPEN and not isinstance(endpoint, Answer):
            caller = await self._let_in(request)
            if isinstance(caller, Refusal):
                return self._refuse(caller.answer, caller.headers)
        match endpoint:
            case Answer():
                allow = {"allow": allowed_methods(path)} if endpoint.status == METHOD_NOT_ALLOWED else {}
                return self._refuse(endpoint, allow)
            case Endpoint.PING | Endpoint.HEALTH:
                return self._respond(Answer(200, b"\n"), self._version)
            case Endpoint.VERSION:
                from mlflow.version import VERSION

                return self._respond(Answer(200, VERSION.encode()), self._version)
            case Endpoint.INVOCATIONS:
                return await self._ask(request)
            case Endpoint.FEEDBACK:
                return await self._report(request)

    async def _let_in(self, request: Request) -> Caller | Refusal:
        config = self._host.config
        model, route, public = (config.model, config.route, config.public) if config else ("", "", True)
        if not self._route.leads_here(public=public, route=route, root_path=request.scope.get("root_path", "")):
            return self._gate.internal(route, model)
        return await self._gate.admit(request.scope["headers"], model)

    async def _ask(self, request: Request) -> Response:
        """A request for a prediction: read it, let the host answer."""
        body = await self._body(request, BODY_LIMIT_BYTES)
        if isinstance(body, Answer):
            return self._refuse(body)
        reply = await self._host.answer(_call(request, body, self._wanted()))
        headers = {RECEIPT_HEADER: reply.receipt} if reply.receipt else None
        return self._respond(reply.answer, str(reply.version), headers)

    async def _report(self, request: Request) -> Response:
        """What a user says about an answer. It is no request for one: nobody's outcome."""
        body = await self._body(request, feedback.BODY_LIMIT_BYTES)
        if isinstance(body, Answer):
            return self._respond(body, self._version)
        return self._respond(self._host.report(body), self._version)

    @staticmethod
    async def _body(request: Request, limit_bytes: int) -> bytes | Answer:
        """The body, or why there is none."""
        from starlette.requests import ClientDisconnect

        try:
            body = await _read(request, limit_bytes)
        except ClientDisconnect:
            return Answer(CLIENT_GONE, b"")
        return too_large(limit_bytes) if body is None else body

    def _wanted(self) -> frozenset[bytes]:
        """Names of the headers that go along with a call, as ASGI has them."""
        names = self._host.headers
        if names is not self._names:
            self._names, self._encoded = names, frozenset(name.encode("ascii") for name in names)
        return self._encoded

    def _refuse(self, answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
        self._refused()
        return self._respond(answer, self._version, headers)

    def _respond(self, answer: Answer, version: str, headers: Mapping[str, str] | None = None) -> Response:
        from starlette.responses import Response

        return Response(
            answer.body, answer.status, {VERSION_HEADER: version, **(headers or {})}, media_type=answer.content_type
        )


def _call(request: Request, body: bytes, wanted: frozenset[bytes]) -> Call:
    # Serve has put an id there where the client sent none, and echoes it on every answer.
    request_id = request.headers.get(REQUEST_ID_HEADER, "")[:REQUEST_ID_LIMIT_CHARS]
    headers = {name.decode(): value.decode("latin-1") for name, value in request.scope["headers"] if name in wanted}
    return Call(body, request.headers.get("content-type"), request_id, headers=headers)


async def _read(request: Request, limit_bytes: int) -> bytes | None:
    """The body, or None as soon as it is above the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        return None
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
