"""How a front asks its members: the host of each by name, within its time, once more where the host was gone.

Rules:
1. A member is asked as a user asks: its host splits, copies, falls back and counts (`app.py: Model.ask`).
2. Every question ends within the member's `timeout_s`, whatever the host's application does: one that was deleted may
   hang.
3. A call that the transport lost is asked once more, of the host that the front has been told of by then: a host that
   a promotion replaced, a replica that died. A prediction may be asked for twice; what was answered is never asked
   again, and neither is what took too long.
4. What went wrong is a value with its reason (`Heard`), and the reason is logged here, under the request id.
5. A new configuration is taken whole and at once. Ways to hosts that it does not name are forgotten.

Nothing here knows Ray, HTTP or gRPC: `HostWay` is the door, and `front_app.py` has the one that goes through a Serve
handle.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from serving_runtime.front_config import FrontConfig, Member
from serving_runtime.protocol import Answer, Call, timed_out, unavailable

_log = logging.getLogger(__name__)

ASKED_AT_MOST = 2
"""Times that a question is asked. A third would find what the second did, and its user has waited for two."""
AGAIN_AFTER_S = 0.05
"""A host that is replaced has its successor already, and a front hears of it within a few tenths of a second."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a host answered, and the version that did."""

    answer: Answer
    version: str


@dataclasses.dataclass(frozen=True)
class Question:
    """What a host is asked."""

    call: Call
    version: str | None = None
    """Answered by this version, or 404; none: by whichever the host chooses."""
    may_force: bool = False
    """The caller has the permission to choose the version that answers."""


class HostWay(Protocol):
    """The way to one host."""

    async def ask(self, question: Question) -> Reply:
        """The host's reply, as a user would get it. May hang; may raise anything."""

    async def describe(self) -> Reply:
        """What the host's version says of itself: the answer to `GET /v2/models/{model}`. Likewise."""


Asking = Callable[[HostWay], Awaitable[Reply]]


@dataclasses.dataclass(frozen=True)
class Heard:
    """What came of asking one member. Always something that could be sent on; `reason` says what went wrong."""

    member: Member
    answer: Answer
    version: str = ""
    """Empty where no version answered."""
    reason: str = ""


class Front:
    """The members of one front as it is told of them. One event loop owns it."""

    def __init__(self, connect: Callable[[str], HostWay]) -> None:
        """`connect(application)` must return at once."""
        self._connect = connect
        self._config: FrontConfig | None = None
        self._ways: dict[str, HostWay] = {}

    @property
    def config(self) -> FrontConfig | None:
        """What it was told last."""
        return self._config

    def configure(self, config: FrontConfig) -> None:
        """Take a new configuration. Never waits."""
        self._config = config
        named = {member.application for member in config.members}
        self._ways = {application: way for application, way in self._ways.items() if application in named}

    def find(self, name: str) -> Member | None:
        """The member that is called so: by the model's registered name, or by its slug."""
        members = self._config.members if self._config else ()
        return next((member for member in members if name in (member.name, member.model)), None)

    async def ask(self, member: Member, question: Question) -> Heard:
        """Ask one member. Raises nothing but CancelledError."""
        return await self._within_its_time(member, question.call.request_id, lambda way: way.ask(question))

    async def describe(self, member: Member, request_id: str) -> Heard:
        """The same for what its host says of itself."""
        return await self._within_its_time(member, request_id, lambda way: way.describe())

    async def _within_its_time(self, member: Member, request_id: str, asking: Asking) -> Heard:
        try:
            async with asyncio.timeout(member.timeout_s):
                return await self._asked(member, request_id, asking)
        except TimeoutError:
            reason = f"no answer within {member.timeout_s:g} s"
            _log.warning("member %s: %s (request id %s)", member.model, reason, request_id)
            return Heard(member, timed_out(request_id, member.timeout_s), reason=reason)

    async def _asked(self, member: Member, request_id: str, asking: Asking) -> Heard:
        reason = ""
        for time in range(1, ASKED_AT_MOST + 1):
            application = self._host_of(member)
            try:
                reply = await asking(self._way(application))
            except Exception as error:  # noqa: BLE001 whatever the transport raises
                reason = f"{application}: {type(error).__name__}: {str(error)[:200]}"
                _log.warning("member %s was asked %d: %s (request id %s)", member.model, time, reason, request_id)
                if time < ASKED_AT_MOST:
                    await asyncio.sleep(AGAIN_AFTER_S)
            else:
                return Heard(member, reply.answer, reply.version)
        return Heard(member, unavailable(request_id), reason=reason)

    def _host_of(self, member: Member) -> str:
        """Its host as the front is told now, which may be another than when the request began."""
        now = self.find(member.name)
        return now.application if now else member.application

    def _way(self, application: str) -> HostWay:
        if application not in self._ways:
            self._ways[application] = self._connect(application)
        return self._ways[application]
