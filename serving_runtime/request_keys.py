"""What a request says about who asks: the value of a header, or of a field of its body.

By it a request is made sticky, or told apart in metrics.

Rules:
- Cheap and bounded: a body is parsed only where a model document names a field, once for all that is asked of it, and
  only up to BODY_READ_BYTES. A larger body says nothing: its request is drawn at random and belongs to no segment.
- Never raises, for whatever a stranger sends: a request without the value, or with one that names nobody (null, a list,
  an object, an empty text), has none.
- A field is looked for at the top of the body, then in the first row (`dataframe_split`, `dataframe_records`,
  `instances`, `inputs`, tensors of the Open Inference Protocol), then in `params` and `parameters`. The first row
  speaks for all rows: a request has one version.
- One name however it is written: 7, 7.0 and "7" are the same user.
- A segment is one of the listed values or OTHER: nothing else of a request ever becomes a label.

This module must not know versions, weights or metrics.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from policies.serving import RequestKey, Segments
from serving_runtime.protocol import Call

BODY_READ_BYTES: Final = 64 * 1024
"""Half a millisecond of the event loop at worst; a row of a thousand numbers is a quarter of it. Larger bodies are
batches, and a batch belongs to no user: whoever sends one with a key uses a header."""

OTHER: Final = "other"
"""The segment of every request that names no listed value."""

NESTED: Final = 4
"""Lists around the first value of a column: tensors of more dimensions name no user."""

BINARY_HEADER: Final = "inference-header-content-length"
"""Open Inference Protocol, binary extension: how many bytes of the body are JSON."""


class Asker(NamedTuple):
    """What one request said; none where it said nothing or nobody asks."""

    sticky: str | None
    segment: str | None


@dataclasses.dataclass(frozen=True)
class RequestKeys:
    """What is asked of each request of a model."""

    sticky: RequestKey | None
    segments: Segments | None

    @property
    def headers(self) -> frozenset[str]:
        """Names of the headers that a call must carry, in lower case."""
        keys = (self.sticky, self.segments.key if self.segments else None)
        return frozenset(key.header for key in keys if key is not None and key.header)

    def read(self, call: Call) -> Asker:
        """Everything that is asked, of one request."""
        body = _Body(call)
        sticky = None if self.sticky is None else _value(self.sticky, call, body)
        if self.segments is None:
            return Asker(sticky, None)
        segment = _value(self.segments.key, call, body)
        return Asker(sticky, segment if segment is not None and segment in self.segments.values else OTHER)


class _Body:
    """A body that is parsed at most once, and only when somebody asks."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._read = False
        self._document: Mapping[str, Any] | None = None

    @property
    def document(self) -> Mapping[str, Any] | None:
        """The JSON object that it is; none for anything else."""
        if not self._read:
            self._read = True
            self._document = _parsed(self._call)
        return self._document


def _value(key: RequestKey, call: Call, body: _Body) -> str | None:
    if key.header is not None:
        return call.headers.get(key.header, "").strip() or None
    if key.field is None or body.document is None:
        return None
    return _name(_field(body.document, key.field))


def _parsed(call: Call) -> Mapping[str, Any] | None:
    text = call.body
    json_bytes = call.headers.get(BINARY_HEADER, "")
    if json_bytes.isascii() and json_bytes.isdecimal():
        text = text[: int(json_bytes[:_DIGITS])]
    if len(text) > BODY_READ_BYTES or text.lstrip()[:1] != b"{":
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number with too many digits; nested too deeply
        return None
    return document if isinstance(document, dict) else None


_DIGITS = 12  # more would be longer than any body, and `int` refuses thousands of them


def _field(document: Mapping[str, Any], name: str) -> Any:
    """The first value that the body has for this name; none for none."""
    if name in document:
        return document[name]
    for container, find in _ROWS.items():
        if container in document:
            found = find(document[container], name)
            if found is not None:
                return found
    for container in ("params", "parameters"):
        options = document.get(container)
        if isinstance(options, dict) and name in options:
            return options[name]
    return None


def _of_split(frame: Any, name: str) -> Any:
    """`{"columns": [...], "data": [[...], ...]}`."""
    if not isinstance(frame, dict):
        return None
    columns, rows = frame.get("columns"), frame.get("data")
    if not (isinstance(columns, list) and isinstance(rows, list) and rows and isinstance(rows[0], list)):
        return None
    place = columns.index(name) if name in columns else len(rows[0])
    return rows[0][place] if place < len(rows[0]) else None


def _of_rows(rows: Any, name: str) -> Any:
    """`[{"column": value}, ...]`."""
    first = rows[0] if isinstance(rows, list) and rows else None
    return first.get(name) if isinstance(first, dict) else None


def _of_inputs(inputs: Any, name: str) -> Any:
    """`{"column": [value, ...]}`, rows, or tensors `[{"name": ..., "data": [...]}, ...]`."""
    if isinstance(inputs, dict):
        return _first(inputs.get(name))
    for tensor in inputs if isinstance(inputs, list) else ():
        if isinstance(tensor, dict) and tensor.get("name") == name and "data" in tensor:
            return _first(tensor["data"])
    return _of_rows(inputs, name)


_ROWS = {
    "dataframe_split": _of_split,
    "dataframe_records": _of_rows,
    "instances": _of_rows,
    "inputs": _of_inputs,
}


def _first(value: Any) -> Any:
    for _ in range(NESTED):
        if not isinstance(value, list):
            return value
        value = value[0] if value else None
    return None if isinstance(value, list) else value


def _name(value: Any) -> str | None:
    """The value as a name, or none."""
    match value:
        case str():
            return value.strip() or None
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return str(int(value)) if value.is_integer() else repr(value)
        case _:
            return None
