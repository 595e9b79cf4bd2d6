"""One version of a model: fetch, load, warm up, predict.

Rules:
- Ready means that it has answered: the artifact's own `serving_input_example.json` goes through the same path as a
  request before the first request does. A warm-up that fails ends the replica with the model's message, which Serve
  shows as the reason.
- Nothing here blocks the event loop: loading and predicting run in threads of a bounded pool.
- Latency is measured here, around everything this version does for a request, for requests and copies alike. Warm-up
  is not counted.

It must not know who asks (HTTP or a host) or what else is served.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from policies.errors import Stalled
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.outcomes import Outcome, outcome_of
from serving_runtime.protocol import JSON, Answer, Call, Scored, mark_faults, score

_log = logging.getLogger(__name__)

# More than the cores that a replica usually reserves, because models wait (for a feature store, for a device) and
# release the interpreter; few enough that their working memory is bounded. What comes on top waits in line, within its
# request's timeout.
PREDICT_THREADS = 8

EXAMPLE_FILE = "serving_input_example.json"  # MLflow's name for a ready request body


class ModelServer:
    """A loaded model that answers calls."""

    def __init__(self, model: Any, took: Callable[[float], None]) -> None:
        """`model` is a pyfunc model; `took(milliseconds)` is called after each request."""
        mark_faults(model)
        self._model = model
        self._input_schema = model.metadata.get_input_schema()
        self._took = took
        self._threads = ThreadPoolExecutor(PREDICT_THREADS, thread_name_prefix="predict")

    async def answer(self, call: Call) -> Answer:
        """The model's answer; its faults are logged under the request id."""
        started = time.perf_counter()
        counts = drawn = FORCE_HEADER not in call.headers  # who names a version is no sample of its users
        try:
            scored = await self._score(call)
            counts = drawn and outcome_of(scored.answer.status) is not Outcome.CLIENT_ERROR
        finally:
            if counts:
                self._took((time.perf_counter() - started) * 1000.0)
        if scored.fault is not None:
            _log.error("the model failed on request id %s", call.request_id, exc_info=scored.fault)
        return scored.answer

    async def warm_up(self, folder: Path) -> None:
        """Answer the artifact's own example. Raises Stalled with the model's words when that fails."""
        path = folder / EXAMPLE_FILE
        if not path.is_file():
            _log.info("the model has no %s: it is not warmed up", EXAMPLE_FILE)
            return
        started = time.perf_counter()
        body = await asyncio.to_thread(path.read_bytes)
        scored = await self._score(Call(body=body, content_type=JSON, request_id="warm-up"))
        if outcome_of(scored.answer.status) is not Outcome.GOOD:
            text = scored.answer.body.decode(errors="replace")
            reason = text if scored.fault is None else f"{type(scored.fault).__name__}: {scored.fault}"
            raise Stalled(f"the model fails on its own {EXAMPLE_FILE}: {reason}") from scored.fault
        _log.info("warmed up with %s in %.0f ms", EXAMPLE_FILE, (time.perf_counter() - started) * 1000.0)

    async def _score(self, call: Call) -> Scored:
        work = partial(score, self._model, self._input_schema, call)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def load(folder: Path) -> Any:
    """The pyfunc model in that folder. Blocks; raises what MLflow or the model's own code raises."""
    # Some models behave differently when they serve; this is how MLflow's own server tells them.
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    from mlflow import pyfunc

    return pyfunc.load_model(str(folder))


async def start(folder: Callable[[], Path], took: Callable[[float], None]) -> ModelServer:
    """Fetch (`folder()` blocks), load and warm up, all off the event loop. Raises what any of them raises."""
    path = await asyncio.to_thread(folder)
    started = time.perf_counter()
    server = ModelServer(await asyncio.to_thread(load, path), took)
    _log.info("loaded in %.1f s", time.perf_counter() - started)
    await server.warm_up(path)
    return server
