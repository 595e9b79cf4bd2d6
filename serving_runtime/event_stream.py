"""Answers of models that stream (`predict_stream`), as server-sent events: request -> events, one for each chunk.

An event is `data: <the chunk as JSON>`; after the last chunk comes `data: [DONE]`, as MLflow's own agent server and
most clients of language models have it. What goes wrong after the first chunk is an event `error`, and the last.

Rules:
- A stream is a sequence of `Answer | bytes`: first an answer with a status (its body holds the first event), then
  events. An answer in place of a later event says that the stream broke.
- Until the first chunk everything is an ordinary answer: 400 for a request that does not fit, 500 for a model that
  fails at once.
- A model's generator runs in one thread from its first step to its last: what it holds (a session, a device, gradients
  switched off) may belong to a thread. Such threads are its own, so that streams never starve ordinary requests.
- Rows that lack features get them first (`features.py`); such a stream is then opened with the joined rows.
- It is at most CHUNKS_AHEAD chunks ahead of whoever reads. Whoever stops reading ends it at its next chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Final

from serving_runtime.protocol import (
    JSON,
    Answer,
    Call,
    ModelFault,
    Parsed,
    model_fault,
    parse,
    request_error,
    stop_after_s,
    without_rows,
)

_log = logging.getLogger(__name__)

ACCEPT: Final = "accept"
EVENT_STREAM: Final = "text/event-stream"
DONE: Final = b"data: [DONE]\n\n"

# Streams in progress at one replica: each has a thread. One that comes on top waits for its first chunk within its
# request's time. A language model that serves more at once batches them itself and is its own server.
STREAMS_AT_ONCE: Final = 32
# Enough that the network never waits for the model; few enough that a client that reads slowly holds the model up
# instead of filling memory.
CHUNKS_AHEAD: Final = 4
# A whole answer that is collected from a stream (for a copy in shadow): as large as a request may be.
WHOLE_LIMIT_BYTES: Final = 8 * 1024 * 1024

_WANTS_ONE_ROW: Final = "'predict_stream' requires single input"  # how MLflow begins such a message
_END: Final = object()

Opening = Callable[[], Iterator[Any]]
"""Opens a model's stream, in its thread. Raises what `chunks_of` raises."""


class Streamer:
    """Runs the streams of one loaded model."""

    def __init__(self, model: Any, input_schema: Any) -> None:
        """`model` is one after `mark_faults`."""
        self._model = model
        self._input_schema = input_schema
        self._threads = ThreadPoolExecutor(STREAMS_AT_ONCE, thread_name_prefix="stream")
        self._pumps: set[_Pump] = set()

    @property
    def computing_s(self) -> tuple[float, ...]:
        """For how long each stream that the model computes has been at one chunk, in seconds."""
        now = time.monotonic()
        begun = [pump.computing_since for pump in tuple(self._pumps)]  # threads take their own out
        return tuple(now - since for since in begun if since is not None)

    def parse(self, call: Call) -> Parsed | Answer:
        """A call's rows, for who changes them, or the answer to one that has none. Blocks; never raises."""
        try:
            _only_json(call)
        except Exception as error:  # noqa: BLE001 MLflow's own
            return request_error(error)
        return parse(self._model, self._input_schema, call)

    def opening(self, join: Callable[[], Parsed]) -> Opening:
        """The stream of the model for rows that `join()` makes, in its thread."""
        return lambda: _joined_chunks(self._model, join)

    async def stream(self, call: Call, opening: Opening | None = None) -> AsyncGenerator[Answer | bytes, None]:
        """The answer to one call, as it comes. Closing it ends the model's generator at its next chunk.

        `opening`: of rows that are not the call's own.
        """
        pump = _Pump(opening or (lambda: chunks_of(self._model, self._input_schema, call)))
        working = self._threads.submit(pump.run)
        self._pumps.add(pump)
        working.add_done_callback(lambda _: self._pumps.discard(pump))
        began = False
        try:
            async for event in pump.events():
                if isinstance(event, bytes):
                    yield event if began else Answer(200, event, EVENT_STREAM)
                    began = True
                else:
                    yield _failure(event, call, began=began)
                    return
            yield DONE if began else Answer(200, DONE, EVENT_STREAM)
        finally:
            working.cancel()  # one that has not begun never does
            pump.stop()

    async def head(self, call: Call, opening: Opening | None = None) -> Answer:
        """The first event as an answer, which has the others as its rest."""
        items = self.stream(call, opening)
        head = await anext(items)
        if not isinstance(head, Answer) or head.status != 200:  # noqa: PLR2004 the head of a good one
            await items.aclose()
            return head if isinstance(head, Answer) else model_fault(call.request_id)
        return head._replace(rest=items)

    async def whole(self, call: Call, opening: Opening | None = None) -> Answer:
        """All events in one answer; the status is that of the worst that happened.

        For a copy that need not have all: those that came within its time, and the first in any case.
        """
        enough_s = stop_after_s(call)
        until = None if enough_s is None else asyncio.get_running_loop().time() + enough_s
        async with aclosing(self.stream(call, opening)) as stream:
            head = await anext(stream)
            if not isinstance(head, Answer) or head.status != 200:  # noqa: PLR2004 the head of a good one
                return head if isinstance(head, Answer) else model_fault(call.request_id)
            body = bytearray(head.body)
            with contextlib.suppress(TimeoutError):  # what came so far is what was asked for
                async with asyncio.timeout_at(until):
                    async for item in stream:
                        if isinstance(item, Answer):
                            return item
                        body += item
                        if len(body) > WHOLE_LIMIT_BYTES:
                            _log.error("the whole stream for request id %s is too large", call.request_id)
                            return model_fault(call.request_id)
        return Answer(200, bytes(body), EVENT_STREAM)


