"""What the benchmarks of seconds share: their figures, and waiting for a condition with a deadline."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

DEADLINE_S = 120.0
POLL_S = 0.05


def summary(values: list[float]) -> dict[str, float]:
    """Least, median, 95th percentile and most, rounded to thousandths; at least one value."""
    p95 = statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]
    figures = {"min": min(values), "median": statistics.median(values), "p95": p95, "max": max(values)}
    return {"n": len(values), **{name: round(figure, 3) for name, figure in figures.items()}}


def await_(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as it holds; ends the benchmark with `what` where it does not in time."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not within {DEADLINE_S:.0f} s: {what}")
        threading.Event().wait(POLL_S)
