"""The results as a page to read: goals, and a table for each model. Reads what `serving.json` has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .figures import Row

HEAD = """\
# How models are served

Written by `make bench-serving`; what is compared, and how, is in
[ADR 22](../../docs/adr/0022-ratios-in-paired-rounds-beside-a-limit.md). Figures of one run on {cpus} cores that the
load shares with the servers, medians of {rounds} rounds: compare them with each other, and with nothing else.

![the same as a plot](serving.png)
"""
GOALS = """
## Goals

The ratio is the median of the rounds' own ratios, then their smallest and largest.

| goal | model | connections | rows | ratio | met |
|---|---|---|---|---|---|"""
COLUMNS = (
    "| connections | rows | system | state | requests/s | p50, ms | p99, ms | CPU-ms per request | RSS, MB | failed |"
)
RULE = "|---|---|---|---|---|---|---|---|---|---|"
MET = {True: "yes", False: "no", None: "not measured"}


def page(result: Mapping[str, Any]) -> str:
    """The page, as Markdown."""
    lines = [HEAD.format(cpus=result["machine"]["cpus"], rounds=result["rounds"]), *_goals(result["goals"])]
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        lines += ["", f"## {model}", "", *_table([row for row in result["rows"] if row["model"] == model])]
    return "\n".join(lines) + "\n"


def _goals(goals: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield GOALS
    for goal in goals:
        figure = goal["figure"]
        ratio = f"{figure['median']:.2f} ({figure['least']:.2f} to {figure['most']:.2f})" if figure else ""
        where = f"{goal['model']} | {goal['connections']} | {goal['rows_per_request']}"
        yield f"| {goal['goal']} | {where} | {ratio} | {MET[goal['met']]} |"


def _table(rows: list[Row]) -> Iterator[str]:
    yield COLUMNS
    yield RULE
    measured = [row for row in rows if row["requests_per_s"] is not None]
    for row in sorted(measured, key=lambda row: (row["rows_per_request"], row["connections"])):
        yield (
            f"| {row['connections']} | {row['rows_per_request']} | {row['system']} | {row['state']} "
            f"| {row['requests_per_s']:.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.1f} "
            f"| {row['cpu_ms_per_request']:.2f} | {row['rss_mb']:.0f} | {row['failed']} |"
        )
    for row in rows:
        if row["requests_per_s"] is None:
            yield f"\nLeft out: {row['system']}, {row['state']}: {row['reason']}"
