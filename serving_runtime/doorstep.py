"""The doorstep: what is asked of the head of each HTTP request before Serve's own code reads it.

Serve makes text of some headers before a replica's own code sees a request, and answers bytes that are none with a bare
500 (`ray.serve._private.replica: _direct_ingress_asgi`). It echoes an empty request id, and one of any length. Ray
calls `middlewares` in each process that answers HTTP, which are the replicas and the proxy behind HAProxy, where the
environment of their node names it: `CALLBACK` and `HERE`.

Rules:
1. A header of which Serve makes text, and that is no UTF-8, is 400, and its name is said.
2. A request has one id from here on. A client's is taken as it is, up to `REQUEST_ID_LIMIT_CHARS`; of several the
   first. One that is empty is none, and one is made. One that could not be read in a log is 400.
3. Only the head is looked at, and nothing else of it: who calls, and what for, is asked at the door (`door.py`).
4. It costs every request: no more than a look at each header's name.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from serving_runtime.endpoints import ends_in_v2
from serving_runtime.protocol import CallKind, error_answer

if TYPE_CHECKING:
    from starlette.middleware import Middleware

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

CALLBACK: Final = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Ray's variable for it; the name is older than replicas that answer HTTP themselves, which read it as well."""
HERE: Final = "serving_runtime.doorstep:middlewares"

REQUEST_ID_HEADER: Final = "x-request-id"
REQUEST_ID_LIMIT_CHARS: Final = 128  # it goes to logs and error bodies; every id in use is shorter

_SESSION: Final = "RAY_SERVE_SESSION_ID_HEADER_KEY"
_REQUEST_ID: Final = REQUEST_ID_HEADER.encode()
_TEXTS: Final = (
    *(REQUEST_ID_HEADER, "x-request-timeout-seconds", "x-request-disconnect-disabled"),
    *("serve_multiplexed_model_id", "traceparent", "tracestate"),
)
_LONGEST_SHOWN: Final = 60


def middlewares() -> list[Middleware]:
    """What Ray puts before its own code, in each process that answers HTTP."""
    from starlette.middleware import Middleware

    return [Middleware(Doorstep)]


class Doorstep:
    """An ASGI application before another one."""

    def __init__(
        self,
        app: Asgi,
        make_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`make_id` gives an id to a request without one; `environment` may name another header for sessions."""
        self._app, self._make_id = app, make_id
        self._texts = frozenset(_spellings(*_TEXTS, environment.get(_SESSION) or "x-session-id"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is no HTTP passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id: bytes | None = None
        ids = 0
        for name, value in scope["headers"]:
            if name not in self._texts:
                continue
            if wrong := _wrong(name, value):
                await _refuse(name, wrong, scope, self._make_id().encode(), send)
                return
            if name == _REQUEST_ID:
                ids += 1
                request_id = request_id or value.strip()
        if ids != 1 or not request_id or len(request_id) > REQUEST_ID_LIMIT_CHARS:
            known = _shortened(request_id) if request_id else self._make_id().encode()
            rest = [pair for pair in scope["headers"] if pair[0] != _REQUEST_ID]
            scope = {**scope, "headers": [*rest, (_REQUEST_ID, known)]}
        await self._app(scope, receive, send)


def _wrong(name: bytes, value: bytes) -> str:
    """What is wrong with a header of which Serve makes text; nothing: an empty text."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "is no UTF-8"
    return "has characters that cannot be printed" if name == _REQUEST_ID and not text.isprintable() else ""


def _shortened(request_id: bytes) -> bytes:
    """Its beginning, without half a character at the end."""
    return request_id[:REQUEST_ID_LIMIT_CHARS].decode(errors="ignore").encode()


def _spellings(*names: str) -> Iterator[bytes]:
    """Each name with `-` and `_` in every place where it has one of them: to Serve they are the same."""
    for name in names:
        parts = name.lower().replace("_", "-").split("-")
        for between in itertools.product("-_", repeat=len(parts) - 1):
            yield "".join(map("".join, zip(parts, (*between, ""), strict=True))).encode()


async def _refuse(name: bytes, wrong: str, scope: Scope, request_id: bytes, send: Send) -> None:
    from serving_runtime.exchange import spoken  # a proxy has no other use for what it imports

    words = f"header {name.decode()[:_LONGEST_SHOWN]}: it {wrong}. Send UTF-8, or leave it out."
    kind = CallKind.INFER if ends_in_v2(scope["path"]) else CallKind.INVOCATIONS
    answer = spoken(error_answer(400, "BAD_REQUEST", words), kind)
    about = ((b"content-length", str(len(answer.body)).encode()), (b"content-type", answer.content_type.encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": [*about, (_REQUEST_ID, request_id)]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})
