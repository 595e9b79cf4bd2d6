"""A host's side of its challenger: how many requests may be there, for how long, and when not to ask at all.

Rules:
- Every question ends within the split's `timeout_s`, whatever the candidate's application does: one that was deleted
  may hang.
- At most `max_ongoing` questions at once: without a cap, a hanging candidate at 10 % cost a host four fifths of its
  throughput.
- The breaker looks at transport only (timeouts, exceptions). An answer that says 500 came quickly and is the judge's
  business.
- The guard (`guard.py`) looks at everything, and what it has stopped is not asked again.
- Under a guard, a candidate that has nothing to show, or has just failed, gets few users' requests at once: the guard
  cannot judge what is still under way, and each of those would be one more request that a bad version sees.

This module knows nothing about Ray: `Connection` is the door, and `app.py` has the one that goes through a Serve
handle.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Callable
from contextvars import Context
from enum import StrEnum
from typing import Protocol

from serving_runtime.breaker import Breaker
from serving_runtime.forcing import FORCED_AT_ONCE
from serving_runtime.guard import Guard
from serving_runtime.outcomes import Fallback, Outcome, Served, outcome_of
from serving_runtime.protocol import DRAINING, Answer, Call
from serving_runtime.user_config import Split

_log = logging.getLogger(__name__)

# Calls that get no answer within this time of each other, with none in between, are one accident: a replica that died
# takes along what it had, and calls hang until its successor has loaded. That takes some ten seconds as a rule; a
# candidate that is away for three times as long is no good one.
ACCIDENT_S = 15.0

# Users' requests under way at a candidate that has shown nothing yet or has just failed; one more for each good answer
# since. With the 3 to 6 bad answers that trip the guard, a version that fails every request sees at most 10 of them
# (SLO 99 %), however many users wait.
FEW_AT_ONCE = 4


class Connection(Protocol):
    """The way to the candidate's application."""

    async def answer(self, call: Call) -> Answer:
        """The candidate's answer; status `DRAINING` when it takes no more. May hang; may raise anything."""


class AttemptKind(StrEnum):
    """How a question to the candidate ended."""

    ANSWERED = "answered"
    DRAINING = "draining"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """`answer` belongs to ANSWERED, `reason` and what follows it to FAILED."""

    kind: AttemptKind
    answer: Answer | None = None
    reason: str = ""
    timed_out: bool = False
    same_accident: bool = False
    """The call broke while it was under way beside another that broke: a replica that dies takes along all it had."""
    again: bool = False
    """Neither was the call before answered: nothing was since the failure that counts, less than ACCIDENT_S ago."""

    @property
    def outcome(self) -> Outcome:
        """What the candidate did; no answer is bad."""
        return Outcome.BAD if self.answer is None else outcome_of(self.answer.status)

    @property
    def fallback(self) -> Fallback | None:
        """Why stable answers in its place; none where it need not."""
        if self.kind is AttemptKind.DRAINING:
            return Fallback.DRAINING
        if self.answer is None:
            return Fallback.TIMEOUT if self.timed_out else Fallback.LOST
        outcome = outcome_of(self.answer.status)
        return {Outcome.BAD: Fallback.ERROR, Outcome.CLIENT_ERROR: Fallback.CLIENT_ERROR}.get(outcome)

    @property
    def is_evidence(self) -> bool:
        """Does it count? One accident counts once, however many calls it took along until the next answer."""
        return not (self.same_accident or self.again)


