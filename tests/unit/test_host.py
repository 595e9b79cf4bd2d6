"""What a host does with its challenger: splits, copies, falls back, and counts. Ray is not in it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serving_runtime.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker
from serving_runtime.challenger import ACCIDENT_S, FEW_AT_ONCE, Connection
from serving_runtime.events import AgreementEvent, Event, ShadowEvent, VersionEvent
from serving_runtime.host import Host, Reply
from serving_runtime.outcomes import Joint, Outcome, Served, UserOutcome
from serving_runtime.protocol import DRAINING, Answer, Call
from serving_runtime.shadow_copies import COPIES_WAITING, SAID_EVERY_S
from serving_runtime.user_config import AgreementTerms, GuardTerms, Split, UserConfig

STABLE, CANDIDATE = Served(1, "11111111"), Served(2, "22222222")
CALL = Call(b'{"inputs": [1]}', "application/json", "r-1")
SOON_S = 0.02  # a timeout that a test waits for
LONG_S = 20.0  # a timeout that must not be reached
TURNS_OF_THE_LOOP = 50  # more than any chain of tasks here needs

GUARD = GuardTerms(allowed=0.01, alpha=0.001)
TRIP = 3  # bad answers of a candidate that has shown nothing yet

Behaviour = Callable[[Call], Awaitable[Answer]]


async def good(_call: Call) -> Answer:
    return Answer(200, b"good")


async def broken(_call: Call) -> Answer:
    return Answer(500, b"broken")


async def refuses(_call: Call) -> Answer:
    return Answer(400, b"refused")


async def dies(_call: Call) -> Answer:
    raise ConnectionError("the replica died")


async def drains(_call: Call) -> Answer:
    return Answer(DRAINING, b"")


async def hangs(_call: Call) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError("never")


class Server:
    """A version that answers as told and counts what it was asked. It serves as own server and as connection."""

    def __init__(self, behaviour: Behaviour = good) -> None:
        self.behaviour = behaviour
        self.asked = 0

    async def answer(self, call: Call) -> Answer:
        self.asked += 1
        return await self.behaviour(call)


class Counts:
    """A Tally that remembers."""

    def __init__(self) -> None:
        self.events: Counter[Event] = Counter()
        self.users: Counter[UserOutcome] = Counter()
        self.announced: list[Served] = []
        self.segments: list[tuple[int, str, float]] = []
        self.seen = asyncio.Event()

    def count(self, event: Event, number: int) -> None:
        self.seen.set()
        self.events[event] += number

    def answered(self, outcome: UserOutcome) -> None:
        self.users[outcome] += 1

    def announce(self, served: Served, *, candidate: bool) -> None:
        assert candidate == (served == CANDIDATE)
        self.announced.append(served)

    def segment_took(self, version: int, segment: str, elapsed_ms: float) -> None:
        self.segments.append((version, segment, elapsed_ms))


class World:
    """One host, its own server, its candidate, its counts, its clock, and draws from a list."""

    def __init__(self, *, stable: Behaviour = good, candidate: Behaviour = good) -> None:
        self.own, self.other, self.counts = Server(stable), Server(candidate), Counts()
        self.now = 1000.0
        self.draws: list[float] = []
        self.connected: list[str] = []
        self.host = Host(
            STABLE,
            self.own,
            connect=self._connect,
            tally=self.counts,
            draw=lambda: self.draws.pop(0) if self.draws else 0.0,
            clock=lambda: self.now,
        )

    def _connect(self, application: str) -> Connection:
        self.connected.append(application)
        return self.other

    def split(self, revision: int = 1, request_timeout_s: float = LONG_S, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "weight_percent": 100,
            "shadow": False,
            "timeout_s": LONG_S,
            "max_ongoing": 4,
            **changes,
        }
        fields = {"application": "m--v2-22222222", **fields}
        split = Split(version=2, build="22222222", **fields)
        self.configure(revision, split, request_timeout_s)

    def configure(self, revision: int, split: Split | None, request_timeout_s: float = LONG_S) -> None:
        config = UserConfig(
            revision=revision, model="m", version=1, build="11111111", request_timeout_s=request_timeout_s, split=split
        )
        self.host.configure(config)

    async def ask(self) -> Reply:
        return await self.host.answer(CALL)

    @staticmethod
    async def idle() -> None:
        """Until nothing is under way any more, threads included."""
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*under_way), LONG_S)

    def trip(self) -> tuple[int, int, int] | None:
        """Version, requests and bad answers of the candidate that the guard has stopped."""
        found = self.host.tripped
        return None if found is None else (found[0].version, found[1].requests, found[1].bad)

    def versions(self) -> dict[tuple[int, str], int]:
        return {(e.served.version, e.outcome): n for e, n in self.counts.events.items() if isinstance(e, VersionEvent)}

    def agreements(self) -> dict[bool, int]:
        return {e.agrees: n for e, n in self.counts.events.items() if isinstance(e, AgreementEvent)}

    def pairs(self) -> dict[Joint, int]:
        return {e.joint: n for e, n in self.counts.events.items() if isinstance(e, ShadowEvent)}


async def settle() -> None:
    """Let every task that can run do so."""
    loop = asyncio.get_running_loop()
    for _ in range(TURNS_OF_THE_LOOP):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


# --- alone, and splitting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "outcome", "user"),
    [
        (good, Outcome.GOOD, UserOutcome.OK),
        (broken, Outcome.BAD, UserOutcome.ERROR),
        (refuses, Outcome.CLIENT_ERROR, UserOutcome.CLIENT_ERROR),
    ],
)
def test_alone_it_answers_and_counts_itself(behaviour: Behaviour, outcome: Outcome, user: UserOutcome) -> None:
    async def story() -> None:
        world = World(stable=behaviour)
        reply = await world.ask()
        assert reply == Reply(await behaviour(CALL), 1)
        assert world.versions() == {(1, outcome): 1}
        assert world.counts.users == {user: 1}

    asyncio.run(story())


def test_a_version_that_takes_too_long_is_504_and_bad() -> None:
    async def story() -> None:
        world = World(stable=hangs)
        world.configure(1, None, request_timeout_s=SOON_S)
        assert (await world.ask()).answer.status == 504
        assert world.versions() == {(1, Outcome.BAD): 1}
        assert world.counts.users == {UserOutcome.ERROR: 1}

    asyncio.run(story())


def test_the_draw_decides_who_answers_and_who_is_counted() -> None:
    async def story() -> None:
        world = World()
        world.split(weight_percent=10)
        world.draws = [0.05, 0.10, 0.99]
        replies = [await world.ask() for _ in range(3)]
        assert [r.version for r in replies] == [2, 1, 1]
        assert world.versions() == {(2, Outcome.GOOD): 1, (1, Outcome.GOOD): 2}
        assert world.counts.users == {UserOutcome.OK: 3}
        assert world.counts.announced == [STABLE, CANDIDATE]

    asyncio.run(story())


# --- falling back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [broken, dies, hangs])
def test_a_candidates_failure_is_answered_by_stable_and_counted_against_the_candidate(failure: Behaviour) -> None:
    async def story() -> None:
        world = World(candidate=failure)
        world.split(timeout_s=SOON_S)
        assert await world.ask() == Reply(Answer(200, b"good"), 1)
        assert world.versions() == {(2, Outcome.RESCUED): 1}, "stable's answer to a selected request is no evidence"
        assert world.counts.users == {UserOutcome.FALLBACK: 1}

    asyncio.run(story())


def test_when_both_fail_the_user_gets_stables_error() -> None:
    async def story() -> None:
        world = World(stable=broken, candidate=dies)
        world.split()
        assert await world.ask() == Reply(Answer(500, b"broken"), 1)
        assert world.versions() == {(2, Outcome.BAD): 1}
        assert world.counts.users == {UserOutcome.ERROR: 1}

    asyncio.run(story())


@pytest.mark.parametrize(
    ("stable", "reply", "candidate_counts_as", "user"),
    [
        (good, Reply(Answer(200, b"good"), 1), Outcome.RESCUED, UserOutcome.FALLBACK),
        (refuses, Reply(Answer(400, b"refused"), 1), Outcome.CLIENT_ERROR, UserOutcome.CLIENT_ERROR),
        (broken, Reply(Answer(400, b"refused"), 2), Outcome.CLIENT_ERROR, UserOutcome.CLIENT_ERROR),
    ],
)
def test_a_candidates_400_is_checked_with_stable(
    stable: Behaviour, reply: Reply, candidate_counts_as: Outcome, user: UserOutcome
) -> None:
    async def story() -> None:
        world = World(stable=stable, candidate=refuses)
        world.split()
        assert await world.ask() == reply
        assert world.versions() == {(2, candidate_counts_as): 1}
        assert world.counts.users == {user: 1}

    asyncio.run(story())


def test_a_draining_candidate_is_nobodys_fault() -> None:
    async def story() -> None:
        world = World(candidate=drains)
        world.split()
        for _ in range(FAILURES_TO_OPEN + 1):
            assert (await world.ask()).version == 1
        assert world.other.asked == FAILURES_TO_OPEN + 1, "draining opens no breaker"
        assert world.versions() == {(1, Outcome.GOOD): FAILURES_TO_OPEN + 1}
        assert world.counts.users == {UserOutcome.OK: FAILURES_TO_OPEN + 1}

    asyncio.run(story())


def test_above_the_cap_stable_answers_and_the_candidate_is_not_blamed() -> None:
    async def story() -> None:
        world, gate = World(), asyncio.Event()

        async def waits(call: Call) -> Answer:
            await gate.wait()
            return await good(call)

        world.other.behaviour = waits
        world.split(max_ongoing=2)
        held = [asyncio.create_task(world.ask()) for _ in range(2)]
        await settle()
        assert (await world.ask()).version == 1
        assert world.other.asked == 2
        gate.set()
        assert [(await h).version for h in held] == [2, 2]
        assert world.versions() == {(2, Outcome.GOOD): 2, (1, Outcome.GOOD): 1}
        assert (await world.ask()).version == 2, "there is room again"

    asyncio.run(story())


# --- accidents -------------------------------------------------------------------------------------------------------


def test_calls_that_break_count_once_until_the_candidate_answers_again() -> None:
    """A killed replica took eight requests along, and a healthy version was rolled back for it."""

    async def story() -> None:
        world = World()
        world.split()
        for behaviour, asks in ((good, 10), (dies, 4), (good, 1), (dies, 3)):
            world.other.behaviour = behaviour
            for _ in range(asks):
                assert (await world.ask()).answer.status == 200
        assert world.versions() == {(2, Outcome.GOOD): 11, (2, Outcome.RESCUED): 2}

    asyncio.run(story())


def test_in_shadow_a_copy_of_the_same_accident_counts_as_not_sent() -> None:
    async def story() -> None:
        world = World(candidate=dies)
        world.split(shadow=True, weight_percent=0)
        for _ in range(3):
            await world.ask()
            await settle()
        assert world.versions() == {(1, Outcome.GOOD): 3, (2, Outcome.RESCUED): 1}
        assert world.pairs() == {Joint.BAD_GOOD: 1, Joint.DROPPED: 2}

    asyncio.run(story())


@pytest.mark.parametrize("failure", [dies, hangs])
def test_a_candidate_that_stays_away_counts_again_and_trips_the_guard(failure: Behaviour) -> None:
    """Its replica was killed, and no other comes: each ACCIDENT_S one more, by the breaker's probes."""

    async def story() -> None:
        world = World(candidate=failure)
        world.split(guard=GUARD, timeout_s=0.01)
        for _ in range(TRIP):
            assert world.trip() is None
            for _ in range(FAILURES_TO_OPEN + 2):
                assert (await world.ask()).answer.status == 200
            world.now += max(ACCIDENT_S, LONGEST_PAUSE_S)
        assert world.versions()[2, Outcome.RESCUED] == TRIP
        assert world.trip() == (2, TRIP, TRIP)

    asyncio.run(story())


