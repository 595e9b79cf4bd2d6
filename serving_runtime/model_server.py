"""One version of a model: fetch, load, warm up, predict.

Rules:
- Ready means that it has answered: the artifact's own `serving_input_example.json` goes through the same path as a
  request before the first request does. A warm-up that fails ends the replica with the model's message, which Serve
  shows as the reason.
- Nothing here blocks the event loop: loading and predicting run in threads; requests wait in a `Line` (`batching.py`).
- A small body whose rows lack features is read on the event loop (AT_ONCE_BYTES), which takes less than a thread needs
  to begin.
- A call goes the short way where its dialect can read it as rows of the model's form, and the protocol's own way
  otherwise; the answer is the same.
- Latency is measured here, around everything this version does for a request, for requests and copies alike. Warm-up
  is not counted.

It must not know who asks (HTTP or a host) or what else is served.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from policies.errors import Stalled
from policies.serving import Batching
from serving_runtime.batching import Full, Limits, Line
from serving_runtime.description import UNNAMED, Named, describe
from serving_runtime.dialects import Dialect, dialect_of
from serving_runtime.event_stream import STREAMS_AT_ONCE, Streamer, wants_events
from serving_runtime.fast_features import AT_ONCE_BYTES, column_reader
from serving_runtime.fast_scoring import Form, Rows, fast_form, raw_predict
from serving_runtime.feature_columns import arrays_of
from serving_runtime.features import FeatureJoin, Used
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.misfits import misfit
from serving_runtime.outcomes import Outcome, outcome_of
from serving_runtime.protocol import (
    COPY_HEADER,
    JSON,
    Answer,
    Call,
    ModelFault,
    Parsed,
    Scored,
    error_answer,
    mark_faults,
    model_fault,
    overloaded,
    streams,
)
from serving_runtime.replica_log import about
from serving_runtime.stuck import stuck
from serving_runtime.torch_models import Owned, choose_device, settle
from serving_runtime.tracing import Tracer, Untraced, below

_log = logging.getLogger(__name__)

T = TypeVar("T")

UNAVAILABLE = 503

BAD_REQUEST = 400
FAILED = 500
EXAMPLE_FILE = "serving_input_example.json"  # MLflow's name for a ready request body


class Stage(StrEnum):
    """A part of a replica's start."""

    FETCH = "fetch"
    """From the registry, or from the node's disk."""
    LOAD = "load"
    WARM_UP = "warm_up"
    """Its first answer, to the model's own example."""


def _nobody(_rows: int) -> None:
    """Where nobody counts batches."""


class Meter(Protocol):
    """Where a server's times and sizes go. Cheap; never raises; called on the event loop."""

    def took(self, elapsed_ms: float) -> None:
        """One request was here for that long."""

    def took_batch(self, rows: int) -> None:
        """So many rows were predicted in one call."""

    def loaded(self, stage: Stage, seconds: float) -> None:
        """A stage of the start is over; no warm-up is, where the model has no example for it."""


