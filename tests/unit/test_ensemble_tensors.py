"""An ensemble in the Open Inference Protocol, before real model servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from starlette.testclient import TestClient

from serving_runtime.description import Named
from serving_runtime.front import Question, Reply
from serving_runtime.model_server import ModelServer
from serving_runtime.open_inference import model_metadata
from serving_runtime.open_inference_reading import read_response
from serving_runtime.open_inference_tensors import LENGTH_HEADER, InferRequest, Tensor, write_request
from tests.fakes.replica import replica
from tests.fakes.signed_model import signed_model
from tests.unit.test_ensemble import Web

INFER = "/both/v2/models/both/infer"
X = {"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 2]}


class Member:
    """A version's own door, asked as a front asks."""

    def __init__(self, predict: Callable[[pd.DataFrame], Any], output: str = "y", kind: str = "double") -> None:
        signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec(kind, output)]))
        own = ModelServer(signed_model(predict, signature), lambda _ms: None, named=Named("m", "3"))
        self.replica = replica(own)
        self.is_away = False

    async def ask(self, question: Question) -> Reply:
        if self.is_away:
            raise ConnectionError("away")
        answer, version = await self.replica.door.ask(question.call, version=question.version)
        return Reply(answer, version)

    async def describe(self) -> Reply:
        if self.is_away:
            raise ConnectionError("away")
        return Reply(model_metadata(self.replica.about), "3")


def times(factor: float, output: str = "y") -> Member:
    return Member(lambda frame: frame["x"].to_numpy() * factor, output)


def web(combine: str = "mean", *, needed: int | None = None, **members: Member) -> TestClient:
    hosts: Mapping[str, Any] = members
    return TestClient(Web(hosts, combine, needed=needed))


def outputs(client: TestClient, *inputs: dict[str, Any], **more: Any) -> Any:
    answer = client.post(INFER, json={"inputs": list(inputs), **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_members_tensors_become_one() -> None:
    told = outputs(web(a=times(1), b=times(3)), X, id="mine")
    assert told == {
        "model_name": "both",
        "model_version": "a=7,b=7",
        "id": "mine",
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [2.0, 4.0]}],
    }


@pytest.mark.parametrize(
    ("combine", "datatype", "data"),
    [
        ("mean", "FP64", [2.0, 2.0]),
        ("median", "FP64", [2.0, 2.0]),
        ("vote", "INT64", [2, 2]),
        ("first", "INT64", [2, 2]),
    ],
)
def test_what_is_computed_is_a_floating_number_and_what_is_chosen_stays_what_it_is(
    combine: str, datatype: str, data: list[float]
) -> None:
    two = {name: Member(lambda frame: np.full(len(frame), 2), kind="long") for name in ("a", "b", "c")}
    (output,) = outputs(web(combine, **two), X)["outputs"]
    assert (output["datatype"], output["data"]) == (datatype, data)


def test_texts_are_voted_on() -> None:
    yes, no = (Member(lambda frame, word=word: [word] * len(frame), kind="string") for word in ("yes", "no"))
    (output,) = outputs(web("vote", a=no, b=yes, c=yes), X)["outputs"]
    assert (output["datatype"], output["data"]) == ("BYTES", ["yes", "yes"])


def test_an_output_that_members_call_otherwise_is_called_output() -> None:
    (output,) = outputs(web(a=times(1, "p"), b=times(3, "q")), X)["outputs"]
    assert (output["name"], output["data"]) == ("output", [2.0, 4.0])


def test_several_outputs_are_combined_by_name() -> None:
    signature = ModelSignature(
        Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "p"), ColSpec("double", "q")])
    )

    def several(factor: float) -> Member:
        made = times(factor)
        predict = lambda frame: pd.DataFrame({"p": frame["x"] * factor, "q": -frame["x"] * factor})  # noqa: E731
        made.replica = replica(ModelServer(signed_model(predict, signature), lambda _ms: None, named=Named("m", "3")))
        return made

    told = outputs(web(a=several(1), b=several(3)), X)["outputs"]
    assert [(each["name"], each["data"]) for each in told] == [("p", [2.0, 4.0]), ("q", [-2.0, -4.0])]


