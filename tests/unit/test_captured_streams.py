"""Streamed answers in captured traffic: what is kept of them, how they ended, and that memory stays bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.serving import Capture
from serving_runtime.capture import LARGEST_BYTES, REQUEST_BYTES, Recorded, Recorder
from serving_runtime.capture_batches import Origin
from serving_runtime.captured_rows import Captured, Layout
from serving_runtime.event_stream import DONE, EVENT_STREAM, event_of
from serving_runtime.outcomes import CaptureOutcome, Ending
from serving_runtime.protocol import Answer, Call, Scored, model_fault
from serving_runtime.redaction import Redaction
from tests.fakes.object_store import MemoryStore

INPUTS = [{"type": "string", "name": "prompt", "required": True}]
LAYOUT = Layout("0a1b2c3d", INPUTS, None, {"plan": "free"})
CALL = Call(b'{"dataframe_records": [{"prompt": "hi"}]}', "application/json", "id-1")
ALL = Capture(share=1.0, to="s3://captured/here", rows_per_file=100, every=timedelta(minutes=1))


class Streams:
    """A model server whose answer is the head and these items; an exception is raised in its place."""

    def __init__(self, *items: Answer | bytes | Exception, head: bytes = event_of("one")) -> None:
        self._items, self._head = items, head

    async def scored(self, _call: Call) -> Scored:
        answer = Answer(200, self._head, EVENT_STREAM, rest=self._rest())
        return Scored(answer, features=({"plan": "gold"},))

    async def _rest(self) -> AsyncGenerator[bytes | Answer, None]:
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            yield item


class World:
    """A recorder, and what it has written."""

    def __init__(self, folder: Path, **bounds: Any) -> None:
        self.store = MemoryStore()
        origin = Origin("fraud", 3, "0a1b2c3d", "r1")
        self.recorder = Recorder(
            origin, LAYOUT, folder, open_store=lambda _to: self.store, clock=lambda: 0.0, threads=False, **bounds
        )
        self.recorder.configure(ALL)

    def read(self, own: Streams, *, items: int | None = None, call: Call = CALL) -> list[bytes | Answer]:
        """What a reader of so many items after the head gets (none: of all); an exception of the way ends it."""

        async def story() -> list[bytes | Answer]:
            answer = await Recorded(own, self.recorder).answer(call)
            assert answer.rest is not None
            got: list[bytes | Answer] = [answer.body]
            try:
                while len(got) != (None if items is None else items + 1):
                    got.append(await anext(answer.rest))
            except (StopAsyncIteration, ConnectionError):
                pass  # its end, which the rows tell
            await answer.rest.aclose()
            return got

        return asyncio.run(story())

    def rows(self) -> list[dict[str, Any]]:
        self.recorder.step()
        self.recorder.configure(None)
        self.recorder.step()
        (content,) = self.store.files.values()
        found: list[dict[str, Any]] = pq.read_table(pa.BufferReader(content)).to_pylist()
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def told(world: World) -> tuple[Any, ...]:
    (row,) = world.rows()
    return json.loads(row["answer"]), row["ending"], row["cut"]


def test_a_stream_is_one_row_with_its_request_its_chunks_and_its_features(world: World) -> None:
    got = world.read(Streams(event_of("two"), event_of("three"), DONE))
    assert got == [event_of("one"), event_of("two"), event_of("three"), DONE]
    (row,) = world.rows()
    assert (row["input.prompt"], row["feature.plan"], row["status"]) == ("hi", "gold", 200)
    assert (json.loads(row["answer"]), row["ending"], row["cut"]) == ("onetwothree", "whole", False)
    assert row["prediction"] is None


def test_chunks_that_are_no_texts_are_a_list(world: World) -> None:
    world.read(Streams(event_of({"delta": "two", "password": "x"}), DONE))
    assert told(world) == (["one", {"delta": "two", "password": None}], "whole", False)


@pytest.mark.parametrize(
    ("items", "read", "ending"),
    [
        ((event_of("two"), model_fault("id-1")), None, Ending.BROKE),
        ((event_of("two"), ConnectionError("gone")), None, Ending.LOST),
        ((event_of("two"), event_of("three"), DONE), 1, Ending.LEFT),
        ((event_of("two"), DONE), 2, Ending.WHOLE),
    ],
)
def test_the_row_says_how_it_ended(
    world: World, items: Sequence[Answer | bytes | Exception], read: int | None, ending: Ending
) -> None:
    world.read(Streams(*items), items=read)
    assert told(world) == ("onetwo", ending, False)


def test_a_stream_of_nothing_is_whole(world: World) -> None:
    world.read(Streams(head=DONE))
    assert told(world) == ([], "whole", False)


def test_of_a_long_stream_whole_events_are_kept_and_the_row_says_that_it_was_cut(world: World) -> None:
    long = event_of("x" * (LARGEST_BYTES // 2))
    got = world.read(Streams(long, long, event_of("short"), DONE))
    assert len(got) == 5
    answer, ending, cut = told(world)
    assert (answer, ending, cut) == ("one" + "x" * (LARGEST_BYTES // 2), "whole", True)
    assert world.recorder.take_counts() == {CaptureOutcome.TAKEN: 1, CaptureOutcome.WRITTEN: 1}


def test_what_is_kept_of_open_streams_is_in_the_memory_and_given_back(tmp_path: Path) -> None:
    part = event_of("x" * REQUEST_BYTES)
    world = World(tmp_path, memory_limit_bytes=4 * len(part))

    async def story() -> None:
        open_ = []
        for _ in range(3):
            answer = await Recorded(Streams(part, DONE, head=part), world.recorder).answer(CALL)
            assert answer.rest is not None
            await anext(answer.rest)
            open_.append(answer.rest)
        assert world.recorder.held_bytes == 4 * len(part)  # of six
        for rest in open_:
            await rest.aclose()

    asyncio.run(story())
    world.recorder.step()
    world.recorder.configure(None)
    world.recorder.step()
    counts = world.recorder.take_counts()
    assert counts[CaptureOutcome.TAKEN] == 3
    assert counts[CaptureOutcome.WRITTEN] + counts[CaptureOutcome.DROPPED_MEMORY] == 3
    assert counts[CaptureOutcome.WRITTEN] >= 1
    assert world.recorder.held_bytes == 0


def test_a_stream_that_nobody_reads_is_not_captured_and_holds_nothing(world: World) -> None:
    world.read(Streams(event_of("two"), DONE), items=0)
    assert world.recorder.take_counts() == {}
    assert world.recorder.held_bytes == 0


def test_a_copy_that_was_answered_whole_is_a_row_like_that_of_its_stream(world: World) -> None:
    class Whole:
        async def scored(self, _call: Call) -> Scored:
            return Scored(Answer(200, event_of("one") + event_of("two") + DONE, EVENT_STREAM))

    asyncio.run(Recorded(Whole(), world.recorder).answer(CALL))
    assert told(world) == ("onetwo", "whole", False)


def test_a_hidden_prediction_hides_the_stream_and_a_credential_the_text() -> None:
    outputs = [{"type": "string", "name": "iban", "required": True}]
    streamed = Captured("id", 0.0, CALL.body, JSON, 200, event_of("a") + DONE, 1.0, ending=Ending.WHOLE)
    hidden = Layout("0a1b2c3d", INPUTS, outputs).rows(streamed, Redaction())
    assert hidden["answer"] == [None]
    pieces = b"".join(map(event_of, ("use ghp_0123456789", "abcdef0123456789 now")))
    spoken = Captured("id", 0.0, CALL.body, JSON, 200, pieces, 1.0, ending=Ending.WHOLE)
    assert LAYOUT.rows(spoken, Redaction())["answer"] == ["null"]


JSON = "application/json"
