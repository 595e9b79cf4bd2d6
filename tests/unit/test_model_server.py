"""One version's own server: warm-up, threads, latency."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from policies.errors import Stalled
from serving_runtime.batching import Limits
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.model_server import EXAMPLE_FILE, ModelServer
from serving_runtime.protocol import Call
from tests.fakes.bare_model import BareModel

CALL = Call(b'{"inputs": [1.0]}', "application/json", "r-1")
THREADS = Limits().threads
WAIT_S = 20.0  # never reached when all is well


class Took:
    """Remembers latencies."""

    def __init__(self) -> None:
        self.ms: list[float] = []

    def __call__(self, elapsed_ms: float) -> None:
        self.ms.append(elapsed_ms)


def server(predict: Any) -> tuple[ModelServer, Took]:
    took = Took()
    return ModelServer(BareModel(predict), took), took


def example(folder: Path, content: object) -> Path:
    (folder / EXAMPLE_FILE).write_text(json.dumps(content))
    return folder


def test_an_answer_is_measured_once_and_a_bad_request_not_at_all() -> None:
    async def story() -> None:
        own, took = server(lambda data: data)
        assert (await own.answer(CALL)).body == b'{"predictions": [1.0]}'
        assert len(took.ms) == 1
        assert took.ms[0] > 0
        assert (await own.answer(Call(b"{", "application/json", "r-2"))).status == 400
        assert len(took.ms) == 1

    asyncio.run(story())


def test_who_names_a_version_is_not_measured() -> None:
    """Nobody drew that request: whoever may force could otherwise make a version slow."""

    async def story() -> None:
        own, took = server(lambda data: data)
        forced = dataclasses.replace(CALL, headers={FORCE_HEADER: "2"})
        assert (await own.answer(forced)).status == 200
        assert took.ms == []

    asyncio.run(story())


def test_a_failure_is_measured_and_logged_under_its_request_id(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_data: object) -> None:
        raise ValueError("a secret of the model")

    async def story() -> None:
        own, took = server(fails)
        answer = await own.answer(CALL)
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert len(took.ms) == 1

    asyncio.run(story())
    assert "r-1" in caplog.text
    assert "a secret of the model" in caplog.text


def test_a_request_that_is_given_up_is_measured_too() -> None:
    async def story() -> None:
        gate = threading.Event()
        own, took = server(lambda _data: gate.wait(WAIT_S))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(own.answer(CALL), 0.02)
        assert len(took.ms) == 1
        assert took.ms[0] >= 20
        gate.set()

    asyncio.run(story())


def test_the_loop_runs_on_while_models_think_and_threads_are_bounded() -> None:
    async def story() -> None:
        gate, together = threading.Event(), []
        lock = threading.Lock()

        def thinks(data: object) -> object:
            with lock:
                together.append(threading.get_ident())
            assert gate.wait(WAIT_S)
            return data

        own, _ = server(thinks)
        answers = [asyncio.create_task(own.answer(CALL)) for _ in range(THREADS + 3)]
        loop = asyncio.get_running_loop()
        full = loop.run_in_executor(None, _wait_for, lambda: len(together) == THREADS)
        await asyncio.wait_for(full, WAIT_S)
        gate.set()
        assert {a.status for a in await asyncio.gather(*answers)} == {200}
        assert len(set(together)) <= THREADS

    asyncio.run(story())


def _wait_for(condition: Any) -> None:
    from tests.conditions import wait_until

    wait_until(condition, WAIT_S, "all threads busy")


def test_warm_up_answers_the_models_own_example_and_is_not_measured(tmp_path: Path) -> None:
    seen: list[object] = []

    def predict(data: Any) -> object:
        seen.append(data.tolist())
        return data

    async def story() -> None:
        own, took = server(predict)
        assert await own.warm_up(example(tmp_path, {"inputs": [7.0]})) is True
        assert seen == [[7.0]]
        assert took.ms == []

    asyncio.run(story())


def test_a_warm_up_that_fails_says_the_models_words(tmp_path: Path) -> None:
    def fails(_data: object) -> None:
        raise ValueError("no such device")

    own, _ = server(fails)
    with pytest.raises(Stalled, match=r"fails on its own serving_input_example\.json: ValueError: no such device"):
        asyncio.run(own.warm_up(example(tmp_path, {"inputs": [7.0]})))


def test_an_example_that_is_no_request_says_so(tmp_path: Path) -> None:
    own, _ = server(lambda data: data)
    with pytest.raises(Stalled, match="exactly one of the input fields"):
        asyncio.run(own.warm_up(example(tmp_path, {})))


def test_a_model_without_an_example_is_not_warmed_up_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own, took = server(lambda data: data)
    assert asyncio.run(own.warm_up(tmp_path)) is False
    assert "it is not warmed up" in caplog.text
    assert took.ms == []
