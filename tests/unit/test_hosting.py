"""What a host does beside answering: keys, forced versions, segments, receipts, and why stable answered."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from policies.serving import ForcedVersion, RequestKey, Segments
from serving_runtime.breaker import FAILURES_TO_OPEN
from serving_runtime.events import FallbackEvent, FeedbackEvent, RefusedFeedbackEvent
from serving_runtime.feedback import FORCED_RECEIPT, Refusal
from serving_runtime.forcing import FORCE_HEADER, FORCED_AT_ONCE, asked_for, named
from serving_runtime.host import Reply
from serving_runtime.outcomes import Fallback, Served, UserOutcome
from serving_runtime.protocol import Answer, Call
from serving_runtime.user_config import Split, UserConfig
from tests.unit.test_host import (
    CANDIDATE,
    GUARD,
    LONG_S,
    SOON_S,
    STABLE,
    TRIP,
    Behaviour,
    World,
    broken,
    dies,
    drains,
    good,
    hangs,
    refuses,
    settle,
)

BY_USER = {"sticky": RequestKey(header="x-user")}
ANYONE = {"forced_version": ForcedVersion(to="anyone")}
FEEDBACK = {"feedback": True}


def split(**changes: Any) -> Split:
    fields: dict[str, Any] = {
        "application": "m--v2-22222222",
        "version": 2,
        "build": "22222222",
        "weight_percent": 100,
        "shadow": False,
        "timeout_s": LONG_S,
        "max_ongoing": 16,
    }
    return Split(**{**fields, **changes})


def configure(world: World, to: Split | None, revision: int = 1, **asked: Any) -> None:
    fields: dict[str, Any] = {"model": "m", "version": 1, "build": "11111111", "request_timeout_s": LONG_S}
    assert world.host.configure(UserConfig(revision=revision, split=to, **fields, **asked))


def call(request_id: str = "r-1", body: bytes = b'{"inputs": [1]}', **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Call(body, "application/json", request_id, headers=named)


def forced(version: str, request_id: str = "r-1") -> Call:
    return Call(b"{}", "application/json", request_id, headers={FORCE_HEADER: version})


def fallbacks(world: World) -> dict[Fallback, int]:
    return {e.why: n for e, n in world.counts.events.items() if isinstance(e, FallbackEvent)}


# --- sticky -----------------------------------------------------------------------------------------------------------


def test_while_weights_grow_no_user_comes_back_from_the_candidate() -> None:
    async def story() -> None:
        world, users = World(), [f"user-{n}" for n in range(200)]
        at_candidate: set[str] = set()
        for revision, weight in enumerate((5, 25, 50, 100), start=1):
            configure(world, split(weight_percent=weight), revision, **BY_USER)
            now = {user for user in users if (await world.host.answer(call(x_user=user))).version == 2}
            assert at_candidate <= now
            assert abs(len(now) - 2 * weight) <= 25  # four standard deviations of 200 draws are 28 at most
            at_candidate = now
        assert at_candidate == set(users)

    asyncio.run(story())


def test_two_host_replicas_agree_on_every_user() -> None:
    async def story() -> None:
        one, other = World(), World()
        for world in (one, other):
            configure(world, split(weight_percent=50), **BY_USER)
        for n in range(50):
            asked = call(x_user=f"user-{n}")
            assert (await one.host.answer(asked)).version == (await other.host.answer(asked)).version

    asyncio.run(story())


def test_a_request_that_names_nobody_is_drawn() -> None:
    async def story() -> None:
        world = World()
        configure(world, split(weight_percent=50), **BY_USER)
        world.draws = [0.7, 0.2]
        assert [(await world.host.answer(call())).version for _ in range(2)] == [1, 2]

    asyncio.run(story())


def test_a_field_of_the_body_makes_sticky_too() -> None:
    async def story() -> None:
        world = World()
        configure(world, split(weight_percent=50), sticky=RequestKey(field="user"))
        for n in range(20):
            written = (f'{{"user": {n}, "inputs": [1]}}', f'{{"dataframe_records": [{{"user": "{n}"}}]}}')
            first, second = [(await world.host.answer(call(body=text.encode()))).version for text in written]
            assert first == second

    asyncio.run(story())


# --- forced -----------------------------------------------------------------------------------------------------------


def test_a_named_version_answers_and_is_evidence_about_nobody() -> None:
    async def story() -> None:
        world = World()
        configure(world, split(weight_percent=0, shadow=True, guard=GUARD), **ANYONE)
        for version in (1, 2):
            assert await world.host.answer(forced(str(version))) == Reply(Answer(200, b"good"), version)
        await world.idle()
        assert not world.versions()
        assert not world.pairs()
        assert world.counts.users == {UserOutcome.OK: 2}

    asyncio.run(story())


def test_who_names_a_version_sees_its_failures_and_neither_guard_nor_breaker_minds() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        configure(world, split(guard=GUARD, timeout_s=SOON_S), **ANYONE)
        for _ in range(2 * TRIP):
            assert (await world.host.answer(forced("2"))).answer == Answer(500, b"broken")
        world.other.behaviour = dies
        for _ in range(2 * FAILURES_TO_OPEN):
            assert (await world.host.answer(forced("2"))).answer.status == 500
        world.other.behaviour = hangs
        assert (await world.host.answer(forced("2"))).answer.status == 504
        assert world.host.tripped is None
        assert world.host.breaker == (CANDIDATE, False)
        assert world.own.asked == 0
        world.other.behaviour = good
        assert (await world.ask()).version == 2

    asyncio.run(story())


@pytest.mark.parametrize("version", ["3", "", "stable", "1; drop", "-1", "9" * 5000])
def test_an_unknown_version_is_400_and_names_those_that_serve(version: str) -> None:
    async def story() -> None:
        world = World()
        configure(world, split(), **ANYONE)
        reply = await world.host.answer(forced(version))
        assert reply.answer.status == 400
        message = json.loads(reply.answer.body)["message"]
        assert "there is: 1, 2" in message
        assert len(message) < 200
        assert world.own.asked == world.other.asked == 0
        assert world.counts.users == {UserOutcome.REFUSED: 1}

    asyncio.run(story())


def test_one_version_with_two_settings_is_named_by_its_build() -> None:
    two = (Served(1, "11111111"), Served(1, "22222222"))
    answer = named(forced("1"), two)
    assert isinstance(answer, Answer)
    assert json.loads(answer.body)["message"].endswith("there is: 1-11111111, 1-22222222")
    assert named(forced("1-22222222"), two) == two[1]


def test_versions_that_serve_are_named_once_each_and_in_order() -> None:
    serving = (Served(10, "33333333"), Served(2, "22222222"), Served(2, "11111111"), Served(10, "33333333"))
    answer = named(forced("7"), serving)
    assert isinstance(answer, Answer)
    assert json.loads(answer.body)["message"].endswith("there is: 2, 10")
    two = named(forced("2"), serving)
    assert isinstance(two, Answer)
    assert json.loads(two.body)["message"].endswith("there is: 2-11111111, 2-22222222, 10-33333333")


@pytest.mark.parametrize(
    ("asked", "may_force", "status"),
    [
        ({}, True, 403),
        ({"forced_version": ForcedVersion(to="keys")}, False, 403),
        ({"forced_version": ForcedVersion(to="keys")}, True, 200),
        ({"forced_version": ForcedVersion(to="anyone")}, False, 200),
    ],
)
def test_only_those_may_name_a_version_whom_the_model_lets(asked: Any, may_force: bool, status: int) -> None:
    async def story() -> None:
        world = World()
        configure(world, split(), **asked)
        reply = await world.host.answer(forced("2"), may_force=may_force)
        assert reply.answer.status == status
        assert world.other.asked == (status == 200)

    asyncio.run(story())


def test_the_version_that_serves_may_be_named_by_path_and_answers_without_a_draw() -> None:
    async def story() -> None:
        world = World(stable=broken)
        configure(world, split(weight_percent=100, shadow=True, guard=GUARD))
        reply = await world.host.answer(call(), version="1")
        assert reply == Reply(Answer(500, b"broken"), 1)
        await world.idle()
        assert world.other.asked == 0
        assert not world.versions()
        assert not world.pairs()
        assert world.counts.users == {UserOutcome.ERROR: 1}

    asyncio.run(story())


@pytest.mark.parametrize(
    ("asked", "may_force", "status"),
    [
        ({}, True, 403),
        ({"forced_version": ForcedVersion(to="keys")}, False, 403),
        ({"forced_version": ForcedVersion(to="keys")}, True, 200),
        (ANYONE, False, 200),
    ],
)
def test_the_candidates_version_is_named_by_path_by_whom_the_model_lets(
    asked: Any, may_force: bool, status: int
) -> None:
    async def story() -> None:
        world = World()
        configure(world, split(weight_percent=0), **asked)
        reply = await world.host.answer(call(), may_force=may_force, version="2")
        assert reply.answer.status == status
        assert (world.own.asked, world.other.asked) == (0, status == 200)
        assert not world.versions()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "header", "status", "version"),
    [("1", "1", 200, 1), ("2", "2-22222222", 200, 2), ("1", "2", 400, 1), ("3", "2", 404, 1), ("2", "3", 400, 1)],
)
def test_a_path_and_a_header_name_the_same_version_or_it_is_an_error(
    path: str, header: str, status: int, version: int
) -> None:
    async def story() -> None:
        world = World()
        configure(world, split(), **ANYONE)
        reply = await world.host.answer(forced(header), version=path)
        assert (reply.answer.status, reply.version) == (status, version)

    asyncio.run(story())


def test_a_header_needs_its_permission_beside_a_path_too() -> None:
    async def story() -> None:
        world = World()
        configure(world, split())
        assert (await world.host.answer(forced("1"), version="1")).answer.status == 403

    asyncio.run(story())


def test_a_version_that_runs_with_two_settings_is_named_by_path_as_the_one_that_serves() -> None:
    two = (Served(1, "11111111"), Served(1, "22222222"))
    assert asked_for(call(), "1", two, None, may_force=False) == two[0]


def test_whoever_answers_a_request_that_names_its_version_hears_that_it_does() -> None:
    async def story() -> None:
        heard: list[str] = []

        async def notes(asked: Call) -> Answer:
            heard.append(asked.headers[FORCE_HEADER])
            return Answer(200, b"good")

        world = World(stable=notes, candidate=notes)
        configure(world, split(), **ANYONE)
        for version in ("1", "2"):
            await world.host.answer(call(), version=version)
        assert heard == ["1", "2"]

    asyncio.run(story())


def test_a_candidate_that_takes_nothing_says_so_to_who_names_it() -> None:
    async def story() -> None:
        world = World(candidate=drains)
        configure(world, split(), **ANYONE)
        draining = (await world.host.answer(forced("2"))).answer
        assert (draining.status, draining.headers) == (503, (("retry-after", "1"),))
        world.other.behaviour = hangs
        waiting = [asyncio.ensure_future(world.host.answer(forced("2"))) for _ in range(FORCED_AT_ONCE)]
        await settle()
        reply = await world.host.answer(forced("2"))
        assert (reply.answer.status, world.other.asked) == (503, 1 + FORCED_AT_ONCE)
        assert world.counts.users == {UserOutcome.REFUSED: 2}
        assert (await world.host.answer(forced("1"))).answer.status == 200
        for one in waiting:
            one.cancel()

    asyncio.run(story())


# --- why stable answered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (broken, Fallback.ERROR),
        (refuses, Fallback.CLIENT_ERROR),
        (hangs, Fallback.TIMEOUT),
        (dies, Fallback.LOST),
        (drains, Fallback.DRAINING),
    ],
)
def test_each_fallback_is_counted_with_its_reason(candidate: Behaviour, why: Fallback) -> None:
    async def story() -> None:
        world = World(candidate=candidate)
        configure(world, split(timeout_s=SOON_S))
        assert (await world.ask()).version == 1
        assert fallbacks(world) == {why: 1}

    asyncio.run(story())


def test_what_both_call_wrong_is_no_fallback() -> None:
    async def story() -> None:
        world = World(stable=refuses, candidate=refuses)
        configure(world, split())
        await world.ask()
        assert not fallbacks(world)

    asyncio.run(story())


def test_what_the_candidate_is_not_asked_is_counted_with_the_reason() -> None:
    async def story() -> None:
        world = World(candidate=dies)
        configure(world, split())
        for _ in range(FAILURES_TO_OPEN + 1):
            await world.ask()
        assert world.host.breaker == (CANDIDATE, True)
        assert fallbacks(world) == {Fallback.LOST: FAILURES_TO_OPEN, Fallback.BREAKER: 1}

        world = World(candidate=broken)
        configure(world, split(guard=GUARD))
        for _ in range(TRIP + 1):
            await world.ask()
        assert fallbacks(world) == {Fallback.ERROR: TRIP, Fallback.GUARD: 1}

        world = World(candidate=hangs)
        configure(world, split(max_ongoing=1))
        waiting = asyncio.ensure_future(world.ask())
        await settle()
        await world.ask()
        assert fallbacks(world) == {Fallback.FULL: 1}
        waiting.cancel()

    asyncio.run(story())


# --- segments ---------------------------------------------------------------------------------------------------------


def test_latency_is_told_by_segment_and_by_the_version_that_answered() -> None:
    async def story() -> None:
        world = World()
        by_country = Segments(key=RequestKey(header="x-country"), values=("de", "fr"))
        configure(world, split(weight_percent=50), segments=by_country)
        world.draws = [0.7, 0.2, 0.2]
        for country in ("de", "fr", "se"):
            await world.host.answer(call(x_country=country))
        assert world.counts.segments == [(1, "de", 0.0), (2, "fr", 0.0), (2, "other", 0.0)]

    asyncio.run(story())


# --- feedback ---------------------------------------------------------------------------------------------------------


def report(world: World, **fields: Any) -> tuple[int, Any]:
    answer = world.host.report(json.dumps(fields).encode())
    return answer.status, json.loads(answer.body)


def reported(world: World) -> dict[tuple[int, bool], int]:
    return {(e.served.version, e.good): n for e, n in world.counts.events.items() if isinstance(e, FeedbackEvent) if n}


def refused(world: World) -> Counter[Refusal]:
    return Counter({e.why: n for e, n in world.counts.events.items() if isinstance(e, RefusedFeedbackEvent)})


def test_a_report_counts_for_the_version_that_the_request_was_drawn_for_and_once() -> None:
    async def story() -> None:
        world = World()
        configure(world, split(weight_percent=50), **FEEDBACK)
        world.draws = [0.7, 0.2]
        receipts = [(await world.host.answer(call(name))).receipt for name in ("to-stable", "to-candidate")]
        assert receipts == ["1-11111111", "2-22222222"]
        assert report(world, request_id="to-stable", good=True) == (200, {"counted": True})
        assert report(world, request_id="to-candidate", good=False) == (200, {"counted": True})
        assert report(world, request_id="to-candidate", good=False) == (200, {"counted": False, "reason": "repeated"})
        assert reported(world) == {(1, True): 1, (2, False): 1}
        assert refused(world) == {Refusal.REPEATED: 1}

    asyncio.run(story())


def test_what_stable_answered_in_the_candidates_place_is_the_candidates_and_what_it_was_never_asked_is_not() -> None:
    async def story() -> None:
        world = World(candidate=broken)
        configure(world, split(), **FEEDBACK)
        assert await world.host.answer(call("failed")) == Reply(Answer(200, b"good"), 1, "2-22222222")
        world.other.behaviour = drains
        assert await world.host.answer(call("drained")) == Reply(Answer(200, b"good"), 1, "1-11111111")
        for name in ("failed", "drained"):
            report(world, request_id=name, good=True)
        assert reported(world) == {(2, True): 1, (1, True): 1}

    asyncio.run(story())


def test_a_receipt_counts_at_every_replica_and_after_the_challenger_has_gone() -> None:
    async def story() -> None:
        one, other = World(), World()
        configure(one, split(), **FEEDBACK)
        configure(other, split(), **FEEDBACK)
        receipt = (await one.host.answer(call("r-1"))).receipt
        configure(other, None, 2, **FEEDBACK)
        assert report(other, request_id="r-1", good=True)[0] == 404
        assert report(other, request_id="r-1", good=True, receipt=receipt) == (200, {"counted": True})
        assert report(other, request_id="r-1", good=True, receipt=receipt)[1]["reason"] == "repeated"
        assert report(other, request_id="r-2", good=True, receipt="3-33333333")[0] == 404
        assert reported(other) == {(2, True): 1}
        assert refused(other) == {Refusal.UNKNOWN: 2, Refusal.REPEATED: 1}

    asyncio.run(story())


def test_a_forced_request_has_no_arm() -> None:
    async def story() -> None:
        world = World()
        configure(world, split(), **FEEDBACK, **ANYONE)
        assert (await world.host.answer(forced("2", "r-1"))).receipt == FORCED_RECEIPT
        assert report(world, request_id="r-1", good=True)[1] == {"counted": False, "reason": "forced"}
        assert report(world, request_id="elsewhere", good=True, receipt=FORCED_RECEIPT)[1]["reason"] == "forced"
        assert not reported(world)

    asyncio.run(story())


def test_where_nobody_asks_for_feedback_there_is_no_receipt_and_nothing_to_report_to() -> None:
    async def story() -> None:
        world = World()
        configure(world, split())
        assert not (await world.ask()).receipt
        assert report(world, request_id="r-1", good=True)[0] == 404
        assert not reported(world)
        assert not refused(world)

    asyncio.run(story())


def test_both_versions_feedback_starts_at_0() -> None:
    world = World()
    configure(world, split(), **FEEDBACK)
    zeros = {e for e, n in world.counts.events.items() if isinstance(e, FeedbackEvent) and not n}
    assert zeros == {FeedbackEvent(served, good) for served in (STABLE, CANDIDATE) for good in (True, False)}