class ModelServer:
    """A loaded model that answers calls."""

    def __init__(
        self,
        model: Any,
        took: Callable[[float], None],
        took_batch: Callable[[int], None] = _nobody,
        features: FeatureJoin | None = None,
        *,
        named: Named = UNNAMED,
        example: bytes | None = None,
        tracer: Tracer | None = None,
        cpus: float = 1.0,
    ) -> None:
        """`model` is a pyfunc model; `took(milliseconds)` is called after each request, `took_batch(rows)` each batch.

        Both on the event loop. `features` joins what the rows lack. `example` is the model's own request body, for its
        clients to see. `cpus` is what the replica owns.
        """
        mark_faults(model)
        self.described = describe(model, named, example)
        self._loaded = _Loaded(model)
        self._streamer = Streamer(model, self._loaded.input_schema) if streams(model) else None
        self._features = features
        self._reader = None if features is None else column_reader(self._loaded.form, features.key)
        self._joining = 0
        self._took = took
        self._tracer = tracer or Untraced()
        self._line: Line[Scored] = Line(self._loaded.predict, took_batch, cpus=cpus)

    @property
    def schemas(self) -> tuple[Any, Any]:
        """The model's MLflow schemas of inputs and outputs; None where it has none."""
        metadata = self._loaded.model.metadata
        return metadata.get_input_schema(), metadata.get_output_schema()

    def configure(self, batching: Batching | None) -> None:
        """Batch by these terms from now on; none: one request after the other. In place, at once."""
        self._line.configure(batching)

    def trouble(self, timeout_s: float) -> str:
        """Why the replica has to go, where a request may take that long; empty for no reason."""
        streams = () if self._streamer is None else self._streamer.computing_s
        return stuck(self._line.computing_s, Limits.threads, timeout_s) or stuck(streams, STREAMS_AT_ONCE, timeout_s)

    async def answer(self, call: Call) -> Answer:
        """The model's answer."""
        return (await self.scored(call)).answer

    async def scored(self, call: Call) -> Scored:
        """The model's answer with what went into it; its faults are logged under the request id."""
        started = time.perf_counter()
        counts = drawn = FORCE_HEADER not in call.headers  # who names a version is no sample of its users
        try:
            with self._tracer.span("predict", call) as span:
                scored = await self._score(below(call, span))
                span.answered(scored.answer.status, self.described.named.version)
            counts = drawn and outcome_of(scored.answer.status) is not Outcome.CLIENT_ERROR
        finally:
            if counts:
                self._took((time.perf_counter() - started) * 1000.0)
        id_ = call.request_id
        if scored.answer.status == BAD_REQUEST:
            if scored.fault is not None:
                words = "the model failed on request id %s, which holds what few models take"
                _log.info(words, id_, exc_info=scored.fault, extra=about(id_))
            return dataclasses.replace(scored, answer=self.described.hinted(scored.answer))
        if scored.fault is not None:
            _log.error("the model failed on request id %s", id_, exc_info=scored.fault, extra=about(id_))
        return scored

    async def close(self) -> None:
        """Give back what the features hold. Never raises."""
        if self._features is not None:
            await self._features.close()

    async def warm_up(self, folder: Path) -> bool:
        """Answer the artifact's own example; False where it has none. Raises Stalled with the model's words."""
        example = folder / EXAMPLE_FILE
        if not example.is_file():
            _log.warning("the model has no %s: it is not warmed up, and its first request pays for it", EXAMPLE_FILE)
            return False
        body = await asyncio.to_thread(example.read_bytes)
        scored = await self._score(Call(body=body, content_type=JSON, request_id="warm-up"), warming=True)
        if scored.answer.status == UNAVAILABLE:
            _log.warning("%s lacks features that are required: the model is not warmed up", EXAMPLE_FILE)
            return False
        if outcome_of(scored.answer.status) is not Outcome.GOOD:
            text = scored.answer.body.decode(errors="replace")
            reason = text if scored.fault is None else f"{type(scored.fault).__name__}: {scored.fault}"
            raise Stalled(f"the model fails on its own {EXAMPLE_FILE}: {reason}") from scored.fault
        return True

    async def _score(self, call: Call, *, warming: bool = False) -> Scored:
        if self._streamer is not None and wants_events(call):
            return await self._stream(call, self._streamer)
        dialect = dialect_of(call, self.described)
        try:
            if self._features is not None:
                return await self._score_joined(call, dialect, self._features, warming=warming)
            return await self._line.do(_Request(call, dialect, self._loaded))
        except Full:
            return Scored(overloaded(call.request_id))

    async def _stream(self, call: Call, streamer: Streamer) -> Scored:
        # A copy is answered whole: nobody waits for its parts.
        answer = streamer.whole if COPY_HEADER in call.headers else streamer.head
        features = self._features
        if features is None:
            return Scored(await self._blamed_head(call, streamer, await answer(call)))
        try:
            used = await self._used(call, features, partial(streamer.parse, call))
        except Full:
            return Scored(overloaded(call.request_id))
        if isinstance(used, Answer):
            return Scored(used)
        head = await answer(call, streamer.opening(partial(features.joined, used)))
        return Scored(await self._blamed_head(call, streamer, head), features=used.values)

    async def _blamed_head(self, call: Call, streamer: Streamer, head: Answer) -> Answer:
        """The first of a stream, or the client's fault where the model failed on what few models take."""
        if head.status != FAILED:
            return head
        parse = partial(streamer.parse, call)
        return await asyncio.to_thread(_refusal, parse, self._loaded) or head

    async def _score_joined(self, call: Call, dialect: Dialect, features: FeatureJoin, *, warming: bool) -> Scored:
        parse = partial(dialect.parse, self._loaded.model, self._loaded.input_schema, call)
        reader, columns = self._reader, None
        if reader is not None and len(call.body) <= AT_ONCE_BYTES:
            columns = dialect.columns(call, reader)
        elif reader is not None:
            parse = partial(_columns_or, parse, partial(dialect.columns, call, reader))
        used = await self._used(call, features, parse, columns, warming=warming)
        if isinstance(used, Answer):
            return Scored(used)
        scored = await self._line.do(_Joined(call, dialect, self._loaded, features, used))
        return dataclasses.replace(scored, features=used.values)

    async def _used(
        self,
        call: Call,
        features: FeatureJoin,
        parse: Callable[[], Parsed | Answer],
        columns: Mapping[str, Any] | None = None,
        *,
        warming: bool = False,
    ) -> Used | Answer:
        """The call's rows and what was looked up for them, or the answer to one that gets none. Raises Full.

        `columns`: the rows are read already, and are these.
        """
        if self._joining >= Limits.waiting:
            raise Full
        self._joining += 1
        try:
            if columns is None:
                lacking = await asyncio.to_thread(features.read, parse)
            else:
                lacking = features.read(partial(Parsed, columns, None))
            if isinstance(lacking, Answer):
                return lacking
            with self._tracer.span("features", call) as span:
                used = features.defaults_only(lacking) if warming else await features.look_up(lacking)
                span.note(answered=not isinstance(used, Answer))
        finally:
            self._joining -= 1
        return used


