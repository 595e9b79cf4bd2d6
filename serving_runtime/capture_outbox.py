"""Files on their way into a store: kept and tried again while there is room for them.

Rules:
- In order, one at a time; a store that fails gets a pause that doubles, up to LONGEST_PAUSE_S.
- A file stays until the store has taken it. What gives way when memory is full is what comes next (`Room`), counted.
- What is wrong is logged when it begins, when it is another thing, and when it is over.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import zlib

from policies.errors import SluiceError
from serving_runtime.object_store import ObjectStore

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0  # a store that was restarted is back by then, or by the next ones
LONGEST_PAUSE_S = 60.0  # nobody minds a minute after an outage, and a store that is down is not asked more often


class Room:
    """Bytes in memory, counted from two threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What is taken now."""
        return self._used

    def take(self, size_bytes: int) -> bool:
        """Room for so much more? Then it is taken."""
        with self._lock:
            if self._used + size_bytes > self._limit:
                return False
            self._used += size_bytes
            return True

    def change(self, by_bytes: int) -> None:
        """What is there already takes more or less than before."""
        with self._lock:
            self._used += by_bytes


@dataclasses.dataclass(frozen=True)
class File:
    """A finished file."""

    name: str
    content: bytes
    requests: int
    rows: int


class Outbox:
    """The files that wait for one store. Use it from one thread."""

    def __init__(self, store: ObjectStore, replica: str) -> None:
        self._store = store
        self._waiting: collections.deque[File] = collections.deque()
        # Replicas that lost the same store come back to it apart from each other.
        self._spread = 0.75 + (zlib.crc32(replica.encode()) % 1000) / 2000
        self._pause_s = 0.0
        self._next_try_s = 0.0
        self._said = ""

    @property
    def waiting(self) -> tuple[File, ...]:
        """Oldest first."""
        return tuple(self._waiting)

    @property
    def is_behind(self) -> bool:
        """Did the store fail at the last try?"""
        return bool(self._pause_s)

    def add(self, file: File) -> None:
        """Last in line."""
        self._waiting.append(file)

    def write_next(self, now_s: float) -> File | None:
        """Write the oldest one if it is time; the file, when the store has taken it. Blocks; never raises."""
        if not self._waiting or now_s < self._next_try_s:
            return None
        try:
            self._store.put(self._waiting[0].name, self._waiting[0].content)
        except SluiceError as error:
            self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._next_try_s = now_s + self._pause_s * self._spread
            self._say(str(error))
            return None
        self._pause_s = self._next_try_s = 0.0
        self._say("")
        return self._waiting.popleft()

    def _say(self, reason: str) -> None:
        if reason and reason != self._said:
            _log.error("captured traffic waits, %d files: %s", len(self._waiting), reason)
        elif self._said and not reason:
            _log.info("captured traffic is written again")
        self._said = reason
