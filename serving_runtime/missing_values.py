"""Rows that a signature takes and few models do: those with missing values, and none at all. Pure.

A required column of doubles takes null, NaN and infinity, in MLflow and so here, and a request may have no rows. Many
models raise on them, by design: whoever sends such rows would decide about a version if that counted as its fault.

Rules:
- Only what the request itself holds is looked at, before anybody added to it: a model that makes its own NaN, and a
  feature that nobody knows, are not the client's.
- A column that the signature calls optional may lack values: a model that says so has to live with it.
- Nothing of the rows is quoted but names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

NAMES_SHOWN: Final = 5
NAME_LIMIT_CHARS: Final = 60


def missing_values(data: Any, input_schema: Any) -> str:
    """What rows lack, in words for their sender; empty where they lack nothing.

    `data` is what MLflow parsed (`protocol.Parsed.data`), `input_schema` the model's MLflow schema or None.
    """
    optional = _optional(input_schema)
    columns = [(name, values) for name, values in _columns(data) if name not in optional]
    if _is_empty(data):
        return "The model takes no request without rows."
    lacking = [(name, row) for name, values in columns if (row := _first_missing(values)) is not None]
    if not lacking:
        return ""
    names = ", ".join(repr(name[:NAME_LIMIT_CHARS]) for name, _ in lacking[:NAMES_SHOWN] if name)
    more = f" and {len(lacking) - NAMES_SHOWN} more" if len(lacking) > NAMES_SHOWN else ""
    where = f" in {names}{more}" if names else ""
    row = min(row for _, row in lacking)
    return f"The model takes no missing or infinite values; there are some{where}, first in row {row}, from 0."


def _optional(schema: Any) -> frozenset[str]:
    if schema is None or not schema.has_input_names():
        return frozenset()
    return frozenset(spec.name for spec in schema.inputs if not getattr(spec, "required", True))


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


def _first_missing(values: Any) -> int | None:
    """The first row, from 0, with a missing or infinite value."""
    import numpy as np
    import pandas as pd

    if isinstance(values, pd.Series):
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        if values.dtype.kind == "f":
            missing = ~np.isfinite(values)
        elif values.dtype.kind in "mM":
            missing = np.isnat(values)
        else:
            return None
        rows = np.flatnonzero(missing.reshape(len(values), -1).any(axis=1)) if values.ndim else np.flatnonzero(missing)
        return int(rows[0]) if len(rows) else None
    is_rows = isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim > 0)
    rows_of = values if is_rows else [values]
    return next((row for row, value in enumerate(rows_of) if _is_missing(value)), None)


def _is_missing(value: Any) -> bool:
    import numpy as np
    import pandas as pd

    if isinstance(value, list | tuple):
        return any(_is_missing(each) for each in value)
    if isinstance(value, np.ndarray):
        return _first_missing(value) is not None
    if isinstance(value, float | np.floating):
        return not math.isfinite(value)
    return value is None or value is pd.NA or value is pd.NaT
