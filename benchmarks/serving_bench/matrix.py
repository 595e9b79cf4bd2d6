"""What is measured: the cells, and which systems in which states each of them has. Pure.

Not every combination is measured, so that the whole run stays within its time: MLServer and BentoML with one row and at
1 and 16 connections only, states other than steady with one row and at 1 and 16 connections only, and 100 rows not at
64 connections, where every system does nothing but parse JSON on a full machine, as it does at 16. Batching has nothing
to join at 1 connection, so it is measured at 16 and 64.
"""

from __future__ import annotations

import dataclasses

SLUICEGATE, RAY_SERVE, MLFLOW, MLSERVER, BENTOML = (
    "sluicegate",
    "ray serve",
    "mlflow models serve",
    "mlserver",
    "bentoml",
)
STEADY, CANARY, SHADOW, CAPTURE, BATCHED = "steady", "canary 10", "shadow 100", "capture 10", "batched"
MODELS = ("noop", "sklearn", "torch")
ON_RAY = (SLUICEGATE, RAY_SERVE)
OTHERS = (MLFLOW, MLSERVER, BENTOML)
IN_A_ROLLOUT_OR_CAPTURED = (CANARY, SHADOW, CAPTURE)
STATES = (*IN_A_ROLLOUT_OR_CAPTURED, BATCHED)
FEW, MANY = 1, 100
"""Rows per request."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One model under one load."""

    model: str
    rows_per_request: int
    connections: int


@dataclasses.dataclass(frozen=True, order=True)
class Contestant:
    """What is loaded."""

    system: str
    state: str = STEADY

    def __str__(self) -> str:
        return f"{self.system}, {self.state}"


def cells(model: str, *, quick: bool) -> tuple[Cell, ...]:
    """The cells of a model."""
    loads = ((FEW, 1), (FEW, 16)) if quick else ((FEW, 1), (FEW, 16), (FEW, 64), (MANY, 1), (MANY, 16))
    return tuple(Cell(model, rows, connections) for rows, connections in loads)


def contestants(cell: Cell) -> tuple[Contestant, ...]:
    """Who is measured in a cell, steady states first."""
    steady = (SLUICEGATE, RAY_SERVE, MLFLOW)
    if cell.rows_per_request != FEW:
        return tuple(map(Contestant, steady))
    batched = (Contestant(SLUICEGATE, BATCHED),) if cell.connections > 1 else ()
    if cell.connections > 16:
        return (*map(Contestant, steady), *batched)
    others = tuple(map(Contestant, (*steady, MLSERVER, BENTOML)))
    return (*others, *(Contestant(SLUICEGATE, state) for state in IN_A_ROLLOUT_OR_CAPTURED), *batched)


def in_turn(those: tuple[Contestant, ...], number: int) -> tuple[Contestant, ...]:
    """The order of one round: each round begins with another one, so that nobody always follows the slowest."""
    first = number % len(those)
    return those[first:] + those[:first]
