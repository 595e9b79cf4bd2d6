"""Capture: the sample, its bounds, batches and places, a store that is away, a replica that dies."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.errors import Retry, Stalled
from policies.serving import Capture
from serving_runtime import capture_ledger
from serving_runtime.capture import LARGEST_BYTES, Recorded, Recorder
from serving_runtime.capture_batches import PORTION_ROWS, Origin
from serving_runtime.capture_outbox import LONGEST_PAUSE_S
from serving_runtime.captured_rows import Captured, Layout, Role
from serving_runtime.outcomes import CaptureOutcome
from serving_runtime.protocol import Answer, Call, Scored, as_copy
from tests.conditions import wait_until
from tests.fakes.object_store import MemoryStore

T0 = 1_795_921_445.0  # 2026-11-29 03:04:05 UTC
HOUR = "model=fraud/version=3/hour=2026-11-29T03"
INPUTS = [{"type": "double", "name": "x", "required": True}]
OUTPUTS = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]
ALL = Capture(share=1.0, to="s3://captured/here", rows_per_file=3, every=timedelta(minutes=1))
LAYOUT = Layout("0a1b2c3d", INPUTS, OUTPUTS)


class Clock:
    """Monotonic, and moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class World:
    """A recorder whose rounds the test makes itself, and its stores by address."""

    def __init__(self, folder: Path, replica: str = "r1", **bounds: Any) -> None:
        self.clock = Clock()
        self.stores: dict[str, MemoryStore] = {}
        self.totals: dict[CaptureOutcome, int] = {}
        origin = Origin("fraud", 3, "0a1b2c3d", replica)
        self.recorder = Recorder(
            origin, LAYOUT, folder, open_store=self.store, clock=self.clock, threads=False, **bounds
        )

    def store(self, address: str = ALL.to) -> MemoryStore:
        return self.stores.setdefault(address, MemoryStore())

    def offer(self, number: int, at_s: float = T0, **more: Any) -> None:
        request_id = more.pop("request_id", f"id-{number}")
        if self.recorder.wants(request_id):
            self.recorder.offer(captured(number, at_s, request_id, **more))

    def round(self, after_s: float = 0.0) -> None:
        self.clock.now_s += after_s
        self.recorder.step()

    def counts(self) -> dict[CaptureOutcome, int]:
        for outcome, number in self.recorder.take_counts().items():
            self.totals[outcome] = self.totals.get(outcome, 0) + number
        return self.totals


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.recorder.configure(ALL)
    return made


def captured(number: int, at_s: float = T0, request_id: str = "id", padding: int = 0) -> Captured:
    body = json.dumps({"dataframe_records": [{"x": float(number), "padding": "x" * padding}]}).encode()
    return Captured(request_id, at_s, body, "application/json", 200, b'{"predictions": [0.5]}', 1.0)


def rows(store: MemoryStore) -> dict[str, list[float]]:
    """The column `input.x` by file."""
    read = {name: pq.read_table(pa.BufferReader(content)) for name, content in store.files.items()}
    return {name: table["input.x"].to_pylist() for name, table in read.items()}


# --- batches and places ---------------------------------------------------------------------------------------------


def test_a_file_is_written_when_it_is_full_under_its_model_version_and_hour(world: World) -> None:
    for number in range(4):
        world.offer(number)
        world.round()
    assert rows(world.store()) == {f"{HOUR}/r1-000001.parquet": [0.0, 1.0, 2.0]}
    assert world.counts() == {CaptureOutcome.TAKEN: 4, CaptureOutcome.WRITTEN: 3}


def test_a_file_is_written_when_its_first_row_is_old(world: World) -> None:
    world.offer(1)
    world.round()
    world.offer(2)
    world.round(after_s=59.0)
    assert rows(world.store()) == {}
    world.round(after_s=1.0)
    assert rows(world.store()) == {f"{HOUR}/r1-000001.parquet": [1.0, 2.0]}
    world.round(after_s=60.0)
    assert len(world.store().files) == 1


def test_each_hour_has_its_own_file_by_when_requests_arrived(world: World) -> None:
    for number, at_s in enumerate([T0, T0 + 3600, T0, T0 + 3600]):
        world.offer(number, at_s)
    world.round()
    world.round(after_s=60.0)
    assert list(rows(world.store()).values()) == [[0.0, 2.0], [1.0, 3.0]]
    assert sorted(name.split("/")[2] for name in world.store().files) == ["hour=2026-11-29T03", "hour=2026-11-29T04"]