def test_answers_that_say_500_count_each() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        world.split()
        for _ in range(3):
            await world.ask()
        assert world.versions() == {(2, Outcome.RESCUED): 3}

    asyncio.run(story())


def test_late_answers_between_good_ones_count_each() -> None:
    async def story() -> None:
        world = World()
        world.split(timeout_s=0.01)
        for behaviour in (good, hangs, good, hangs, good):
            world.other.behaviour = behaviour
            await world.ask()
        assert world.versions() == {(2, Outcome.GOOD): 3, (2, Outcome.RESCUED): 2}

    asyncio.run(story())


# --- the breaker -----------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_the_breaker_and_then_nobody_waits() -> None:
    async def story() -> None:
        world = World(candidate=dies)
        world.split()
        for _ in range(FAILURES_TO_OPEN + 20):
            assert (await world.ask()).answer.status == 200
        assert world.other.asked == FAILURES_TO_OPEN
        assert world.versions() == {(2, Outcome.RESCUED): 1, (1, Outcome.GOOD): 20}

    asyncio.run(story())


def test_after_a_pause_one_probe_goes_through_and_an_answer_closes_it() -> None:
    async def story() -> None:
        world = World(candidate=dies)
        world.split()
        for _ in range(FAILURES_TO_OPEN):
            await world.ask()
        world.now += FIRST_PAUSE_S
        world.other.behaviour = good
        assert (await world.ask()).version == 2
        assert (await world.ask()).version == 2

    asyncio.run(story())


