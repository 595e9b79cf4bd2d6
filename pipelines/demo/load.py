"""A steady load of real rows over kept connections, in a process of its own, that counts every failure.

    python -m pipelines.demo.load --url URL --rows ROWS.jsonl --rate 50 --connections 8 --report FILE

Rules:
- Requests have a timetable (slot i at i / rate) and latency is measured from the slot, so that a server that stalls
  cannot hide by being asked less. Each of the connections carries one request at a time.
- Before the first version is live its route is 404, by design. The first 200 opens the count: every request sent after
  it counts, and of those everything but a 2xx is a failure, a broken connection included.
- Nothing is retried: a prediction is a POST, which a client may not repeat on its own. What makes that fair is what
  real clients do too. A connection idle for longer than KEEP_IDLE_S, well below the proxy's own limit, is not used
  again, and one that the server closed between requests is noticed before a request is written to it (httpx does).
- The report is replaced whole, several times a second, so that a reader never sees half of it; SIGTERM ends the load
  after the requests in flight are answered.

It must not import anything heavy or of Sluicegate: it shares two cores with all that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

VERSION_HEADER = "x-sluice-version"
UNKNOWN_VERSION = "none"
"""By-version name of an answer that names no version, and of requests that got no answer."""

RATE = 50.0
"""Requests per second: proof of health at an SLO of 99 % takes about 500, so 10 s, and two cores carry it easily."""

CONNECTIONS = 8
"""At 50 requests/s and 20 ms each, one is busy; the rest are there for a stall of 100 ms and more."""

TIMEOUT_S = 30.0
"""As a patient user: longer than any healthy answer and any candidate's time limit, so that a fall-back is awaited."""

KEEP_IDLE_S = 2.0
"""Below every keep-alive limit around (uvicorn 5 s, Ray's proxies minutes): we part first, so no request is lost."""

CATCH_UP_S = 1.0
"""A stall longer than this is not made up for by a burst that no client would send; the slots left out are counted."""

REPORT_INTERVAL_S = 0.25
"""Live enough for a timeline, rare enough to cost nothing."""

NOTED_FAILURES = 50
"""Failures kept in words; the counts are complete."""

START_DEADLINE_S = 20.0
"""An interpreter and httpx start in 0.5 s; the rest is for a machine with every core busy."""

STOP_DEADLINE_S = TIMEOUT_S + 10.0
"""After SIGTERM: the requests in flight, each at most TIMEOUT_S, and the last report."""

HEADERS = {"content-type": "application/json"}
HTTP_OK = range(200, 300)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counters:
    """What the load saw so far. All but `before` start with the first 200."""

    live: bool = False
    """True from the first 200 on: requests count."""
    finished: bool = False
    before: int = 0
    """Requests sent before anything served (answered 404), the one that opened the count included."""
    sent: int = 0
    """Requests answered or failed since; those in flight are in neither."""
    failed: int = 0
    """Of those, without a 2xx."""
    by_version: dict[str, int] = dataclasses.field(default_factory=dict)
    """Good answers by the version that gave them."""
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    """Failed requests by what happened: `HTTP 500`, `ReadTimeout`, ..."""
    noted: tuple[tuple[float, str], ...] = ()
    """The first failures: Unix time of the request's start, and what happened."""
    left_out: int = 0
    """Slots of the timetable skipped after a stall."""
    slowest_ms: float = 0.0
    """From its slot to its answer, of the good ones."""


class Tally:
    """Counts answers as they come in."""

    def __init__(self) -> None:
        self.live_since: float | None = None
        self._before, self._sent, self._failed, self._left_out, self._slowest_ms = 0, 0, 0, 0, 0.0
        self._by_version: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._noted: list[tuple[float, str]] = []

    def answer(self, *, started: float, latency_s: float, status: int, version: str) -> None:
        """One answer. `started` is Unix seconds, from just before the request was written."""
        good = status in HTTP_OK
        if self._early(started):
            self._before += 1
            if good and self.live_since is None:
                self.live_since = time.time()
        elif good:
            self._sent += 1
            self._by_version[version] += 1
            self._slowest_ms = max(self._slowest_ms, latency_s * 1000)
        else:
            self._fail(started, f"HTTP {status}")

    def broke(self, *, started: float, error: httpx.HTTPError) -> None:
        """A request without an answer: refused, reset, timed out."""
        if self._early(started):
            self._before += 1
        else:
            self._fail(started, type(error).__name__, str(error))

    def leave_out(self, slots: int) -> None:
        """Slots of the timetable that were skipped."""
        self._left_out += slots if self.live_since is not None else 0

    def counters(self, *, finished: bool = False) -> Counters:
        """A copy of where it stands."""
        return Counters(
            live=self.live_since is not None,
            finished=finished,
            before=self._before,
            sent=self._sent,
            failed=self._failed,
            by_version=dict(sorted(self._by_version.items())),
            failures=dict(self._failures),
            noted=tuple(self._noted),
            left_out=self._left_out,
            slowest_ms=round(self._slowest_ms, 1),
        )

    def _early(self, started: float) -> bool:
        return self.live_since is None or started < self.live_since

    def _fail(self, started: float, kind: str, words: str = "") -> None:
        self._sent += 1
        self._failed += 1
        self._failures[kind] += 1
        if len(self._noted) < NOTED_FAILURES:
            self._noted.append((started, f"{kind}: {words}" if words else kind))


