"""What only the real door can meet: series in odd shapes, servers that are no Prometheus, and what a look costs."""

from __future__ import annotations

import http.server
import itertools
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.ports import EvidenceRequest
from pipelines.processes import LOOPBACK
from pipelines.prometheus_server import PrometheusServer
from policies.counting import last_edge, milliseconds, moment
from policies.documents import PrometheusTarget
from policies.errors import BadInput
from policies.model import Application, Counts, Evidence, Objective, Sli
from serving_runtime import promql
from serving_runtime.prometheus import BINS_PER_QUERY, PrometheusMetrics
from tests.contracts.metrics_worlds import WIDTH, PrometheusWorld
from tests.contracts.prometheus_push import Sample, push

pytestmark = pytest.mark.real

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
LATENCY = Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=200.0)
STABLE = Application(version=1, digest="sha256:" + "1" * 64)
CANDIDATE = Application(version=2, digest="sha256:" + "2" * 64)

_environments = itertools.count()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on PATH")
    with PrometheusServer(tmp_path_factory.mktemp("prometheus"), scrape_interval=MINUTE, accept_writes=True) as server:
        yield server


@pytest.fixture(scope="module")
def begin() -> datetime:
    return moment(last_edge(datetime.now(UTC) - 50 * MINUTE, WIDTH))


@pytest.fixture
def world(prometheus: PrometheusServer, begin: datetime) -> PrometheusWorld:
    return PrometheusWorld(prometheus.url, f"door{next(_environments)}", begin)


def request(since: datetime, model: str = "fraud", *objectives: Objective) -> EvidenceRequest:
    return EvidenceRequest(
        model=model, candidate=CANDIDATE, stable=STABLE, objectives=objectives or (ERRORS,), since=since
    )


def ask(door: PrometheusMetrics, now: datetime, since: datetime, objective: Objective = ERRORS) -> Evidence:
    return door.evidence([request(since, "fraud", objective)], now)["fraud"][0]


def series(world: PrometheusWorld, labels: dict[str, str], *samples: tuple[datetime, float]) -> None:
    """Samples of one more series in this world."""
    told = {"cluster": world.environment, "instance": world.nodes[0], "job": "ray", **labels}
    push(world.url, [Sample(told, milliseconds(when), value) for when, value in samples])


def counter(process: str, **more: str) -> dict[str, str]:
    return {
        "__name__": promql.REQUESTS,
        "model": "fraud",
        "version": "2",
        "build": CANDIDATE.build,
        "outcome": "bad",
        "WorkerId": process,
        **more,
    }


# --- series in odd shapes -------------------------------------------------------------------------------------


def test_a_target_that_is_down_is_unavailable_and_nothing_is_lost_by_it(
    world: PrometheusWorld, begin: datetime
) -> None:
    world.answered("fraud", CANDIDATE, begin, good=10)
    world.scrape(begin + WIDTH)
    world.down = {world.nodes[1]}
    world.answered("fraud", CANDIDATE, begin + WIDTH, good=20, bad=4)
    world.scrape(begin + 3 * WIDTH)
    partial = ask(PrometheusMetrics(world.target), begin + 3 * WIDTH, begin)
    world.down = set()
    world.scrape(begin + 4 * WIDTH)
    whole = ask(PrometheusMetrics(world.target), begin + 4 * WIDTH, begin)

    assert not partial.source.available
    assert f"1 of 2 scrape targets down, their counts are missing: ray {world.nodes[1]}" in partial.source.reason
    assert whole.source.available
    assert whole.candidate == Counts(34, 4)


def test_bins_that_one_target_still_owes_are_left_out(world: PrometheusWorld, begin: datetime) -> None:
    world.answered("fraud", CANDIDATE, begin, good=10)
    world.scrape(begin + 2 * WIDTH)
    series(world, {"__name__": "up"}, (begin + 3 * WIDTH, 1.0))  # the other node is not scraped yet

    assert len(ask(PrometheusMetrics(world.target), begin + 3 * WIDTH + SECOND, begin).bins) == 2


def test_scrapes_between_the_edges_lose_nothing_where_two_fall_into_one_bin(
    world: PrometheusWorld, begin: datetime
) -> None:
    """A range query with a step would see 5, then 2, and miss what was counted between."""
    world.scrape(begin + 3 * WIDTH)
    at = begin + SECOND
    series(world, counter("w9"), (at, 5.0), (at + 13 * SECOND, 9.0), (at + 14 * SECOND, 2.0), (at + 28 * SECOND, 3.0))

    evidence = ask(PrometheusMetrics(world.target), begin + 3 * WIDTH, begin)

    assert [b.candidate for b in evidence.bins] == [Counts(9 + 2, 9 + 2), Counts(1, 1), Counts()]


