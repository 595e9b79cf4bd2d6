"""The metrics of a replica: what is counted reaches Ray, and how many series there can be."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from policies.serving import ForcedVersion, RequestKey, Segments
from serving_runtime.events import FallbackEvent, FeedbackEvent, RefusedFeedbackEvent
from serving_runtime.feedback import Refusal
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.guard import Tripped
from serving_runtime.host import Host
from serving_runtime.outcomes import Fallback, Served
from serving_runtime.protocol import Answer, Call
from serving_runtime.telemetry import SERIES_ALONE, SERIES_PER_CANDIDATE, RayTelemetry
from serving_runtime.user_config import AgreementTerms, GuardTerms, Split, UserConfig
from tests.fakes.ray_metrics import RayMetrics

OWN = Served(1, "11111111")
VALUES = tuple(f"segment-{n}" for n in range(20))  # the most that a model document may list
STRANGERS = 300


class Moody:
    """A version that answers well, badly or not at all, as it likes."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def answer(self, call: Call) -> Answer:
        status = self._chance.choice((200, 200, 400, 500))
        if self._chance.random() < 0.05:
            raise ConnectionError(call.request_id)
        return Answer(status, b'{"predictions": [%d]}' % self._chance.randint(0, 1))


class Steady(Moody):
    async def answer(self, call: Call) -> Answer:
        try:
            return await super().answer(call)
        except ConnectionError:
            return Answer(500, b"")


def labels(metrics: RayMetrics, name: str) -> dict[tuple[str, ...], float]:
    return {tuple(v for _, v in tags): value for (n, tags), value in metrics.values.items() if n == name}


def config(revision: int, version: int, *, shadow: bool) -> UserConfig:
    split = Split(
        application=f"m--v{version}-22222222",
        version=version,
        build="22222222",
        weight_percent=0 if shadow else 50,
        shadow=shadow,
        timeout_s=1.0,
        max_ongoing=8,
        guard=GuardTerms(allowed=0.01, alpha=0.001),
        agreement=AgreementTerms(),
    )
    return UserConfig(
        revision=revision,
        model="m",
        version=1,
        build="11111111",
        request_timeout_s=5.0,
        split=split,
        sticky=RequestKey(header="x-user"),
        segments=Segments(key=RequestKey(header="x-segment"), values=VALUES),
        forced_version=ForcedVersion(to="anyone"),
        feedback=True,
    )


def ask_of(chance: random.Random, number: int) -> Call:
    """What a stranger may send: any user, any segment, any version, any id."""
    headers = {"x-user": f"user-{chance.random()}", "x-segment": chance.choice((*VALUES, f"made-up-{number}"))}
    if chance.random() < 0.1:
        headers[FORCE_HEADER] = str(chance.randint(0, 1000))
    return Call(b'{"inputs": [1]}', "application/json", f"id-{number}", headers=headers)


@pytest.mark.parametrize("candidates", [1, 5])
def test_the_series_of_a_model_grow_with_the_versions_it_was_given_and_with_nothing_else(candidates: int) -> None:
    async def story() -> None:
        chance, metrics = random.Random(candidates), RayMetrics()
        telemetry = RayTelemetry("m", OWN, metrics)
        host = Host(
            OWN,
            Steady(chance),
            connect=lambda _application: Moody(chance),
            tally=telemetry,
            draw=chance.random,
            clock=asyncio.get_running_loop().time,
        )
        for number in range(candidates):
            for shadow in (True, False):
                assert host.configure(config(2 * number + 1 - shadow, number + 2, shadow=shadow))
                for asked in range(STRANGERS):
                    reply = await host.answer(ask_of(chance, asked))
                    host.report(b'{"request_id": "id-%d", "good": true}' % chance.randint(0, 2 * STRANGERS))
                    telemetry.took(reply.answer.status)
                telemetry.flush(number, host.tripped, 1, host.breaker)
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*under_way)
        telemetry.flush(candidates, host.tripped, 1, host.breaker)
        assert SERIES_ALONE < len(metrics.values) <= SERIES_ALONE + candidates * SERIES_PER_CANDIDATE
        told = {value for _, tags in metrics.values for name, value in tags if name not in ("version", "build")}
        assert not any(value.startswith(("made-up", "user-", "id-")) for value in told)

    asyncio.run(story())


def test_what_happened_reaches_the_metric_that_says_so() -> None:
    metrics = RayMetrics()
    telemetry, candidate = RayTelemetry("m", OWN, metrics), Served(2, "22222222")
    events: tuple[Any, ...] = (
        FallbackEvent(candidate, Fallback.TIMEOUT),
        FeedbackEvent(candidate, good=True),
        RefusedFeedbackEvent(Refusal.UNKNOWN),
    )
    for event in events:
        telemetry.count(event, 2)
    telemetry.segment_took(2, "de", 3.0)
    telemetry.flush(1, (candidate, Tripped(3, 3, 7.0)), None, (candidate, True))
    assert labels(metrics, "sluice_fallbacks") == {("22222222", "m", "timeout", "2"): 2}
    assert labels(metrics, "sluice_feedback") == {("22222222", "m", "good", "2"): 2}
    assert labels(metrics, "sluice_feedback_refused") == {("m", "unknown"): 2}
    assert labels(metrics, "sluice_segment_latency_ms") == {("m", "de", "2"): 1}
    assert labels(metrics, "sluice_breaker_open") == {("22222222", "m", "2"): 1.0}
    assert labels(metrics, "sluice_guard_bad") == {("22222222", "m", "2"): 3}


def test_the_breaker_is_shown_closed_too_and_only_while_there_is_a_candidate() -> None:
    metrics = RayMetrics()
    telemetry = RayTelemetry("m", OWN, metrics)
    telemetry.flush(1, None, None, None)
    assert not labels(metrics, "sluice_breaker_open")
    telemetry.flush(1, None, None, (Served(2, "22222222"), False))
    assert labels(metrics, "sluice_breaker_open") == {("22222222", "m", "2"): 0.0}


def test_a_candidates_series_start_at_0() -> None:
    metrics = RayMetrics()
    telemetry = RayTelemetry("m", OWN, metrics)
    telemetry.announce(Served(2, "22222222"), candidate=True)
    telemetry.flush(1, None, None)
    assert set(labels(metrics, "sluice_fallbacks").values()) == {0.0}
    assert len(labels(metrics, "sluice_fallbacks")) == len(Fallback)
