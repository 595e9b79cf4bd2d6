"""How a protocol's bytes become rows for the model, and predictions its bytes: one `Dialect` for each protocol.

Rules:
- `read` takes what only numpy and the standard library need to look at, and nothing that could be read in two ways.
  What it leaves goes through `score`, which knows the whole protocol.
- All methods run in a thread, and none of them raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from serving_runtime.description import Described
from serving_runtime.fast_features import ColumnReader
from serving_runtime.fast_scoring import Form, Rows, answer_bytes
from serving_runtime.open_inference import OpenInference
from serving_runtime.protocol import Answer, Call, CallKind, Parsed, Scored, finish, model_fault, parse, score

_TYPES = frozenset({"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"})


class Dialect(Protocol):
    """One protocol, for one kind of call."""

    def read(self, call: Call, form: Form) -> Rows | None:
        """The rows that the call asks for, or None: `score` must answer it."""

    def write(self, call: Call, predictions: Any) -> Scored:
        """The answer that the model's predictions for the call's rows are."""

    def score(self, model: Any, input_schema: Any, call: Call) -> Scored:
        """Answer a call from bytes to bytes, whatever it is."""

    def columns(self, call: Call, reader: ColumnReader) -> Mapping[str, Any] | None:
        """The columns of the call's rows by name, as arrays, or None: `parse` must read it."""

    def parse(self, model: Any, input_schema: Any, call: Call) -> Parsed | Answer:
        """The first half of `score`: the rows before the signature is enforced, or the answer to a call without."""

    def finish(self, model: Any, parsed: Parsed, call: Call) -> Scored:
        """The second half of `score`, for rows that somebody else may have added to."""


class Invocations:
    """MLflow's scoring protocol."""

    def read(self, call: Call, form: Form) -> Rows | None:
        """Only JSON, and only what `fast_scoring` takes."""
        return form.read(call.body) if call.content_type in _TYPES else None

    def write(self, call: Call, predictions: Any) -> Scored:
        """MLflow's JSON."""
        try:
            return Scored(Answer(200, answer_bytes(predictions)))
        except Exception as error:  # noqa: BLE001 whatever a stranger's model returns
            return Scored(model_fault(call.request_id), error)

    def score(self, model: Any, input_schema: Any, call: Call) -> Scored:
        """MLflow's own way."""
        return score(model, input_schema, call)

    def columns(self, call: Call, reader: ColumnReader) -> Mapping[str, Any] | None:
        """Only JSON, and only what `fast_features` takes."""
        return reader.read(call.body) if call.content_type in _TYPES else None

    def parse(self, model: Any, input_schema: Any, call: Call) -> Parsed | Answer:
        """MLflow's own way."""
        return parse(model, input_schema, call)

    def finish(self, model: Any, parsed: Parsed, call: Call) -> Scored:
        """MLflow's own way."""
        return finish(model, parsed, call)


_INVOCATIONS = Invocations()


def dialect_of(call: Call, about: Described) -> Dialect:
    """The dialect in which a call to this version is written."""
    return _INVOCATIONS if call.kind is CallKind.INVOCATIONS else OpenInference(about)
