"""What a streamed answer counts as: once, by how it ended, and without holding up what others count as.

The head of a stream (a status and the first event) is drawn, timed, and answered by stable in the candidate's place
like any other answer. What it counts as is known at its end, which may be an hour away; and nothing may be counted
before what started earlier (`outcomes.py`). ADR 23 has the reasons for what follows.

Rules:
- A stream keeps its place in the order of starts until it ends, but no longer than any other request may: until its
  horizon, the request's own timeout after its start. One that is still running there counts as good, with the next
  event: where it stands still, that one is waited for.
- One that breaks after its horizon counts as bad at once; the next good stream of its version has been counted
  already, then. So each stream is one event, and the bad ones are never late.
- A stream is well where its events came in time up to its end, or until its reader went away.
- A candidate's stream that breaks is asked of stable, too, as far as it got: only what stable does well is evidence
  against the candidate alone (`rescued`, and the guard). Its user has seen the failure all the same.
- Streams that the transport loses together are one accident (ADR 12).

Nothing here knows HTTP: `streamed_answers.py` tells how a stream ends.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from serving_runtime.challenger import Attempt, Challenger
from serving_runtime.events import Event, Tally, VersionEvent
from serving_runtime.guard import Guard
from serving_runtime.outcomes import (
    Ending,
    Outcome,
    Served,
    StartOrder,
    Ticket,
    UserOutcome,
    candidate_outcome,
    outcome_of,
)
from serving_runtime.protocol import Answer, Call, as_copy

LEAST_CONTROL_S: Final = 1.0
"""For stable to be asked what the candidate broke off just before its horizon."""


class Streamed:
    """One streamed answer between its head and its end. Told how it ends, it counts; one event loop owns it."""

    def __init__(
        self,
        *,
        known: Callable[[Outcome, Ending], None],
        late: Callable[[Ending], None],
        user: Callable[[Outcome], None],
        horizon_s: float,
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
    ) -> None:
        """`known` is called once, with what it counts as; `late` where it breaks after that; `user` once, at its end.

        `spawn` runs in the background what must outlive the reader.
        """
        self._known, self._late, self._user = known, late, user
        self.spawn = spawn
        self._followed = self._waits = self._is_due = False
        self._outcome: Outcome | None = None
        self._ended = False
        self._then: list[Callable[[Outcome], None]] = []
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(horizon_s, 0.0), self._still_running)

    def followed(self) -> None:
        """Somebody reads it, and will tell how it ends."""
        self._followed = True

    def waits(self, waits: bool) -> None:
        """It waits for its next event, or no longer."""
        self._waits = waits
        if self._is_due and not waits and self._outcome is None:
            self._settle(Outcome.GOOD, Ending.LEFT)

    def ended(self, ending: Ending) -> None:
        """It is over. A second time changes nothing."""
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        outcome = Outcome.BAD if ending in (Ending.BROKE, Ending.LOST) else Outcome.GOOD
        self._user(outcome)
        if self._outcome is None:
            self._settle(outcome, ending)
        elif outcome is Outcome.BAD:
            self._late(ending)

    def then(self, do: Callable[[Outcome], None]) -> None:
        """Call `do` with what it counts as, once that is known."""
        if self._outcome is None:
            self._then.append(do)
        else:
            do(self._outcome)

    def _still_running(self) -> None:
        if not self._followed:  # its client went away before the head was there
            self.ended(Ending.LEFT)
        elif self._waits:
            self._is_due = True
        else:
            self._settle(Outcome.GOOD, Ending.LEFT)

    def _settle(self, outcome: Outcome, ending: Ending) -> None:
        self._outcome = outcome
        self._known(outcome, ending)
        waiting, self._then = self._then, []
        for do in waiting:
            do(outcome)


class Guarding(Protocol):
    """What a host does with its guard."""

    def sees(self, guard: Guard | None, stable: Outcome) -> None:
        """Stable has answered."""

    def judges(self, guard: Guard | None, attempt: Attempt, candidate: Outcome) -> None:
        """The candidate has answered a user."""

    def control(self, call: Call, challenger: Challenger) -> None:
        """The candidate has answered well: ask this version too, where the guard knows too little about it."""


@dataclasses.dataclass(frozen=True)
class _OfCandidate:
    """A candidate's stream."""

    call: Call
    attempt: Attempt
    challenger: Challenger
    accidents: int
    guard: Guard | None
    until_s: float
    """Its horizon, by the loop's clock."""
    left_s: float
    """The time between its head and its horizon: what an answer to it may take once more after that."""