def test_a_process_scraped_by_two_jobs_is_ambiguous(world: PrometheusWorld, begin: datetime) -> None:
    world.scrape(begin + 3 * WIDTH)
    for job in ("ray", "kubernetes-pods"):
        series(world, counter("w9", job=job), (begin + SECOND, 5.0), (begin + WIDTH + SECOND, 6.0))

    evidence = ask(PrometheusMetrics(world.target), begin + 3 * WIDTH, begin)

    assert not evidence.source.available
    assert "ambiguous" in evidence.source.reason
    assert "job=kubernetes-pods" in evidence.source.reason


def test_two_clusters_without_labels_that_tell_them_apart_are_ambiguous(
    world: PrometheusWorld, begin: datetime
) -> None:
    world.scrape(begin + WIDTH)
    sign = {"__name__": promql.HOSTS, "model": "fraud", "SessionName": "session_2", "WorkerId": "w9"}
    series(world, sign, (begin + WIDTH, 1.0))

    evidence = ask(PrometheusMetrics(world.target), begin + WIDTH, begin)

    assert not evidence.source.available
    assert "2 Ray clusters" in evidence.source.reason
    assert "prometheus.labels" in evidence.source.reason


def test_the_environments_labels_keep_another_cluster_out(
    world: PrometheusWorld, prometheus: PrometheusServer, begin: datetime
) -> None:
    other = PrometheusWorld(prometheus.url, world.environment + ".*", begin)
    for somewhere, bad in ((world, 1), (other, 50)):
        somewhere.answered("fraud", CANDIDATE, begin, good=100, bad=bad)
        somewhere.scrape(begin + 2 * WIDTH)

    assert ask(PrometheusMetrics(world.target), begin + 2 * WIDTH, begin).candidate == Counts(101, 1)
    assert ask(PrometheusMetrics(other.target), begin + 2 * WIDTH, begin).candidate == Counts(150, 50)


@pytest.mark.parametrize("name", ["a.b", 'quo"te', "back\\slash", "new\nline", "a|b", "ü-{}"])
def test_a_models_name_is_never_taken_for_syntax(world: PrometheusWorld, begin: datetime, name: str) -> None:
    world.models = [name]
    world.answered(name, CANDIDATE, begin, good=9, bad=1)
    for near in ("aXb", "a", "b"):
        world.answered(near, CANDIDATE, begin, bad=99)
    world.scrape(begin + 2 * WIDTH)

    answers = PrometheusMetrics(world.target).evidence([request(begin, name)], begin + 2 * WIDTH)

    assert answers[name][0].source.available, answers[name][0].source.reason
    assert answers[name][0].candidate == Counts(10, 1)


def test_a_threshold_that_is_no_edge_of_the_buckets_is_unavailable_and_never_all_bad(
    world: PrometheusWorld, begin: datetime
) -> None:
    world.answered("fraud", CANDIDATE, begin, good=100)
    world.scrape(begin + 2 * WIDTH)
    between = Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=250.0)

    evidence = ask(PrometheusMetrics(world.target), begin + 2 * WIDTH, begin, between)

    assert not evidence.source.available
    assert "no bucket that ends at 250 ms" in evidence.source.reason


def test_a_prometheus_that_scrapes_something_else_is_unavailable(world: PrometheusWorld, begin: datetime) -> None:
    series(world, {"__name__": "up", "job": "node"}, (begin, 1.0))

    evidence = ask(PrometheusMetrics(world.target), begin + SECOND, begin - MINUTE)

    assert not evidence.source.available
    assert "does it scrape this Ray cluster?" in evidence.source.reason


# --- what a look costs ----------------------------------------------------------------------------------------


