"""The line in front of a model: requests wait here, threads take them, and several become one vectorised predict.

Rules:
- The event loop never waits: reading, predicting and writing a request happen in one visit to a thread.
- Without batching a visit takes one request. With it, a visit takes what has queued up while the one before was
  computed, and waits at most `batch_wait_ms` after its first request for more.
- Only requests whose rows can be joined share a predict; the others are answered one after the other, as if alone. A
  batch has at most `max_batch_size` rows; a request with more is a batch of its own.
- One bad row never fails its neighbours: where a shared predict raises, or answers another number of rows, each request
  is asked again alone.
- One thread works until the line is empty. Another one helps only when what is asked takes long and this process has
  CPU to spare meanwhile: a model that waits is helped by more threads; those of one that computes take the interpreter
  from each other, and from the event loop. What takes very long may never end, and holds nobody else up: another thread
  helps beside it whether it computes or not.
- Bounded: threads, requests that wait, and their bytes. Who gives up waiting leaves the line.

This module knows nothing about models, protocols or metrics: `Job` is one request, `predict` the model.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from policies.serving import Batching
from serving_runtime.fast_scoring import Rows, join, split

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a line holds at most, and its patience."""

    threads: int = 8
    """More than the cores that a replica usually reserves, because models wait (for a feature store, for a device) and
    release the interpreter; few enough that their working memory is bounded."""
    waiting: int = 2048
    waiting_bytes: int = 256 * 1024 * 1024
    """Serve bounds requests in progress, but those whose clients went away stay until they are answered or time out.
    Here is the end: a minute of requests at a model that hangs, or 256 MiB of bodies."""
    long_visit_s: float = 0.002
    """A request that is computed for longer is likely to wait for something, and the next one need not."""
    long_batch_s: float = 1.0
    """A batch may compute for long, and what comes meanwhile is the next one; this is a batch that hangs."""
    very_long_s: float = 1.0
    """What has been computed for so long may be one request's loop without an end, which leaves no CPU to spare."""
    busy_share: float = 0.5
    """Of the CPUs that the replica owns: below it they wait. A process that computes all the time gets more than that
    even where its node gives it less than it reserved."""


# A model that answers another number of rows so often in a row does so always; asking it twice would double its work.
MISFITS_TO_GIVE_UP: Final = 3

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Full(Exception):
    """No room in the line."""


class Job(Protocol[T_co]):
    """One request. All methods are called in a thread; none of them raises."""

    @property
    def size(self) -> int:
        """Bytes it holds while it waits."""

    def read(self) -> Rows | None:
        """Its rows, or None: it must be answered alone."""

    def alone(self) -> T_co:
        """The answer, by a way of its own."""

    def write(self, predictions: Any) -> T_co:
        """The answer that these predictions for its rows are."""

    def failed(self, error: Exception) -> T_co:
        """The answer when predict raised for its rows alone."""


@dataclasses.dataclass(eq=False)
class _Waiting(Generic[T]):
    """A job in line."""

    job: Job[T]
    future: asyncio.Future[T]
    came_s: float


_LIMITS: Final = Limits()


