"""The gate: who may call a model, asked of every request that a replica gets over HTTP or gRPC.

Rules:
1. It stands in the replica, not only in the proxy before it: in Serve's HAProxy mode every replica listens by itself.
2. Without `access` nobody is asked, as long as Serve listens on loopback, no proxy has passed the request on, and who
   asks over gRPC is on this machine: Serve's gRPC ports listen on every address (`exposure.py`).
   Elsewhere that is refused with what to write: only `open: true` says that anybody may call.
3. One request, one key or token. Two may be read differently by whoever stands before us: refused.
4. Keys are asked first, then tokens. What is not known is refused in the same words, whatever it looked like.
5. While nothing could be read nobody is let in (503); once it was, the last good reading counts (`kept_reading.py`).
6. A new `access` holds at once. Nothing of the one before it is kept.
7. A token whose key is not known makes the set of keys be read again, at most every 10 s; a few requests wait for that,
   a second at most, and all others are refused at once: what strangers make up holds up nobody.
8. Never a key, a token or a header in a log, an answer or a metric.

/ping, /health, live and ready of the Open Inference Protocol are not asked about: load balancers have no key. That is
the door's business (`endpoints.py: OPEN`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from policies.serving import Access, Jwt
from serving_runtime import callers
from serving_runtime.api_keys import KeyTable, parse_keys
from serving_runtime.callers import ANYBODY, Caller, Reason, Refusal
from serving_runtime.jwt_tokens import KeySet, TokenCheck, UnknownKey, parse_key_set
from serving_runtime.kept_reading import FilePlace, KeptReading, UrlPlace, VariablePlace
from serving_runtime.rate_limit import RateLimit

_log = logging.getLogger(__name__)

Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case, one pair for each header that was sent."""

LOOK_EVERY_S = 1.0
"""A key that is revoked works for two of these at most: a file has to be the same in two looks."""
WAIT_S = 1.0
"""What a request waits for keys that are being read."""
WAITING = 8
"""Requests that wait so at once: a quarter of the places that a replica has by default."""
CREDENTIAL_LIMIT_BYTES = 8 * 1024
"""Proxies take headers of 8 to 16 kB; tokens have 0.5 to 2."""
SAID_EVERY_S = 60.0
"""A refusal of each kind is logged once in that time, or strangers would fill the disk."""

_FORWARDED: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})


class _Checks:
    """What one `access` is checked with."""

    def __init__(self, access: Access, clock: Callable[[], float]) -> None:
        self.keys: KeptReading[KeyTable] | None = None
        self._clock = clock
        self.jwks: KeptReading[KeySet] | None = None
        self.address: UrlPlace | None = None
        self.tokens: TokenCheck | None = None
        if access.keys is not None:
            keys = access.keys
            self.keys = KeptReading(
                FilePlace(keys.file) if keys.file else VariablePlace(keys.env or ""), parse_keys, clock
            )
        if access.jwt is not None:
            self.tokens = TokenCheck(access.jwt)
            self.jwks = self._jwks(access.jwt)
        self.limit = RateLimit(access.rate) if access.rate is not None else None

    def _jwks(self, terms: Jwt) -> KeptReading[KeySet]:
        if terms.jwks_file:
            return KeptReading(FilePlace(terms.jwks_file), parse_key_set, self._clock)
        self.address = UrlPlace(terms.jwks_url or "", self._clock)
        return KeptReading(self.address, parse_key_set, self._clock)

    async def look(self) -> None:
        """Read what is new."""
        await asyncio.wait({reading.look() for reading in self.readings().values()})

    def readings(self) -> Mapping[str, KeptReading[KeyTable] | KeptReading[KeySet]]:
        """By the name that metrics have for them."""
        both = {"keys": self.keys, "jwks": self.jwks}
        return {name: reading for name, reading in both.items() if reading is not None}


