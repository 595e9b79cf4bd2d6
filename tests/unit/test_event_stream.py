"""Answers of models that stream: events as they come, faults before and after the first, generators that end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from serving_runtime.event_stream import CHUNKS_AHEAD, DONE, EVENT_STREAM, Streamer, asked_for_events, error_event
from serving_runtime.model_server import ModelServer
from serving_runtime.protocol import COPY_HEADER, Answer, Call, model_fault
from tests.conditions import wait_until
from tests.fakes.signed_model import signed_model

WAIT_S = 20.0  # never reached when all is well
ASKS = Call(b'{"messages": [{"role": "user", "content": "hi"}]}', "application/json", "r-1")


def server(stream: Callable[..., Any], took: Callable[[float], None] = lambda _ms: None) -> ModelServer:
    return ModelServer(signed_model(lambda data: data, None, stream), took)


def streamer(own: ModelServer) -> Streamer:
    assert own._streamer is not None
    return own._streamer


async def everything(own: ModelServer, call: Call = ASKS) -> list[Answer | bytes]:
    return [item async for item in streamer(own).stream(call)]


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), WAIT_S))  # type: ignore[arg-type]


def test_chunks_are_events_and_the_first_has_the_status() -> None:
    def words(data: Any) -> Iterator[Any]:
        yield data["messages"][0]["content"]
        yield {"score": np.float32(0.5), "line": "a\nb"}
        yield np.array([1, 2])

    async def story() -> None:
        assert await everything(server(words)) == [
            Answer(200, b'data: "hi"\n\n', EVENT_STREAM),
            b'data: {"score": 0.5, "line": "a\\nb"}\n\n',
            b"data: [1, 2]\n\n",
            DONE,
        ]

    run(story)


def test_a_stream_of_nothing_is_done() -> None:
    async def story() -> None:
        assert await everything(server(lambda _data: iter(()))) == [Answer(200, DONE, EVENT_STREAM)]

    run(story)


def test_a_model_that_fails_at_once_is_500_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_data: Any) -> Iterator[Any]:
        raise ValueError("a secret of the model")
        yield

    async def story() -> None:
        assert await everything(server(fails)) == [model_fault("r-1")]

    run(story)
    assert "a secret of the model" in caplog.text


def test_a_model_that_fails_later_breaks_its_stream() -> None:
    def fails(_data: Any) -> Iterator[Any]:
        yield 1
        raise ValueError("a secret of the model")

    async def story() -> None:
        assert await everything(server(fails)) == [Answer(200, b"data: 1\n\n", EVENT_STREAM), model_fault("r-1")]

    run(story)


def test_a_chunk_that_json_cannot_hold_breaks_its_stream() -> None:
    async def story() -> None:
        assert await everything(server(lambda _data: iter((1, object())))) == [
            Answer(200, b"data: 1\n\n", EVENT_STREAM),
            model_fault("r-1"),
        ]

    run(story)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"{", "application/json"), (b"{}", "application/json"), (b"a\n1", "text/csv"), (b"{}", None)],
)
def test_a_bad_request_is_400_before_the_model_is_asked(body: bytes, content_type: str | None) -> None:
    def never(_data: Any) -> Iterator[Any]:
        raise AssertionError

    async def story() -> None:
        (answer,) = await everything(server(never), Call(body, content_type, "r-2"))
        assert isinstance(answer, Answer)
        assert answer.status == 400

    run(story)


def test_the_generator_stays_in_one_thread_and_is_closed_there() -> None:
    threads: list[int] = []

    def notes(_data: Any) -> Iterator[int]:
        try:
            for at in range(100):
                threads.append(threading.get_ident())
                yield at
        finally:
            threads.append(threading.get_ident())

    async def story() -> None:
        async with aclosing(streamer(server(notes)).stream(ASKS)) as items:
            assert await anext(items)
            assert await anext(items)
        await asyncio.to_thread(wait_until, lambda: len(threads) > 2, WAIT_S, "the generator's end")

    run(story)
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_whoever_stops_reading_ends_the_generator_which_is_never_far_ahead() -> None:
    made: list[int] = []
    ended = threading.Event()

    def endless(_data: Any) -> Iterator[int]:
        try:
            while True:
                made.append(1)
                yield len(made)
        finally:
            ended.set()

    async def story() -> None:
        async with aclosing(streamer(server(endless)).stream(ASKS)) as items:
            await anext(items)
            await asyncio.to_thread(wait_until, lambda: len(made) > CHUNKS_AHEAD, WAIT_S, "the model to be ahead")
        assert await asyncio.to_thread(ended.wait, WAIT_S)
        assert len(made) <= CHUNKS_AHEAD + 3

    run(story)


EVENTS = Call(ASKS.body, ASKS.content_type, "r-1", headers={"accept": EVENT_STREAM})


def test_an_answer_that_streams_is_its_head_and_its_latency_that_of_the_first_event() -> None:
    took: list[float] = []
    gate = threading.Event()

    def slow_later(_data: Any) -> Iterator[int]:
        yield 1
        assert gate.wait(WAIT_S)
        yield 2

    async def story() -> None:
        head = await server(slow_later, took.append).answer(EVENTS)
        assert head[:3] == (200, b"data: 1\n\n", EVENT_STREAM)
        assert head.rest is not None
        assert len(took) == 1
        gate.set()
        assert [item async for item in head.rest] == [b"data: 2\n\n", DONE]

    run(story)


def test_a_copy_of_a_stream_is_answered_whole_and_a_call_for_none_as_ever() -> None:
    async def story() -> None:
        own = server(lambda _data: iter("ab"))
        answer = await own.answer(
            Call(ASKS.body, ASKS.content_type, "r-1", headers={**EVENTS.headers, COPY_HEADER: "1"})
        )
        assert answer == Answer(200, b'data: "a"\n\ndata: "b"\n\n' + DONE, EVENT_STREAM)
        assert (await own.answer(ASKS)).content_type == "application/json"

    run(story)


def test_a_model_that_does_not_stream_answers_as_ever() -> None:
    async def story() -> None:
        own = ModelServer(signed_model(lambda data: data), lambda _ms: None)
        asks = Call(b'{"inputs": [1]}', "application/json", "r", headers=EVENTS.headers)
        assert await own.answer(asks) == Answer(200, b'{"predictions": [1]}')

    run(story)


@pytest.mark.parametrize(
    ("accept", "body", "asked"),
    [
        ("text/event-stream", b"{}", True),
        ("application/json, text/event-stream;q=0.9", b"{}", True),
        ("*/*", b'{"stream": true}', True),
        ("", b'{"stream": false}', False),
        ("", b'{"stream": "true"}', False),
        ("", b'["stream"]', False),
        ("", b'{"stream"', False),
        ("application/json", b"{}", False),
    ],
)
def test_a_stream_is_asked_for_by_accept_or_as_mlflows_agents_do(accept: str, body: bytes, asked: bool) -> None:
    assert asked_for_events(accept, body) == asked


def test_an_error_event_is_one_event() -> None:
    event = error_event(model_fault("r\n-1"))
    assert event.startswith(b"event: error\ndata: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 3
    assert json.loads(event.split(b"data: ", 1)[1])["error_code"] == "INTERNAL_ERROR"


def test_it_says_for_how_long_the_model_has_been_at_a_chunk_also_after_its_stream_was_given_up() -> None:
    gate = threading.Event()

    def hangs(_data: Any) -> Iterator[Any]:
        yield 1
        assert gate.wait(WAIT_S)

    async def story() -> None:
        own = streamer(server(hangs))
        stream = own.stream(ASKS)
        assert await anext(stream) == Answer(200, b"data: 1\n\n", EVENT_STREAM)
        await stream.aclose()
        await asyncio.to_thread(wait_until, lambda: own.computing_s and own.computing_s[0] > 0.05, WAIT_S, "it hangs")
        gate.set()
        await asyncio.to_thread(wait_until, lambda: own.computing_s == (), WAIT_S, "it is back")

    run(story)


def test_a_stream_that_waits_for_its_reader_computes_nothing() -> None:
    async def story() -> None:
        own = streamer(server(lambda _data: iter(range(100))))
        stream = own.stream(ASKS)
        await anext(stream)
        await asyncio.to_thread(wait_until, lambda: own._pumps and own.computing_s == (), WAIT_S, "it waits")
        await stream.aclose()
        await asyncio.to_thread(wait_until, lambda: not own._pumps, WAIT_S, "nothing left")
        assert own.computing_s == ()

    run(story)
