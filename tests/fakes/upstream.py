"""What stands behind a proxy in tests: a replica over real HTTP, and two routes that misbehave as a test needs it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self

import uvicorn

from pipelines.processes import free_port
from tests.conditions import wait_until

READY_S = 10.0
Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class Upstream:
    """A context manager. `/models/stream` sends a piece each time it is let to; `/models/hang` never answers."""

    def __init__(self, replica: Any) -> None:
        self._replica = replica
        self.heard: list[dict[str, str]] = []
        """The headers of each request."""
        self.pieces = threading.Semaphore(0)
        self.port = free_port()
        config = uvicorn.Config(
            self._answer, port=self.port, log_level="warning", lifespan="off", interface="asgi3", proxy_headers=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, READY_S, "the upstream")
        return self

    def __exit__(self, *_about: object) -> None:
        self.pieces.release(1000)
        self._server.force_exit = self._server.should_exit = True
        self._thread.join()

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.heard.append({name.decode(): value.decode() for name, value in scope["headers"]})
        match scope["path"]:
            case "/models/stream":
                await self._stream(send)
            case "/models/hang":
                while (await receive())["type"] != "http.disconnect":
                    pass
            case _:
                await self._replica(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await asyncio.to_thread(self.pieces.acquire)
            await send({"type": "http.response.body", "body": f"{number}\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
