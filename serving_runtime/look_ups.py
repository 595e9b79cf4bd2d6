"""Features by key, for one replica: what is remembered, what is asked of the source, and for how long anybody waits.

Rules:
- A look-up ends within the time limit, whatever the source does, and never raises: what it found, or why it found
  nothing, is a value for each key.
- One question for one key at a time: who needs a key that is being asked for waits for that answer.
- Remembered are entries and that there is none, each in a bounded memory of its own: strangers who send keys that
  nobody knows push nothing useful out. Failures are never remembered.
- While the breaker is open nobody waits: the source is left alone but for one question at a time after each pause.
- A question that nobody waits for any more (its client has gone) is still answered, and remembered.

This module knows neither requests nor columns: `features.py` joins. Nor does it know what a store is: `Source` is the
door.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias

from cachetools import TTLCache

from policies.serving import Features
from serving_runtime.breaker import Breaker

_log = logging.getLogger(__name__)

# Keys in one question. A pipeline of 500 hashes of 20 fields is some 200 KB, and a store that answers one command in
# 10 us has it in 5 ms.
KEYS_PER_QUESTION = 500

# Of what is remembered, the part for keys that have no entry: they cost a few bytes and come mostly from mistakes.
SHARE_FOR_UNKNOWN = 0.1

# One failing source fails for every request: the first line says all, and the counts say how often.
LOG_EVERY_S = 10.0


class LookUp(StrEnum):
    """How a look-up of one key ended."""

    HIT = "hit"
    """The source has an entry, and every feature is in it."""
    CACHED = "cached"
    """So had it when it was asked last, which is not long ago."""
    DEFAULT = "default"
    """There is an entry, and a feature is missing in it or of a wrong type."""
    MISS = "miss"
    """The source has no entry; also where that is remembered."""
    TIMEOUT = "timeout"
    ERROR = "error"
    """The source raised, or its answer is no mapping."""
    OPEN = "open"
    """Not asked: the source has failed just now."""

    @property
    def is_failure(self) -> bool:
        """Nobody knows whether there is an entry."""
        return self in (LookUp.TIMEOUT, LookUp.ERROR, LookUp.OPEN)


class Found(NamedTuple):
    """What a look-up of one key found: the features that are there and of the right type."""

    outcome: LookUp
    values: Mapping[str, Any] = {}


class Checked(NamedTuple):
    """One entry after its check; `complete` when no feature is missing in it or wrong."""

    values: Mapping[str, Any]
    complete: bool
    wrong: tuple[str, ...] = ()
    """The features that are there and of no right type, with what reading them raised; never their values."""


class Source(Protocol):
    """The way to where features are."""

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Entries by key; keys without one are left out. May hang; may raise anything."""

    async def close(self) -> None:
        """Give back connections."""


class LookUpTally(Protocol):
    """Who counts look-ups."""

    def looked_up(self, outcome: LookUp, number: int) -> None:
        """So many keys were looked up with this outcome."""

    def waited_for_features(self, elapsed_ms: float) -> None:
        """One request waited for the source for that long."""


_Flight: TypeAlias = "asyncio.Task[Mapping[str, Found]]"


