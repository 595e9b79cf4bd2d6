"""The local stack's Prometheus on a real exporter: it counts, loses its target, and is started again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from pipelines.ports import EvidenceRequest
from pipelines.processes import LOOPBACK
from pipelines.prometheus_server import PrometheusServer
from policies.application import Application
from policies.errors import Stalled
from policies.evidence import Counts, Evidence, Objective, Sli
from serving_runtime.prometheus import PrometheusMetrics
from tests.conditions import wait_until

pytestmark = pytest.mark.real

SECOND = timedelta(seconds=1)
CANDIDATE = Application(version=2, digest="sha256:" + "2" * 64)
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)


class Exporter:
    """A node that shows what a host counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ray_sluice_version_requests",
            "as Ray shows it",
            ["model", "version", "build", "outcome", "WorkerId"],
            registry=self.registry,
        )
        host = Gauge("ray_sluice_host_revision", "as Ray shows it", ["model"], registry=self.registry)
        host.labels("fraud").set(1)
        self.server, self.thread = start_http_server(0, LOOPBACK, self.registry)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.server.server_port}"

    def count(self, outcome: str, n: int) -> None:
        self.requests.labels("fraud", "2", CANDIDATE.build, outcome, "w1").inc(n)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on PATH")
    with ExitStack() as running:
        yield running


def test_a_real_scrape_is_counted_stops_counting_when_its_target_dies_and_outlives_a_restart(
    stack: ExitStack, tmp_path: Path
) -> None:
    exporter = Exporter()
    stack.callback(exporter.stop)
    discovery = tmp_path / "prom_metrics_service_discovery.json"
    discovery.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [exporter.address]}]))
    server = stack.enter_context(
        PrometheusServer(tmp_path / "prometheus", scrape_interval=SECOND, discovery=[discovery])
    )
    since = datetime.now(UTC)
    request = EvidenceRequest(model="fraud", candidate=CANDIDATE, stable=None, objectives=(ERRORS,), since=since)

    def look(running: PrometheusServer) -> Evidence:
        return PrometheusMetrics(running.target).evidence([request], datetime.now(UTC))["fraud"][0]

    exporter.count("good", 90)
    exporter.count("bad", 7)
    wait_until(lambda: look(server).candidate == Counts(97, 7), 30, "the first scrape's counts, errors included")
    exporter.count("good", 3)
    wait_until(lambda: look(server).candidate == Counts(100, 7), 30, "the next scrape's counts")

    server.stop()
    assert "cannot be reached" in look(server).source.reason
    address = server.url
    server.start()
    assert server.url == address
    wait_until(lambda: look(server).candidate == Counts(100, 7), 30, "what was scraped before the restart, once")

    exporter.stop()
    wait_until(lambda: "scrape targets down" in look(server).source.reason, 30, "the dead target by name")
    assert exporter.address in look(server).source.reason


def test_a_missing_binary_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Stalled, match="apt-get install prometheus"):
        PrometheusServer(tmp_path / "prometheus", scrape_interval=SECOND).start()


def test_the_port_of_before_is_tried_first_and_another_where_it_is_taken(tmp_path: Path) -> None:
    with PrometheusServer(tmp_path / "one", scrape_interval=SECOND) as first:
        beside = PrometheusServer(tmp_path / "two", scrape_interval=SECOND, port=first.port)
        with beside:
            assert beside.port not in (0, first.port)
    with PrometheusServer(tmp_path / "one", scrape_interval=SECOND, port=first.port) as again:
        assert again.url == first.url


def test_a_prometheus_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = PrometheusServer(tmp_path, scrape_interval=SECOND, discovery=[tmp_path / "no-such-kind.txt"])

    with pytest.raises(Stalled, match="is not valid for file discovery"):
        server.start()


def test_the_configuration_names_what_is_scraped(tmp_path: Path) -> None:
    written = PrometheusServer(
        tmp_path, scrape_interval=timedelta(seconds=1.5), discovery=[tmp_path / "sd.json"], targets=["127.0.0.1:1"]
    ).configuration()

    assert written["global"] == {
        "scrape_interval": "1500ms",
        "scrape_timeout": "1350ms",
        "evaluation_interval": "1500ms",
    }
    assert written["scrape_configs"] == [
        {
            "job_name": "ray",
            "static_configs": [{"targets": ["127.0.0.1:1"]}],
            "file_sd_configs": [{"files": [str(tmp_path / "sd.json")]}],
        }
    ]
