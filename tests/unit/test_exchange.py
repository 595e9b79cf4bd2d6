"""What doors do with bodies and errors: limits of size and time, nothing that is packed, and one shape for each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request

from serving_runtime.exchange import CLIENT_GONE, read_body, spoken
from serving_runtime.protocol import JSON, Answer, CallKind, error_answer

LIMIT_BYTES = 10


def read(messages: list[dict[str, Any]], headers: dict[str, str] | None = None, **limits: Any) -> bytes | Answer:
    """Of a client that sends these, and then nothing."""
    left = list(messages)

    async def receive() -> Any:
        return left.pop(0) if left else await asyncio.Event().wait()

    named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": named}, receive)
    return asyncio.run(read_body(request, LIMIT_BYTES, **limits))


def part(body: bytes, more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


def test_a_body_is_its_parts() -> None:
    assert read([part(b"abc")]) == b"abc"
    assert read([part(b"abc", True), part(b"", True), part(b"def")]) == b"abcdef"


@pytest.mark.parametrize(
    ("messages", "headers"),
    [([part(b"0" * 11)], {}), ([part(b"0" * 6, True), part(b"0" * 6, True)], {}), ([], {"content-length": "11"})],
)
def test_one_above_the_limit_is_413(messages: Any, headers: Any) -> None:
    answer = read(messages, headers)
    assert isinstance(answer, Answer)
    assert answer.status == 413


def test_one_that_does_not_come_to_its_end_in_time_is_408_and_its_connection_is_closed() -> None:
    answer = read([part(b"abc", True)], within_s=0.01)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers) == (408, (("connection", "close"),))
    assert json.loads(answer.body)["message"] == "The request body did not arrive within 0.01 s."


def test_a_client_that_goes_is_nobody_to_answer() -> None:
    answer = read([part(b"abc", True), {"type": "http.disconnect"}])
    assert isinstance(answer, Answer)
    assert answer.status == CLIENT_GONE


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "zstd", "identity, gzip", "\x1f" * 500])
def test_what_is_packed_is_415_and_not_read(encoding: str) -> None:
    answer = read([], {"content-encoding": encoding})
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers) == (415, (("accept-encoding", "identity"),))
    message = json.loads(answer.body)["message"]
    assert message.startswith("content-encoding")
    assert len(message) < 300


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
def test_what_is_not_packed_is_read(encoding: str) -> None:
    assert read([part(b"abc")], {"content-encoding": encoding}) == b"abc"


def test_an_error_in_plain_text_becomes_one_of_the_protocol() -> None:
    plain = Answer(415, b"Only JSON\xff.", "text/plain", (("x-a", "b"),))
    told = {kind: spoken(plain, kind) for kind in CallKind}
    assert {(each.status, each.content_type, each.headers) for each in told.values()} == {(415, JSON, plain.headers)}
    assert json.loads(told[CallKind.INVOCATIONS].body) == {"error_code": "BAD_REQUEST", "message": "Only JSON\ufffd."}
    assert json.loads(told[CallKind.INFER].body) == {"error": "Only JSON\ufffd."}


def test_an_error_in_json_keeps_its_words_and_a_good_answer_everything() -> None:
    wrong, good = error_answer(400, "BAD_REQUEST", "No."), Answer(200, b"1\n", "text/plain")
    assert spoken(wrong, CallKind.INVOCATIONS) == wrong
    assert json.loads(spoken(wrong, CallKind.INFER).body) == {"error": "No."}
    assert [spoken(good, kind) for kind in CallKind] == [good, good]
