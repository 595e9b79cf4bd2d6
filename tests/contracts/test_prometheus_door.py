"""What only the real door can meet: series in odd shapes, servers that are no Prometheus, and what a look costs."""

from __future__ import annotations

import dataclasses
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
from policies.application import Application
from policies.counters import milliseconds, moment
from policies.counting import first_edge, last_edge
from policies.documents import PrometheusTarget
from policies.errors import BadInput
from policies.evidence import Counts, Evidence, Objective, Queries, Sli
from policies.query_templates import bucket_pair
from serving_runtime import promql
from serving_runtime.prometheus import BINS_PER_QUERY, PrometheusMetrics
from tests.contracts.metrics_worlds import ORDERS, ORDERS_METRIC, WIDTH, PrometheusWorld
from tests.contracts.prometheus_push import Sample, push

pytestmark = pytest.mark.real

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
LATENCY = Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=200.0)
AGREEMENT = Objective(name="agreement", sli=Sli.AGREEMENT, target=0.98)
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


# --- a document's own queries ---------------------------------------------------------------------------------

OURS = 'model=~"{{model}}",version=~"{{version}}"'


def of(total: str, *, good: str = "", bad: str = "") -> Objective:
    return Objective(name="own", sli=Sli.QUERIES, target=0.99, queries=Queries(total=total, good=good, bad=bad))


def summed(selector: str) -> str:
    return f"sum by (model, version) (increase({selector}[{{{{window}}}}]))"


TOTAL = f"{summed(f'app_total{{{OURS}}}')} + 0"
ESTIMATED = of(TOTAL, bad=f"{summed(f'app_failed{{{OURS}}}')} + 0")
"""The same as counters, but no form that is known to be."""


def own(name: str, version: str = "2", **more: str) -> dict[str, str]:
    return {"__name__": name, "model": "fraud", "version": version, "job": "app", "instance": "app:1", **more}


@pytest.mark.parametrize(
    "objective",
    [
        of(f"app_total{{{OURS}}}", good=f'app_total{{{OURS},result="ok"}}'),
        of(f"app_total{{{OURS}}}", bad=f'app_total{{{OURS},result!="ok",}}'),
        of(summed(f"app_total{{{OURS}}}"), bad=f'increase(app_total{{{OURS},result="error"}}[{{{{ window }}}}])'),
        of(
            f"app_total{{{OURS.replace(chr(34), chr(39))}}}",
            good=f'app_total{{{OURS.replace(chr(34), "`")},result="ok"}}',
        ),
    ],
)
def test_counters_are_counted_exactly_however_they_are_written(
    world: PrometheusWorld, begin: datetime, objective: Objective
) -> None:
    world.scrape(begin + 3 * WIDTH)
    before, first, second = begin - SECOND, begin + 2 * SECOND, begin + 20 * SECOND
    series(world, own("app_total", result="ok"), (before, 100.0), (first, 130.0), (second, 4.0))
    series(world, own("app_total", result="error"), (second, 3.0))  # from its first scrape on it counts
    series(world, own("app_total", "1", result="ok", route="/a"), (before, 7.0), (first, 8.0))
    series(world, own("app_total", "1", result="ok", route="/b"), (before, 7.0), (first, 9.0))

    evidence = ask(PrometheusMetrics(world.target), begin + 3 * WIDTH, begin, objective)

    assert evidence.source.available, evidence.source.reason
    assert [b.candidate for b in evidence.bins] == [Counts(30, 0), Counts(4 + 3, 3), Counts()]
    assert evidence.stable == Counts(3, 0)


def test_the_buckets_of_any_histogram_are_counts_of_what_is_up_to_an_edge(
    world: PrometheusWorld, begin: datetime
) -> None:
    for le, value in (("0.5", 40.0), ("1", 45.0), ("+Inf", 50.0)):
        series(world, own("wait_seconds_bucket", le=le), (begin + SECOND, value))
    world.scrape(begin + WIDTH)
    selector = f"wait_seconds_bucket{{{OURS}}}"
    edges = {0.5: Counts(50, 10), 1.0: Counts(50, 5)}

    for edge, counts in edges.items():
        within = dataclasses.replace(ERRORS, sli=Sli.QUERIES, queries=bucket_pair(selector, edge, within_is_good=True))
        assert ask(PrometheusMetrics(world.target), begin + WIDTH, begin, within).candidate == counts
    above = dataclasses.replace(ERRORS, sli=Sli.QUERIES, queries=bucket_pair(selector, 0.5, within_is_good=False))
    assert ask(PrometheusMetrics(world.target), begin + WIDTH, begin, above).candidate == Counts(50, 40)
    none = dataclasses.replace(ERRORS, sli=Sli.QUERIES, queries=bucket_pair(selector, 0.7, within_is_good=True))
    assert (
        "no bucket that ends at this edge"
        in ask(PrometheusMetrics(world.target), begin + WIDTH, begin, none).source.reason
    )


