"""Features as columns: which keys the rows of a request name, and the rows with what was found for them.

Rules:
- Only what the document names under `defaults` and `required` is joined. What else a source knows of a key reaches no
  model, log or capture.
- A column that the request carries itself wins, whole.
- What a source gives is checked against the signature before it is joined, feature by feature: a wrong value is its
  source's fault and counts as missing; it must never turn a good request into a bad one.
- Rows are what MLflow's parser makes of a body: a DataFrame, a mapping of columns, or a list of mappings. Each stays
  what it is. Nothing of a request is changed in place.

This module must not know where features come from, nor wait for anything. It blocks: call it in a thread.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from policies.errors import BadInput
from policies.serving import Features
from serving_runtime.feature_values import Reader, has_gaps, numpy_type, reader
from serving_runtime.look_ups import Checked, Found

# Distinct keys in one request. At 500 in a question they are 20 questions at once, which any store answers while a
# user waits; whoever has more rows sends them in parts.
KEYS_LIMIT = 10_000

# Longer than any id in use; a key is sent to the store, and remembered.
KEY_LIMIT_CHARS = 256

SHOWN = 5  # names in a message; a person sees what they are about


@dataclasses.dataclass(frozen=True)
class Lacking:
    """A request's rows before the join."""

    data: Any
    """As MLflow parsed it."""
    missing: tuple[str, ...]
    """Features that the request does not carry itself."""
    keys: tuple[str | None, ...]
    """The key of each row, None where it has none; empty where nothing is missing."""


class Columns:
    """The features of one model document, fitted to one model's signature."""

    def __init__(self, terms: Features, input_schema: Any) -> None:
        """`input_schema` is MLflow's, or None.

        Raises BadInput where the model has no columns, or a default is not of its column's type.
        """
        if input_schema is not None and not input_schema.has_input_names():
            raise BadInput("features are joined by name, and this model's signature has no names for its inputs")
        self.key = terms.key
        self.names = (*terms.required, *terms.defaults)
        self.required = frozenset(terms.required)
        self._specs: Mapping[str, Any] = {} if input_schema is None else input_schema.input_dict()
        self._readers = {name: self._reader(name) for name in self.names}
        self._defaults = {name: self._default(name, value) for name, value in terms.defaults.items()}

    def _reader(self, name: str) -> Reader:
        try:
            return reader(self._specs.get(name))
        except ValueError as error:
            raise BadInput(f"feature {name}: {error}") from error

    def _default(self, name: str, value: object) -> Any:
        spec: Any = self._specs.get(name)
        if value is None:
            if not has_gaps(numpy_type(spec)):
                raise BadInput(f"features.defaults.{name}: a column of type {spec.type} has a value in every row")
            return None
        try:
            return self._readers[name](value)
        except Exception as error:
            raise BadInput(f"features.defaults.{name}: {value!r} is no {spec.type}: {error}") from error

    # --- what a source gives -------------------------------------------------------------------------------------

    def check(self, entry: Mapping[str, Any]) -> Checked:
        """The features of one entry that are there and right. Never raises."""
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for name in self.names:
            if entry.get(name) is None:
                continue
            try:
                values[name] = self._readers[name](entry[name])
            except Exception as error:  # noqa: BLE001 whatever a stranger's value raises: it counts as missing
                wrong.append(f"{name} ({type(error).__name__})")
        return Checked(values, complete=len(values) == len(self.names), wrong=tuple(wrong))

    # --- what a request asks for ---------------------------------------------------------------------------------

    def rows(self, data: Any) -> Lacking:
        """What has to be looked up for these rows. Raises BadInput with what is wrong about the request."""
        columns = _columns(data)
        missing = tuple(name for name in self.names if name not in columns)
        if not missing:
            return Lacking(data, (), ())
        if self.key not in columns:
            raise BadInput(f"a row needs the field {self.key!r}, by which {_some(missing)} are looked up")
        if hasattr(data, "columns") and list(data.columns).count(self.key) > 1:
            raise BadInput(f"a row has the field {self.key!r} once: {_some(missing)} are looked up by it")
        keys = tuple(self._key(value) for value in _values(data, self.key))
        if len(set(keys)) > KEYS_LIMIT:
            raise BadInput(f"a request has {KEYS_LIMIT} different values of {self.key!r} at most: send it in parts")
        return Lacking(data, missing, keys)

    def _key(self, value: Any) -> str | None:
        """The key as text; None where the row has none."""
        value = _plain(value)
        if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of whole numbers in which one is missing
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        try:
            text.encode()
        except UnicodeEncodeError:
            text = ""
        if not text or len(text) > KEY_LIMIT_CHARS:
            raise BadInput(f"the field {self.key!r} is text of at most {KEY_LIMIT_CHARS} characters, or a whole number")
        return text

    # --- the join ------------------------------------------------------------------------------------------------

    def values(self, rows: Lacking, found: Mapping[str, Found]) -> tuple[Mapping[str, Any], ...]:
        """For each row the features that it lacks: what was found, or the default.

        A required one that was not found is left out.
        """
        nothing: Mapping[str, Any] = {}
        seen = {key: self._filled(rows.missing, found[key].values) for key in set(rows.keys) if key is not None}
        without = self._filled(rows.missing, nothing)
        return tuple(without if key is None else seen[key] for key in rows.keys)

    def _filled(self, missing: Sequence[str], values: Mapping[str, Any]) -> Mapping[str, Any]:
        usable = {**self._defaults, **values}
        return {name: usable[name] for name in missing if name in usable}

    def joined(self, rows: Lacking, values: Sequence[Mapping[str, Any]]) -> Any:
        """The rows with these features, one mapping a row; without the key, where the signature has no such column.

        MLflow would drop it too, with a line in the log for every request.
        """
        extra = {self.key} if self._specs and self.key not in self._specs else set()
        if isinstance(rows.data, list):
            values = values or [{}] * len(rows.data)
            return [_without(extra, {**more, **row}) for row, more in zip(rows.data, values, strict=True)]
        columns = {name: self._column(name, [row[name] for row in values]) for name in rows.missing}
        if not isinstance(rows.data, Mapping):
            return rows.data.drop(columns=[name for name in extra if name in rows.data]).assign(**columns)
        if columns and _is_one_row(rows.data[self.key]):
            # Plain values, all of them: MLflow makes no row of numpy's scalars and plain ones together.
            plain = {name: _plain(value) for name, value in rows.data.items()}
            return _without(extra, plain | {name: column[0] for name, column in columns.items()})
        return _without(extra, {**rows.data, **columns})

    def _column(self, name: str, values: list[Any]) -> Any:
        import numpy as np

        kind = numpy_type(self._specs.get(name))
        if kind is not None:
            return np.array(values, dtype=kind)
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column


