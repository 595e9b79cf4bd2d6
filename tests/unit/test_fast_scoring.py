"""The short way through MLflow's protocol: what it takes, it answers as MLflow does, to the byte."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from serving_runtime.fast_scoring import answer_bytes, fast_form, join, raw_predict, split
from tests.fakes.numbers_model import Remembers, loaded

TYPES = ("double", "float", "long", "integer", "boolean")


def columns(**types: str) -> Schema:
    return Schema([ColSpec(kind, name) for name, kind in types.items()])


DOUBLES = columns(a="double", b="double")
FLOATS = columns(a="float", b="float")
MIXED = columns(a="double", n="long", i="integer", f="float", yes="boolean")
ONE = columns(a="double")
TENSOR = Schema([TensorSpec(np.dtype("float32"), (-1, 2))])
NAMED_TENSOR = Schema([TensorSpec(np.dtype("int64"), (-1,), "t")])

MIXED_ROW = {"a": 1.5, "n": 2**60, "i": -7, "f": 0.1, "yes": True}

TAKEN = [
    pytest.param(DOUBLES, {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2.5], [3, 4]]}}, id="split"),
    pytest.param(DOUBLES, {"dataframe_split": {"columns": ["b", "a"], "data": [[1, 2.5]]}}, id="split, other order"),
    pytest.param(DOUBLES, {"dataframe_records": [{"b": 1, "a": 2.5}, {"a": -0.0, "b": 1e-320}]}, id="records"),
    pytest.param(DOUBLES, {"instances": [{"b": 1, "a": 2.5}, {"a": 3, "b": 4}]}, id="instances"),
    pytest.param(DOUBLES, {"inputs": {"b": [1, 2], "a": [2.5, 1e308]}}, id="inputs"),
    pytest.param(DOUBLES, {"inputs": [{"a": 1, "b": 2.5}, {"a": 1.5, "b": 2}]}, id="inputs as records"),
    pytest.param(DOUBLES, {"inputs": {"a": [2**53 + 1], "b": [-(2**63)]}}, id="whole numbers that doubles round"),
    pytest.param(DOUBLES, {"inputs": {"a": [2**64 + 1], "b": [-(2**70)]}}, id="whole numbers beyond 64 bits"),
    pytest.param(DOUBLES, {"dataframe_records": [{"a": 2**64, "b": 2**63}]}, id="the same in records"),
    pytest.param(DOUBLES, {"instances": [{"a": 2**64, "b": 2**63}]}, id="the same in instances"),
    pytest.param(TENSOR, {"inputs": [[2**64 + 2**40 + 1, 16777217]]}, id="the same in a tensor"),
    pytest.param(DOUBLES, '{"inputs": {"a": [1], "a": [2], "b": [-0]}}', id="a key twice, -0"),
    pytest.param(FLOATS, {"dataframe_split": {"columns": ["a", "b"], "data": [[0.1, 16777217], [1, 2]]}}, id="floats"),
    pytest.param(FLOATS, {"instances": [{"a": 0.1, "b": 16777217}, {"a": 2**53, "b": 3}]}, id="floats by instances"),
    pytest.param(MIXED, {"dataframe_split": {"columns": list(MIXED_ROW), "data": [[*MIXED_ROW.values()]] * 3}}, id="5"),
    pytest.param(MIXED, {"dataframe_records": [MIXED_ROW, MIXED_ROW]}, id="records of all types"),
    pytest.param(MIXED, {"instances": [MIXED_ROW, MIXED_ROW]}, id="instances of all types"),
    pytest.param(MIXED, {"inputs": {name: [value] * 2 for name, value in MIXED_ROW.items()}}, id="inputs of all types"),
    pytest.param(ONE, {"inputs": [1.5, 2]}, id="a list for the only column"),
    pytest.param(ONE, {"dataframe_records": [{"a": 1}]}, id="records of one column"),
    pytest.param(TENSOR, {"inputs": [[0.1, 2], [3, 4]]}, id="tensor"),
    pytest.param(TENSOR, {"instances": [[0.1, 2]]}, id="tensor by instances"),
    pytest.param(NAMED_TENSOR, {"inputs": {"t": [1, 2]}}, id="named tensor"),
    pytest.param(NAMED_TENSOR, {"inputs": [1, 2]}, id="named tensor by its values"),
    pytest.param(None, {"inputs": [1.0]}, id="no signature"),
    pytest.param(None, {"instances": [[1, 2], [3, 4]]}, id="no signature, instances"),
]

LEFT = [
    pytest.param(DOUBLES, "{", id="no JSON"),
    pytest.param(DOUBLES, "[" * 100_000, id="JSON as deep as a bomb"),
    pytest.param(DOUBLES, {"inputs": {"a": [1], "b": [1]}, "params": {}}, id="params"),
    pytest.param(DOUBLES, {"inputs": {"a": [1], "b": [1]}, "messages": 1}, id="another key"),
    pytest.param(DOUBLES, {"inputs": {"a": [1]}}, id="a column missing"),
    pytest.param(DOUBLES, {"inputs": {"a": [1], "b": [1], "c": [1]}}, id="a column more"),
    pytest.param(DOUBLES, {"inputs": {"a": [1], "b": [1, 2]}}, id="columns of two lengths"),
    pytest.param(DOUBLES, {"inputs": {"a": 1, "b": 2}}, id="single values"),
    pytest.param(DOUBLES, {"inputs": {"a": [None], "b": [1]}}, id="null"),
    pytest.param(DOUBLES, {"inputs": {"a": ["1"], "b": [1]}}, id="text"),
    pytest.param(DOUBLES, {"inputs": {"a": [2**1100], "b": [1]}}, id="beyond doubles"),
    pytest.param(DOUBLES, '{"inputs": {"a": [1e400], "b": [NaN]}}', id="infinity, NaN"),
    pytest.param(columns(i="long"), {"inputs": {"i": [2**64]}}, id="beyond 64 bits"),
    pytest.param(NAMED_TENSOR, {"inputs": {"t": [2**64]}}, id="a tensor beyond 64 bits"),
    pytest.param(None, {"inputs": [2**64]}, id="beyond 64 bits without a signature"),
    pytest.param(DOUBLES, {"dataframe_split": {"columns": ["a", "b"], "data": []}}, id="no rows"),
    pytest.param(DOUBLES, {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [1]]}}, id="ragged"),
    pytest.param(DOUBLES, {"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, id="a column twice"),
    pytest.param(DOUBLES, {"dataframe_split": {"columns": ["a", "b"], "index": [7], "data": [[1, 2]]}}, id="index"),
    pytest.param(DOUBLES, {"dataframe_split": {"columns": ["a", []], "data": [[1, 2]]}}, id="a list as a name"),
    pytest.param(DOUBLES, {"dataframe_records": [{"a": 1, "b": 2}, {"a": 1, "c": 2}]}, id="two kinds of records"),
    pytest.param(DOUBLES, {"dataframe_records": ["ab"]}, id="text for a record"),
    pytest.param(FLOATS, {"inputs": {"a": [1e39], "b": [1]}}, id="beyond 32-bit floats"),
    pytest.param(columns(i="integer"), {"inputs": {"i": [2**31]}}, id="beyond 32 bits"),
    pytest.param(columns(i="long"), {"inputs": {"i": [1.0]}}, id="a fraction for a whole number"),
    pytest.param(columns(i="long"), {"inputs": {"i": [True]}}, id="a boolean for a whole number"),
    pytest.param(columns(i="boolean"), {"inputs": {"i": [1]}}, id="a whole number for a boolean"),
    pytest.param(TENSOR, {"inputs": [[1, 2, 3]]}, id="another shape"),
    pytest.param(TENSOR, {"inputs": []}, id="nothing"),
    pytest.param(None, {"inputs": ["a"]}, id="text without a signature"),
    pytest.param(None, {"dataframe_split": {"data": [[1]]}}, id="a frame without a signature"),
]


def body_of(content: object) -> bytes:
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def taken(schema: Schema | None, body: bytes) -> tuple[bytes, Any] | None:
    """The short way's answer and what the model saw, or None."""
    model = loaded(schema)
    form = fast_form(model)
    assert form is not None
    rows = form.read(body)
    if rows is None:
        return None
    data = form.data(rows)
    assert len(next(iter(data.values())) if isinstance(data, dict) else data) == rows.count
    return answer_bytes(raw_predict(model)(data)), model._model_impl.seen[-1]