def test_a_file_says_whose_it_is(world: World) -> None:
    for number in range(3):
        world.offer(number)
    world.round()
    (content,) = world.store().files.values()
    metadata = pq.read_schema(pa.BufferReader(content)).metadata
    about = {"model": "fraud", "version": 3, "build": "0a1b2c3d", "schema": 2}
    assert json.loads(metadata[b"sluicegate"]) == about


def test_a_file_is_no_larger_than_its_policy_says_however_many_come_at_once(world: World) -> None:
    for number in range(7):
        world.offer(number)
    world.round()
    assert list(rows(world.store()).values()) == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_many_rows_become_one_file_of_all_their_portions(world: World) -> None:
    world.recorder.configure(Capture(share=1.0, to=ALL.to))
    many = PORTION_ROWS * 2 + 10
    for number in range(many):
        world.offer(number)
    world.round()
    world.round(after_s=300.0)
    assert list(rows(world.store()).values()) == [[float(number) for number in range(many)]]


# --- policies -------------------------------------------------------------------------------------------------------


def test_nothing_is_taken_without_a_policy(world: World) -> None:
    world.recorder.configure(None)
    assert not world.recorder.wants("id-1")
    world.recorder.offer(captured(1))
    world.round()
    assert world.counts() == {}


def test_a_policy_that_ends_writes_what_was_captured_under_it(world: World) -> None:
    world.offer(1)
    world.round()
    world.recorder.configure(None)
    world.round()
    assert rows(world.store()) == {f"{HOUR}/r1-000001.parquet": [1.0]}


def test_another_place_gets_what_is_captured_from_then_on(world: World) -> None:
    world.offer(1)
    world.recorder.configure(Capture(share=1.0, to="file:///else", rows_per_file=1))
    world.offer(2)
    world.round()
    assert list(rows(world.store()).values()) == [[1.0]]
    assert list(rows(world.store("file:///else")).values()) == [[2.0]]


def test_a_field_that_is_excluded_from_now_on_is_null_from_now_on(world: World) -> None:
    world.offer(1)
    world.recorder.configure(Capture(share=1.0, to=ALL.to, exclude=("X",), rows_per_file=2))
    world.offer(2)
    world.round()
    world.round(after_s=60.0)
    assert list(rows(world.store()).values()) == [[1.0, None]]


# --- the sample -----------------------------------------------------------------------------------------------------


def test_every_replica_samples_the_same_requests(tmp_path: Path) -> None:
    worlds = [World(tmp_path, replica) for replica in ("r1", "r2")]
    for each in worlds:
        each.recorder.configure(Capture(share=0.1, to=ALL.to))
    ids = [f"request-{number}" for number in range(5000)]
    first, second = ([name for name in ids if each.recorder.wants(name)] for each in worlds)
    assert first == second
    assert 400 < len(first) < 600


def test_a_larger_share_has_every_request_of_a_smaller_one(world: World) -> None:
    ids = [f"request-{number}" for number in range(2000)]
    samples = []
    for share in (0.05, 0.5, 1.0):
        world.recorder.configure(Capture(share=share, to=ALL.to))
        samples.append({name for name in ids if world.recorder.wants(name)})
    assert samples[0] < samples[1] < samples[2] == set(ids)


def test_an_id_of_any_characters_is_sampled_or_not(world: World) -> None:
    for name in ("", "\udcff", "ü" * 128):
        assert world.recorder.wants(name)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_a_large_request_is_dropped_before_anybody_reads_it(world: World) -> None:
    world.offer(1, padding=LARGEST_BYTES)
    world.round()
    assert world.counts() == {CaptureOutcome.TAKEN: 1, CaptureOutcome.DROPPED_LARGE: 1}


def test_what_comes_faster_than_it_is_read_is_dropped_at_the_limit(tmp_path: Path) -> None:
    world = World(tmp_path, memory_limit_bytes=100_000)
    world.recorder.configure(ALL)
    for number in range(20):
        world.offer(number, padding=9_000)
    counts = world.counts()
    assert counts[CaptureOutcome.TAKEN] == 20
    assert counts[CaptureOutcome.DROPPED_MEMORY] == 11
    world.round()
    world.offer(21)
    assert world.counts()[CaptureOutcome.DROPPED_MEMORY] == 11, "there is room again"