def test_an_expression_is_evaluated_once_for_each_wider_bin(world: PrometheusWorld, begin: datetime) -> None:
    start = moment(first_edge(begin, 4 * WIDTH))
    until = start + 16 * WIDTH
    world.scrape(until)
    edges = [start - 8 * WIDTH + k * WIDTH for k in range(24)]
    series(world, own("app_total"), *((at, 4.0 * k) for k, at in enumerate(edges)))
    series(world, own("app_failed"), *((at, float(k)) for k, at in enumerate(edges)))

    evidence = ask(PrometheusMetrics(world.target), until, begin, ESTIMATED)

    assert evidence.source.available, evidence.source.reason
    assert evidence.width == 4 * WIDTH
    assert [b.start for b in evidence.bins] == [start + k * 4 * WIDTH for k in range(4)]
    assert all(b.candidate.total == pytest.approx(16) for b in evidence.bins)
    assert all(b.candidate.bad == pytest.approx(4) for b in evidence.bins)


def value(objective: Objective, expression: str) -> Objective:
    """The objective, with another query of what is bad, evaluated too."""
    assert objective.queries
    bad = f"{summed(f'app_failed{{{OURS}}}')} {expression}"
    return dataclasses.replace(objective, queries=dataclasses.replace(objective.queries, bad=bad))


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (value(ESTIMATED, "/ 0"), "the query of bad is inf for version 2"),
        (value(ESTIMATED, "* -1"), "the query of bad is -"),
        (value(ESTIMATED, "+ 1000"), "contradict each other"),
        (value(ESTIMATED, "+ increase(x)"), "refused the query"),
        (of(TOTAL, bad=f"increase(app_failed{{{OURS}}}[{{{{window}}}}]) + 0"), "several series"),
        (of(TOTAL, bad=f"sum(increase(app_failed{{{OURS}}}[{{{{window}}}}])) + 0"), "without the labels"),
    ],
)
def test_an_expression_that_is_no_count_is_unavailable(
    world: PrometheusWorld, begin: datetime, objective: Objective, words: str
) -> None:
    world.scrape(begin + 8 * WIDTH)
    for name, instance in (("app_total", "a"), ("app_failed", "a"), ("app_failed", "b")):
        labels = own(name, instance=instance)
        series(world, labels, *((begin + k * WIDTH, 1.0 + k) for k in range(8)))

    evidence = ask(PrometheusMetrics(world.target), begin + 8 * WIDTH, begin, objective)

    assert not evidence.source.available
    assert words in evidence.source.reason, evidence.source.reason


def test_not_a_number_and_nothing_are_no_data(world: PrometheusWorld, begin: datetime) -> None:
    world.scrape(begin + 8 * WIDTH)
    series(world, own("app_total"), *((begin + k * WIDTH, 10.0 * k) for k in range(8)))
    series(world, own("app_failed"), *((begin + k * WIDTH, 0.0) for k in range(8)))
    nothing_by_nothing = value(ESTIMATED, f"/ {summed(f'app_failed{{{OURS}}}')}")
    counters = of(f"app_total{{{OURS}}}", bad=f"app_none{{{OURS}}}")
    series(world, own("app_none"), (begin + SECOND, float("nan")))

    for objective in (nothing_by_nothing, counters):
        evidence = ask(PrometheusMetrics(world.target), begin + 8 * WIDTH, begin, objective)
        assert evidence.source.available, evidence.source.reason
        assert evidence.candidate.total > 0
        assert evidence.candidate.bad == 0