def test_answers_with_500_open_no_breaker() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        world.split()
        for _ in range(FAILURES_TO_OPEN * 3):
            await world.ask()
        assert world.other.asked == FAILURES_TO_OPEN * 3

    asyncio.run(story())


def test_the_breaker_lets_one_probe_through_at_a_time_and_pauses_longer_each_time() -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.allows(now)
        breaker.failed(now)
    pauses = []
    for _ in range(8):
        assert not breaker.allows(now)
        waited = FIRST_PAUSE_S
        while not breaker.allows(now + waited):
            waited *= 2
        assert not breaker.allows(now + waited), "a second probe"
        now += waited
        pauses.append(waited)
        breaker.failed(now)
    assert pauses[:3] == [FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4]
    assert max(pauses) < LONGEST_PAUSE_S * 2


def test_one_answer_in_between_starts_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.failed(0.0)
        breaker.answered()
    assert breaker.allows(0.0)
    assert not breaker.is_open


# --- shadow ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "stable", "joint", "candidate_counts_as"),
    [
        (good, good, Joint.GOOD_GOOD, Outcome.GOOD),
        (broken, good, Joint.BAD_GOOD, Outcome.RESCUED),
        (dies, good, Joint.BAD_GOOD, Outcome.RESCUED),
        (good, broken, Joint.GOOD_BAD, Outcome.GOOD),
        (broken, broken, Joint.BAD_BAD, Outcome.BAD),
        (refuses, good, Joint.BAD_GOOD, Outcome.RESCUED),
        (refuses, refuses, None, Outcome.CLIENT_ERROR),
    ],
)
def test_in_shadow_the_user_gets_stables_answer_and_the_pair_is_counted(
    candidate: Behaviour, stable: Behaviour, joint: Joint | None, candidate_counts_as: Outcome
) -> None:
    async def story() -> None:
        world = World(stable=stable, candidate=candidate)
        world.split(weight_percent=0, shadow=True)
        assert await world.ask() == Reply(await stable(CALL), 1)
        await settle()
        assert world.pairs() == ({} if joint is None else {joint: 1})
        assert world.versions()[2, candidate_counts_as] == 1
        assert sum(world.counts.users.values()) == 1

    asyncio.run(story())