class _Loaded:
    """What the threads need of a model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.input_schema = model.metadata.get_input_schema()
        self.params_schema = model.metadata.get_params_schema()
        self.form: Form | None = fast_form(model)
        self._raw = raw_predict(model)

    def rows(self, columns: Mapping[str, Any]) -> Rows | None:
        """Rows of its form from arrays by name, which may be more than its inputs; None where they do not fit."""
        names = () if self.input_schema is None else self.input_schema.input_names()
        if self.form is None or not all(name in columns for name in names):
            return None
        return self.form.take({name: columns[name] for name in names})

    def predict(self, rows: Rows) -> Any:
        """The model's own predictions for rows of its form. Raises ModelFault."""
        if self.form is None:
            raise TypeError("rows of a model that takes none")
        return self._raw(self.form.data(rows))


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """One call in line."""

    call: Call
    dialect: Dialect
    loaded: _Loaded

    @property
    def size(self) -> int:
        return len(self.call.body)

    def read(self) -> Rows | None:
        form = self.loaded.form
        return None if form is None else self.dialect.read(self.call, form)

    def alone(self) -> Scored:
        scored = self.dialect.score(self.loaded.model, self.loaded.input_schema, self.call)
        return _blamed(scored, self.call, self.dialect, self.loaded)

    def write(self, predictions: Any) -> Scored:
        return self.dialect.write(self.call, predictions)

    def failed(self, error: Exception) -> Scored:
        return _blamed(_model_failed(self.call, error), self.call, self.dialect, self.loaded)