class LookUps:
    """The features of one replica's version. One event loop owns it."""

    def __init__(
        self,
        source: Source,
        check: Callable[[Mapping[str, Any]], Checked],
        *,
        terms: Features,
        tally: LookUpTally,
        clock: Callable[[], float],
    ) -> None:
        """`check` reads one entry as the source gave it; `clock` gives monotonic seconds."""
        self._source, self._check, self._tally, self._clock = source, check, tally, clock
        self._timeout_s = terms.timeout_ms / 1000.0
        self._remembers = terms.cache_ttl_s > 0
        self._breaker = Breaker()
        self._flights: dict[str, _Flight] = {}
        self._known: TTLCache[str, Found] = TTLCache(terms.cache_entries, terms.cache_ttl_s, clock)
        unknown = max(1, int(terms.cache_entries * SHARE_FOR_UNKNOWN))
        self._unknown: TTLCache[str, Found] = TTLCache(unknown, terms.cache_ttl_s, clock)
        self._logged_at: float | None = None

    async def look_up(self, keys: Iterable[str]) -> Mapping[str, Found]:
        """What is known of each of these keys, within the time limit."""
        distinct = dict.fromkeys(keys)
        found = {key: known for key in distinct if (known := self._remembered(key)) is not None}
        self._ask([key for key in distinct if key not in found and key not in self._flights])
        flights = {key: self._flights[key] for key in distinct if key not in found}
        if flights:
            found |= await self._landed(flights)
        self._count(found)
        return found

    async def close(self) -> None:
        """Give back the source's connections. Never raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._source.close()
        except Exception as error:  # noqa: BLE001 the replica goes away all the same
            _log.warning("the source of features was not closed: %s: %.200s", type(error).__name__, error)

    # --- what is remembered --------------------------------------------------------------------------------------

    def _remembered(self, key: str) -> Found | None:
        known = self._known.get(key)
        return self._unknown.get(key) if known is None else known

    def _remember(self, key: str, found: Found) -> None:
        if not self._remembers or found.outcome.is_failure:
            return
        if found.outcome is LookUp.MISS:
            self._unknown[key] = found
        else:
            outcome = LookUp.CACHED if found.outcome is LookUp.HIT else found.outcome
            self._known[key] = found._replace(outcome=outcome)

    # --- what is asked -------------------------------------------------------------------------------------------

    def _ask(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), KEYS_PER_QUESTION):
            some = keys[start : start + KEYS_PER_QUESTION]
            flight = asyncio.get_running_loop().create_task(self._fly(some))
            self._flights |= dict.fromkeys(some, flight)

    async def _landed(self, flights: Mapping[str, _Flight]) -> dict[str, Found]:
        """Wait for them. Every flight ends by itself within the time limit."""
        started = self._clock()
        await asyncio.wait(set(flights.values()))
        found = {key: flight.result()[key] for key, flight in flights.items()}
        if any(one.outcome is not LookUp.OPEN for one in found.values()):
            self._tally.waited_for_features((self._clock() - started) * 1000.0)
        return found

    async def _fly(self, keys: Sequence[str]) -> Mapping[str, Found]:
        try:
            found = await self._question(keys)
        finally:
            for key in keys:
                del self._flights[key]
        for key, one in found.items():
            self._remember(key, one)
        return found

    async def _question(self, keys: Sequence[str]) -> Mapping[str, Found]:
        """Ask the source once, and tell the breaker."""
        if not self._breaker.allows(self._clock()):
            return dict.fromkeys(keys, Found(LookUp.OPEN))
        asked = asyncio.get_running_loop().create_task(_entries(self._source, keys))
        try:
            await asyncio.wait({asked}, timeout=self._timeout_s)
        finally:
            asked.cancel()
            asked.add_done_callback(_forget)
        if not asked.done():
            return self._failed(keys, LookUp.TIMEOUT, f"no answer within {self._timeout_s * 1000:g} ms")
        error = asyncio.CancelledError("cancelled itself") if asked.cancelled() else asked.exception()
        if error is not None:
            outcome = LookUp.TIMEOUT if isinstance(error, TimeoutError) else LookUp.ERROR
            return self._failed(keys, outcome, f"{type(error).__name__}: {str(error)[:200]}")
        return self._answered(keys, asked.result())

    def _answered(self, keys: Sequence[str], entries: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Found]:
        if self._breaker.is_open:
            _log.warning("features are back: the breaker has closed")
        self._breaker.answered()
        return {key: self._read(entries.get(key)) for key in keys}

    def _read(self, entry: object) -> Found:
        if entry is None:
            return Found(LookUp.MISS)
        if not isinstance(entry, Mapping):
            return Found(LookUp.DEFAULT)  # this key's fault, not the source's: no breaker for it
        checked = self._check(entry)
        if checked.wrong:
            self._say(f"an entry has values of a wrong type: {', '.join(checked.wrong)}")
        return Found(LookUp.HIT if checked.complete else LookUp.DEFAULT, checked.values)

    def _failed(self, keys: Sequence[str], outcome: LookUp, reason: str) -> Mapping[str, Found]:
        now, was_open = self._clock(), self._breaker.is_open
        self._breaker.failed(now)
        if self._breaker.is_open and not was_open:
            _log.warning("features are not looked up for a while, the breaker has opened: %s", reason)
        else:
            self._say(f"a look-up of {len(keys)} keys failed: {reason}")
        return dict.fromkeys(keys, Found(outcome))

    def _say(self, trouble: str) -> None:
        """Once in a while: what is wrong with one is wrong with many."""
        now = self._clock()
        if self._logged_at is None or now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            _log.warning("%s", trouble)

    def _count(self, found: Mapping[str, Found]) -> None:
        outcomes = [one.outcome for one in found.values()]
        for outcome in set(outcomes):
            self._tally.looked_up(outcome, outcomes.count(outcome))


async def _entries(source: Source, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """The source's answer. Raises TypeError where it is none."""
    entries = await source.look_up(keys)
    if not isinstance(entries, Mapping):
        raise TypeError(f"the source answers with {type(entries).__name__}, not with a mapping of entries by key")
    return entries


def _forget(asked: asyncio.Task[Any]) -> None:
    """Its time is over and counted; reading the exception keeps asyncio from reporting it as never retrieved."""
    if not asked.cancelled():
        asked.exception()