def by_mlflow(schema: Schema | None, body: bytes) -> tuple[bytes, Any]:
    model = loaded(schema)
    response = scoring_server.invocations(body, "application/json", model, schema)
    assert (response.status, response.mimetype) == (200, "application/json")
    return response.response.encode(), model._model_impl.seen[-1]


def assert_same(ours: tuple[bytes, Any], theirs: tuple[bytes, Any]) -> None:
    assert ours[0] == theirs[0]
    (our_data, our_params), (their_data, their_params) = ours[1], theirs[1]
    assert our_params == their_params
    assert type(our_data) is type(their_data)
    if isinstance(our_data, dict):
        assert list(our_data) == list(their_data)
        our_data, their_data = next(iter(our_data.values())), next(iter(their_data.values()))
    if isinstance(our_data, pd.DataFrame):
        # Names of columns are the same text of the same dtype; where it is kept differs (`_names_index`).
        pd.testing.assert_frame_equal(our_data, their_data, check_exact=True, check_column_type=False)
        assert our_data.columns.dtype == str(their_data.columns.dtype)
        assert our_data.columns.equals(their_data.columns)
        assert type(our_data.index) is type(their_data.index)
        our_data, their_data = our_data.to_numpy(), their_data.to_numpy()
    assert our_data.dtype == their_data.dtype
    assert our_data.shape == their_data.shape
    if our_data.dtype == object:  # columns of several types as one array: addresses of values
        assert repr(our_data.tolist()) == repr(their_data.tolist())
    else:
        assert our_data.tobytes() == their_data.tobytes()
    assert (our_data.flags.c_contiguous, our_data.flags.f_contiguous) == (
        their_data.flags.c_contiguous,
        their_data.flags.f_contiguous,
    )


