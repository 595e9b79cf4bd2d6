"""What a version does with each request: answers it, and, while it hosts a challenger, splits, copies and falls back.

Rules:
1. A user never sees a candidate's failure: an exception, a 5xx, a timeout, a candidate that drains, its cap and its
   breaker are all answered by this version itself, within the request's own timeout.
2. A request is evidence about the version it was drawn for, once; one that streams by how it ends
   (`stream_counts.py`). The candidate's failures count although stable
   answered (`rescued`); what stable answers in its place is no evidence about stable: those requests were selected by
   the candidate's failing.
3. A request that the candidate was never asked for (drains, cap, breaker open, guard) is an ordinary request of this
   version.
4. A copy in shadow starts after the user has the answer (`shadow_copies.py`), and so does comparing predictions.
5. A candidate's 4xx is checked here: where this version answers well, the candidate was wrong.
6. A client that goes away does not end its request: a version that is slower than its clients' patience must not
   escape being counted.
7. A revision lower than the last is ignored; configuring never fails and never waits.
8. The guard (`guard.py`) belongs to the candidate's application: it keeps what it has seen, and a trip, for as long as
   the split names that application. After a trip the candidate gets neither requests nor copies.
9. Calls that get no answer, one after the other, are one accident and count once, to the guard as well: a replica that
   dies is no bad version yet. One that stays away counts again every ACCIDENT_S (`challenger.py`).
10. Where the candidate answers more users than this version does, and the guard suspects it, this version is asked too
   what the candidate answered well: one at a time, after the user has the answer, and for the guard only. Asked only
   where the candidate failed, it could not show an outage that both share.
11. What a model does not ask for costs its requests nothing: keys, segments, feedback and forced versions have a way of
    their own (`_answer_asker`, `_answer_forced`).

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
from serving_runtime.events import Event, FallbackEvent, FeedbackEvent, RefusedFeedbackEvent, Tally, VersionEvent
from serving_runtime.feedback import NOT_ASKED, Arms, Refusal, answer_of, read_report, receipt
from serving_runtime.forcing import FORCE_HEADER, UNAVAILABLE, asked_for, unavailable
from serving_runtime.guard import Guard, Tripped, words
from serving_runtime.outcomes import (
    Fallback,
    Joint,
    Outcome,
    Served,
    StartOrder,
    UserOutcome,
    candidate_outcome,
    outcome_of,
)
from serving_runtime.protocol import Answer, Call, as_copy, model_fault, timed_out
from serving_runtime.request_keys import RequestKeys
from serving_runtime.routing import draw_of, pick
from serving_runtime.shadow_copies import Copy, ShadowCopies
from serving_runtime.stream_counts import StreamCounts, Streamed
from serving_runtime.user_config import Split, UserConfig

_log = logging.getLogger(__name__)

# Above this share the candidate answers more users than stable does.
MOST_PERCENT = 50

# What is left for this version when a candidate has used up the request's time: enough for an ordinary answer, because
# a late answer serves the user better than none.
LEAST_OWN_S = 1.0

# Until the first configuration arrives, which Serve delivers before the first request: the model document's own
# default.
DEFAULT_TIMEOUT_S = 30.0


class OwnServer(Protocol):
    """This version's own model server."""

    async def answer(self, call: Call) -> Answer:
        """Never raises for what the model does; may take long, and may be cancelled."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer and the version that gave it; `receipt` names its arm where feedback is asked for."""

    answer: Answer
    version: int
    receipt: str = ""
    streamed: Streamed | None = None
    """Where the answer streams: whom to tell how it ends."""


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
        self._guard: Guard | None = None
        self._controls = False
        self.headers = frozenset((FORCE_HEADER,))
        """Names of the headers that a call must carry, in lower case."""
        self._keys: RequestKeys | None = None
        self._arms: Arms | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._copies = ShadowCopies(self._order, tally, clock=clock, spawn=self._spawn, compares=self._guard_compares)
        self._streams = StreamCounts(self._order, tally, self, ask=self._ask_self, spawn=self._spawn)
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
        split, current = config.split, self._challenger
        self._guard = self._guard_of(split)
        self._config = config
        if split is None:
            self._challenger = None
        elif current is not None and current.same_place(split):
            current.split = split
        else:
            self._challenger = Challenger(split, self._connect(split.application), self._clock)
            self._tally.announce(Served(split.version, split.build), candidate=True)
        if self._challenger is not None:
            self._challenger.guard = self._guard
        self._copies.challenger = self._challenger
        self._ask_of_requests(config)
        return True

    def _ask_of_requests(self, config: UserConfig) -> None:
        """What is wanted of each request beside its answer."""
        wanted = config.sticky is not None or config.segments is not None
        self._keys = RequestKeys(config.sticky, config.segments) if wanted else None
        self.headers = frozenset((FORCE_HEADER,)) | (self._keys.headers if self._keys else frozenset())
        if not config.feedback:
            self._arms = None
            return
        self._arms = Arms(self._clock) if self._arms is None else self._arms
        for served in self._serving:
            self._arms.know(served)
            for good in (True, False):
                self._tally.count(FeedbackEvent(served, good), 0)

    @property
    def versions(self) -> frozenset[str]:
        """Which may answer here."""
        return frozenset(str(served.version) for served in self._serving)

    def is_ready(self, version: str) -> bool:
        """Would it answer who may name it? The candidate only where somebody may, and where it is asked at all."""
        if version == str(self._served.version):
            return True
        challenger = self._challenger
        if challenger is None or version != str(challenger.served.version):
            return False
        may_be_named = self._config is not None and self._config.forced_version is not None
        return may_be_named and challenger.refuses_forced() in (None, Fallback.FULL)

    @property
    def _serving(self) -> tuple[Served, ...]:
        """This version, and its challenger."""
        return (self._served, *((self._challenger.served,) if self._challenger else ()))

    @property
    def breaker(self) -> tuple[Served, bool] | None:
        """The challenger, and whether its breaker is open."""
        challenger = self._challenger
        return None if challenger is None else (challenger.served, challenger.breaker_is_open)

    def _guard_of(self, split: Split | None) -> Guard | None:
        """The guard there is while application and terms stay the same (a trip outlives new terms), or a new one."""
        if split is None or split.guard is None:
            return None
        before, guard = self._config.split if self._config else None, self._guard
        same_application = before is not None and before.application == split.application
        if guard is not None and same_application and (guard.tripped or guard.terms == split.guard):
            return guard
        return Guard(split.guard)

    @property
    def tripped(self) -> tuple[Served, Tripped] | None:
        """The candidate that the guard has stopped here, and what tripped it."""
        if self._challenger is None or self._guard is None or self._guard.tripped is None:
            return None
        return self._challenger.served, self._guard.tripped

    # --- answering ---------------------------------------------------------------------------------------------

    async def answer(self, call: Call, *, may_force: bool = False, version: str | None = None) -> Reply:
        """Answer one request. It goes on to its end when the caller is cancelled (rule 6).

        `may_force` is the caller's permission to name a version, where the model asks for one; `version` the one that
        its path names.
        """
        if version is not None or FORCE_HEADER in call.headers:
            return await asyncio.shield(self._spawn(self._answer_forced(call, version, may_force=may_force)))
        if self._keys is not None or self._arms is not None:
            return await asyncio.shield(self._spawn(self._answer_asker(call)))
        return await asyncio.shield(self._spawn(self._answer(call)))

    async def _answer(self, call: Call) -> Reply:
        challenger = self._challenger
        if challenger is None:
            reply, _ = await self._by_self(call)
            return reply
        reply, _ = await self._answer_drawn(call, challenger, self._draw())
        return reply

    async def _answer_drawn(self, call: Call, challenger: Challenger, draw: float) -> tuple[Reply, Served]:
        """The reply, and the arm: whom it was drawn for and asked of."""
        turn = pick(challenger.split, draw)
        if turn.to_candidate:
            refusal = challenger.refuses_user()
            if refusal is None:
                return await self._by_candidate(call, challenger)
            self._falls_back(challenger, refusal)
        started = self._clock()
        reply, outcome = await self._by_self(call)
        if turn.copy and reply.streamed is None:
            self._copies.add(Copy(call, reply.answer, outcome, challenger))
        elif turn.copy and reply.streamed is not None:
            own = reply.answer._replace(rest=None)
            reply.streamed.then(
                lambda so: self._copies.add(Copy(call, own, so, challenger, self._clock() - started)),
            )
        return reply, self._served

    async def _answer_asker(self, call: Call) -> Reply:
        """The same for a model that asks who asks, or what becomes of its answers."""
        started, challenger, keys, arms = self._clock(), self._challenger, self._keys, self._arms
        asker = keys.read(call) if keys is not None else None
        if challenger is None:
            arm = self._served
            reply, _ = await self._by_self(call)
        else:
            key = asker.sticky if asker is not None else None
            draw = self._draw() if key is None else draw_of(key, challenger.split.application)
            reply, arm = await self._answer_drawn(call, challenger, draw)
        if asker is not None and asker.segment is not None:
            self._tally.segment_took(reply.version, asker.segment, (self._clock() - started) * 1000.0)
        if arms is None:
            return reply
        arms.answered(call.request_id, arm)
        return dataclasses.replace(reply, receipt=receipt(arm))

    async def _answer_forced(self, call: Call, version: str | None, *, may_force: bool) -> Reply:
        """A request that names its version: by that one, or not at all (`forcing.py`)."""
        challenger = self._challenger
        allowed = self._config.forced_version if self._config else None
        which = asked_for(call, version, self._serving, allowed, may_force=may_force)
        if isinstance(which, Answer):
            self._tally.answered(UserOutcome.REFUSED)
            return Reply(which, self._served.version)
        if version is not None:  # so that whoever answers knows: no sample of its users
            call = dataclasses.replace(call, headers={**call.headers, FORCE_HEADER: version})
        if challenger is None or which == self._served:
            answer = await self._ask_self(call, self.timeout_s)
        else:
            answer = await self._ask_forced(call, challenger)
        unasked = answer.status == UNAVAILABLE
        streamed = self._got(answer, UserOutcome.REFUSED if unasked else _USER[outcome_of(answer.status)])
        if self._arms is None:
            return Reply(answer, which.version, streamed=streamed)
        self._arms.answered(call.request_id, None)
        return Reply(answer, which.version, receipt(None), streamed)

    async def _ask_forced(self, call: Call, challenger: Challenger) -> Answer:
        served = challenger.served
        refusal = challenger.refuses_forced()
        if refusal is not None:
            return unavailable(served, refusal, call.request_id)
        attempt = await challenger.ask_forced(call)
        if attempt.answer is not None:
            return attempt.answer
        if attempt.timed_out:
            return timed_out(call.request_id, challenger.split.timeout_s)
        if attempt.kind is AttemptKind.DRAINING:
            return unavailable(served, Fallback.DRAINING, call.request_id)
        _log.warning("candidate %s, asked by name: %s (request id %s)", served.version, attempt.reason, call.request_id)
        return model_fault(call.request_id)

    def _got(self, answer: Answer, user: UserOutcome) -> Streamed | None:
        """Count what a user got, for an answer that is no evidence about who gave it; of a stream at its end."""
        if answer.rest is None:
            self._tally.answered(user)
            return None
        return self._streams.of_nobody(user, self.timeout_s)

    # --- feedback ----------------------------------------------------------------------------------------------

    def report(self, body: bytes) -> Answer:
        """Count what a user reports about an answer (`feedback.py`), or say why not. Never raises."""
        if self._arms is None:
            return NOT_ASKED
        report = read_report(body)
        if isinstance(report, Answer):
            self._tally.count(RefusedFeedbackEvent(Refusal.MALFORMED), 1)
            return report
        arm = self._arms.settle(report)
        if isinstance(arm, Refusal):
            self._tally.count(RefusedFeedbackEvent(arm), 1)
            return answer_of(arm)
        self._tally.count(FeedbackEvent(arm, report.good), 1)
        return answer_of(None)

    # --- by whom -----------------------------------------------------------------------------------------------

    async def _by_self(self, call: Call) -> tuple[Reply, Outcome]:
        """An ordinary request of this version."""
        started = self._clock()
        ticket = self._order.start()
        outcome, streams = Outcome.BAD, False
        try:
            answer = await self._ask_self(call, self.timeout_s)
            outcome, streams = outcome_of(answer.status), answer.rest is not None
        finally:
            if not streams:
                self._order.finish(ticket, (VersionEvent(self._served, outcome),))
        if streams:
            left_s = self.timeout_s - (self._clock() - started)
            streamed = self._streams.of_own(self._served, ticket, self._guard, left_s)
            return Reply(answer, self._served.version, streamed=streamed), outcome
        self.sees(self._guard, outcome)
        self._tally.answered(_USER[outcome])
        return Reply(answer, self._served.version), outcome

    async def _ask_self(self, call: Call, timeout_s: float) -> Answer:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._own.answer(call)
        except TimeoutError:
            _log.warning("no answer within %g s to request id %s", timeout_s, call.request_id)
            return timed_out(call.request_id, timeout_s)

    def _falls_back(self, challenger: Challenger, why: Fallback) -> None:
        self._tally.count(FallbackEvent(challenger.served, why), 1)

    async def _by_candidate(self, call: Call, challenger: Challenger) -> tuple[Reply, Served]:
        """A request that was drawn for the candidate, and the arm that it belongs to."""
        started = self._clock()
        served = challenger.served
        ticket = self._order.start()
        challenger.unsettled += 1
        outcome: Outcome | None = Outcome.BAD
        counts, streams = True, False
        try:
            attempt = await challenger.ask(call)
            counts = attempt.is_evidence
            if attempt.answer is not None and attempt.answer.rest is not None:
                streams, left_s = True, self.timeout_s - (self._clock() - started)
                streamed = self._streams.of_candidate(call, attempt, challenger, ticket, left_s)
                return Reply(attempt.answer, served.version, streamed=streamed), served
            if attempt.kind is AttemptKind.DRAINING:
                self._falls_back(challenger, Fallback.DRAINING)
                outcome = None
            else:
                reply, outcome = await self._settle(call, attempt, challenger, started)
        finally:
            challenger.unsettled -= 1
            if not streams:
                self._order.finish(ticket, (VersionEvent(served, outcome),) if outcome and counts else ())
        if outcome is None:
            reply, _ = await self._by_self(call)
            return reply, self._served
        return reply, served

    async def _settle(
        self, call: Call, attempt: Attempt, challenger: Challenger, started: float
    ) -> tuple[Reply, Outcome]:
        """The user's reply to a request the candidate was asked for, and what that counts as."""
        candidate, version, guard = attempt.outcome, challenger.split.version, challenger.guard
        if candidate is Outcome.GOOD and attempt.answer is not None:
            self.judges(guard, attempt, candidate)
            self.control(call, challenger)
            self._tally.answered(UserOutcome.OK)
            return Reply(attempt.answer, version), candidate
        if attempt.reason:
            _log.warning("candidate %s: %s (request id %s)", version, attempt.reason, call.request_id)
        left_s = max(self.timeout_s - (self._clock() - started), LEAST_OWN_S)
        own = await self._ask_self(call, left_s)
        stable = outcome_of(own.status)
        counts_as = candidate_outcome(candidate, stable)
        self.judges(guard, attempt, counts_as)
        self.sees(guard, stable)
        # A request that both call wrong fell back to nobody.
        if attempt.fallback is not None and not (candidate is Outcome.CLIENT_ERROR and stable is not Outcome.GOOD):
            self._falls_back(challenger, attempt.fallback)
        if candidate is Outcome.CLIENT_ERROR and stable is Outcome.BAD and attempt.answer is not None:
            self._tally.answered(UserOutcome.CLIENT_ERROR)
            return Reply(attempt.answer, version), counts_as
        streamed = self._got(own, UserOutcome.FALLBACK if stable is Outcome.GOOD else _USER[stable])
        return Reply(own, self._served.version, streamed=streamed), counts_as

    # --- the guard ---------------------------------------------------------------------------------------------

    def sees(self, guard: Guard | None, stable: Outcome) -> None:
        """Stable has answered."""
        if guard is not None and stable is not Outcome.CLIENT_ERROR:
            guard.stable_answered(well=stable is Outcome.GOOD)

    def judges(self, guard: Guard | None, attempt: Attempt, candidate: Outcome) -> None:
        """The candidate has answered a user, or stable in its place."""
        if guard is None or not attempt.is_evidence or candidate not in (Outcome.GOOD, Outcome.RESCUED):
            return
        if guard.candidate_answered(well=candidate is Outcome.GOOD):
            self._say_tripped(guard)

    def control(self, call: Call, challenger: Challenger) -> None:
        """Ask this version too, in the background, where the guard knows too little about it (rule 10)."""
        guard = challenger.guard
        if guard is None or self._controls or not guard.suspects:
            return
        if challenger.split.weight_percent > MOST_PERCENT:
            self._controls = True
            self._spawn(self._ask_control(call, guard))

    async def _ask_control(self, call: Call, guard: Guard) -> None:
        try:
            own = await self._ask_self(as_copy(call, stop_after_s=self.timeout_s / 2), self.timeout_s)
        finally:
            self._controls = False
        self.sees(guard, outcome_of(own.status))

    def _guard_compares(self, guard: Guard | None, attempt: Attempt, joint: Joint) -> None:
        """Both have answered, in shadow."""
        if guard is None or not attempt.is_evidence:
            return
        candidate_well, stable_well = (
            joint in (Joint.GOOD_GOOD, Joint.GOOD_BAD),
            joint in (Joint.GOOD_GOOD, Joint.BAD_GOOD),
        )
        if guard.both_answered(candidate_well=candidate_well, stable_well=stable_well):
            self._say_tripped(guard)

    def _say_tripped(self, guard: Guard) -> None:
        split = self._config.split if self._config else None
        if guard.tripped is not None and guard is self._guard and split is not None:
            reason = words(guard.tripped, guard.terms)
            _log.error("the guard has stopped %s at this replica, stable answers: %s", split.application, reason)

    # --- the rest ----------------------------------------------------------------------------------------------

    @property
    def timeout_s(self) -> float:
        """How long a request may take."""
        return DEFAULT_TIMEOUT_S if self._config is None else self._config.request_timeout_s

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        # A context of its own, because Serve cancels calls that were made in the context of a request that was
        # cancelled.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_USER = {
    Outcome.GOOD: UserOutcome.OK,
    Outcome.BAD: UserOutcome.ERROR,
    Outcome.CLIENT_ERROR: UserOutcome.CLIENT_ERROR,
}
