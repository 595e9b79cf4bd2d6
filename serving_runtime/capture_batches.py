"""Captured requests -> rows -> files -> the store; the work behind `capture.py`, in one thread that is not the loop's.

Rules:
- A batch belongs to one place and one hour (UTC, by when the request arrived), and becomes a file when it has
  `rows_per_file` rows, when it is `every` old, when the policy names another place, and at the end.
- `model=<slug>/version=<n>/hour=<YYYY-MM-DDTHH>/<replica>-<number>.parquet`; a replica never uses a number twice.
- Every request that comes in leaves counted: written, dropped by the store, or dropped by a fault of this code.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from policies.serving import Capture
from serving_runtime.capture_ledger import Open
from serving_runtime.capture_outbox import File, Outbox, Room
from serving_runtime.captured_rows import Captured, Layout, Rows
from serving_runtime.object_store import ObjectStore
from serving_runtime.outcomes import CaptureOutcome
from serving_runtime.redaction import Redaction

_log = logging.getLogger(__name__)

# Rows become Arrow in portions: as Python values they take four times the memory, and a portion's conversion holds the
# interpreter for well under a millisecond a column.
PORTION_ROWS = 512
CELL_BYTES = 40  # a Python number and the place that points to it
SCHEMA_VERSION = 2  # of the fixed columns
METADATA_KEY = "sluicegate"  # each file says whose it is, for those who get it without its path


@dataclasses.dataclass(frozen=True)
class Plan:
    """A policy in force, read once."""

    capture: Capture
    redaction: Redaction

    @classmethod
    def of(cls, capture: Capture) -> Plan:
        """The plan of a policy."""
        return cls(capture, Redaction(capture.exclude))


@dataclasses.dataclass(frozen=True)
class Origin:
    """Whose traffic it is: these make a file's path."""

    slug: str
    version: int
    build: str
    replica: str


class _Batch:
    """The rows of one file that is still open: portions as Arrow, and the last ones loose, as Python values."""

    def __init__(self, plan: Plan, opened_s: float) -> None:
        self.plan, self.opened_s = plan, opened_s
        self.portions: list[Any] = []
        self.loose: list[Rows] = []
        self.loose_rows = 0
        self.loose_bytes = 0
        self.requests = 0
        self.rows = 0

    @property
    def size_bytes(self) -> int:
        """What it takes in the room."""
        return self.loose_bytes + sum(int(portion.nbytes) for portion in self.portions)

    def is_due(self, now_s: float) -> bool:
        """Is it large or old enough?"""
        capture = self.plan.capture
        return self.rows >= capture.rows_per_file or now_s - self.opened_s >= capture.every.total_seconds()


class Batches:
    """Everything between a request that was taken and its file in the store."""

    def __init__(
        self,
        origin: Origin,
        layout: Layout,
        room: Room,
        count: Callable[[CaptureOutcome, int], None],
        open_store: Callable[[str], ObjectStore],
    ) -> None:
        self._origin, self._layout, self._room, self._count, self._open_store = origin, layout, room, count, open_store
        self._open: dict[tuple[str, str], _Batch] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._files = 0

    @property
    def still_open(self) -> Open:
        """What came in and is not written."""
        parts: list[_Batch | File] = [*self._open.values()]
        parts += [file for outbox in self._outboxes.values() for file in outbox.waiting]
        return Open(sum(part.requests for part in parts), sum(part.rows for part in parts))

    @property
    def store_is_behind(self) -> bool:
        """Does a store not take what waits for it?"""
        return any(outbox.is_behind for outbox in self._outboxes.values())

    # --- what comes in -----------------------------------------------------------------------------------------

    def add(self, captured: Captured, plan: Plan, held_bytes: int, now_s: float) -> None:
        """Split one request into rows. `held_bytes` is what it takes in the room until then. Never raises."""
        try:
            rows = self._layout.rows(captured, plan.redaction)
            hour = datetime.fromtimestamp(captured.at_s, UTC).strftime("%Y-%m-%dT%H")
        except Exception:  # noqa: BLE001 strangers' bytes in code of ours: one request is lost to it, not capture
            _log.exception("request id %s could not be captured", captured.request_id)
            self._room.change(-held_bytes)
            self._count(CaptureOutcome.DROPPED_FAULT, 1)
            return
        batch = self._open.setdefault((plan.capture.to, hour), _Batch(plan, now_s))
        count = len(rows["row"])
        size_bytes = captured.size_bytes + count * len(rows) * CELL_BYTES
        self._room.change(size_bytes - held_bytes)
        batch.loose.append(rows)
        batch.loose_bytes += size_bytes
        batch.requests += 1
        batch.rows += count
        batch.loose_rows += count
        if batch.is_due(now_s):
            self._close(plan.capture.to, hour)
        elif batch.loose_rows >= PORTION_ROWS and not self._convert(batch):
            del self._open[plan.capture.to, hour]

    def _convert(self, batch: _Batch) -> bool:
        """The loose rows as one more portion; False when the batch is lost to a fault of ours."""
        try:
            portion = self._layout.portion(batch.loose)
        except Exception:  # noqa: BLE001 the same
            self._lose(batch)
            return False
        self._room.change(portion.nbytes - batch.loose_bytes)
        batch.portions.append(portion)
        batch.loose, batch.loose_rows, batch.loose_bytes = [], 0, 0
        return True

    def _lose(self, batch: _Batch) -> None:
        _log.exception("%d captured requests could not be written", batch.requests)
        self._room.change(-batch.size_bytes)
        self._count(CaptureOutcome.DROPPED_FAULT, batch.requests)

    # --- what goes out -----------------------------------------------------------------------------------------

    def seal(self, now_s: float, current: Capture | None) -> None:
        """Make files of the batches that are due, and of those that no policy fills any more. Never raises."""
        for (to, hour), batch in list(self._open.items()):
            if batch.is_due(now_s) or current is None or current.to != to:
                self._close(to, hour)

    def _close(self, to: str, hour: str) -> None:
        batch = self._open.pop((to, hour))
        if batch.loose and not self._convert(batch):
            return
        self._files += 1
        origin = self._origin
        folder = f"model={origin.slug}/version={origin.version}/hour={hour}"
        about = {"model": origin.slug, "version": origin.version, "build": origin.build, "schema": SCHEMA_VERSION}
        try:
            content = self._layout.parquet(batch.portions, {METADATA_KEY: json.dumps(about)})
            if to not in self._outboxes:
                self._outboxes[to] = Outbox(self._open_store(to), origin.replica)
        except Exception:  # noqa: BLE001 the same
            self._lose(batch)
            return
        self._room.change(len(content) - batch.size_bytes)
        file = File(f"{folder}/{origin.replica}-{self._files:06d}.parquet", content, batch.requests, batch.rows)
        self._outboxes[to].add(file)

    def write(self, now_s: float, current: Capture | None) -> None:
        """Write what waits, as far as the stores take it now. Blocks; never raises."""
        for to, outbox in list(self._outboxes.items()):
            while (file := outbox.write_next(now_s)) is not None:
                self._room.change(-len(file.content))
                self._count(CaptureOutcome.WRITTEN, file.requests)
            if not outbox.waiting and (current is None or current.to != to):
                del self._outboxes[to]

    def give_up(self) -> Open:
        """Nothing more is written: what still waits is dropped and counted. Returns what that was."""
        still_open = self.still_open
        self._count(CaptureOutcome.DROPPED_STORE, still_open.requests)
        self._open.clear()
        self._outboxes.clear()
        return still_open
