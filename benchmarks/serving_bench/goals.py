"""What the serving runtime is meant to reach, and whether a run shows it. Pure.

- steady: at least 0.95 of plain Ray Serve's requests/s on the no-op model;
- at least 5 times the requests/s of `mlflow models serve` at 1 connection and 10 times at 16, at no worse a p99; and
  the same for a model document that asks for batching, where there is more than one connection;
- capture at 10 % costs less than 5 % of the requests/s;
- a rollout costs nothing outside its share: with 10 % at a candidate the median request, which is one of stable's,
  takes no longer. Told at 1 connection: at more, stable's requests wait for a core that the candidate has, and how many
  cores there are is the machine's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from .figures import Reading, Spread, ratio, written
from .matrix import BATCHED, CANARY, CAPTURE, FEW, MLFLOW, RAY_SERVE, SLUICEGATE, Cell, Contestant, contestants

OF_RAY_SERVE = 0.95
OF_MLFLOW = {1: 5.0, 16: 10.0}
"""By connections."""
WITH_CAPTURE = 0.95
OUTSIDE_A_ROLLOUT = 1.05
"""Of the median latency: two runs of the same differ by as much."""
OWN, BATCHING = Contestant(SLUICEGATE), Contestant(SLUICEGATE, BATCHED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """One goal in one cell. `met` is None where it was not measured."""

    goal: str
    cell: Cell
    figure: Spread | None
    met: bool | None

    def row(self) -> dict[str, object]:
        """As it stands in the results."""
        figure = written(self.figure) if self.figure else None
        return {"goal": self.goal, **dataclasses.asdict(self.cell), "figure": figure, "met": self.met}

    def __str__(self) -> str:
        met = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        cell = self.cell
        where = f"{cell.model}, {cell.connections} connections, {cell.rows_per_request} rows"
        return f"{met:12} {self.figure or ''!s:>20}  {self.goal} ({where})"


def goals(readings: Sequence[Reading], cells: Sequence[Cell]) -> list[Goal]:
    """Every goal in every cell that it speaks of."""
    return [goal for cell in cells for goal in _of_cell(readings, cell)]


def _of_cell(readings: Sequence[Reading], cell: Cell) -> Iterator[Goal]:
    def over(of: Contestant, to: Contestant, measure: str = "requests_per_s") -> Spread | None:
        return ratio(readings, cell, of, to, measure)

    if cell.model == "noop":
        spread = over(OWN, Contestant(RAY_SERVE))
        yield _at_least(f"requests/s >= {OF_RAY_SERVE} x plain Ray Serve", cell, spread, OF_RAY_SERVE)
    if cell.connections in OF_MLFLOW:
        least = OF_MLFLOW[cell.connections]
        yield _at_least(f"requests/s >= {least:g} x mlflow models serve", cell, over(OWN, Contestant(MLFLOW)), least)
        yield _at_most("p99 <= mlflow models serve", cell, over(OWN, Contestant(MLFLOW), "p99_ms"), 1.0)
        if BATCHING in contestants(cell):
            spread = over(BATCHING, Contestant(MLFLOW))
            yield _at_least(f"requests/s, batched, >= {least:g} x mlflow models serve", cell, spread, least)
    if cell.rows_per_request == FEW and cell.connections in OF_MLFLOW:
        spread = over(Contestant(SLUICEGATE, CAPTURE), OWN)
        yield _at_least("capture at 10 % costs < 5 % of requests/s", cell, spread, WITH_CAPTURE)
    if cell.rows_per_request == FEW and cell.connections == 1:
        spread = over(Contestant(SLUICEGATE, CANARY), OWN, "p50_ms")
        yield _at_most("p50 beside a candidate at 10 % <= 1.05 x steady", cell, spread, OUTSIDE_A_ROLLOUT)


def _at_least(goal: str, cell: Cell, figure: Spread | None, limit: float) -> Goal:
    return Goal(goal=goal, cell=cell, figure=figure, met=None if figure is None else figure.median >= limit)


def _at_most(goal: str, cell: Cell, figure: Spread | None, limit: float) -> Goal:
    return Goal(goal=goal, cell=cell, figure=figure, met=None if figure is None else figure.median <= limit)
