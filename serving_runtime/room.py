"""Room for requests at one replica: so many in progress, so many in line, and the rest is told to come again later.

Serve has such limits too, and answers by itself where they are reached: in plain text, in no protocol's words, counted
nowhere that we look, and health checks get it as well. So the door has them a little below Serve's
(`serve_config.SPARE`), and what is turned away says so in its protocol and when to try again.

Rules:
- In line is first come, first served; nobody overtakes.
- Who waits too long is turned away: an answer that comes after its request's time is of use to nobody.
- Who waits in line has sent their body (`arrivals.py`), and all of these are kept to LINE_LIMIT_BYTES.
- A place that is free is taken without waiting: below the limits this costs one comparison.
"""

from __future__ import annotations

import asyncio
import collections
from typing import Final

LINE_LIMIT_BYTES: Final = 256 * 1024 * 1024
"""Of all bodies in line: 32 of the largest. A line of 256 of these would be two gigabytes."""


class Room:
    """The places of one replica. One event loop owns it."""

    def __init__(self) -> None:
        self._taken = 0
        self._line: collections.deque[asyncio.Future[None]] = collections.deque()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._line)

    def is_full(self, places: int, line: int) -> bool:
        """Would `enter` turn everybody away?"""
        return len(self._line) >= line and (self._taken >= places or bool(self._line))

    async def enter(self, places: int, line: int, patience_s: float, size: int = 0) -> bool:
        """Take one of so many `places`, or wait in a `line` of that length at most. `leave` must follow True.

        `size` is that of the request's body, in bytes.
        """
        if self._taken < places and not self._line:
            self._taken += 1
            return True
        if self.is_full(places, line) or self._bytes + size > LINE_LIMIT_BYTES:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._bytes += size
        try:
            async with asyncio.timeout(patience_s):
                await turn
        except TimeoutError:
            self._give_up(turn)
            return False
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        finally:
            self._bytes -= size
        return True

    def leave(self) -> None:
        """Give the place back; the next in line has it."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)  # the place goes over as it is
                return
        self._taken -= 1

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self.leave()  # the place came at the last moment
        elif turn in self._line:
            self._line.remove(turn)
