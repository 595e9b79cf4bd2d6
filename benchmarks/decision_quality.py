"""How good decisions about rollouts are: our policies beside the published rules of others, on simulated traffic.

    python benchmarks/decision_quality.py [--quick] [--rollouts 2000] [--processes 2]

Writes `benchmarks/results/decision_quality.json` (a row per rule, traffic and truth), the same as a Markdown table, and
a plot. Seeded. Takes about ten minutes on two idle cores; --quick, with 100 rollouts per cell, about two.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from decisions.cells import Cell, all_cells
from decisions.outcome import Outcomes
from decisions.table import markdown, plot

RESULTS = Path(__file__).resolve().parent / "results"
PART = 500
"""Rollouts that are simulated together: so many fit into the processor's cache."""
SEED = 20260101


def main() -> None:
    """Simulate, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=2000, help="per cell")
    parser.add_argument(
        "--quick", action="store_true", help="100 rollouts per cell, for a first look; writes no results"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    rollouts = 100 if options.quick else options.rollouts
    parts = [min(PART, rollouts - start) for start in range(0, rollouts, PART)]
    began, rows = time.monotonic(), []
    with ProcessPoolExecutor(options.processes) as pool:
        cells = all_cells()
        running = [[pool.submit(simulated, cell, size, part) for part, size in enumerate(parts)] for cell in cells]
        for cell, futures in zip(cells, running, strict=True):
            rows.append(cell.row([future.result() for future in futures]))
            print(f"{time.monotonic() - began:6.0f} s  {line(rows[-1])}", flush=True)
    if not options.quick:
        RESULTS.joinpath("decision_quality.json").write_text(json.dumps(rows, indent=1) + "\n")
        RESULTS.joinpath("decision_quality.md").write_text(markdown(rows))
        plot(rows, RESULTS / "decision_quality.png")


def simulated(cell: Cell, rollouts: int, part: int) -> Outcomes:
    """A part of a cell's rollouts."""
    return cell.outcomes(rollouts, SEED, part)


def line(row: dict[str, str | int | float | None]) -> str:
    """A row for somebody who waits."""
    shares = ", ".join(f"{name} {100 * float(row[name] or 0):.1f} %" for name in ("rolled_back", "promoted", "held"))
    return (
        f"{row['rule']:<24} {row['requests_per_minute']:>5}/min {row['truth']:<13} {shares}, {row['minutes_mean']} min"
    )


if __name__ == "__main__":
    main()
