"""A Git server over HTTP for the local stack and for tests: `git http-backend` behind a small ASGI application.

    python -m pipelines.git_server --root DIR --port N

Rules:
- Real pushes, rejections and server hooks: every request is answered by Git's own `http-backend`, one process each, at
  most BACKENDS at once. It goes when its client goes, or at its deadline.
- Loopback only, and only for clients who say so in the Host header: a web page that renames itself to 127.0.0.1 cannot
  push. Where SLUICE_GIT_TOKEN is set, every request must carry it (Bearer, or Basic with any user).
- Only the smart protocol's three services of the bare repos directly below the root; nothing else is a path.
- Bodies are streamed both ways and counted; compressed ones are unpacked by Git, which counts again.

This is no server for a team: no users, no TLS. It must not know what the repos hold.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import dataclasses
import hmac
import logging
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from policies.errors import BadInput, Stalled

_LOG = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
TOKEN_VARIABLE: Final = "SLUICE_GIT_TOKEN"
HEALTH: Final = "/healthz"
"""Answers 200 once the server is up."""
BACKENDS: Final = 8
"""Git processes at once: a fetch takes some 20 ms of CPU, and this machine has more to do than Git."""
QUEUE_S: Final = 30.0
"""Seconds that a request waits for its turn; half of what our own client waits in all."""
BACKEND_S: Final = 300.0
"""Seconds for one request: as long as a client waits for a clone."""
MAX_BODY_BYTES: Final = 256 * 1024 * 1024
"""Of one request as sent, and of a push unpacked: as much as the config repo may hold."""
MAX_HEAD_BYTES: Final = 16 * 1024
"""Of the backend's own header lines; it writes about ten."""
CHUNK_BYTES: Final = 64 * 1024
SHUTDOWN_S: Final = 5
"""Seconds for requests in progress when the server is told to stop."""

_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SERVICES: Final = {"git-upload-pack", "git-receive-pack"}


