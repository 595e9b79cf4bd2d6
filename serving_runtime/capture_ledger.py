"""How many captured requests a replica has that are not written yet, where its death does not take the figure along.

A file for each living replica, in a folder of its node, holds the figure; the replica holds a lock on it, which the
system gives back when it dies. The next replica of that model that starts on the node finds a file that nobody holds,
says what was lost, and removes it.

Rules:
- The figure survives the process, not the node: what a node takes along shows in the metrics, as requests that were
  taken and never counted as anything else.
- It is noted after each round of the writer, so the last quarter of a second may be missing from it.
- A ledger that cannot be kept is said in the log, and capture goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Self

_log = logging.getLogger(__name__)

WIDTH_BYTES = 64  # room for two figures of 15 digits; one write of this size is whole or not at all


@dataclasses.dataclass(frozen=True)
class Open:
    """What is not written yet."""

    requests: int = 0
    rows: int = 0
    """Of those requests that were split into rows already."""


class Ledger:
    """One replica's figure. Use it from one thread."""

    def __init__(self, file: int, path: Path) -> None:
        self._file, self._path = file, path
        self._noted = Open()

    @classmethod
    def start(cls, folder: Path, slug: str, replica: str) -> Self:
        """Make the file and hold it. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{slug}--{replica}.open"
        part = path.with_suffix(".part")
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        part.rename(path)  # under its name it is held from the first moment
        return cls(file, path)

    def note(self, still_open: Open) -> None:
        """Write the figure. Raises OSError."""
        if still_open != self._noted:
            os.pwrite(self._file, json.dumps(dataclasses.asdict(still_open)).encode().ljust(WIDTH_BYTES), 0)
            self._noted = still_open

    def end(self) -> None:
        """Nothing is open any more: remove the file."""
        self._path.unlink(missing_ok=True)
        self.die()

    def die(self) -> None:
        """Let go of the file and leave it: what the system does for a process that dies."""
        os.close(self._file)


def take_losses(folder: Path, slug: str) -> dict[str, Open]:
    """What replicas of that model that died here had open, by replica; each is told once. Raises OSError."""
    lost = {}
    for path in sorted(folder.glob(f"{slug}--*.open")):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):  # a neighbour was faster, or it is alive
            lost[path.stem.removeprefix(f"{slug}--")] = _take(path)
    return {replica: found for replica, found in lost.items() if found.requests}


def _take(path: Path) -> Open:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink == 0:
            raise FileNotFoundError(path)
        content = file.read(WIDTH_BYTES)
        path.unlink()
    return Open(**json.loads(content)) if content.strip() else Open()
