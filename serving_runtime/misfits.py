"""What a signature takes and few models do: missing values, numbers beyond 32-bit floats, no rows, null params. Pure.

A required column of doubles takes null, NaN and infinity, in MLflow and so here, a column of strings takes numbers, and
a request may have no rows. Many models raise on them, by design: whoever sends such rows would decide about a version
if that counted as its fault.

Rules:
- Only what the request itself holds is looked at, before anybody added to it: a model that makes its own NaN, and a
  feature that nobody knows, are not the client's.
- A column that the signature calls optional may lack values, and a param whose default is null may be null: a model
  that says so has to live with it.
- Nothing of the rows is quoted but names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from serving_runtime.protocol import Parsed

NAMES_SHOWN: Final = 5
NAME_LIMIT_CHARS: Final = 60
_LARGEST: Final = 3.4028234663852886e38
"""Of a 32-bit float: scikit-learn's trees and most of torch compute in those, and refuse what is beyond."""


def misfit(parsed: Parsed, input_schema: Any, params_schema: Any) -> str:
    """What a request holds that a model may refuse, in words for its sender; empty where there is nothing.

    The schemas are the model's MLflow schemas, or None.
    """
    return _params(parsed.params, params_schema) or _rows(parsed.data, input_schema)


def _params(params: Mapping[str, Any] | None, schema: Any) -> str:
    may_be_null = {spec.name for spec in schema.params if spec.default is None} if schema is not None else set()
    null = [name for name, value in (params or {}).items() if value is None and name not in may_be_null]
    return f"The model takes no null for params: {_named(null)}." if null else ""


def _rows(data: Any, schema: Any) -> str:
    if _is_empty(data):
        return "The model takes no request without rows."
    columns, optional = list(_columns(data)), _names(schema, lambda spec: not getattr(spec, "required", True))
    found = _where({name: _first(_is_missing, values) for name, values in columns if name not in optional})
    if found:
        return f"The model takes no missing values, and none beyond a 32-bit float; there are some{found}."
    texts = _names(schema, lambda spec: getattr(spec.type, "name", "") == "string")
    found = _where({name: _first(_is_no_text, values) for name, values in columns if name in texts})
    return f"The model takes text only where its signature says string; there is other{found}." if found else ""


def _where(first: Mapping[str, int | None]) -> str:
    """Columns with the first row at fault, as ` in 'a', first in row 3, from 0`; empty for none."""
    found = {name: row for name, row in first.items() if row is not None}
    if not found:
        return ""
    named = [name for name in found if name]
    where = f" in {_named(named)}," if named else ","
    return f"{where} first in row {min(found.values())}, from 0"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:NAME_LIMIT_CHARS]) for name in names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def _names(schema: Any, which: Callable[[Any], bool]) -> frozenset[str]:
    if schema is None or not schema.has_input_names():
        return frozenset()
    return frozenset(spec.name for spec in schema.inputs if which(spec))


def _columns(data: Any) -> Iterator[tuple[str, Any]]:
    """Values by name, the first axis being the rows; a name is empty where there is none."""
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        for place, name in enumerate(data.columns):
            yield str(name), data.iloc[:, place]
    elif isinstance(data, Mapping):
        for name, values in data.items():
            yield str(name), values
    elif isinstance(data, list) and data and all(isinstance(row, Mapping) for row in data):
        for name in dict.fromkeys(name for row in data for name in row):
            yield str(name), [row.get(name) for row in data]
    else:
        yield "", data


def _is_empty(data: Any) -> bool:
    if isinstance(data, Mapping):
        return any(_is_empty(values) for values in data.values())
    shape = getattr(data, "shape", None)
    if shape is not None:
        return len(shape) > 0 and shape[0] == 0
    return isinstance(data, list) and not data


def _first(wrong: Callable[[Any], bool], values: Any) -> int | None:
    """The first row, from 0, with such a value."""
    import numpy as np
    import pandas as pd

    if isinstance(values, pd.Series):
        values = values.to_numpy()
    is_rows = isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim > 0)
    rows = values if is_rows else [values]
    return next((row for row, value in enumerate(rows) if wrong(value)), None)


def _is_missing(value: Any) -> bool:
    import numpy as np
    import pandas as pd

    if isinstance(value, np.ndarray) and value.dtype.kind in "iub":
        return False
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return not bool((np.abs(value) <= _LARGEST).all())
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        return any(_is_missing(each) for each in value)
    if isinstance(value, float | np.floating):
        return not abs(float(value)) <= _LARGEST  # NaN is not, either
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return value is None or value is pd.NA or value is pd.NaT


def _is_no_text(value: Any) -> bool:
    return value is not None and not isinstance(value, str)