def create_repo(root: Path, name: str, branch: str = "main") -> Path:
    """An empty bare repo `<root>/<name>.git` that takes pushes; one that exists stays as it is. Its folder.

    It is served at `/<name>.git`, its hooks lie in its `hooks/`. Raises BadInput for a bad name, Stalled if git fails.
    """
    if not _REPO.fullmatch(name) or name.endswith(".git") or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", branch):
        raise BadInput(f"{name[:100]!r} with branch {branch[:100]!r}: letters, digits and . _ - only, without .git")
    folder = root / f"{name}.git"
    if not (folder / "HEAD").is_file():
        root.mkdir(parents=True, exist_ok=True)
        command = ["git", "init", "--quiet", "--bare", "--template=", f"--initial-branch={branch}", str(folder)]
        made = subprocess.run(command, env=_environment(), capture_output=True, timeout=BACKEND_S, check=False)
        if made.returncode != 0:
            raise Stalled(f"{folder} could not be made: {made.stderr.decode(errors='replace').strip()}")
        (folder / "hooks").mkdir(exist_ok=True)
    return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes on."""

    backends: int = BACKENDS
    queue_s: float = QUEUE_S
    backend_s: float = BACKEND_S
    max_body_bytes: int = MAX_BODY_BYTES


def create_app(root: Path, token: str | None = None, limits: Limits | None = None) -> Starlette:
    """The server of the bare repos below `root`; with a token every request must carry it."""
    backend = _Backend(root.resolve(), token, limits or Limits())
    return Starlette(
        routes=[Route(HEALTH, _health), Route("/{repo}.git/{service:path}", backend)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])],
    )


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.git_server", description="Git over HTTP on loopback")
    parser.add_argument("--root", type=Path, required=True, help="folder with the bare repos")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app = create_app(arguments.root, os.environ.get(TOKEN_VARIABLE) or None)
    uvicorn.run(
        app,
        host=LOOPBACK,
        port=arguments.port,
        log_level="info",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


class _Backend:
    """The ASGI application of one route: each request becomes one `git http-backend`."""

    def __init__(self, root: Path, token: str | None, limits: Limits) -> None:
        self._root, self._token, self._limits = root, token, limits
        self._turns = asyncio.Semaphore(limits.backends)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(Request(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            await asyncio.wait_for(self._turns.acquire(), self._limits.queue_s)
        except TimeoutError:
            busy = PlainTextResponse("too many requests at once\n", 503, {"Retry-After": "5"})
            await busy(scope, receive, send)
            return
        try:
            await _Exchange(receive, send, self._limits).run(self._cgi(Request(scope)))
        finally:
            self._turns.release()

    def _refusal(self, request: Request) -> Response | None:
        """Why this request is not for Git, as an answer; none where it is."""
        if self._token is not None and not _carries(request.headers, self._token):
            return PlainTextResponse("a token is needed\n", 401, {"WWW-Authenticate": 'Basic realm="sluicegate"'})
        if not _is_smart(request):
            return PlainTextResponse("only Git's smart protocol is spoken here\n", 404)
        repo = self._root / f"{request.path_params['repo']}.git"
        if not _REPO.fullmatch(request.path_params["repo"]) or repo.is_symlink() or not (repo / "HEAD").is_file():
            return PlainTextResponse("no such repo\n", 404)
        if int(request.headers.get("content-length", "0")) > self._limits.max_body_bytes:
            return PlainTextResponse("too large\n", 413)
        return None

    def _cgi(self, request: Request) -> dict[str, str]:
        """The request as the environment of a CGI program (RFC 3875)."""
        headers = request.headers
        given = {
            "CONTENT_LENGTH": headers.get("content-length"),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding"),
            "GIT_PROTOCOL": headers.get("git-protocol"),
        }
        return {
            **_environment(self._limits.max_body_bytes),
            **{name: value for name, value in given.items() if value is not None},
            "GIT_PROJECT_ROOT": str(self._root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": f"/{request.path_params['repo']}.git/{request.path_params['service']}",
            "QUERY_STRING": str(request.url.query),
            "CONTENT_TYPE": headers.get("content-type", ""),
            "REMOTE_USER": "local",  # who is let in may push: http-backend wants a name for that
            "REMOTE_ADDR": LOOPBACK,
            "SERVER_PROTOCOL": "HTTP/1.1",
        }


class _Exchange:
    """One request through one process: its body in, the answer out, both as they come."""

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._started = False
        self._failure = 500
        """What is answered where the process answers nothing."""
        self._gone = False
        """Has the client hung up?"""

    async def run(self, environment: Mapping[str, str]) -> None:
        """Returns when the answer is sent, or the process is gone because the client is or the deadline passed."""
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it repeats what it answers; hooks speak to the client
            start_new_session=True,
        )
        feeding = asyncio.create_task(self._feed(process))
        try:
            async with asyncio.timeout(self._limits.backend_s):
                await self._answer(process)
        except TimeoutError:
            _LOG.warning(
                "git http-backend %d took longer than %g s and was stopped", process.pid, self._limits.backend_s
            )
            await self._fail(504)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            _end(process)
            await process.wait()

    async def _feed(self, process: asyncio.subprocess.Process) -> None:
        """The body to the process; then wait for the client to hang up, which ends the process."""
        taken, stdin = 0, process.stdin
        while stdin is not None:
            message = await self._receive()
            taken += len(message.get("body", b""))
            self._gone = message["type"] == "http.disconnect"
            if self._gone or taken > self._limits.max_body_bytes:
                self._failure = 413
                _end(process)
                return
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # Git has heard enough and answers
                stdin.write(message.get("body", b""))
                await stdin.drain()
            if not message.get("more_body", False) and not stdin.is_closing():
                stdin.close()

    async def _answer(self, process: asyncio.subprocess.Process) -> None:
        out = process.stdout
        head = await _read_head(out) if out is not None else None
        if out is None or head is None:
            await self._fail(self._failure)
            return
        status, headers = head
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._started = True
        while chunk := await out.read(CHUNK_BYTES):
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        if await process.wait() < 0 and not self._gone:
            # Killed: the answer is cut short and its reader must notice, so no last chunk is sent.
            raise ConnectionAbortedError(f"git http-backend was ended by signal {-(process.returncode or 0)}")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _fail(self, status: int) -> None:
        if not self._started:
            await self._send({"type": "http.response.start", "status": status, "headers": []})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read_head(out: asyncio.StreamReader) -> tuple[int, list[tuple[bytes, bytes]]] | None:
    """Status and headers of a CGI answer; none where there is no answer."""
    status, size = 200, 0
    headers: list[tuple[bytes, bytes]] = []
    while line := await out.readline():
        size += len(line)
        name, _, value = line.strip().partition(b":")
        if not name:
            return status, headers
        if size > MAX_HEAD_BYTES:
            break
        if name.lower() == b"status":
            status = int(value.split()[0])
        else:
            headers.append((name.lower(), value.strip()))
    return None


def _is_smart(request: Request) -> bool:
    """Is it one of the smart protocol's three requests?"""
    service = request.path_params["service"]
    if service == "info/refs":
        return request.method == "GET" and request.url.query in {f"service={name}" for name in _SERVICES}
    return request.method == "POST" and service in _SERVICES and not request.url.query


def _carries(headers: Headers, token: str) -> bool:
    """Does the request carry the token, as Bearer or as the password of Basic?"""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.encode(), token.encode())


def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process and what it started, hooks included, if it still runs."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended while we looked
            os.killpg(process.pid, signal.SIGKILL)


def _environment(max_input_bytes: int = MAX_BODY_BYTES) -> dict[str, str]:
    """For every git here: where programs are, and no configuration but ours. Hooks get the same; never the token."""
    config = {"http.receivepack": "true", "receive.maxInputSize": str(max_input_bytes), "gc.autoDetach": "false"}
    numbered = {f"GIT_CONFIG_KEY_{n}": key for n, key in enumerate(config)}
    numbered |= {f"GIT_CONFIG_VALUE_{n}": value for n, value in enumerate(config.values())}
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": str(len(config)),
        **numbered,
    }


if __name__ == "__main__":
    main()
