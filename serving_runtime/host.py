"""What a version does with each request: answers it, and, while it hosts a challenger, splits, copies and falls back.

Rules:
1. A user never sees a candidate's failure: an exception, a 5xx, a timeout, a candidate that drains, its cap and its
   breaker are all answered by this version itself, within the request's own timeout.
2. A request is evidence about the version it was drawn for, once. The candidate's failures count although stable
   answered; what stable answers in its place is no evidence about stable: those requests were selected by the
   candidate's failing.
3. A request that the candidate was never asked for (drains, cap, breaker open) is an ordinary request of this version.
4. A copy in shadow starts after the user has the answer, waits in a bounded room, and is dropped and counted when
   there is none.
5. A candidate's 4xx is checked here: where this version answers well, the candidate was wrong.
6. A client that goes away does not end its request: a version that is slower than its clients' patience must not
   escape being counted.
7. A revision lower than the last is ignored; configuring never fails and never waits.

Nothing here knows Ray, HTTP or metrics: `OwnServer`, `Connection` and `Tally` are the doors.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol

from serving_runtime.challenger import Attempt, AttemptKind, Challenger, Connection
from serving_runtime.outcomes import (
    Joint,
    Outcome,
    StartOrder,
    UserOutcome,
    candidate_outcome,
    joint_outcome,
    outcome_of,
)
from serving_runtime.protocol import Answer, Call, timed_out
from serving_runtime.routing import pick
from serving_runtime.user_config import UserConfig

_log = logging.getLogger(__name__)

# Copies that wait for one of the candidate's `max_ongoing` places: a burst of a few hundred milliseconds. More would
# only measure the candidate's queue.
COPIES_WAITING = 64
# Their bodies are held in memory meanwhile.
COPIES_WAITING_BYTES = 64 * 1024 * 1024

# What is left for this version when a candidate has used up the request's time: enough for an ordinary answer, because
# a late answer serves the user better than none.
LEAST_OWN_S = 1.0

# Until the first configuration arrives, which Serve delivers before the first request: the model document's own
# default.
DEFAULT_TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True)
class Served:
    """A version as metrics name it."""

    version: int
    build: str


@dataclasses.dataclass(frozen=True)
class VersionEvent:
    """One request as evidence about a version."""

    served: Served
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class ShadowEvent:
    """One copied request as evidence about the pair; `served` is the candidate."""

    served: Served
    joint: Joint


Event = VersionEvent | ShadowEvent


class Tally(Protocol):
    """Where counts go. Cheap; never raises."""

    def count(self, event: Event, number: int) -> None:
        """Add `number` of these."""

    def answered(self, outcome: UserOutcome) -> None:
        """A user got this."""

    def announce(self, served: Served, *, candidate: bool) -> None:
        """From now on this version can be counted: its series start at 0."""


class OwnServer(Protocol):
    """This version's own model server."""

    async def answer(self, call: Call) -> Answer:
        """Never raises for what the model does; may take long, and may be cancelled."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer and the version that gave it."""

    answer: Answer
    version: int


