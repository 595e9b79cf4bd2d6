"""Rows that lack values: what is said about them, and that they are their sender's where a model fails on them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from policies.errors import Stalled
from policies.serving import Batching, Features
from serving_runtime.event_stream import EVENT_STREAM
from serving_runtime.feature_columns import Columns
from serving_runtime.features import FeatureJoin
from serving_runtime.look_ups import LookUps
from serving_runtime.misfits import misfit
from serving_runtime.model_server import EXAMPLE_FILE, ModelServer
from serving_runtime.protocol import COPY_HEADER, Answer, Call, CallKind, Parsed
from tests.fakes.features import KnownFeatures, LookUpCounts
from tests.fakes.signed_model import signed_model

NAN, INF = float("nan"), float("inf")
COLUMNS = Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.double, "b", required=False)])
TENSOR = Schema([TensorSpec(np.dtype("float64"), (-1, 2), "x")])
TEXT = Schema([ColSpec(DataType.string, "t")])
PARAMS = ParamSchema([ParamSpec("scale", "double", 1.0), ParamSpec("lang", "string", None)])
JSON = "application/json"


@pytest.mark.parametrize(
    ("data", "schema", "where"),
    [
        (pd.DataFrame({"a": [1.0, NAN], "b": [1.0, 2.0]}), COLUMNS, "'a', first in row 1"),
        (pd.DataFrame({"a": [INF], "b": [1.0]}), COLUMNS, "'a', first in row 0"),
        (pd.DataFrame({"a": [3.4e38, -1e39], "b": [1.0, 1.0]}), COLUMNS, "'a', first in row 1"),
        (pd.DataFrame({"t": ["x", 5]}, dtype=object), TEXT, "'t', first in row 1"),
        ([{"t": "x"}, {"t": ["y"]}], TEXT, "'t', first in row 1"),
        (pd.DataFrame({"a": [1.0, 2.0], "c": ["x", None]}), None, "'c', first in row 1"),
        (pd.DataFrame({"a": [NAN, 1.0], "c": [None, None]}), None, "'a', 'c', first in row 0"),
        (pd.DataFrame({"a": [pd.Timestamp("2026-01-01"), pd.NaT]}), None, "'a', first in row 1"),
        (pd.DataFrame({"a": [[1.0, 2.0], [1.0, None]]}), None, "'a', first in row 1"),
        (pd.DataFrame({"a": [np.array([1.0]), np.array([NAN])]}), None, "'a', first in row 1"),
        ({"x": np.array([[1.0, 2.0], [NAN, 1.0]])}, TENSOR, "'x', first in row 1"),
        ({"a": [1.0, None]}, COLUMNS, "'a', first in row 1"),
        ([{"a": 1.0}, {"b": 1.0}], COLUMNS, "'a', first in row 1"),
        (np.array([1.0, NAN]), None, "some, first in row 1"),
        (np.array(NAN), None, "some, first in row 0"),
        ([1.0, None], None, "some, first in row 1"),
        (None, None, "some, first in row 0"),
        (pd.DataFrame({str(at): [NAN] for at in range(7)}), None, "'0', '1', '2', '3', '4' and 2 more, first in row 0"),
    ],
)
def test_what_is_missing_is_named(data: Any, schema: Any, where: str) -> None:
    assert where in misfit(Parsed(data, None), schema, None)


@pytest.mark.parametrize(
    "data", [pd.DataFrame({"a": [], "b": []}), {"x": np.empty((0, 2))}, [], np.array([]), {"a": [], "b": []}]
)
def test_no_rows_are_said_to_be_none(data: Any) -> None:
    assert misfit(Parsed(data, None), None, None) == "The model takes no request without rows."


@pytest.mark.parametrize(
    ("data", "schema"),
    [
        (pd.DataFrame({"a": [1.0], "b": [NAN]}), COLUMNS),
        ([{"a": 1.0}], COLUMNS),
        (pd.DataFrame({"a": [1], "c": [""], "d": [False]}), None),
        (pd.DataFrame({"a": [{"inner": None}]}), None),
        (pd.DataFrame({"a": [2**62]}), None),
        (pd.DataFrame({"t": ["x", ""]}), TEXT),
        ({"x": np.array([[1.0, 2.0]])}, TENSOR),
        (np.array(["", "x"]), None),
        ([[1, 2], [3]], None),
        ("text", None),
    ],
)
def test_rows_that_lack_nothing_or_what_is_optional(data: Any, schema: Any) -> None:
    assert misfit(Parsed(data, None), schema, None) == ""


def picky(data: Any) -> list[float]:
    """As scikit-learn: no NaN, no infinity, no empty input."""
    if not len(data) or not np.isfinite(data.to_numpy(dtype=float)).all():
        raise ValueError("Input contains NaN")
    return [1.0] * len(data)


class Asked:
    """Answers of one server, and how many of them were measured."""

    def __init__(
        self, predict: Any = picky, schema: Schema = COLUMNS, stream: Any = None, params: Any = None, **more: Any
    ) -> None:
        self.measured = 0
        signature = ModelSignature(inputs=schema, params=params)
        self.own = ModelServer(signed_model(predict, signature, stream), self._took, **more)

    def _took(self, _ms: float) -> None:
        self.measured += 1

    def __call__(self, body: bytes, content_type: str = JSON, **more: Any) -> Answer:
        return asyncio.run(self.own.answer(Call(body, content_type, "r-1", **more)))


TENSOR_OF = {"name": "b", "datatype": "FP64", "shape": [1], "data": [1]}
REQUESTS = [
    (b'{"dataframe_records": [{"a": null, "b": 1}]}', JSON, CallKind.INVOCATIONS),
    (b'{"dataframe_records": [{"a": NaN, "b": 1}]}', JSON, CallKind.INVOCATIONS),
    (b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [Infinity, 2]]}}', JSON, CallKind.INVOCATIONS),
    (b'{"inputs": {"a": [null], "b": [1]}}', JSON, CallKind.INVOCATIONS),
    (b"a,b\n1,2\n,2\n", "text/csv", CallKind.INVOCATIONS),
    (json.dumps({"inputs": [TENSOR_OF | {"name": "a", "data": [None]}, TENSOR_OF]}).encode(), JSON, CallKind.INFER),
]


@pytest.mark.parametrize(("body", "content_type", "kind"), REQUESTS)
@pytest.mark.parametrize("batching", [None, Batching(max_batch_size=8, batch_wait_ms=0)])
def test_rows_that_lack_values_are_their_senders_where_the_model_fails(
    body: bytes, content_type: str, kind: CallKind, batching: Batching | None, caplog: pytest.LogCaptureFixture
) -> None:
    ask = Asked()
    ask.own.configure(batching)
    with caplog.at_level(logging.INFO):
        answer = ask(body, content_type, kind=kind)
    told = json.loads(answer.body)
    assert answer.status == 400
    assert "'a', first in row" in told["message"]
    assert told["expected"] == {"a": "FP64", "b": "FP64, optional"}
    assert ask.measured == 0
    assert "Input contains NaN" in caplog.text  # the model's own reason, for who looks
    assert "Input contains" not in told["message"]


@pytest.mark.parametrize(
    "body", [b'{"dataframe_split": {"columns": ["a", "b"], "data": []}}', b'{"inputs": {"a": [], "b": []}}']
)
def test_a_request_without_rows_is_its_senders_where_the_model_fails(body: bytes) -> None:
    ask = Asked()
    answer = ask(body)
    assert (answer.status, ask.measured) == (400, 0)
    assert "without rows" in json.loads(answer.body)["message"]


def test_null_for_a_param_is_its_senders_where_the_model_fails_and_its_default_is_none() -> None:
    def scaled(data: Any, params: dict[str, Any]) -> list[float]:
        return [params["scale"] * 2.0] * len(data)

    ask = Asked(scaled, params=PARAMS)
    row = {"dataframe_records": [{"a": 1, "b": 1}]}
    assert ask(json.dumps({**row, "params": {"scale": 3.0}}).encode()).body == b'{"predictions": [6.0]}'
    answer = ask(json.dumps({**row, "params": {"scale": None}}).encode())
    assert (answer.status, json.loads(answer.body)["message"]) == (400, "The model takes no null for params: 'scale'.")
    tensors = [TENSOR_OF, TENSOR_OF | {"name": "a"}]
    answer = ask(json.dumps({"inputs": tensors, "parameters": {"scale": None}}).encode(), kind=CallKind.INFER)
    assert (answer.status, ask.measured) == (400, 1)


def test_null_for_a_param_that_may_be_null_is_the_models_to_live_with() -> None:
    def speaks(_data: Any, params: dict[str, Any]) -> str:
        return str(params["lang"].upper())

    asked = {"dataframe_records": [{"a": 1, "b": 1}], "params": {"lang": None}}
    assert Asked(speaks, params=PARAMS)(json.dumps(asked).encode()).status == 500


@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}])
def test_what_is_no_text_is_its_senders_where_the_model_fails(value: object) -> None:
    ask = Asked(lambda data: [text.encode().hex() for text in data["t"]], TEXT)
    assert ask(b'{"dataframe_records": [{"t": "x"}]}').body == b'{"predictions": ["78"]}'
    answer = ask(json.dumps({"dataframe_records": [{"t": value}]}).encode())
    assert (answer.status, ask.measured) == (400, 1)


def test_half_of_a_character_is_no_text_of_a_tensor() -> None:
    ask = Asked(lambda data: list(data["t"]), TEXT)
    asked = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [1], "data": ["\ud800"]}]}
    answer = ask(json.dumps(asked).encode(), kind=CallKind.INFER)
    assert (answer.status, ask.measured) == (400, 0)
    assert "what is no UTF-8" in json.loads(answer.body)["message"]


def test_a_model_that_lives_with_missing_values_is_asked() -> None:
    ask = Asked(lambda data: [str(value) for value in data["a"]])
    assert ask(REQUESTS[0][0]).body == b'{"predictions": ["nan"]}'
    assert ask.measured == 1


def test_a_missing_optional_value_is_the_models_to_live_with() -> None:
    ask = Asked()
    assert ask(b'{"dataframe_records": [{"a": 1, "b": null}]}').status == 500
    assert ask.measured == 1


def test_a_model_that_makes_its_own_missing_values_has_failed() -> None:
    def logs(data: Any) -> list[float]:
        data["a"] = np.log(data["a"])  # in place, as many do
        return picky(data)

    with np.errstate(invalid="ignore"):
        assert Asked(logs)(b'{"dataframe_records": [{"a": -1, "b": 1}]}').status == 500


def _exits(_data: Any) -> None:
    raise SystemExit


def _has_no_room(_data: Any) -> None:
    raise MemoryError


@pytest.mark.parametrize("predict", [_exits, _has_no_room])
def test_what_is_no_way_to_refuse_rows_stays_a_failure(predict: Any) -> None:
    assert Asked(predict)(REQUESTS[0][0]).status == 500


def test_what_was_looked_up_is_not_the_senders() -> None:
    def fails(_data: Any) -> None:
        raise ValueError("Input contains NaN")

    schema = Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.double, "spend")])
    terms = Features(entry_point="a:b", key="user", timeout_ms=5000, defaults={"spend": 1}, cache_ttl_s=0)
    columns = Columns(terms, schema)
    look_ups = LookUps(KnownFeatures({}), columns.check, terms=terms, tally=LookUpCounts(), clock=lambda: 0.0)
    ask = Asked(fails, schema, features=FeatureJoin(columns, look_ups))
    assert ask(b'{"dataframe_records": [{"user": "ada", "a": 1}]}').status == 500
    answer = ask(b'{"dataframe_records": [{"user": "ada", "a": null}]}')
    assert answer.status == 400
    assert "'a'" in json.loads(answer.body)["message"]


@pytest.mark.parametrize("headers", [{}, {COPY_HEADER: "1"}])
def test_a_stream_that_fails_at_once_on_rows_that_lack_values(headers: dict[str, str]) -> None:
    def stream(data: Any) -> Iterator[float]:
        yield from picky(data)

    ask = Asked(stream=stream)
    headers = {"accept": EVENT_STREAM, **headers}
    assert ask(REQUESTS[0][0], headers=headers).status == 400
    assert ask(b'{"dataframe_records": [{"a": 1, "b": null}]}', headers=headers).status == 500


def test_an_example_that_lacks_values_ends_the_warm_up_with_the_models_words(tmp_path: Path) -> None:
    (tmp_path / EXAMPLE_FILE).write_bytes(REQUESTS[0][0])
    with pytest.raises(Stalled, match="Input contains NaN"):
        asyncio.run(Asked().own.warm_up(tmp_path))
