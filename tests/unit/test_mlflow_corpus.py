"""What MLflow's own server answers, a replica answers, byte for byte; models of several flavours, logged as usual."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from serving_runtime.model_server import ModelServer
from tests.fakes.replica import NAMED, replica

HERE = Path(__file__).parents[1] / "fakes"
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"


def save_sklearn(folder: Path) -> None:
    import mlflow
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [0, 1, 2]})
    mlflow.sklearn.save_model(
        LinearRegression().fit(frame, [1.0, 2.0, 3.0]), folder, input_example=frame, pip_requirements=[]
    )


def save_params(folder: Path) -> None:
    import mlflow
    from mlflow.models import infer_signature

    signature = infer_signature(pd.DataFrame({"x": [1.0]}), [1.0], params={"plus": 0.0})
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(HERE / "served_model.py"),
        model_config={"scale": 2.0},
        signature=signature,
        pip_requirements=[],
    )


def save_torch(folder: Path) -> None:
    import mlflow
    import torch
    from mlflow.models import infer_signature

    torch.manual_seed(7)
    example = np.ones((2, 3), dtype=np.float32)
    mlflow.pytorch.save_model(
        torch.nn.Linear(3, 2),
        folder,
        signature=infer_signature(example, example[:, :2]),
        serialization_format="pickle",
        pip_requirements=[],
    )


def save_streaming(folder: Path) -> None:
    import mlflow

    mlflow.pyfunc.save_model(folder, python_model=str(HERE / "streaming_model.py"), pip_requirements=[])


MODELS = {"sklearn": save_sklearn, "params": save_params, "torch": save_torch, "streaming": save_streaming}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[TestClient, TestClient]]:
    """A client of ours and one of MLflow's own server, by model."""
    made: dict[str, tuple[TestClient, TestClient]] = {}

    def clients(name: str) -> tuple[TestClient, TestClient]:
        if name not in made:
            import mlflow
            from mlflow.pyfunc import scoring_server

            folder = tmp_path_factory.mktemp("models") / name
            MODELS[name](folder)
            own = replica(ModelServer(mlflow.pyfunc.load_model(str(folder)), lambda _ms: None, named=NAMED))
            theirs = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
            made[name] = TestClient(own), TestClient(theirs)
        return made[name]

    return clients


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


AB, A = {"a": [1.5, 2.5], "b": [3, 4]}, pd.DataFrame({"a": [1.5], "b": [3]})
CORPUS = [
    ("sklearn", JSON, {"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, 3], [2.5, 4]]}}),
    ("sklearn", JSON, {"dataframe_split": {"columns": ["b", "a"], "data": [[3, 1.5]]}}),
    ("sklearn", JSON, {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1.5, 3, 9]]}}),
    ("sklearn", JSON, {"dataframe_records": [{"a": 1.5, "b": 3}, {"b": 4, "a": 2.5}]}),
    ("sklearn", JSON, {"instances": [{"a": 1.5, "b": 3}]}),
    ("sklearn", JSON, {"inputs": AB}),
    ("sklearn", CSV, "a,b\n1.5,3\n2.5,4\n"),
    ("sklearn", PARQUET, parquet(pd.DataFrame(AB))),
    ("params", JSON, {"inputs": {"x": [1.0]}, "params": {"plus": 0.5}}),
    ("params", JSON, {"dataframe_records": [{"x": 1.0}], "params": {"plus": 2}}),
    ("params", JSON, {"dataframe_records": [{"x": 1.0}], "params": {"unknown": 2}}),
    ("params", PARQUET, parquet(pd.DataFrame({"x": [1.0]}))),
    ("torch", JSON, {"inputs": [[1.0, 2.0, 3.0], [4, 5, 6]]}),
    ("torch", JSON, {"instances": [[1.0, 2.0, 3.0]]}),
    ("streaming", JSON, {"messages": [{"role": "user", "content": "to be or not"}]}),
]
BAD = [
    ("sklearn", JSON, {"dataframe_records": [{"a": 1.5}]}),
    ("sklearn", JSON, {"dataframe_records": [{"a": "text", "b": 1}]}),
    ("sklearn", JSON, {"inputs": AB, "instances": []}),
    ("sklearn", PARQUET, b"no parquet"),
    ("sklearn", CSV, "a\n1\n"),
    ("params", JSON, {"inputs": {"x": [1.0]}, "params": {"plus": "text"}}),
    ("torch", JSON, {"inputs": [["a"]]}),
    ("torch", JSON, {"inputs": [[1.0, 2.0]]}),
]


def body_of(content: object) -> bytes:
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


@pytest.mark.parametrize(("model", "content_type", "content"), CORPUS)
def test_good_answers_are_those_of_mlflows_own_server(
    both: Any, model: str, content_type: str, content: object
) -> None:
    ours, theirs = (
        client.post("/invocations", content=body_of(content), headers={"content-type": content_type})
        for client in both(model)
    )
    assert theirs.status_code == 200, theirs.text
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize(("model", "content_type", "content"), BAD)
def test_bad_requests_are_refused_as_by_mlflows_own_server_and_told_what_is_expected(
    both: Any, model: str, content_type: str, content: object
) -> None:
    ours, theirs = (
        client.post("/invocations", content=body_of(content), headers={"content-type": content_type})
        for client in both(model)
    )
    assert ours.status_code == theirs.status_code == 400
    assert ours.json()["error_code"] == theirs.json()["error_code"]
    assert ours.json()["message"][:1000] == theirs.json()["message"][:1000]
    assert ours.json()["expected"]
    assert "stack_trace" not in ours.json()


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
def test_the_small_endpoints_answer_as_mlflows_own(both: Any, path: str) -> None:
    ours, theirs = (client.get(path) for client in both("params"))
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize("model", ["sklearn", "torch"])
def test_both_protocols_predict_the_same(both: Any, model: str) -> None:
    ours, _ = both(model)
    asks = {
        "sklearn": ({"inputs": AB}, [("a", "FP64", [2], AB["a"]), ("b", "INT64", [2], AB["b"])]),
        "torch": ({"inputs": [[1.0, 2.0, 3.0]]}, [("input", "FP32", [1, 3], [1.0, 2.0, 3.0])]),
    }
    body, tensors = asks[model]
    scored = ours.post("/invocations", json=body).json()["predictions"]
    inputs = [dict(zip(("name", "datatype", "shape", "data"), tensor, strict=True)) for tensor in tensors]
    inferred = ours.post("/v2/models/fraud/infer", json={"inputs": inputs}).json()["outputs"][0]
    assert np.array(inferred["data"]).reshape(inferred["shape"]).tolist() == scored
