"""Features for the rows of a request: the way from `features` of a model document to columns that the model sees.

Rules:
- The entry point runs once, while the replica starts. What it raises ends the start, with the document's words: a
  version whose features cannot be had is never ready. A store that is away must not make it raise.
- A look-up that fails never fails a request, unless a feature is required (`required` of the document):
  then 503, because it is nobody's fault who asked. A key that the store does not know is the request's fault: 400.
- What was used for a request is told to whoever listens (capture, traces), row by row.
- Answers name features and the key's field, never a key or a value: those may be somebody's.

What is asked and remembered is in `look_ups.py`, what becomes of columns in `feature_columns.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

from policies.errors import BadInput, Stalled
from policies.serving import Features
from serving_runtime.feature_columns import Columns, Lacking
from serving_runtime.look_ups import Found, LookUp, LookUps, LookUpTally, Source
from serving_runtime.protocol import RETRY_AFTER_S, Answer, Parsed, error_answer, try_again

# For sources that block. As many as a replica's threads that predict: more questions at once than that come only while
# the source is slow, and those are better given up.
SOURCE_THREADS = 8

# For an entry point: it opens a pool, or reads a registry of features. A minute is a replica's warm-up.
START_LIMIT_S = 60.0


@runtime_checkable
class FeatureSource(Protocol):
    """What an entry point makes. Both methods may be plain functions instead: they are called in a thread."""

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Entries by key: features by name. Keys without an entry are left out. It may raise when the store is away."""

    async def close(self) -> None:
        """Give back connections: the replica ends."""


class Read(NamedTuple):
    """A request's rows, and what MLflow calls params."""

    rows: Lacking
    params: Mapping[str, Any] | None = None


class Used(NamedTuple):
    """The features of a request's rows, one mapping a row: only those that the request did not carry itself."""

    read: Read
    values: tuple[Mapping[str, Any], ...] = ()


class FeatureJoin:
    """Looks up and joins what one version's requests lack."""

    def __init__(self, columns: Columns, look_ups: LookUps) -> None:
        self._columns, self._look_ups = columns, look_ups

    def read(self, parse: Callable[[], Parsed | Answer]) -> Read | Answer:
        """Parse, and see what the rows lack; or the answer that says what is wrong about the request. For a thread."""
        parsed = parse()
        if isinstance(parsed, Answer):
            return parsed
        try:
            return Read(self._columns.rows(parsed.data), parsed.params)
        except BadInput as error:
            return error_answer(400, "INVALID_PARAMETER_VALUE", str(error))

    async def look_up(self, read: Read) -> Used | Answer:
        """The features of these rows within the time limit, or the answer where a required one cannot be had."""
        keys = dict.fromkeys(key for key in read.rows.keys if key is not None)
        found = await self._look_ups.look_up(keys) if keys else {}
        return self._used(read, found)

    def defaults_only(self, read: Read) -> Used | Answer:
        """The same without asking anybody; 503 where a default is not enough."""
        used = self._used(read, dict.fromkeys(filter(None, read.rows.keys), Found(LookUp.OPEN)))
        return used if isinstance(used, Used) else _away((), LookUp.OPEN)

    def joined(self, used: Used) -> Parsed:
        """The rows with their features. For a thread."""
        return Parsed(self._columns.joined(used.read.rows, used.values), used.read.params)

    def _used(self, read: Read, found: Mapping[str, Found]) -> Used | Answer:
        values = self._columns.values(read.rows, found)
        required = [name for name in read.rows.missing if name in self._columns.required]
        for key, row in zip(read.rows.keys, values, strict=True):
            lacks = [name for name in required if name not in row]
            if lacks:
                return self._refusal(lacks, None if key is None else found[key])
        return Used(read, values)

    async def close(self) -> None:
        """Give back the source's connections. Never raises."""
        await self._look_ups.close()

    def _refusal(self, lacks: Sequence[str], found: Found | None) -> Answer:
        names = ", ".join(lacks)
        if found is None:
            message = f"A row has no value in {self._columns.key!r}, by which {names} must be looked up."
            return error_answer(400, "INVALID_PARAMETER_VALUE", message)
        if found.outcome is LookUp.MISS:
            message = f"Nothing is known of a value of {self._columns.key!r}, by which {names} must be looked up."
            return error_answer(400, "INVALID_PARAMETER_VALUE", message)
        return _away(lacks, found.outcome)


def _away(lacks: Sequence[str], outcome: LookUp) -> Answer:
    return try_again(f"{', '.join(lacks)} cannot be looked up now ({outcome}). Try again in {RETRY_AFTER_S} s.")


# --- starting ---------------------------------------------------------------------------------------------------


async def start(
    terms: Features, input_schema: Any, tally: LookUpTally, clock: Callable[[], float] = time.monotonic
) -> FeatureJoin:
    """Call the entry point and fit the features to the model's signature (MLflow's input schema, or None).

    Raises Stalled with what is wrong about the document or the entry point.
    """
    try:
        columns = Columns(terms, input_schema)
    except BadInput as error:
        raise Stalled(f"the features do not fit the model: {error}") from error
    source = await make_source(terms)
    return FeatureJoin(columns, LookUps(source, columns.check, terms=terms, tally=tally, clock=clock))


async def make_source(terms: Features) -> Source:
    """What the entry point makes of its options. Raises Stalled with the reason where it makes none."""
    try:
        async with asyncio.timeout(START_LIMIT_S):
            factory = await asyncio.to_thread(_import, terms.entry_point)
            made = await _called(factory, dict(terms.options))
    except Exception as error:
        raise Stalled(f"features.entry_point {terms.entry_point}: {type(error).__name__}: {error}") from error
    if not isinstance(made, FeatureSource):
        raise Stalled(f"features.entry_point {terms.entry_point} makes {type(made).__name__}: no look_up and close")
    return made if inspect.iscoroutinefunction(made.look_up) else InThreads(made)


def _import(entry_point: str) -> Callable[[Mapping[str, Any]], Any]:
    module, _, name = entry_point.partition(":")
    factory: Callable[[Mapping[str, Any]], Any] = getattr(importlib.import_module(module), name)
    return factory


async def _called(factory: Callable[[Mapping[str, Any]], Any], options: Mapping[str, Any]) -> Any:
    """An `async def` runs on the loop, anything else in a thread: it may read a registry for seconds."""
    if inspect.iscoroutinefunction(factory):
        return await factory(options)
    return await asyncio.to_thread(factory, options)


class InThreads:
    """A source that blocks, as one that does not."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._threads = ThreadPoolExecutor(SOURCE_THREADS, thread_name_prefix="features")

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Ask in a thread. Cancelled before its turn it is not asked; later it runs on, and nobody reads it."""
        answer: Awaitable[Mapping[str, Mapping[str, Any]]] = asyncio.get_running_loop().run_in_executor(
            self._threads, self._source.look_up, keys
        )
        return await answer

    async def close(self) -> None:
        """Close the source, and let no thread wait for one that hangs."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._source.close)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
