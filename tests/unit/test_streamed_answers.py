"""Streams from a model to its user: through the door, the host and a candidate, broken and left alone."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from serving_runtime.door import VERSION_HEADER
from serving_runtime.event_stream import EVENT_STREAM
from serving_runtime.events import VersionEvent
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.model_server import ModelServer
from serving_runtime.outcomes import Outcome, Served, UserOutcome
from serving_runtime.user_config import parse_user_config
from tests.conditions import turns, wait_until
from tests.fakes.replica import NAMED, VERSION, Replica, replica
from tests.fakes.signed_model import signed_model

WAIT_S = 20.0  # never reached when all is well
ASKS = {"messages": [{"role": "user", "content": "hi"}]}
SSE = {"accept": EVENT_STREAM}
STABLE, CANDIDATE = Served(VERSION, "0" * 8), Served(VERSION + 1, "1" * 8)


def words(_data: Any) -> Iterator[str]:
    yield "one"
    yield "two"


def others(_data: Any) -> Iterator[str]:
    yield "other"


def breaks(_data: Any) -> Iterator[str]:
    yield "one"
    raise ValueError("a secret of the model")


def fails(_data: Any) -> Iterator[str]:
    raise ValueError("a secret of the model")
    yield


def server(stream: Callable[..., Any]) -> ModelServer:
    return ModelServer(signed_model(lambda data: data, None, stream), lambda _ms: None, named=NAMED)


def serving(
    stream: Callable[..., Any],
    candidate: Callable[..., Any] | None = None,
    *,
    timeout_s: float = WAIT_S,
    forced_version: Any = None,
    **split: Any,
) -> Replica:
    other = server(candidate) if candidate else None
    own = replica(server(stream), lambda _application: other)  # type: ignore[arg-type,return-value]
    about = {"application": "c", "version": CANDIDATE.version, "build": CANDIDATE.build, "timeout_s": 5.0}
    terms = {**about, "weight_percent": 100, "shadow": False, "max_ongoing": 4, **split} if candidate else None
    told = {"revision": 1, "model": "fraud", "version": VERSION, "build": STABLE.build, "request_timeout_s": timeout_s}
    assert own.host.configure(parse_user_config({**told, "split": terms, "forced_version": forced_version}))
    return own


def counted(own: Replica) -> dict[tuple[Served, Outcome], int]:
    return {
        (event.served, event.outcome): number
        for event, number in own.counts.events.items()
        if isinstance(event, VersionEvent) and number
    }


async def asked(own: Replica) -> str:
    """The events that a client gets, on a loop that outlives it: what is asked after its answer has the time for it."""
    transport = httpx.ASGITransport(own)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return (await client.post("/invocations", json=ASKS, headers=SSE)).text


def test_a_stream_is_server_sent_events_with_the_version_that_gives_them() -> None:
    own = serving(words)
    answer = TestClient(own).post("/invocations", json=ASKS, headers=SSE)
    assert answer.content == b'data: "one"\n\ndata: "two"\n\ndata: [DONE]\n\n'
    assert answer.headers["content-type"].startswith(EVENT_STREAM)
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers[VERSION_HEADER] == str(VERSION)
    assert own.counts.answers == Counter({UserOutcome.OK: 1})
    assert counted(own) == {(STABLE, Outcome.GOOD): 1}


def test_who_does_not_ask_for_a_stream_gets_none() -> None:
    answer = TestClient(serving(words)).post("/invocations", json=ASKS)
    assert answer.headers["content-type"] == "application/json"


def test_what_does_not_fit_is_400_before_anything_streams() -> None:
    answer = TestClient(serving(words)).post("/invocations", content=b"{", headers={**SSE, "content-type": "text/csv"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")


def test_a_stream_that_breaks_ends_with_an_error_and_counts_once_as_bad() -> None:
    own = serving(breaks)
    answer = TestClient(own).post("/invocations", json=ASKS, headers={**SSE, "x-request-id": "r-9"})
    first, last = answer.text.split("\n\n")[:2]
    assert first == 'data: "one"'
    assert last.startswith("event: error\ndata: ")
    assert "r-9" in last
    assert "secret" not in answer.text
    assert "[DONE]" not in answer.text
    assert own.counts.answers == Counter({UserOutcome.ERROR: 1})
    assert counted(own) == {(STABLE, Outcome.BAD): 1}


def test_a_stream_that_stops_moving_ends_with_an_error_and_counts_as_bad() -> None:
    gate = threading.Event()

    def hangs(_data: Any) -> Iterator[str]:
        yield "one"
        gate.wait(WAIT_S)

    own = serving(hangs, timeout_s=0.3)
    answer = TestClient(own).post("/invocations", json=ASKS, headers=SSE)
    gate.set()
    assert "event: error" in answer.text
    assert "TIMEOUT" in answer.text
    assert counted(own) == {(STABLE, Outcome.BAD): 1}


def test_a_candidate_streams_for_its_share() -> None:
    own = serving(words, others)
    answer = TestClient(own).post("/invocations", json=ASKS, headers=SSE)
    assert answer.content == b'data: "other"\n\ndata: [DONE]\n\n'
    assert answer.headers[VERSION_HEADER] == str(CANDIDATE.version)
    assert counted(own) == {(CANDIDATE, Outcome.GOOD): 1}


def test_stable_streams_in_place_of_a_candidate_that_fails_before_its_first_event() -> None:
    own = serving(words, fails)
    answer = TestClient(own).post("/invocations", json=ASKS, headers=SSE)
    assert answer.content == b'data: "one"\n\ndata: "two"\n\ndata: [DONE]\n\n'
    assert answer.headers[VERSION_HEADER] == str(VERSION)
    assert own.counts.answers == Counter({UserOutcome.FALLBACK: 1})
    assert counted(own) == {(CANDIDATE, Outcome.RESCUED): 1}


@pytest.mark.parametrize(("stable", "outcome"), [(words, Outcome.RESCUED), (breaks, Outcome.BAD), (fails, Outcome.BAD)])
def test_a_candidate_that_breaks_later_counts_once_and_stable_is_asked_too(
    stable: Callable[..., Any], outcome: Outcome
) -> None:
    async def story() -> None:
        own = serving(stable, breaks)
        assert "event: error" in await asked(own)
        await asyncio.to_thread(wait_until, lambda: bool(counted(own)), WAIT_S, "the count")
        assert counted(own) == {(CANDIDATE, outcome): 1}
        assert own.counts.answers == Counter({UserOutcome.ERROR: 1})

    asyncio.run(story())


def test_a_candidate_whose_streams_break_is_stopped_by_the_guard() -> None:
    async def story() -> None:
        own = serving(words, breaks, guard={"allowed": 0.01, "alpha": 0.001})
        seen = [await asked(own)]
        while "event: error" in seen[-1]:
            await asyncio.to_thread(wait_until, lambda: sum(counted(own).values()) == len(seen), WAIT_S, "the count")
            seen.append(await asked(own))
        assert own.host.tripped is not None
        assert own.host.tripped[0] == CANDIDATE
        assert len(seen) <= 6

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


def test_a_forced_stream_is_no_evidence_and_its_user_counts_once() -> None:
    own = serving(words, breaks, forced_version={"to": "anyone"})
    answer = TestClient(own).post("/invocations", json=ASKS, headers={**SSE, FORCE_HEADER: str(CANDIDATE.version)})
    assert "event: error" in answer.text
    assert counted(own) == {}
    assert own.counts.answers == Counter({UserOutcome.ERROR: 1})


@pytest.mark.parametrize("read", [1, 3])
def test_a_client_that_goes_away_ends_the_models_generator(read: int) -> None:
    ended = threading.Event()

    def endless(_data: Any) -> Iterator[str]:
        try:
            while True:
                yield "more"
        finally:
            ended.set()

    async def story() -> None:
        own, gone, sent = serving(endless), asyncio.Event(), []
        body = [{"type": "http.request", "body": b'{"messages": []}', "more_body": False}]

        async def receive() -> dict[str, Any]:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if sum(m["type"] == "http.response.body" for m in sent) >= read:
                gone.set()
                await turns()

        headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers, "query_string": b""}
        await own(scope, receive, send)
        assert await asyncio.to_thread(ended.wait, WAIT_S)
        assert own.counts.answers == Counter({UserOutcome.OK: 1})

    asyncio.run(asyncio.wait_for(story(), WAIT_S))
