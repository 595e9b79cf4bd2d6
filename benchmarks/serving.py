"""How models are served: Sluicegate beside plain Ray Serve, `mlflow models serve`, MLServer and BentoML.

The same three MLflow models (a no-op, scikit-learn on 30 columns, a torch network) get the same request bodies on every
system, at 1, 16 and 64 connections, with 1 and with 100 rows per request, by `wrk` on this machine; and Sluicegate also
while a candidate answers 10 %, while one gets a copy of every request, while 10 % are captured, and with batching on.
Every system runs as its documentation says, with its defaults: one worker, one replica. Before anything is measured,
all of them were seen to answer each body alike.

- sluicegate: the application that the reconciler deploys, for a model document without settings;
- ray serve: the smallest deployment that gives the same answers to the same bytes (`serving_bench/plain.py`), in the
  same Ray, behind the same proxy, in the same mode: the limit;
- the others: their own commands (`serving_bench/servers.py`), MLServer and BentoML in environments of their own.

Readings are interleaved: a round loads everybody in a cell once, a few seconds each, and ratios are the median over the
rounds' own ratios, with the smallest and the largest. Not every combination is measured (`serving_bench/matrix.py`).

    python benchmarks/serving.py [--rounds 3] [--seconds 2] [--quick]

Writes `benchmarks/results/serving.json`, and a page and a plot beside it. Takes about 16 minutes on two cores, and 3
more the first time, which installs MLServer and BentoML below benchmarks/.venvs; --quick, two minutes, installs and
writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from serving_bench.contest import Contest
from serving_bench.environments import REQUIREMENTS
from serving_bench.figures import LeftOut, Reading, ratios, rows
from serving_bench.goals import goals
from serving_bench.matrix import FEW, MANY, MODELS, cells
from serving_bench.models import log_models
from serving_bench.plot import plot
from serving_bench.ray_side import RaySide
from serving_bench.table import page
from serving_bench.wrk import Wrk

RESULTS = Path(__file__).resolve().parent / "results"
QUICK_MODELS = ("noop", "sklearn")
QUICK_ROUNDS = 2
LIBRARIES = ("mlflow", "ray", "torch", "scikit-learn", "numpy", "pandas")


def main() -> None:
    """Measure, say what was found, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each reading")
    parser.add_argument(
        "--quick", action="store_true", help="a few cells, for a first look; installs and writes nothing"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    names = QUICK_MODELS if options.quick else MODELS
    rounds = QUICK_ROUNDS if options.quick else options.rounds
    readings, left_out = measure(names, rounds, options.seconds, quick=options.quick, say=say)
    result = report(readings, left_out, rounds, options.seconds, names, quick=options.quick)
    if not options.quick:
        RESULTS.joinpath("serving.json").write_text(json.dumps(result, indent=1) + "\n")
        RESULTS.joinpath("serving.md").write_text(page(result))
        plot(result["rows"], RESULTS / "serving.png")
    say("done")


def measure(
    names: tuple[str, ...], rounds: int, seconds: int, *, quick: bool, say: Any
) -> tuple[list[Reading], list[LeftOut]]:
    """All readings, and what was left out."""
    readings: list[Reading] = []
    left_out: list[LeftOut] = []
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as temporary:
        folder = Path(temporary)
        wrk = Wrk(folder)
        say("training and logging the models")
        models = log_models(folder, names, (FEW, MANY))
        say("starting Ray")
        with RaySide(folder) as ray:
            for name, model in models.items():
                say(f"{name}: starting every system")
                with Contest(model, ray, folder / "servers" / name, install=not quick, say=say) as contest:
                    contest.warm_up(wrk)
                    for reading in contest.rounds(cells(name, quick=quick), wrk, rounds, seconds):
                        readings.append(reading)
                        say(line(reading))
                    left_out += contest.left_out
    return readings, left_out


def report(
    readings: list[Reading],
    left_out: list[LeftOut],
    rounds: int,
    seconds: int,
    names: tuple[str, ...],
    *,
    quick: bool,
) -> dict[str, Any]:
    """The whole result; printed in short."""
    table = rows(readings, left_out)
    reached = goals(readings, [cell for name in names for cell in cells(name, quick=quick)])
    for row in table:
        print(_text(row))
    for goal in reached:
        print(goal)
    return {
        "machine": machine(),
        "rounds": rounds,
        "seconds_per_reading": seconds,
        "rows": table,
        "ratios": ratios(readings),
        "goals": [goal.row() for goal in reached],
    }


def machine() -> dict[str, Any]:
    """What it ran on, without names."""
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in LIBRARIES} | {"others": sorted(sum(REQUIREMENTS.values(), ()))},
        "load": "wrk, one thread, on the same cores",
    }


def line(reading: Reading) -> str:
    """A reading for somebody who waits."""
    cell = reading.cell
    return (
        f"{cell.model:8} {cell.connections:3} connections {cell.rows_per_request:4} rows  {reading.contestant!s:28}"
        f" {reading.requests_per_s:8.0f} requests/s  p50 {reading.p50_ms:8.2f}  p99 {reading.p99_ms:8.2f} ms"
        f" {reading.cpu_ms_per_request:7.2f} CPU-ms{f'  {reading.failed} FAILED' if reading.failed else ''}"
    )


def _text(row: dict[str, Any]) -> str:
    where = f"{row['model']:8} {row['system']:20} {row['state']:11}"
    if row["requests_per_s"] is None:
        return f"{where} left out: {row['reason']}"
    return (
        f"{where} {row['connections']:3} connections {row['rows_per_request']:4} rows {row['requests_per_s']:8.0f}/s"
        f"  p50 {row['p50_ms']:8.2f}  p99 {row['p99_ms']:8.2f} ms {row['cpu_ms_per_request']:7.2f} CPU-ms"
        f" {row['rss_mb']:6.0f} MB{'  FAILED ' + str(row['failed']) if row['failed'] else ''}"
    )


if __name__ == "__main__":
    main()