@pytest.mark.parametrize(("schema", "content"), TAKEN)
def test_what_is_taken_is_answered_and_seen_as_by_mlflow(schema: Schema | None, content: object) -> None:
    ours = taken(schema, body_of(content))
    assert ours is not None
    assert_same(ours, by_mlflow(schema, body_of(content)))


@pytest.mark.parametrize(("schema", "content"), LEFT)
def test_everything_else_is_left_to_mlflow(schema: Schema | None, content: object) -> None:
    assert taken(schema, body_of(content)) is None


# --- generated requests --------------------------------------------------------------------------------------------

EXACT = 2**53
OWN_VALUES = {
    "double": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62),
    "float": st.floats(-1e15, 1e15) | st.integers(-EXACT, EXACT),
    "long": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
}
ANY_VALUE = st.one_of(
    *OWN_VALUES.values(),
    st.sampled_from([None, "1", "x", float("nan"), float("inf"), 2**63, 2**64, -(2**63) - 1, 1e39, [1], {}, 2**31]),
)
ORIENTATIONS = ("dataframe_split", "dataframe_records", "instances", "inputs", "inputs as records")


@st.composite
def requests(draw: st.DrawFn, *, odd: bool) -> tuple[Schema, bytes, str]:
    """A schema, a body, and its orientation; odd ones hold anything in at most one place."""
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    if draw(st.booleans()):
        types = [types[0]] * len(types)
    names = [f"c{n}" for n in range(len(types))]
    table = [[draw(OWN_VALUES[kind]) for kind in types] for _ in range(draw(st.integers(1, 4)))]
    if odd:
        draw(st.sampled_from(table))[draw(st.integers(0, len(types) - 1))] = draw(ANY_VALUE)
    order = draw(st.permutations(range(len(types))))
    orientation = draw(st.sampled_from(ORIENTATIONS))
    records = [{names[c]: row[c] for c in order} for row in table]
    content: Any = records
    if orientation == "dataframe_split":
        content = {"columns": [names[c] for c in order], "data": [[row[c] for c in order] for row in table]}
    elif orientation == "inputs":
        content = {names[c]: [row[c] for row in table] for c in order}
    schema = Schema([ColSpec(kind, name) for kind, name in zip(types, names, strict=True)])
    return schema, json.dumps({orientation.split()[0]: content}).encode(), orientation


@given(requests(odd=True))
@settings(max_examples=200)
def test_a_generated_request_is_answered_as_by_mlflow_or_left(request: tuple[Schema, bytes, str]) -> None:
    schema, body, _ = request
    ours = taken(schema, body)
    if ours is not None:
        assert_same(ours, by_mlflow(schema, body))


@given(requests(odd=False))
@settings(max_examples=100)
def test_numbers_of_the_signatures_own_types_are_taken(request: tuple[Schema, bytes, str]) -> None:
    schema, body, orientation = request
    ours = taken(schema, body)
    own = {kind.name for kind in schema.input_types()} == {"double"}
    assert (ours is not None) == (orientation != "inputs as records" or own)
    if ours is not None:
        assert_same(ours, by_mlflow(schema, body))


# --- models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        columns(a="double", text="string"),
        columns(a="datetime"),
        Schema([ColSpec("double")]),
        Schema([TensorSpec(np.dtype("O"), (-1,))]),
        Schema([TensorSpec(np.dtype("float64"), (-1,), "a"), TensorSpec(np.dtype("float64"), (-1,), "b")]),
    ],
)
def test_a_signature_that_is_not_numbers_has_no_form(schema: Schema) -> None:
    assert fast_form(loaded(schema)) is None


def test_a_signature_from_type_hints_has_no_form() -> None:
    model = loaded(DOUBLES)
    model.metadata.signature._is_signature_from_type_hint = True
    assert fast_form(model) is None


def test_an_optional_column_may_be_there() -> None:
    schema = Schema([ColSpec("double", "a"), ColSpec("double", "b", required=False)])
    body = body_of({"inputs": {"a": [1], "b": [2]}})
    ours = taken(schema, body)
    assert ours is not None
    assert_same(ours, by_mlflow(schema, body))
    assert taken(schema, body_of({"inputs": {"a": [1]}})) is None


