"""A replica without Ray: door, host and model server as `app.py` puts them together, to be asked in process."""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from serving_runtime.access import Gate
from serving_runtime.challenger import Connection
from serving_runtime.description import Described, Named
from serving_runtime.door import REQUEST_ID_HEADER, Door
from serving_runtime.events import Event
from serving_runtime.host import Host
from serving_runtime.model_server import ModelServer
from serving_runtime.outcomes import Served, UserOutcome
from serving_runtime.public_route import PublicRoute
from serving_runtime.tracing import Tracer

VERSION = 7
NAMED = Named("fraud", str(VERSION))
MADE_ID = "made-by-serve"


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

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """One ASGI request, with the request id that Serve's proxy gives those that have none."""
        from starlette.requests import Request

        if scope["type"] != "http":
            return
        if all(name != REQUEST_ID_HEADER.encode() for name, _ in scope["headers"]):
            scope = {**scope, "headers": [*scope["headers"], (REQUEST_ID_HEADER.encode(), MADE_ID.encode())]}
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
