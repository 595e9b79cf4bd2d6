"""A small HTTP server in a thread of this process: started, asked for its port, stopped.

It must not know what it serves.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from types import TracebackType
from typing import Any, Final, Self

import uvicorn

from policies.errors import Stalled

_LOG = logging.getLogger(__name__)

START_S: Final = 10.0
"""A server without a lifespan listens within 50 ms."""
STOP_S: Final = 5
"""For requests in progress when it is told to stop."""
CONNECTIONS: Final = 64
"""At once; more are answered 503."""


class HttpThread:
    """Serves one ASGI application at `host:port`; port 0 takes a free one. A context manager."""

    def __init__(self, app: Any, host: str, port: int, *, connections: int = CONNECTIONS, **options: Any) -> None:
        """`options` are uvicorn's own (a certificate)."""
        self._host, self._port = host, port
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=connections,
            timeout_graceful_shutdown=STOP_S,
            **options,
        )
        self._server = uvicorn.Server(self._config)
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    def start(self) -> Self:
        """Listen. Raises Stalled where the address cannot be had."""
        try:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            self._socket = socket.create_server((self._host, self._port), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            raise Stalled(f"nobody can listen on {self._host}:{self._port}: {error}; choose another address") from error
        self._port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"http-{self._port}", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Safe to repeat. What is in progress is finished first."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(START_S + STOP_S)
            self._thread = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        with contextlib.suppress(SystemExit):  # how uvicorn says that it could not start; its log says why
            self._server.run(sockets=[self._socket] if self._socket else None)
