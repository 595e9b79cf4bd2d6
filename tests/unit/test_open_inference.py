"""The Open Inference Protocol at a replica's door: tensors typed by the signature, answers, errors, metadata."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, Object, Property
from starlette.testclient import TestClient

from serving_runtime.door import VERSION_HEADER
from serving_runtime.model_server import ModelServer
from serving_runtime.open_inference_reading import read_response
from serving_runtime.open_inference_tensors import LENGTH_HEADER, InferRequest, OutputWish, Tensor, write_request
from serving_runtime.outcomes import UserOutcome
from serving_runtime.user_config import parse_user_config
from tests.fakes.replica import NAMED, VERSION, Replica, replica
from tests.fakes.signed_model import signed_model

INFER = "/v2/models/fraud/infer"
XY = Schema([ColSpec("double", "x"), ColSpec("double", "y")])
SUM = ModelSignature(XY, Schema([ColSpec("double", "sum")]))


def serving(predict: Any, signature: ModelSignature | None = None) -> Replica:
    return replica(ModelServer(signed_model(predict, signature), lambda _ms: None, named=NAMED))


def asked(predict: Any, signature: ModelSignature | None, *inputs: dict[str, Any], **more: Any) -> Any:
    return TestClient(serving(predict, signature)).post(INFER, json={"inputs": list(inputs), **more})


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def total(frame: pd.DataFrame) -> Any:
    return (frame["x"] + frame["y"]).to_numpy()


X, Y = tensor("x", "FP64", [2], [1, 2]), tensor("y", "FP64", [2, 1], [[10], [20]])


def test_columns_are_named_tensors_and_the_answer_is_named_by_the_signature() -> None:
    answer = asked(total, SUM, X, Y, id="my-1")
    assert answer.status_code == 200
    assert answer.headers[VERSION_HEADER] == str(VERSION)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model_name": "fraud",
        "model_version": str(VERSION),
        "id": "my-1",
        "outputs": [tensor("sum", "FP64", [2], [11.0, 22.0])],
    }


def test_one_matrix_stands_for_all_columns_of_a_frame_of_numbers() -> None:
    answer = asked(total, SUM, tensor("whatever", "FP32", [2, 2], [1, 10, 2, 20]))
    assert answer.json()["outputs"][0]["data"] == [11.0, 22.0]


COLUMNS = [
    (ColSpec("double", "c"), tensor("c", "FP64", [2], [1.5, None]), [1.5, None]),
    (ColSpec("float", "c"), tensor("c", "FP64", [2], [1.5, 2]), [1.5, 2.0]),
    (ColSpec("long", "c"), tensor("c", "INT32", [2], [1, 2]), [1, 2]),
    (ColSpec("integer", "c"), tensor("c", "INT64", [2], [1, 2]), [1, 2]),
    (ColSpec("long", "c"), tensor("c", "FP64", [2], [1.0, 2.0]), [1, 2]),
    (ColSpec("boolean", "c"), tensor("c", "BOOL", [2], [True, False]), [True, False]),
    (ColSpec("string", "c"), tensor("c", "BYTES", [2], ["a", "ü"]), ["a", "ü"]),
    (ColSpec("binary", "c"), tensor("c", "BYTES", [2], ["AQI=", ""]), ["AQI=", ""]),
    (ColSpec("datetime", "c"), tensor("c", "BYTES", [1], ["2026-01-31"]), ["2026-01-31T00:00:00"]),
    (ColSpec(Array(DataType.double), "c"), tensor("c", "FP64", [2, 2], [1, 2, 3, 4]), [1.0, 2.0, 3.0, 4.0]),
    (
        ColSpec(Object([Property("a", DataType.long)]), "c"),
        tensor("c", "BYTES", [1], ['{"a": 1}']),
        ['{"a": 1}'],
    ),
]


@pytest.mark.parametrize(("column", "sent", "back"), COLUMNS, ids=[f"{c.type} {s['datatype']}" for c, s, _ in COLUMNS])
def test_every_type_of_a_column_has_a_tensor_both_ways(column: ColSpec, sent: dict[str, Any], back: list[Any]) -> None:
    signature = ModelSignature(Schema([column]), Schema([column]))
    answer = asked(lambda frame: frame, signature, sent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == back
    assert answer.json()["outputs"][0]["shape"] == sent["shape"]


def test_a_column_that_may_be_missing_may_be_missing() -> None:
    signature = ModelSignature(Schema([ColSpec("double", "x"), ColSpec("double", "y", required=False)]))
    answer = asked(lambda frame: frame["x"].to_numpy(), signature, X)
    assert answer.json()["outputs"][0]["data"] == [1.0, 2.0]


def test_a_tensor_signature_gets_a_tensor_whatever_it_is_called() -> None:
    spec = TensorSpec(np.dtype("float32"), (-1, 2, 2))
    signature = ModelSignature(Schema([spec]), Schema([spec]))
    answer = asked(lambda data: data * 2, signature, tensor("image", "FP64", [1, 2, 2], [1, 2, 3, 4]))
    assert answer.json()["outputs"] == [tensor("output", "FP32", [1, 2, 2], [2.0, 4.0, 6.0, 8.0])]


def test_named_tensors_go_by_name() -> None:
    inputs = [TensorSpec(np.dtype("float32"), (-1, 2), "a"), TensorSpec(np.dtype("int64"), (-1,), "b")]
    answer = asked(
        lambda data: {"c": data["a"].sum(axis=1), "d": data["b"]},
        ModelSignature(Schema(inputs)),
        tensor("b", "INT64", [1], [7]),
        tensor("a", "FP32", [1, 2], [1, 2]),
    )
    assert answer.json()["outputs"] == [tensor("c", "FP32", [1], [3.0]), tensor("d", "INT64", [1], [7])]


def test_a_model_without_a_signature_gets_what_comes() -> None:
    seen: list[Any] = []

    def predict(data: Any) -> Any:
        seen.append(data)
        return [1.0]

    asked(predict, None, X)
    asked(predict, None, X, tensor("s", "BYTES", [2], ["a", "b"]))
    assert seen[0].tolist() == [1.0, 2.0]
    assert list(seen[1].columns) == ["x", "s"]
    assert seen[1]["s"].tolist() == ["a", "b"]


def test_parameters_reach_a_model_that_takes_them() -> None:
    params = ParamSchema([ParamSpec("times", DataType.double, 1.0)])
    signature = ModelSignature(XY, None, params)

    def predict(frame: pd.DataFrame, params: dict[str, Any]) -> Any:
        return total(frame) * params["times"]

    more = {"parameters": {"times": 2.0, "unknown": 1}}
    assert asked(predict, signature, X, Y, **more).json()["outputs"][0]["data"] == [22.0, 44.0]
    assert asked(predict, signature, X, Y).json()["outputs"][0]["data"] == [11.0, 22.0]
    wrong = asked(predict, signature, X, Y, parameters={"times": "two"})
    assert wrong.status_code == 400
    assert "times" in wrong.json()["error"]


def test_outputs_that_are_named_are_given_and_no_others() -> None:
    def both(frame: pd.DataFrame) -> Any:
        return pd.DataFrame({"a": frame["x"], "b": frame["y"]})

    signature = ModelSignature(XY, Schema([ColSpec("double", "a"), ColSpec("double", "b")]))
    answer = asked(both, signature, X, Y, outputs=[{"name": "b"}])
    assert [output["name"] for output in answer.json()["outputs"]] == ["b"]
    wrong = asked(both, signature, X, Y, outputs=[{"name": "c"}])
    assert wrong.status_code == 400
    assert "outputs[0].name: expected one of 'a', 'b', not 'c'" in wrong.json()["error"]


@pytest.mark.parametrize(
    ("given", "named", "expected"),
    [
        ([1, 2], None, [tensor("output", "INT64", [2], [1, 2])]),
        (np.array([[1.0, 2.0]]), ("a", "b"), [tensor("a", "FP64", [1], [1.0]), tensor("b", "FP64", [1], [2.0])]),
        (np.array([[1.0, 2.0]]), ("a",), [tensor("a", "FP64", [1, 2], [1.0, 2.0])]),
        (pd.Series([True]), None, [tensor("output", "BOOL", [1], [True])]),
        (
            ["a", "b"],
            None,
            [{**tensor("output", "BYTES", [2], ["a", "b"]), "parameters": {"content_type": "str"}}],
        ),
        (
            [{"k": np.float32(1)}, {"k": [1, 2]}],
            None,
            [
                {
                    **tensor("output", "BYTES", [2], ['{"k": 1.0}', '{"k": [1, 2]}']),
                    "parameters": {"content_type": "json"},
                }
            ],
        ),
        (
            [[1], [1, 2]],
            None,
            [{**tensor("output", "BYTES", [2], ["[1]", "[1, 2]"]), "parameters": {"content_type": "json"}}],
        ),
        ("text", None, [{**tensor("output", "BYTES", [1], ["text"]), "parameters": {"content_type": "str"}}]),
        ([float("inf")], None, [tensor("output", "FP64", [1], [None])]),
        (
            pd.DataFrame({"b": [2.0], "a": [1.0]}),
            ("a", "b"),
            [tensor("b", "FP64", [1], [2.0]), tensor("a", "FP64", [1], [1.0])],
        ),
        ([0.5], ("long",), [tensor("long", "FP64", [1], [0.5])]),
    ],
)
def test_whatever_a_model_gives_is_tensors(given: Any, named: tuple[str, ...] | None, expected: Any) -> None:
    kinds = {"long": "long"}
    outputs = None if named is None else Schema([ColSpec(kinds.get(name, "double"), name) for name in named])
    answer = asked(lambda _frame: given, ModelSignature(XY, outputs), X, Y)
    assert [dict(sorted(each.items())) for each in answer.json()["outputs"]] == [
        dict(sorted(each.items())) for each in expected
    ]


@pytest.mark.parametrize("whole", [True, False])
def test_binary_both_ways(whole: bool) -> None:
    tensors = tuple(Tensor(name, "FP64", np.array([1.0, 2.0])) for name in ("x", "y"))
    wish = () if whole else (OutputWish("sum", binary=True),)
    encoded = write_request(InferRequest(tensors, outputs=wish, binary=whole), binary=True)
    headers = {LENGTH_HEADER: str(encoded.header_length), "content-type": "application/octet-stream"}
    answer = TestClient(serving(total, SUM)).post(INFER, content=encoded.body, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    read = read_response(answer.content, answer.headers[LENGTH_HEADER])
    assert read.outputs[0].data.tolist() == [2.0, 4.0]


# --- errors -------------------------------------------------------------------------------------------------------

WRONG = [
    ([], "inputs: expected at least one tensor. Example: "),
    ([X], "inputs: tensor 'y' is missing (1 of 2 are). Example: "),
    ([X, Y, tensor("z", "FP64", [2], [1, 2])], "inputs[2].name: expected one of 'x', 'y', not 'z'"),
    ([X, tensor("y", "BYTES", [2], ["a", "b"])], "tensor 'y': expected FP64 in shape [-1], not BYTES. Example: "),
    ([X, tensor("y", "BOOL", [2], [True, True])], "tensor 'y': expected FP64 in shape [-1], not bool"),
    ([X, tensor("y", "FP64", [1, 2], [1, 2])], "tensor 'y': expected FP64 in shape [-1], not shape [1, 2]"),
    ([X, tensor("y", "FP64", [3], [1, 2, 3])], "tensor 'x' has 2 rows and another has 3"),
]


@pytest.mark.parametrize(("inputs", "words"), WRONG)
def test_a_wrong_input_is_400_with_field_type_and_example(inputs: list[Any], words: str) -> None:
    answer = asked(total, SUM, *inputs)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("kind", "sent", "words"),
    [
        ("long", tensor("c", "FP64", [1], [1.5]), "expected INT64 in shape [-1], not fractions"),
        ("integer", tensor("c", "INT64", [1], [2**40]), "expected INT32 in shape [-1], not numbers beyond it"),
        ("string", tensor("c", "FP64", [1], [1.5]), "expected BYTES in shape [-1], not FP64"),
        ("binary", tensor("c", "BYTES", [1], ["!"]), "not text that is no base64"),
        ("datetime", tensor("c", "BYTES", [1], ["yesterday"]), "not text that is no ISO 8601 time"),
        (Object([Property("a", DataType.long)]), tensor("c", "BYTES", [1], ["{"]), "not text that is no JSON"),
        (Object([Property("a", DataType.long)]), tensor("c", "BYTES", [1], ['{"a": "b"}']), "schema"),
    ],
)
def test_a_value_that_the_column_does_not_hold_is_400(kind: Any, sent: dict[str, Any], words: str) -> None:
    answer = asked(lambda frame: frame, ModelSignature(Schema([ColSpec(kind, "c")])), sent)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_the_models_fault_is_500_and_tells_no_internals() -> None:
    def fails(_frame: object) -> None:
        raise ValueError("a secret of the model")

    answer = TestClient(serving(fails, SUM)).post(INFER, json={"inputs": [X, Y]}, headers={"x-request-id": "r-9"})
    assert answer.status_code == 500
    assert answer.json().keys() == {"error"}
    assert "r-9" in answer.json()["error"]
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", f"/v2/models/fraud/versions/{VERSION + 1}/infer", 404),
        ("GET", "/v2/nothing", 404),
    ],
)
def test_what_is_turned_away_has_the_protocols_shape(method: str, path: str, status: int) -> None:
    own = serving(total, SUM)
    answer = TestClient(own).request(method, path)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert own.counts.answers == Counter({UserOutcome.REFUSED: 1})


@pytest.mark.parametrize(("version", "status"), [(VERSION, 200), (VERSION + 1, 403), (VERSION + 2, 404)])
def test_a_version_in_the_path_answers_or_nobody_does(version: int, status: int) -> None:
    own = replica(ModelServer(signed_model(total, SUM), lambda _ms: None, named=NAMED), lambda _application: None)  # type: ignore[arg-type,return-value]
    about = {"application": "c", "version": VERSION + 1, "build": "1" * 8, "timeout_s": 5.0}
    split = {**about, "weight_percent": 100, "shadow": False, "max_ongoing": 4}
    told = {"revision": 1, "model": "fraud", "version": VERSION, "build": "0" * 8, "request_timeout_s": 5.0}
    assert own.host.configure(parse_user_config({**told, "split": split}))
    answer = TestClient(own).post(f"/v2/models/fraud/versions/{version}/infer", json={"inputs": [X, Y]})
    assert answer.status_code == status
    assert answer.headers[VERSION_HEADER] == str(VERSION)
    if status == 200:
        assert answer.json()["model_version"] == str(VERSION)
    assert own.counts.events == {}


# --- metadata -----------------------------------------------------------------------------------------------------


def test_it_tells_about_itself() -> None:
    client = TestClient(serving(total, SUM))
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/fraud", f"/v2/models/fraud/versions/{VERSION}"):
        assert client.get(f"{path}/ready").json() == {"name": "fraud", "ready": True}
        assert client.get(path).json() == {
            "name": "fraud",
            "versions": [str(VERSION)],
            "platform": "mlflow_pyfunc",
            "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in ("x", "y")],
            "outputs": [{"name": "sum", "datatype": "FP64", "shape": [-1]}],
        }


def test_what_the_metadata_shows_is_what_is_taken() -> None:
    """Each slot's own example goes through, whatever its type."""
    columns = [ColSpec(column.type, f"c{at}") for at, (column, _, _) in enumerate(COLUMNS)]
    own = serving(lambda frame: frame, ModelSignature(Schema(columns)))
    examples = [slot.example() for slot in own.about.signature.inputs]
    shown = TestClient(own).get("/v2/models/fraud").json()["inputs"]
    assert [(each["name"], each["datatype"]) for each in examples] == [(s["name"], s["datatype"]) for s in shown]
    objects = [json.dumps({"a": 1}) if columns[at].type.__class__ is Object else None for at in range(len(columns))]
    filled = [{**each, "data": [text]} if text else each for each, text in zip(examples, objects, strict=True)]
    answer = TestClient(own).post(INFER, json={"inputs": filled})
    assert answer.status_code == 200, answer.text
