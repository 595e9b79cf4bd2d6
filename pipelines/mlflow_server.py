"""A real MLflow server on this machine, for a first try and for tests.

Rules:
- It keeps everything in one folder: the database (SQLite), the artifacts, the log. The same folder again is the same
  registry.
- Clients reach artifacts through the server (`mlflow-artifacts:`), so that nobody else needs the folder.
- What the registry does not need stays off: background jobs (a runner with a process for each kind of job),
  telemetry, all workers but one.

It must not be used for anything that others depend on: no authentication, no TLS, loopback only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.processes import LOOPBACK, ManagedProcess, answers, free_port, port_is_free
from policies.errors import Stalled

READY_S = 120.0
"""Importing mlflow and creating the database took 10-15 s on two busy cores; a slow disk multiplies that."""
_QUIET: Mapping[str, str] = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Ours without MLflow's own settings: those are meant for clients, and some would make the server another one."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    return {**kept, **_QUIET}


class MlflowServer:
    """`mlflow server` below `folder`, on `port` of the loopback interface (none: a free one); a context manager."""

    def __init__(self, folder: Path, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are MLflow's own environment variables."""
        self.folder = folder.absolute()
        self.port = port or free_port()
        environment = {**_environment(os.environ), **(settings or {})}
        self.process = ManagedProcess("MLflow", self._command(), self.log, env=environment, cwd=self.folder)

    @property
    def address(self) -> str:
        """The tracking URI."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "mlflow.log"

    def start(self) -> Self:
        """Start it and wait until it answers. Raises Stalled, with the end of its log, when it does not."""
        if not port_is_free(self.port):  # whoever listens there may well answer /health
            raise Stalled(f"MLflow cannot listen on port {self.port}: another process does; choose another port")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.process.start()
            self.process.wait_until(lambda: answers(f"{self.address}/health"), f"answering at {self.address}", READY_S)
        except BaseException:  # a person's interrupt too: nothing is left behind
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it with its workers. Safe to repeat; the folder stays."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts"),
            *("--host", LOOPBACK, "--port", str(self.port), "--workers", "1"),
            *("--uvicorn-opts", "--no-access-log"),  # a line for each look would hide the others
        ]
