"""The HTTP door of an ensemble: what MLflow's scoring protocol has, and nothing else.

Rules:
- As at a version's door (`door.py`): what reaches no member is refused here and counted, a body is read up to its
  limit, every answer names what answered.
- Headers go on to the members' hosts, which know what they mean there; credentials do not, and neither does a forced
  version, which means something in one model only.
- Where access is limited, this is where it is: hosts trust a front (`app.py: Model.ask`).
- Nothing here knows Ray.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from serving_runtime.access import Gate
from serving_runtime.callers import Refusal
from serving_runtime.door import CLIENT_GONE, REQUEST_ID_HEADER, REQUEST_ID_LIMIT_CHARS, VERSION_HEADER
from serving_runtime.endpoints import below_route
from serving_runtime.protocol import BODY_LIMIT_BYTES, Answer, Call, error_answer, too_large

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

INVOCATIONS: Final = "/invocations"
TELLS: Final = ("/ping", "/health", "/version")
HEADERS_LIMIT: Final = 32
"""Headers that are passed on; clients send a dozen."""
HEADER_LIMIT_CHARS: Final = 512
"""Of each header's value: keys of users and trace contexts are shorter."""
OURS: Final = "x-sluice-"
"""What begins so is said among ourselves, or about one model only (a forced version)."""
_KEPT_HERE: Final = frozenset(
    {
        *("authorization", "proxy-authorization", "x-api-key", "cookie"),
        *("host", "content-length", "content-type", "connection", "transfer-encoding", "user-agent", REQUEST_ID_HEADER),
    }
)

Answering = Callable[[Call], Awaitable[tuple[Answer, str]]]
"""An answer, and the versions behind it."""


def passed_on(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that hosts may need, by their names in lower case."""
    kept = ((name.lower(), value) for name, value in headers if len(value) <= HEADER_LIMIT_CHARS)
    return dict([pair for pair in kept if pair[0] not in _KEPT_HERE and not pair[0].startswith(OURS)][:HEADERS_LIMIT])


class FrontDoor:
    """HTTP for one replica of an ensemble."""

    def __init__(self, name: str, answer: Answering, gate: Gate, refused: Callable[[], None]) -> None:
        """Keys name an ensemble by its `name`, as a model; `refused()` is called for each request turned away here."""
        self._name, self._gate = name, gate
        self._answer = answer
        self._refused = refused

    async def __call__(self, request: Request, route: str) -> Response:
        """One HTTP request to the ensemble at `route`."""
        path = below_route(request.scope["path"], request.scope.get("root_path", ""), route)
        if path in (INVOCATIONS, "/version"):
            caller = await self._gate.admit(request.scope["headers"], self._name)
            if isinstance(caller, Refusal):
                return self._refuse(caller.answer, caller.headers)
        if path == INVOCATIONS:
            return await self._invoke(request) if request.method == "POST" else self._not_allowed(path, "POST")
        if path not in TELLS:
            known = ", ".join((INVOCATIONS, *TELLS))
            return self._refuse(
                error_answer(404, "ENDPOINT_NOT_FOUND", f"An ensemble answers {known} below its route.")
            )
        if request.method not in ("GET", "HEAD"):
            return self._not_allowed(path, "GET, HEAD")
        return _response(Answer(200, _version() if path == "/version" else b"\n"), "")

    async def _invoke(self, request: Request) -> Response:
        from starlette.requests import ClientDisconnect

        try:
            body = await _read(request)
        except ClientDisconnect:
            return self._refuse(Answer(CLIENT_GONE, b""))
        if body is None:
            return self._refuse(too_large())
        # Serve has put an id there where the client sent none, and echoes it on every answer.
        request_id = request.headers.get(REQUEST_ID_HEADER, "")[:REQUEST_ID_LIMIT_CHARS]
        headers = passed_on(request.headers.items())
        answer, versions = await self._answer(
            Call(body, request.headers.get("content-type"), request_id, headers=headers)
        )
        return _response(answer, versions)

    def _not_allowed(self, path: str, allowed: str) -> Response:
        answer = error_answer(405, "METHOD_NOT_ALLOWED", f"{path} answers {allowed.replace(', ', ' or ')}.")
        return self._refuse(answer, {"allow": allowed})

    def _refuse(self, answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
        self._refused()
        return _response(answer, "", headers)


def _response(answer: Answer, versions: str, more: Mapping[str, str] | None = None) -> Response:
    from starlette.responses import Response

    headers = {**({VERSION_HEADER: versions} if versions else {}), **dict(answer.headers), **(more or {})}
    return Response(answer.body, answer.status, headers, media_type=answer.content_type)


def _version() -> bytes:
    from mlflow.version import VERSION

    return str(VERSION).encode()


async def _read(request: Request) -> bytes | None:
    """The body, or None as soon as it is above the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_LIMIT_BYTES:
        return None
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
