"""From readings to rows and ratios. Pure.

Ratios are paired: of readings in the same round of the same cell, which lie seconds apart; a machine that is busy for a
while slows both alike. A ratio is the median over the rounds' own ratios, and its spread their smallest and largest.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from .matrix import SLUICEGATE, STEADY, Cell, Contestant

MEASURES = ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms_per_request", "rss_mb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """One run of the load generator."""

    cell: Cell
    contestant: Contestant
    round: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    """Of all processes of the system."""
    rss_mb: float
    failed: int
    """Answers other than 2xx, and connections that broke."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What was not measured, and why; without a cell in all of a model's."""

    contestant: Contestant
    model: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Spread:
    """A ratio over the rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}..{self.most:.2f})"


Row = dict[str, Any]


def rows(readings: Sequence[Reading], left_out: Iterable[LeftOut]) -> list[Row]:
    """A row per cell and contestant, medians over the rounds; then one per thing that was left out, with its reason."""
    groups: dict[tuple[Cell, Contestant], list[Reading]] = {}
    for reading in readings:
        groups.setdefault((reading.cell, reading.contestant), []).append(reading)
    return [_row(cell, contestant, group) for (cell, contestant), group in groups.items()] + [
        {
            "system": left.contestant.system,
            "model": left.model,
            "connections": None,
            "rows_per_request": None,
            "state": left.contestant.state,
            **dict.fromkeys(MEASURES),
            "reason": left.reason,
        }
        for left in left_out
    ]


def _row(cell: Cell, contestant: Contestant, group: Sequence[Reading]) -> Row:
    return {
        "system": contestant.system,
        "model": cell.model,
        "connections": cell.connections,
        "rows_per_request": cell.rows_per_request,
        "state": contestant.state,
        **{name: _rounded(statistics.median(getattr(each, name) for each in group)) for name in MEASURES},
        "requests_per_s_of_rounds": [_rounded(each.requests_per_s) for each in group],
        "failed": sum(each.failed for each in group),
    }


def ratio(readings: Iterable[Reading], cell: Cell, of: Contestant, to: Contestant, measure: str) -> Spread | None:
    """`of` over `to` in the rounds that have both; None where none has."""
    values: dict[Contestant, dict[int, float]] = {of: {}, to: {}}
    for reading in readings:
        if reading.cell == cell and reading.contestant in values:
            values[reading.contestant][reading.round] = getattr(reading, measure)
    ratios = [values[of][number] / values[to][number] for number in values[of] if values[to].get(number)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def ratios(readings: Sequence[Reading]) -> list[Row]:
    """Sluicegate's steady state over each other system's, and each of its states over its steady state."""
    own = Contestant(SLUICEGATE)
    pairs = dict.fromkeys(
        (each.cell, *((own, each.contestant) if each.contestant.state == STEADY else (each.contestant, own)))
        for each in readings
        if each.contestant != own
    )
    found = []
    for cell, of, to in pairs:
        spreads = {name: ratio(readings, cell, of, to, name) for name in MEASURES}
        row = {"of": str(of), "to": str(to), **dataclasses.asdict(cell)}
        found.append(row | {name: written(spread) for name, spread in spreads.items() if spread})
    return found


def written(spread: Spread) -> dict[str, float]:
    """As it stands in the results."""
    return {name: round(value, 3) for name, value in dataclasses.asdict(spread).items()}


def _rounded(value: float) -> float:
    """Three significant digits are more than a few rounds can tell; four for those who divide them."""
    return float(f"{value:.4g}")
