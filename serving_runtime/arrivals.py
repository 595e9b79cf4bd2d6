"""Bodies on their way to a door: read up to their limits, and no more slow ones at once than there is room for.

Rules:
- A body on its way takes no place of those who are answered (`room.py`): its client decides how long it takes.
- Nearly every body is here within milliseconds. One that is not after SLOW_AFTER_S is slow. Only so many may be slow at
  once, and hold so many bytes: above that the oldest gives way, so whoever opens connections and sends nothing pushes
  out their own, and everybody else is let in.
- What a body declares counts for nothing but the limit: bytes count when they are here.
- Bodies come as they are. A compressed one is refused: unpacked, a few bytes may be gigabytes.
- A body that comes at once costs one timer and nothing else.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Final

from serving_runtime.protocol import BODY_LIMIT_BYTES, Answer, error_answer, too_large

if TYPE_CHECKING:
    from starlette.requests import Request

BODY_WITHIN_S: Final = 60.0
"""8 MiB by a line of 1 Mbit/s take 67 s, and nearly every body is a thousandth of that."""
SLOW_AFTER_S: Final = 1.0
"""A hundred times what an ordinary body takes."""
SLOW_LIMIT_BYTES: Final = 128 * 1024 * 1024
"""Of all slow bodies together: sixteen of the largest."""
CLIENT_GONE: Final = 499  # nobody reads it; it is what Serve calls an aborted request in its own metrics
_ENCODING, _LENGTH = b"content-encoding", b"content-length"
_DIGITS: Final = 12  # of a length: more would be longer than any body
_LONGEST_SHOWN: Final = 40


@dataclasses.dataclass(slots=True, eq=False)
class _Arrival:
    timeout: asyncio.Timeout
    since: float
    size: int = 0
    slow: bool = False
    gave_way: bool = False


class Arrivals:
    """The bodies on their way to one door. One event loop owns it."""

    def __init__(
        self,
        *,
        slow_after_s: float = SLOW_AFTER_S,
        within_s: float = BODY_WITHIN_S,
        slow_limit_bytes: int = SLOW_LIMIT_BYTES,
    ) -> None:
        """A body has `within_s` to come to its end, and is slow after `slow_after_s`."""
        self._slow_after_s, self._within_s = slow_after_s, within_s
        self._slow_limit_bytes = slow_limit_bytes
        self._slow: dict[_Arrival, None] = {}  # the oldest first
        self._slow_bytes = 0
        self._most = 1

    @property
    def slow(self) -> int:
        """How many bodies are slow."""
        return len(self._slow)

    async def read(self, request: Request, most: int, limit_bytes: int = BODY_LIMIT_BYTES) -> bytes | Answer:
        """The body, or the answer to one that is packed, too large or too slow, or that nobody waits for any more.

        `most` is how many may be slow at once from now on, at least 1.
        """
        for name, value in request.scope["headers"]:  # once, and not by Starlette's, which read them all for each name
            if name == _ENCODING and value.lower() not in (b"", b"identity"):
                return _packed(value.decode("latin-1"))
            # Python makes no number of some thousands of digits.
            if name == _LENGTH and value.isdigit() and (len(value) > _DIGITS or int(value) > limit_bytes):
                return too_large(limit_bytes)
        self._most = most
        loop = asyncio.get_running_loop()
        arrival = _Arrival(asyncio.timeout(None), loop.time())
        timer = loop.call_later(self._slow_after_s, self._turn_slow, arrival)
        try:
            async with arrival.timeout:
                return await self._parts(request, arrival, limit_bytes)
        except TimeoutError:
            return self._too_slow(arrival)
        finally:
            timer.cancel()
            self._forget(arrival)

    async def _parts(self, request: Request, arrival: _Arrival, limit_bytes: int) -> bytes | Answer:
        chunks: list[bytes] = []
        more = True
        while more:
            # Not `request.stream()`: most bodies are one message, and Starlette's generator costs more than reading it.
            message = await request.receive()
            if arrival.gave_way:  # and its task has not been told yet
                return self._too_slow(arrival)
            if message["type"] == "http.disconnect":
                return Answer(CLIENT_GONE, b"")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if arrival.size + len(chunk) > limit_bytes:
                return too_large(limit_bytes)
            chunks.append(chunk)
            self._grow(arrival, len(chunk))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _grow(self, arrival: _Arrival, size: int) -> None:
        arrival.size += size
        if arrival.slow:
            self._slow_bytes += size
            self._keep_to_limits()

    def _turn_slow(self, arrival: _Arrival) -> None:
        arrival.slow = True
        self._slow[arrival] = None
        self._slow_bytes += arrival.size
        if not arrival.timeout.expired():
            arrival.timeout.reschedule(arrival.since + self._within_s)
        self._keep_to_limits()

    def _keep_to_limits(self) -> None:
        while len(self._slow) > self._most or (self._slow_bytes > self._slow_limit_bytes and self._slow):
            oldest = next(iter(self._slow))
            self._forget(oldest)
            oldest.gave_way = True
            if not oldest.timeout.expired():
                oldest.timeout.reschedule(asyncio.get_running_loop().time())

    def _forget(self, arrival: _Arrival) -> None:
        if arrival.slow:
            arrival.slow = False
            del self._slow[arrival]
            self._slow_bytes -= arrival.size

    def _too_slow(self, arrival: _Arrival) -> Answer:
        words = f"The request body did not arrive within {self._within_s:g} s."
        if arrival.gave_way:
            lasted = asyncio.get_running_loop().time() - arrival.since
            words = f"The request body was not here after {lasted:.1f} s, and too many come as slowly. Try again later."
        return error_answer(408, "TIMEOUT", words)._replace(headers=(("connection", "close"),))


def _packed(encoding: str) -> Answer:
    words = f"content-encoding {encoding[:_LONGEST_SHOWN]!r} is not supported: send the body as it is, without it."
    return error_answer(415, "BAD_REQUEST", words)._replace(headers=(("accept-encoding", "identity"),))