class Challenger:
    """The candidate as one host replica sees it. One event loop owns it."""

    def __init__(self, split: Split, connection: Connection, clock: Callable[[], float]) -> None:
        self.split = split
        self._connection = connection
        self._clock = clock
        self._breaker = Breaker()
        self._ongoing = 0
        self._forced = 0
        self._accidents = 0
        self._newest_accident_s = -math.inf
        self._accident_at: float | None = None
        self._good_since_bad = 0
        self.guard: Guard | None = None
        self.unsettled = 0
        """Users' requests that it was asked for and that nobody has answered yet."""
        self.copies = asyncio.Semaphore(split.max_ongoing)
        """Places for copies; one that waits for a place is no request in progress."""

    @property
    def served(self) -> Served:
        """The candidate as metrics name it."""
        return Served(self.split.version, self.split.build)

    def same_place(self, split: Split) -> bool:
        """Is that the same application under the same limits? Then breaker and requests in progress carry on."""
        return (split.application, split.max_ongoing) == (self.split.application, self.split.max_ongoing)

    @property
    def breaker_is_open(self) -> bool:
        """Does the transport to it fail?"""
        return self._breaker.is_open

    def refuses(self) -> Fallback | None:
        """Why no more questions may be asked now; none for "ask", which must follow."""
        if self.guard is not None and self.guard.tripped is not None:
            return Fallback.GUARD
        if self._ongoing >= self.split.max_ongoing:
            return Fallback.FULL
        return None if self._breaker.allows(self._clock()) else Fallback.BREAKER

    def refuses_user(self) -> Fallback | None:
        """The same for a question that a user waits for."""
        guard = self.guard
        if guard is not None and guard.tripped is None and self.unsettled >= FEW_AT_ONCE + self._good_since_bad:
            return Fallback.FEW
        return self.refuses()

    def refuses_forced(self) -> Fallback | None:
        """The same for one that named this version itself: no probe of the breaker, and few at once."""
        if self.guard is not None and self.guard.tripped is not None:
            return Fallback.GUARD
        if self._breaker.is_open:
            return Fallback.BREAKER
        return Fallback.FULL if self._forced >= FORCED_AT_ONCE or self._ongoing >= self.split.max_ongoing else None

    async def ask(self, call: Call) -> Attempt:
        """Ask, and come back within `timeout_s`. Never raises for what the candidate does."""
        self._ongoing += 1
        attempt = Attempt(AttemptKind.FAILED, reason="not asked")
        try:
            attempt = await self._ask(call)
        finally:
            self._ongoing -= 1
            self._report(attempt)
        return attempt

    @property
    def accidents(self) -> int:
        """How many there were so far."""
        return self._accidents

    def stream_went_well(self) -> None:
        """A stream that it had begun is over, or was long enough."""
        self._good_since_bad += 1

    def stream_broke(self, accidents: int, *, lost: bool) -> bool:
        """A stream that it had begun has broken. Does that count? `lost`: by the transport, or it stood still.

        `accidents` is how many there had been at its head. It counts unless it was under way beside another that was
        lost, or nothing was answered since: one accident counts once.
        """
        self._good_since_bad = 0
        if not lost:
            return True
        beside = accidents < self._accidents and self._clock() - self._newest_accident_s < ACCIDENT_S
        if beside or self._is_same_accident():
            return False
        self._has_accident()
        return True

    async def ask_forced(self, call: Call) -> Attempt:
        """The same for a request that named this version: what becomes of it says nothing to breaker and guard."""
        self._ongoing += 1
        self._forced += 1
        try:
            return await self._ask(call, evidence=False)
        finally:
            self._ongoing -= 1
            self._forced -= 1

    async def _ask(self, call: Call, *, evidence: bool = True) -> Attempt:
        accidents = self._accidents
        # A context of its own: Serve ties a call made inside a request to that request, and would cancel it with it.
        question = asyncio.get_running_loop().create_task(self._connection.answer(call), context=Context())
        done, _ = await asyncio.wait({question}, timeout=self.split.timeout_s)
        if not done:
            question.cancel()
            question.add_done_callback(_forget)
            again = evidence and self._is_same_accident()
            reason = f"no answer within {self.split.timeout_s:g} s"
            return Attempt(AttemptKind.FAILED, reason=reason, timed_out=True, again=again)
        error = asyncio.CancelledError() if question.cancelled() else question.exception()
        if error is not None:
            return self._broken(error, accidents) if evidence else Attempt(AttemptKind.FAILED, reason=_words(error))
        answer = question.result()
        if answer.status == DRAINING:
            return Attempt(AttemptKind.DRAINING)
        return Attempt(AttemptKind.ANSWERED, answer)

    def _broken(self, error: BaseException, accidents: int) -> Attempt:
        """A question that the transport lost; `accidents` is how many there had been when it was asked."""
        same = accidents < self._accidents
        if not same:
            self._has_accident()
        again = self._is_same_accident()
        return Attempt(AttemptKind.FAILED, reason=_words(error), same_accident=same, again=again)

    def _has_accident(self) -> None:
        self._accidents += 1
        self._newest_accident_s = self._clock()

    def _is_same_accident(self) -> bool:
        """A call was not answered. Was one before it not either, with no answer since, and is that not long ago?"""
        now = self._clock()
        if self._accident_at is not None and now - self._accident_at < ACCIDENT_S:
            return True
        self._accident_at = now
        return False

    def _report(self, attempt: Attempt) -> None:
        was_open = self._breaker.is_open
        if attempt.kind is AttemptKind.FAILED:
            self._breaker.failed(self._clock())
        else:
            self._breaker.answered()
            self._accident_at = None
        bad = attempt.answer is None or outcome_of(attempt.answer.status) is Outcome.BAD
        streams = attempt.answer is not None and attempt.answer.rest is not None  # what it shows, it shows later
        self._good_since_bad = 0 if bad else self._good_since_bad + (not streams)
        if self._breaker.is_open != was_open:
            state = "opened" if self._breaker.is_open else "closed"
            _log.warning("breaker to %s %s %s", self.split.application, state, attempt.reason)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _forget(question: asyncio.Task[Answer]) -> None:
    """Its time is over and counted; reading the exception keeps asyncio from reporting it as never retrieved."""
    if not question.cancelled():
        question.exception()
