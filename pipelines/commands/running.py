"""Running the reconciler as a process: a line for what changes, a clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines import status_file
from pipelines.pulling import Pulled, Puller, write_report
from pipelines.reconciler import Reconciler, Tick
from pipelines.wiring import SystemClock
from policies.actions import RemoveRelease, WriteRelease

# A number, a duration, a time or a date that stands by itself: what grows or moves from look to look. Not `v3`, a port,
# a part of an address or of a name: those say what is spoken of. Nor a commit.
_FIGURE = re.compile(r"(?<![\w/:.@=#-])(?!(?=[0-9]*[a-f])[0-9a-f]{8,}\b)[+-]?[0-9][\w.,:+-]*")


class News:
    """Tells what stands now and did not at the last look. It is said whole; only a figure that moved is no news."""

    def __init__(self) -> None:
        self._said: frozenset[tuple[str, str]] = frozenset()

    def of(self, standing: Iterable[tuple[str, str]]) -> list[str]:
        """The lines that are new, in order; each is whose it is, and words in which figures may move."""
        now = {line: (line[0], _FIGURE.sub("#", line[1])) for line in standing}
        new = sorted(f"{whose}{words}" for (whose, words), key in now.items() if key not in self._said)
        self._said = frozenset(now.values())
        return new


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
        self._news = News()

    def __call__(self, tick: Tick) -> None:
        """Narrate one tick."""
        for line in _moves(tick):
            self._say(f"{tick.at:%H:%M:%S} {line}")
        standing = [*(("problem: ", p) for p in tick.problems), *(("", r) for r in tick.remarks), *_waits(tick)]
        for line in self._news.of(standing):
            self._say(f"{tick.at:%H:%M:%S} {line}")
        if self._status_path is not None:
            status_file.write(self._status_path, tick, self._webhooks())


def _moves(tick: Tick) -> list[str]:
    if tick.plan is None or tick.commit is None:
        return []
    moves = [a for each in tick.plan.actions.values() for a in each if isinstance(a, WriteRelease | RemoveRelease)]
    return [f"{m.release.model} ({m.release.environment}): {m.subject} [{tick.commit[:8]}]" for m in moves]


def _waits(tick: Tick) -> list[tuple[str, str]]:
    """Why each release waits."""
    return [(f"{w.model} ({w.environment}) waits: ", w.reason) for w in tick.waits]


class EdgeNarrator:
    """Says what changed at an edge since the last attempt, once; keeps the report in a file where one is named."""

    def __init__(self, say: Callable[[str], None], report_path: Path | None) -> None:
        self._say = say
        self._report_path = report_path
        self._news = News()

    def __call__(self, pulled: Pulled) -> None:
        """Narrate one attempt."""
        commit = pulled.commit[:8] if pulled.commit else "nothing"
        now = (f"{commit} is in place", "") if pulled.in_place else (f"{commit}: ", str(pulled.step))
        for line in self._news.of([now, *(("problem: ", p) for p in pulled.problems)]):
            self._say(f"{pulled.at:%H:%M:%S} {pulled.edge}: {line}")
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
