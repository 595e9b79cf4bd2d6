"""What takes long to read and never changes: read once, in the background, and remembered.

Rules:
- The loop waits a few seconds and then says "not yet" (`Retry`): a large artifact takes minutes, and a failing
  candidate of another model must not wait for it.
- One thing is read at a time: two would share one network and one disk.
- A failure is forgotten once it was told.

It must not be asked by several threads at once: the loop is one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import Generic, TypeVar

from policies.errors import Retry

WAIT_S = 5.0
"""Most artifacts are read in under a second (some MB, a local network); a look is not held up for longer than this."""
ASK_AGAIN = timedelta(seconds=5)
REMEMBERED = 10_000
"""Results known, some kilobytes each; the one that was not asked for longest is dropped first."""

T = TypeVar("T")


class ReadOnce(Generic[T]):
    """Results by key; a key stands for something that never changes."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._futures: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def of(self, key: Hashable, what: str, work: Callable[[], T]) -> T:
        """What `work` returned the first time. Raises Retry while `what` is being read, and what `work` raises."""
        future = self._futures.get(key)
        if future is None:
            future = self._futures[key] = self._start(work)
        self._futures.move_to_end(key)
        self._forget_old()
        if not wait([future], timeout=self._wait_s).done:
            raise Retry(f"{what} is still being read", after=ASK_AGAIN)
        if future.exception() is not None:
            del self._futures[key]
        return future.result()

    def _start(self, work: Callable[[], T]) -> Future[T]:
        """A daemon thread, unlike an executor's: an exit does not wait for gigabytes."""
        future: Future[T] = Future()

        def run() -> None:
            with self._one_at_a_time:
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 (handed to whoever asks, like an executor does)
                    future.set_exception(error)

        threading.Thread(target=run, name="artifact", daemon=True).start()
        return future

    def _forget_old(self) -> None:
        for key in list(self._futures)[:-REMEMBERED]:
            if self._futures[key].done():
                del self._futures[key]