def test_a_hanging_candidate_never_delays_an_answer_in_shadow_and_copies_are_bounded() -> None:
    async def story() -> None:
        world = World(candidate=hangs)
        world.split(weight_percent=0, shadow=True, max_ongoing=4)
        many = COPIES_WAITING + 4 + 10
        for _ in range(many):
            assert (await world.ask()).answer.status == 200
            await settle()
        assert world.other.asked == 4
        assert world.pairs() == {Joint.DROPPED: 10}

    asyncio.run(story())


def test_copies_that_wait_are_dropped_when_the_split_ends() -> None:
    async def story() -> None:
        world, gate = World(), asyncio.Event()

        async def waits(call: Call) -> Answer:
            await gate.wait()
            return await good(call)

        world.other.behaviour = waits
        world.split(weight_percent=0, shadow=True, max_ongoing=1)
        for _ in range(3):
            await world.ask()
        await settle()
        world.configure(2, None)
        gate.set()
        await settle()
        assert world.other.asked == 1
        assert world.pairs() == {Joint.GOOD_GOOD: 1, Joint.DROPPED: 2}

    asyncio.run(story())


def test_a_draining_candidate_drops_copies() -> None:
    async def story() -> None:
        world = World(candidate=drains)
        world.split(weight_percent=0, shadow=True)
        await world.ask()
        await settle()
        assert world.pairs() == {Joint.DROPPED: 1}
        assert world.versions() == {(1, Outcome.GOOD): 1}

    asyncio.run(story())


