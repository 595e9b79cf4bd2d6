"""Two worlds with the same events: the fake's, and one whose processes count as Ray's do, scraped by a real Prometheus.

What happens is told in order of time. `scrape(until)` is what Prometheus sees of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from pipelines.ports import Metrics
from pipelines.processes import free_port
from policies.application import Application
from policies.counters import milliseconds, moment
from policies.counting import first_edge, last_edge
from policies.documents import PrometheusTarget
from policies.evidence import Objective, Queries, Sli
from policies.slo import LATENCY_BUCKETS_MS
from serving_runtime import promql
from serving_runtime.prometheus import PrometheusMetrics
from tests.contracts.prometheus_push import STALE, Sample, push
from tests.fakes.metrics import FakeMetrics

WIDTH = timedelta(seconds=15)

ORDERS_METRIC = "app_orders_total"
_ORDERS = ORDERS_METRIC + '{model=~"{{model}}",version=~"{{version}}"'
ORDERS = Objective(
    name="orders",
    sli=Sli.QUERIES,
    target=0.99,
    queries=Queries(total=_ORDERS + "}", bad=_ORDERS + ',result="error"}'),
)


class World(Protocol):
    """What a test can make happen."""

    @property
    def metrics(self) -> Metrics:
        """The port."""

    def answered(
        self,
        model: str,
        version: Application,
        at: datetime,
        *,
        good: int = 0,
        bad: int = 0,
        rescued: int = 0,
        client_error: int = 0,
        latency_ms: float | None = 10.0,
    ) -> None:
        """Requests that started at `at` and were answered, or should have been."""

    def shadowed(
        self,
        model: str,
        candidate: Application,
        at: datetime,
        *,
        same: int = 0,
        candidate_bad: int = 0,
        stable_bad: int = 0,
    ) -> None:
        """Copies in shadow, by both outcomes."""

    def agreed(self, model: str, candidate: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        """Predictions in shadow that were compared with stable's."""

    def reported(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        """What users said about answers."""

    def counted(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        """Events that an application of the user's own counts: `ORDERS`."""

    def trip(self, model: str, candidate: Application, at: datetime, *, requests: int, bad: int) -> None:
        """The guard of one host replica stops the candidate, and shows it from the next scrape on."""

    def let_go(self, candidate: Application) -> None:
        """It does so no longer."""

    def restart_everything(self) -> None:
        """Every process starts again, under its old name; what was not scraped of it is gone."""

    def replace_everything(self) -> None:
        """Every process ends, and others take their place."""

    def scrape(self, until: datetime) -> None:
        """Prometheus scrapes at each edge up to `until`."""

    def go_away(self) -> None:
        """Prometheus does not answer any more."""

    def come_back(self) -> None:
        """It does again."""

    def spoil(self, model: str, version: Application, value: float) -> None:
        """From the next scrape on, this version's counters show `value`."""

    def another_door(self) -> Metrics:
        """The port opened anew, as after a restart of the reconciler."""


class FakeWorld:
    """The fake, which knows what happened and not how it was counted."""

    def __init__(self) -> None:
        self.metrics = FakeMetrics(WIDTH)

    def answered(
        self,
        model: str,
        version: Application,
        at: datetime,
        *,
        good: int = 0,
        bad: int = 0,
        rescued: int = 0,
        client_error: int = 0,  # noqa: ARG002 no evidence
        latency_ms: float | None = 10.0,
    ) -> None:
        self.metrics.answered(model, version, at, good=good, bad=bad, rescued=rescued, latency_ms=latency_ms)

    def shadowed(
        self,
        model: str,
        candidate: Application,
        at: datetime,
        *,
        same: int = 0,
        candidate_bad: int = 0,
        stable_bad: int = 0,
    ) -> None:
        self.metrics.shadowed(model, candidate, at, same=same, candidate_bad=candidate_bad, stable_bad=stable_bad)

    def agreed(self, model: str, candidate: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        self.metrics.agreed(model, candidate, at, good=good, bad=bad)

    def reported(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        self.metrics.reported(model, version, at, good=good, bad=bad)

    def counted(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        self.metrics.counted(model, version, at, good=good, bad=bad)

    def trip(self, model: str, candidate: Application, at: datetime, *, requests: int, bad: int) -> None:  # noqa: ARG002 a build is enough
        self.metrics.trip(candidate, at, requests=requests, bad=bad)

    def let_go(self, candidate: Application) -> None:
        self.metrics.let_go(candidate)

    def restart_everything(self) -> None:
        """Counters are not evidence: nothing changes."""

    def replace_everything(self) -> None:
        """The same."""

    def scrape(self, until: datetime) -> None:
        self.metrics.stop_scraping(until)

    def go_away(self) -> None:
        self.metrics.go_away()

    def come_back(self) -> None:
        self.metrics.come_back()

    def spoil(self, model: str, version: Application, value: float) -> None:
        self.metrics.spoil(model, f"a counter of version {version.version} reads {value:g}")

    def another_door(self) -> Metrics:
        return self.metrics


Labels = tuple[tuple[str, str], ...]


class PrometheusWorld:
    """Two nodes with a process each, whose counters look like Ray's, and a Prometheus that is told what they show.

    `environment` is a label of all its series, so that many worlds fit into one Prometheus.
    """

    nodes: Sequence[str] = ("10.0.0.1:8080", "10.0.0.2:8080")

    def __init__(self, url: str, environment: str, begin: datetime) -> None:
        self.url, self.environment = url, environment
        self.target = PrometheusTarget(url=url, scrape_interval=WIDTH, labels={"cluster": environment})
        self.metrics: Metrics = PrometheusMetrics(self.target)
        self._door = self.metrics
        self._waiting: list[tuple[int, str, Labels, float]] = []
        self._scraped_ms = last_edge(begin, WIDTH) - 1000 * int(WIDTH.total_seconds())
        self._counters: dict[tuple[str, Labels], float] = defaultdict(float)
        self._spoiled: dict[tuple[str, str], float] = {}
        self._generation = 0
        self._next_node = 0
        self.down: set[str] = set()
        """Nodes whose exporter does not answer."""
        self.models: list[str] = ["fraud"]
        """Whose hosts run here."""

    def answered(
        self,
        model: str,
        version: Application,
        at: datetime,
        *,
        good: int = 0,
        bad: int = 0,
        rescued: int = 0,
        client_error: int = 0,
        latency_ms: float | None = 10.0,
    ) -> None:
        who = _who(model, version)
        for outcome, count in (("good", good), ("bad", bad), ("rescued", rescued), ("client_error", client_error)):
            for share in _halves(count):
                self._count(at, promql.REQUESTS, {**who, "outcome": outcome}, share)
                if latency_ms is not None and outcome != "client_error":
                    self._observe(at, who, latency_ms, share)
                self._next_node = 1 - self._next_node

    def shadowed(
        self,
        model: str,
        candidate: Application,
        at: datetime,
        *,
        same: int = 0,
        candidate_bad: int = 0,
        stable_bad: int = 0,
    ) -> None:
        for outcome, count in (("good_good", same), ("bad_good", candidate_bad), ("good_bad", stable_bad)):
            self._count(at, promql.SHADOW, {**_who(model, candidate), "outcome": outcome}, count)

    def agreed(self, model: str, candidate: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        for outcome, count in (("good", good), ("bad", bad)):
            self._count(at, promql.AGREEMENT, {**_who(model, candidate), "outcome": outcome}, count)

    def reported(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        for outcome, count in (("good", good), ("bad", bad)):
            self._count(at, promql.FEEDBACK, {**_who(model, version), "outcome": outcome}, count)

    def counted(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        who = {"model": model, "version": str(version.version)}  # as most applications would: without the build
        for result, count in (("ok", good), ("error", bad)):
            for share in _halves(count):
                self._count(at, ORDERS_METRIC, {**who, "result": result}, share)
                self._next_node = 1 - self._next_node

    def trip(self, model: str, candidate: Application, at: datetime, *, requests: int, bad: int) -> None:
        self._count(at, promql.GUARD_REQUESTS, _who(model, candidate), requests)
        self._count(at, promql.GUARD_BAD, _who(model, candidate), bad)

    def let_go(self, candidate: Application) -> None:
        guards = (promql.GUARD_REQUESTS, promql.GUARD_BAD)
        for node, labels in list(self._counters):
            told = dict(labels)
            if told["__name__"] in guards and told["build"] == candidate.build:
                del self._counters[node, labels]

    def restart_everything(self) -> None:
        self._counters = defaultdict(float, dict.fromkeys(self._counters, 0.0))

    def replace_everything(self) -> None:
        ended = [self._sample(node, labels, self._scraped_ms + 1000, STALE) for node, labels in self._counters]
        push(self.url, ended)
        self._counters.clear()
        self._generation += 1

    def scrape(self, until: datetime) -> None:
        step_ms = WIDTH // timedelta(milliseconds=1)
        samples: list[Sample] = []
        for edge_ms in range(first_edge(moment(self._scraped_ms + 1), WIDTH), last_edge(until, WIDTH) + 1, step_ms):
            self._happen(edge_ms)
            samples += self.exposed(edge_ms)
            self._scraped_ms = edge_ms
        push(self.url, samples)

    def go_away(self) -> None:
        self.metrics = PrometheusMetrics(PrometheusTarget(url=f"http://127.0.0.1:{free_port()}", scrape_interval=WIDTH))

    def come_back(self) -> None:
        self.metrics = self._door

    def spoil(self, model: str, version: Application, value: float) -> None:
        self._spoiled[model, version.build] = value

    def another_door(self) -> Metrics:
        return PrometheusMetrics(self.target)

    def exposed(self, at_ms: int) -> Iterable[Sample]:
        """What one scrape of every node brings."""
        for node in self.nodes:
            where = (("cluster", self.environment), ("instance", node), ("job", "ray"))
            yield Sample({"__name__": "up", **dict(where)}, at_ms, 0.0 if node in self.down else 1.0)
        alive = [(n, labels, v) for (n, labels), v in self._counters.items() if n not in self.down]
        for node, labels, value in alive:
            told = dict(labels)
            yield self._sample(node, labels, at_ms, self._spoiled.get((told["model"], told.get("build", "")), value))
        for node in (n for n in self.nodes if n not in self.down):
            for model in self.models:
                yield self._sample(node, (("__name__", promql.HOSTS), ("model", model)), at_ms, 1.0)

    def _sample(self, node: str, labels: Labels, at_ms: int, value: float) -> Sample:
        where = {"cluster": self.environment, "instance": node, "job": "ray"}
        process = {"WorkerId": f"{node}-{self._generation}", "SessionName": "session_1"}
        return Sample({**dict(labels), **where, **process}, at_ms, value)

    def _count(self, at: datetime, name: str, labels: dict[str, str], count: float) -> None:
        if count:  # Ray shows a counter from its first increase on
            told = tuple(sorted({"__name__": name, **labels}.items()))
            self._waiting.append((milliseconds(at), self.nodes[self._next_node], told, count))

    def _observe(self, at: datetime, who: dict[str, str], latency_ms: float, count: float) -> None:
        self._count(at, promql.LATENCY_COUNT, who, count)
        for edge in (*map(float, LATENCY_BUCKETS_MS), float("inf")):
            within = count if latency_ms <= edge else 0.0
            written = "+Inf" if edge == float("inf") else str(edge)
            told = tuple(sorted({"__name__": promql.LATENCY_BUCKETS, **who, "le": written}.items()))
            self._waiting.append((milliseconds(at), self.nodes[self._next_node], told, within))

    def _happen(self, before_ms: int) -> None:
        for _, node, labels, count in (e for e in self._waiting if e[0] < before_ms):
            self._counters[node, labels] += count
        self._waiting = [e for e in self._waiting if e[0] >= before_ms]


def _who(model: str, version: Application) -> dict[str, str]:
    return {"model": model, "version": str(version.version), "build": version.build}


def _halves(count: int) -> tuple[int, int]:
    return (count + 1) // 2, count // 2
