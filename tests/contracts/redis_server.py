"""A real Redis for tests: on a socket in a folder, or over TLS on a loopback port; killed, halted, started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from pipelines.processes import LOOPBACK, ManagedProcess, free_port

BINARY = "redis-server"
READY_S = 20.0  # it is ready after 10 ms
PASSWORD = "open-sesame"  # of a server that lives for one test


class RedisServer:
    """One Redis that keeps nothing; also a context manager."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """`arguments` are further ones of redis-server."""
        if shutil.which(BINARY) is None:
            pytest.fail("redis-server is missing: make setup installs it, or says how")
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._folder, self._arguments = folder, arguments
        self._process: ManagedProcess | None = None

    def start(self) -> Self:
        """Start it and wait until it answers."""
        about = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self._folder)]
        self._process = ManagedProcess("Redis", [BINARY, *about, *self._arguments], self._folder / "redis.log").start()
        self._process.wait_until(self._answers, "an answer", READY_S)
        return self

    def stop(self) -> None:
        """End it, also one that is halted."""
        if self._process is not None:
            if self._process.running:
                self.go_on()
            self._process.stop()

    def kill(self) -> None:
        """As a machine that dies."""
        process = self._running()
        os.kill(process.pid, signal.SIGKILL)
        process.stop()
        self.socket.unlink(missing_ok=True)

    def halt(self) -> None:
        """From now on it accepts connections and answers nothing."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After `halt`."""
        os.kill(self._running().pid, signal.SIGCONT)

    def command(self, *parts: Any) -> Any:
        """What Redis answers to a command."""
        import redis

        with redis.Redis(unix_socket_path=str(self.socket), decode_responses=True) as client:
            return client.execute_command(*parts)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _running(self) -> ManagedProcess:
        assert self._process is not None
        return self._process

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.socket))
            except OSError:
                return False
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))


class TlsRedis(RedisServer):
    """One that wants a password, over TLS, with a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        self.port, self.certificate = free_port(), folder / "certificate.pem"
        key = folder / "key.pem"
        subject = ["-subj", f"/CN={LOOPBACK}", "-addext", f"subjectAltName=IP:{LOOPBACK}"]
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        subprocess.run(
            ["openssl", "req", *kind, *subject, "-keyout", str(key), "-out", str(self.certificate)],
            check=True,
            capture_output=True,
        )
        tls = ["--tls-port", str(self.port), "--tls-cert-file", str(self.certificate), "--tls-key-file", str(key)]
        ca = ["--tls-ca-cert-file", str(self.certificate), "--tls-auth-clients", "no"]
        super().__init__(folder, *tls, *ca, "--bind", LOOPBACK, "--requirepass", PASSWORD)
        self.url = f"rediss://:{PASSWORD}@{LOOPBACK}:{self.port}/0"