def test_a_query_of_good_that_finds_nothing_anywhere_is_no_service_that_fails_everything(
    world: PrometheusWorld, begin: datetime
) -> None:
    series(world, own("app_total"), (begin + SECOND, 10.0))
    world.scrape(begin + WIDTH)
    objective = of(f"app_total{{{OURS}}}", good=f'app_total{{{OURS},result="okay"}}')

    unknown = ask(PrometheusMetrics(world.target), begin + WIDTH, begin, objective)
    series(world, own("app_total", "1", result="okay"), (begin + SECOND, 90.0))
    known = ask(PrometheusMetrics(world.target), begin + WIDTH, begin, objective)

    assert "is it right?" in unknown.source.reason
    assert known.candidate == Counts(10, 10)
    assert known.stable == Counts(90, 0)


def test_two_builds_of_one_version_need_a_label_that_tells_them_apart(world: PrometheusWorld, begin: datetime) -> None:
    rebuilt = Application(version=2, digest="sha256:" + "3" * 64)
    objective = of(f"app_total{{{OURS}}}", bad=f"app_failed{{{OURS}}}")
    both = EvidenceRequest(model="fraud", candidate=CANDIDATE, stable=rebuilt, objectives=(objective,), since=begin)
    series(world, own("app_total", build=CANDIDATE.build), (begin + SECOND, 10.0))
    series(world, own("app_total", build=rebuilt.build), (begin + SECOND, 20.0))
    world.scrape(begin + WIDTH)

    (told,) = PrometheusMetrics(world.target).evidence([both], begin + WIDTH)["fraud"]
    series(world, own("app_total"), (begin + SECOND, 10.0))
    (untold,) = PrometheusMetrics(world.target).evidence([both], begin + WIDTH)["fraud"]

    assert (told.candidate, told.stable) == (Counts(10, 0), Counts(20, 0))
    assert "no label build" in untold.source.reason


@pytest.mark.parametrize(
    ("up", "words"),
    [
        ([(1, 1.0), (2, 1.0), (3, 0.0)], "job app: 1 of 1 scrape targets down"),
        ([(-14, 1.0), (-13, 1.0), (-12, 1.0)], "job app: stale"),
        ([(1, 1.0), (2, 1.0), (3, 1.0)], ""),
        ([(-8, 1.0), (-4, 1.0), (0, 1.0)], ""),  # every minute, and that is its way
    ],
)
def test_the_targets_of_its_counters_must_be_well(
    world: PrometheusWorld, begin: datetime, up: list[tuple[int, float]], words: str
) -> None:
    world.scrape(begin + 3 * WIDTH)
    series(world, {"__name__": "up", "job": "app", "instance": "app:1"}, *((begin + k * WIDTH, v) for k, v in up))
    series(world, own("app_total"), (begin + SECOND, 10.0))
    objective = of(f"app_total{{{OURS}}}", bad=f"app_failed{{{OURS}}}")

    evidence = ask(PrometheusMetrics(world.target), begin + 3 * WIDTH, begin, objective)

    assert words in evidence.source.reason
    assert evidence.source.available == (not words)
    assert ask(PrometheusMetrics(world.target), begin + 3 * WIDTH, begin).source.available


def test_a_query_counts_in_its_own_environment_only(
    world: PrometheusWorld, prometheus: PrometheusServer, begin: datetime
) -> None:
    other = PrometheusWorld(prometheus.url, world.environment + ".*", begin)
    for somewhere, bad in ((world, 1), (other, 50)):
        somewhere.counted("fraud", CANDIDATE, begin, good=100, bad=bad)
        somewhere.scrape(begin + 2 * WIDTH)

    assert ask(PrometheusMetrics(world.target), begin + 2 * WIDTH, begin, ORDERS).candidate == Counts(101, 1)


@pytest.mark.parametrize("quote", ['"', "'", "`"])
@pytest.mark.parametrize("name", ["a.b", "quo\"te's", "back\\slash", "new\nline", "a|b", "ü-{}`"])
def test_a_models_name_is_never_taken_for_syntax_in_a_document_either(
    world: PrometheusWorld, begin: datetime, name: str, quote: str
) -> None:
    world.models = [name]
    world.counted(name, CANDIDATE, begin, good=9, bad=1)
    for near in ("aXb", "a", "b"):
        world.counted(near, CANDIDATE, begin, bad=99)
    world.scrape(begin + 2 * WIDTH)
    selector = ORDERS_METRIC + "{" + OURS.replace('"', quote)
    objective = of(selector + "}", bad=selector + ',result="error"}')

    answers = PrometheusMetrics(world.target).evidence([request(begin, name, objective)], begin + 2 * WIDTH)

    assert answers[name][0].source.available, answers[name][0].source.reason
    assert answers[name][0].candidate == Counts(10, 1)