class Host:
    """Answers requests of one version, with or without a challenger. One event loop owns it."""

    def __init__(
        self,
        served: Served,
        own: OwnServer,
        *,
        connect: Callable[[str], Connection],
        tally: Tally,
        draw: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        """Three of the arguments are the world.

        `connect(application)` must return at once; `draw()` is uniform in [0, 1); `clock()` is monotonic, in seconds.
        """
        self._served = served
        self._own = own
        self._connect = connect
        self._tally = tally
        self._draw = draw
        self._clock = clock
        self._order: StartOrder[Event] = StartOrder(tally.count)
        self._config: UserConfig | None = None
        self._challenger: Challenger | None = None
        self._waiting = _WaitingRoom()
        self._tasks: set[asyncio.Task[Any]] = set()
        tally.announce(served, candidate=False)

    # --- configuring -------------------------------------------------------------------------------------------

    @property
    def config(self) -> UserConfig | None:
        """What it was told last."""
        return self._config

    def configure(self, config: UserConfig) -> bool:
        """Take a new configuration. False when it is older than the one there is. Never waits."""
        if self._config is not None and config.revision < self._config.revision:
            return False
        self._config = config
        split, current = config.split, self._challenger
        if split is None:
            self._challenger = None
        elif current is not None and current.same_place(split):
            current.split = split
        else:
            self._challenger = Challenger(split, self._connect(split.application), self._clock)
            self._tally.announce(Served(split.version, split.build), candidate=True)
        return True

    # --- answering ---------------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> Reply:
        """Answer one request. It goes on to its end when the caller is cancelled (rule 6)."""
        return await asyncio.shield(self._spawn(self._answer(call)))

    async def _answer(self, call: Call) -> Reply:
        challenger = self._challenger
        if challenger is None:
            reply, _ = await self._by_self(call)
            return reply
        turn = pick(challenger.split, self._draw())
        if turn.to_candidate and challenger.admits():
            return await self._by_candidate(call, challenger)
        reply, outcome = await self._by_self(call)
        if turn.copy:
            self._copy(call, challenger, outcome)
        return reply

    async def _by_self(self, call: Call) -> tuple[Reply, Outcome]:
        """An ordinary request of this version."""
        ticket = self._order.start()
        outcome = Outcome.BAD
        try:
            answer = await self._ask_self(call, self._timeout_s)
            outcome = outcome_of(answer.status)
        finally:
            self._order.finish(ticket, (VersionEvent(self._served, outcome),))
        self._tally.answered(_USER[outcome])
        return Reply(answer, self._served.version), outcome

    async def _ask_self(self, call: Call, timeout_s: float) -> Answer:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._own.answer(call)
        except TimeoutError:
            _log.warning("no answer within %g s to request id %s", timeout_s, call.request_id)
            return timed_out(call.request_id, timeout_s)

    async def _by_candidate(self, call: Call, challenger: Challenger) -> Reply:
        started = self._clock()
        served = Served(challenger.split.version, challenger.split.build)
        ticket = self._order.start()
        outcome: Outcome | None = Outcome.BAD
        try:
            attempt = await challenger.ask(call)
            if attempt.kind is AttemptKind.DRAINING:
                outcome = None
            else:
                reply, outcome = await self._settle(call, attempt, served, started)
        finally:
            self._order.finish(ticket, () if outcome is None else (VersionEvent(served, outcome),))
        if outcome is None:
            reply, _ = await self._by_self(call)
        return reply

    async def _settle(self, call: Call, attempt: Attempt, served: Served, started: float) -> tuple[Reply, Outcome]:
        """The user's reply to a request the candidate was asked for, and what that counts as."""
        candidate = _attempt_outcome(attempt)
        if candidate is Outcome.GOOD and attempt.answer is not None:
            self._tally.answered(UserOutcome.OK)
            return Reply(attempt.answer, served.version), candidate
        if attempt.reason:
            _log.warning("candidate %s: %s (request id %s)", served.version, attempt.reason, call.request_id)
        left_s = max(self._timeout_s - (self._clock() - started), LEAST_OWN_S)
        own = await self._ask_self(call, left_s)
        stable = outcome_of(own.status)
        if candidate is Outcome.CLIENT_ERROR and stable is Outcome.BAD and attempt.answer is not None:
            self._tally.answered(UserOutcome.CLIENT_ERROR)
            return Reply(attempt.answer, served.version), candidate
        self._tally.answered(UserOutcome.FALLBACK if stable is Outcome.GOOD else _USER[stable])
        return Reply(own, self._served.version), candidate_outcome(candidate, stable)

    # --- copies ------------------------------------------------------------------------------------------------

    def _copy(self, call: Call, challenger: Challenger, stable: Outcome) -> None:
        """Send a copy in the background, or count that there was no room for it."""
        if not self._waiting.take(len(call.body)):
            self._drop(challenger)
            return
        self._spawn(self._send_copy(call, challenger, stable))

    async def _send_copy(self, call: Call, challenger: Challenger, stable: Outcome) -> None:
        async with challenger.copies:
            self._waiting.give(len(call.body))
            if challenger is not self._challenger or not challenger.split.shadow or not challenger.admits():
                self._drop(challenger)
                return
            served = Served(challenger.split.version, challenger.split.build)
            ticket = self._order.start()
            events: tuple[Event, ...] = ()
            try:
                events = _shadow_events(served, await challenger.ask(call), stable)
            finally:
                self._order.finish(ticket, events)

    def _drop(self, challenger: Challenger) -> None:
        served = Served(challenger.split.version, challenger.split.build)
        self._tally.count(ShadowEvent(served, Joint.DROPPED), 1)

    # --- the rest ----------------------------------------------------------------------------------------------

    @property
    def _timeout_s(self) -> float:
        return DEFAULT_TIMEOUT_S if self._config is None else self._config.request_timeout_s

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        # A context of its own, because Serve cancels calls that were made in the context of a request that was
        # cancelled.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


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


_USER = {
    Outcome.GOOD: UserOutcome.OK,
    Outcome.BAD: UserOutcome.ERROR,
    Outcome.CLIENT_ERROR: UserOutcome.CLIENT_ERROR,
}


def _attempt_outcome(attempt: Attempt) -> Outcome:
    return Outcome.BAD if attempt.answer is None else outcome_of(attempt.answer.status)


def _shadow_events(served: Served, attempt: Attempt, stable: Outcome) -> tuple[Event, ...]:
    """What one copy counts as: the candidate's own outcome and, where the request was right, the pair."""
    if attempt.kind is AttemptKind.DRAINING:
        return (ShadowEvent(served, Joint.DROPPED),)
    candidate = candidate_outcome(_attempt_outcome(attempt), stable)
    joint = joint_outcome(candidate, stable)
    own: tuple[Event, ...] = (VersionEvent(served, candidate),)
    return own if joint is None else (*own, ShadowEvent(served, joint))