def wants_events(call: Call) -> bool:
    """Does whoever asks want a stream, if the model has one?"""
    return call.headers.get(ACCEPT) == EVENT_STREAM


def asked_for_events(accept: str, body: bytes) -> bool:
    """Does a request ask for a stream: by `accept`, or as MLflow's agents do, by `"stream": true` in its body?"""
    if EVENT_STREAM in accept:
        return True
    if b'"stream"' not in body:
        return False
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):  # the model server says what is wrong with it
        return False
    return isinstance(told, dict) and told.get("stream") is True


class _Pump:
    """One generator in its thread, and its chunks on the event loop."""

    def __init__(self, open_chunks: Callable[[], Iterator[Any]]) -> None:
        self._open = open_chunks
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Queue[Any] = asyncio.Queue()  # bounded by the room below
        self._room = threading.Semaphore(CHUNKS_AHEAD)
        self._stopped = threading.Event()
        self.computing_since: float | None = None
        """Since when the model has been at the chunk it is at; none while nobody waits for it."""

    def run(self) -> None:
        """In the thread."""
        self.computing_since = time.monotonic()
        try:
            chunks = self._open()
            try:
                for chunk in chunks:
                    self.computing_since = None
                    self._room.acquire()
                    if self._stopped.is_set():
                        return
                    self._hand_over(event_of(chunk))
                    self.computing_since = time.monotonic()
            finally:
                close = getattr(chunks, "close", None)
                if close is not None:
                    close()
            self._hand_over(_END)
        except BaseException as error:  # noqa: BLE001 a SystemExit from a model ends its stream and not the thread pool
            self._hand_over(error)

    def _hand_over(self, item: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.put_nowait, item)
        except RuntimeError:
            _log.info("the replica's loop has ended before a stream did")

    async def events(self) -> AsyncIterator[bytes | BaseException]:
        """Events as they come; an exception is the last."""
        while (item := await self._ready.get()) is not _END:
            yield item
            self._room.release()

    def stop(self) -> None:
        """Let the thread end at its next chunk."""
        self._stopped.set()
        self._room.release()


def chunks_of(model: Any, input_schema: Any, call: Call) -> Iterator[Any]:
    """Parse a call as MLflow's server does, and open the model's stream. Raises what MLflow raises, and ModelFault."""
    from mlflow.pyfunc import scoring_server

    _only_json(call)
    parsed = scoring_server._parse_json_data(call.body, model.metadata, input_schema)  # noqa: SLF001 MLflow has no public name for it
    chunks: Iterator[Any] = model.predict_stream(parsed.data, params=parsed.params)
    return chunks


def _only_json(call: Call) -> None:
    from mlflow.exceptions import MlflowException

    if (call.content_type or "").partition(";")[0].strip() != JSON:
        raise MlflowException.invalid_parameter_value(
            f"A stream is asked for in {JSON}, not {call.content_type!r:.100}."
        )


def _joined_chunks(model: Any, join: Callable[[], Parsed]) -> Iterator[Any]:
    """Open the model's stream for joined rows. What is wrong with them is said without quoting them."""
    try:
        parsed = join()
    except Exception as error:
        raise ModelFault("the rows were not joined") from error
    try:
        yield from model.predict_stream(parsed.data, params=parsed.params)
    except ModelFault:
        raise
    except Exception as error:
        raise _unquoted(error) from error


def _unquoted(error: Exception) -> Exception:
    """What MLflow says about rows, without the rows: others than their sender have added to them."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.message.startswith(_WANTS_ONE_ROW):
        one_row: Exception = MlflowException.invalid_parameter_value("A stream is the answer to one row.")
        return one_row
    return without_rows(error)


def event_of(chunk: Any) -> bytes:
    """One chunk as an event. Raises ModelFault for what JSON cannot hold."""
    from mlflow.utils.proto_json_utils import NumpyEncoder, _get_jsonable_obj

    try:
        # JSON has no line feeds outside of strings, where they are escaped: an event is one line.
        return b"data: " + json.dumps(_get_jsonable_obj(chunk), cls=NumpyEncoder).encode() + b"\n\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFault("a chunk is no JSON") from error


def error_event(answer: Answer) -> bytes:
    """The last event of a stream that broke; its data is the error's body."""
    return b"event: error\ndata: " + answer.body.replace(b"\n", b" ") + b"\n\n"


def _failure(error: BaseException, call: Call, *, began: bool) -> Answer:
    """The request's fault only before the model's own code ran."""
    if isinstance(error, Exception) and not isinstance(error, ModelFault) and not began:
        return request_error(error)
    reason = error.__cause__ or error
    _log.error("the model failed on request id %s", call.request_id, exc_info=reason)
    return model_fault(call.request_id)