def test_a_partial_answer_to_a_query_is_unavailable(answering: Answering, begin: datetime) -> None:
    body = result("vector", [], warnings=["one store did not answer"])
    door = PrometheusMetrics(PrometheusTarget(url=answering.start(body), scrape_interval=WIDTH))

    assert "in part only" in ask(door, begin + WIDTH, begin, ESTIMATED).source.reason


# --- a service's own past, and what stays in memory -------------------------------------------------------------


def test_a_look_at_twenty_models_is_a_query_for_each_count_and_not_for_each_model(
    world: PrometheusWorld, prometheus: PrometheusServer, begin: datetime
) -> None:
    world.models = [f"model-{i}" for i in range(20)]
    for model in world.models:
        world.answered(model, CANDIDATE, begin, good=10)
        world.agreed(model, CANDIDATE, begin, good=10)
        world.counted(model, CANDIDATE, begin, good=10)
    world.scrape(begin + 2 * WIDTH)
    door = PrometheusMetrics(world.target)
    requests = [request(begin, model, ERRORS, LATENCY, AGREEMENT, ORDERS) for model in world.models]

    before = queries(prometheus)
    door.evidence(requests, begin + 2 * WIDTH)
    first = queries(prometheus) - before
    world.scrape(begin + 3 * WIDTH)
    answers = door.evidence(requests, begin + 3 * WIDTH)
    second = queries(prometheus) - before - first
    door.trips(requests, begin + 3 * WIDTH)
    guards = queries(prometheus) - before - first - second

    counts = 1 + 1 + 1 + 2  # errors, latency, agreement; a pair of queries is two
    assert first == 1 + counts + counts  # and the baselines, once
    assert second == 1 + counts
    assert guards == 1
    assert all(e.candidate == Counts(10, 0) for some in answers.values() for e in some)


def test_expressions_of_many_models_are_one_query_too(
    world: PrometheusWorld, prometheus: PrometheusServer, begin: datetime
) -> None:
    world.models = [f"model-{i}" for i in range(20)]
    world.scrape(begin + 8 * WIDTH)
    before = queries(prometheus)

    PrometheusMetrics(world.target).evidence(
        [request(begin, model, ESTIMATED) for model in world.models], begin + 8 * WIDTH
    )

    assert queries(prometheus) - before == 1 + 1


def test_a_day_that_moves_on_is_read_once(
    world: PrometheusWorld, prometheus: PrometheusServer, begin: datetime
) -> None:
    door, day = PrometheusMetrics(world.target), timedelta(days=1)
    costs = []
    for k in range(1, 4):
        now = begin + k * WIDTH
        world.answered("fraud", STABLE, now - SECOND, good=10)
        world.scrape(now)
        before = queries(prometheus)
        past = EvidenceRequest(model="fraud", candidate=STABLE, stable=None, objectives=(ERRORS,), since=now - day)
        (evidence,) = door.evidence([past], now)["fraud"]
        costs.append(queries(prometheus) - before)
        assert len(evidence.bins) == 5760
        assert evidence.candidate == Counts(10 * k, 0)

    assert costs == [1 + 1 + 3, 1 + 1, 1 + 1]  # health, baselines, a day in pieces; then what is new
    (kept,) = door._ledgers.values()
    assert len(kept.bins) == 5760


def test_what_nobody_asks_for_is_let_go_and_answered_the_same_later(world: PrometheusWorld, begin: datetime) -> None:
    world.answered("fraud", CANDIDATE, begin, good=10, bad=1)
    world.answered("fraud", STABLE, begin, good=10)
    world.scrape(begin + 3 * WIDTH)
    door = PrometheusMetrics(world.target)
    first = ask(door, begin + 3 * WIDTH, begin)
    past = EvidenceRequest(model="fraud", candidate=STABLE, stable=None, objectives=(ERRORS,), since=begin)
    door.evidence([past], begin + 3 * WIDTH)
    assert len(door._ledgers) == 2, "one question does not forget another"

    world.scrape(begin + 80 * WIDTH)
    door.evidence([past], begin + 80 * WIDTH)

    assert len(door._ledgers) == 1
    assert ask(door, begin + 80 * WIDTH, begin).bins[:3] == first.bins