def test_while_the_store_is_away_files_are_kept_up_to_the_limit_and_nothing_is_lost_silently(tmp_path: Path) -> None:
    world = World(tmp_path, memory_limit_bytes=100_000)
    world.recorder.configure(ALL)
    world.store().fails = Retry("away")
    offered = 0
    while CaptureOutcome.DROPPED_STORE not in world.counts():
        offered += 1
        assert offered < 1000
        world.offer(offered)
        world.round(after_s=1.0)
        assert world.recorder.held_bytes <= 100_000
    world.store().fails = None
    world.round(after_s=2 * LONGEST_PAUSE_S)
    counts = world.counts()
    assert counts[CaptureOutcome.TAKEN] == offered
    assert counts[CaptureOutcome.WRITTEN] + counts[CaptureOutcome.DROPPED_STORE] == offered
    assert sum(map(len, rows(world.store()).values())) == counts[CaptureOutcome.WRITTEN]
    assert world.recorder.held_bytes == 0


def test_everything_that_was_held_is_given_back(world: World) -> None:
    for number in range(50):
        world.offer(number)
        world.round(after_s=7.0)
    world.recorder.configure(None)
    world.round()
    assert world.recorder.held_bytes == 0
    assert world.counts() == {CaptureOutcome.TAKEN: 50, CaptureOutcome.WRITTEN: 50}


# --- a store that is away -------------------------------------------------------------------------------------------


def test_a_store_that_fails_is_asked_again_after_pauses_that_grow(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.store().fails = Retry("away")
    for number in range(3):
        world.offer(number)
    tries = []
    for _ in range(300):
        world.round(after_s=1.0)
        tries.append(world.store().puts)
    assert 5 <= tries[-1] <= 12
    assert sum("captured traffic waits" in record.message for record in caplog.records) == 1
    world.store().fails = None
    world.round(after_s=2 * LONGEST_PAUSE_S)
    assert list(rows(world.store()).values()) == [[0.0, 1.0, 2.0]]
    assert world.counts() == {CaptureOutcome.TAKEN: 3, CaptureOutcome.WRITTEN: 3}


def test_what_a_person_must_mend_is_said_and_tried_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.store().fails = Stalled("bucket captured: AccessDenied")
    for number in range(3):
        world.offer(number)
    world.round()
    assert "AccessDenied" in caplog.text
    world.store().fails = None
    world.round(after_s=60.0)
    assert "written again" in caplog.text
    assert world.counts()[CaptureOutcome.WRITTEN] == 3


def test_a_place_that_cannot_be_opened_is_counted_and_capture_goes_on(tmp_path: Path) -> None:
    def refuse(address: str) -> MemoryStore:
        raise OSError(address)

    recorder = Recorder(Origin("fraud", 3, "b", "r1"), LAYOUT, tmp_path, open_store=refuse, threads=False)
    recorder.configure(ALL)
    for number in range(3):
        recorder.offer(captured(number))
    recorder.step()
    assert recorder.take_counts() == {CaptureOutcome.TAKEN: 3, CaptureOutcome.DROPPED_FAULT: 3}
    assert recorder.held_bytes == 0


# --- its own thread, and the end ------------------------------------------------------------------------------------


def started(folder: Path, store: MemoryStore, **bounds: Any) -> Recorder:
    recorder = Recorder(Origin("fraud", 3, "b", "r1"), LAYOUT, folder, open_store=lambda _: store, **bounds)
    recorder.configure(ALL)
    return recorder


def test_a_shutdown_writes_what_is_open_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store = MemoryStore()
    recorder = started(tmp_path, store)
    for number in range(2):
        recorder.offer(captured(number))
    recorder.close()
    recorder.offer(captured(3))
    assert list(rows(store).values()) == [[0.0, 1.0]]
    assert recorder.take_counts() == {CaptureOutcome.TAKEN: 2, CaptureOutcome.WRITTEN: 2}
    assert list(tmp_path.iterdir()) == []
    assert "capture" not in [thread.name for thread in threading.enumerate()]


def test_a_shutdown_while_the_store_is_away_counts_and_says_what_it_drops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    store.fails = Retry("away")
    recorder = started(tmp_path, store)
    recorder.offer(captured(1))
    recorder.close()
    assert recorder.take_counts() == {CaptureOutcome.TAKEN: 1, CaptureOutcome.DROPPED_STORE: 1}
    assert "1 captured requests (1 rows) are lost" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_hangs_holds_neither_an_offer_nor_the_shutdown_for_long(tmp_path: Path) -> None:
    store = MemoryStore()
    store.gate.clear()
    recorder = started(tmp_path, store, close_s=0.05)
    for number in range(3):
        recorder.offer(captured(number))
    wait_until(lambda: store.puts, 10, "a put hangs")
    recorder.offer(captured(4))
    recorder.close()
    assert recorder.take_counts() == {CaptureOutcome.TAKEN: 4}
    store.gate.set()


# --- a replica that dies --------------------------------------------------------------------------------------------


def test_what_a_dead_replica_had_open_is_said_and_counted_once_by_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = capture_ledger.Ledger.start(tmp_path, "fraud", "r1")
    dead.note(capture_ledger.Open(requests=7, rows=9))
    assert World(tmp_path, "r2").counts() == {}, "it is alive"
    dead.die()
    assert World(tmp_path, "r2").counts() == {CaptureOutcome.LOST: 7}
    assert "replica r1 died with 7 captured requests (9 rows)" in caplog.text
    assert World(tmp_path, "r3").counts() == {}


def test_a_dead_replica_of_another_model_is_left_to_that_model(tmp_path: Path) -> None:
    dead = capture_ledger.Ledger.start(tmp_path, "churn", "r1")
    dead.note(capture_ledger.Open(requests=7))
    dead.die()
    assert World(tmp_path).counts() == {}
    assert capture_ledger.take_losses(tmp_path, "churn") == {"r1": capture_ledger.Open(requests=7)}


def test_the_ledger_has_what_is_open_after_each_round(tmp_path: Path) -> None:
    store = MemoryStore()
    store.fails = Retry("away")
    recorder = started(tmp_path, store)
    ledger = tmp_path / "fraud--r1.open"
    for number in range(4):
        recorder.offer(captured(number))

    def noted() -> Mapping[str, int]:
        text = ledger.read_text() if ledger.exists() else ""
        found: Mapping[str, int] = json.loads(text) if text.strip() else {}
        return found

    wait_until(lambda: noted() == {"requests": 4, "rows": 4}, 10, "four are open")
    store.fails = None
    wait_until(lambda: noted() == {"requests": 1, "rows": 1}, 10, "three are written")
    recorder.close()
    assert not ledger.exists()


def test_a_ledger_that_cannot_be_read_or_kept_is_said_and_capture_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "fraud--r0.open").write_text("nonsense")
    (tmp_path / "file").touch()
    assert World(tmp_path).counts() == {}
    assert "could not be read" in caplog.text
    store = MemoryStore()
    recorder = started(tmp_path / "file", store)
    recorder.offer(captured(1))
    recorder.close()
    assert len(store.files) == 1
    assert "a crash will not say" in caplog.text


