"""Features by key: asked once, remembered for a while, never waited for longer than said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from policies.serving import Features
from serving_runtime.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_S
from serving_runtime.look_ups import KEYS_PER_QUESTION, Checked, Found, LookUp, LookUps
from tests.conditions import turns
from tests.fakes.features import KnownFeatures, LookUpCounts

SOON_MS = 20.0  # a time limit that a test waits for
LONG_MS = 10_000.0  # one that must not be reached
SPEND = {"spend": 12.5}


def check(entry: Mapping[str, Any]) -> Checked:
    """One feature, `spend`, a number."""
    right = {name: value for name, value in entry.items() if name == "spend" and isinstance(value, float)}
    return Checked(right, complete=bool(right))


class World:
    """Look-ups, their source, their clock."""

    def __init__(
        self, entries: Mapping[str, Any] | None = None, source: KnownFeatures | None = None, **terms: Any
    ) -> None:
        self.now = 100.0
        self.counts = LookUpCounts()
        self.source = source or KnownFeatures({"ada": SPEND} if entries is None else entries)
        about = {"entry_point": "a:b", "key": "user", "timeout_ms": LONG_MS, "defaults": {"spend": 0.0}}
        self.look_ups = LookUps(
            self.source, check, terms=Features(**{**about, **terms}), tally=self.counts, clock=lambda: self.now
        )

    async def look_up(self, *keys: str) -> Mapping[str, Found]:
        return await self.look_ups.look_up(keys)

    async def outcomes(self, *keys: str) -> list[LookUp]:
        return [(await self.look_up(key))[key].outcome for key in keys]


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def test_values_of_a_wrong_type_are_said_once_in_a_while_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    def finds_wrong(_entry: Mapping[str, Any]) -> Checked:
        return Checked({}, complete=False, wrong=("spend (ValueError)",))

    async def story() -> None:
        world = World({"ada": {"spend": "much"}, "bob": {"spend": "much"}})
        world.look_ups = LookUps(
            world.source,
            finds_wrong,
            terms=Features(entry_point="a:b", key="user", timeout_ms=LONG_MS, defaults={"spend": 0.0}),
            tally=world.counts,
            clock=lambda: world.now,
        )
        assert await world.outcomes("ada", "bob") == [LookUp.DEFAULT, LookUp.DEFAULT]

    with caplog.at_level(logging.WARNING):
        run(story)
    assert [r.getMessage() for r in caplog.records] == ["an entry has values of a wrong type: spend (ValueError)"]


def test_each_key_ends_with_what_is_known_of_it_and_is_counted_once() -> None:
    async def story() -> None:
        world = World({"ada": SPEND, "bob": {"spend": "much"}, "eve": ["no entry"]})
        found = await world.look_up("ada", "bob", "eve", "nobody", "ada")
        assert found == {
            "ada": Found(LookUp.HIT, SPEND),
            "bob": Found(LookUp.DEFAULT),
            "eve": Found(LookUp.DEFAULT),
            "nobody": Found(LookUp.MISS),
        }
        assert world.source.asked == [("ada", "bob", "eve", "nobody")]
        assert world.counts.outcomes == {LookUp.HIT: 1, LookUp.DEFAULT: 2, LookUp.MISS: 1}
        assert len(world.counts.waited_ms) == 1

    run(story)


def test_nothing_is_remembered_without_a_time_to_live() -> None:
    async def story() -> None:
        world = World()
        assert await world.outcomes("ada", "ada") == [LookUp.HIT, LookUp.HIT]
        assert len(world.source.asked) == 2

    run(story)


def test_entries_and_their_absence_are_remembered_for_as_long_as_said() -> None:
    async def story() -> None:
        world = World(cache_ttl_s=60.0)
        assert await world.outcomes("ada", "ada", "nobody", "nobody") == [
            LookUp.HIT,
            LookUp.CACHED,
            LookUp.MISS,
            LookUp.MISS,
        ]
        assert world.source.asked == [("ada",), ("nobody",)]
        assert len(world.counts.waited_ms) == 2, "who has it from memory waits for nobody"
        world.now += 59.9
        assert await world.outcomes("ada") == [LookUp.CACHED]
        world.now += 0.1
        assert await world.outcomes("ada", "nobody") == [LookUp.HIT, LookUp.MISS]
        assert len(world.source.asked) == 4

    run(story)


def test_memory_is_bounded_and_keys_that_nobody_knows_push_nothing_out() -> None:
    async def story() -> None:
        world = World({str(n): SPEND for n in range(30)}, cache_ttl_s=60.0, cache_entries=20)
        await world.look_up(*map(str, range(30)))
        await world.look_up(*(f"stranger {n}" for n in range(1000)))
        asked = len(world.source.asked)
        assert set(await world.outcomes(*map(str, range(10, 30)))) == {LookUp.CACHED}
        assert len(world.source.asked) == asked
        assert await world.outcomes("0") == [LookUp.HIT], "the oldest had to go"

    run(story)


def test_a_failure_is_not_remembered() -> None:
    async def story() -> None:
        world = World(cache_ttl_s=60.0)
        world.source.breaks = ConnectionError("away")
        assert await world.outcomes("ada") == [LookUp.ERROR]
        world.source.breaks = None
        assert await world.outcomes("ada") == [LookUp.HIT]

    run(story)


def test_who_needs_a_key_that_is_being_asked_for_waits_for_that_answer() -> None:
    async def story() -> None:
        world = World({"ada": SPEND, "bob": SPEND})
        world.source.gate.clear()
        first = asyncio.create_task(world.look_up("ada"))
        await turns(10)
        others = [asyncio.create_task(world.look_up("ada", "bob")) for _ in range(5)]
        await turns(10)
        assert world.source.asked == [("ada",), ("bob",)]
        world.source.gate.set()
        for found in await asyncio.gather(first, *others):
            assert {one.outcome for one in found.values()} == {LookUp.HIT}
        assert world.source.asked == [("ada",), ("bob",)]

    run(story)


def test_a_client_that_goes_away_takes_the_question_from_nobody() -> None:
    async def story() -> None:
        world = World(cache_ttl_s=60.0)
        world.source.gate.clear()
        gone, stays = (asyncio.create_task(world.look_up("ada")) for _ in range(2))
        await turns(10)
        gone.cancel()
        await turns(10)
        world.source.gate.set()
        assert (await stays)["ada"].outcome is LookUp.HIT
        assert await world.outcomes("ada") == [LookUp.CACHED]
        assert world.source.asked == [("ada",)]

    run(story)


def test_nobody_waits_longer_than_the_time_limit_even_for_a_source_that_cannot_be_stopped() -> None:
    class Stubborn(KnownFeatures):
        async def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
            while not self.gate.is_set():
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.asked.append(("cancelled", *keys))
            return {}

    async def story() -> None:
        stubborn = Stubborn({})
        stubborn.gate.clear()
        world = World(source=stubborn, timeout_ms=SOON_MS)
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await world.outcomes("ada") == [LookUp.TIMEOUT]
        assert loop.time() - started < SOON_MS / 1000 * 20  # a busy machine, and still no hanging
        await turns(10)
        assert stubborn.asked == [("cancelled", "ada")]
        stubborn.gate.set()

    run(story)


def test_what_a_source_says_timed_out_has_timed_out() -> None:
    async def story() -> None:
        world = World()
        world.source.breaks = TimeoutError("read timed out")
        assert await world.outcomes("ada") == [LookUp.TIMEOUT]

    run(story)


@pytest.mark.parametrize("answer", [None, [], "entries"])
def test_an_answer_that_is_no_mapping_is_an_error(answer: object) -> None:
    class Wrong(KnownFeatures):
        async def look_up(self, keys: Sequence[str]) -> Any:  # noqa: ARG002 the port's
            return answer

    async def story() -> None:
        assert await World(source=Wrong({})).outcomes("ada") == [LookUp.ERROR]

    run(story)


def test_failures_in_a_row_open_the_breaker_then_nobody_asks_and_an_answer_closes_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        world = World()
        world.source.breaks = ConnectionError("away")
        for _ in range(FAILURES_TO_OPEN):
            assert await world.outcomes("ada") == [LookUp.ERROR]
        waited = len(world.counts.waited_ms)
        assert await world.outcomes(*"abcde") == [LookUp.OPEN] * 5
        assert len(world.source.asked) == FAILURES_TO_OPEN
        assert len(world.counts.waited_ms) == waited, "who does not wait is no evidence of how long it takes"
        world.now += FIRST_PAUSE_S
        assert await world.outcomes("ada", "bob") == [LookUp.ERROR, LookUp.OPEN], "one probe, and a longer pause"
        world.source.breaks = None
        world.now += 2 * FIRST_PAUSE_S
        assert await world.outcomes("ada", "ada") == [LookUp.HIT, LookUp.HIT]

    with caplog.at_level(logging.WARNING):
        run(story)
    assert caplog.text.count("the breaker has opened: ConnectionError: away") == 1
    assert caplog.text.count("features are back") == 1


def test_what_is_remembered_is_there_while_the_source_is_away() -> None:
    async def story() -> None:
        world = World(cache_ttl_s=60.0)
        await world.look_up("ada")
        world.source.breaks = ConnectionError("away")
        for _ in range(FAILURES_TO_OPEN):
            await world.look_up("bob")
        assert await world.outcomes("ada", "bob") == [LookUp.CACHED, LookUp.OPEN]

    run(story)


def test_many_keys_are_asked_for_in_parts_at_once() -> None:
    async def story() -> None:
        keys = [str(n) for n in range(2 * KEYS_PER_QUESTION + 1)]
        world = World(dict.fromkeys(keys, SPEND))
        world.source.gate.clear()
        asked = asyncio.create_task(world.look_up(*keys))
        await turns(10)
        assert [len(some) for some in world.source.asked] == [KEYS_PER_QUESTION, KEYS_PER_QUESTION, 1]
        world.source.gate.set()
        assert {one.outcome for one in (await asked).values()} == {LookUp.HIT}
        assert world.counts.outcomes == {LookUp.HIT: len(keys)}

    run(story)


def test_a_source_that_fails_all_the_time_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world = World()

        async def alternates(times: Iterable[int]) -> None:
            for _ in times:  # an answer in between keeps the breaker closed
                world.source.breaks = ConnectionError("away")
                await world.look_up("ada")
                world.source.breaks = None
                await world.look_up("ada")

        await alternates(range(50))
        assert caplog.text.count("a look-up of 1 keys failed: ConnectionError: away") == 1
        world.now += 10.0
        await alternates(range(50))
        assert caplog.text.count("a look-up of 1 keys failed") == 2

    with caplog.at_level(logging.WARNING):
        run(story)


def test_closing_gives_back_the_source_and_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(KnownFeatures):
        async def close(self) -> None:
            raise ConnectionError("gone already")

    async def story() -> None:
        world = World()
        await world.look_ups.close()
        assert world.source.closed
        await World(source=Broken({})).look_ups.close()

    run(story)
    assert "not closed: ConnectionError: gone already" in caplog.text
