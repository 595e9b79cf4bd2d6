"""A Prometheus for the local stack: configured, started, waited for and stopped.

Rules:
- Everything it writes lies in one folder: `prometheus.yml`, `data/`, `prometheus.log`.
- It listens on loopback only, keeps little, and its own page needs nothing from outside.
- It is the distribution's binary. Where there is none, the reason says what to do.

It must not know what is scraped beyond where to find it: the queries are `serving_runtime/promql.py`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.processes import LOOPBACK, ManagedProcess, answers, free_port, port_is_free
from policies.documents import PrometheusTarget
from policies.errors import Stalled

BINARY = "prometheus"

INSTALL = (
    "Prometheus is not installed: `apt-get install prometheus` (Debian, Ubuntu), `brew install prometheus` (macOS), or "
    "unpack a release of https://prometheus.io/download/ and put its folder on PATH"
)

READY_S = 60.0
"""It is ready after 0.3 s on an empty folder; replaying a day's log of a small stack takes seconds."""

PORT_TRIES = 3
"""A free port may be taken by another process before Prometheus listens; three times in a row is no coincidence."""

RETENTION = "2d"
"""A rollout and its day of baselines, and the day before to look at."""

RETENTION_SIZE = "1GB"
"""A local stack writes some MB a day; this is for one that is forgotten."""

SCRAPE_TIMEOUT_SHARE = 0.9
"""Of the scrape interval: Prometheus refuses a timeout above it, and less would lose slow scrapes on a busy machine."""

_LOG = logging.getLogger(__name__)


class PrometheusServer:
    """One Prometheus; also a context manager. Started again after a stop, it has the same address and data."""

    def __init__(
        self,
        folder: Path,
        *,
        scrape_interval: timedelta,
        discovery: Sequence[Path] = (),
        targets: Sequence[str] = (),
        job: str = "ray",
        accept_writes: bool = False,
        port: int = 0,
    ) -> None:
        """`discovery` are file_sd files (Ray's prom_metrics_service_discovery.json), `targets` are host:port.

        `accept_writes` opens the remote-write endpoint, for samples that were not scraped. Nothing is started yet.
        `port` is tried first.
        """
        self._folder = folder.absolute()
        self._interval = scrape_interval
        self._discovery, self._targets, self._job = tuple(discovery), tuple(targets), job
        self._accept_writes = accept_writes
        self._process: ManagedProcess | None = None
        self._first_try = port
        self._port = 0

    @property
    def port(self) -> int:
        """Where it listens; 0 before its first start."""
        return self._port

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def target(self) -> PrometheusTarget:
        """As `sluice.yaml` names it."""
        return PrometheusTarget(url=self.url, scrape_interval=self._interval)

    def start(self) -> Self:
        """Write the configuration, start, and wait until it answers. Raises Stalled with what to do.

        The first start chooses the port; it is kept from then on, because others know the address.
        """
        binary = shutil.which(BINARY)
        if binary is None:
            raise Stalled(INSTALL)
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "prometheus.yml"
        configuration.write_text(json.dumps(self.configuration(), indent=2) + "\n")  # JSON is YAML
        if self._port:
            self._run(self._command(binary, configuration))
        else:
            self._run_on_a_free_port(binary, configuration)
        return self

    def stop(self) -> None:
        """Stop it and wait until it is gone. Safe to repeat."""
        if self._process is not None:
            self._process.stop()

    def configuration(self) -> dict[str, object]:
        """`prometheus.yml` as a document."""
        timeout = SCRAPE_TIMEOUT_SHARE * self._interval
        scrape = {
            "job_name": self._job,
            "static_configs": [{"targets": list(self._targets)}] if self._targets else [],
            "file_sd_configs": [{"files": [str(f) for f in self._discovery]}] if self._discovery else [],
        }
        return {
            "global": {
                "scrape_interval": _duration(self._interval),
                "scrape_timeout": _duration(timeout),
                "evaluation_interval": _duration(self._interval),
            },
            "scrape_configs": [scrape],
        }

    def _command(self, binary: str, configuration: Path) -> list[str]:
        command = [
            binary,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--storage.tsdb.retention.size={RETENTION_SIZE}",
            f"--web.listen-address={LOOPBACK}:{self._port}",
        ]
        return [*command, "--web.enable-remote-write-receiver"] if self._accept_writes else command

    def _run_on_a_free_port(self, binary: str, configuration: Path) -> None:
        refused: set[int] = set()
        while True:
            # Whoever listens on a port that is taken may well answer as ready.
            first = self._first_try if self._first_try and not refused and port_is_free(self._first_try) else 0
            self._port = first or free_port(refused)
            try:
                self._run(self._command(binary, configuration))
            except Stalled as stalled:
                refused.add(self._port)
                self._port = 0
                if len(refused) == PORT_TRIES or "address already in use" not in str(stalled):
                    raise
                _LOG.info("a port was taken before Prometheus listened; trying another")
            else:
                return

    def _run(self, command: Sequence[str]) -> None:
        """Start it and wait until it is ready. Raises Stalled, with nothing left running."""
        self._process = ManagedProcess("Prometheus", command, self._folder / "prometheus.log").start()
        try:
            self._process.wait_until(
                lambda: answers(f"{self.url}/-/ready"), f"answering on {LOOPBACK}:{self._port}", READY_S
            )
        except BaseException:
            self._process.stop()
            raise

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _duration(value: timedelta) -> str:
    """As Prometheus reads it: whole milliseconds."""
    return f"{value // timedelta(milliseconds=1)}ms"
