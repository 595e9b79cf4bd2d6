"""A replica's own memory: how much it is, when it is too much, and what one request may take at once.

Rules:
- A replica above its limit says that it is unhealthy; Serve then stops it as it stops any: what it has in progress is
  answered, HAProxy sends what is new elsewhere, and a successor starts.
- Replicas of one model leak alike. Each has a limit of its own between SHARE_FROM and all of what the document says, so
  that they do not go in the same moment.
- A single allocation of more than the whole limit fails in the request that wanted it (`MemoryError`, a 500), instead
  of taking the replica, or the node, down. That is Linux's limit on a process's data, over what it had when the model
  was loaded.

Reading `/proc` is Linux; elsewhere nothing is known, and nothing is limited.
"""

from __future__ import annotations

import gc
import logging
import resource
from pathlib import Path

_log = logging.getLogger(__name__)

MIB = 1024 * 1024
SHARE_FROM = 0.85
"""Of the limit: a tenth of a leak's time lies between the first replica's going and the last's."""

_STATM = Path("/proc/self/statm")
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM (its RSS); none where the system does not say."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


def keep_loaded() -> None:
    """Collect what loading has left, and keep the rest from every later collection. Call it when a replica is ready."""
    gc.collect()
    gc.freeze()


def own_limit_bytes(limit_mib: int, draw: float) -> int:
    """This replica's own limit; `draw` is uniform in [0, 1)."""
    return round(limit_mib * MIB * (SHARE_FROM + (1.0 - SHARE_FROM) * draw))


def too_large(resident: int | None, limit: int | None) -> str:
    """Why the replica has to go; empty for no reason. Both in bytes."""
    if resident is None or limit is None or resident <= limit:
        return ""
    return f"this replica has {resident // MIB} MiB in memory, and its limit is {limit // MIB} MiB: it is replaced"


class DataLimit:
    """What this process may still allocate, as the system enforces it."""

    def __init__(self) -> None:
        self._loaded = _data_bytes()
        self._before = resource.getrlimit(resource.RLIMIT_DATA)

    def set(self, limit_mib: int | None) -> None:
        """From now on no more than `limit_mib` over what there was when this object was made; none: as it was."""
        soft, hard = self._before
        if limit_mib is not None and self._loaded is not None:
            wanted = self._loaded + limit_mib * MIB
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        except (OSError, ValueError) as error:
            _log.warning("one request's memory is not limited: %s", error)


class MemoryWatch:
    """One replica's memory against its document's limit. Make it when the model is loaded."""

    def __init__(self, draw: float) -> None:
        """`draw` is uniform in [0, 1), and another one in each replica."""
        self._draw = draw
        self._data = DataLimit()
        self._limit: int | None = None

    def configure(self, limit_mib: int | None) -> None:
        """Hold it to this limit from now on; none: to no limit."""
        self._limit = None if limit_mib is None else own_limit_bytes(limit_mib, self._draw)
        self._data.set(limit_mib)

    @property
    def trouble(self) -> str:
        """Why the replica has to go; empty for no reason."""
        return too_large(resident_bytes(), self._limit)


def _data_bytes() -> int | None:
    """The process's private, writable memory (VmData), which RLIMIT_DATA counts."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