class Gate:
    """Who may call, at one replica. One event loop owns it."""

    def __init__(
        self,
        *,
        exposed: bool,
        refused: Callable[[Reason], None] = lambda _reason: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        wait_s: float = WAIT_S,
    ) -> None:
        """`exposed`: Serve takes requests from other machines (`exposure.py`).

        `refused` is called for each refusal; `clock` is monotonic, `now` the time of day, both in seconds.
        """
        self._wait_s = wait_s
        self._exposed, self._refused = exposed, refused
        self._clock, self._now = clock, now
        self._access: Access | None = None
        self._checks: _Checks | None = None
        self._watching: asyncio.Task[None] | None = None
        self._waiting = 0
        self._said_at: dict[Reason, float] = {}

    # --- configuring -------------------------------------------------------------------------------------------

    def configure(self, access: Access | None) -> None:
        """From now on this counts. Must run in the event loop; returns at once, never raises."""
        if access == self._access:
            return
        self.close()
        self._access = access
        if access is not None and not access.open:
            self._checks = _Checks(access, self._clock)
            self._watching = asyncio.get_running_loop().create_task(_watch(self._checks))
        _log.info("who may call: %s", _in_words(access))

    def close(self) -> None:
        """Read nothing any more."""
        self._checks = None
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def look(self) -> None:
        """Read now what is new; without it that is done every `LOOK_EVERY_S`."""
        if self._checks is not None:
            await self._checks.look()

    @property
    def troubles(self) -> Mapping[str, str]:
        """What is wrong with `keys` and `jwks`, where they are in use; empty text: nothing."""
        readings = self._checks.readings() if self._checks is not None else {}
        return {name: reading.trouble for name, reading in readings.items()}

    # --- asking ------------------------------------------------------------------------------------------------

    async def admit(self, headers: Headers, slug: str, *, from_here: bool = True) -> Caller | Refusal:
        """May this request call that model? Waits a second at most; raises nothing.

        `from_here`: it may come from this machine only, as far as its own way here tells.
        """
        checks = self._checks
        if checks is None:
            elsewhere = self._exposed or not from_here or any(name in _FORWARDED for name, _ in headers)
            if self._access is None and elsewhere:
                return self._refuse(callers.unset(), slug)
            return ANYBODY
        sent = _credential(headers)
        if isinstance(sent, Reason):
            missing = sent is Reason.NO_CREDENTIAL
            return self._refuse(callers.no_credential(slug) if missing else callers.not_valid(slug), slug)
        found = await self._find(checks, sent)
        match found:
            case Caller():
                return self._limited(checks, found, slug)
            case Reason.EXPIRED:
                return self._refuse(callers.expired(slug), slug)
            case Reason.UNAVAILABLE:
                return self._refuse(callers.unavailable(), slug)
            case _:
                return self._refuse(callers.not_valid(slug), slug)

    def internal(self, route: str, slug: str) -> Refusal:
        """For a request that did not come by the model's route (`public_route.py`)."""
        return self._refuse(callers.internal(route), slug)

    def _limited(self, checks: _Checks, caller: Caller, slug: str) -> Caller | Refusal:
        if not caller.may_call(slug):
            return self._refuse(callers.not_allowed(slug), slug, caller)
        wait_s = checks.limit.wait_s(caller, self._clock()) if checks.limit is not None else 0
        return self._refuse(callers.too_often(wait_s), slug, caller) if wait_s else caller

    async def _find(self, checks: _Checks, sent: str) -> Caller | Reason:
        for reading in checks.readings().values():
            if reading.value is None:
                await self._wait_for(reading.look())
        unread = any(reading.value is None for reading in checks.readings().values())
        if checks.keys is not None and checks.keys.value is not None:
            found = checks.keys.value.find(sent, self._now())
            if found is not None:
                return found
        token = await self._find_token(checks, sent)
        return Reason.UNAVAILABLE if token is Reason.NOT_VALID and unread else token

    async def _find_token(self, checks: _Checks, sent: str) -> Caller | Reason:
        tokens, jwks = checks.tokens, checks.jwks
        if tokens is None or jwks is None or jwks.value is None:
            return Reason.NOT_VALID
        found = tokens.find(sent, jwks.value, self._now())
        if isinstance(found, UnknownKey) and checks.address is not None and checks.address.may_hurry():
            await self._wait_for(jwks.look(hurry=True))
            found = tokens.find(sent, jwks.value, self._now())
        return Reason.NOT_VALID if isinstance(found, UnknownKey) else found

    async def _wait_for(self, look: asyncio.Task[None]) -> None:
        if self._waiting >= WAITING:
            return
        self._waiting += 1
        try:
            await asyncio.wait({look}, timeout=self._wait_s)
        finally:
            self._waiting -= 1

    def _refuse(self, refusal: Refusal, slug: str, caller: Caller | None = None) -> Refusal:
        self._refused(refusal.reason)
        now = self._clock()
        if now - self._said_at.get(refusal.reason, -SAID_EVERY_S) >= SAID_EVERY_S:
            self._said_at[refusal.reason] = now
            who = "somebody" if caller is None else caller.name
            _log.warning("%s may not call %s: %s (said once a minute)", who, slug, refusal.reason)
        return refusal


async def _watch(checks: _Checks) -> None:
    while True:
        await checks.look()
        await asyncio.sleep(LOOK_EVERY_S)


def _credential(headers: Headers) -> str | Reason:
    """The one key or token that was sent: NO_CREDENTIAL, or NOT_VALID for two, for another scheme, for a huge one."""
    sent: bytes | None = None
    for name, value in headers:
        if name not in (b"authorization", b"x-api-key"):
            continue
        if sent is not None or len(value) > CREDENTIAL_LIMIT_BYTES:
            return Reason.NOT_VALID
        sent = value.strip()
        if name == b"authorization":
            scheme, _, sent = sent.partition(b" ")
            if scheme.lower() != b"bearer":
                return Reason.NOT_VALID
            sent = sent.strip()
    if sent is None:
        return Reason.NO_CREDENTIAL
    return sent.decode("ascii") if sent and sent.isascii() else Reason.NOT_VALID


def _in_words(access: Access | None) -> str:
    if access is None:
        return "nobody is asked, on this machine only"
    if access.open:
        return "anybody"
    return " and ".join(name for name, given in (("keys", access.keys), ("tokens", access.jwt)) if given)
