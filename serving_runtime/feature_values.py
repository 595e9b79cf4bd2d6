"""One value of a feature, as the type that the model's signature gives its column.

Rules:
- Stores keep numbers as text (Redis hashes) or whole numbers as fractions (JSON from elsewhere): what is the same value
  is taken. What is another value is not: 1.5 is no whole number, 3 is no text, NaN is no number.
- A reader raises ValueError, TypeError or what MLflow raises, and says what it wanted.

MLflow's own conversion of requests is not used for plain types: it takes `True` for a number and wraps what overflows.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any, TypeAlias

Reader: TypeAlias = Callable[[Any], Any]

_TRUE, _FALSE = ("true", "1"), ("false", "0")


def reader(spec: Any) -> Reader:
    """Reads values for one input of a signature (MLflow's ColSpec or TensorSpec); None reads every value as it is.

    Raises ValueError for a tensor of more than one value a row.
    """
    if spec is None:
        return _plain
    dtype = numpy_type(spec)
    if _is_tensor(spec):
        if len(spec.shape) != 1:
            raise ValueError(f"a feature has one value for each row, not a tensor of shape {spec.shape}")
        return _of_kind(dtype)
    from mlflow.types import DataType

    if not isinstance(spec.type, DataType):
        return _nested(spec)
    return {DataType.string: _text, DataType.binary: _bytes}.get(spec.type) or _of_kind(dtype)


def numpy_type(spec: Any) -> Any:
    """The numpy type of a column of such values; None where they are Python objects."""
    import numpy as np

    if spec is None:
        return None
    if _is_tensor(spec):
        return spec.type if spec.type.kind in "biufM" else None
    from mlflow.types import DataType

    if not isinstance(spec.type, DataType) or spec.type in (DataType.string, DataType.binary):
        return None
    return np.dtype(spec.type.to_pandas())


def has_gaps(dtype: Any) -> bool:
    """Can a column of this numpy type hold a row without a value?"""
    return dtype is None or dtype.kind in "fM"


def _is_tensor(spec: Any) -> bool:
    from mlflow.types import TensorSpec

    return isinstance(spec, TensorSpec)


def _of_kind(dtype: Any) -> Reader:
    kind = "O" if dtype is None else dtype.kind
    if kind == "b":
        return _flag
    if kind in "iu":
        return _whole(dtype)
    if kind == "f":
        return _number(dtype)
    return _moment if kind == "M" else _text


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _flag(value: Any) -> bool:
    value = _plain(value)
    text = str(value).lower() if isinstance(value, bool | int | str) else ""
    if text not in (*_TRUE, *_FALSE):
        raise ValueError("wanted true or false")
    return text in _TRUE


def _whole(dtype: Any) -> Reader:
    import numpy as np

    bounds = np.iinfo(dtype)

    def read(value: Any) -> int:
        value = _plain(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError("wanted a whole number")
        if isinstance(value, float) and not value.is_integer():
            raise ValueError("wanted a whole number")
        number = int(value)
        if not bounds.min <= number <= bounds.max:
            raise ValueError(f"wanted a whole number from {bounds.min} to {bounds.max}")
        return number

    return read


def _number(dtype: Any) -> Reader:
    import numpy as np

    largest = float(np.finfo(dtype).max)

    def read(value: Any) -> float:
        value = _plain(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError("wanted a number")
        number = float(value)
        if math.isnan(number) or abs(number) > largest:
            raise ValueError(f"wanted a number of at most {largest:g}")
        return number

    return read


def _text(value: Any) -> str:
    value = _plain(value)
    if not isinstance(value, str):
        raise TypeError("wanted text")
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError("wanted bytes, or their base64")
    return base64.b64decode(value, validate=True)


def _moment(value: Any) -> Any:
    import pandas as pd

    if isinstance(value, bool | int | float):
        raise TypeError("wanted a moment, such as 2026-01-31T12:00:00Z")
    moment = pd.Timestamp(value)
    if pd.isna(moment):
        raise ValueError("wanted a moment")
    return (moment if moment.tz is None else moment.tz_convert(None)).to_datetime64()


def _nested(spec: Any) -> Reader:
    """Arrays, objects and maps, as MLflow reads them."""
    from mlflow.utils.proto_json_utils import convert_data_type

    def read(value: Any) -> Any:
        return convert_data_type(value, spec)

    return read