class Timetable:
    """When each request is due, in seconds of the loop's clock: slot i at start + i / rate."""

    def __init__(self, rate: float, start: float, tally: Tally) -> None:
        self._interval, self._next, self._tally = 1.0 / rate, start, tally

    def take(self, now: float) -> float:
        """The next slot. After a stall of more than CATCH_UP_S the timetable goes on from now."""
        behind = now - self._next
        if behind > CATCH_UP_S:
            skipped = int(behind / self._interval)
            self._tally.leave_out(skipped)
            self._next += skipped * self._interval
        slot = self._next
        self._next += self._interval
        return slot


# --- the process ----------------------------------------------------------------------------------------------


async def drive(url: str, bodies: Sequence[bytes], rate: float, connections: int, report: Path) -> None:
    """Send `bodies` round and round until SIGTERM or SIGINT; leave the final counters in `report`."""
    tally, stop, parent = Tally(), asyncio.Event(), os.getppid()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    timetable, turn = Timetable(rate, loop.time(), tally), itertools.cycle(bodies)
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_IDLE_S
    )
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT_S, headers=HEADERS, trust_env=False) as client:
        workers = [asyncio.create_task(_worker(client, url, turn, timetable, tally, stop)) for _ in range(connections)]
        while not stop.is_set() and os.getppid() == parent:  # an orphan would go on for ever
            write_report(report, tally.counters())
            await _sleep(stop, REPORT_INTERVAL_S)
        stop.set()
        await asyncio.gather(*workers)
    write_report(report, tally.counters(finished=True))


async def _worker(
    client: httpx.AsyncClient,
    url: str,
    turn: Iterator[bytes],
    timetable: Timetable,
    tally: Tally,
    stop: asyncio.Event,
) -> None:
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        slot = timetable.take(loop.time())
        if slot > loop.time():
            await _sleep(stop, slot - loop.time())
        if not stop.is_set():
            await _send(client, url, next(turn), slot, tally)


async def _send(client: httpx.AsyncClient, url: str, body: bytes, slot: float, tally: Tally) -> None:
    started = time.time()
    try:
        answer = await client.post(url, content=body)
    except httpx.HTTPError as error:
        tally.broke(started=started, error=error)
        return
    latency_s = asyncio.get_running_loop().time() - slot
    version = answer.headers.get(VERSION_HEADER, UNKNOWN_VERSION)
    tally.answer(started=started, latency_s=latency_s, status=answer.status_code, version=version)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    """Wait that long, or until told to stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def write_report(path: Path, counters: Counters) -> None:
    """Replace the report whole. `path` is in a folder where a neighbour file may be made."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(dataclasses.asdict(counters)), encoding="utf-8")
    draft.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the load's own process."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo.load", description="A steady load of real rows.")
    parser.add_argument("--url", required=True, help="where the rows are posted: <route>/invocations")
    parser.add_argument("--rows", required=True, type=Path, help="JSON Lines, one request body per line")
    parser.add_argument("--report", required=True, type=Path, help="where the counters are written, as JSON")
    parser.add_argument("--rate", type=float, default=RATE, help="requests per second")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="kept open, one request at a time each")
    given = parser.parse_args(arguments)
    bodies = [line for line in given.rows.read_bytes().splitlines() if line.strip()]
    if not bodies or given.rate <= 0 or given.connections < 1:
        parser.error("needs at least one row, a rate above 0 and one connection")
    asyncio.run(drive(given.url, bodies, given.rate, given.connections, given.report))


# --- the same, held by another process --------------------------------------------------------------------------


class LoadDied(Exception):
    """The load's process did not start, or is gone; the text has its last words."""


class Load:
    """The load as a context manager: `with Load(url, bodies, rate=40) as load: ... load.counters().failed`."""

    def __init__(self, url: str, bodies: Sequence[str], *, rate: float = RATE, connections: int = CONNECTIONS) -> None:
        self._url, self._bodies, self._rate, self._connections = url, bodies, rate, connections
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-load-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait for its first report. Raises LoadDied where it does not start."""
        rows = Path(self._folder.name, "rows.jsonl")
        rows.write_text("\n".join(self._bodies), encoding="utf-8")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(self._command(rows), cwd=_root(), stderr=errors)
        try:
            self._await_first_report()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, if it still runs, and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def counters(self) -> Counters:
        """Where it stands, at most REPORT_INTERVAL_S old. Raises LoadDied."""
        if self._process is None or self._process.poll() not in (None, 0):
            raise LoadDied(f"the load is not running: {self._words()}")
        return read_report(self._report)

    def stop(self) -> Counters:
        """End it after the requests in flight and return the final counters. Raises LoadDied."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(STOP_DEADLINE_S)
        return self.counters()

    @property
    def _report(self) -> Path:
        return Path(self._folder.name, "report.json")

    @property
    def _errors(self) -> Path:
        return Path(self._folder.name, "stderr")

    def _command(self, rows: Path) -> list[str]:
        options: dict[str, Any] = {
            "--url": self._url,
            "--rows": rows,
            "--report": self._report,
            "--rate": self._rate,
            "--connections": self._connections,
        }
        pairs = [str(word) for pair in options.items() for word in pair]
        return [sys.executable, "-m", "pipelines.demo.load", *pairs]

    def _await_first_report(self) -> None:
        pause, deadline = threading.Event(), time.monotonic() + START_DEADLINE_S
        while not self._report.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise LoadDied(f"the load did not start: {self._words()}")
            pause.wait(0.02)

    def _words(self) -> str:
        return self._errors.read_text(encoding="utf-8", errors="replace").strip() if self._errors.exists() else ""


def read_report(path: Path) -> Counters:
    """The counters as they were last written."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Counters(**{**raw, "noted": tuple((when, what) for when, what in raw["noted"])})


def _root() -> Path:
    """The folder `pipelines` is imported from: the load's process finds it there, wherever the caller stands."""
    return Path(__file__).resolve().parents[2]


if __name__ == "__main__":
    main()
