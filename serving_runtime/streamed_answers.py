"""What follows the head of an answer that streams, on its way to the user: `Answer.rest` -> events of an HTTP response.

The head (a status and the first event) is an answer like any other: drawn, timed, answered by stable in the candidate's
place where it fails. This is the rest, and how it ends is what it counts as (`stream_counts.py`).

Rules:
- Between two events as much time passes at most as an answer may take, and a stream ends after LONGEST_S.
- What goes wrong ends the stream with an event `error`: the user has seen half an answer, and nobody can give them the
  other half.
- A client that goes away closes the stream, and with it the model's generator. Where it went while it waited for an
  event, that event is waited for without it: a version that is slower than its clients' patience must not escape.
- How it ends is told once, whatever happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from starlette.responses import StreamingResponse

from serving_runtime.event_stream import EVENT_STREAM, error_event
from serving_runtime.outcomes import Ending
from serving_runtime.protocol import Answer, model_fault, timed_out
from serving_runtime.stream_counts import Streamed
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
    head: Answer, request_id: str, timeout_s: float, streamed: Streamed, longest_s: float = LONGEST_S
) -> AsyncGenerator[bytes, None]:
    """All events of a stream; `streamed` is told how it ends, after `longest_s` at the latest.

    Never raises for what a version or the way to it does.
    """
    if head.rest is None:
        yield head.body
        return
    streamed.followed()
    events, ending, limit = _Events(head.rest, timeout_s), Ending.LEFT, asyncio.timeout(longest_s)
    try:
        yield head.body
        async with limit:
            while (item := await events.next(streamed)) is not None:
                if isinstance(item, Answer):
                    ending = Ending.BROKE
                    yield error_event(item)
                    return
                yield item
        ending = Ending.WHOLE
    except TimeoutError:
        ending = Ending.BROKE if limit.expired() else Ending.LOST
        _log.warning("no event within %g s to request id %s", timeout_s, request_id)
        yield error_event(timed_out(request_id, timeout_s))
    except Exception as error:  # noqa: BLE001 the way to another version may raise anything
        ending = Ending.LOST
        _log.warning("the stream for request id %s broke: %r", request_id, error)
        yield error_event(model_fault(request_id))
    finally:
        if ending is Ending.LEFT and events.waits:
            streamed.spawn(events.wait_on(streamed))
        else:
            streamed.ended(ending)
            await events.close()


class _Events:
    """What follows the head of one stream."""

    def __init__(self, rest: AsyncGenerator[bytes | Answer, None], timeout_s: float) -> None:
        self._rest, self._timeout_s = rest, timeout_s
        self._next: asyncio.Future[bytes | Answer | None] | None = None
        self._until_s = 0.0

    async def next(self, streamed: Streamed) -> bytes | Answer | None:
        """The next event; none after the last. Raises TimeoutError, and whatever the way to a version raises."""
        self._until_s = asyncio.get_running_loop().time() + self._timeout_s
        self._next = asyncio.ensure_future(anext(self._rest, None))
        streamed.waits(True)
        item = await self._came(self._next, self._timeout_s)
        if not isinstance(item, Answer):
            streamed.waits(False)
        return item

    async def _came(self, event: asyncio.Future[bytes | Answer | None], timeout_s: float) -> bytes | Answer | None:
        # Not `wait_for`: where the event is there in the moment in which it is cancelled, it goes on as if it were not.
        done, _ = await asyncio.wait({event}, timeout=timeout_s)
        if not done:
            raise TimeoutError
        return event.result()

    @property
    def waits(self) -> bool:
        """Is an event under way?"""
        return self._next is not None and not self._next.done()

    async def wait_on(self, streamed: Streamed) -> None:
        """Wait for the event under way as long as its client would have had to, tell whether it came, and close."""
        ending = Ending.LOST
        try:
            if self._next is not None:
                left_s = self._until_s - asyncio.get_running_loop().time()
                item = await self._came(self._next, max(left_s, 0.0))
                ending = Ending.BROKE if isinstance(item, Answer) else Ending.LEFT
        except Exception as error:  # noqa: BLE001 the same
            _log.warning("an event that nobody waited for any more did not come: %r", error)
        finally:
            streamed.ended(ending)
            await self.close()

    async def close(self) -> None:
        """Let the version end."""
        if self._next is not None and self.waits:
            self._next.cancel()
            await asyncio.wait({self._next})
        await self._rest.aclose()


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