class StreamCounts:
    """Counts the streams of one host. One event loop owns it."""

    def __init__(
        self,
        order: StartOrder[Event],
        tally: Tally,
        guarding: Guarding,
        *,
        ask: Callable[[Call, float], Awaitable[Answer]],
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
    ) -> None:
        """`ask(call, timeout_s)` asks this version itself; `spawn` runs in the background."""
        self._order, self._tally, self._guarding = order, tally, guarding
        self._ask, self._spawn = ask, spawn
        self._counted_before: collections.Counter[Served] = collections.Counter()
        """Good streams to come of a version that were counted already."""

    def of_own(self, served: Served, ticket: Ticket[Event], guard: Guard | None, horizon_s: float) -> Streamed:
        """A stream of this version, for its own request."""

        def known(outcome: Outcome, _ending: Ending) -> None:
            if outcome is Outcome.GOOD and self._was_counted(served):
                self._order.finish(ticket)
                return
            self._order.finish(ticket, (VersionEvent(served, outcome),))
            self._guarding.sees(guard, outcome)

        def late(_ending: Ending) -> None:
            self._counted_before[served] += 1
            self._order.finish(self._order.start(), (VersionEvent(served, Outcome.BAD),))
            self._guarding.sees(guard, Outcome.BAD)

        return self._streamed(known, late, UserOutcome.OK, horizon_s)

    def of_candidate(
        self, call: Call, attempt: Attempt, challenger: Challenger, ticket: Ticket[Event], horizon_s: float
    ) -> Streamed:
        """A candidate's stream, for a request that was drawn for it."""
        served = challenger.served
        until_s = asyncio.get_running_loop().time() + horizon_s
        stream = _OfCandidate(call, attempt, challenger, challenger.accidents, challenger.guard, until_s, horizon_s)
        challenger.unsettled += 1

        def known(outcome: Outcome, ending: Ending) -> None:
            challenger.unsettled -= 1
            if outcome is Outcome.BAD:
                self._broke(stream, ticket, ending)
            elif self._was_counted(served):
                self._order.finish(ticket)
            else:
                self._order.finish(ticket, (VersionEvent(served, outcome),))
                challenger.stream_went_well()
                self._guarding.judges(stream.guard, attempt, outcome)
                self._guarding.control(call, challenger)

        def late(ending: Ending) -> None:
            if self._broke(stream, self._order.start(), ending):
                self._counted_before[served] += 1

        return self._streamed(known, late, UserOutcome.OK, horizon_s)

    def of_nobody(self, good: UserOutcome, horizon_s: float) -> Streamed:
        """A stream that is no evidence about who gives it: what its user got is counted, as `good` or as an error."""
        return self._streamed(_nothing, _nothing, good, horizon_s)

    def _streamed(
        self,
        known: Callable[[Outcome, Ending], None],
        late: Callable[[Ending], None],
        good: UserOutcome,
        horizon_s: float,
    ) -> Streamed:
        def user(outcome: Outcome) -> None:
            self._tally.answered(good if outcome is Outcome.GOOD else UserOutcome.ERROR)

        return Streamed(known=known, late=late, user=user, horizon_s=horizon_s, spawn=self._spawn)

    def _was_counted(self, served: Served) -> bool:
        """Is this good stream of the version one that was counted already?"""
        before = self._counted_before[served] > 0
        if before:
            self._counted_before[served] -= 1
        return before

    def _broke(self, stream: _OfCandidate, ticket: Ticket[Event], ending: Ending) -> bool:
        """A candidate's stream broke. Counts it, in the background, unless it is part of an accident that counts."""
        if not stream.challenger.stream_broke(stream.accidents, lost=ending is Ending.LOST):
            self._order.finish(ticket)
            return False
        self._spawn(self._compare(stream, ticket))
        return True

    async def _compare(self, stream: _OfCandidate, ticket: Ticket[Event]) -> None:
        """Ask stable what the candidate broke off, and count."""
        served = stream.challenger.served
        counts_as = Outcome.BAD
        try:
            left_s = stream.until_s - asyncio.get_running_loop().time()
            left_s = max(left_s if left_s > 0.0 else stream.left_s, LEAST_CONTROL_S)
            own = await self._ask(as_copy(stream.call, stop_after_s=left_s / 2), left_s)
            stable = outcome_of(own.status)
            counts_as = candidate_outcome(Outcome.BAD, stable)
            self._guarding.judges(stream.guard, stream.attempt, counts_as)
            self._guarding.sees(stream.guard, stable)
        finally:
            self._order.finish(ticket, (VersionEvent(served, counts_as),))


def _nothing(*_about: object) -> None:
    """It is no evidence."""
