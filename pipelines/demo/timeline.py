"""The demo's live timeline: what happens, why it waits and until when, and what users get, in the terminal.

Rules:
- On a terminal a table is redrawn in place, one line per phase so that it never outgrows the screen, and what ended
  scrolls by above it with its whole arithmetic; elsewhere (a log, a pipe, CI) lines are appended. Each is said once.
- It shows what Git, the load and the reconciler say, and keeps no state of its own but what it has already said.
- Colour is rich's business: NO_COLOR and dumb terminals are honoured.

It must not decide anything or talk to the stack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.demo.load import Counters
from policies.actions import Wait
from policies.documents import Bake, RolloutPolicy
from policies.release import Phase, PhaseRecord, Release
from policies.rollout_record import HistoryRecord
from policies.verdict import VerdictKind

REFRESH_PER_S = 4.0
"""As often as the load's counters change."""

WAIT_WORDS_EVERY = timedelta(seconds=5)
"""In an appended log, the arithmetic changes at each look; said this often it stays readable."""

REQUESTS_EVERY = timedelta(seconds=15)
"""The same for the counts of requests."""

LINES_AROUND = 8
"""Around the table's rows: its heading, why it waits (some lines on a narrow screen), the requests, the prompt."""

COLUMNS = {"version": 7, "phase": 12, "weight": 6, "since": 8, "for": 5, "verdict": 7}
"""Widths that a long "why" may not squeeze: of the longest phase, a time of day, and so on."""

