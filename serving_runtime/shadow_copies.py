"""Copies of answered requests on their way to the candidate, in shadow: what it would have answered is counted.

Rules:
- A copy starts after the user has the answer, waits in a bounded room, and is dropped and counted when there is none.
- It is sent only while the host still has that candidate in shadow: what waited when the split ended is dropped.
- Predictions are compared, where the split asks for it, in a thread where that takes long.

This module must not answer anybody: nothing here is on a user's way.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from serving_runtime.agreement import Comparison, compare
from serving_runtime.challenger import Attempt, AttemptKind, Challenger
from serving_runtime.events import AgreementEvent, Event, ShadowEvent, Tally, VersionEvent
from serving_runtime.guard import Guard
from serving_runtime.outcomes import Joint, Outcome, Served, StartOrder, candidate_outcome, joint_outcome
from serving_runtime.protocol import Answer, Call, as_copy
from serving_runtime.user_config import AgreementTerms

_log = logging.getLogger(__name__)

# Copies that wait for one of the candidate's `max_ongoing` places: a burst of a few hundred milliseconds. More would
# only measure the candidate's queue.
COPIES_WAITING = 64
# Their bodies are held in memory meanwhile.
COPIES_WAITING_BYTES = 64 * 1024 * 1024

# Parsing two such answers takes a tenth of a millisecond; larger ones are compared in a thread, so that nobody waits.
COMPARED_AT_ONCE_BYTES = 8 * 1024

# Answers that cannot be compared are said once in a while: whatever is wrong with them is wrong with all of them.
SAID_EVERY_S = 60.0


@dataclasses.dataclass(frozen=True)
class Copy:
    """A request that stable has answered, on its way to the candidate."""

    call: Call
    own: Answer
    outcome: Outcome
    challenger: Challenger
    took_s: float = 0.0
    """How long stable's answer took to its end, where it streamed."""

    @property
    def size(self) -> int:
        """Bytes that it holds in memory."""
        return len(self.call.body) + len(self.own.body)


class ShadowCopies:
    """Those of one host. One event loop owns it."""

    def __init__(
        self,
        order: StartOrder[Event],
        tally: Tally,
        *,
        clock: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        compares: Callable[[Guard | None, Attempt, Joint], None],
    ) -> None:
        """`spawn` runs in the background; `compares` tells a guard that both versions have answered one request."""
        self._order = order
        self._tally = tally
        self._clock = clock
        self._spawn = spawn
        self._compares = compares
        self._waiting = _WaitingRoom()
        self._said_at_s: float | None = None
        self.challenger: Challenger | None = None
        """Whom the host has now: what waits for another one is dropped."""

    def add(self, copy: Copy) -> None:
        """Send it in the background, or count that there was no room for it."""
        if not self._waiting.take(copy.size):
            self._drop(copy.challenger)
            return
        self._spawn(self._send(copy))

    async def _send(self, copy: Copy) -> None:
        challenger = copy.challenger
        async with challenger.copies:
            self._waiting.give(copy.size)
            if challenger is not self.challenger or not challenger.split.shadow or challenger.refuses() is not None:
                self._drop(challenger)
                return
            ticket = self._order.start()
            events: tuple[Event, ...] = ()
            try:
                events = await self._shadowed(copy)
            finally:
                self._order.finish(ticket, events)

    async def _shadowed(self, copy: Copy) -> tuple[Event, ...]:
        """What one copy counts as: the candidate's own outcome and, where the request was right, the pair."""
        challenger, terms = copy.challenger, copy.challenger.split.agreement
        served, guard = challenger.served, challenger.guard
        # A copy of a stream is answered whole, and a long stream has not the time for that.
        half_s = challenger.split.timeout_s / 2
        attempt = await challenger.ask(as_copy(copy.call, stop_after_s=half_s if copy.took_s > half_s else None))
        if attempt.kind is AttemptKind.DRAINING:
            return (ShadowEvent(served, Joint.DROPPED),)
        candidate = candidate_outcome(attempt.outcome, copy.outcome)
        joint = joint_outcome(candidate, copy.outcome)
        events: tuple[Event, ...] = (VersionEvent(served, candidate),)
        if joint is None:
            return events
        self._compares(guard, attempt, joint)
        if not attempt.is_evidence:
            return (ShadowEvent(served, Joint.DROPPED),)
        events = (*events, ShadowEvent(served, joint))
        if terms is None or joint is not Joint.GOOD_GOOD or attempt.answer is None:
            return events
        compared = await _compared(attempt.answer, copy.own, terms)
        if compared.reason:
            self._say_incomparable(served, compared)
        return events if compared.agrees is None else (*events, AgreementEvent(served, compared.agrees))

    def _drop(self, challenger: Challenger) -> None:
        self._tally.count(ShadowEvent(challenger.served, Joint.DROPPED), 1)

    def _say_incomparable(self, served: Served, compared: Comparison) -> None:
        now = self._clock()
        if self._said_at_s is None or now - self._said_at_s >= SAID_EVERY_S:
            self._said_at_s = now
            counted = "counted as no agreement" if compared.agrees is False else "not counted"
            _log.warning("predictions of candidate %s, %s: %s", served.version, counted, compared.reason)


class _WaitingRoom:
    """Counts copies that wait, and their bytes."""

    def __init__(self) -> None:
        self._copies = 0
        self._bytes = 0

    def take(self, size: int) -> bool:
        """Room for one more? Then it is taken."""
        if self._copies >= COPIES_WAITING or self._bytes + size > COPIES_WAITING_BYTES:
            return False
        self._copies += 1
        self._bytes += size
        return True

    def give(self, size: int) -> None:
        """One waits no longer."""
        self._copies -= 1
        self._bytes -= size


async def _compared(candidate: Answer, stable: Answer, terms: AgreementTerms) -> Comparison:
    """Off the event loop where it takes long."""
    arguments = (candidate.body, stable.body, terms.tolerance)
    if max(len(candidate.body), len(stable.body)) <= COMPARED_AT_ONCE_BYTES:
        return compare(*arguments)
    return await asyncio.to_thread(compare, *arguments)
