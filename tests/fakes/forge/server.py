"""The HTTP side of the test forge: Git below `/<name>.git`, one dialect's API, webhooks as that forge signs them."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import requests
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from pipelines.git_server import create_app
from pipelines.http_thread import HttpThread
from tests.fakes.forge.hub import Hub, Person, Refused

GIT_TOKEN = "git-token"


class Call:
    """One request, read: who asks, the path's parts, the query, the body."""

    def __init__(self, request: Request, by: Person | None, body: Any) -> None:
        self.by_or_none, self.body, self.query = by, body, request.query_params
        self.path, self.url, self.headers = request.path_params, request.url, request.headers
        self.raw_path: bytes = request.scope["raw_path"]

    @property
    def by(self) -> Person:
        if self.by_or_none is None:
            raise Refused("unauthorized")
        return self.by_or_none

    def number(self, name: str = "number") -> int:
        return int(self.path[name])


Handler = Callable[[Call], Response]


class Dialect(Protocol):
    """One forge's API."""

    api: str

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        """By method and path below `api`; `{name}` and `{name:path}` are the path's parts."""

    def token(self, headers: Mapping[str, str]) -> str:
        """What the request shows."""

    def refusal(self, kind: str) -> Response:
        """The answer for what the hub refuses."""

    def limit(self, headers: Mapping[str, str], status: int) -> Response:
        """The answer to whom asks too much."""

    def signed(self, secret: str, event: str, body: bytes) -> Mapping[str, str]:
        """Headers of a webhook."""


class ForgeServer:
    """A context manager. `hub` is what it keeps; `hooks` are addresses and secrets that it tells."""

    def __init__(self, folder: Path, dialect: Callable[[Hub], Dialect], **options: Any) -> None:
        self._tls = "ssl_certfile" in options
        self._speaks = dialect
        self._http = HttpThread(self._answered, "127.0.0.1", 0, **options)
        self.fresh(folder)

    def fresh(self, folder: Path) -> None:
        """Another forge, with an empty repo in this folder, at the same address."""
        self.hub = Hub(folder)
        self.hub.url, self.hub.emit = self.url, self.tell
        self.dialect = self._speaks(self.hub)
        self.hooks: list[tuple[str, str]] = []
        self.delivered: list[int] = []
        routes = [
            Route(self.dialect.api + path, self._endpoint(handler), methods=[method])
            for (method, path), handler in self.dialect.routes().items()
        ]
        self._git = create_app(folder, GIT_TOKEN)
        self._app = Starlette(routes=[*routes, Mount("/", self._git_app)])

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._http.port}"

    @property
    def clone_url(self) -> str:
        return self.url.replace("//", f"//git:{GIT_TOKEN}@") + f"/{self.hub.name}.git"

    def __enter__(self) -> Self:
        self._http.start()
        self.hub.url = self.url
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.stop()

    def tell(self, event: str, payload: Mapping[str, Any]) -> None:
        """Send a webhook to whoever is registered, and wait for the answer."""
        for url, secret in self.hooks:
            body = json.dumps(payload).encode()
            headers = {"Content-Type": "application/json", **self.dialect.signed(secret, event, body)}
            self.delivered.append(requests.post(url, data=body, headers=headers, timeout=10).status_code)

    async def _git_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._git(scope, receive, send)
        if scope["path"].endswith("git-receive-pack"):
            await run_in_threadpool(self.hub.pushed)

    def _endpoint(self, handler: Handler) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            raw = await request.body()
            return await run_in_threadpool(self._answer, handler, request, raw)

        return answer

    def _answer(self, handler: Handler, request: Request, raw: bytes) -> Response:
        hub = self.hub
        hub.requests.append((request.method, request.url.path))
        if hub.broken:
            hub.broken -= 1
            return Response("<html>502</html>", 502)
        if hub.limits:
            limit = hub.limits.pop(0)
            reset = str(int(hub.now().timestamp()) + limit.seconds)
            headers = {"x-ratelimit-reset": reset} if limit.spent else {"retry-after": str(limit.seconds)}
            spent = {"x-ratelimit-remaining": "0"} if limit.spent else {}
            return self.dialect.limit({**headers, **spent}, limit.status)
        try:
            by = hub.people.get(self.dialect.token(request.headers))
            return handler(Call(request, by, json.loads(raw) if raw else {}))
        except Refused as refused:
            return self.dialect.refusal(refused.kind)


def page(call: Call, hub: Hub, items: list[Any], size: str) -> Response:
    """One page, with a `Link` to the next as RFC 8288 writes it and all three forges send it."""
    limit = min(int(call.query.get(size, 30)), hub.page_limit)
    number = int(call.query.get("page", 1))
    shown, more = items[(number - 1) * limit : number * limit], number * limit < len(items)
    address = hub.url + call.raw_path.decode()  # as it was asked for, percent-encoded
    link = f'<{address}?{call.url.include_query_params(page=number + 1).query}>; rel="next"'
    return JSONResponse(shown, headers={"link": link} if more else {})


def hub_signature(secret: str, event: str, body: bytes) -> dict[str, str]:
    """As https://docs.github.com/en/webhooks/webhook-events-and-payloads#delivery-headers says."""
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": f"sha256={signature}",
    }
