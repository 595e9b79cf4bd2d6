"""Room at a replica: places, a line, patience."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from serving_runtime.room import LINE_LIMIT_BYTES, Room
from tests.conditions import turns

WAIT_S = 20.0  # never reached when all is wellfrom tests.conditions import turns


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), WAIT_S))  # type: ignore[arg-type]


def test_places_then_a_line_then_no_room() -> None:
    async def story() -> None:
        room = Room()
        assert await room.enter(1, 1, WAIT_S)
        waits = asyncio.create_task(room.enter(1, 1, WAIT_S))
        await turns(5)
        assert not await room.enter(1, 1, WAIT_S)
        room.leave()
        assert await waits
        room.leave()
        assert await room.enter(1, 0, WAIT_S)

    run(story)


def test_the_first_in_line_is_the_first_to_enter() -> None:
    async def story() -> None:
        room, order = Room(), []

        async def enter(name: str) -> None:
            assert await room.enter(1, 9, WAIT_S)
            order.append(name)

        assert await room.enter(1, 9, WAIT_S)
        waiting = []
        for name in "abc":
            waiting.append(asyncio.create_task(enter(name)))
            await turns(5)
        for _ in "abc":
            room.leave()
            await turns(5)
        await asyncio.gather(*waiting)
        assert order == ["a", "b", "c"]

    run(story)


def test_who_waits_too_long_is_turned_away_and_leaves_the_line() -> None:
    async def story() -> None:
        room = Room()
        assert await room.enter(1, 1, WAIT_S)
        assert not await room.enter(1, 1, 0.01)
        waits = asyncio.create_task(room.enter(1, 1, WAIT_S))
        await turns(5)
        room.leave()
        assert await waits

    run(story)


@pytest.mark.parametrize("its_turn_came", [False, True])
def test_a_client_that_goes_away_takes_no_place_along(its_turn_came: bool) -> None:
    async def story() -> None:
        room = Room()
        assert await room.enter(1, 1, WAIT_S)
        waits = asyncio.create_task(room.enter(1, 1, WAIT_S))
        await turns(5)
        if its_turn_came:
            room.leave()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        if not its_turn_came:
            room.leave()
        assert await room.enter(1, 0, WAIT_S)
        assert not await room.enter(1, 0, WAIT_S)

    run(story)


def test_bodies_in_line_are_kept_to_so_many_bytes() -> None:
    async def story() -> None:
        room, half = Room(), LINE_LIMIT_BYTES // 2
        assert await room.enter(1, 9, WAIT_S, LINE_LIMIT_BYTES), "whoever is not in line is not counted"
        waits = [asyncio.create_task(room.enter(1, 9, WAIT_S, half)) for _ in range(2)]
        await turns(5)
        assert not await room.enter(1, 9, WAIT_S, 1)
        room.leave()
        assert await waits[0]
        assert not await room.enter(1, 9, 0.01, half), "there is room, and it waits in vain"
        room.leave()
        assert await waits[1]

    run(story)


def test_a_room_without_a_line_is_full_when_its_places_are_taken() -> None:
    async def story() -> None:
        room = Room()
        assert not room.is_full(1, 0)
        assert await room.enter(1, 0, WAIT_S)
        assert room.is_full(1, 0)
        assert not room.is_full(1, 1)
        assert not room.is_full(2, 0)

    run(story)
