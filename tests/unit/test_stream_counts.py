"""What a stream counts as: once, by how it ended, and without holding up what others count as."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from serving_runtime.challenger import ACCIDENT_S, FEW_AT_ONCE
from serving_runtime.event_stream import DONE, EVENT_STREAM
from serving_runtime.events import ShadowEvent, VersionEvent
from serving_runtime.host import Reply
from serving_runtime.outcomes import Ending, Joint, Outcome, Served, UserOutcome
from serving_runtime.protocol import Answer, Call, as_copy, model_fault, stop_after_s
from serving_runtime.stream_counts import Streamed
from serving_runtime.streamed_answers import follow
from tests.conditions import turns, wait_until
from tests.unit.test_host import CANDIDATE, GUARD, LONG_S, SOON_S, STABLE, TRIP, World, broken, good, settle

WAIT_S = 20.0  # never reached when all is well
HEAD = b"data: 1\n\n"


async def _rest() -> AsyncGenerator[bytes | Answer, None]:
    yield DONE


async def streams(call: Call) -> Answer:
    """The head of a stream; a copy is whole."""
    if "x-sluice-copy" in call.headers:
        return Answer(200, HEAD + DONE, EVENT_STREAM)
    return Answer(200, HEAD, EVENT_STREAM, rest=_rest())


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), WAIT_S))  # type: ignore[arg-type]


def ends(reply: Reply) -> Streamed:
    assert reply.streamed is not None
    reply.streamed.followed()
    return reply.streamed


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, WAIT_S, "the count")


def counted(world: World) -> dict[tuple[Served, Outcome], int]:
    return {(e.served, e.outcome): n for e, n in world.counts.events.items() if isinstance(e, VersionEvent) and n}


def world_with(candidate: bool = False, **split: object) -> World:
    world = World(stable=streams, candidate=streams)
    if candidate:
        world.split(**split)  # type: ignore[arg-type]
    else:
        world.configure(1, None)
    return world


# --- once, by how it ended ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "outcome", "user"),
    [
        (Ending.WHOLE, Outcome.GOOD, UserOutcome.OK),
        (Ending.LEFT, Outcome.GOOD, UserOutcome.OK),
        (Ending.BROKE, Outcome.BAD, UserOutcome.ERROR),
        (Ending.LOST, Outcome.BAD, UserOutcome.ERROR),
    ],
)
def test_a_stream_counts_once_at_its_end(ending: Ending, outcome: Outcome, user: UserOutcome) -> None:
    async def story() -> None:
        world = world_with()
        stream = ends(await world.ask())
        assert not counted(world)
        assert not world.counts.users
        stream.ended(ending)
        stream.ended(Ending.BROKE)
        assert counted(world) == {(STABLE, outcome): 1}
        assert world.counts.users == {user: 1}

    run(story)


def test_what_stable_streams_in_the_candidates_place_is_no_evidence_about_stable() -> None:
    async def story() -> None:
        world = world_with(candidate=True)
        world.other.behaviour = broken
        ends(await world.ask()).ended(Ending.WHOLE)
        ends(await world.ask()).ended(Ending.BROKE)
        assert counted(world) == {(CANDIDATE, Outcome.RESCUED): 2}
        assert world.counts.users == {UserOutcome.FALLBACK: 1, UserOutcome.ERROR: 1}

    run(story)


# --- the order of starts --------------------------------------------------------------------------------------------


def test_a_stream_holds_back_what_started_later_until_its_end() -> None:
    async def story() -> None:
        world = world_with()
        stream = ends(await world.ask())
        world.own.behaviour = good
        await world.ask()
        assert not counted(world)
        stream.ended(Ending.BROKE)
        assert counted(world) == {(STABLE, Outcome.BAD): 1, (STABLE, Outcome.GOOD): 1}

    run(story)


def test_but_no_longer_than_any_request_may_and_then_it_counts_as_good() -> None:
    async def story() -> None:
        world = World(stable=streams)
        world.configure(1, None, request_timeout_s=SOON_S)
        stream = ends(await world.ask())
        world.own.behaviour = good
        await world.ask()
        await until(lambda: counted(world) == {(STABLE, Outcome.GOOD): 2})
        assert world.counts.users == {UserOutcome.OK: 1}  # what its user gets is known at its end
        stream.ended(Ending.WHOLE)
        assert counted(world) == {(STABLE, Outcome.GOOD): 2}
        assert world.counts.users == {UserOutcome.OK: 2}

    run(story)


@pytest.mark.parametrize("candidate", [False, True])
def test_one_that_breaks_after_that_is_bad_at_once_and_the_next_good_stream_was_counted(candidate: bool) -> None:
    async def story() -> None:
        world = World(stable=streams, candidate=streams)
        if candidate:
            world.split(request_timeout_s=SOON_S)
        else:
            world.configure(1, None, request_timeout_s=SOON_S)
        served, bad = (CANDIDATE, Outcome.RESCUED) if candidate else (STABLE, Outcome.BAD)
        stream = ends(await world.ask())
        await until(lambda: counted(world) == {(served, Outcome.GOOD): 1})
        stream.ended(Ending.BROKE)
        await until(lambda: counted(world) == {(served, Outcome.GOOD): 1, (served, bad): 1})
        ends(await world.ask()).ended(Ending.WHOLE)
        assert counted(world) == {(served, Outcome.GOOD): 1, (served, bad): 1}
        ends(await world.ask()).ended(Ending.BROKE)
        await until(lambda: counted(world).get((served, bad)) == 2)
        ends(await world.ask()).ended(Ending.WHOLE)
        assert counted(world) == {(served, Outcome.GOOD): 2, (served, bad): 2}
        assert world.counts.users == {UserOutcome.ERROR: 2, UserOutcome.OK: 2}

    run(story)


def test_one_that_stands_still_there_is_waited_for() -> None:
    async def story() -> None:
        world = World(stable=streams)
        world.configure(1, None, request_timeout_s=SOON_S)
        hangs, moves, last = [ends(await world.ask()) for _ in range(3)]
        hangs.waits(True)
        moves.waits(True)
        past: list[Outcome] = []
        last.then(past.append)
        await until(lambda: past == [Outcome.GOOD])
        assert not counted(world)
        moves.waits(False)
        hangs.ended(Ending.LOST)
        assert counted(world) == {(STABLE, Outcome.BAD): 1, (STABLE, Outcome.GOOD): 2}

    run(story)


def test_a_stream_whose_client_went_away_before_its_head_counts_at_the_horizon() -> None:
    async def story() -> None:
        world = World(stable=streams)
        world.configure(1, None, request_timeout_s=SOON_S)
        assert (await world.ask()).streamed is not None
        await until(lambda: world.counts.users == {UserOutcome.OK: 1})
        assert counted(world) == {(STABLE, Outcome.GOOD): 1}

    run(story)


# --- a candidate's ---------------------------------------------------------------------------------------------------


def test_the_guard_hears_of_late_breaks_where_stable_does_better() -> None:
    async def story() -> None:
        world = world_with(candidate=True, guard=GUARD)
        for _ in range(TRIP):
            assert world.host.tripped is None
            before = sum(counted(world).values())
            ends(await world.ask()).ended(Ending.BROKE)
            await until(lambda before=before: sum(counted(world).values()) > before)  # type: ignore[misc]
        assert world.host.tripped is not None
        assert counted(world) == {(CANDIDATE, Outcome.RESCUED): TRIP}

    run(story)


def test_the_guard_does_not_hear_of_breaks_that_stable_shares() -> None:
    async def story() -> None:
        world = world_with(candidate=True, guard=GUARD)
        world.own.behaviour = broken
        for number in range(2 * TRIP):
            ends(await world.ask()).ended(Ending.BROKE)
            await until(lambda number=number: sum(counted(world).values()) > number)  # type: ignore[misc]
        assert world.host.tripped is None
        assert counted(world) == {(CANDIDATE, Outcome.BAD): 2 * TRIP}

    run(story)


def test_few_streams_at_once_at_a_candidate_that_has_shown_nothing() -> None:
    async def story() -> None:
        world = world_with(candidate=True, guard=GUARD, max_ongoing=100)
        versions = [(await world.ask()).version for _ in range(3 * FEW_AT_ONCE)]
        assert versions.count(CANDIDATE.version) < len(versions)

    run(story)


def test_streams_that_a_dying_replica_takes_along_are_one_accident() -> None:
    async def story() -> None:
        world = world_with(candidate=True, guard=GUARD)
        under_way = [ends(await world.ask()) for _ in range(4)]
        under_way[0].ended(Ending.LOST)
        under_way[1].ended(Ending.LOST)
        late = ends(await world.ask())  # an answer of another replica, in between
        under_way[2].ended(Ending.LOST)
        await until(lambda: bool(counted(world)))
        assert counted(world) == {(CANDIDATE, Outcome.RESCUED): 1}
        world.now += 2 * ACCIDENT_S
        under_way[3].ended(Ending.LOST)  # hours later, another one
        late.ended(Ending.WHOLE)
        await until(lambda: sum(counted(world).values()) == 3)
        assert counted(world) == {(CANDIDATE, Outcome.RESCUED): 2, (CANDIDATE, Outcome.GOOD): 1}
        assert world.host.tripped is None
        assert world.counts.users[UserOutcome.ERROR] == 4

    run(story)


# --- in shadow --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "joint"), [(Ending.WHOLE, Joint.GOOD_GOOD), (Ending.BROKE, Joint.GOOD_BAD)])
def test_a_copy_starts_when_the_stream_is_over_and_knows_how_it_ended(ending: Ending, joint: Joint) -> None:
    async def story() -> None:
        world = world_with(candidate=True, weight_percent=0, shadow=True)
        stream = ends(await world.ask())
        await settle()
        assert world.other.asked == 0
        stream.ended(ending)
        await until(lambda: bool(world.pairs()))
        assert world.counts.events[ShadowEvent(CANDIDATE, joint)] == 1

    run(story)


@pytest.mark.parametrize(("took_s", "wanted"), [(1.0, None), (LONG_S, LONG_S / 2)])
def test_a_copy_of_a_long_stream_need_not_be_whole(took_s: float, wanted: float | None) -> None:
    async def story() -> None:
        asked: list[Call] = []

        async def notes(call: Call) -> Answer:
            asked.append(call)
            return await streams(call)

        world = world_with(candidate=True, weight_percent=0, shadow=True)
        world.other.behaviour = notes
        stream = ends(await world.ask())
        world.now += took_s
        stream.ended(Ending.WHOLE)
        await until(lambda: bool(asked))
        assert stop_after_s(asked[0]) == wanted

    run(story)


def test_how_long_a_stream_is_followed_travels_with_the_copy() -> None:
    call = Call(b"{}", "application/json", "r")
    assert stop_after_s(call) is None
    assert stop_after_s(as_copy(call)) is None
    assert stop_after_s(as_copy(call, stop_after_s=1.5)) == 1.5


# --- whoever tells it -------------------------------------------------------------------------------------------------


class Heard:
    """How a stream ended, as it was told."""

    def __init__(self) -> None:
        self.endings: list[Ending] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.streamed = Streamed(
            known=lambda _outcome, ending: self.endings.append(ending),
            late=self.endings.append,
            user=lambda _outcome: None,
            horizon_s=LONG_S,
            spawn=lambda work: self.tasks.append(asyncio.get_running_loop().create_task(work)),
        )


@pytest.mark.parametrize(
    ("comes", "ending"),
    [(b"data: 2\n\n", Ending.LEFT), (model_fault("r"), Ending.BROKE), (None, Ending.LOST), ("dies", Ending.LOST)],
)
def test_an_event_that_its_client_did_not_wait_for_is_waited_for(comes: object, ending: Ending) -> None:
    async def story() -> None:
        gate, closed = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncGenerator[bytes | Answer, None]:
            try:
                await gate.wait()
                if comes == "dies":
                    raise ConnectionError("the replica died")
                yield comes  # type: ignore[misc]
                yield DONE
            finally:
                closed.set()

        heard = Heard()
        events = follow(Answer(200, HEAD, EVENT_STREAM, rest=slow()), "r", 0.2, heard.streamed)
        assert await anext(events) == HEAD
        reading = asyncio.ensure_future(anext(events))
        await settle()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert heard.endings == []
        if comes is not None:
            gate.set()
        await asyncio.gather(*heard.tasks)
        assert heard.endings == [ending]
        assert closed.is_set()

    run(story)


def test_a_stream_without_an_end_is_broken_at_the_limit() -> None:
    async def story() -> None:
        async def endless() -> AsyncGenerator[bytes | Answer, None]:
            while True:
                await turns()
                yield HEAD

        heard = Heard()
        events = [
            event async for event in follow(Answer(200, HEAD, rest=endless()), "r", LONG_S, heard.streamed, SOON_S)
        ]
        assert events[-1].startswith(b"event: error")
        assert heard.endings == [Ending.BROKE]

    run(story)
