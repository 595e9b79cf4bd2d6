"""The load counts what users get: nothing before the first 200, everything after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.demo.load import CATCH_UP_S, Counters, Load, LoadDied, Tally, Timetable, main, read_report, write_report
from tests.conditions import wait_until

RATE = 200.0


class Server:
    """A tiny HTTP/1.1 server whose answers the test chooses, request by request: a status, or 0 to hang up."""

    def __init__(self) -> None:
        self.behaviour: Callable[[int], int] = lambda _: 200
        self.version = "1"
        self.received: list[bytes] = []
        self.connections: set[tuple[str, int]] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                """Tests read the counters, not a log."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/models/demo/invocations"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.received.append(request.rfile.read(int(request.headers["content-length"])))
        self.connections.add(request.client_address)
        status = self.behaviour(len(self.received))
        if status == 0:
            request.close_connection = True
            return
        request.send_response(status)
        request.send_header("x-sluice-version", self.version)
        request.send_header("content-length", "2")
        request.end_headers()
        request.wfile.write(b"{}")

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


def sends(load: Load, requests: int) -> Callable[[], bool]:
    return lambda: load.counters().sent >= requests


def test_nothing_counts_before_the_first_200_and_everything_after_it(server: Server) -> None:
    server.behaviour = lambda _: 404
    with Load(server.url, ["{}"], rate=RATE) as load:
        wait_until(lambda: load.counters().before > 5, 10, "answers of 404")
        assert load.counters().sent == load.counters().failed == 0
        assert not load.counters().live
        server.behaviour = lambda _: 200
        wait_until(sends(load, 20), 10, "counted answers")
        assert load.counters().failed == 0
        server.behaviour = lambda _: 404
        wait_until(lambda: load.counters().failed > 0, 10, "a failure after the first 200")
        assert set(load.stop().failures) == {"HTTP 404"}


def test_every_kind_of_failure_counts_and_none_is_retried(server: Server) -> None:
    server.behaviour = lambda n: {0: 500, 1: 0}.get(n % 10, 200)
    with Load(server.url, ["{}"], rate=RATE, connections=2) as load:
        wait_until(sends(load, 50), 10, "requests")
        final = load.stop()
    assert set(final.failures) == {"HTTP 500", "RemoteProtocolError"}
    assert final.failed == sum(final.failures.values())
    assert final.sent == sum(final.by_version.values()) + final.failed
    assert final.before + final.sent == len(server.received)
    assert final.noted[0][1] in final.failures or final.noted[0][1].startswith("RemoteProtocolError: ")


def test_answers_are_told_apart_by_version_and_connections_are_kept(server: Server) -> None:
    with Load(server.url, ['{"row": 1}', '{"row": 2}'], rate=RATE, connections=3) as load:
        wait_until(lambda: load.counters().by_version.get("1", 0) > 10, 10, "answers of v1")
        server.version = "2"
        wait_until(lambda: load.counters().by_version.get("2", 0) > 10, 10, "answers of v2")
        final = load.stop()
    assert set(final.by_version) == {"1", "2"}
    assert final.finished
    assert final.failed == 0
    assert final.slowest_ms > 0
    assert len(server.connections) <= 3
    assert set(server.received) == {b'{"row": 1}', b'{"row": 2}'}


def test_a_load_that_cannot_start_says_why(server: Server) -> None:
    with pytest.raises(LoadDied, match="at least one row"), Load(server.url, []):
        pytest.fail("a load without rows started")


def test_a_load_that_was_killed_is_no_quiet_zero(server: Server) -> None:
    with Load(server.url, ["{}"], rate=RATE) as load:
        wait_until(sends(load, 1), 10, "requests")
        assert load._process is not None
        load._process.kill()
        load._process.wait(10)
        with pytest.raises(LoadDied, match="not running"):
            load.counters()


def test_a_load_ends_when_the_process_that_started_it_was_killed(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pipelines.demo.load import Load\n"
        "with Load(sys.argv[1], ['{}'], rate=50) as load:\n"
        "    print(load._process.pid, flush=True); threading.Event().wait()"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # what a killed process cannot remove goes with the test
    command = [sys.executable, "-c", code, server.url]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        command_line = Path("/proc", owner.stdout.readline().decode().strip(), "cmdline")
        assert b"pipelines.demo.load" in command_line.read_bytes()
        owner.kill()
    # nobody may reap it here; of a process that has ended, no command line is left
    wait_until(lambda: not command_line.exists() or not command_line.read_bytes(), 10, "the orphan's end")


def test_a_refused_connection_is_a_failure_once_something_served() -> None:
    server = Server()
    with Load(server.url, ["{}"], rate=RATE, connections=1) as load:
        wait_until(sends(load, 5), 10, "requests")
        server.close()
        server.behaviour = lambda _: 0  # connections that are already open end too
        wait_until(lambda: "ConnectError" in load.counters().failures, 10, "refused connections")
        assert load.counters().failed > 0


def test_the_timetable_keeps_its_slots_and_catches_up_a_short_stall_only() -> None:
    tally = Tally()
    tally.answer(started=0.0, latency_s=0.0, status=200, version="1")
    timetable = Timetable(rate=10.0, start=100.0, tally=tally)
    assert [round(timetable.take(100.0), 6) for _ in range(3)] == [100.0, 100.1, 100.2]
    assert timetable.take(100.3 + CATCH_UP_S / 2) == pytest.approx(100.3)
    assert timetable.take(160.0) == pytest.approx(160.0)
    assert tally.counters().left_out == 596


def test_latency_is_measured_from_the_slot() -> None:
    tally = Tally()
    tally.answer(started=1.0, latency_s=9.0, status=200, version="1")
    late = (tally.live_since or 0.0) + 1
    tally.answer(started=late, latency_s=0.25, status=200, version="1")
    assert tally.counters().slowest_ms == 250.0  # the one that opened the count is in no count
    assert (tally.counters().before, tally.counters().sent) == (1, 1)


def test_a_report_reads_back_as_it_was_written(tmp_path: Path) -> None:
    counters = Counters(live=True, sent=3, failed=1, by_version={"1": 2}, failures={"HTTP 500": 1}, noted=((1.5, "x"),))
    write_report(tmp_path / "report.json", counters)
    assert read_report(tmp_path / "report.json") == counters
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert json.loads((tmp_path / "report.json").read_text())["sent"] == 3


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--connections", "0"]])
def test_the_command_line_refuses_what_makes_no_load(wrong: list[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    with pytest.raises(SystemExit) as refused:
        main(["--url", "http://127.0.0.1:9", "--rows", str(rows), "--report", str(tmp_path / "r.json"), *wrong])
    assert refused.value.code == 2