# --- agreement -------------------------------------------------------------------------------------------------------


def predicts(*values: float) -> Behaviour:
    async def behaviour(_call: Call) -> Answer:
        return Answer(200, json.dumps({"predictions": values}).encode())

    return behaviour


@pytest.mark.parametrize(
    ("candidate", "stable", "tolerance", "counted"),
    [
        (predicts(1, 0), predicts(1.0, 0.0), None, {True: 1}),
        (predicts(1, 1), predicts(1, 0), None, {False: 1}),
        (predicts(1.005), predicts(1.0), 0.01, {True: 1}),
        (predicts(1.005), predicts(1.0), 0.001, {False: 1}),
        (predicts(*range(3000)), predicts(*range(3000), 0), None, {False: 1}),
        (good, predicts(1), None, {False: 1}),
        (predicts(1), good, None, {}),
        (broken, predicts(1), None, {}),
        (predicts(1), broken, None, {}),
        (dies, broken, None, {}),
    ],
)
def test_in_shadow_predictions_of_good_answers_are_compared(
    candidate: Behaviour, stable: Behaviour, tolerance: float | None, counted: dict[bool, int]
) -> None:
    async def story() -> None:
        world = World(stable=stable, candidate=candidate)
        world.split(weight_percent=0, shadow=True, agreement=AgreementTerms(tolerance=tolerance))
        await world.ask()
        await world.idle()
        assert world.agreements() == counted
        assert sum(n for (version, _), n in world.versions().items() if version == 2) == 1
        assert sum(world.pairs().values()) == 1

    asyncio.run(story())


def test_predictions_are_not_compared_where_nobody_asks_for_it() -> None:
    async def story() -> None:
        world = World(stable=predicts(1), candidate=predicts(2))
        world.split(weight_percent=0, shadow=True)
        await world.ask()
        await world.idle()
        assert world.agreements() == {}
        assert world.pairs() == {Joint.GOOD_GOOD: 1}

    asyncio.run(story())


def test_answers_that_cannot_be_compared_are_said_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World(stable=predicts(1), candidate=good)
        world.split(weight_percent=0, shadow=True, agreement=AgreementTerms())
        for _ in range(5):
            await world.ask()
        await world.idle()
        assert world.agreements() == {False: 5}
        assert [r.getMessage() for r in caplog.records] == [
            (
                "predictions of candidate 2, counted as no agreement: the candidate's answer is no JSON object with "
                "predictions"
            )
        ]
        world.now += SAID_EVERY_S
        await world.ask()
        await world.idle()
        assert len(caplog.records) == 2

    asyncio.run(story())


# --- the guard -------------------------------------------------------------------------------------------------------


