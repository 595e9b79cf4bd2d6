"""Requests and answers of both protocols as rows of one schema."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.models import infer_signature

from serving_runtime.captured_rows import FIXED, ROWS_PER_REQUEST, WIDEST_TENSOR, Captured, Layout, Role
from serving_runtime.redaction import Redaction

AT = datetime(2026, 11, 29, 3, 4, 5, 250_000, UTC)
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
FRAUD_INPUTS = [
    {"type": "double", "name": "amount", "required": True},
    {"type": "long", "name": "age", "required": True},
    {"type": "string", "name": "country", "required": False},
]
ONE_NUMBER = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]
FRAUD = Layout("0a1b2c3d", FRAUD_INPUTS, ONE_NUMBER)
ROWS = [{"amount": 1.5, "age": 30, "country": "DE"}, {"amount": 2.0, "age": 41, "country": None}]
PREDICTIONS = {"predictions": [0.25, 0.75]}


def captured(body: object, answer: object = PREDICTIONS, content_type: str | None = JSON, **more: Any) -> Captured:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return Captured("r-1", AT.timestamp(), raw, content_type, more.pop("status", 200), said, 1.25, **more)


def table(layout: Layout, *requests: Captured, exclude: Sequence[str] = ()) -> Any:
    """Through everything, to a Parquet file and back."""
    portion = layout.portion([layout.rows(request, Redaction(exclude)) for request in requests])
    read = pq.read_table(pa.BufferReader(layout.parquet([portion], {"about": "test"})))
    assert read.schema.equals(layout.schema())
    return read


def columns(layout: Layout, request: Captured, exclude: Sequence[str] = ()) -> Mapping[str, list[Any]]:
    found: Mapping[str, list[Any]] = table(layout, request, exclude=exclude).to_pydict()
    return found


def row(layout: Layout, request: Captured, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """The only row, without columns that are null."""
    found = columns(layout, request, exclude)
    assert all(len(values) == 1 for values in found.values())
    return {name: values[0] for name, values in found.items() if values[0] is not None}


# --- the schema -----------------------------------------------------------------------------------------------------


def test_the_fixed_columns_come_first_then_inputs_features_and_predictions() -> None:
    layout = Layout("b", FRAUD_INPUTS, ONE_NUMBER, {"visits": 0})
    split = ("input.amount", "input.age", "input.country", "feature.visits", "prediction")
    assert layout.columns == (*FIXED, *split)
    types = {field.name: str(field.type) for field in layout.schema()}
    assert types["at"] == "timestamp[us, tz=UTC]"
    assert [types[name] for name in split] == ["double", "int64", "string", "double", "double"]


def test_no_column_is_named_like_a_part_of_the_path() -> None:
    assert {"model", "version", "hour"}.isdisjoint(FIXED)


MLFLOW = [
    (pd.DataFrame({"x": [1.0]}), {"input.x": "double"}),
    (pd.DataFrame({"x": np.array([1], "int32"), "b": [True]}), {"input.x": "int32", "input.b": "bool"}),
    (pd.DataFrame({"x": np.array([1], "float32"), "s": ["a"]}), {"input.x": "float", "input.s": "string"}),
    (pd.DataFrame({"d": pd.to_datetime(["2026-01-01"])}), {"input.d": "timestamp[us, tz=UTC]"}),
    (pd.DataFrame({"l": [[1, 2]], "o": [{"a": 1}]}), {"input.l": "string", "input.o": "string"}),
    (np.zeros((2, 3)), {"input.0": "double", "input.1": "double", "input.2": "double"}),
    (np.zeros((2, 1), "float32"), {"input": "float"}),
    (np.zeros(2, "int64"), {"input": "int64"}),
    (np.zeros((2, 4, 4), "float32"), {"input": "list<element: float>"}),
    (np.zeros((2, WIDEST_TENSOR + 1)), {"input": "list<element: double>"}),
    ({"ids": np.zeros((2, 8), "int64"), "n": np.zeros(2)}, {"input.ids": "list<element: int64>", "input.n": "double"}),
    (["a text"], {"input": "string"}),
    ([{"messages": [{"role": "user"}]}], {"input.messages": "string"}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("example", "types"), MLFLOW, ids=[str(list(types)) for _, types in MLFLOW])
def test_every_signature_of_mlflow_has_a_schema(example: Any, types: Mapping[str, str]) -> None:
    inputs = infer_signature(example).inputs.to_dict()
    schema = Layout("b", inputs, None).schema()
    read = pq.read_schema(pa.BufferReader(Layout("b", inputs, None).parquet([], {})))
    found = {field.name: str(field.type) for field in read if field.name.startswith("input")}
    assert found == types
    assert schema.names == read.names


def test_the_schema_is_the_same_whatever_is_sent_and_excluded() -> None:
    odd = [captured(b"{"), captured({"inputs": "?"}, b"?"), captured({"dataframe_records": ROWS})]
    for request in odd:
        assert table(FRAUD, request, exclude=("amount",)).schema.equals(FRAUD.schema())


# --- one row for each row -------------------------------------------------------------------------------------------

AS_SENT = [
    pytest.param(JSON, {"dataframe_records": ROWS}, id="records"),
    pytest.param(JSON, {"instances": ROWS}, id="instances"),
    pytest.param(JSON, {"dataframe_split": {"columns": ["age", "amount", "country"],
                                            "data": [[30, 1.5, "DE"], [41, 2.0, None]]}}, id="split"),
    pytest.param(JSON, {"inputs": {"amount": [1.5, 2], "age": [30, 41], "country": ["DE", None]}}, id="inputs"),
    pytest.param(JSON, {"inputs": [
        {"name": "amount", "shape": [2, 1], "datatype": "FP64", "data": [1.5, 2.0]},
        {"name": "age", "shape": [2], "datatype": "INT64", "data": [30, 41]},
        {"name": "country", "shape": [2], "datatype": "BYTES", "data": ["DE", None]}]}, id="open inference"),
    pytest.param(CSV, b"amount,age,country,more\n1.5,30,DE,x\n2.0,41,,y\n", id="csv"),
    pytest.param(f"{JSON}; charset=utf-8", {"dataframe_records": ROWS}, id="charset"),
]  # fmt: skip


@pytest.mark.parametrize(("content_type", "body"), AS_SENT)
def test_a_request_is_split_into_its_rows_whatever_protocol_it_speaks(content_type: str, body: Any) -> None:
    found = columns(FRAUD, captured(body, content_type=content_type))
    assert found["input.amount"] == [1.5, 2.0]
    assert found["input.age"] == [30, 41]
    assert found["input.country"] == ["DE", None]
    assert found["prediction"] == [0.25, 0.75]
    assert (found["row"], found["rows"]) == ([0, 1], [2, 2])
    assert found["body"] == found["answer"] == [None, None]


def test_a_parquet_request_is_split_too() -> None:
    body = io.BytesIO()
    pd.DataFrame(ROWS).to_parquet(body)
    assert columns(FRAUD, captured(body.getvalue(), content_type=PARQUET))["input.age"] == [30, 41]


def test_each_row_says_when_who_and_how() -> None:
    found = row(FRAUD, captured({"dataframe_records": ROWS[:1]}, {"predictions": [0.5]}, role=Role.COPY))
    assert found["at"] == AT
    assert (found["request_id"], found["build"], found["role"]) == ("r-1", "0a1b2c3d", "copy")
    assert (found["status"], found["latency_ms"], found["row"], found["rows"]) == (200, 1.25, 0, 1)
    assert "error" not in found


def test_what_clients_send_beside_the_signature_is_not_written() -> None:
    found = row(FRAUD, captured({"dataframe_records": [{**ROWS[0], "name": "Ada"}]}, {"predictions": [1.0]}))
    assert "Ada" not in str(found)


def test_a_column_that_was_not_sent_is_null() -> None:
    assert columns(FRAUD, captured({"dataframe_records": [{"amount": 1.0}]}))["input.age"] == [None]


def test_parameters_are_text() -> None:
    found = row(FRAUD, captured({"dataframe_records": ROWS[:1], "params": {"plus": 1, "token": "x"}}))
    assert json.loads(found["params"]) == {"plus": 1, "token": None}


def test_rows_without_names_go_by_their_place_where_the_signature_has_none() -> None:
    layout = Layout("b", infer_signature(np.zeros((2, 2))).inputs.to_dict(), ONE_NUMBER)
    for body in (
        {"inputs": [[1.0, 2.0], [3.0, 4.0]]},
        {"instances": [[1.0, 2.0], [3.0, 4.0]]},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 2.0], [3.0, 4.0]]}},
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1.0, 2.0, 3.0, 4.0]}]},
    ):
        found = columns(layout, captured(body))
        assert (found["input.0"], found["input.1"]) == ([1.0, 3.0], [2.0, 4.0])


def test_a_row_of_a_wide_tensor_is_a_flat_list() -> None:
    layout = Layout("b", infer_signature(np.zeros((1, 2, 2), "float32")).inputs.to_dict(), None)
    assert row(layout, captured({"inputs": [[[1, 2], [3, 4]]]}))["input"] == [1, 2, 3, 4]


def test_of_a_large_request_the_first_rows_are_kept() -> None:
    many = ROWS_PER_REQUEST + 5
    found = columns(FRAUD, captured({"inputs": {"amount": list(range(many))}}, {"predictions": list(range(many))}))
    assert found["row"] == list(range(ROWS_PER_REQUEST))
    assert set(found["rows"]) == {many}
    assert found["prediction"][-1] == ROWS_PER_REQUEST - 1


# --- predictions ----------------------------------------------------------------------------------------------------


def predicted(outputs: Any, predictions: Any, rows: int = 2) -> dict[str, Any]:
    schema = None if outputs is None else infer_signature(outputs).inputs.to_dict()
    layout = Layout("b", FRAUD_INPUTS, schema)
    found = columns(layout, captured({"dataframe_records": ROWS[:rows]}, predictions))
    return {name: found[name] for name in found if name.startswith("prediction") or name == "answer"}


def test_predictions_have_the_signatures_columns() -> None:
    split = {"answer": [None, None]}
    assert predicted(np.zeros(2), PREDICTIONS) == {**split, "prediction": [0.25, 0.75]}
    assert predicted(["a"], {"predictions": ["yes", "no"]}) == {**split, "prediction": ["yes", "no"]}
    probabilities = {"predictions": [[0.1, 0.9], [0.8, 0.2]]}
    expected = {**split, "prediction.0": [0.1, 0.8], "prediction.1": [0.9, 0.2]}
    assert predicted(np.zeros((2, 2)), probabilities) == expected
    frame = {"predictions": [{"score": 0.1, "class": "a"}, {"score": 0.2, "class": "b"}]}
    assert predicted(pd.DataFrame({"score": [0.1], "class": ["a"]}), frame) == {
        **split, "prediction.score": [0.1, 0.2], "prediction.class": ["a", "b"],
    }  # fmt: skip
    tensors = {"outputs": [{"name": "y", "shape": [2], "datatype": "FP64", "data": [0.25, 0.75]}]}
    assert predicted(np.zeros(2), tensors) == {**split, "prediction": [0.25, 0.75]}


def test_without_a_signature_of_answers_predictions_are_json_text() -> None:
    found = predicted(None, {"predictions": [{"a": 1}, [2]]})
    assert found == {"prediction": ['{"a": 1}', "[2]"], "answer": [None, None]}


def test_an_answer_that_is_not_one_prediction_for_each_row_is_text() -> None:
    for answer in ({"predictions": [0.5]}, {"predictions": "text"}, {"predictions": ROWS}, [1, 2]):
        found = predicted(np.zeros(2), answer)
        assert found["prediction"] == [None, None]
        assert json.loads(found["answer"][0]) == answer


def test_of_an_error_only_its_code_is_written() -> None:
    message = {"error_code": "BAD_REQUEST", "message": "Failed to parse hunter2"}
    found = row(FRAUD, captured({"dataframe_records": ROWS[:1]}, message, status=400))
    assert (found["error"], found["status"]) == ("BAD_REQUEST", 400)
    assert "hunter2" not in str(found)
    other = row(FRAUD, captured({"dataframe_records": ROWS[:1]}, {"error_code": "hunter2 is wrong"}, status=400))
    assert "error" not in other


# --- features -------------------------------------------------------------------------------------------------------


def test_features_that_were_used_have_columns_of_their_defaults_kinds() -> None:
    layout = Layout("b", FRAUD_INPUTS, ONE_NUMBER, {"visits": 0, "tier": "none", "vip": False, "last": None})
    used = [{"visits": 3, "tier": "gold", "vip": True, "last": [1]}, {"visits": 0.5, "tier": "none", "vip": False}]
    found = columns(layout, captured({"dataframe_records": ROWS}, features=used))
    assert found["feature.visits"] == [3.0, 0.5]
    assert found["feature.tier"] == ["gold", "none"]
    assert found["feature.vip"] == [True, False]
    assert found["feature.last"] == ["[1]", None]


def test_features_of_another_number_of_rows_are_not_guessed_at() -> None:
    layout = Layout("b", FRAUD_INPUTS, ONE_NUMBER, {"visits": 0})
    assert columns(layout, captured({"dataframe_records": ROWS}, features=[{"visits": 1}]))["feature.visits"] == [
        None,
        None,
    ]


@pytest.mark.parametrize("named", ["spend", "SPEND", "feature.spend", "Feature.Spend"])
def test_a_feature_that_a_policy_excludes_is_never_written(named: str) -> None:
    layout = Layout("b", FRAUD_INPUTS, ONE_NUMBER, {"spend": 0.0, "visits": 0})
    used = [{"spend": 77123.5, "visits": 3, "SPEND": 77123.5}, {"spend": "77123.5", "visits": 4}]
    sent = {"dataframe_records": [{**row, "spend": 77123.5} for row in ROWS]}
    found = columns(layout, captured(sent, features=used), exclude=(named,))
    assert found["feature.spend"] == [None, None], "its column stays"
    assert found["feature.visits"] == [3.0, 4.0]
    assert "77123" not in str(found)


def test_a_column_that_a_policy_excludes_is_hidden_in_a_body_too() -> None:
    sent = {"dataframe_records": [{"nothing": 1, "amount": 77123.5}], "params": {"amount": 77123.5}}
    layout = Layout("b", [{"type": "double", "name": "other"}], ONE_NUMBER)
    found = columns(layout, captured(sent), exclude=("input.amount",))
    assert '"amount": null' in found["body"][0]
    assert "77123" not in str(found)


# --- what the signature does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "text"},
        {"inputs": {"messages": [{"role": "user"}], "temperature": 0.5}},
        {"dataframe_records": [{**ROWS[0], "amount": "a lot"}]},
        {"dataframe_records": [{**ROWS[0], "age": 1.5}]},
        {"dataframe_records": [{**ROWS[0], "age": 2**70}]},
        {"dataframe_records": [{**ROWS[0], "country": 3}]},
        {"dataframe_records": [{"other": 1}]},
        {"dataframe_split": {"columns": ["amount"], "data": [[1.0, 2.0]]}},
        {"inputs": [[1.5, 30, "DE"]]},
        [1, 2],
        {},
    ],
)
def test_a_request_that_does_not_fit_is_one_row_with_its_text(body: Any) -> None:
    found = row(FRAUD, captured(body, {"predictions": [1.0]}))
    assert json.loads(found["body"]) == body
    assert found["rows"] == 1
    assert not [name for name in found if name.startswith("input.")]


def test_without_a_signature_every_request_is_text() -> None:
    found = row(Layout("b", None, None), captured({"dataframe_records": ROWS}))
    assert json.loads(found["body"]) == {"dataframe_records": ROWS}
    assert json.loads(found["answer"]) == PREDICTIONS


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, b"{"), (JSON, b""), (JSON, b"\xff\xfe"), (CSV, b"password\nhunter2"), (CSV, b""), (CSV, b"a,b\n1"),
        (PARQUET, b"PAR1"), (None, b'{"inputs": [1]}'), ("application/octet-stream", b"\0"), (JSON, b"[" * 100_000),
        (JSON, b'{"inputs": ' + b"9" * 5000 + b"}"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_row_without_its_text(content_type: str | None, body: bytes) -> None:
    found = row(FRAUD, captured(body, {"error_code": "BAD_REQUEST"}, content_type, status=400))
    assert found.keys() == {"at", "request_id", "build", "role", "row", "rows", "status", "error", "latency_ms"}


# --- what is never written ------------------------------------------------------------------------------------------

SECRETIVE = Layout("b", [*FRAUD_INPUTS, {"type": "string", "name": "api_key", "required": True}], ONE_NUMBER)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{**ROWS[0], "api_key": "hunter2"}]},
        {"dataframe_records": [{**ROWS[0], "amount": "?", "api_key": "hunter2"}]},
        {"dataframe_split": {"columns": ["amount", "api_key"], "data": [[1.0, "hunter2"]]}},
        {"dataframe_split": {"columns": ["amount", "api_key"], "data": [[1.0, 2.0, "hunter2"]]}},
        {"dataframe_split": {"columns": ["other", "api_key"], "data": [[1.0, "hunter2"]]}},
        {"inputs": {"amount": [1.0], "api_key": ["hunter2"]}},
        {"inputs": [[1.0, 3, "DE", "hunter2"]]},
        {"inputs": [{"name": "api_key", "shape": [1], "datatype": "BYTES", "data": ["hunter2"]}]},
        {"inputs": [{"name": "api_key", "shape": [7], "datatype": "BYTES", "data": ["hunter2"]}]},
        {"inputs": {"user": {"api_key": "hunter2"}}},
        {"inputs": [1], "params": {"password": "hunter2"}},
        {"instances": [{"comment": "Bearer hunter2hunter2"}]},
    ],
)
def test_a_secret_is_not_in_the_file_however_it_was_sent(body: Any) -> None:
    answer = {"predictions": [{"echo": {"password": "hunter2"}}]}
    assert "hunter2" not in str(table(SECRETIVE, captured(body, answer)).to_pydict())
    assert "hunter2" not in str(table(Layout("b", None, None), captured(body, answer)).to_pydict()) or body == {
        "inputs": [[1.0, 3, "DE", "hunter2"]]  # nothing names it, in the request or in the signature
    }


def test_a_policys_field_keeps_its_column_and_loses_its_values() -> None:
    found = columns(FRAUD, captured({"dataframe_records": ROWS}), exclude=("AGE", "prediction"))
    assert found["input.age"] == found["prediction"] == [None, None]
    assert found["input.amount"] == [1.5, 2.0]
    text = row(FRAUD, captured({"inputs": {"person": {"age": 7}}}, {"predictions": [0]}), exclude=("age",))
    assert json.loads(text["body"]) == {"inputs": {"person": {"age": None}}}


def test_half_a_character_is_written_as_a_question_mark() -> None:
    body = b'{"dataframe_records": [{"amount": 1.0, "country": "\\ud800"}]}'
    assert columns(FRAUD, captured(body))["input.country"] == ["?"]


# --- whatever strangers send ----------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5)
NAMES = st.sampled_from(
    ["amount", "age", "country", "name", "shape", "data", "columns", "dataframe_split", "dataframe_records", "inputs",
     "instances", "params", "predictions", "outputs", "error_code"]
)  # fmt: skip
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))


@settings(max_examples=300)
@given(
    body=ANYTHING, answer=ANYTHING, status=st.sampled_from([200, 400, 500]), content_type=st.sampled_from([JSON, CSV])
)
def test_no_request_and_no_answer_stops_capture(body: Any, answer: Any, status: int, content_type: str) -> None:
    request = captured(body, answer, content_type, status=status)
    for layout in (FRAUD, SECRETIVE, Layout("b", None, None)):
        portion = layout.portion([layout.rows(request, Redaction()), layout.rows(request, Redaction(("age",)))])
        assert portion.num_rows >= 2


def test_bytes_cut_anywhere_are_read_or_not_and_nothing_else() -> None:
    dice = random.Random(4)
    whole = json.dumps({"dataframe_records": ROWS}).encode()
    for _ in range(200):
        cut = bytearray(whole[: dice.randrange(len(whole))])
        if cut:
            cut[dice.randrange(len(cut))] = dice.randrange(256)
        request = dataclasses.replace(captured(b"{}"), body=bytes(cut), answer=bytes(cut))
        written = FRAUD.portion([FRAUD.rows(request, Redaction())])
        assert written.schema.equals(FRAUD.schema())
        assert set(written["request_id"].to_pylist()) == {request.request_id}
