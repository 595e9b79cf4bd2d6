"""Load by `wrk`: one thread, a fixed body over some connections, and what came of it.

wrk's own text rounds its latencies, so a script in its `done` hook prints the figures as one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

from policies.errors import BadInput, Stalled

MARK = "FIGURES "
ANSWER_LIMIT_S = 30
"""wrk counts an answer later than this as an error; the slowest system here needs 2 s at 64 connections."""
MARGIN_S = 60.0

SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = io.open("{body}", "r"):read("*a")
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{mark}{{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "not_2xx": %d, "broken": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """One run of wrk."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int
    """Answers other than 2xx and 3xx, and connections that broke or timed out."""


class Wrk:
    """The command. Raises Stalled where it is not installed."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets its scripts and bodies."""
        found = shutil.which("wrk")
        if found is None:
            raise Stalled("this benchmark loads with wrk: apt-get install wrk")
        self._command, self._folder = found, folder

    def load(self, url: str, body: str, connections: int, seconds: int) -> Load:
        """POST `body` to `url` over so many connections for so long."""
        text, script = self._folder / "body.json", self._folder / "post.lua"
        text.write_text(body)
        script.write_text(SCRIPT.format(body=text, mark=MARK))
        command = [
            *(self._command, "-t1", f"-c{connections}", f"-d{seconds}s"),
            *("--timeout", f"{ANSWER_LIMIT_S}s", "-s", str(script), url),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + MARGIN_S)
        return parse(done.stdout)


def parse(output: str) -> Load:
    """The figures from what wrk printed. Raises BadInput where they are missing or nothing was answered."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise BadInput(f"wrk gave no figures:\n{output}")
    raw = json.loads(lines[0].removeprefix(MARK))
    if not raw["requests"] or not raw["duration_us"]:
        raise BadInput(f"nothing was answered:\n{output}")
    return Load(
        requests_per_s=raw["requests"] / raw["duration_us"] * 1e6,
        p50_ms=raw["p50_us"] / 1000,
        p99_ms=raw["p99_us"] / 1000,
        requests=raw["requests"],
        failed=raw["not_2xx"] + raw["broken"],
    )
