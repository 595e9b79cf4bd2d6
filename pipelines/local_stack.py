"""Everything on one machine: MLflow, Git over HTTP, Ray Serve, Prometheus, the reconciler; for a first try and tests.

Rules:
- Each part is the real one, on a free loopback port, with its own folder below the stack's; the same folder again is
  the same registry and the same config repo, at the ports of before where they are free.
- The reconciler is a process of its own (`sluice run`), as it would be anywhere else.
- Whatever was started is stopped, in reverse, also when a later part cannot be started.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines import stack_file
from pipelines.commands.init import Answers, repo_files
from pipelines.git_server import HEALTH, create_repo
from pipelines.kept_ports import KeptPorts
from pipelines.mlflow_server import MlflowServer
from pipelines.processes import LOOPBACK, ManagedProcess, answers
from pipelines.prometheus_server import PrometheusServer
from pipelines.ray_session import RaySession
from pipelines.settings import Settings, settings
from pipelines.stack_documents import Addresses, Signing, fill
from pipelines.wiring import config_repo, trust
from policies.errors import Stalled
from registry_bridge.config_repo import ConfigRepo

_LOG = logging.getLogger(__name__)

REPO = "config"
ENVIRONMENT = "production"
SCRAPE = timedelta(seconds=1)
"""Evidence in bins of a second: a local story is over in minutes."""
LOOK = timedelta(seconds=1)
GIT_READY_S = 60.0
"""uvicorn starts in 1-3 s; two busy cores multiply that."""


class LocalStack:
    """The parts and their addresses. A context manager: entered it runs, left it is gone."""

    def __init__(
        self,
        folder: Path,
        *,
        models: tuple[str, ...] = (),
        documents: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _line: None,
        reconcile: bool = True,
        ray: RaySession | None = None,
        grpc: bool = False,
    ) -> None:
        """`documents` are added to the config repo that `sluice init` writes, by path.

        `ray` is a session that runs already and is somebody else's to stop; `reconcile=False` starts no reconciler.
        `grpc`: models answer gRPC, too; a session that runs already must have been started for it.
        """
        self.folder = folder.absolute()
        self._models, self._documents, self._say = models, dict(documents or {}), say
        self._reconcile, self._own_ray, self._grpc = reconcile, ray is None, grpc
        self._ports = KeptPorts(self.folder / "ports.json")
        self.ray = ray or RaySession(self.folder / "ray", grpc=grpc, ports=self._ports.of_before)
        self.mlflow = MlflowServer(self.folder / "mlflow", self._ports.of("mlflow"))
        self._git_port = self._ports.of("git")
        self.prometheus: PrometheusServer | None = None
        self.reconciler: ManagedProcess | None = None
        self._parts = ExitStack()

    # --- addresses ------------------------------------------------------------------------------------------------

    @property
    def tracking_uri(self) -> str:
        """MLflow."""
        return self.mlflow.address

    @property
    def repo_url(self) -> str:
        """The config repo."""
        return f"http://{LOOPBACK}:{self._git_port}/{REPO}.git"

    @property
    def status_path(self) -> Path:
        """The reconciler's last words."""
        return self.folder / "status.json"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that lead `sluice` and Ray's clients to this stack."""
        return {"SLUICE_REPO": self.repo_url, "SLUICE_CACHE": str(self.folder / "cache"), **self.ray.environment}

    @property
    def repo(self) -> ConfigRepo:
        """A door to the config repo with a clone of its own, beside the reconciler's."""
        return config_repo(self._settings)

    @property
    def _settings(self) -> Settings:
        return settings({**os.environ, **self.environment, "SLUICE_CACHE": str(self.folder / "readers")})

    # --- starting and stopping --------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start every part and wait until each answers. Raises Stalled, with what to do, when one does not."""
        try:
            self._start()
        except BaseException:  # a person's interrupt too: nothing is left behind
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop what was started, the reconciler first."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._parts.enter_context(_only_one(self.folder))
        with ThreadPoolExecutor(max_workers=3) as pool:
            starts = [pool.submit(start) for start in (self._start_git, self._start_mlflow, self._start_ray)]
            for start in starts:
                start.result()
        self._start_prometheus()
        self._keep_ports()
        self._write_repo()
        if self._reconcile:
            self.start_reconciler()
        addresses = {
            "mlflow": self.tracking_uri,
            "git": self.repo_url,
            "ray": self.ray.dashboard,
            "serve": self.ray.http,
            **({"grpc": self.ray.grpc} if self._grpc else {}),
        }
        stack_file.write(self.folder, self.environment, addresses)
        self._parts.callback(stack_file.remove, self.folder)

    def _keep_ports(self) -> None:
        ports = {"mlflow": self.mlflow.port, "git": self._git_port}
        if self.prometheus is not None:
            ports["prometheus"] = self.prometheus.port
        self._ports.keep({**ports, **(self.ray.ports if self._own_ray else {})})

    def _start_git(self) -> None:
        root = self.folder / "git"
        create_repo(root, REPO)
        command = [sys.executable, "-m", "pipelines.git_server", "--root", str(root), "--port", str(self._git_port)]
        server = ManagedProcess("the Git server", command, self.folder / "git.log")
        self._parts.callback(server.stop)
        server.start()
        url = f"http://{LOOPBACK}:{self._git_port}{HEALTH}"
        server.wait_until(lambda: answers(url), f"answering at {url}", GIT_READY_S)

    def _start_mlflow(self) -> None:
        self._parts.callback(self.mlflow.stop)
        self.mlflow.start()
        self._say(f"MLflow            {self.tracking_uri}")

    def _start_ray(self) -> None:
        if self._own_ray:
            self._parts.callback(self.ray.stop)
            self.ray.start()
        self._say(f"Ray dashboard     {self.ray.dashboard}")
        self._say(f"Ray Serve         {self.ray.http}")
        if self._grpc:
            self._say(f"gRPC              {self.ray.grpc}")
        self._say(f"replica logs      {self.ray.replica_logs}")

    def _start_prometheus(self) -> None:
        self.prometheus = PrometheusServer(
            self.folder / "prometheus",
            scrape_interval=SCRAPE,
            discovery=[self.ray.discovery],
            port=self._ports.of("prometheus"),
        )
        self._parts.callback(self.prometheus.stop)
        self.prometheus.start()
        self._say(f"Prometheus        {self.prometheus.url}")

    def start_reconciler(self) -> ManagedProcess:
        """Start `sluice run` as a process of its own."""
        command = [sys.executable, "-m", "pipelines.cli", "run", "--status-file", str(self.status_path)]
        environment = {**os.environ, **self.environment}
        self.reconciler = ManagedProcess("the reconciler", command, self.folder / "reconciler.log", env=environment)
        self._parts.callback(self.reconciler.stop)
        self.reconciler.start()
        self._say(f"reconciler        {self.folder / 'reconciler.log'}")
        return self.reconciler

    # --- the config repo ------------------------------------------------------------------------------------------

    def _write_repo(self) -> None:
        """The first commit of a new repo; in one that exists, what this start brings."""
        if self.prometheus is None:
            raise RuntimeError("Prometheus is started first: its address goes into sluice.yaml")
        answers_given = Answers(
            environment=ENVIRONMENT,
            registry=self.tracking_uri,
            ray=self.ray.dashboard,
            prometheus=self.prometheus.url,
            scrape_interval=SCRAPE,
            look_interval=LOOK,
            grpc=self._grpc,
            models=self._models,
        )
        files = dict(repo_files(answers_given))
        if not self._models:  # the example is for a first start without anything else to serve
            example = {path: text for path, text in files.items() if path.startswith("models/")}
            files = {path: text for path, text in files.items() if path not in example}
            self._documents = self._documents or example
        addresses = Addresses(
            environment=ENVIRONMENT,
            registry=self.tracking_uri,
            ray=self.ray.dashboard,
            prometheus=self.prometheus.url,
            grpc=self._grpc,
        )
        given = self._settings
        signing = Signing(trust=trust(given), key=given.signing_key is not None)
        for line in fill(self.repo, files, self._documents, addresses, signing):
            self._say(line)
        self._say(f"Git server        {self.repo_url}")  # not before: what is cloned earlier is empty


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two stacks on one folder would share a registry and push their addresses over each other's. Raises Stalled."""
    with (folder / "lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stalled(f"a local stack runs in {folder} already: stop it, or name another folder") from None
        yield
