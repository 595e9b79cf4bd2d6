"""An ensemble's answer: all members at once, their predictions combined, and what happens when one fails."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from serving_runtime.access import Gate
from serving_runtime.combining import combining
from serving_runtime.ensemble import COMBINED_AT_ONCE_BYTES, Ensemble
from serving_runtime.ensemble_tensors import Tensors
from serving_runtime.front import Front, Reply
from serving_runtime.front_config import FrontConfig
from serving_runtime.front_door import FrontDoor, passed_on
from serving_runtime.outcomes import Outcome, UserOutcome
from serving_runtime.protocol import BODY_LIMIT_BYTES, Answer, Call, error_answer
from tests.unit.test_front import Gone, Host, config, hangs, member

CALL = Call(b'{"inputs": [1]}', "application/json", "id-7")
WRONG = Reply(error_answer(400, "BAD_REQUEST", "x is no number"), "2")
FAULT = Reply(error_answer(500, "INTERNAL_ERROR", "The model failed on this request."), "2")


def predicts(*values: Any, version: str = "1") -> Host:
    return Host(Reply(Answer(200, json.dumps({"predictions": list(values)}).encode()), version))


class Counts:
    """A `FrontTally` that remembers."""

    def __init__(self) -> None:
        self.answers: Counter[UserOutcome] = Counter()
        self.members: Counter[tuple[str, Outcome]] = Counter()

    def answered(self, outcome: UserOutcome, elapsed_ms: float) -> None:
        assert elapsed_ms >= 0.0
        self.answers[outcome] += 1

    def heard(self, model: str, outcome: Outcome) -> None:
        self.members[model, outcome] += 1


def told(hosts: Mapping[str, Host], needed: int | None, timeout_s: float = 5.0) -> FrontConfig:
    members = [member(name, name, timeout_s=timeout_s) for name in hosts]
    return config(*members, needed=needed or len(members))


def ensemble(
    hosts: Mapping[str, Host], combine: str = "mean", *, counts: Counts | None = None, **fields: Any
) -> Ensemble:
    front = Front(lambda application: hosts[application])
    tensors = fields.pop("tensors", Tensors("both", combine))
    front.configure(told(hosts, fields.pop("needed", None), **fields))
    return Ensemble(front, combining(combine), {}, counts or Counts(), ours=":" not in combine, tensors=tensors)


def answered(hosts: Mapping[str, Host], combine: str = "mean", **fields: Any) -> tuple[Answer, str]:
    return asyncio.run(ensemble(hosts, combine, **fields).answer(CALL))


def test_every_member_gets_the_request_as_it_came_and_the_predictions_become_one() -> None:
    hosts = {"a": predicts(1.0, 2.0, version="3"), "b": predicts(3.0, 4.0, version="7")}
    counts = Counts()
    answer, versions = answered(hosts, counts=counts)
    assert (answer.status, answer.body, answer.content_type) == (
        200,
        b'{"predictions": [2.0, 3.0]}',
        "application/json",
    )
    assert versions == "a=3,b=7"
    assert [host.asked for host in hosts.values()] == [[CALL], [CALL]]
    assert counts.answers == {UserOutcome.OK: 1}
    assert counts.members == {("a", Outcome.GOOD): 1, ("b", Outcome.GOOD): 1}


@pytest.mark.parametrize(
    ("fails", "status", "named"),
    [
        (WRONG, 400, f"a=1,b={WRONG.version}"),
        (FAULT, 500, f"a=1,b={FAULT.version}"),
        (Gone("away"), 503, "a=1"),
        (hangs, 504, "a=1"),
        (Reply(Answer(200, b"no JSON"), "1"), 500, "a=1,b=1"),
    ],
)
def test_a_member_that_fails_fails_the_ensemble(fails: Any, status: int, named: str) -> None:
    counts = Counts()
    answer, versions = answered({"a": predicts(1.0), "b": Host(fails)}, counts=counts, timeout_s=0.2)
    assert (answer.status, versions) == (status, named)
    assert "id-7" in answer.body.decode() or fails in (WRONG, FAULT)
    assert sum(counts.answers.values()) == 1
    assert counts.members["b", Outcome.CLIENT_ERROR if fails is WRONG else Outcome.BAD] == 1


@pytest.mark.parametrize("fails", [WRONG, FAULT, Gone("away"), hangs])
def test_with_enough_others_it_is_left_out(fails: Any) -> None:
    counts = Counts()
    answer, versions = answered(
        {"a": predicts(1.0), "b": Host(fails), "c": predicts(3.0)}, needed=2, counts=counts, timeout_s=0.2
    )
    assert (answer.status, answer.body, versions) == (200, b'{"predictions": [2.0]}', "a=1,c=1")
    assert counts.answers == {UserOutcome.OK: 1}


def test_a_wrong_request_is_said_before_a_fault() -> None:
    answer, _ = answered({"a": Host(FAULT), "b": Host(WRONG)}, needed=1)
    assert answer == WRONG.answer


def test_a_members_error_names_the_version_that_gave_it() -> None:
    wrong = Host(Reply(Answer(400, b"{}"), "4"))
    assert answered({"a": wrong, "b": Host(Reply(Answer(400, b"{}"), "5"))})[1] == "a=4"
    assert answered({"a": predicts(1.0, version="3"), "b": wrong})[1] == "a=3,b=4"
    answer = TestClient(Web({"a": wrong})).post("/both/invocations", content=CALL.body)
    assert (answer.status_code, answer.headers["x-sluice-version"]) == (400, "a=4")


def test_predictions_that_do_not_go_together_are_the_ensembles_fault() -> None:
    answer, _ = answered({"a": predicts(1.0), "b": predicts(1.0, 2.0)})
    assert answer.status == 500
    assert b"id-7" in answer.body
    assert b"rows" not in answer.body


@pytest.mark.parametrize(
    "combine", ["builtins:len", "tests.unit.test_ensemble:an_array", "tests.unit.test_ensemble:nan"]
)
def test_what_a_function_of_yours_returns(combine: str) -> None:
    answer, _ = answered({"a": predicts(1.0), "b": predicts(3.0)}, combine)
    assert answer.status == (200 if combine.endswith("array") else 500)
    assert combine.endswith("array") == (answer.body == b'{"predictions": [1.0, 3.0]}')


def test_large_answers_are_combined_in_a_thread_and_are_the_same() -> None:
    values = [0.5] * COMBINED_AT_ONCE_BYTES
    answer, _ = answered({"a": predicts(*values), "b": predicts(*values)})
    assert json.loads(answer.body) == {"predictions": values}


def test_one_that_was_told_nothing_yet_says_so() -> None:
    empty = Ensemble(Front(lambda _: Host(WRONG)), combining("mean"), {}, Counts(), ours=True)
    answer, _ = asyncio.run(empty.answer(CALL))
    assert answer.status == 503


def an_array(predictions: Mapping[str, Any], _: Mapping[str, Any]) -> Any:
    import numpy as np

    return np.concatenate([np.array(each) for each in predictions.values()])


def nan(_predictions: Mapping[str, Any], _: Mapping[str, Any]) -> float:
    return float("nan")


# --- the door -----------------------------------------------------------------------------------------------------


class Web:
    """The door as an ASGI application, with the request id that Serve's proxy gives."""

    def __init__(
        self, hosts: Mapping[str, Host], combine: str = "mean", *, exposed: bool = False, needed: int | None = None
    ) -> None:
        self.refused = 0
        self.gate = Gate(exposed=exposed)
        tensors = Tensors("both", combine)
        both = ensemble(hosts, combine, tensors=tensors, needed=needed)
        self.door = FrontDoor("both", both, tensors, self.gate, self.refuse)

    def refuse(self) -> None:
        self.refused += 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        response = await self.door(Request(scope, receive, send), "/both")
        await response(scope, receive, send)


