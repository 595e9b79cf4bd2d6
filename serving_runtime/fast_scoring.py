"""The short way through MLflow's scoring protocol, for models whose input is numbers: bytes -> arrays -> bytes. Pure.

MLflow's own way parses a body twice, copies it, makes a pandas column of each value and checks each column on its own:
9 ms for a row of 30 numbers that scikit-learn answers in 1 ms. Where the signature says numbers, and the body holds
nothing else, there is only one outcome, and it can be had by two calls of numpy.

Rules:
- What is taken is answered byte for byte as `mlflow.pyfunc.scoring_server.invocations` does, and the model sees the
  same type, dtypes, column order and memory layout. A test compares both ways on a corpus and on generated requests.
- Everything else is `None`: another content type, params, an unknown, missing or extra key or column, a null, a number
  that the column cannot hold exactly, ragged or empty data. `None` is no verdict: MLflow's own code says what is wrong.
- Numbers are parsed by the standard library's json, as MLflow does, or by orjson in a tenth of its time where that can
  make no difference. orjson refuses NaN, infinity, numbers beyond doubles and every encoding but UTF-8, which leaves
  them to MLflow; whole numbers beyond 64 bits it makes doubles, which is what becomes of them in a column of doubles.
- A form never looks at what a model is, only at its signature; `fast_form` says whether there is one.

The caller runs `predict` off the event loop; nothing here waits.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Protocol

import orjson

SPLIT, RECORDS, INSTANCES, INPUTS = "dataframe_split", "dataframe_records", "instances", "inputs"

_NUMBERS: Final = frozenset({"double", "float", "integer", "long", "boolean"})

# Up to here a whole number is the same number as a double and as 64 bits, so it does not matter by which of them
# MLflow comes to 32-bit floats.
_EXACT: Final = 2**53

_NUMERIC_KINDS: Final = "fiub"


@dataclasses.dataclass(frozen=True)
class Rows:
    """A request's rows as arrays, before they are what `predict` takes. The first axis of every array is the rows."""

    arrays: tuple[Any, ...]
    count: int
    like: Hashable
    """Rows of one form with equal `like` may be joined; none: never."""


class Form(Protocol):
    """How a signature's rows are read from JSON and handed to the model."""

    def read(self, body: bytes) -> Rows | None:
        """The rows of an `/invocations` body, or None where only MLflow's own way can say."""

    def take(self, columns: Mapping[str, Any]) -> Rows | None:
        """Rows from arrays by input name (an input without a name takes any), or None where they do not fit exactly.

        A column is an array of one dimension; a tensor has the dimensions of its signature.
        """

    def data(self, rows: Rows) -> Any:
        """What the model's own predict gets."""


def fast_form(model: Any) -> Form | None:
    """The form of a loaded pyfunc model, or None where its signature needs MLflow's own way."""
    metadata = model.metadata
    if metadata._is_signature_from_type_hint() or _converts_to_example(metadata) or _has_dependencies(metadata):  # noqa: SLF001 MLflow has no public name for it
        return None
    schema = metadata.get_input_schema()
    if schema is None:
        return _Free()
    if schema.is_tensor_spec():
        return _tensor_form(schema)
    return _columns_form(schema)


def raw_predict(model: Any) -> Callable[[Any], Any]:
    """The model's own predict function as MLflow calls it for a request without params."""
    from mlflow.models.utils import _enforce_params_schema
    from mlflow.pyfunc.context import Context, set_prediction_context

    predict, model_id = model._predict_fn, getattr(model, "model_id", None)  # noqa: SLF001 the same
    params = inspect.signature(predict).parameters.get("params")
    takes_params = params is not None and params.kind is not inspect.Parameter.VAR_KEYWORD
    defaults = _enforce_params_schema(None, model.metadata.get_params_schema())

    def call(data: Any) -> Any:
        with set_prediction_context(Context(model_id=model_id)):
            if takes_params:
                return predict(data, params=None if defaults is None else dict(defaults))
            return predict(data)

    return call


