"""Bodies on their way: limits of size and time, nothing that is packed, and the oldest slow one gives way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from serving_runtime.arrivals import CLIENT_GONE, Arrivals
from serving_runtime.protocol import Answer
from tests.conditions import wait_until

LIMIT_BYTES = 10
WAIT_S = 20.0  # never reached when all is well


def part(body: bytes, more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


class Client:
    """Sends what it is told to, and then nothing."""

    def __init__(self, *messages: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for message in messages:
            self.send(message)
        named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": named}
        self.request = Request(scope, self._messages.get)

    def send(self, message: dict[str, Any]) -> None:
        self._messages.put_nowait(message)


def read(messages: list[dict[str, Any]], headers: dict[str, str] | None = None, **limits: Any) -> bytes | Answer:
    async def story() -> bytes | Answer:
        return await Arrivals(**limits).read(Client(*messages, headers=headers).request, 1, LIMIT_BYTES)

    return asyncio.run(asyncio.wait_for(story(), WAIT_S))


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), WAIT_S))  # type: ignore[arg-type]


async def so_many_slow(arrivals: Arrivals, number: int) -> None:
    await asyncio.to_thread(wait_until, lambda: arrivals.slow == number, WAIT_S, f"{number} slow bodies")


def said(answer: object) -> str:
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers) == (408, (("connection", "close"),))
    return str(json.loads(answer.body)["message"])


def test_a_body_is_its_parts() -> None:
    assert read([part(b"abc")]) == b"abc"
    assert read([part(b"abc", True), part(b"", True), part(b"def")]) == b"abcdef"


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([part(b"0" * 11)], {}),
        ([part(b"0" * 6, True), part(b"0" * 6, True)], {}),
        ([], {"content-length": "11"}),
        ([], {"content-length": "9" * 5000}),
    ],
    ids=["one part", "two parts", "as declared", "as declared in thousands of digits"],
)
def test_one_above_the_limit_is_413(messages: Any, headers: Any) -> None:
    answer = read(messages, headers)
    assert isinstance(answer, Answer)
    assert answer.status == 413


def test_one_that_does_not_come_to_its_end_in_time_is_408_and_its_connection_is_closed() -> None:
    answer = read([part(b"abc", True)], slow_after_s=0.001, within_s=0.01)
    assert said(answer) == "The request body did not arrive within 0.01 s."


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


def test_of_the_slow_ones_the_oldest_gives_way_and_the_others_arrive() -> None:
    async def story() -> None:
        arrivals, reading, clients = Arrivals(slow_after_s=0.01), [], []
        for number in range(3):
            clients.append(Client(part(b"a", True)))
            reading.append(asyncio.create_task(arrivals.read(clients[-1].request, 2)))
            await so_many_slow(arrivals, min(number + 1, 2))
        assert "was not here after" in said(await reading[0])
        for client in clients:
            client.send(part(b"b"))
        assert [await each for each in reading[1:]] == [b"ab", b"ab"]
        assert arrivals.slow == 0

    run(story)


def test_what_arrives_in_time_gives_way_to_nobody() -> None:
    async def story() -> None:
        arrivals = Arrivals(slow_after_s=WAIT_S)
        clients = [Client(part(b"a", True)) for _ in range(9)]
        reading = [asyncio.create_task(arrivals.read(client.request, 1)) for client in clients]
        for client in clients:
            client.send(part(b"b"))
        assert await asyncio.gather(*reading) == [b"ab"] * 9

    run(story)


def test_slow_ones_hold_so_many_bytes_and_no_more() -> None:
    async def story() -> None:
        arrivals = Arrivals(slow_after_s=0.01, slow_limit_bytes=10)
        first, second = Client(part(b"0" * 4, True)), Client(part(b"0" * 4, True))
        reading = [asyncio.create_task(arrivals.read(client.request, 9)) for client in (first, second)]
        await so_many_slow(arrivals, 2)
        second.send(part(b"0" * 4, True))
        assert "was not here after" in said(await reading[0])
        second.send(part(b"0" * 2))
        assert await reading[1] == b"0" * 10
        assert arrivals.slow == 0

    run(story)


def test_a_slow_one_whose_client_goes_leaves_nothing_behind() -> None:
    async def story() -> None:
        arrivals = Arrivals(slow_after_s=0.01, slow_limit_bytes=10)
        for _ in range(3):
            reading = asyncio.create_task(arrivals.read(Client(part(b"0" * 8, True)).request, 1))
            await so_many_slow(arrivals, 1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert arrivals.slow == 0
        assert await arrivals.read(Client(part(b"abc")).request, 1) == b"abc"

    run(story)
