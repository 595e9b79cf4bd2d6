"""A replica's HTTP, in process: the door, the host and a model server, without Ray."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from policies.serving import RequestKey, Segments
from serving_runtime import feedback
from serving_runtime.door import VERSION_HEADER
from serving_runtime.doorstep import REQUEST_ID_HEADER, REQUEST_ID_LIMIT_CHARS
from serving_runtime.events import FeedbackEvent
from serving_runtime.feedback import RECEIPT_HEADER
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.model_server import ModelServer
from serving_runtime.outcomes import Served, UserOutcome
from serving_runtime.protocol import BODY_LIMIT_BYTES, Answer, Call
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
        ("GET", "/feedback", b"", 405, "METHOD_NOT_ALLOWED"),
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


@pytest.mark.parametrize("headers", [{"content-type": "text/html"}, {**JSON, "content-encoding": "gzip"}, {}])
def test_what_is_no_type_that_is_taken_is_415_in_mlflows_shape(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/invocations", content=b'{"inputs": [1.0]}', headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (415, "application/json")
    assert answer.json().keys() == {"error_code", "message"}
    assert answer.headers[VERSION_HEADER] == str(VERSION)


def test_a_packed_body_is_415_in_both_protocols_and_counted_as_refused(client: TestClient, own: Replica) -> None:
    packed = {**JSON, "content-encoding": "gzip"}
    v2 = client.post("/v2/models/fraud/infer", content=gzip.compress(b"{}"), headers=packed)
    assert (v2.status_code, v2.json().keys(), v2.headers["accept-encoding"]) == (415, {"error"}, "identity")
    assert client.post("/feedback", content=gzip.compress(b"{}"), headers=packed).status_code == 415
    assert client.post("/invocations", content=gzip.compress(b"{}"), headers=packed).status_code == 415
    assert own.counts.answers == Counter({UserOutcome.REFUSED: 2})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/fraud/ready", 200),
        (f"/v2/models/fraud/versions/{VERSION}/ready", 200),
        ("/v2/models/another/ready", 404),
        ("/v2/models/fraud/versions/99/ready", 404),
    ],
)
def test_whether_a_model_is_ready_is_told_to_everybody_and_nothing_else(path: str, status: int) -> None:
    own = replica(ModelServer(BareModel(fails_on_13), lambda _ms: None, named=NAMED), exposed=True)
    client = TestClient(own)
    assert client.get("/v2/models/fraud").status_code == 403, "nobody has said who may call"
    answer = client.get(path)
    told = {"name": "fraud", "ready": True} if status == 200 else {"error": "No such model or version is here."}
    assert (answer.status_code, answer.json()) == (status, told)


@pytest.mark.parametrize(("named_by", "status"), [({"to": "anyone"}, 200), ({"to": "keys"}, 200), (None, 404)])
def test_a_candidates_version_is_ready_where_somebody_may_name_it(named_by: dict[str, str] | None, status: int) -> None:
    asked: list[str] = []
    own = replica(ModelServer(BareModel(fails_on_13), lambda _ms: None, named=NAMED), connect=Never(asked).connect)
    split = {"application": "fraud--v8", "version": 8, "build": "1" * 8, "timeout_s": 5.0, "max_ongoing": 4}
    forced = {"forced_version": named_by} if named_by else {}
    own.host.configure(config(split={**split, "weight_percent": 0, "shadow": True}, **forced))
    client = TestClient(own)
    assert client.get("/v2/models/fraud/versions/8/ready").status_code == status
    assert client.get("/v2/models/fraud/versions/9/ready").status_code == 404
    assert client.get("/v2/models/other/versions/8/ready").status_code == 404
    assert asked == [], "nobody is asked for it"


class Never:
    """The way to a candidate that notes who is asked."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def connect(self, _application: str) -> Never:
        return self

    async def answer(self, call: Call) -> Answer:
        self._asked.append(call.request_id)
        return Answer(500, b"")


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


# --- what a model document asks of requests ---------------------------------------------------------------------------


