"""Processes of the local stack: start one, wait until it answers, stop it with everything it started.

Rules:
- A command is a list, never a shell string, and stays in the foreground.
- Nothing outlives us: a guard (`process_guard.py`) is the parent of each command and ends its whole family when we stop
  it and when we die, also by SIGKILL.
- Whoever waits is told why waiting is over: ready, or the reason with the last lines of the log.

It must not know what it runs: MLflow, Git, Prometheus and Ray each have a module of their own.
"""

from __future__ import annotations

import http.client
import logging
import os
import select
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from policies.errors import Stalled

_GUARD = Path(__file__).with_name("process_guard.py")
_LOG = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
POLL_S = 0.05
"""Between two tries of a condition: short beside any start-up, and no load."""
_SIGNAL_EXIT = 128
"""The guard counts as shells do: 128 + the number of the signal that ended the command."""
GUARD_START_S = 20.0
"""The guard reports after 20-50 ms; a machine on which that takes this long cannot run the stack."""
STOP_GRACE_S = 10.0
"""From SIGTERM to SIGKILL: servers finish their requests in well under this, and a person waits at Ctrl-C."""
STOP_MARGIN_S = 5.0
"""For the guard to see the last of them go after its SIGKILL."""
LOG_LINES = 20
"""Of the log in a reason: a Python traceback's end and the error before it."""
LOG_BYTES = 4000
"""The same in bytes, for lines without end."""
REPORT_BYTES = 1000
"""A pid, or the operating system's words for why there is none."""


class ManagedProcess:
    """One command with everything it starts. Start and stop it once; also a context manager (`start` ... `stop`)."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        """`name` is for people; `log` gets both outputs, appended; `env` None means ours, else exactly these."""
        self.name, self.command, self.log = name, list(command), log
        self._env, self._cwd, self._grace_s = env, cwd, grace_s
        self._guard: subprocess.Popen[bytes] | None = None
        self._control: int | None = None
        self._pid: int | None = None

    def start(self) -> Self:
        """Start the command. Raises Stalled when it cannot be run (not installed, no folder), in words."""
        if self._guard is not None:
            raise RuntimeError(f"{self.name} was started before")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        stop_reading, self._control = os.pipe()
        report_reading, report_writing = os.pipe()
        try:
            self._guard = self._start_guard(stop_reading, report_writing)
        finally:
            os.close(stop_reading)
            os.close(report_writing)
        self._pid = self._read_report(report_reading)
        _LOG.info("%s started, pid %d, log %s", self.name, self._pid, self.log)
        return self

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until `ready()`. Raises Stalled with the log's end when it takes longer or the command ends before.

        `what` completes a sentence: "answering on port 5000". `timeout_s` in seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise Stalled(f"{self.name} ended ({self._exit()}) before it was {what}{self._log_end()}")
            if time.monotonic() > deadline:
                raise Stalled(f"{self.name}: not {what} after {timeout_s:g} s{self._log_end()}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """SIGTERM to the command and all it started, SIGKILL after the grace; returns when they are gone.

        Safe to repeat, and before the start.
        """
        if self._control is not None:
            os.close(self._control)
            self._control = None
        if self._guard is None or self._guard.returncode is not None:
            return
        try:
            self._guard.wait(self._grace_s + STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # which takes the command along (PR_SET_PDEATHSIG)
            self._guard.wait()
            _LOG.warning("%s did not end in %g s and was killed with its guard", self.name, self._grace_s)

    @property
    def pid(self) -> int:
        """The command's own pid. Raises RuntimeError before the start."""
        if self._pid is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._pid

    @property
    def running(self) -> bool:
        """True from the start until the command and everything it started have ended."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The command's, 128 + signal number when a signal ended it; None while it runs."""
        return None if self._guard is None else self._guard.poll()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start_guard(self, control: int, report: int) -> subprocess.Popen[bytes]:
        arguments = [str(control), str(report), str(self._grace_s), *self.command]
        with self.log.open("ab") as output:
            try:
                return subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_GUARD), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(control, report),
                    env=self._env,
                    cwd=self._cwd,
                    start_new_session=True,  # Ctrl-C reaches us only, and we stop things in their order
                )
            except OSError as error:
                self.stop()
                raise Stalled(f"{self.name} could not be started: {error}") from error

    def _read_report(self, pipe: int) -> int:
        with os.fdopen(pipe, "rb", buffering=0) as reading:
            answered, _, _ = select.select([reading], [], [], GUARD_START_S)
            report = reading.read(REPORT_BYTES) if answered else b""
        if report.isdigit():
            return int(report)
        self.stop()
        why = report.decode(errors="replace").removeprefix("!") or "its guard did not report"
        raise Stalled(f"{self.name} could not be started: {self.command[0]}: {why}{self._log_end()}")

    def _exit(self) -> str:
        code = self.exit_code or 0
        return f"exit code {code}" if code <= _SIGNAL_EXIT else f"signal {code - _SIGNAL_EXIT}"

    def _log_end(self) -> str:
        end = log_end(self.log)
        return f"; the end of {self.log}:\n{end}" if end else f"; {self.log} is empty"


def log_end(log: Path) -> str:
    """The last lines of a log file, at most LOG_LINES and LOG_BYTES; empty when there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as reading:
        reading.seek(max(0, log.stat().st_size - LOG_BYTES))
        text = reading.read(LOG_BYTES).decode(errors="replace")
    return "\n".join(text.splitlines()[-LOG_LINES:])


def free_port(taken: set[int] | None = None) -> int:
    """A loopback port nobody listens on now, none of `taken`. A faster process makes the start fail."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in (taken or set()):
            return port


def port_is_free(port: int) -> bool:
    """Could a server listen on this loopback port now?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections do not count
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def answers(url: str, timeout_s: float = 1.0) -> bool:
    """Does `url` answer 200 within `timeout_s` seconds? Asks directly, whatever proxies the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (
        OSError,
        http.client.HTTPException,
    ):  # refused, timed out, an error status; a half-started server's nonsense
        return False
