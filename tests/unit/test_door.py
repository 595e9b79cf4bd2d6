"""A replica's HTTP, in process: the door, the host and a model server, without Ray."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from serving_runtime.door import REQUEST_ID_LIMIT_CHARS, VERSION_HEADER
from serving_runtime.model_server import ModelServer
from serving_runtime.outcomes import UserOutcome
from serving_runtime.protocol import BODY_LIMIT_BYTES
from serving_runtime.user_config import UserConfig, parse_user_config
from tests.conditions import wait_until
from tests.fakes.bare_model import BareModel
from tests.fakes.replica import MADE_ID, NAMED, VERSION, Replica, replica

JSON = {"content-type": "application/json"}
WAIT_S = 20.0  # never reached when all is well


def fails_on_13(data: object) -> object:
    if 13 in data:  # type: ignore[operator]
        raise ValueError("a secret of the model")
    return data


@pytest.fixture
def own() -> Replica:
    return replica(ModelServer(BareModel(fails_on_13), lambda _ms: None, named=NAMED))


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


def test_who_finds_no_room_is_told_when_to_come_again_in_both_protocols_and_health_is_answered() -> None:
    gate = threading.Event()

    def waits(data: object) -> object:
        assert gate.wait(WAIT_S)
        return data

    own = replica(ModelServer(BareModel(waits), lambda _ms: None, named=NAMED))
    own.host.configure(config(max_ongoing_requests=1, max_queued_requests=1))
    infer = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}]}

    async def story() -> None:
        transport = httpx.ASGITransport(app=own)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            asked = [asyncio.create_task(client.post("/invocations", json={"inputs": [1]})) for _ in range(2)]
            await asyncio.to_thread(wait_until, lambda: own.door.waiting == 1, WAIT_S, "one in line")
            refused = await client.post("/invocations", json={"inputs": [1]})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
            assert refused.json()["request_id"] == MADE_ID
            v2 = await client.post("/v2/models/fraud/infer", json=infer)
            assert (v2.status_code, v2.headers["retry-after"]) == (503, "1")
            assert v2.json().keys() == {"error"}
            assert (await client.get("/ping")).status_code == 200
            gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]
        assert own.counts.answers == Counter({UserOutcome.REFUSED: 2, UserOutcome.OK: 2})

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


def config(**changes: Any) -> UserConfig:
    about = {"revision": 1, "model": "fraud", "version": VERSION, "build": "0" * 8, "request_timeout_s": 20.0}
    return parse_user_config({**about, **changes})