def test_the_guard_stops_a_candidate_that_fails_every_request(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World(candidate=broken)
        world.split(guard=GUARD)
        for _ in range(50):
            assert await world.ask() == Reply(Answer(200, b"good"), 1)
        assert world.other.asked == TRIP
        assert world.versions() == {(2, Outcome.RESCUED): TRIP, (1, Outcome.GOOD): 50 - TRIP}
        assert world.counts.users == {UserOutcome.FALLBACK: TRIP, UserOutcome.OK: 50 - TRIP}
        assert world.trip() == (2, TRIP, TRIP)
        (said,) = [r.getMessage() for r in caplog.records]
        assert said.startswith("the guard has stopped m--v2-22222222 at this replica, stable answers: 3 bad answers")

    asyncio.run(story())


@pytest.mark.parametrize("failure", [broken, refuses, dies])
def test_however_many_users_wait_a_candidate_that_fails_all_sees_10_requests_at_most(failure: Behaviour) -> None:
    async def story() -> None:
        world = World(candidate=failure)
        world.split(guard=GUARD, max_ongoing=1000)
        replies = await asyncio.gather(*(world.ask() for _ in range(200)))
        replies += [await world.ask() for _ in range(200)]
        assert {(r.answer.status, r.version) for r in replies} == {(200, 1)}
        assert world.other.asked <= 10
        if failure is not dies:
            assert world.trip() is not None

    asyncio.run(story())


def test_a_candidate_that_turns_bad_is_stopped_although_it_was_good_for_long() -> None:
    async def story() -> None:
        world = World()
        world.split(guard=GUARD, max_ongoing=1000)
        for _ in range(2000):
            await world.ask()
        world.other.behaviour = broken
        replies = [reply for _ in range(10) for reply in await asyncio.gather(*(world.ask() for _ in range(4)))]
        assert {r.answer.status for r in replies} == {200}
        assert world.other.asked - 2000 <= 10
        assert world.trip() is not None

    asyncio.run(story())


def test_few_requests_are_under_way_at_a_candidate_until_it_has_answered() -> None:
    async def story() -> None:
        world, gate = World(), asyncio.Event()

        async def waits(call: Call) -> Answer:
            await gate.wait()
            return await good(call)

        world.other.behaviour = waits
        world.split(guard=GUARD, max_ongoing=1000)
        held = [asyncio.create_task(world.ask()) for _ in range(20)]
        await settle()
        assert world.other.asked == FEW_AT_ONCE
        gate.set()
        await asyncio.gather(*held)
        gate.clear()
        held = [asyncio.create_task(world.ask()) for _ in range(20)]
        await settle()
        assert world.other.asked == FEW_AT_ONCE + 2 * FEW_AT_ONCE
        gate.set()
        await asyncio.gather(*held)
        assert world.versions() == {(2, Outcome.GOOD): 12, (1, Outcome.GOOD): 28}

    asyncio.run(story())


def test_an_outage_of_both_does_not_trip_the_guard() -> None:
    async def story() -> None:
        world = World(stable=broken, candidate=broken)
        world.split(guard=GUARD)
        for _ in range(100):
            await world.ask()
        assert world.other.asked == 100
        assert world.trip() is None

    asyncio.run(story())


def every(number: int, failure: Behaviour) -> Behaviour:
    """Fails each time that it has been asked so many times."""
    asked = 0

    async def behaviour(call: Call) -> Answer:
        nonlocal asked
        asked += 1
        return await (failure if asked % number == 0 else good)(call)

    return behaviour


@pytest.mark.parametrize(("weight", "controls"), [(100, 7), (60, 7), (50, 0)])
def test_while_a_candidate_with_most_users_is_suspected_stable_answers_what_it_answers_well(
    weight: int, controls: int
) -> None:
    async def story() -> None:
        world = World(candidate=every(8, broken))
        world.split(guard=GUARD, weight_percent=weight)
        for _ in range(15):
            await world.ask()
            await world.idle()
        assert world.own.asked == 1 + controls
        assert world.versions() == {(2, Outcome.GOOD): 14, (2, Outcome.RESCUED): 1}, "a control is no request"
        assert world.counts.users == {UserOutcome.OK: 14, UserOutcome.FALLBACK: 1}

    asyncio.run(story())


def test_a_control_delays_nobody_and_there_is_one_at_a_time() -> None:
    async def story() -> None:
        world, gate = World(candidate=every(8, broken)), asyncio.Event()

        async def waits(call: Call) -> Answer:
            await gate.wait()
            return await good(call)

        world.split(guard=GUARD)
        for _ in range(8):
            await world.ask()
        world.own.behaviour = waits
        for _ in range(7):
            assert (await world.ask()).version == 2
            await settle()
        assert world.own.asked == 2
        gate.set()
        await world.idle()

    asyncio.run(story())


def test_a_replica_that_dies_with_many_requests_is_one_accident() -> None:
    async def story() -> None:
        world, gate = World(), asyncio.Event()

        async def dies_with_all(call: Call) -> Answer:
            await gate.wait()
            return await dies(call)

        world.split(guard=GUARD, max_ongoing=8)
        for _ in range(20):
            await world.ask()
        world.other.behaviour = dies_with_all
        held = [asyncio.create_task(world.ask()) for _ in range(8)]
        await settle()
        gate.set()
        assert {(await h).answer.status for h in held} == {200}
        assert world.versions() == {(2, Outcome.GOOD): 20, (2, Outcome.RESCUED): 1}
        assert world.trip() is None
        world.other.behaviour = good
        world.now += FIRST_PAUSE_S
        assert (await world.ask()).version == 2

    asyncio.run(story())


def test_a_trip_lasts_as_long_as_the_split_names_that_application() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        world.split(revision=1, guard=GUARD)
        for _ in range(TRIP):
            await world.ask()
        other_terms = GuardTerms(allowed=0.05, alpha=0.01)
        changes: list[dict[str, Any]] = [
            {"weight_percent": 50},
            {"max_ongoing": 7},
            {"guard": other_terms},
            {"shadow": True, "weight_percent": 0},
        ]
        for revision, change in enumerate(changes, start=2):
            world.split(revision=revision, **{"guard": GUARD, **change})
            await world.ask()
            await settle()
            assert world.trip() == (2, TRIP, TRIP), change
        assert world.other.asked == TRIP
        world.configure(10, None)
        assert world.trip() is None
        world.split(revision=11, guard=GUARD)
        await world.ask()
        assert world.other.asked == TRIP + 1

    asyncio.run(story())


def test_what_the_guard_has_seen_outlives_a_new_weight_and_another_candidate_starts_afresh() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        world.split(revision=1, guard=GUARD)
        for revision in range(2, TRIP + 2):
            await world.ask()
            world.split(revision=revision, guard=GUARD, max_ongoing=revision)
        assert world.trip() == (2, TRIP, TRIP)
        world.split(revision=10, guard=GUARD, application="m--v2-33333333")
        assert world.trip() is None

    asyncio.run(story())


def test_in_shadow_the_guard_stops_the_copies() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        world.split(weight_percent=0, shadow=True, guard=GUARD)
        for _ in range(50):
            assert (await world.ask()).version == 1
            await settle()
        trip = world.trip()
        assert trip is not None
        assert world.pairs() == {Joint.BAD_GOOD: trip[2], Joint.DROPPED: 50 - trip[2]}
        assert world.other.asked == trip[2] < 20

    asyncio.run(story())


def test_without_guard_nothing_is_stopped() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        world.split(guard=None)
        for _ in range(50):
            await world.ask()
        assert world.other.asked == 50
        assert world.trip() is None

    asyncio.run(story())


# --- clients that leave, order, revisions ----------------------------------------------------------------------------


def test_a_client_that_leaves_does_not_spare_a_slow_candidate() -> None:
    async def story() -> None:
        world = World(candidate=hangs)
        world.split(timeout_s=SOON_S)
        request = asyncio.create_task(world.ask())
        await settle()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.wait_for(world.counts.seen.wait(), LONG_S)
        assert world.versions() == {(2, Outcome.RESCUED): 1}

    asyncio.run(story())


def test_younger_answers_are_counted_after_older_ones_of_either_version() -> None:
    async def story() -> None:
        world, gate = World(), asyncio.Event()

        async def waits(_call: Call) -> Answer:
            await gate.wait()
            return Answer(500, b"")

        world.other.behaviour = waits
        world.split(weight_percent=50)
        world.draws = [0.0, 0.9, 0.9]
        slow = asyncio.create_task(world.ask())
        await settle()
        assert [(await world.ask()).version for _ in range(2)] == [1, 1]
        assert not world.versions()
        gate.set()
        await slow
        assert world.versions() == {(2, Outcome.RESCUED): 1, (1, Outcome.GOOD): 2}

    asyncio.run(story())


def test_an_older_revision_is_ignored_and_the_same_one_is_not() -> None:
    world = World()
    world.split(revision=5, weight_percent=10)
    world.split(revision=4, weight_percent=90)
    assert world.host.config is not None
    assert world.host.config.split is not None
    assert world.host.config.split.weight_percent == 10
    world.split(revision=5, weight_percent=20)
    assert world.host.config.split.weight_percent == 20


def test_a_new_weight_keeps_the_breaker_and_another_candidate_starts_afresh() -> None:
    async def story() -> None:
        world = World(candidate=dies)
        world.split(revision=1)
        for _ in range(FAILURES_TO_OPEN):
            await world.ask()
        world.split(revision=2, weight_percent=100, timeout_s=1.0)
        await world.ask()
        assert world.other.asked == FAILURES_TO_OPEN
        other = Split(
            application="m--v3-33333333",
            version=2,
            build="22222222",
            weight_percent=100,
            shadow=False,
            timeout_s=1.0,
            max_ongoing=4,
        )
        world.configure(3, other)
        await world.ask()
        assert world.other.asked == FAILURES_TO_OPEN + 1
        assert world.connected == ["m--v2-22222222", "m--v3-33333333"]

    asyncio.run(story())
