"""When two answers predict the same."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving_runtime.agreement import SIZE_LIMIT_BYTES, Comparison, compare

TOLERANCE = 0.01
FINITE = st.floats(-1e12, 1e12)
SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | FINITE | st.text(max_size=5)
PREDICTIONS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def answer(predictions: Any, *, indent: int | None = None) -> bytes:
    """`indent` makes other bytes of the same predictions."""
    return json.dumps({"predictions": predictions}, indent=indent).encode()


def agree(candidate: Any, stable: Any, tolerance: float | None = None) -> bool | None:
    return compare(answer(candidate, indent=1), answer(stable), tolerance).agrees


@given(PREDICTIONS, st.none() | st.floats(0, 1))
def test_predictions_agree_with_themselves_however_they_are_written(predictions: Any, tolerance: float | None) -> None:
    assert agree(predictions, predictions, tolerance)


@pytest.mark.parametrize(
    ("candidate", "stable"),
    [
        ([1, 0, 1], [1, 0, 0]),
        (["cat"], ["dog"]),
        ([1.0], [1.0000001]),
        ([True], [1]),
        ([None], [0]),
        (["1"], [1]),
        ([1], [1, 1]),
        ([[1], [2]], [1, 2]),
        ([{"class": 1}], [{"label": 1}]),
        ([{"class": 1}], [{"class": 1, "score": 0.5}]),
        ([math.nan], [0.0]),
        ([math.inf], [-math.inf]),
    ],
)
def test_classes_must_be_equal(candidate: Any, stable: Any) -> None:
    assert agree(candidate, stable) is False
    assert agree(stable, candidate) is False


@pytest.mark.parametrize(
    ("candidate", "stable"),
    [([1], [1.0]), ([math.nan], [math.nan]), ([math.inf], [math.inf]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([], [])],
)
def test_what_means_the_same_agrees(candidate: Any, stable: Any) -> None:
    assert agree(candidate, stable) is True


@given(FINITE, st.floats(-1, 1))
def test_numbers_agree_within_the_tolerance_of_stables(stable: float, off: float) -> None:
    candidate = stable * (1 + off)
    difference, limit = abs(candidate - stable), TOLERANCE * abs(stable)
    assume(not math.isclose(difference, limit, rel_tol=1e-6))
    assert agree([candidate], [stable], TOLERANCE) is (difference <= limit)


@pytest.mark.parametrize(
    ("candidate", "stable"), [(1e-300, 0), (math.inf, 5), (5, math.inf), (10**400, 1), (1, 10**400)]
)
def test_no_tolerance_reaches_from_zero_or_to_infinity(candidate: float, stable: float) -> None:
    assert agree([candidate], [stable], TOLERANCE) is False


@given(st.lists(FINITE.filter(lambda x: abs(x) > 1e-6), min_size=1, max_size=5), st.data())
def test_a_request_agrees_when_every_prediction_does(stable: list[float], data: st.DataObject) -> None:
    one = data.draw(st.integers(0, len(stable) - 1))
    near, far = [x * 1.005 for x in stable], [x * (1.5 if i == one else 1.005) for i, x in enumerate(stable)]
    assert agree(near, stable, TOLERANCE) is True
    assert agree(far, stable, TOLERANCE) is False


def test_names_are_equal_or_not_whatever_the_tolerance() -> None:
    assert agree([{"class": "cat", "score": 0.5}], [{"class": "cat", "score": 0.501}], TOLERANCE) is True
    assert agree([{"class": "dog", "score": 0.5}], [{"class": "cat", "score": 0.5}], TOLERANCE) is False


@pytest.mark.parametrize("odd", [b"", b"{", b"[1]", b'{"outputs": [1]}', b"\xff", b"[" * 100_000])
def test_a_candidate_that_cannot_be_read_disagrees_and_a_stable_that_cannot_is_not_counted(odd: bytes) -> None:
    unread = "answer is no JSON object with predictions"
    assert compare(odd, answer([1]), None) == Comparison(agrees=False, reason=f"the candidate's {unread}")
    assert compare(answer([1]), odd, None) == Comparison(agrees=None, reason=f"stable's {unread}")
    assert compare(odd, odd, None) == Comparison(agrees=True)


def test_what_is_too_large_is_not_counted_unless_the_bytes_are_equal() -> None:
    large = answer(["x" * SIZE_LIMIT_BYTES])
    assert compare(large, answer([1]), None).agrees is None
    assert compare(large, large, None).agrees is True


def test_depth_is_no_obstacle() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    assert agree(deep, deep) is True


@given(st.binary(max_size=50), st.binary(max_size=50), st.none() | st.floats(0, 2))
def test_nothing_makes_it_raise(candidate: bytes, stable: bytes, tolerance: float | None) -> None:
    inside = (b'{"predictions": ' + candidate + b"}", b'{"predictions": ' + stable + b"}")
    for one, other in ((candidate, stable), inside):
        found = compare(one, other, tolerance)
        assert found.agrees is not None or found.reason
        assert compare(one, one, tolerance).agrees is True


def tensors(version: str, *values: float) -> bytes:
    output = {"name": "score", "datatype": "FP64", "shape": [len(values)], "data": values}
    return json.dumps({"model_name": "fraud", "model_version": version, "outputs": [output]}).encode()


def test_tensors_are_compared_and_not_the_version_that_gave_them() -> None:
    assert compare(tensors("2", 1.0, 2.0), tensors("1", 1.0, 2.0), None).agrees is True
    assert compare(tensors("2", 1.0, 2.01), tensors("1", 1.0, 2.0), 0.1).agrees is True
    assert compare(tensors("2", 1.0, 3.0), tensors("1", 1.0, 2.0), 0.1).agrees is False
    assert compare(tensors("2", 1.0), tensors("1", 1.0, 2.0), 0.1).agrees is False