def answer_bytes(predictions: Any) -> bytes:
    """The body of the answer. Raises what json raises where predictions cannot be written."""
    from mlflow.utils.proto_json_utils import NumpyEncoder, _get_jsonable_obj

    plain = _get_jsonable_obj(predictions, pandas_orient="records")
    # MLflow writes to a stream, which Python does in Python; the text is the same.
    return json.dumps({"predictions": plain}, cls=NumpyEncoder).encode()


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of several requests, one after the other; all of one form and `like`."""
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    arrays = tuple(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True))
    return Rows(arrays, sum(part.count for part in parts), parts[0].like)


def split(predictions: Any, counts: Sequence[int]) -> list[Any] | None:
    """Predictions of joined rows, by request; None where they are not one for each row."""
    import numpy as np
    import pandas as pd

    rows: Any = None
    if isinstance(predictions, pd.DataFrame | pd.Series):
        rows = predictions.iloc
    elif isinstance(predictions, list) or (isinstance(predictions, np.ndarray) and predictions.ndim):
        rows = predictions
    if rows is None or len(predictions) != sum(counts):
        return None
    ends = itertools.accumulate(counts)
    return [rows[end - count : end] for end, count in zip(ends, counts, strict=True)]


# --- forms ---------------------------------------------------------------------------------------------------------


class _Columns:
    """Named columns of numbers: a DataFrame."""

    def __init__(self, names: Sequence[str], dtypes: Sequence[Any]) -> None:
        import pandas as pd

        self._names = list(names)
        self._place = {name: place for place, name in enumerate(names)}
        self._dtypes = tuple(dtypes)
        self._uniform = self._dtypes[0] if len(set(self._dtypes)) == 1 else None
        self._index = _names_index(pd, names)
        self._pick = itemgetter(*names)
        self._doubles = {dtype.name for dtype in self._dtypes} == {"float64"}

    def read(self, body: bytes) -> Rows | None:
        key, content = _content(body, orjson.loads)
        if isinstance(content, dict):
            if key == SPLIT:
                return self._split(content)
            return self._inputs(content) if key == INPUTS else None
        if not isinstance(content, list) or not content:
            return None
        if key in (RECORDS, INSTANCES):
            return self._records(content)
        if key == INPUTS:
            if len(self._names) == 1 and not isinstance(content[0], dict):
                return self._by_column([content])
            # Single values become numpy's there, and pandas makes doubles of 32-bit ones, which do not fit any more.
            return self._records(content) if self._doubles else None
        return None

    def take(self, columns: Mapping[str, Any]) -> Rows | None:
        if len(columns) != len(self._names):
            return None
        try:
            arrays = [columns[name] for name in self._names]
        except KeyError:
            return None
        fit = all(a.ndim == 1 and a.dtype == dtype for a, dtype in zip(arrays, self._dtypes, strict=True))
        return self._rows(arrays) if fit else None

    def data(self, rows: Rows) -> Any:
        import numpy as np
        import pandas as pd

        if self._uniform is not None:
            # Column by column in memory, as MLflow's own frames: what a model computes may depend on it in the last
            # digit.
            return pd.DataFrame(np.asfortranarray(rows.arrays[0]), columns=self._index, copy=False)
        # What `DataFrame(dict)` comes to in the end, in a fifth of its time: the names' index is there already.
        return pd.DataFrame._from_arrays(  # type: ignore[attr-defined]  # noqa: SLF001 pandas has no public name for it
            list(rows.arrays), columns=self._index, index=pd.RangeIndex(rows.count), verify_integrity=False
        )

    def _split(self, content: dict[str, Any]) -> Rows | None:
        columns, data = content.get("columns"), content.get("data")
        if len(content) != 2 or not isinstance(columns, list) or not isinstance(data, list):  # noqa: PLR2004 those two
            return None
        order = None
        if columns != self._names:
            try:
                order = [columns.index(name) for name in self._names]
            except ValueError:
                return None
            if len(columns) != len(order):
                return None
        if not all(isinstance(row, list) for row in data):
            return None
        return self._by_row(data, order)

    def _records(self, records: list[Any]) -> Rows | None:
        count = len(self._names)
        try:
            if any(len(record) != count for record in records):
                return None
            values = [self._pick(record) for record in records]
        except (TypeError, KeyError):  # no object, or another key
            return None
        return self._by_column([values]) if count == 1 else self._by_row(values, None)

    def _inputs(self, content: dict[str, Any]) -> Rows | None:
        if len(content) != len(self._names):
            return None
        try:
            columns = [content[name] for name in self._names]
        except KeyError:
            return None
        return self._by_column(columns) if all(isinstance(column, list) for column in columns) else None

    def _by_row(self, data: list[Any], order: list[int] | None) -> Rows | None:
        """`order`: where in a row each column is."""
        if self._uniform is None:
            if len({len(row) for row in data}) != 1 or len(data[0]) != len(self._names):
                return None
            columns = list(zip(*data, strict=True))
            return self._by_column([columns[place] for place in order] if order else columns)
        matrix = _array(data)
        if matrix is None or matrix.ndim != 2 or matrix.shape[1] != len(self._names):  # noqa: PLR2004 rows and columns
            return None
        matrix = _cast(matrix[:, order] if order else matrix, self._uniform)
        return None if matrix is None else Rows((matrix,), len(matrix), "columns")

    def _by_column(self, columns: Sequence[Sequence[Any]]) -> Rows | None:
        arrays = []
        for values, dtype in zip(columns, self._dtypes, strict=True):
            array = _array(values)
            array = None if array is None or array.ndim != 1 else _cast(array, dtype)
            if array is None:
                return None
            arrays.append(array)
        return self._rows(arrays)

    def _rows(self, arrays: list[Any]) -> Rows | None:
        import numpy as np

        count = len(arrays[0])
        if not count or any(len(array) != count for array in arrays):
            return None
        return Rows((np.column_stack(arrays),) if self._uniform is not None else tuple(arrays), count, "columns")


class _Tensor:
    """One tensor of numbers: an array. MLflow's own call makes it, so that what it takes is what MLflow takes."""

    def __init__(self, spec: Any) -> None:
        self._spec = spec
        self._name = spec.name
        self._joins = spec.shape[0] == -1
        self._parse = orjson.loads if spec.type.kind == "f" else json.loads

    def read(self, body: bytes) -> Rows | None:
        key, content = _content(body, self._parse)
        if key == INPUTS and self._name and isinstance(content, dict) and set(content) == {self._name}:
            content = content[self._name]
        if key not in (INPUTS, INSTANCES) or not _is_plain_list(content):
            return None
        return self._fit(_array(content, self._spec.type))

    def take(self, columns: Mapping[str, Any]) -> Rows | None:
        return self._fit(next(iter(columns.values()))) if len(columns) == 1 else None

    def data(self, rows: Rows) -> Any:
        return {self._name: rows.arrays[0]} if self._name else rows.arrays[0]

    def _fit(self, array: Any) -> Rows | None:
        shape = self._spec.shape
        if array is None or array.dtype != self._spec.type or array.ndim != len(shape):
            return None
        if any(wanted not in (-1, is_) for wanted, is_ in zip(shape, array.shape, strict=True)):
            return None
        return Rows((array,), len(array), array.shape[1:] if self._joins else None)