class Line(Generic[T]):
    """Owned by one event loop; `predict` runs in its threads."""

    def __init__(
        self,
        predict: Callable[[Rows], Any],
        took_batch: Callable[[int], None],
        limits: Limits = _LIMITS,
        *,
        cpus: float = 1.0,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        """`predict(rows)` may raise; `took_batch(rows)` is called on the event loop after each predict of a batch.

        `cpus` is what the replica owns; `cpu_s()` what this process has used, in seconds.
        """
        self._predict = predict
        self._took_batch = took_batch
        self._limits = limits
        self._terms: Batching | None = None
        self._misfits = 0
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._waiting: collections.deque[_Waiting[T]] = collections.deque()
        self._bytes = 0
        self._busy_since: dict[int, float] = {}  # by thread, the start of what it computes
        self._moved: dict[int, float] = {}  # by thread, when it began its visit or answered a request of it
        self._busy = 0
        self._threads = 0
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        weakref.finalize(self, _end, self._wake, limits.threads)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._enough_cpus = limits.busy_share * max(cpus, 1.0)
        self._cpu_s = cpu_s
        self._seen = (0.0, 0.0)  # at the look before: the time, and the CPU time used until then
        self._done: collections.deque[Callable[[], None]] = collections.deque()
        self._told = False

    def configure(self, terms: Batching | None) -> None:
        """Batch by these terms from now on; none: one by one. In place, at once."""
        if terms != self._terms:
            self._misfits = 0
        self._terms = terms

    @property
    def computing_s(self) -> tuple[float, ...]:
        """For how long each thread that computes has been at one request or batch, in seconds."""
        with self._lock:
            now = time.monotonic()
            return tuple(now - moved for moved in self._moved.values())

    async def do(self, job: Job[T]) -> T:
        """The job's answer. Raises Full at once when there is no room; may be cancelled."""
        self._loop = loop = asyncio.get_running_loop()
        waiting = _Waiting(job, loop.create_future(), time.monotonic())
        self._queue(waiting)
        try:
            answer: T = await waiting.future
        except asyncio.CancelledError:
            self._leave(waiting)
            raise
        return answer

    # --- on the event loop ---------------------------------------------------------------------------------------

    def _queue(self, waiting: _Waiting[T]) -> None:
        with self._lock:
            size = self._bytes + waiting.job.size
            if len(self._waiting) >= self._limits.waiting or size > self._limits.waiting_bytes:
                raise Full
            self._waiting.append(waiting)
            self._bytes = size
            starts = self._busy == 0
            self._busy += starts
            self._more.notify()
        if starts:
            self._start()
        elif self._watch is None:
            self._look_later()

    def _leave(self, waiting: _Waiting[T]) -> None:
        with self._lock:
            try:
                self._waiting.remove(waiting)
            except ValueError:  # a thread has it
                return
            self._bytes -= waiting.job.size

    def _start(self) -> None:
        """Let one more thread work; it is counted as busy already."""
        if self._threads < self._busy:
            self._threads += 1
            name = f"predict_{self._threads}"
            threading.Thread(target=_work, args=(weakref.ref(self), self._wake), name=name, daemon=True).start()
        self._wake.put(True)

    def _look_later(self) -> None:
        if self._loop is not None:
            self._seen = (time.monotonic(), self._cpu_s())
            self._watch = self._loop.call_later(self._patience_s, self._look)

    def _look(self) -> None:
        """Requests were waiting. Does what is asked take long, with CPU to spare?"""
        self._watch = None
        now, (before, used_before) = time.monotonic(), self._seen
        spare = self._cpu_s() - used_before < (now - before) * self._enough_cpus
        with self._lock:
            if not self._waiting:
                return
            shortest_s = min((now - since for since in self._busy_since.values()), default=math.inf)
            long = shortest_s >= (self._patience_s if spare else max(self._patience_s, self._limits.very_long_s))
            starts = long and self._busy < self._limits.threads and len(self._busy_since) == self._busy
            self._busy += starts
        if starts:
            self._start()
        self._look_later()

    @property
    def _patience_s(self) -> float:
        return self._limits.long_visit_s if self._terms is None else self._limits.long_batch_s

    def _deliver(self) -> None:
        self._told = False
        while self._done:
            self._done.popleft()()

    # --- in a thread -----------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Answer what waits until nothing does. For this module's threads."""
        me = threading.get_ident()
        while visit := self._take(me):
            try:
                self._answer(visit)
            except BaseException as error:  # noqa: BLE001 a job broke its promise: nobody may wait for it for ever
                _log.exception("%d requests failed in line", len(visit))
                # On the event loop a SystemExit would end the replica.
                told = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__} in line")
                for waiting in visit:
                    self._tell(_setting_error, waiting.future, told)

    def _take(self, me: int) -> list[_Waiting[T]]:
        """What this thread answers next; nothing: it is busy no more."""
        with self._lock:
            self._busy_since.pop(me, None)
            self._moved.pop(me, None)
            terms = self._terms
            if terms is not None and self._waiting and terms.batch_wait_ms:
                self._collect(terms)
            size = 1 if terms is None else terms.max_batch_size
            visit = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            self._bytes -= sum(waiting.job.size for waiting in visit)
            if visit:
                self._busy_since[me] = self._moved[me] = time.monotonic()
            else:
                self._busy -= 1
        return visit

    def _collect(self, terms: Batching) -> None:
        """Wait for more requests, but no longer than the first one may wait. Holds the lock except while it waits."""
        until = self._waiting[0].came_s + terms.batch_wait_ms / 1000.0
        while 0 < len(self._waiting) < terms.max_batch_size:
            left_s = until - time.monotonic()
            if left_s <= 0 or not self._more.wait(left_s):
                return

    def _answer(self, visit: Sequence[_Waiting[T]]) -> None:
        terms, alone = self._terms, []
        ready: list[tuple[_Waiting[T], Rows]] = []
        for waiting in visit:
            if waiting.future.cancelled():
                continue
            rows = waiting.job.read()
            if rows is None:
                alone.append(waiting)
            else:
                ready.append((waiting, rows))
        if terms is None or self._misfits >= MISFITS_TO_GIVE_UP:
            batches: Iterable[_Batch[T]] = ([one] for one in ready)
        else:
            batches = _batches(ready, terms.max_batch_size)
        for batch in batches:
            self._answer_batch(batch)
            if terms is not None:
                self._tell(self._took_batch, sum(rows.count for _, rows in batch))
        # What takes a way of its own is slower as a rule, and nobody who shares a batch waits for it.
        for waiting in alone:
            self._tell(_setting, waiting.future, waiting.job.alone())

    def _answer_batch(self, batch: _Batch[T]) -> None:
        if len(batch) > 1 and self._answer_together(batch):
            return
        for waiting, rows in batch:
            self._tell(_setting, waiting.future, self._answer_one(waiting.job, rows))

    def _answer_together(self, batch: _Batch[T]) -> bool:
        """Answer all of them by one predict; False when that cannot be done."""
        try:
            predictions = self._predict(join([rows for _, rows in batch]))
        except Exception as error:  # noqa: BLE001 a stranger's model; each request is asked again, and then it is told
            _log.info("a batch of %d requests failed and is asked one by one: %s", len(batch), type(error).__name__)
            return False
        parts = split(predictions, [rows.count for _, rows in batch])
        if parts is None:
            self._misfits += 1
            if self._misfits == MISFITS_TO_GIVE_UP:
                _log.warning("the model does not answer a row for each row: it is asked one by one from now on")
            return False
        self._misfits = 0
        for (waiting, _), part in zip(batch, parts, strict=True):
            self._tell(_setting, waiting.future, waiting.job.write(part))
        return True

    def _answer_one(self, job: Job[T], rows: Rows) -> T:
        try:
            predictions = self._predict(rows)
        except Exception as error:  # noqa: BLE001 a stranger's model
            return job.failed(error)
        return job.write(predictions)

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        """Do this on the event loop, soon; several at once cost one waking."""
        self._moved[threading.get_ident()] = time.monotonic()
        self._done.append(lambda: what(*arguments))
        if self._told or self._loop is None:
            return
        self._told = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed, and with it everybody who waited
            self._told = False
            self._done.clear()


_Batch = Sequence[tuple[_Waiting[T], Rows]]


def _batches(ready: Iterable[tuple[_Waiting[T], Rows]], size: int) -> Iterator[_Batch[T]]:
    """Requests whose rows can be joined, at most `size` rows together."""
    open_: dict[Any, list[tuple[_Waiting[T], Rows]]] = {}
    for waiting, rows in ready:
        if rows.like is None:
            yield [(waiting, rows)]
            continue
        batch = open_.setdefault(rows.like, [])
        if batch and sum(r.count for _, r in batch) + rows.count > size:
            yield open_.pop(rows.like)
            batch = open_.setdefault(rows.like, [])
        batch.append((waiting, rows))
    yield from open_.values()


def _setting(future: asyncio.Future[T], answer: T) -> None:
    if not future.done():
        future.set_result(answer)


def _setting_error(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _work(line: weakref.ref[Line[Any]], wake: queue.SimpleQueue[bool]) -> None:
    """A thread's life: work when woken, until the line is gone. It holds the line only while it works."""
    while wake.get():
        owner = line()
        if owner is None:
            return
        owner.work()
        del owner


def _end(wake: queue.SimpleQueue[bool], threads: int) -> None:
    for _ in range(threads):
        wake.put(False)
