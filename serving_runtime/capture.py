"""A sample of requests and answers, kept as Parquet: what is sampled, and the thread that does the rest.

`Recorder.offer` is called where an answer is ready; `captured_rows.py` has the schema, `redaction.py` what is never
written, `capture_batches.py` the way into files, `object_store.py` the places.

Rules:
- A streamed answer is offered at its end (`captured_streams.py`), and what is kept of it until then is in the memory.
- The version that answers captures: only it knows its signature and the features it used. Copies in shadow are
  captured too, marked as such.
- Sampled by a stable hash of the request id: every replica, of every version, decides alike about one request, so that
  an answer in shadow lies beside the one that the user got.
- Nothing here is in the way of an answer. `offer` appends to a queue; bodies are read in a thread, which lets go of the
  interpreter after each request (PAUSE_S).
- Bounded: MEMORY_LIMIT_BYTES for everything that is not written yet. What finds no room is dropped and counted by
  reason; what is in there is kept until the store takes it.
- Each sampled request is counted as taken, and later as exactly one other outcome (`outcomes.py: CaptureOutcome`).
  A crash loses what is still open, at most `every` of the policy; the next replica on the node says how much
  (`capture_ledger.py`).
- Headers are not part of what is captured, so no key or cookie can be.

It must not know who asks, or Ray.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from policies.serving import Capture
from serving_runtime.capture_batches import Batches, Origin, Plan
from serving_runtime.capture_ledger import Ledger, Open, take_losses
from serving_runtime.capture_outbox import Room
from serving_runtime.captured_rows import Captured, Layout, Role
from serving_runtime.captured_streams import Kept, keeping
from serving_runtime.event_stream import DONE, EVENT_STREAM
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.object_store import ObjectStore, open_store
from serving_runtime.outcomes import CaptureOutcome, Ending
from serving_runtime.protocol import COPY_HEADER, Answer, Call, Scored

_log = logging.getLogger(__name__)

# Everything that is sampled and not written: queue, rows, files. Some minutes of a busy model while its store is away,
# and little beside what a model itself takes.
MEMORY_LIMIT_BYTES = 64 * 1024 * 1024
# Reading a body holds the interpreter, and with it every answer: 1-2 ms for one of this size.
LARGEST_BYTES = 256 * 1024
REQUEST_BYTES = 1024  # what one that waits takes besides its bodies
STEP_S = 0.25  # between two rounds of the thread; the queue of a round is far below the limit
# After each request the thread sleeps this long, so that an event loop that waits for the interpreter gets it now, and
# not when the interpreter's own patience (5 ms) is over. It still reads some 3,000 requests a second.
PAUSE_S = 0.0001
CLOSE_S = 10.0  # for the last files at a shutdown, within Serve's own grace
_SALT = b"capture"  # so that the sample is none of the shares that traffic is split by
_WHOLE = 2**64


class Recorder:
    """Captures the traffic of one replica. `offer` belongs to its event loop, the rest to a thread of its own."""

    def __init__(
        self,
        origin: Origin,
        layout: Layout,
        folder: Path,
        *,
        open_store: Callable[[str], ObjectStore] = open_store,
        clock: Callable[[], float] = time.monotonic,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
        close_s: float = CLOSE_S,
        threads: bool = True,
    ) -> None:
        """`folder` is the node's, for the ledgers. Reads a few files: not for an event loop.

        Without `threads` whoever made it calls `step`.
        """
        self._origin, self._folder, self._clock = origin, folder, clock
        self._plan: Plan | None = None
        self._below = 0
        self._queue: collections.deque[tuple[Captured, Plan]] = collections.deque()
        self._room = Room(memory_limit_bytes)
        self._counts: collections.Counter[CaptureOutcome] = collections.Counter()
        self._counting = threading.Lock()
        self._batches = Batches(origin, layout, self._room, self._count, open_store)
        self._store_is_behind = False
        self._closing = threading.Event()
        self._threads, self._close_s = threads, close_s
        self._thread: threading.Thread | None = None
        self._ledger: Ledger | None = None
        self._say_losses()

    # --- from the event loop -----------------------------------------------------------------------------------

    def configure(self, capture: Capture | None) -> None:
        """Take a policy, or none. Returns at once; what was captured until then goes where it was to go."""
        if capture == (self._plan.capture if self._plan else None):
            return
        self._below = round(capture.share * _WHOLE) if capture else 0
        self._plan = Plan.of(capture) if capture else None
        if self._threads and self._thread is None and capture is not None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
            self._thread.start()

    def wants(self, request_id: str) -> bool:
        """Is this request in the sample?"""
        if self._plan is None:
            return False
        digest = hashlib.blake2b(request_id.encode(errors="replace"), digest_size=8, key=_SALT).digest()
        return int.from_bytes(digest) < self._below

    def hold(self, size_bytes: int) -> bool:
        """Room for a part of an answer that is not over? Then it is held until `offer`."""
        return self._room.take(size_bytes)

    def offer(self, captured: Captured, held_bytes: int = 0) -> None:
        """Take a request of the sample, or drop and count it. Cheap; never blocks; never raises.

        `held_bytes` is what was held for it.
        """
        plan = self._plan
        self._room.change(-held_bytes)
        if plan is None or self._closing.is_set():
            return
        outcomes = [CaptureOutcome.TAKEN]
        if captured.size_bytes > LARGEST_BYTES:
            outcomes.append(CaptureOutcome.DROPPED_LARGE)
        elif not self._room.take(captured.size_bytes + REQUEST_BYTES):
            behind = self._store_is_behind
            outcomes.append(CaptureOutcome.DROPPED_STORE if behind else CaptureOutcome.DROPPED_MEMORY)
        else:
            self._queue.append((captured, plan))
        for outcome in outcomes:
            self._count(outcome, 1)

    @property
    def held_bytes(self) -> int:
        """What is in memory and not written yet."""
        return self._room.used_bytes

    def take_counts(self) -> Mapping[CaptureOutcome, int]:
        """What was counted since the last time."""
        with self._counting:
            counts, self._counts = self._counts, collections.Counter()
        return counts

    def close(self) -> None:
        """Write what there is, for `close_s` at most. Blocks; what is not written then is dropped and counted."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(self._close_s)

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._start_ledger()
        while not self._closing.wait(STEP_S):
            self.step()
        self._finish()

    def step(self) -> None:
        """One round: read what waits, seal what is due, write what the stores take. Blocks; never raises."""
        for _ in range(len(self._queue)):
            captured, plan = self._queue.popleft()
            self._batches.add(captured, plan, captured.size_bytes + REQUEST_BYTES, self._clock())
            time.sleep(PAUSE_S)
        current = self._plan.capture if self._plan else None
        self._batches.seal(self._clock(), current)
        self._note()
        self._batches.write(self._clock(), current)
        self._store_is_behind = self._batches.store_is_behind
        self._note()

    def _finish(self) -> None:
        """Everything that is there, once more, whatever pause its store has."""
        self._plan = None
        self.step()
        while self._queue:  # offered while `close` was called
            self.step()
        self._batches.write(math.inf, None)
        left = self._batches.give_up()
        if left.requests:
            _log.error(
                "%d captured requests (%d rows) are lost: their store did not take them", left.requests, left.rows
            )
        self._with_ledger(Ledger.end)

    # --- what is counted ---------------------------------------------------------------------------------------

    def _count(self, outcome: CaptureOutcome, number: int) -> None:
        if number:
            with self._counting:
                self._counts[outcome] += number

    def _start_ledger(self) -> None:
        try:
            self._ledger = Ledger.start(self._folder, self._origin.slug, self._origin.replica)
        except OSError as error:
            _log.warning("no ledger of captured requests: a crash will not say what it lost: %s", error)

    def _note(self) -> None:
        still_open, waiting = self._batches.still_open, len(self._queue)
        self._with_ledger(lambda ledger: ledger.note(Open(still_open.requests + waiting, still_open.rows)))

    def _with_ledger(self, use: Callable[[Ledger], None]) -> None:
        if self._ledger is None:
            return
        try:
            use(self._ledger)
        except OSError as error:
            _log.warning("the ledger of captured requests is wrong from now on: %s", error)
            self._ledger = None

    def _say_losses(self) -> None:
        try:
            losses = take_losses(self._folder, self._origin.slug)
        except (OSError, ValueError, TypeError) as error:
            _log.warning("a ledger of captured requests could not be read: %s", error)
            return
        for replica, lost in losses.items():
            _log.error(
                "replica %s died with %d captured requests (%d rows) that were not written",
                replica,
                lost.requests,
                lost.rows,
            )
            self._count(CaptureOutcome.LOST, lost.requests)