def test_params_have_their_defaults() -> None:
    params = ParamSchema([ParamSpec("plus", DataType.double, 0.5)])
    model = loaded(DOUBLES, params)
    raw_predict(model)(pd.DataFrame({"a": [1.0], "b": [2.0]}))
    assert model._model_impl.seen[-1][1] == {"plus": 0.5}


def test_a_model_that_takes_no_params_gets_none() -> None:
    class Plain:
        def predict(self, data: Any) -> Any:
            return data

    assert raw_predict(loaded(None, impl=Plain()))([1.0]) == [1.0]


# --- arrays of other protocols -------------------------------------------------------------------------------------


def test_arrays_that_fit_exactly_are_taken() -> None:
    form = fast_form(loaded(MIXED))
    assert form is not None
    arrays = {
        "a": np.array([1.5, 2.5]),
        "n": np.array([1, 2]),
        "i": np.array([1, 2], np.int32),
        "f": np.array([1, 2], np.float32),
        "yes": np.array([True, False]),
    }
    rows = form.take(arrays)
    assert rows is not None
    assert rows.count == 2
    assert [str(dtype) for dtype in form.data(rows).dtypes] == ["float64", "int64", "int32", "float32", "bool"]
    assert form.take({**arrays, "n": np.array([1.0, 2.0])}) is None
    assert form.take({**arrays, "n": np.array([1, 2, 3])}) is None
    assert form.take({**arrays, "n": np.array([[1, 2]])}) is None
    assert form.take({name: array for name, array in arrays.items() if name != "a"}) is None


def test_a_tensor_is_taken_by_any_name_where_the_signature_has_none() -> None:
    form = fast_form(loaded(TENSOR))
    assert form is not None
    rows = form.take({"input-0": np.ones((3, 2), np.float32)})
    assert rows is not None
    assert form.data(rows).shape == (3, 2)
    assert form.take({"input-0": np.ones((3, 2))}) is None


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [DOUBLES, MIXED])
def test_joined_rows_are_one_request_with_all_of_them(schema: Schema) -> None:
    form = fast_form(loaded(schema))
    assert form is not None
    record = {name: MIXED_ROW.get(name, 3.5) for name in schema.input_names()}
    one, two = (form.read(body_of({"dataframe_records": [record] * n})) for n in (1, 2))
    three = form.read(body_of({"dataframe_records": [record] * 3}))
    assert one is not None
    assert two is not None
    assert three is not None
    pd.testing.assert_frame_equal(form.data(join([one, two])), form.data(three), check_exact=True)


@pytest.mark.parametrize(
    "predictions",
    [np.arange(6.0).reshape(3, 2), [1.0, 2.0, 3.0], pd.DataFrame({"p": [1.0, 2.0, 3.0]}), pd.Series([1, 2, 3])],
    ids=["array", "list", "frame", "series"],
)
def test_predictions_are_cut_by_rows(predictions: Any) -> None:
    parts = split(predictions, [1, 2])
    assert parts is not None
    plain = [json.loads(answer_bytes(part))["predictions"] for part in parts]
    assert plain[0] + plain[1] == json.loads(answer_bytes(predictions))["predictions"]
    assert [len(part) for part in plain] == [1, 2]
    assert split(predictions, [1, 1]) is None


@pytest.mark.parametrize("predictions", [{"a": [1, 2]}, 1.0, np.float64(1), np.array(1.0), "ab", None])
def test_predictions_that_are_no_rows_are_not_cut(predictions: object) -> None:
    assert split(predictions, [1, 1]) is None


@pytest.mark.parametrize(
    "predictions",
    [
        np.array([0.1, float("nan"), 1e300]),
        np.array([[1, 2]], np.int8),
        np.array([np.float32(0.1)]),
        [np.float64(0.1), np.int64(3), {"label": "ä", "p": np.float32(0.5)}],
        pd.DataFrame({"a": [1, 2], "b": [0.1, 0.2]}),
        pd.DataFrame(np.array([[0.1]], np.float32)),
        pd.Series([True, False]),
        {"a": np.array([1.5])},
        [pd.Timestamp("2026-01-01"), b"bytes"],
        "text",
        None,
    ],
    ids=str,
)
def test_an_answer_is_written_as_by_mlflow(predictions: Any) -> None:
    class Says:
        def predict(self, _data: Any) -> Any:
            return predictions

    theirs = scoring_server.invocations(b'{"inputs": [1]}', "application/json", loaded(None, impl=Says()), None)
    assert answer_bytes(predictions) == theirs.response.encode()


def test_a_model_remembers_what_it_was_asked() -> None:
    impl = Remembers()
    assert impl.predict(np.array([[1.0, 2.0]])).tolist() == [3.0]
    assert len(impl.seen) == 1
