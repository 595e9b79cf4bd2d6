"""Small charts of a rollout's evidence for the terminal: a row per look, a column per step of the axis.

Rules:
- They are as wide as the terminal and no wider, in plain letters where it cannot show others; colour is rich's business
  (NO_COLOR).
- A value beyond the axis stands at its edge, as an arrow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from rich.text import Text

from policies.rollout_record import LookRecord, Record
from policies.verdict import Measure
from policies.verdict_words import e_value, percent

LEAST_COLUMNS = 20
"""Of an axis: on a narrower one nothing can be told apart."""

MOST_COLUMNS = 100

MOST_ROWS = 40
"""Of one chart: a screen. Of more looks, as many evenly chosen, the last among them."""

_LOWEST, _HIGHEST = -4.0, 6.0
"""Of the axis of e-values, log10: beyond them nothing is decided."""

_LABEL = 10
"""Columns for the time of day."""

_HARM, _PROOF, _LINE = "red", "green", "dim"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marks:
    """The letters of a chart, one column each."""

    harm: str = "●"
    proof: str = "◆"
    both: str = "◈"
    rate: str = "●"
    bar: str = "─"
    line: str = "┊"
    dot: str = "·"
    left: str = "◀"
    right: str = "▶"


PLAIN = Marks(harm="H", proof="P", both="X", rate="o", bar="-", line="|", dot=" ", left="<", right=">")


@dataclasses.dataclass(frozen=True)
class _Row:
    look: LookRecord
    measure: Measure


def charts(record: Record, *, width: int, marks: Marks) -> Iterator[Text]:
    """For each objective: the e-values at each look, and the bad rate with its bounds against the SLO."""
    columns = min(max(width - _LABEL - 1, LEAST_COLUMNS), MOST_COLUMNS)
    names = dict.fromkeys(m.objective for look in record.looks for m in look.measures)
    for name in names:
        rows = _rows(record.looks, name)
        if rows:
            yield Text()
            yield from _evidence(name, rows, record, columns, marks)
            yield Text()
            yield from _rates(name, rows, columns, marks)


def _rows(looks: Sequence[LookRecord], objective: str) -> list[_Row]:
    """The looks that have figures, MOST_ROWS of them."""
    found = [_Row(look, m) for look in looks for m in look.measures if m.objective == objective and m.rate is not None]
    if len(found) <= MOST_ROWS:
        return found
    return [found[round(i * (len(found) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]


# --- e-values -------------------------------------------------------------------------------------------------


def _evidence(name: str, rows: Sequence[_Row], record: Record, columns: int, marks: Marks) -> Iterator[Text]:
    thresholds = {round(t, 9): t for t in (_threshold(record, "alpha"), _threshold(record, "beta")) if t is not None}
    axis = _Axis(_LOWEST, _HIGHEST, columns)
    head = Text(f"{name}: e-values at each look, log axis: ")
    head.append(f"{marks.harm} harm", style=_HARM).append(", ").append(f"{marks.proof} proof of health", style=_PROOF)
    said = " and ".join(e_value(t * math.log(10)) for t in thresholds.values())
    yield head.append(f"; {marks.line} is 1{f' and what decides, {said}' if said else ''}")
    lines = [0.0, *thresholds.values()]
    yield _scale(axis, [(x, e_value(x * math.log(10))) for x in lines])
    for row in rows:
        harm = max((h for h in (row.measure.harm_slo, row.measure.harm_stable) if h is not None), default=None)
        cells = axis.cells(lines, marks)
        places = {}
        for value, mark, style in ((row.measure.proof, marks.proof, _PROOF), (harm, marks.harm, _HARM)):
            if value is not None:
                at = axis.column(value)
                places[at] = (marks.both if at in places else axis.edge(value, marks) or mark, style)
        yield _drawn(row, cells, places)


def _threshold(record: Record, name: str) -> float | None:
    value = record.policy.get(name)
    return -math.log10(value) if isinstance(value, float) and value > 0 else None


# --- rates ----------------------------------------------------------------------------------------------------


def _rates(name: str, rows: Sequence[_Row], columns: int, marks: Marks) -> Iterator[Text]:
    allowed = rows[-1].measure.allowed
    shown = [value for row in rows for value in (row.measure.rate, row.measure.stable_rate) if value]
    highest = min(1.0, 2 * max([allowed, *shown]))
    axis = _Axis(0.0, highest, columns)
    head = Text(f"{name}: bad rate at each look: ")
    yield head.append(
        f"{marks.rate} the candidate's, {marks.bar * 3} its bounds; {marks.line} the SLO allows {percent(allowed)}"
    )
    yield _scale(axis, [(0.0, "0 %"), (allowed, percent(allowed)), (highest, percent(highest))])
    for row in rows:
        measure = row.measure
        cells = axis.cells([allowed], marks)
        places = {}
        if measure.lower is not None and measure.upper is not None:
            for at in range(axis.column(measure.lower), axis.column(measure.upper) + 1):
                places[at] = (marks.bar, "")
            if measure.upper > highest:
                places[columns - 1] = (marks.right, "")
        if measure.rate is not None:
            over = measure.rate > measure.allowed
            places[axis.column(measure.rate)] = (marks.rate, _HARM if over else _PROOF)
        yield _drawn(row, cells, places)


# --- drawing --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    columns: int

    def column(self, value: float) -> int:
        """Where a value stands; one beyond the axis at its edge."""
        part = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(part * (self.columns - 1))

    def edge(self, value: float, marks: Marks) -> str:
        """The arrow for a value beyond the axis; empty for others."""
        if value < self.low:
            return marks.left
        return marks.right if value > self.high else ""

    def cells(self, lines: Sequence[float], marks: Marks) -> list[tuple[str, str]]:
        """An empty row."""
        cells = [(marks.dot, _LINE)] * self.columns
        for line in lines:
            cells[self.column(line)] = (marks.line, "")
        return cells


def _scale(axis: _Axis, values: Sequence[tuple[float, str]]) -> Text:
    """The figures above the axis, each at its place; one that would overlap another is left out."""
    line = " " * (axis.columns + _LABEL)
    end = -1
    for value, words in sorted(values):
        at = min(max(axis.column(value) - len(words) // 2, 0), axis.columns - len(words))
        if at > end:
            line = line[: at + _LABEL] + words + line[at + _LABEL + len(words) :]
            end = at + len(words)
    return Text(line.rstrip(), style=_LINE)


def _drawn(row: _Row, cells: list[tuple[str, str]], places: dict[int, tuple[str, str]]) -> Text:
    text = Text(f"{row.look.at:%H:%M:%S}".ljust(_LABEL))
    for at, cell in enumerate(cells):
        letter, style = places.get(at, cell)
        text.append(letter, style=style)
    return text