# --- where it is called ---------------------------------------------------------------------------------------------


class Own:
    """A model server that answers at once."""

    async def scored(self, call: Call) -> Scored:
        return Scored(Answer(200, b'{"predictions": [1.0]}') if call.body else Answer(400, b"{}"))


def asked(world: World, *calls: Call) -> list[Answer]:
    async def story() -> list[Answer]:
        server = Recorded(Own(), world.recorder)
        return [await server.answer(call) for call in calls]

    return asyncio.run(story())


def test_an_answer_is_captured_with_its_request_and_its_time(world: World) -> None:
    call = Call(b'{"dataframe_records": [{"x": 2.0}]}', "application/json", "id-9")
    copy = as_copy(call)
    assert asked(world, call, copy, Call(b"", None, "id-10")) == [
        Answer(200, b'{"predictions": [1.0]}'), Answer(200, b'{"predictions": [1.0]}'), Answer(400, b"{}"),
    ]  # fmt: skip
    world.round()
    (content,) = world.store().files.values()
    found = pq.read_table(pa.BufferReader(content)).to_pydict()
    assert found["request_id"] == ["id-9", "id-9", "id-10"]
    assert found["role"] == [Role.USER, Role.COPY, Role.USER]
    assert found["status"] == [200, 200, 400]
    assert found["prediction"] == [1.0, 1.0, None]
    assert all(0 <= ms < 1000 for ms in found["latency_ms"])


def test_an_answer_outside_the_sample_is_not(world: World) -> None:
    world.recorder.configure(None)
    asked(world, Call(b"x", "application/json", "id-9"))
    world.round()
    assert world.counts() == {}


def test_a_call_that_gets_no_answer_is_not_captured(world: World) -> None:
    class Hangs:
        async def scored(self, _call: Call) -> Scored:
            await asyncio.Event().wait()
            raise AssertionError

    async def story() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Recorded(Hangs(), world.recorder).answer(Call(b"x", None, "id-1")), 0.01)

    asyncio.run(story())
    assert world.counts() == {}