def queries(server: PrometheusServer) -> int:
    """How many queries this Prometheus has answered."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as page:  # noqa: S310 our own server
        lines = page.read().decode().splitlines()
    return sum(
        int(float(x.split()[-1]))
        for x in lines
        if x.startswith("prometheus_http_requests_total{") and "/api/v1/query" in x
    )


def test_a_look_is_one_query_for_the_health_and_one_for_each_indicator(
    world: PrometheusWorld, prometheus: PrometheusServer, begin: datetime
) -> None:
    world.models = [f"model-{i}" for i in range(40)]
    for model in world.models:
        world.answered(model, CANDIDATE, begin, good=10)
    world.scrape(begin + 2 * WIDTH)
    door = PrometheusMetrics(world.target)
    requests = [request(begin, model, ERRORS, LATENCY) for model in world.models]

    before = queries(prometheus)
    door.evidence(requests, begin + 2 * WIDTH)
    first = queries(prometheus) - before
    world.scrape(begin + 3 * WIDTH)
    answers = door.evidence(requests, begin + 3 * WIDTH)
    second = queries(prometheus) - before - first

    assert first == 1 + 2 + 2  # and the baselines, once
    assert second == 1 + 2
    assert all(e.candidate.total == 10 for some in answers.values() for e in some)


def test_a_long_past_is_read_in_pieces(world: PrometheusWorld, prometheus: PrometheusServer, begin: datetime) -> None:
    seconds = BINS_PER_QUERY + 500
    where = {"cluster": world.environment, "job": "ray", "instance": "a"}
    edges = [milliseconds(begin) + 1000 * s for s in range(seconds + 1)]
    alive = [{"__name__": "up", **where}, {"__name__": promql.HOSTS, "model": "fraud", **where}]
    push(prometheus.url, [Sample(labels, at_ms, 1.0) for labels in alive for at_ms in edges])
    push(prometheus.url, [Sample({**counter("w9"), **where}, at_ms, 3.0 * i) for i, at_ms in enumerate(edges)])
    door = PrometheusMetrics(
        PrometheusTarget(url=prometheus.url, scrape_interval=SECOND, labels={"cluster": world.environment})
    )

    before = queries(prometheus)
    evidence = ask(door, begin + seconds * SECOND, begin)

    assert queries(prometheus) - before == 1 + 1 + 2
    assert len(evidence.bins) == seconds
    assert {b.candidate for b in evidence.bins} == {Counts(3, 3)}


# --- servers that are no Prometheus, or not well --------------------------------------------------------------


class Answering:
    """Servers that answer everything with one status and one body."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._servers: list[http.server.ThreadingHTTPServer] = []

    def start(self, body: str, status: int = 200, held: threading.Event | None = None) -> str:
        """Its address. With `held` it says nothing until that is set, and then hangs up."""
        headers = self.headers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers.update(self.headers.items())
                if held:
                    held.wait(30)
                else:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Nothing on the test's output."""

        server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self._servers.append(server)
        return f"http://{LOOPBACK}:{server.server_port}"

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def answering() -> Iterator[Answering]:
    servers = Answering()
    yield servers
    servers.stop()


def result(kind: str, value: object, **more: object) -> str:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": value}, **more})


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("<html>please sign in</html>", 200, "not understood"),
        ("[]", 200, "not understood"),
        (result("scalar", [1700000000, "1"]), 200, "not understood"),
        (result("vector", [{"metric": {}, "value": [1700000000, "many"]}]), 200, "not understood"),
        (result("matrix", None), 200, "not understood"),
        ("no healthy upstream", 503, "503"),
        ("oh", 500, "500"),
        (
            json.dumps({"status": "error", "errorType": "execution", "error": "too many samples"}),
            422,
            "too many samples",
        ),
        ("", 401, "401"),
        (result("matrix", [], warnings=["one store did not answer"]), 200, "in part only: one store did not answer"),
        (result("matrix", []), 200, "scraped nothing"),
        ("x" * 100_000, 500, "..."),
    ],
)
def test_whatever_answers_is_unavailable_in_words(
    answering: Answering, begin: datetime, body: str, status: int, words: str
) -> None:
    door = PrometheusMetrics(PrometheusTarget(url=answering.start(body, status), scrape_interval=WIDTH))

    evidence = ask(door, begin + WIDTH, begin)

    assert not evidence.source.available
    assert words in evidence.source.reason
    assert len(evidence.source.reason) < 500
    assert evidence.bins == ()


def test_a_server_that_hangs_is_given_up(answering: Answering, begin: datetime) -> None:
    held = threading.Event()
    door = PrometheusMetrics(PrometheusTarget(url=answering.start("", held=held), scrape_interval=WIDTH), read_s=0.2)

    evidence = ask(door, begin + WIDTH, begin)
    held.set()

    assert "did not answer within 0.2 s" in evidence.source.reason


def test_headers_go_along_and_never_into_a_reason(answering: Answering, begin: datetime) -> None:
    url = answering.start("no", 403)
    door = PrometheusMetrics(PrometheusTarget(url=url), headers={"Authorization": "Bearer secret"})

    evidence = ask(door, begin + WIDTH, begin)

    assert answering.headers["Authorization"] == "Bearer secret"
    assert "secret" not in evidence.source.reason


def test_an_interval_under_a_second_is_refused() -> None:
    with pytest.raises(BadInput, match="scrape_interval"):
        PrometheusMetrics(PrometheusTarget(scrape_interval=timedelta(milliseconds=500)))


def test_a_rollout_that_was_forgotten_for_months_is_not_read(world: PrometheusWorld, begin: datetime) -> None:
    world.scrape(begin + WIDTH)

    evidence = ask(PrometheusMetrics(world.target), begin + WIDTH, begin - timedelta(days=100))

    assert not evidence.source.available
    assert "too long ago" in evidence.source.reason