@dataclasses.dataclass(slots=True)
class _Joined:
    """One call in line, whose rows get their features before the model sees them."""

    call: Call
    dialect: Dialect
    loaded: _Loaded
    features: FeatureJoin
    used: Used
    parsed: Parsed | None = None
    broken: Exception | None = None

    @property
    def size(self) -> int:
        return len(self.call.body)

    def read(self) -> Rows | None:
        try:
            self.parsed = self.features.joined(self.used)
            return None if self.parsed.params else self.loaded.rows(arrays_of(self.parsed.data))
        except Exception as error:  # noqa: BLE001 a stranger's rows and a source's values: a job never raises
            self.broken = error
            return None

    def alone(self) -> Scored:
        if self.parsed is None or self.broken is not None:
            return _model_failed(self.call, self.broken or ValueError("the rows were not joined"))
        scored = self.dialect.finish(self.loaded.model, self.parsed, self.call)
        return _blamed(scored, self.call, self.dialect, self.loaded)

    def write(self, predictions: Any) -> Scored:
        return self.dialect.write(self.call, predictions)

    def failed(self, error: Exception) -> Scored:
        return _blamed(_model_failed(self.call, error), self.call, self.dialect, self.loaded)


def _columns_or(parse: Callable[[], Parsed | Answer], read: Callable[[], Mapping[str, Any] | None]) -> Parsed | Answer:
    """The rows of a request by the short way, or by its protocol's own."""
    columns = read()
    return parse() if columns is None else Parsed(columns, None)


def _model_failed(call: Call, error: Exception) -> Scored:
    reason = error.__cause__ if isinstance(error, ModelFault) else error
    return Scored(model_fault(call.request_id), reason)


def _blamed(scored: Scored, call: Call, dialect: Dialect, loaded: _Loaded) -> Scored:
    """Where the model failed on what few models take: the client's fault, and still with the model's reason."""
    if not isinstance(scored.fault, Exception) or isinstance(scored.fault, MemoryError):
        return scored  # no way to say no to rows
    refusal = _refusal(partial(dialect.parse, loaded.model, loaded.input_schema, call), loaded)
    return scored if refusal is None else dataclasses.replace(scored, answer=refusal)


def _refusal(parse: Callable[[], Parsed | Answer], loaded: _Loaded) -> Answer | None:
    """The answer to a request on which a model failed, if it holds what few models take. Blocks; never raises."""
    parsed = parse()
    words = misfit(parsed, loaded.input_schema, loaded.params_schema) if isinstance(parsed, Parsed) else ""
    return error_answer(BAD_REQUEST, "INVALID_PARAMETER_VALUE", words) if words else None


def load(folder: Path, owned: Owned) -> Any:
    """The pyfunc model in that folder. Blocks; raises what MLflow or the model's own code raises."""
    # Some models behave differently when they serve; this is how MLflow's own server tells them.
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    from mlflow import pyfunc

    choose_device(owned)
    model = pyfunc.load_model(str(folder))
    settle(model, owned)
    return model


async def start(
    folder: Callable[[], Path],
    owned: Owned,
    meter: Meter,
    features: Callable[[Any], Awaitable[FeatureJoin]] | None = None,
    named: Named = UNNAMED,
    tracer: Tracer | None = None,
) -> ModelServer:
    """Fetch (`folder()` blocks), load and warm up, all off the event loop. Raises what any of them raises.

    `features(input_schema)` is called when the model is loaded: its own code may hold the entry point.
    """
    path = await _timed(Stage.FETCH, meter, asyncio.to_thread(folder))
    model = await _timed(Stage.LOAD, meter, asyncio.to_thread(load, path, owned))
    join = await features(model.metadata.get_input_schema()) if features is not None else None
    example = await asyncio.to_thread(_example, path)
    server = ModelServer(
        model, meter.took, meter.took_batch, join, named=named, example=example, tracer=tracer, cpus=owned.cpus
    )
    started = time.perf_counter()
    if await server.warm_up(path):
        meter.loaded(Stage.WARM_UP, time.perf_counter() - started)
    return server


def _example(folder: Path) -> bytes | None:
    path = folder / EXAMPLE_FILE
    return path.read_bytes() if path.is_file() else None


async def _timed(stage: Stage, meter: Meter, work: Awaitable[T]) -> T:
    started = time.perf_counter()
    result = await work
    meter.loaded(stage, time.perf_counter() - started)
    return result