STYLES = {VerdictKind.PASS: "green", VerdictKind.FAIL: "bold red"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """All that one look showed."""

    now: datetime
    release: Release | None
    history: tuple[HistoryRecord, ...] = ()
    waiting: Wait | None = None
    """Why the reconciler's last look changed nothing, and until when."""
    requests: Counters = dataclasses.field(default_factory=Counters)


@dataclasses.dataclass(frozen=True)
class Row:
    """One phase of one version, in words."""

    version: int
    record: PhaseRecord
    key: str
    """The same for the same phase of the same rollout, while it lasts and after."""

    @property
    def name(self) -> str:
        """`v2 CANARY 10 %`."""
        return f"v{self.version} {self.record.phase} {self.record.weight_percent} %"


def rows(scene: Scene) -> list[Row]:
    """Every phase of every rollout so far, oldest first."""
    found: list[Row] = []
    for past in scene.history:
        found += _rows(past.version, past.rollout, past.phases)
    release = scene.release
    if release and release.rollout and release.candidate:
        told = {past.rollout for past in scene.history}
        if release.rollout.id not in told:
            found += _rows(release.candidate.version, release.rollout.id, release.rollout.records)
    return found


def _rows(version: int, rollout: str, records: Iterable[PhaseRecord]) -> list[Row]:
    return [Row(version, record, f"{rollout}/{i}") for i, record in enumerate(records)]


def until_words(record: PhaseRecord, policy: RolloutPolicy, now: datetime) -> str:
    """How long this phase lasts at the least and at the most, by the policy; empty where none says."""
    if record.phase is Phase.WARMING:
        return f"until {_clock(record.since + policy.ready_deadline)} to be ready"
    bakes: dict[Phase, Bake | None] = {
        Phase.SHADOW: policy.shadow,
        Phase.CANARY: policy.step,
        Phase.SETTLING: policy.settle,
    }
    bake = bakes.get(record.phase)
    if bake is None:
        return ""
    if record.live_since is None:
        return "until its weight is live on every replica"
    least, most = record.live_since + bake.min_duration, record.live_since + bake.max_duration
    return f"until {_clock(least)} at least, {_clock(most)} at most" if now < least else f"until {_clock(most)} at most"


def requests_words(requests: Counters) -> str:
    """`1,204 requests, 0 failed: 1,000 by v1, 204 by v2; slowest 31 ms`."""
    if not requests.live:
        return f"{requests.before:,} requests before anything served (404, not counted)"
    by_version = ", ".join(f"{answered:,} by v{version}" for version, answered in requests.by_version.items())
    failures = ", ".join(f"{count} {kind}" for kind, count in requests.failures.items())
    return (
        f"{requests.sent:,} requests, {requests.failed:,} failed{f' ({failures})' if failures else ''}: "
        f"{by_version or 'none answered'}; slowest {requests.slowest_ms:.0f} ms"
    )


class Timeline:
    """Shows scenes as they come: `with Timeline(console, policy) as timeline: timeline.show(scene)`."""

    def __init__(self, console: Console, policy: RolloutPolicy) -> None:
        self._console, self._policy = console, policy
        self._live: Live | None = None
        self._begun: datetime | None = None
        self._said: set[str] = set()
        self._last: dict[str, datetime] = {}

    def __enter__(self) -> Self:
        """Take over the terminal's last lines, if there is a terminal."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=REFRESH_PER_S, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the terminal back, the last table standing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, words: str) -> None:
        """One line of the story, above the table."""
        self._console.print(Text(words, style="bold"), soft_wrap=True)

    def show(self, scene: Scene) -> None:
        """Draw the table anew, or append what is new."""
        self._begun = self._begun or scene.now
        news = self._endings(scene) if self._live else self._news(scene)
        for line in news:
            self._console.print(Text(f"{(scene.now - self._begun).total_seconds():6.1f} s  {line}"), soft_wrap=True)
        if self._live is not None:
            self._live.update(self.table(scene))

    def table(self, scene: Scene) -> RenderableType:
        """The whole scene: a row per phase, then why it waits, then the requests."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        for heading, width in COLUMNS.items():
            table.add_column(heading, no_wrap=True, width=width, style="dim" if heading == "since" else "")
        table.add_column("why", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in rows(scene)[-max(self._console.height - LINES_AROUND, 1) :]:
            table.add_row(*self._cells(row, scene.now))
        return Group(table, Text(self._wait_words(scene)), Text(requests_words(scene.requests)))

    def _cells(self, row: Row, now: datetime) -> Sequence[RenderableType]:
        record = row.record
        lasted = ((record.until or now) - record.since).total_seconds()
        why = record.reasons[0] if record.reasons else ""
        if record.until is None:
            why = until_words(record, self._policy, now)
        return (
            f"v{row.version}",
            str(record.phase),
            f"{record.weight_percent} %",
            _clock(record.since),
            f"{lasted:.0f} s",
            Text(record.verdict or "", style=STYLES.get(record.verdict, "") if record.verdict else ""),
            Text(why),
        )

    def _news(self, scene: Scene) -> Iterable[str]:
        """What has not been said yet, one line each."""
        for row in rows(scene):
            yield from self._beginning(row, scene.now)
            yield from self._ending(row)
        if scene.waiting is not None and self._due("wait", scene.now, WAIT_WORDS_EVERY):
            yield self._wait_words(scene)
        if self._due("requests", scene.now, REQUESTS_EVERY):
            yield requests_words(scene.requests)

    def _endings(self, scene: Scene) -> Iterable[str]:
        """Of that, what a table has no room for."""
        for row in rows(scene):
            yield from self._ending(row)

    def _beginning(self, row: Row, now: datetime) -> Iterable[str]:
        if self._first(row.key):
            since = _clock(row.record.since)
            yield f"{row.name} since {since} {until_words(row.record, self._policy, now)}".rstrip()

    def _ending(self, row: Row) -> Iterable[str]:
        record = row.record
        if record.until is not None and self._first(f"{row.key}/ended"):
            lasted = (record.until - record.since).total_seconds()
            yield f"{row.name} ended after {lasted:.0f} s {record.verdict or ''}".rstrip()
            yield from (f"    {reason}" for reason in record.reasons)

    def _wait_words(self, scene: Scene) -> str:
        if scene.waiting is None:
            return ""
        until = f" (until {_clock(scene.waiting.until)})" if scene.waiting.until else ""
        return f"waiting: {scene.waiting.reason}{until}"

    def _first(self, key: str) -> bool:
        new = key not in self._said
        self._said.add(key)
        return new

    def _due(self, key: str, now: datetime, every: timedelta) -> bool:
        last = self._last.get(key)
        if last is not None and now - last < every:
            return False
        self._last[key] = now
        return True


def _clock(moment: datetime) -> str:
    """The time of day here, as a person's watch has it."""
    return f"{moment.astimezone():%H:%M:%S}"
