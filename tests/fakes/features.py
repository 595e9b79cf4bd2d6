"""Sources of features in memory, and who counts look-ups."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving_runtime.look_ups import LookUp


class KnownFeatures:
    """A source that has these entries. `gate` closed: it hangs; `breaks` set: it raises that."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self.entries = dict(entries)
        self.asked: list[tuple[str, ...]] = []
        self.breaks: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        self.asked.append(tuple(keys))
        await self.gate.wait()
        if self.breaks is not None:
            raise self.breaks
        return {key: self.entries[key] for key in keys if key in self.entries}

    async def close(self) -> None:
        self.closed = True


class Blocking:
    """A source of plain functions."""

    def __init__(self, look_up: Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]]) -> None:
        self.look_up = look_up
        self.closed = False

    def close(self) -> None:
        self.closed = True


class LookUpCounts:
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.outcomes: Counter[LookUp] = Counter()
        self.waited_ms: list[float] = []

    def looked_up(self, outcome: LookUp, number: int) -> None:
        self.outcomes[outcome] += number

    def waited_for_features(self, elapsed_ms: float) -> None:
        self.waited_ms.append(elapsed_ms)


def segments(options: Mapping[str, Any]) -> KnownFeatures:
    """An entry point: every key of the option `keys` has the option `spend`."""
    return KnownFeatures({key: {"spend": options["spend"]} for key in str(options["keys"]).split(",")})


async def opened(options: Mapping[str, Any]) -> KnownFeatures:
    """An entry point that needs the running loop."""
    asyncio.get_running_loop()
    return segments(options)


def refuses(_options: Mapping[str, Any]) -> KnownFeatures:
    """An entry point that cannot start."""
    raise RuntimeError("no feature view of that name")


def no_source(_options: Mapping[str, Any]) -> str:
    """An entry point that makes something else."""
    return "features"


def blocking(_options: Mapping[str, Any]) -> Blocking:
    """An entry point whose source blocks."""
    return Blocking(lambda _keys: {})
