"""CPU time and memory of a server with everything that it has started, from /proc (Linux).

Rules:
- A tree is its root and all descendants; `pipelines/processes.py` starts each server below a guard that adopts orphans,
  so nothing escapes by forking twice.
- CPU time is what the processes have used, and of children that have ended what their parents have waited for.
- Memory is the sum of resident sets: pages that processes share are counted in each, for every system alike.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
QUIET_LOOK_S = 0.1
QUIET_TICKS = 1
"""In one look: a server at rest uses up to 10 % of a core for housekeeping."""
QUIET_LIMIT_S = 5.0
"""What wrk leaves behind, at most 64 requests, is worked off by then; if not, the next reading's spread shows it."""


@dataclasses.dataclass(frozen=True)
class Process:
    """One line of /proc."""

    pid: int
    parent: int
    title: str
    cpu_s: float
    rss_mb: float


def processes() -> Iterator[Process]:
    """All of this machine that can be read."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it ended meanwhile
        yield parse(int(folder.name), title, stat)


def parse(pid: int, title: str, stat: str) -> Process:
    """From the text of /proc/<pid>/stat, whose second field may contain anything."""
    fields = stat.rpartition(")")[2].split()
    ticks = sum(int(fields[i]) for i in (11, 12, 13, 14))  # own user and system time, and that of ended children
    return Process(pid, int(fields[1]), title, ticks / _TICKS_PER_S, int(fields[21]) * _PAGE_MB)


def own_children() -> set[int]:
    """Pids of what this process has started: those that are new after a start are the roots of its trees."""
    return {process.pid for process in processes() if process.parent == os.getpid()}


def trees(roots: Collection[int]) -> list[Process]:
    """The roots that still run, and all their descendants."""
    everything = list(processes())
    return [process for root in roots for process in tree(root, everything)]


def tree(root: int, everything: list[Process]) -> list[Process]:
    """`root` and its descendants."""
    children: dict[int, list[Process]] = {}
    for process in everything:
        children.setdefault(process.parent, []).append(process)
    found = [process for process in everything if process.pid == root]
    for process in found:
        found.extend(children.get(process.pid, []))
    return found


def cpu_s(look: Callable[[], list[Process]]) -> float:
    """CPU seconds used so far by the processes that `look` gives."""
    return sum(process.cpu_s for process in look())


def rss_mb(look: Callable[[], list[Process]]) -> float:
    """Their resident memory now, in MB."""
    return sum(process.rss_mb for process in look())


def wait_for_quiet(look: Callable[[], list[Process]]) -> None:
    """Until they have worked off what is left of the load, or QUIET_LIMIT_S."""
    deadline = time.monotonic() + QUIET_LIMIT_S
    before = cpu_s(look)
    while time.monotonic() < deadline:
        time.sleep(QUIET_LOOK_S)
        now = cpu_s(look)
        if now - before <= QUIET_TICKS / _TICKS_PER_S + 1e-9:
            return
        before = now
