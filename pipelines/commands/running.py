"""Running the reconciler as a process: a line for what changes, a clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines import status_file
from pipelines.pulling import Pulled, Puller, write_report
from pipelines.reconciler import Reconciler, Tick
from pipelines.wiring import SystemClock
from policies.actions import RemoveRelease, WriteRelease


class Narrator:
    """Says what changed since the last tick, once; keeps the last words in a file where one is named."""

    def __init__(
        self,
        say: Callable[[str], None],
        status_path: Path | None,
        webhooks: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
    ) -> None:
        """`webhooks` are the listener's counts, for the file."""
        self._say = say
        self._status_path = status_path
        self._webhooks = webhooks
        self._said: frozenset[str] = frozenset()

    def __call__(self, tick: Tick) -> None:
        """Narrate one tick."""
        for line in _moves(tick):
            self._say(f"{tick.at:%H:%M:%S} {line}")
        standing = frozenset([*(f"problem: {p}" for p in tick.problems), *tick.remarks, *_waits(tick)])
        for line in sorted(standing - self._said):
            self._say(f"{tick.at:%H:%M:%S} {line}")
        self._said = standing
        if self._status_path is not None:
            status_file.write(self._status_path, tick, self._webhooks())


def _moves(tick: Tick) -> list[str]:
    if tick.plan is None or tick.commit is None:
        return []
    moves = [a for each in tick.plan.actions.values() for a in each if isinstance(a, WriteRelease | RemoveRelease)]
    return [f"{m.release.model} ({m.release.environment}): {m.subject} [{tick.commit[:8]}]" for m in moves]


def _waits(tick: Tick) -> list[str]:
    """Why each release waits, as far as it is news."""
    return [f"{w.model} ({w.environment}) waits: {_head(w.reason)}" for w in tick.waits]


def _head(reason: str) -> str:
    """The reason up to its first figure, so that a count that grows is not news."""
    for i, char in enumerate(reason):
        if char.isdigit() and i and reason[i - 1] == " ":
            return reason[:i].rstrip() + " ..."
    return reason


class EdgeNarrator:
    """Says what changed at an edge since the last attempt, once; keeps the report in a file where one is named."""

    def __init__(self, say: Callable[[str], None], report_path: Path | None) -> None:
        self._say = say
        self._report_path = report_path
        self._said: frozenset[str] = frozenset()

    def __call__(self, pulled: Pulled) -> None:
        """Narrate one attempt."""
        commit = pulled.commit[:8] if pulled.commit else "nothing"
        now = f"{commit} is in place" if pulled.in_place else f"{commit}: {pulled.step}"
        standing = frozenset([now, *(f"problem: {p}" for p in pulled.problems)])
        for line in sorted(standing - self._said):
            self._say(f"{pulled.at:%H:%M:%S} {pulled.edge}: {line}")
        self._said = standing
        if self._report_path is not None:
            write_report(self._report_path, pulled)


def run_until_stopped(loop: Reconciler | Puller, clock: SystemClock, narrator: Callable[[Any], None]) -> None:
    """Tick until SIGINT or SIGTERM; the tick that runs is finished first."""
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()
        clock.wake()

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    loop.run(stopped.is_set, narrator)
