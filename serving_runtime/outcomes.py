"""What an answer counts as, and counting in the order in which requests started. Pure: no clock, no I/O.

Why in start order: failures are often the slowest answers. Counted as they end, a version that hangs looks healthy
until its timeouts arrive, and younger fast answers outnumber older slow ones. Here an event is released only when
every request that started before its own has ended, so that what is counted is at any moment a prefix of the requests
in start order, for both versions of a host alike: an outage that both share cannot reach one version's counts sooner
than the other's.

Rules:
- Nothing is lost: every event given to `finish` is released once, at the latest when all older requests have ended.
- Bounded: memory grows with requests in progress (each ends by its timeout) and kinds of events, not with requests.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterable
from enum import StrEnum
from typing import Generic, TypeVar

E = TypeVar("E", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Served:
    """A version as metrics name it."""

    version: int
    build: str


class Outcome(StrEnum):
    """One request as evidence about the version that answered it or should have."""

    GOOD = "good"
    BAD = "bad"
    RESCUED = "rescued"
    """Bad, and stable answered well in its place or on the same request: it was not the world that failed."""
    CLIENT_ERROR = "client_error"
    """The request was wrong; no evidence about a version."""


class Joint(StrEnum):
    """Both versions on one request in shadow; the candidate's outcome first."""

    GOOD_GOOD = "good_good"
    GOOD_BAD = "good_bad"
    BAD_GOOD = "bad_good"
    BAD_BAD = "bad_bad"
    DROPPED = "dropped"
    """The copy was not sent: no room, or the candidate takes none."""


class UserOutcome(StrEnum):
    """What the user got."""

    OK = "ok"
    FALLBACK = "fallback"
    """Stable answered well what the candidate should have answered."""
    CLIENT_ERROR = "client_error"
    ERROR = "error"
    REFUSED = "refused"
    """Turned away at the door, before any version saw it: unknown path, wrong method, body too
    large, no room."""


class Ending(StrEnum):
    """How a streamed answer ended."""

    WHOLE = "whole"
    BROKE = "broke"
    """The model failed after the first event, or did not come to an end."""
    LOST = "lost"
    """The way to the version broke, or no event came in time."""
    LEFT = "left"
    """Its reader stopped reading: the client went away, or whoever waited for an event gave up."""


class CaptureOutcome(StrEnum):
    """What became of a request that capture's sample has in it."""

    TAKEN = "taken"
    """Sampled; one of the others follows."""
    WRITTEN = "written"
    """In a file that the store has taken."""
    DROPPED_LARGE = "dropped_large"
    """Its bodies are larger than what is read beside answering."""
    DROPPED_MEMORY = "dropped_memory"
    """No room: requests came faster than they could be written."""
    DROPPED_STORE = "dropped_store"
    """No room, or no time left, because the store did not take what was there before."""
    DROPPED_FAULT = "dropped_fault"
    """Capture itself failed on it; the log says how."""
    LOST = "lost"
    """Still open when a replica on this node died; counted by the next one that starts here."""


class Fallback(StrEnum):
    """Why stable answers a request that was drawn for the candidate."""

    ERROR = "error"
    """The candidate answered with a 5xx."""
    CLIENT_ERROR = "client_error"
    """It called the request wrong, which is checked with stable."""
    TIMEOUT = "timeout"
    LOST = "lost"
    """The call broke: its replica died, or its application is gone."""
    DRAINING = "draining"
    FULL = "full"
    """As many requests are under way there as may be."""
    FEW = "few"
    """Under a guard: it has shown too little to be given more at once."""
    BREAKER = "breaker"
    GUARD = "guard"


def outcome_of(status: int) -> Outcome:
    """The outcome of an answer by its HTTP status."""
    if status < 400:  # noqa: PLR2004 the first status that is an error
        return Outcome.GOOD
    return Outcome.CLIENT_ERROR if status < 500 else Outcome.BAD  # noqa: PLR2004 the first that is the server's


def candidate_outcome(candidate: Outcome, stable: Outcome) -> Outcome:
    """What the candidate's answer counts as, given stable's to the same request.

    A candidate that calls a request wrong which stable answers well is the one that is wrong.
    """
    if candidate is not Outcome.GOOD and stable is Outcome.GOOD:
        return Outcome.RESCUED
    return candidate


def joint_outcome(candidate: Outcome, stable: Outcome) -> Joint | None:
    """The pair in shadow, or None where the request itself was wrong. `candidate` is after `candidate_outcome`."""
    if Outcome.CLIENT_ERROR in (candidate, stable):
        return None
    return Joint(f"{Outcome.GOOD if candidate is Outcome.GOOD else Outcome.BAD}_{stable}")


class Ticket(Generic[E]):
    """A request in progress.

    `waiting` holds the events of finished requests that started between it and the next one in progress.
    """

    __slots__ = ("finished", "newer", "older", "waiting")

    def __init__(self, older: Ticket[E] | None) -> None:
        self.older = older
        self.newer: Ticket[E] | None = None
        self.waiting: collections.Counter[E] | None = None  # made when needed: most requests never hold anything back
        self.finished = False


class StartOrder(Generic[E]):
    """Releases events in the order in which their requests started.

    `release(event, count)` is called from `finish`. Not thread-safe: one event loop owns it.
    """

    def __init__(self, release: Callable[[E, int], None]) -> None:
        self._release = release
        self._oldest: Ticket[E] | None = None
        self._newest: Ticket[E] | None = None

    def start(self) -> Ticket[E]:
        """Take a place in the order; `finish` must follow, whatever happens to the request."""
        ticket: Ticket[E] = Ticket(self._newest)
        if self._newest is None:
            self._oldest = ticket
        else:
            self._newest.newer = ticket
        self._newest = ticket
        return ticket

    def finish(self, ticket: Ticket[E], events: Iterable[E] = ()) -> None:
        """Give the place back with what it counts as (nothing: it never happened). A second time changes nothing."""
        if ticket.finished:
            return
        ticket.finished = True
        older, waiting = ticket.older, ticket.waiting
        self._unlink(ticket)
        if older is None:
            for event in events:
                self._release(event, 1)
            for event, count in waiting.items() if waiting is not None else ():
                self._release(event, count)
            return
        if older.waiting is None:
            older.waiting = collections.Counter() if waiting is None else waiting
        elif waiting is not None:
            older.waiting.update(waiting)
        for event in events:
            older.waiting[event] += 1

    def _unlink(self, ticket: Ticket[E]) -> None:
        if ticket.older is None:
            self._oldest = ticket.newer
        else:
            ticket.older.newer = ticket.newer
        if ticket.newer is None:
            self._newest = ticket.older
        else:
            ticket.newer.older = ticket.older
