"""A Ray head with Serve on this machine, for the local stack and the tests: started, waited for and stopped.

Rules:
- It shares nothing with another Ray on the machine: an own temp folder, free ports for everything that listens (Ray's,
  HAProxy's, the replicas' own), and no RAY_* variable of ours reaches it.
- Token authentication is on, with a token of its own in a file only we can read: whoever reaches the dashboard can run
  code, and loopback belongs to every user of the machine. Ray also listens on the node's address (it turns 127.0.0.1
  into that by itself), HAProxy's metrics and Ray's metrics on all of them: the token is what protects it.
- The fast mode and the metrics settings of a production cluster, so that what is measured here holds there.
- `stop` ends exactly what this session started, also after an interrupt, and also when we are killed (`processes.py`).
- The logs of Ray and of the replicas are found below our own folder while it runs and afterwards (`logs`): an answer
  500 sends people there.

It must not deploy anything: that is the reconciler's, through `serving_runtime/ray_cluster.py`.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.processes import LOOPBACK, ManagedProcess, free_port, port_is_free
from policies.errors import Stalled
from serving_runtime import doorstep
from serving_runtime.node_settings import ADVISED_BYTES, MESSAGE_LIMIT
from serving_runtime.ray_cluster import RayCluster, ray_token

_LOG = logging.getLogger(__name__)

VIRTUAL_CPUS = 16
"""What replicas reserve, not what there is: a few models, each with host, candidate and successors, fit on 2 cores."""
OBJECT_STORE_BYTES = 200_000_000
"""Requests and answers pass it only when they are large; Ray's default takes 30 % of the machine's memory."""
HEAD_READY_S = 90.0
"""5 s on 2 idle cores; ten times that when seven others start as well."""
SERVE_READY_S = 90.0
"""5 s more, likewise."""
START_TRIES = 2
"""A free port may be taken by another process before Ray listens; twice in a row is no coincidence."""
STOP_GRACE_S = 5.0
"""Nothing of it is kept, so nothing is lost where SIGKILL has to end it."""
DRAINING_S = 5
"""How long a deleted replica stays for proxies that have not heard yet. On one node they hear within 0.2 s; Serve's
30 s, meant for large clusters, would keep a name from coming back for that long."""
REPLICA_PORTS = 300
"""One for each start of a replica; a port that was used stays out of the pool for 150 s, and a start takes 2 s."""
GRPC_PORTS = REPLICA_PORTS
"""The same for gRPC, where it is served: each replica listens for both."""
GRPC_SERVICER = "serving_runtime.grpc_messages.add_to_server"
"""What makes Serve listen for gRPC, and know the protocol."""
RANGE_TRIES = 100
"""Ranges of free ports that are tried; on a machine where a hundred are taken, something else is wrong."""
RANGE_FROM, RANGE_TO = 20_000, 32_000
"""Below the ports that Linux gives to outgoing connections (32768 and up), above those of well-known services."""

_PORTS = (
    "gcs",
    "dashboard",
    "dashboard_metrics",
    "autoscaler_metrics",
    "agent_http",
    "agent_grpc",
    "runtime_env",
    "metrics",
    "node_manager",
    "object_manager",
    "client",
    "http",
    "grpc",
    "haproxy_metrics",
    "haproxy_stats",
    "fallback_http",
    "fallback_grpc",
)
_KNOWN_OUTSIDE = ("dashboard", "http", "grpc")
"""Ports that people and documents know."""


class RaySession:
    """One Ray head. Start and stop it once; also a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        cpus: int = VIRTUAL_CPUS,
        grpc: bool = False,
        http_host: str = LOOPBACK,
        ports: Mapping[str, int] | None = None,
    ) -> None:
        """`folder` gets the logs and the token; Ray's own files lie in a short temporary folder (socket paths).

        `logs` in it is Ray's own folder of logs while it runs, and what was in there once it has stopped.

        `grpc` makes Serve listen for gRPC too, which cannot be turned on later. `http_host` is where Serve listens: who
        names another than loopback has others call, who must be told apart (`serving_runtime/access.py`).

        `ports` (`dashboard`, `http`, `grpc`) are tried first, where they are free.
        """
        self._folder, self._cpus, self._serves_grpc = folder, cpus, grpc
        self._http_host = http_host
        self._token_file = folder / "token"
        self.logs = folder.absolute() / "logs"
        """Where Ray and Serve log: this run, else the last one."""
        self._temporary: Path | None = None
        self._ports: dict[str, int] = {}
        self._first_try = {name: port for name, port in (ports or {}).items() if name in _KNOWN_OUTSIDE}
        self._head: ManagedProcess | None = None

    def start(self) -> Self:
        """Return when Serve takes configs and answers HTTP. Raises Stalled with the log's end when it does not."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._token_file.touch(mode=0o600)
        self._token_file.write_text(secrets.token_hex(32), encoding="ascii")
        for left in reversed(range(START_TRIES)):
            try:
                self._start_once()
            except Stalled:
                self.stop()
                if not left:
                    raise
                _LOG.warning("Ray did not start; trying other ports", exc_info=True)
            except BaseException:  # Ctrl-C too: nothing stays behind
                self.stop()
                raise
            else:
                return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """End everything this session started. Safe to repeat."""
        if self._head is not None:
            self._head.stop()
            self._head = None
        if self._temporary is not None:
            _keep_logs(self.logs)
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    @property
    def replica_logs(self) -> Path:
        """A file for each replica, whose lines carry request ids."""
        return self.logs / "serve"

    @property
    def dashboard(self) -> str:
        """Address of the dashboard, the control door."""
        return f"http://{LOOPBACK}:{self._ports['dashboard']}"

    @property
    def http(self) -> str:
        """Address where Serve answers requests."""
        return f"http://{LOOPBACK}:{self._ports['http']}"

    @property
    def ports(self) -> Mapping[str, int]:
        """Those that people and documents know, by name, once it was started."""
        return {name: self._ports[name] for name in _KNOWN_OUTSIDE}

    @property
    def serves_grpc(self) -> bool:
        """Was it asked to answer gRPC?"""
        return self._serves_grpc

    @property
    def grpc(self) -> str:
        """`host:port` where Serve answers gRPC, if it was asked to. Plaintext."""
        return f"{LOOPBACK}:{self._ports['grpc']}"

    @property
    def discovery(self) -> Path:
        """Prometheus's service discovery file (file_sd) with every metrics target."""
        return self._root / "ray" / "prom_metrics_service_discovery.json"

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that lead Ray's clients, and ours, to this session."""
        return {
            "RAY_ADDRESS": f"{LOOPBACK}:{self._ports['gcs']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token_file),
        }

    @property
    def cluster(self) -> RayCluster:
        """A control door to it."""
        return RayCluster(self.dashboard, lambda: ray_token(self.environment))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def _root(self) -> Path:
        if self._temporary is None:
            raise RuntimeError("Ray was not started, or it was stopped")
        return self._temporary

    def _start_once(self) -> None:
        # The path of a socket of HAProxy's has 97 characters at most, and 70 of them are Ray's node id and a name.
        self._temporary = Path(tempfile.mkdtemp(prefix="sluice-", dir="/tmp"))
        _lead_to_logs(self.logs, self._temporary / "ray" / "session_latest" / "logs")
        self._ports = _chosen(self._first_try)
        self._first_try = {}  # a second try is because of ports: it has none in common with the first
        environment = self._child_environment()
        head = ManagedProcess("Ray", self._command(), self._folder / "ray.log", env=environment, grace_s=STOP_GRACE_S)
        self._head = head.start()
        head.wait_until(lambda: _listens(self._ports["gcs"]), "taking connections", HEAD_READY_S)
        self._start_serve(environment)
        head.wait_until(lambda: self.cluster.observe().available, "answering at its dashboard", HEAD_READY_S)
        head.wait_until(lambda: _listens(self._ports["http"]), "serving HTTP", SERVE_READY_S)
        head.wait_until(self.discovery.is_file, "telling where its metrics are", HEAD_READY_S)

    def _start_serve(self, environment: Mapping[str, str]) -> None:
        """HTTP and gRPC options are set once, here: a config that is applied later cannot change them."""
        options = [
            "--http-host",
            self._http_host,
            "--http-port",
            str(self._ports["http"]),
            "--proxy-location",
            "HeadOnly",
        ]
        if self._serves_grpc:
            # Without reflection: it looks services up in the protobuf library's common pool, where ours is not.
            options += ["--grpc-port", str(self._ports["grpc"]), "--grpc-servicer-functions", GRPC_SERVICER]
            options += ["--grpc-disable-reflection"]
        command = [sys.executable, "-m", "ray.serve.scripts", "start", *options]
        starting = ManagedProcess("Serve's start", command, self._folder / "serve.log", env=environment)
        with starting:
            starting.wait_until(lambda: not starting.running or starting.exit_code is not None, "done", SERVE_READY_S)
        if starting.exit_code:
            raise Stalled(f"Serve did not start (exit code {starting.exit_code}); see {starting.log}")

    def _command(self) -> list[str]:
        ports = {
            "port": "gcs",
            "dashboard-port": "dashboard",
            "dashboard-agent-listen-port": "agent_http",
            "dashboard-agent-grpc-port": "agent_grpc",
            "runtime-env-agent-port": "runtime_env",
            "metrics-export-port": "metrics",
            "node-manager-port": "node_manager",
            "object-manager-port": "object_manager",
            "ray-client-server-port": "client",
        }
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--node-ip-address={LOOPBACK}", f"--dashboard-host={LOOPBACK}"),
            *(f"--{option}={self._ports[name]}" for option, name in ports.items()),
            f"--num-cpus={self._cpus}",
            "--num-gpus=0",
            f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--temp-dir={self._root / 'ray'}",
            "--include-log-monitor=false",  # it copies workers' logs to drivers, and there is none
        ]

    def _child_environment(self) -> dict[str, str]:
        """What is passed on as it is (paths, proxies, the artifact store's credentials), with our settings for Ray."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLUICE_"))}
        here = str(Path(__file__).resolve().parent.parent)  # replicas import serving_runtime
        path = os.pathsep.join(filter(None, (here, inherited.get("PYTHONPATH"))))
        return {**inherited, **self._settings(), **self.environment, "PYTHONPATH": path}

    def _settings(self) -> dict[str, str]:
        root, http = self._root, _free_range(REPLICA_PORTS)
        grpc = _free_range(GRPC_PORTS, beside=range(http, http + REPLICA_PORTS))
        return {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            MESSAGE_LIMIT: str(ADVISED_BYTES),
            doorstep.CALLBACK: doorstep.HERE,
            "RAY_metrics_report_interval_ms": "1000",
            "RAY_prestart_worker_first_driver": "0",  # it would start a worker for each of the virtual CPUs
            "RAY_USAGE_STATS_ENABLED": "0",
            "TMPDIR": str(root),  # what Ray's helpers leave in a temporary folder goes with ours
            "SLUICE_CACHE": str(self._folder.absolute() / "artifacts"),  # replicas keep models here, not in /tmp
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else SIGTERM waits 30 s for work to move to other nodes
            "DASHBOARD_METRIC_PORT": str(self._ports["dashboard_metrics"]),
            "AUTOSCALER_METRIC_PORT": str(self._ports["autoscaler_metrics"]),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self._ports["haproxy_metrics"]),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(self._ports["haproxy_stats"]),
            # Where HAProxy sends a route while all its replicas are being reconfigured (0.1-0.7 s). The default, 8500,
            # may be another session's proxy, which answers 404.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(self._ports["fallback_http"]),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(self._ports["fallback_grpc"]),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(root / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(root / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(root),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(root / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(root / "metrics.sock"),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING_S),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http + REPLICA_PORTS - 1),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc + GRPC_PORTS - 1),
        }


def _lead_to_logs(here: Path, there: Path) -> None:
    """A link to the logs of the run that begins, in place of those of the last one. Ray makes the folder later."""
    if here.is_symlink():
        here.unlink()
    elif here.exists():
        shutil.rmtree(here)
    here.symlink_to(there)


def _chosen(first: Mapping[str, int]) -> dict[str, int]:
    """A free port for each, none twice; one of `first` where it is free."""
    ports = {name: port for name, port in first.items() if port_is_free(port)}
    taken = set(ports.values())
    for name in _PORTS:
        if name not in ports:
            ports[name] = free_port(taken)
            taken.add(ports[name])
    return ports


def _keep_logs(here: Path) -> None:
    """Put the logs themselves where the link to them is: the folder that it leads to is about to be removed."""
    if not here.is_symlink():
        return
    there = here.resolve()
    here.unlink()
    if not there.is_dir():
        return  # Ray was stopped before it made any
    try:
        shutil.move(there, here)
        here.chmod(0o700)  # Ray lets everybody write there, which was in a folder that only we could enter
    except OSError as error:  # a full disk must not keep anybody from stopping
        _LOG.warning("the logs of Ray could not be kept in %s: %s", here, error)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _free_range(size: int, beside: range = range(0)) -> int:
    """The first of `size` ports in a row that nobody listens on now, none of them in `beside`. Raises Stalled."""
    for _ in range(RANGE_TRIES):
        first = random.SystemRandom().randrange(RANGE_FROM, RANGE_TO - size)
        ports = range(first, first + size)
        if not set(ports) & set(beside) and all(_is_free(port) for port in ports):
            return first
    raise Stalled(f"no {size} free ports in a row between {RANGE_FROM} and {RANGE_TO}: stop what listens there")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
