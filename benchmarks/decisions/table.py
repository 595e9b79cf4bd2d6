"""The rows as a Markdown table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

HOW = """\
Seeded simulation; {rollouts:,} rollouts per cell (`make bench-decisions`). SLOs: 99 % of answers without error, 95 %
within the latency target. Stable: 0.3 % errors, 1 % slow. Per cell: **rolled back / promoted / held**, in percent, and
the mean minutes from the candidate's first request to the verdict. Held: undecided after 8 h, a person decides.

| truth | the candidate |
|---|---|
| healthy | is like stable |
| 1.5 %, 5 %, 50 % | answers so many requests with an error |
| slow | is over the latency target in 30 % of its answers (over 500 ms in 20 %) |
| slow start | is so in its first 2 minutes only: it breaks its SLO while that lasts, so neither verdict is false |
| wave | like stable; error rate +-80 % and traffic +-40 % by the hour of the day |
| bursts | like stable; each minute's error rate is gamma distributed (shape 1/2) about 0.3 %, for each version apart |
| clusters 5, 20 | like stable; errors come in geometric runs of consecutive requests, for each version apart |
| outage | like stable; both fail 50 % of their requests for 5 minutes, at a random moment of the first hour |
| turns bad 20, 60 | is healthy for so many minutes, then answers 5 % with an error |
"""

NOTES = """\
## Notes

- **Rules of others**, each from its documentation (sources in `benchmarks/decisions/`): Argo Rollouts, steps
  20/40/60/80 % with five inline measurements of a minute each, success >= 99 %, failureLimit 0, NaN fails; Flagger,
  the documented example (1 m, threshold 10, 5 % steps to 50 %, success rate >= 99 %, P99 <= 500 ms) and the same with
  `threshold` left out (1); Kayenta, three judgements of an hour on errors and slow answers per minute, canary and
  baseline 10 % each, 98 % interval, marginal 75, pass 90; PipeCD, CANARY_BASELINE at 20 % each, 30 minutes, error ratio
  over 5 minutes compared every 5 minutes, alpha 0.05. The examples of Argo Rollouts and PipeCD ask for errors only, so
  they cannot see `slow`. PipeCD's points are ratios over 5 minutes that come a minute apart, so they overlap, and the
  test takes them for independent: hence its false alarms.
- Known figures beside ours (healthy rolled back at 10 / 60 / 600 per minute): Argo inline 69 / 83 / 47 %, Flagger
  default 89 / 41 / 58 %; 5 % promoted by Flagger's documented example 93 / 22 % at 10 / 60. See `healthy` and `5 %`.
- **Ours**: `sluicegate shadow-first` is the built-in policy; `sluicegate default` is the same without shadow (5, 10,
  25, 50, 100 %). Bins of 15 s for the first 10 minutes, then of 60 s (from the start below 60 requests a minute). phi
  comes from stable's day before.
- `minutes_over_limit` is the mean time to a correct rollback over T* (`policies/limit.py`), T* rounded up to a look.
  Blameless is also a version that a shared outage pushed over its SLO: no judge that forgives outages can be faster.
  `minutes_over_slo_limit` has the lower T* of a judge that would blame a candidate for a shared outage.
  Both are over the rollouts that were rolled back within 8 h: where fewer than all were, the rest would take longer.
- `promoted_while_bad` leaves out promotions before a version turned bad: those were right.
- `bad_answers_mean` are the candidate's bad answers (errors and slow ones) to users before the verdict;
  `bad_answers_in_8h_mean` adds what is expected of a promoted version until 8 h after its first request.
- **Clusters of 20 at 10 requests a minute**: stable has two such clusters a day, and none on one day in nine; a
  candidate that has one then cannot be told from a bad one by anybody.
"""


def markdown(rows: Sequence[Row]) -> str:
    """The whole page."""
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    parts = ["# Decision quality\n", HOW.format(rollouts=min(row["rollouts"] for row in rows))]
    for rate in dict.fromkeys(row["requests_per_minute"] for row in rows):
        here = {(row["rule"], row["truth"]): row for row in rows if row["requests_per_minute"] == rate}
        parts += [
            f"\n## {rate:,} requests a minute\n",
            f"| truth | {' | '.join(rules)} |",
            f"|---|{'---|' * len(rules)}",
        ]
        for truth in dict.fromkeys(row["truth"] for row in rows):
            parts.append(f"| {truth} | {' | '.join(_cell(here[rule, truth]) for rule in rules)} |")
    ours = [row for row in rows if row["rule"].startswith("sluicegate")]
    columns = (
        "rule",
        "requests_per_minute",
        "truth",
        "minutes_to_rollback",
        "limit_minutes",
        "minutes_over_limit",
        "minutes_over_slo_limit",
        "never_answered_a_user",
        "promoted_while_bad",
    )
    parts += ["\n## How soon, and who saw it\n", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    parts += [f"| {' | '.join(_text(row[c]) for c in columns)} |" for row in ours if row["minutes_over_limit"]]
    others = (*columns[:3], "bad_answers_mean", "bad_answers_in_8h_mean")
    parts += ["\n## Bad answers to users\n", f"| truth | requests_per_minute | {' | '.join(rules)} |"]
    parts.append(f"|---|---|{'---|' * len(rules)}")
    for truth in ("1.5 %", "5 %", "50 %", "slow", "turns bad 20"):
        for rate in dict.fromkeys(row["requests_per_minute"] for row in rows):
            here = {row["rule"]: row for row in rows if row["requests_per_minute"] == rate and row["truth"] == truth}
            parts.append(f"| {truth} | {rate:,} | {' | '.join(_both(here[rule], others[3:]) for rule in rules)} |")
    parts.append("\nBefore the verdict, and (within 8 h, with what follows a promotion).\n")
    return "\n".join([*parts, NOTES])


def plot(rows: Sequence[Row], path: Path) -> None:
    """Promoted, held and rolled back, by truth and traffic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rules = list(dict.fromkeys(row["rule"] for row in rows))
    rates = list(dict.fromkeys(row["requests_per_minute"] for row in rows))
    truths = ["healthy", "outage", "clusters 5", "1.5 %", "5 %", "slow"]
    colours = {"promoted": "#4c9f70", "held": "#d9d9d9", "rolled_back": "#c8553d"}
    figure, axes = plt.subplots(len(truths), len(rates), figsize=(15, 13), sharex=True, sharey=True)
    for line, truth in zip(axes, truths, strict=True):
        for panel, rate in zip(line, rates, strict=True):
            here = {row["rule"]: row for row in rows if (row["requests_per_minute"], row["truth"]) == (rate, truth)}
            left = [0.0] * len(rules)
            for share, colour in colours.items():
                widths = [100 * here[rule][share] for rule in rules]
                panel.barh(rules, widths, left=left, color=colour, label=share.replace("_", " "))
                left = [a + b for a, b in zip(left, widths, strict=True)]
            panel.set_title(f"{truth}, {rate:,}/min", fontsize=10)
            panel.set_xlim(0, 100)
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=3, frameon=False)
    figure.supxlabel("% of rollouts; a good rule is green in the upper three rows and red in the lower three")
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=80)


def _cell(row: Row) -> str:
    shares = " / ".join(_percent(row[name]) for name in ("rolled_back", "promoted", "held"))
    return shares if row["minutes_mean"] is None else f"{shares}, {row['minutes_mean']:.3g} min"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def _both(row: Row, columns: Sequence[str]) -> str:
    before, whole = (row[c] for c in columns)
    return f"{before:,.0f} ({whole:,.0f})"


def _text(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