class _Free:
    """No signature: whatever array MLflow makes of a list of numbers."""

    def read(self, body: bytes) -> Rows | None:
        key, content = _content(body, json.loads)
        if key not in (INPUTS, INSTANCES) or not _is_plain_list(content):
            return None
        return self._fit(_array(content))

    def take(self, columns: Mapping[str, Any]) -> Rows | None:
        return self._fit(next(iter(columns.values()))) if len(columns) == 1 else None

    def data(self, rows: Rows) -> Any:
        return rows.arrays[0]

    def _fit(self, array: Any) -> Rows | None:
        if array is None or array.dtype.kind not in _NUMERIC_KINDS or not array.ndim:
            return None
        return Rows((array,), len(array), (array.dtype.str, array.shape[1:]))


def _names_index(pandas: Any, names: Sequence[str]) -> Any:
    """As pandas makes it of such names, but for where the text is: as Python's own, which models ask name by name."""
    made = pandas.DataFrame({name: [] for name in names}).columns
    if getattr(made.dtype, "storage", None) != "pyarrow":
        return made
    return made.astype(pandas.StringDtype("python", na_value=made.dtype.na_value))


def _columns_form(schema: Any) -> Form | None:
    from mlflow.types.schema import DataType

    names, kinds = schema.input_names(), schema.input_types()
    if not schema.has_input_names() or len(set(names)) != len(names):
        return None
    if not all(isinstance(kind, DataType) and kind.name in _NUMBERS for kind in kinds):
        return None
    return _Columns(names, [kind.to_pandas() for kind in kinds])


def _tensor_form(schema: Any) -> Form | None:
    spec = schema.inputs[0]
    if len(schema.inputs) != 1 or spec.type.kind not in _NUMERIC_KINDS or not spec.shape:
        return None
    return _Tensor(spec)


# --- reading -------------------------------------------------------------------------------------------------------


def _content(body: bytes, parse: Callable[[bytes], Any]) -> tuple[str, Any]:
    """The only key of the body and what is under it; an empty key where it is anything else."""
    try:
        request = parse(body)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, a number with too many digits; nested too deeply
        return "", None
    if not isinstance(request, dict) or len(request) != 1:
        return "", None
    return next(iter(request.items()))


def _is_plain_list(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and not isinstance(content[0], dict)


def _array(values: Any, dtype: Any = None) -> Any:
    """The array numpy makes of it, or None where it makes none or an empty one."""
    import numpy as np

    try:
        array = np.array(values, dtype)
    except (ValueError, TypeError, OverflowError, RecursionError):  # ragged, no numbers, too large
        return None
    return array if array.size else None


def _cast(array: Any, dtype: Any) -> Any:
    """As a column of `dtype`, or None where a value is no such number, or may be another one by MLflow's way."""
    import numpy as np

    if array.dtype == dtype and dtype != np.float32:
        return array
    if array.dtype == np.int64:
        if dtype == np.float64:
            return array.astype(dtype)
        if dtype == np.int32:
            limits = np.iinfo(np.int32)
            return array.astype(dtype) if limits.min <= array.min() and array.max() <= limits.max else None
    # Not so for NaN and infinity, nor for what numpy makes of nulls, text and lists.
    if dtype != np.float32 or array.dtype not in (np.int64, np.float64):
        return None
    return array.astype(dtype) if array.min() >= -_EXACT and array.max() <= _EXACT else None


def _converts_to_example(metadata: Any) -> bool:
    ask = getattr(metadata, "_is_type_hint_from_example", None)
    return bool(ask()) if ask is not None else False


def _has_dependencies(metadata: Any) -> bool:
    return "dependencies_schemas" in (getattr(metadata, "metadata", None) or {})