def test_binary_in_and_out() -> None:
    tensor = Tensor("x", "FP64", np.array([1.0, 2.0]))
    encoded = write_request(InferRequest((tensor,), binary=True), binary=True)
    headers = {LENGTH_HEADER: str(encoded.header_length), "content-type": "application/octet-stream"}
    answer = web(a=times(1), b=times(3)).post(INFER, content=encoded.body, headers=headers)
    assert answer.status_code == 200
    response = read_response(answer.content, answer.headers[LENGTH_HEADER])
    assert response.outputs[0].data.tolist() == [2.0, 4.0]
    assert b'"data"' not in answer.content


def test_a_wrong_tensor_is_the_members_400_in_the_protocols_shape() -> None:
    answer = web(a=times(1), b=times(3)).post(INFER, json={"inputs": [{**X, "name": "other"}]})
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert "'other'" in answer.json()["error"]


def test_a_member_that_is_away_fails_it_or_is_left_out() -> None:
    gone = times(3)
    gone.is_away = True
    assert web(a=times(1), b=gone).post(INFER, json={"inputs": [X]}).status_code == 503
    assert outputs(web(needed=1, a=times(1), b=gone), X)["outputs"][0]["data"] == [1.0, 2.0]


def test_what_cannot_be_combined_is_the_ensembles_fault() -> None:
    words = Member(lambda frame: ["word"] * len(frame), kind="string")
    answer = web(a=words, b=words).post(INFER, json={"inputs": [X]}, headers={"x-request-id": "r-9"})
    assert answer.status_code == 500
    assert "r-9" in answer.json()["error"]


def test_it_tells_about_itself_and_its_members() -> None:
    client = web(a=times(1), b=times(3))
    assert client.get("/both/v2").json()["name"] == "sluicegate"
    assert client.get("/both/v2/health/live").json() == {"live": True}
    assert client.get("/both/v2/health/ready").json() == {"ready": True}
    assert client.get("/both/v2/models/both/ready").json() == {"name": "both", "ready": True}
    assert client.get("/both/v2/models/both").json() == {
        "name": "both",
        "platform": "sluicegate_ensemble",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
        "parameters": {"members": {"a": ["3"], "b": ["3"]}},
    }


def test_it_is_not_ready_while_too_few_members_answer() -> None:
    gone = times(3)
    gone.is_away = True
    assert web(a=times(1), b=gone).get("/both/v2/models/both/ready").status_code == 503
    assert web(needed=1, a=times(1), b=gone).get("/both/v2/models/both/ready").status_code == 200
    assert "both" not in web(a=times(1)).get("/both/v2/models/other/ready").json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/both/v2/models/a/infer", 404),
        ("POST", "/both/v2/models/both/versions/3/infer", 404),
        ("GET", "/both/v2/models/both/versions/3", 404),
        ("GET", "/both/v2/models/both/infer", 405),
        ("GET", "/both/v2/nothing", 404),
    ],
)
def test_there_is_no_other_model_and_no_version(method: str, path: str, status: int) -> None:
    answer = web(a=times(1)).request(method, path)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}


def test_where_others_reach_it_only_health_is_open() -> None:
    client = TestClient(Web({"a": times(1)}, exposed=True))  # type: ignore[dict-item]
    assert client.get("/both/v2/health/live").status_code == 200
    for path in ("/both/v2", "/both/v2/models/both"):
        assert client.get(path).status_code == 403
    assert client.post(INFER, json={"inputs": [X]}).status_code == 403


def test_in_mlflows_protocol_it_answers_as_ever() -> None:
    answer = web(a=times(1), b=times(3)).post("/both/invocations", json={"inputs": {"x": [1.0, 2.0]}})
    assert answer.json() == {"predictions": [2.0, 4.0]}
    assert asyncio.run(times(1).describe()).version == "3"


def test_a_number_that_is_none_is_null() -> None:
    holes = Member(lambda frame: np.where(frame["x"] > 1.0, np.nan, 4.0))
    (output,) = outputs(web(a=times(2), b=holes), X)["outputs"]
    assert (output["datatype"], output["data"]) == ("FP64", [3.0, None])
