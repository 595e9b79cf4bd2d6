"""One version of a model: fetch, load, warm up, predict.

Rules:
- Ready means that it has answered: the artifact's own `serving_input_example.json` goes through the same path as a
  request before the first request does. A warm-up that fails ends the replica with the model's message, which Serve
  shows as the reason.
- Nothing here blocks the event loop: loading and predicting run in threads; requests wait in a `Line` (`batching.py`).
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
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from policies.errors import Stalled
from policies.serving import Batching
from serving_runtime.batching import Full, Line
from serving_runtime.dialects import Dialect, dialect_of
from serving_runtime.fast_scoring import Form, Rows, fast_form, raw_predict
from serving_runtime.outcomes import Outcome, outcome_of
from serving_runtime.protocol import JSON, Answer, Call, ModelFault, Scored, mark_faults, model_fault, overloaded

_log = logging.getLogger(__name__)

T = TypeVar("T")

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


class ModelServer:
    """A loaded model that answers calls."""

    def __init__(self, model: Any, took: Callable[[float], None], took_batch: Callable[[int], None] = _nobody) -> None:
        """`model` is a pyfunc model; `took(milliseconds)` is called after each request, `took_batch(rows)` each batch.

        Both on the event loop.
        """
        mark_faults(model)
        self._loaded = _Loaded(model)
        self._took = took
        self._line: Line[Scored] = Line(self._loaded.predict, took_batch)

    @property
    def schemas(self) -> tuple[Any, Any]:
        """The model's MLflow schemas of inputs and outputs; None where it has none."""
        metadata = self._loaded.model.metadata
        return metadata.get_input_schema(), metadata.get_output_schema()

    def configure(self, batching: Batching | None) -> None:
        """Batch by these terms from now on; none: one request after the other. In place, at once."""
        self._line.configure(batching)

    async def answer(self, call: Call) -> Answer:
        """The model's answer; its faults are logged under the request id."""
        started = time.perf_counter()
        counts = True
        try:
            scored = await self._score(call)
            counts = outcome_of(scored.answer.status) is not Outcome.CLIENT_ERROR
        finally:
            if counts:
                self._took((time.perf_counter() - started) * 1000.0)
        if scored.fault is not None:
            _log.error("the model failed on request id %s", call.request_id, exc_info=scored.fault)
        return scored.answer

    async def warm_up(self, folder: Path) -> bool:
        """Answer the artifact's own example; False where it has none. Raises Stalled with the model's words."""
        example = folder / EXAMPLE_FILE
        if not example.is_file():
            _log.warning("the model has no %s: it is not warmed up, and its first request pays for it", EXAMPLE_FILE)
            return False
        body = await asyncio.to_thread(example.read_bytes)
        scored = await self._score(Call(body=body, content_type=JSON, request_id="warm-up"))
        if outcome_of(scored.answer.status) is not Outcome.GOOD:
            text = scored.answer.body.decode(errors="replace")
            reason = text if scored.fault is None else f"{type(scored.fault).__name__}: {scored.fault}"
            raise Stalled(f"the model fails on its own {EXAMPLE_FILE}: {reason}") from scored.fault
        return True

    async def _score(self, call: Call) -> Scored:
        try:
            return await self._line.do(_Request(call, dialect_of(call), self._loaded))
        except Full:
            return Scored(overloaded(call.request_id))


class _Loaded:
    """What the threads need of a model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.input_schema = model.metadata.get_input_schema()
        self.form: Form | None = fast_form(model)
        self._raw = raw_predict(model)

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
        return self.dialect.score(self.loaded.model, self.loaded.input_schema, self.call)

    def write(self, predictions: Any) -> Scored:
        return self.dialect.write(self.call, predictions)

    def failed(self, error: Exception) -> Scored:
        reason = error.__cause__ if isinstance(error, ModelFault) else error
        return Scored(model_fault(self.call.request_id), reason)


def load(folder: Path) -> Any:
    """The pyfunc model in that folder. Blocks; raises what MLflow or the model's own code raises."""
    # Some models behave differently when they serve; this is how MLflow's own server tells them.
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    from mlflow import pyfunc

    return pyfunc.load_model(str(folder))


async def start(
    folder: Callable[[], Path], took: Callable[[float], None], loaded: Callable[[Stage, float], None]
) -> ModelServer:
    """Fetch (`folder()` blocks), load and warm up, all off the event loop. Raises what any of them raises.

    `loaded(stage, seconds)` is called after each stage; not for a warm-up that the model has no example for.
    """
    path = await _timed(Stage.FETCH, loaded, asyncio.to_thread(folder))
    server = ModelServer(await _timed(Stage.LOAD, loaded, asyncio.to_thread(load, path)), took)
    started = time.perf_counter()
    if await server.warm_up(path):
        loaded(Stage.WARM_UP, time.perf_counter() - started)
    return server


async def _timed(stage: Stage, loaded: Callable[[Stage, float], None], work: Awaitable[T]) -> T:
    started = time.perf_counter()
    result = await work
    loaded(stage, time.perf_counter() - started)
    return result
