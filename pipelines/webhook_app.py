"""The HTTP application that hears webhooks: each only wakes the loop.

| path | answers |
| --- | --- |
| POST /webhooks/<source> | 202 accepted, or why it was refused |
| GET /healthz | 200 |
| GET /metrics | what became of deliveries, for Prometheus |

Rules:
- A source without a secret does not exist (404). Sizes, kinds and rates are looked at before a body is read, and a body
  is read up to a limit and for some seconds only.
- What was refused is counted and logged: source, outcome, size, the sender's address; never the body or a header's
  text.
- Memory is bounded: the ids of the last deliveries, the addresses of the last senders of refused ones.

It must not touch Git, MLflow or Ray, and must not know what a delivery is about.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from policies.webhooks import Outcome, Source, judge

_LOG = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 1024 * 1024
"""A push of 2,048 commits, GitHub's most, is larger; it is then seen at the next look."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What senders may take of us."""

    read_s: float = 10.0
    """For a body to arrive: forges give up after 10 s themselves."""
    remembered: int = 20_000
    """Keys by which deliveries of one source are known again. For MLflow that is all of them: its signed time ends
    them, and in the longest window, an hour both ways, `accepted_per_minute` lets through 14,400."""
    accepted_per_minute: int = 120
    """Genuine deliveries of one source that are looked at: the loop looks no more often than that anyway."""
    refused_per_minute: int = 60
    """Refused deliveries of one sender; then its bodies are not even read."""
    senders: int = 1_000
    """Addresses that are counted by themselves; the one that was quiet longest is forgotten first."""


_LIMITS: Final = Limits()
_STATUS: Final = {
    Outcome.ACCEPTED: 202,
    Outcome.OWN: 202,
    Outcome.FORGED: 401,
    Outcome.REPLAYED: 409,
    Outcome.STALE: 401,
    Outcome.OVERSIZED: 413,
    Outcome.WRONG_CONTENT: 415,
    Outcome.TOO_MANY: 429,
    Outcome.TOO_SLOW: 408,
}
_MINUTE_S: Final = 60.0
METRIC: Final = "sluice_webhook_deliveries_total"

Wake = Callable[[], None]
Now = Callable[[], datetime]


class Receiver:
    """Judges deliveries and counts what becomes of them; safe to read from another thread."""

    def __init__(
        self,
        secrets: Mapping[Source, str],
        window: timedelta,
        wake: Wake,
        now: Now = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        limits: Limits = _LIMITS,
    ) -> None:
        self._limits = limits
        self._secrets, self._window, self._wake, self._now = dict(secrets), window, wake, now
        self._seen: dict[Source, collections.OrderedDict[str, None]] = {s: collections.OrderedDict() for s in secrets}
        self._accepted = {source: Rate(self._limits.accepted_per_minute, monotonic) for source in secrets}
        self._senders: collections.OrderedDict[str, Rate] = collections.OrderedDict()
        self._monotonic = monotonic
        self.counts: collections.Counter[tuple[Source, Outcome]] = collections.Counter()

    def app(self) -> Starlette:
        """What a server serves."""
        return Starlette(
            routes=[
                Route("/webhooks/{source}", self._hear, methods=["POST"]),
                Route("/healthz", _health),
                Route("/metrics", self._metrics),
            ]
        )

    async def _hear(self, request: Request) -> Response:
        name = request.path_params["source"]
        if name not in self._secrets:
            return PlainTextResponse("no such source, or its secret is not set\n", 404)
        source, sender = Source(name), request.client.host if request.client else ""
        outcome, size = await self._outcome(source, sender, request)
        self.counts[source, outcome] += 1
        if outcome in {Outcome.ACCEPTED, Outcome.OWN}:
            _LOG.info("webhook from %s: %s", source, outcome)
        else:
            if outcome is not Outcome.TOO_MANY:
                self._rate_of(sender).spend()
            _LOG.warning("webhook from %s refused: %s, %s bytes, sent by %s", source, outcome, size, sender)
        if outcome is Outcome.ACCEPTED:
            self._wake()
        waits = {"Retry-After": str(int(_MINUTE_S))} if outcome is Outcome.TOO_MANY else {}
        # What was not read is in the way of the next request on this connection.
        unread = {} if isinstance(size, int) else {"Connection": "close"}
        return PlainTextResponse(f"{outcome}\n", _STATUS[outcome], {**waits, **unread})

    async def _outcome(self, source: Source, sender: str, request: Request) -> tuple[Outcome, int | str]:
        """What becomes of it, and how large it is."""
        if not self._rate_of(sender).has_room():
            return Outcome.TOO_MANY, "unread"
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return Outcome.WRONG_CONTENT, "unread"
        if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
            return Outcome.OVERSIZED, "unread"
        try:
            async with asyncio.timeout(self._limits.read_s):
                body = await _body(request)
        except (TimeoutError, ClientDisconnect):
            return Outcome.TOO_SLOW, "unread"
        if body is None:
            return Outcome.OVERSIZED, "unread"
        return self._judged(source, {k.lower(): v for k, v in request.headers.items()}, body), len(body)

    def _judged(self, source: Source, headers: Mapping[str, str], body: bytes) -> Outcome:
        judged = judge(source, headers, body, self._secrets[source], self._now(), self._window)
        if isinstance(judged, Outcome):
            return judged
        if judged.own:
            return Outcome.OWN  # as often as it comes: it wakes nobody
        seen = self._seen[source]
        if not judged.keys.isdisjoint(seen):
            return Outcome.REPLAYED
        if not self._accepted[source].spend():
            return Outcome.TOO_MANY  # and not remembered: it may come again
        seen.update(dict.fromkeys(judged.keys))
        while len(seen) > self._limits.remembered:
            seen.popitem(last=False)
        return Outcome.ACCEPTED

    def _rate_of(self, sender: str) -> Rate:
        rate = self._senders.setdefault(sender, Rate(self._limits.refused_per_minute, self._monotonic))
        self._senders.move_to_end(sender)
        while len(self._senders) > self._limits.senders:
            self._senders.popitem(last=False)
        return rate

    async def _metrics(self, _: Request) -> Response:
        lines = [f"# HELP {METRIC} Webhooks by what became of them.", f"# TYPE {METRIC} counter"]
        lines += [
            f'{METRIC}{{source="{source}",outcome="{outcome}"}} {self.counts[source, outcome]}'
            for source in self._secrets
            for outcome in Outcome
        ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


class Rate:
    """So many in a minute, and as many at once after a quiet one."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self._per_minute, self._monotonic = per_minute, monotonic
        self._left, self._at = float(per_minute), monotonic()

    def has_room(self) -> bool:
        """Would another one be let through?"""
        now = self._monotonic()
        self._left = min(self._per_minute, self._left + (now - self._at) * self._per_minute / _MINUTE_S)
        self._at = now
        return self._left >= 1

    def spend(self) -> bool:
        """Count one, where there is room."""
        room = self.has_room()
        self._left -= 1 if room else 0
        return room


async def _body(request: Request) -> bytes | None:
    """All of it; None where it is larger than it may be, whatever it said of itself."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")
