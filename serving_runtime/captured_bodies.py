"""Bodies of captured requests and answers as plain values: rows by column name, or rows as they stand. Pure.

Both protocols, as far as their bodies are text: MLflow's scoring (`dataframe_split`, `dataframe_records`, `instances`,
`inputs`, CSV, Parquet) and the Open Inference Protocol (`inputs` of named tensors). They are read again here, beside
the answer and not before it, so that capture costs the way to an answer nothing.

Rules:
- What cannot be read is None, never an exception: strangers write these bytes.
- Nothing is converted: types are `captured_rows.py`'s business.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from serving_runtime.costly_bodies import too_much
from serving_runtime.protocol import BODY_LIMIT_BYTES

_DATA, _DONE = b"data: ", b"[DONE]"

# What strangers' bytes make a parser raise: syntax, encoding, depth, shapes that do not fit.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError)


@dataclasses.dataclass(frozen=True)
class Given:
    """Rows: either `named` (column -> one value for each row) or `plain` (one value, mostly a list, for each row)."""

    rows: int
    named: Mapping[str, list[Any]] | None = None
    plain: list[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Read:
    """A body that could be read; `given` is None where it has no rows."""

    given: Given | None = None
    document: Any = None
    """The JSON value; None for CSV and Parquet."""
    params: Any = None


def read_request(body: bytes, content_type: str | None) -> Read | None:
    """A request of either protocol, or None where it cannot be read."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if too_much(body, kind, BODY_LIMIT_BYTES):  # it was refused, and that is captured too
        return None
    try:
        match kind:
            case "application/json":
                document = json.loads(body)
                params = document.get("params", document.get("parameters")) if isinstance(document, dict) else None
                return Read(_rows_or_none(_request_rows, document), document, params)
            case "text/csv":
                return Read(_csv(body.decode()))
            case "application/vnd.apache.parquet":
                return Read(_parquet(body))
    except UNREADABLE:
        return None
    return None


def read_answer(body: bytes) -> Read | None:
    """An answer of either protocol, or None where it cannot be read."""
    try:
        document = json.loads(body)
    except UNREADABLE:
        return None
    return Read(_rows_or_none(_answer_rows, document), document)


def read_events(body: bytes) -> Any:
    """What whole events of a stream say (`event_stream.py`): one text where all are texts, else a list of chunks.

    None where they cannot be read.
    """
    told = [event[len(_DATA) :] for event in body.split(b"\n\n") if event.startswith(_DATA)]
    try:
        chunks = json.loads(b"[" + b",".join(one for one in told if one != _DONE) + b"]")
    except UNREADABLE:
        return None
    return "".join(chunks) if chunks and all(isinstance(one, str) for one in chunks) else chunks


def _rows_or_none(rows: Any, document: Any) -> Given | None:
    try:
        found: Given | None = rows(document)
    except UNREADABLE:
        return None
    return found


def _request_rows(document: Any) -> Given | None:
    match document:
        case {"dataframe_split": {"columns": list(columns), "data": list(data)}}:
            return _table(columns, data)
        case {"dataframe_split": {"data": list(data)}}:
            return Given(len(data), plain=data)
        case {"dataframe_records": list(rows)} | {"instances": list(rows)}:
            return _rows(rows)
        case {"inputs": [{"name": _, "shape": _, "data": _}, *_] as tensors}:
            return _tensors(tensors)
        case {"inputs": inputs} | {"instances": inputs}:
            return _values(inputs)
    return None


def _answer_rows(document: Any) -> Given | None:
    match document:
        case {"predictions": predictions}:
            return _values(predictions)
        case {"outputs": [{"name": _, "shape": _, "data": _}, *_] as tensors}:
            return _tensors(tensors)
    return None


def _values(value: Any) -> Given | None:
    match value:
        case list():
            return _rows(value)
        case dict():
            columns = {str(name): item if isinstance(item, list) else [item] for name, item in value.items()}
            return _named(columns)
    return None


def _rows(rows: list[Any]) -> Given | None:
    if not rows or not all(isinstance(row, dict) for row in rows):
        return Given(len(rows), plain=rows) if rows else None
    names = {name: None for row in rows for name in row}  # in the order in which they come up
    return Given(len(rows), named={name: [row.get(name) for row in rows] for name in names})


def _table(columns: list[Any], data: list[Any]) -> Given | None:
    if not data or any(len(row) != len(columns) for row in data):
        return None
    return Given(len(data), named=dict(zip(map(str, columns), map(list, zip(*data, strict=True)), strict=True)))


def _named(columns: dict[str, list[Any]]) -> Given | None:
    lengths = {len(values) for values in columns.values()}
    return Given(lengths.pop(), named=columns) if len(lengths) == 1 and lengths != {0} else None


def _tensors(tensors: list[Any]) -> Given | None:
    return _named({str(tensor["name"]): _tensor_rows(tensor["shape"], tensor["data"]) for tensor in tensors})


def _tensor_rows(shape: list[int], data: list[Any]) -> list[Any]:
    """One value for each row of a tensor: a scalar, or a flat list. `data` is flat, or nested as its shape."""
    rows, width = shape[0], math.prod(shape[1:])
    flat = flatten(data)
    if len(flat) != rows * width:
        raise ValueError("a tensor's data does not fill its shape")
    return flat if width == 1 else [flat[start : start + width] for start in range(0, rows * width, width)]


def flatten(value: Any) -> list[Any]:
    """The scalars of nested lists, row-major."""
    if not isinstance(value, list):
        return [value]
    if not any(isinstance(item, list) for item in value):
        return value
    return [scalar for item in value for scalar in flatten(item)]


def _csv(text: str) -> Given | None:
    names, *rows = csv.reader(io.StringIO(text))
    return _table(names, [[cell or None for cell in row] for row in rows if row])


def _parquet(body: bytes) -> Given | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(pa.BufferReader(body)).to_pydict()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return _named({str(name): values for name, values in columns.items()})