def test_http_in_and_out() -> None:
    host = predicts(1.0, version="3")
    headers = {"content-type": "application/json", "x-request-id": "mine", "x-user": "u1", "authorization": "secret"}
    answer = TestClient(Web({"a": host})).post("/both/invocations", content=CALL.body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [1.0]})
    assert answer.headers["x-sluice-version"] == "a=3"
    (call,) = host.asked
    assert (call.body, call.content_type, call.request_id) == (CALL.body, "application/json", "mine")
    assert call.headers["x-user"] == "u1"
    assert "secret" not in str(call.headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/both/ping", 200),
        ("GET", "/both/health", 200),
        ("POST", "/both/ping", 405),
        ("GET", "/both/invocations", 405),
        ("POST", "/both/nothing", 404),
        ("POST", "/both/v2/models/a/infer", 404),
    ],
)
def test_what_there_is_below_the_route(method: str, path: str, status: int) -> None:
    web = Web({"a": predicts(1.0)})
    answer = TestClient(web).request(method, path)
    assert answer.status_code == status
    assert web.refused == (status != 200)
    assert ("allow" in answer.headers) == (status == 405)


def test_where_others_reach_it_somebody_must_have_said_who_may_call() -> None:
    host = predicts(1.0)
    web = TestClient(Web({"a": host}, exposed=True))
    assert [web.get("/both/ping").status_code, web.get("/both/version").status_code] == [200, 403]
    assert web.post("/both/invocations", content=CALL.body).status_code == 403
    assert host.asked == []


def test_a_body_above_the_limit_is_refused_before_anybody_is_asked() -> None:
    host = predicts(1.0)
    answer = TestClient(Web({"a": host})).post("/both/invocations", content=b"0" * (BODY_LIMIT_BYTES + 1))
    assert answer.status_code == 413
    assert host.asked == []


def test_headers_that_are_passed_on_are_few_and_short() -> None:
    many = [(f"X-{n}", "v") for n in range(100)]
    assert len(passed_on(many)) == 32
    assert passed_on(
        [("X-Long", "v" * 1000), ("X-Sluice-Force-Version", "3"), ("x-sluice-copy", "1"), ("Accept", "a")]
    ) == {"accept": "a"}
