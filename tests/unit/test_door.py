"""A replica's HTTP, in process: the door, the host and a model server, without Ray."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from serving_runtime.door import REQUEST_ID_LIMIT_CHARS, VERSION_HEADER
from serving_runtime.model_server import ModelServer
from serving_runtime.outcomes import UserOutcome
from serving_runtime.protocol import BODY_LIMIT_BYTES
from tests.fakes.bare_model import BareModel
from tests.fakes.replica import VERSION, Replica, replica

JSON = {"content-type": "application/json"}


def fails_on_13(data: object) -> object:
    if 13 in data:  # type: ignore[operator]
        raise ValueError("a secret of the model")
    return data


@pytest.fixture
def own() -> Replica:
    return replica(ModelServer(BareModel(fails_on_13), lambda _ms: None))


@pytest.fixture
def client(own: Replica) -> TestClient:
    return TestClient(own)


def test_an_invocation_is_answered_with_the_version_that_answered(client: TestClient, own: Replica) -> None:
    answer = client.post("/invocations", content=b'{"inputs": [1.0]}', headers=JSON)
    assert (answer.status_code, answer.content) == (200, b'{"predictions": [1.0]}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers[VERSION_HEADER] == str(VERSION)
    assert own.counts.answers == Counter({UserOutcome.OK: 1})


@pytest.mark.parametrize("path", ["/ping", "/health"])
def test_it_tells_that_it_lives(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (200, "\n")
    assert answer.headers[VERSION_HEADER] == str(VERSION)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error_code"),
    [
        ("GET", "/invocations", b"", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/nothing", b"", 404, "ENDPOINT_NOT_FOUND"),
        ("POST", "/invocations", b"0" * (BODY_LIMIT_BYTES + 1), 413, "REQUEST_LIMIT_EXCEEDED"),
    ],
)
def test_what_is_turned_away_is_counted_as_refused(
    client: TestClient, own: Replica, method: str, path: str, body: bytes, status: int, error_code: str
) -> None:
    answer = client.request(method, path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error_code"]) == (status, error_code)
    assert own.counts.answers == Counter({UserOutcome.REFUSED: 1})
    if status == 405:
        assert answer.headers["allow"] == "POST"


def test_a_body_of_unknown_length_is_read_up_to_the_limit(client: TestClient) -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        while len(taken) < 100:
            taken.append(1)
            yield b"0" * (1024 * 1024)

    answer = client.post("/invocations", content=endless(), headers=JSON)
    assert answer.status_code == 413


def test_a_fault_names_the_request_and_not_its_reason(client: TestClient) -> None:
    answer = client.post("/invocations", content=b'{"inputs": [13]}', headers={**JSON, "x-request-id": "my-id-7"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == "my-id-7"
    assert "secret" not in answer.text


def test_a_request_id_is_kept_to_a_length(client: TestClient) -> None:
    answer = client.post("/invocations", content=b'{"inputs": [13]}', headers={**JSON, "x-request-id": "i" * 1000})
    assert json.loads(answer.content)["request_id"] == "i" * REQUEST_ID_LIMIT_CHARS
