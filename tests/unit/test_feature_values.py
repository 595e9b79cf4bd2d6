"""A feature's value as the type of its column: the same value is taken, another one is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.types import ColSpec, DataType, TensorSpec
from mlflow.types.schema import Array

from serving_runtime.feature_values import reader

MOMENT = np.datetime64("2026-01-31T12:00:00")


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        ("double", "12.5", 12.5),
        ("double", 3, 3.0),
        ("double", np.float32(0.5), 0.5),
        ("float", 1.5, 1.5),
        ("long", "42", 42),
        ("long", 42.0, 42),
        ("integer", np.int64(-7), -7),
        ("boolean", "true", True),
        ("boolean", 0, False),
        ("string", "007", "007"),
        ("binary", "aGk=", b"hi"),
        ("binary", b"hi", b"hi"),
        ("datetime", "2026-01-31T13:00:00+01:00", MOMENT),
        ("datetime", pd.Timestamp("2026-01-31T12:00:00"), MOMENT),
    ],
)
def test_the_same_value_is_taken(kind: str, given: Any, read: Any) -> None:
    value = reader(ColSpec(DataType[kind], "x"))(given)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("double", "much"),
        ("double", True),
        ("double", float("nan")),
        ("double", "inf"),
        ("double", [1.0]),
        ("float", 1e300),
        ("long", 1.5),
        ("long", "1.0"),
        ("long", True),
        ("long", 2**63),
        ("long", float("inf")),
        ("integer", 2**31),
        ("boolean", 2),
        ("boolean", "yes"),
        ("string", 7),
        ("string", b"hi"),
        ("binary", "not base64!"),
        ("binary", 7),
        ("datetime", 1700000000),
        ("datetime", "yesterday afternoon"),
        ("datetime", None),
    ],
)
def test_another_value_is_not(kind: str, given: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        reader(ColSpec(DataType[kind], "x"))(given)


def test_nested_values_are_read_as_mlflow_reads_them() -> None:
    from mlflow.exceptions import MlflowException

    read = reader(ColSpec(Array(DataType.double), "embedding"))
    assert read([1.0, 2.0]).tolist() == [1.0, 2.0]
    with pytest.raises(MlflowException):
        read(["a"])


def test_a_tensor_has_one_value_for_each_row() -> None:
    assert reader(TensorSpec(np.dtype("float32"), (-1,), "x"))("1.5") == 1.5
    with pytest.raises(ValueError, match="one value for each row"):
        reader(TensorSpec(np.dtype("float32"), (-1, 3), "x"))


def test_without_a_signature_a_value_is_what_it_is() -> None:
    read = reader(None)
    assert [read(value) for value in ("12.5", 3, None, [1])] == ["12.5", 3, None, [1]]
    assert type(read(np.int64(3))) is int
