"""The plot: requests/s and p99 of every system, and what Sluicegate's states cost. Reads the rows of the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figures import Row
from .matrix import FEW, MANY, MODELS, ON_RAY, OTHERS, SLUICEGATE, STATES, STEADY

COLOURS = dict(zip((*ON_RAY, *OTHERS), ("#1b6ca8", "#8fbcd9", "#d98c5f", "#8a6fb0", "#7fa66a"), strict=True))
STATE_COLOURS = dict(zip((STEADY, *STATES), ("#1b6ca8", "#5b8db8", "#94b3cf", "#c8d6e4", "#7fa66a"), strict=True))
PANELS = (("requests_per_s", FEW), ("p99_ms", FEW), ("requests_per_s", MANY))
TITLES = {"requests_per_s": "requests/s", "p99_ms": "p99, ms"}


def plot(rows: Sequence[Row], path: Path) -> None:
    """A column per model; three lines of panels for the systems, one for the states."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(PANELS) + 1, len(MODELS), figsize=(15, 15), squeeze=False)
    for column, model in enumerate(MODELS):
        here = [row for row in rows if row["model"] == model and row["requests_per_s"] is not None]
        for line, (measure, per_request) in enumerate(PANELS):
            those = [row for row in here if row["rows_per_request"] == per_request and row["state"] == STEADY]
            _bars(axes[line, column], those, "system", COLOURS, measure)
            axes[line, column].set_title(f"{model}, {per_request} rows per request: {TITLES[measure]}", fontsize=10)
            axes[line, column].set_yscale("log")
        states = [row for row in here if row["system"] == SLUICEGATE and row["rows_per_request"] == FEW]
        few = [
            row for row in states if row["connections"] in {r["connections"] for r in states if r["state"] != STEADY}
        ]
        _bars(axes[-1, column], few, "state", STATE_COLOURS, "requests_per_s")
        axes[-1, column].set_title(f"{model}: requests/s of sluicegate by state", fontsize=10)
    for line, shown in ((0, 0), (-1, -1)):
        axes[line, shown].legend(fontsize=8)
    figure.supxlabel("connections")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def _bars(panel: Any, rows: Sequence[Row], by: str, colours: dict[str, str], measure: str) -> None:
    """Groups of bars by connections."""
    groups = sorted({row["connections"] for row in rows})
    names = [name for name in colours if any(row[by] == name for row in rows)]
    width = 0.8 / max(len(names), 1)
    for place, name in enumerate(names):
        found = {row["connections"]: row[measure] for row in rows if row[by] == name}
        at = [index + place * width for index, group in enumerate(groups) if group in found]
        panel.bar(at, [found[group] for group in groups if group in found], width, label=name, color=colours[name])
    panel.set_xticks([index + 0.4 - width / 2 for index in range(len(groups))], [str(group) for group in groups])
