"""What follows the head of an answer that streams, on its way to the user: `Answer.rest` -> events of an HTTP response.

The head (a status and the first event) is an answer like any other: drawn, timed, counted, answered by stable in the
candidate's place where it fails. This is the rest.

Rules:
- Between two events as much time passes at most as an answer may take, and a stream ends after LONGEST_S.
- What goes wrong ends the stream with an event `error`, and is told to `broke`: the user has seen half an answer, and
  nobody can give them the other half.
- A client that goes away closes the stream, and with it the model's generator. Nothing is counted for that: the head
  was, and what came since was in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Final

from starlette.responses import StreamingResponse

from serving_runtime.event_stream import EVENT_STREAM, error_event
from serving_runtime.protocol import Answer, model_fault, timed_out
from serving_runtime.user_config import LONGEST_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Send

_log = logging.getLogger(__name__)

LONGEST_S: Final = LONGEST_TIMEOUT_S
"""An hour, as the longest time that one answer may have."""
STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Proxies pass on each event as it comes."""


async def follow(
    head: Answer, request_id: str, timeout_s: float, broke: Callable[[], None]
) -> AsyncGenerator[bytes, None]:
    """All events of a stream; `broke` is called once at most. Never raises for what a version or the way to it does."""
    rest = head.rest
    if rest is None:
        yield head.body
        return
    try:
        yield head.body
        async with asyncio.timeout(LONGEST_S):
            while (item := await asyncio.wait_for(anext(rest, None), timeout_s)) is not None:
                if isinstance(item, Answer):
                    broke()
                    yield error_event(item)
                    return
                yield item
    except TimeoutError:
        _log.warning("no event within %g s to request id %s", timeout_s, request_id)
        broke()
        yield error_event(timed_out(request_id, timeout_s))
    except Exception as error:  # noqa: BLE001 the way to another version may raise anything
        _log.warning("the stream for request id %s broke: %r", request_id, error)
        broke()
        yield error_event(model_fault(request_id))
    finally:
        await rest.aclose()


class EventResponse(StreamingResponse):
    """Server-sent events; closes what it sends from as soon as nobody reads."""

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._events = events
        super().__init__(events, 200, {**STREAM_HEADERS, **headers}, media_type=EVENT_STREAM)

    async def stream_response(self, send: Send) -> None:
        """As Starlette does it. Raises what `send` raises."""
        try:
            await super().stream_response(send)
        finally:
            await self._events.aclose()
