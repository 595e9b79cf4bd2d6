"""The systems that are a command of their own: `mlflow models serve`, MLServer, BentoML.

Each serves one model by the command that its documentation gives, with its defaults, on loopback. A server that does
not come up is a reason (`Stalled`), which becomes a row of the report.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pipelines.processes import LOOPBACK, ManagedProcess, free_port

from . import environments
from .matrix import BENTOML, MLFLOW, MLSERVER
from .models import MLFLOW_SETTINGS, LoggedModel
from .usage import Process, own_children, trees

READY_S = 120.0
"""Half a minute where all systems start at once on two cores."""
QUIET = {**MLFLOW_SETTINGS, "BENTOML_DO_NOT_TRACK": "true"}
"""No system reports to its makers during the benchmark."""

Command = tuple[list[str], Mapping[str, str]]


class Server:
    """One command with one model. Start and stop it once."""

    def __init__(self, system: str, model: LoggedModel, folder: Path, *, install: bool) -> None:
        """`folder` gets its settings and its log. Raises Stalled where it is not installed."""
        self._port = free_port()
        folder.mkdir(parents=True)
        command, environment = _COMMANDS[system](model, folder, self._port, install)
        self._process = ManagedProcess(
            system, command, folder / "log", env={**os.environ, **QUIET, **environment}, cwd=folder
        )
        self._roots: set[int] = set()

    def start(self) -> None:
        """Raises Stalled when it cannot be run."""
        before = own_children()
        self._process.start()
        self._roots = own_children() - before

    def wait(self, answers: Callable[[], bool]) -> None:
        """Until it answers. Raises Stalled with the end of its log when it does not."""
        self._process.wait_until(answers, "answering", READY_S)

    def stop(self) -> None:
        """With all that it has started."""
        self._process.stop()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{LOOPBACK}:{self._port}/invocations"

    def look(self) -> list[Process]:
        """Its processes."""
        return trees(self._roots)


def _mlflow(model: LoggedModel, _folder: Path, port: int, _install: bool) -> Command:
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "--model-uri", str(model.folder)]
    return [*command, "--host", LOOPBACK, "--port", str(port), "--env-manager", "local"], _path(
        Path(sys.executable).parent
    )


def _mlserver(model: LoggedModel, folder: Path, port: int, install: bool) -> Command:
    bin_folder = environments.prepare(MLSERVER, install=install)
    ports = {"http_port": port, "grpc_port": free_port({port}), "metrics_port": free_port({port})}
    (folder / "settings.json").write_text(json.dumps({"host": LOOPBACK, "debug": False, **ports}))
    runtime = {"implementation": "mlserver_mlflow.MLflowRuntime", "parameters": {"uri": str(model.folder)}}
    (folder / "model-settings.json").write_text(json.dumps({"name": model.name, **runtime}))
    return [str(bin_folder / "mlserver"), "start", str(folder)], _path(bin_folder)


def _bentoml(model: LoggedModel, folder: Path, port: int, install: bool) -> Command:
    bin_folder = environments.prepare(BENTOML, install=install)
    service = Path(__file__).with_name("bento_service.py")
    (folder / service.name).write_text(service.read_text())
    command = [str(bin_folder / "bentoml"), "serve", f"{service.stem}:Scoring", "--host", LOOPBACK]
    own = {"BENTOML_HOME": str(folder / "home"), "BENCH_MODEL": str(model.folder)}
    return [*command, "--port", str(port)], {**_path(bin_folder), **own}


def _path(bin_folder: Path) -> dict[str, str]:
    """What a shell has after `activate`: a server that starts `python` or `uvicorn` finds its own."""
    return {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(bin_folder.parent)}


_COMMANDS: Mapping[str, Callable[[LoggedModel, Path, int, bool], Command]] = {
    MLFLOW: _mlflow,
    MLSERVER: _mlserver,
    BENTOML: _bentoml,
}