class OwnServer(Protocol):
    """A version's own model server."""

    async def scored(self, call: Call) -> Scored:
        """The answer, and the features that were used for it."""


class Recorded:
    """A model server whose answers are offered to a recorder."""

    def __init__(self, own: OwnServer, recorder: Recorder) -> None:
        self._own, self._recorder = own, recorder

    async def answer(self, call: Call) -> Answer:
        """The server's own answer. A call that gets none (given up, cancelled) is not captured."""
        if not self._recorder.wants(call.request_id):
            return (await self._own.scored(call)).answer
        at_s, started = time.time(), time.perf_counter()
        scored = await self._own.scored(call)
        answer = scored.answer

        def captured(body: bytes, ending: Ending | None, *, cut: bool = False) -> Captured:
            return Captured(
                call.request_id,
                at_s,
                call.body,
                call.content_type,
                answer.status,
                body,
                (time.perf_counter() - started) * 1000.0,
                _role(call),
                scored.features,
                ending,
                cut,
            )

        if answer.rest is None:
            ending = None
            if answer.content_type == EVENT_STREAM:  # a copy of a stream
                ending = Ending.WHOLE if answer.body.endswith(DONE) else Ending.LEFT
            self._recorder.offer(captured(answer.body, ending))
            return answer

        def offer(kept: Kept, ending: Ending) -> None:
            self._recorder.offer(captured(bytes(kept.events), ending, cut=kept.cut), len(kept.events))

        kept = Kept(max(LARGEST_BYTES - len(call.body), 0), self._recorder.hold)
        return answer._replace(rest=keeping(answer, kept, offer))


def _role(call: Call) -> Role:
    if COPY_HEADER in call.headers:
        return Role.COPY
    return Role.FORCED if FORCE_HEADER in call.headers else Role.USER