def configured(own: Replica, **asked: Any) -> None:
    config = UserConfig(revision=1, model="m", version=VERSION, build="0" * 8, request_timeout_s=5.0, **asked)
    assert own.host.configure(config)


def test_an_answer_carries_a_receipt_and_a_report_with_its_request_id_counts(client: TestClient, own: Replica) -> None:
    configured(own, feedback=True)
    answer = client.post("/invocations", content=b'{"inputs": [1.0]}', headers={**JSON, REQUEST_ID_HEADER: "r-1"})
    assert answer.headers[RECEIPT_HEADER] == f"{VERSION}-{'0' * 8}"
    report = client.post("/feedback", json={"request_id": "r-1", "good": True})
    assert (report.status_code, report.json()) == (200, {"counted": True})
    assert own.counts.events[FeedbackEvent(Served(VERSION, "0" * 8), good=True)] == 1
    assert own.counts.answers == Counter({UserOutcome.OK: 1})  # a report is no request for an answer


def test_an_id_that_the_client_did_not_send_is_the_one_that_serve_made(client: TestClient, own: Replica) -> None:
    configured(own, feedback=True)
    client.post("/invocations", content=b'{"inputs": [1.0]}', headers=JSON)
    assert client.post("/feedback", json={"request_id": MADE_ID, "good": False}).json() == {"counted": True}


def test_reports_are_refused_in_words(client: TestClient, own: Replica) -> None:
    assert client.post("/feedback", json={"request_id": "r-1", "good": True}).status_code == 404
    configured(own, feedback=True)
    assert client.post("/feedback", json={"request_id": "r-1", "good": True}).status_code == 404
    assert client.post("/feedback", json={"request_id": "r-1"}).status_code == 400
    assert client.post("/feedback", content=b"0" * (feedback.BODY_LIMIT_BYTES + 1)).status_code == 413
    assert client.get("/feedback").headers["allow"] == "POST"


def test_headers_that_a_model_asks_for_reach_it_and_no_others(client: TestClient, own: Replica) -> None:
    configured(own, segments=Segments(key=RequestKey(header="x-country"), values=("de",)))
    for country in ("de", "se"):
        client.post("/invocations", content=b'{"inputs": [1.0]}', headers={**JSON, "X-Country": country})
    assert [(version, segment) for version, segment, _ in own.counts.segments] == [(VERSION, "de"), (VERSION, "other")]
    assert own.host.headers == {"x-country", FORCE_HEADER}


def test_without_leave_nobody_names_a_version(client: TestClient, own: Replica) -> None:
    configured(own)
    answer = client.post("/invocations", content=b'{"inputs": [1.0]}', headers={**JSON, FORCE_HEADER: str(VERSION)})
    assert answer.status_code == 403
    assert own.counts.answers == Counter({UserOutcome.REFUSED: 1})


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


def test_bodies_that_do_not_come_take_nobodys_place() -> None:
    own = replica(ModelServer(BareModel(fails_on_13), lambda _ms: None, named=NAMED))
    own.host.configure(config(max_ongoing_requests=1, max_queued_requests=1))

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def story() -> None:
        transport = httpx.ASGITransport(app=own)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=WAIT_S) as client:
            slow = [asyncio.create_task(client.post("/invocations", content=never(), headers=JSON)) for _ in range(40)]
            slow += [asyncio.create_task(client.post("/feedback", content=never(), headers=JSON)) for _ in range(40)]
            for _ in range(3):
                answer = await client.post("/invocations", json={"inputs": [1.0]})
                assert (answer.status_code, answer.content) == (200, b'{"predictions": [1.0]}')
            given_way, _ = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result().status_code for task in given_way} == {408}
            assert (await client.post("/invocations", json={"inputs": [1.0]})).status_code == 200
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


def config(**changes: Any) -> UserConfig:
    about = {"revision": 1, "model": "fraud", "version": VERSION, "build": "0" * 8, "request_timeout_s": 20.0}
    return parse_user_config({**about, **changes})
