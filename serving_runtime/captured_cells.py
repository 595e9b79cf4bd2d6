"""Cells of captured rows: from what stood in a request to what its column holds, redacted. Pure.

Rules:
- A value fits its column's type or an exception of `captured_bodies.UNREADABLE` says that it does not: nothing is
  rounded, cut or guessed, and what Arrow would refuse later is refused here.
- Types that few readers share (objects, maps, arrays, anything) are JSON text.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from serving_runtime.captured_bodies import flatten
from serving_runtime.redaction import Redaction


class Kind(StrEnum):
    """What a cell holds."""

    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    TEXT = "text"
    BINARY = "binary"
    MOMENT = "moment"
    """UTC, in microseconds."""
    JSON = "json"


@dataclasses.dataclass(frozen=True)
class CellType:
    """The type of a column; a list holds one row of a tensor, row-major."""

    kind: Kind
    is_list: bool = False


def arrow_type(cell: CellType) -> Any:
    """The Arrow type of a column (`pyarrow.DataType`)."""
    import pyarrow as pa

    single = {
        Kind.BOOL: pa.bool_(),
        Kind.INT32: pa.int32(),
        Kind.INT64: pa.int64(),
        Kind.FLOAT32: pa.float32(),
        Kind.FLOAT64: pa.float64(),
        Kind.TEXT: pa.string(),
        Kind.BINARY: pa.binary(),
        Kind.MOMENT: pa.timestamp("us", tz="UTC"),
        Kind.JSON: pa.string(),
    }[cell.kind]
    return pa.list_(single) if cell.is_list else single


_MLFLOW = {
    "boolean": Kind.BOOL,
    "integer": Kind.INT32,
    "long": Kind.INT64,
    "float": Kind.FLOAT32,
    "double": Kind.FLOAT64,
    "string": Kind.TEXT,
    "binary": Kind.BINARY,
    "datetime": Kind.MOMENT,
}
_NUMPY = {
    "bool": Kind.BOOL,
    "int8": Kind.INT32,
    "int16": Kind.INT32,
    "uint8": Kind.INT32,
    "uint16": Kind.INT32,
    "int32": Kind.INT32,
    "uint32": Kind.INT64,
    "int64": Kind.INT64,
    "float16": Kind.FLOAT32,
    "float32": Kind.FLOAT32,
    "float64": Kind.FLOAT64,
}


def kind_of_spec(spec: Mapping[str, Any]) -> tuple[Kind, int | None]:
    """The kind of one entry of an MLflow schema, and how many scalars a row of it has (None: it differs, or many)."""
    tensor = spec.get("tensor-spec")
    if tensor is None:
        return _MLFLOW.get(str(spec["type"]), Kind.JSON), 1
    kind = _NUMPY.get(str(tensor["dtype"]), Kind.JSON)
    dimensions = tensor["shape"][1:]
    return kind, None if len(dimensions) > 1 or -1 in dimensions else math.prod(dimensions)


def kind_of_default(default: object) -> Kind:
    """The kind of a feature, from its default. Whole numbers too are defaults of measured ones."""
    match default:
        case bool():
            return Kind.BOOL
        case int() | float():
            return Kind.FLOAT64
        case str():
            return Kind.TEXT
    return Kind.JSON


def cells(cell: CellType, values: list[Any], redaction: Redaction) -> list[Any]:
    """A column's cells, one for each of the values; None stays None."""
    if cell.kind is Kind.JSON:
        return [None if value is None else json_text(value, redaction) for value in values]
    convert = _CONVERT[cell.kind]
    if cell.is_list:
        return [None if value is None else [convert(scalar) for scalar in flatten(value)] for value in values]
    converted = [None if value is None else convert(value) for value in values]
    return [text and redaction.text(text) for text in converted] if cell.kind is Kind.TEXT else converted


def json_text(value: Any, redaction: Redaction) -> str:
    """A value as JSON text, with what is hidden as null. ASCII, so that no half of a character is in it."""
    return json.dumps(redaction.value(value), default=str)


def text(value: Any) -> str:
    """A text that every reader takes: JSON may hold halves of characters, which UTF-8 does not."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value if value.isascii() else value.encode(errors="replace").decode()


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        return {"true": True, "false": False}[value.lower()]
    if value in (0, 1):
        return bool(value)
    raise ValueError("not a boolean")


def _integer(bits: int) -> Callable[[Any], int]:
    bound = 2 ** (bits - 1)

    def convert(value: Any) -> int:
        number = value if type(value) is int else int(value)
        if not -bound <= number < bound or (isinstance(value, float) and value != number):
            raise ValueError("not a whole number of that size")
        return number

    return convert


def _binary(value: Any) -> bytes:
    return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)


def _moment(value: Any) -> datetime:
    """A moment; one without a zone is UTC, as everywhere in MLflow."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


_CONVERT: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.BOOL: _boolean,
    Kind.INT32: _integer(32),
    Kind.INT64: _integer(64),
    Kind.FLOAT32: float,
    Kind.FLOAT64: float,
    Kind.TEXT: text,
    Kind.BINARY: _binary,
    Kind.MOMENT: _moment,
}
