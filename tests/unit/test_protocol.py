"""The scoring protocol: good answers byte for byte as MLflow's own server gives them, faults told from bad requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_runtime.protocol import (
    MESSAGE_LIMIT_CHARS,
    Answer,
    Call,
    error_answer,
    mark_faults,
    score,
)
from tests.fakes.bare_model import BareModel

MODEL_FILE = Path(__file__).parents[1] / "fakes" / "served_model.py"
JSON, CSV = "application/json", "text/csv"

GOOD = [
    pytest.param(JSON, {"dataframe_split": {"columns": ["x"], "data": [[1.0], [2.5]]}}, id="dataframe_split"),
    pytest.param(JSON, {"dataframe_records": [{"x": 1.0}, {"x": 2.5}]}, id="dataframe_records"),
    pytest.param(JSON, {"instances": [{"x": 1.0}, {"x": 2.5}]}, id="instances"),
    pytest.param(JSON, {"inputs": {"x": [1.0, 2.5]}}, id="inputs"),
    pytest.param(JSON, {"inputs": {"x": [1.0]}, "params": {"plus": 0.5}}, id="params"),
    pytest.param("application/json; charset=utf-8", {"inputs": {"x": [1]}}, id="charset"),
    pytest.param(CSV, "x\n1.0\n2.5\n", id="csv"),
]
BAD = [
    pytest.param(JSON, "{", 400, id="no JSON"),
    pytest.param(JSON, "[1]", 400, id="a list"),
    pytest.param(JSON, {}, 400, id="no input field"),
    pytest.param(JSON, {"inputs": {"x": [1]}, "instances": [{"x": 1}]}, 400, id="two input fields"),
    pytest.param(JSON, {"inputs": {"y": [1]}}, 400, id="wrong column"),
    pytest.param(JSON, {"inputs": {"x": ["text"]}}, 400, id="wrong type"),
    pytest.param(JSON, {"inputs": {"x": [1]}, "params": {"plus": "text"}}, 400, id="wrong param"),
    pytest.param(JSON, b"\xff\xfe", 400, id="no UTF-8"),
    pytest.param(CSV, b"\xff\xfe", 400, id="CSV that is no UTF-8"),
    pytest.param(JSON, "[" * 100_000, 400, id="JSON as deep as a bomb"),
    pytest.param("text/html", "x", 415, id="unknown type"),
    pytest.param("application/json; charset=latin-1", "{}", 415, id="unknown charset"),
    pytest.param(None, "x", 415, id="no type"),
    pytest.param("", "x", 415, id="empty type"),
]


def body_of(content: object) -> bytes:
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    path = tmp_path_factory.mktemp("model") / "model"
    signature = infer_signature(pd.DataFrame({"x": [1.0]}), [1.0], params={"plus": 0.0})
    mlflow.pyfunc.save_model(
        path,
        python_model=str(MODEL_FILE),
        model_config={"scale": 2.0},
        signature=signature,
        pip_requirements=["mlflow"],
    )
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import mlflow

    loaded = mlflow.pyfunc.load_model(str(folder))
    mark_faults(loaded)
    return loaded


@pytest.fixture(scope="module")
def mlflow_server(folder: Path) -> Iterator[Any]:
    """MLflow's own scoring server on the same model."""
    import mlflow
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    with TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(folder)))) as client:
        yield client


def ask(model: Any, content_type: str | None, content: object) -> Answer:
    call = Call(body_of(content), content_type, "r-1")
    return score(model, model.metadata.get_input_schema(), call).answer


@pytest.mark.parametrize(("content_type", "content"), GOOD)
def test_good_answers_are_the_bytes_of_mlflows_own_server(
    model: Any, mlflow_server: Any, content_type: str, content: object
) -> None:
    theirs = mlflow_server.post("/invocations", content=body_of(content), headers={"content-type": content_type})
    ours = ask(model, content_type, content)
    assert theirs.status_code == 200
    assert (ours.status, ours.body) == (theirs.status_code, theirs.content)
    assert ours.content_type == theirs.headers["content-type"]


@pytest.mark.parametrize(("content_type", "content", "status"), BAD)
def test_a_bad_request_is_the_clients_and_tells_no_internals(
    model: Any, content_type: str | None, content: object, status: int
) -> None:
    answer = ask(model, content_type, content)
    assert answer.status == status
    assert b"Traceback" not in answer.body
    assert b"stack_trace" not in answer.body
    assert b"site-packages" not in answer.body
    if status == 400:
        assert json.loads(answer.body)["error_code"] in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
        assert json.loads(answer.body)["message"]


@pytest.mark.parametrize("content", [{"inputs": {"y": [1]}}, {}, "{"])
def test_a_bad_request_has_mlflows_own_words(model: Any, mlflow_server: Any, content: object) -> None:
    theirs = mlflow_server.post("/invocations", content=body_of(content), headers={"content-type": JSON}).json()
    ours = json.loads(ask(model, JSON, content).body)
    assert (ours["error_code"], ours["message"]) == (theirs["error_code"], theirs["message"])


def test_what_the_model_raises_is_its_fault_and_stays_in_the_log(model: Any) -> None:
    scored = score(model, model.metadata.get_input_schema(), Call(b'{"inputs": {"x": [13]}}', JSON, "r-13"))
    assert scored.answer.status == 500
    assert b"secret" not in scored.answer.body
    assert json.loads(scored.answer.body)["request_id"] == "r-13"
    assert isinstance(scored.fault, ValueError)
    assert "thirteen" in str(scored.fault)


def marked(predict: Any, *, type_hinted: bool = False) -> BareModel:
    model = BareModel(predict, type_hinted=type_hinted)
    mark_faults(model)
    return model


def test_a_model_that_exits_ends_its_request_and_not_the_replica() -> None:
    def leave(_data: object) -> None:
        raise SystemExit(3)

    scored = score(marked(leave), None, Call(b'{"inputs": [1]}', JSON, "r"))
    assert scored.answer.status == 500
    assert isinstance(scored.fault, SystemExit)


def test_an_answer_that_is_no_json_is_the_models_fault() -> None:
    scored = score(marked(lambda _data: object()), None, Call(b'{"inputs": [1]}', JSON, "r"))
    assert scored.answer.status == 500
    assert isinstance(scored.fault, TypeError)


def test_data_that_breaks_a_type_hint_is_the_requests_fault() -> None:
    from mlflow.exceptions import MlflowException

    def predict(_data: object) -> None:
        raise MlflowException.invalid_parameter_value("Failed to validate data against type hint `list[int]`")

    call = Call(b'{"inputs": ["a"]}', JSON, "r")
    assert score(marked(predict, type_hinted=True), None, call).answer.status == 400
    assert score(marked(predict), None, call).answer.status == 500


def test_a_long_message_is_cut() -> None:
    answer = error_answer(400, "BAD_REQUEST", "x" * 1_000_000)
    assert len(answer.body) < MESSAGE_LIMIT_CHARS + 200
