"""Captured requests as rows of one Parquet schema for each model version, which follows from its MLflow signature.

Columns: `FIXED`, then `input.<column>`, `feature.<name>` and `prediction`, `prediction.<i>` or `prediction.<column>`.

Rules:
- The schema of a version never changes: not with a policy, not with what clients send. What is hidden (`redaction.py`)
  keeps its column, which is null then.
- One row for each row of a request. A request that the signature does not fit is one row with its JSON text in `body`,
  and an answer that is not one prediction for each row is text in `answer`. Text in which names cannot be told from
  values (CSV, what does not parse) is never written.
- Only columns that the signature names: what clients send beside them, the model does not see either.
- Of an error only its code is written: messages quote what the client sent.
- A streamed answer is in `answer`, its chunks joined; `ending` and `cut` say whether that is all of it.
- No column is called `model`, `version` or `hour`: readers make those from the path (docs/adr/0018).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from serving_runtime.captured_bodies import UNREADABLE, Given, Read, read_answer, read_events, read_request
from serving_runtime.captured_cells import (
    CellType,
    Kind,
    arrow_type,
    cells,
    json_text,
    kind_of_default,
    kind_of_spec,
    text,
)
from serving_runtime.outcomes import Ending
from serving_runtime.redaction import Redaction

# The first rows of a request; `rows` says how many there were. A bulk client would fill whole files otherwise.
ROWS_PER_REQUEST = 1000
# An unnamed tensor of up to so many columns gets a column each, which is what drift is computed on; a wider one (an
# image) is one list.
WIDEST_TENSOR = 256

FIXED: Mapping[str, Kind] = {
    "at": Kind.MOMENT,
    "request_id": Kind.TEXT,
    "build": Kind.TEXT,
    "role": Kind.TEXT,
    "row": Kind.INT32,
    "rows": Kind.INT32,
    "status": Kind.INT32,
    "error": Kind.TEXT,
    "latency_ms": Kind.FLOAT64,
    "params": Kind.JSON,
    "body": Kind.JSON,
    "answer": Kind.JSON,
    "ending": Kind.TEXT,
    "cut": Kind.BOOL,
}

_GOOD_BELOW = 400  # the first status that is an error
_ERROR_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Role(StrEnum):
    """Why this version was asked."""

    USER = "user"
    """For a user. Where two versions were, the one asked later gave the answer."""
    COPY = "copy"
    """For a comparison, beside the answer that the user got."""
    FORCED = "forced"
    """For a user who named the version: no sample of its users."""


@dataclasses.dataclass(frozen=True)
class Captured:
    """One request with its answer, as the version that answered saw them."""

    request_id: str
    at_s: float
    """When this version was asked, Unix time in seconds."""
    body: bytes
    content_type: str | None
    status: int
    answer: bytes
    latency_ms: float
    role: Role = Role.USER
    features: Sequence[Mapping[str, Any]] = ()
    """What was looked up, one mapping for each row of the request; empty where nothing was."""
    ending: Ending | None = None
    """How it ended where it streamed: `answer` is its events then, as far as they were kept."""
    cut: bool = False
    """Of a stream: were there more events than were kept?"""

    @property
    def size_bytes(self) -> int:
        """What its bodies hold in memory."""
        return len(self.body) + len(self.answer)


Rows = Mapping[str, list[Any]]
"""Cells by column, all of one length."""


@dataclasses.dataclass(frozen=True)
class _Column:
    """One column of one side of a request: `source` is its name there, or its place in a row without names."""

    name: str
    source: str | int
    cell: CellType


class Layout:
    """The schema of one version, and the way of its requests into it."""

    def __init__(
        self,
        build: str,
        inputs: Sequence[Mapping[str, Any]] | None,
        outputs: Sequence[Mapping[str, Any]] | None,
        features: Mapping[str, Any] | None = None,
    ) -> None:
        """`inputs` and `outputs` are MLflow schemas as their `to_dict` gives them.

        None where a model has no such schema: then requests are not split, and predictions are JSON text. `features`
        are defaults by name, None for a feature that has none.
        """
        self._build = build
        self._inputs = _columns("input", inputs)
        self._outputs = _columns("prediction", outputs) or (_Column("prediction", 0, CellType(Kind.JSON)),)
        signed = {column.source: column.cell for column in self._inputs}
        self._features = tuple(
            _Column(f"feature.{name}", name, signed.get(name, CellType(kind_of_default(default))))
            for name, default in (features or {}).items()
        )
        split = (*self._inputs, *self._features, *self._outputs)
        self._types = {
            **{name: CellType(kind) for name, kind in FIXED.items()},
            **{column.name: column.cell for column in split},
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in their order."""
        return tuple(self._types)

    def schema(self) -> Any:
        """The Arrow schema (`pyarrow.Schema`)."""
        import pyarrow as pa

        return pa.schema([(name, arrow_type(cell)) for name, cell in self._types.items()])

    def portion(self, rows: Sequence[Rows]) -> Any:
        """Rows of several requests as Arrow (`pyarrow.RecordBatch`)."""
        import pyarrow as pa

        schema = self.schema()
        gathered = [list(itertools.chain.from_iterable(cells[name] for cells in rows)) for name in self._types]
        arrays = [pa.array(values, field.type) for values, field in zip(gathered, schema, strict=True)]
        return pa.record_batch(arrays, schema=schema)

    def parquet(self, portions: Sequence[Any], metadata: Mapping[str, str]) -> bytes:
        """A file of these portions."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        table = pa.Table.from_batches(portions, self.schema()).replace_schema_metadata(metadata)
        pq.write_table(table, sink, compression="zstd")
        content: bytes = sink.getvalue().to_pybytes()
        return content

    def rows(self, captured: Captured, redaction: Redaction) -> Rows:
        """The rows of one request; at least one, whatever it was. Never raises for what strangers sent."""
        request = read_request(captured.body, captured.content_type)
        given = request.given if request else None
        inputs = _split(self._inputs, given, redaction)
        count = given.rows if given and inputs is not None else 1
        body = self._body(request, redaction) if request and inputs is None else None
        params = json_text(request.params, redaction) if request and request.params is not None else None
        looked_up = _features(captured.features, count)
        split = {**(inputs or {}), **(_split(self._features, looked_up, redaction) or {})}
        error, answer = None, None
        streamed = captured.ending is not None
        read = None if streamed else read_answer(captured.answer)
        if streamed:
            answer = self._streamed(captured.answer, redaction)
        elif captured.status >= _GOOD_BELOW:
            error = _error_code(read.document if read else None)
        elif read is not None:
            predictions = _split(self._outputs, read.given, redaction, rows=count)
            answer = json_text(read.document, redaction) if predictions is None else None
            split.update(predictions or {})
        alike = {
            "at": round(captured.at_s * 1e6),
            "request_id": text(captured.request_id),
            "build": self._build,
            "role": captured.role.value,
            "rows": count,
            "status": captured.status,
            "error": error,
            "latency_ms": captured.latency_ms,
            "params": params,
            "body": body,
            "answer": answer,
            "ending": captured.ending.value if captured.ending else None,
            "cut": captured.cut if streamed else None,
        }
        kept = min(count, ROWS_PER_REQUEST)
        split["row"] = list(range(kept))
        return {name: split.get(name) or [alike.get(name)] * kept for name in self._types}

    def _streamed(self, events: bytes, redaction: Redaction) -> str | None:
        """The text of a streamed answer; None where a prediction is hidden, which has no name in a stream."""
        chunks = read_events(events)
        if chunks is None or any(_is_hidden(column, redaction) for column in self._outputs):
            return None
        return json_text(chunks, redaction)

    def _body(self, request: Read, redaction: Redaction) -> str | None:
        """The text of a request that is not split; None where a value that is hidden has only its place for a name."""
        given = request.given
        if (
            given is not None
            and given.plain is not None
            and any(_is_hidden(column, redaction) for column in self._inputs)
        ):
            return None
        return None if request.document is None else json_text(request.document, redaction)


def _columns(prefix: str, schema: Sequence[Mapping[str, Any]] | None) -> tuple[_Column, ...]:
    """The columns of one side. An unnamed schema of one value for each row has the prefix itself as its column."""
    found: list[_Column] = []
    for place, spec in enumerate(schema or ()):
        kind, width = kind_of_spec(spec)
        alone = len(schema or ()) == 1 and "name" not in spec
        if alone and width is not None and 1 < width <= WIDEST_TENSOR:
            return tuple(_Column(f"{prefix}.{i}", i, CellType(kind)) for i in range(width))
        source = spec.get("name", place)
        found.append(_Column(prefix if alone else f"{prefix}.{source}", source, CellType(kind, is_list=width != 1)))
    return tuple(found)


def _split(
    columns: tuple[_Column, ...], given: Given | None, redaction: Redaction, rows: int | None = None
) -> dict[str, list[Any]] | None:
    """The cells of one side by column, or None where what was given does not fit (or has not so many `rows`)."""
    if not columns or given is None or (rows is not None and given.rows != rows):
        return None
    try:
        return {
            column.name: [None] * len(values)
            if _is_hidden(column, redaction)
            else cells(column.cell, values, redaction)
            for column, values in zip(columns, _values(columns, given), strict=True)
        }
    except UNREADABLE:
        return None


def _values(columns: tuple[_Column, ...], given: Given) -> list[list[Any]]:
    """What was given for each column. By name where the signature has names; else by place, whatever it was called."""
    named, plain = given.named, given.plain
    if named is not None and isinstance(columns[0].source, str):
        if not any(column.source in named for column in columns):
            raise KeyError("none of the columns")
        nothing: list[Any] = [None] * given.rows
        return [named.get(str(column.source), nothing)[:ROWS_PER_REQUEST] for column in columns]
    if named is not None and len(named) == len(columns):
        return [values[:ROWS_PER_REQUEST] for values in named.values()]
    if named is not None:
        (plain,) = named.values()
    rows = (plain or [])[:ROWS_PER_REQUEST]
    if isinstance(columns[0].source, str):
        raise KeyError("no names")
    if len(columns) == 1:
        scalar = not columns[0].cell.is_list and columns[0].cell.kind is not Kind.JSON
        return [[row[0] if scalar and isinstance(row, list) and len(row) == 1 else row for row in rows]]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("rows of another width")
    return [list(values) for values in zip(*rows, strict=True)]


def _features(features: Sequence[Mapping[str, Any]], count: int) -> Given | None:
    if len(features) != count:
        return None
    names = {name: None for row in features for name in row}  # a row that came with one itself has no such name
    return Given(count, named={name: [row.get(name) for row in features] for name in names})


def _is_hidden(column: _Column, redaction: Redaction) -> bool:
    return redaction.hides(column.name) or (isinstance(column.source, str) and redaction.hides(column.source))


def _error_code(document: Any) -> str | None:
    code = document.get("error_code") if isinstance(document, dict) else None
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else None