def arrays_of(data: Any) -> Mapping[str, Any]:
    """The columns of joined rows as numpy arrays of one dimension, by name; none where they are none."""
    import numpy as np

    if hasattr(data, "columns"):
        if not data.columns.is_unique:
            return {}
        return {name: data[name].to_numpy() for name in data.columns}
    if not isinstance(data, Mapping) or not all(isinstance(column, np.ndarray) for column in data.values()):
        return {}
    return data


def _columns(data: Any) -> frozenset[str]:
    """The names of the columns that every row has. Raises BadInput where rows have no named columns."""
    if isinstance(data, list) and data and all(isinstance(row, Mapping) for row in data):
        return frozenset.intersection(*(frozenset(row) for row in data))
    if isinstance(data, Mapping):
        return frozenset(data)
    if hasattr(data, "columns"):
        return frozenset(name for name in data.columns if isinstance(name, str))
    raise BadInput("rows have named fields here: write dataframe_split, dataframe_records, or inputs by name")


def _without(names: AbstractSet[str], row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in row.items() if name not in names} if names else row


def _values(data: Any, name: str) -> Iterable[Any]:
    if isinstance(data, list):
        return [row[name] for row in data]
    column = data[name]
    return [column] if _is_one_row(column) else column


def _is_one_row(column: Any) -> bool:
    """A single value instead of a column: what `inputs` holds for one row."""
    return isinstance(column, str | bytes) or not hasattr(column, "__len__") or getattr(column, "ndim", 1) == 0


def _plain(value: Any) -> Any:
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _some(names: Sequence[str]) -> str:
    """The first of them, for an answer to a person."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
