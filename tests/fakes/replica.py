"""A replica without Ray: door, host and model server as `app.py` puts them together, to be asked in process."""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import time
from collections.abc import Callable

from serving_runtime.access import Gate
from serving_runtime.challenger import Connection
from serving_runtime.description import Described, Named
from serving_runtime.door import Door
from serving_runtime.doorstep import Doorstep, Receive, Scope, Send
from serving_runtime.events import Event
from serving_runtime.host import Host
from serving_runtime.model_server import ModelServer
from serving_runtime.outcomes import Served, UserOutcome
from serving_runtime.public_route import PublicRoute
from serving_runtime.tracing import Tracer

VERSION = 7
NAMED = Named("fraud", str(VERSION))
MADE_ID = "made-on-the-doorstep"


class Counts:
    """A `Tally` that remembers."""

    def __init__(self) -> None:
        self.events: collections.Counter[Event] = collections.Counter()
        self.answers: collections.Counter[UserOutcome] = collections.Counter()
        self.segments: list[tuple[int, str, float]] = []

    def count(self, event: Event, number: int) -> None:
        self.events[event] += number

    def answered(self, outcome: UserOutcome) -> None:
        self.answers[outcome] += 1

    def announce(self, served: Served, *, candidate: bool) -> None:
        """Nothing starts at 0 here."""

    def segment_took(self, version: int, segment: str, elapsed_ms: float) -> None:
        self.segments.append((version, segment, elapsed_ms))


@dataclasses.dataclass(frozen=True)
class Replica:
    """Its parts, and itself as an ASGI application."""

    door: Door
    host: Host
    counts: Counts
    gate: Gate
    about: Described

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI request, by the doorstep; those that have no id get MADE_ID."""
        await Doorstep(self._behind, make_id=lambda: MADE_ID)(scope, receive, send)

    async def _behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request

        if scope["type"] != "http":
            return
        response = await self.door(Request(scope, receive, send))
        await response(scope, receive, send)


def _nobody(application: str) -> Connection:
    raise LookupError(f"there is no {application} here")


def replica(
    own: ModelServer,
    connect: Callable[[str], Connection] = _nobody,
    *,
    exposed: bool = False,
    tracer: Tracer | None = None,
) -> Replica:
    """One that answers with `own`; `connect` gives the way to a challenger where a split names one.

    `exposed`: as if Serve listened elsewhere than on loopback.
    """
    counts = Counts()
    host = Host(
        Served(VERSION, "0" * 8),
        own,
        connect=connect,
        tally=counts,
        draw=random.Random(7).random,
        clock=time.monotonic,
    )
    gate = Gate(exposed=exposed)
    turned_away = functools.partial(counts.answered, UserOutcome.REFUSED)
    door = Door(host, own.described, turned_away, gate, PublicRoute(time.monotonic), tracer)
    return Replica(door, host, counts, gate, own.described)
