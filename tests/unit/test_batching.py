"""The line in front of a model: what is computed together, what is not, and who waits for whom."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from policies.serving import Batching
from serving_runtime.batching import MISFITS_TO_GIVE_UP, Full, Limits, Line
from serving_runtime.fast_scoring import Rows
from tests.conditions import turns, wait_until

WAIT_S = 20.0  # never reached when all is well
BAD = -1.0


@dataclasses.dataclass(frozen=True)
class Asked:
    """A job: its values are its rows; `odd` ones have none and are answered alone."""

    values: tuple[float, ...]
    like: object = "row"
    odd: bool = False
    size: int = 1

    def read(self) -> Rows | None:
        return None if self.odd else Rows((np.array(self.values),), len(self.values), self.like)

    def alone(self) -> object:
        return ("alone", self.values)

    def write(self, predictions: Any) -> object:
        return np.asarray(predictions).tolist()

    def failed(self, error: Exception) -> object:
        return f"failed: {error}"


class Model:
    """Doubles values; remembers each call; waits at the gate before the first answer, and fails on BAD."""

    def __init__(self, answer: Callable[[Any], Any] = lambda values: values * 2) -> None:
        self.calls: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._answer = answer

    def __call__(self, rows: Rows) -> Any:
        self.calls.append(rows.arrays[0].tolist())
        assert self.gate.wait(WAIT_S)
        if BAD in rows.arrays[0]:
            raise ValueError("a bad row")
        return self._answer(rows.arrays[0])


class Story:
    """A line, its model, and requests that queue up behind a first one that is being computed."""

    def __init__(
        self,
        model: Model,
        terms: Batching | None,
        *,
        cpus: float = 1.0,
        cpu_s: Callable[[], float] = lambda: 0.0,
        **limits: Any,
    ) -> None:
        self.model = model
        self.sizes: list[int] = []
        self.line: Line[object] = Line(model, self.sizes.append, Limits(**limits), cpus=cpus, cpu_s=cpu_s)
        self.line.configure(terms)

    def ask(self, *jobs: Asked) -> list[asyncio.Task[object]]:
        return [asyncio.create_task(self.line.do(job)) for job in jobs]

    async def behind(self, first: Asked, jobs: Sequence[Asked]) -> list[object]:
        """Answers to `jobs`, which all came while `first` was computed."""
        self.model.gate.clear()
        before = len(self.model.calls)
        ahead = self.ask(first)
        await until(lambda: len(self.model.calls) > before)
        asked = self.ask(*jobs)
        await turns()
        self.model.gate.set()
        await asyncio.gather(*ahead)
        return list(await asyncio.gather(*asked))


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, WAIT_S, "the line came that far")


def run(story: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(story, WAIT_S))


THREADS = 4
LOOKS = 20  # at a line that waits, each of which could have started a thread
FIRST = Asked((0.0,))
TERMS = Batching(max_batch_size=4)


def test_what_queued_up_meanwhile_is_one_batch() -> None:
    story = Story(Model(), TERMS)
    answers = run(story.behind(FIRST, [Asked((1.0,)), Asked((2.0, 3.0)), Asked((4.0,))]))
    assert answers == [[2.0], [4.0, 6.0], [8.0]]
    assert story.model.calls == [[0.0], [1.0, 2.0, 3.0, 4.0]]
    assert story.sizes == [1, 4]


def test_a_batch_has_no_more_rows_than_it_may_and_one_request_is_never_cut() -> None:
    story = Story(Model(), TERMS)
    run(story.behind(FIRST, [Asked((1.0, 1.0, 1.0)), Asked((2.0, 2.0)), Asked((3.0,) * 9)]))
    assert [len(call) for call in story.model.calls] == [1, 3, 2, 9]


def test_without_batching_each_request_is_asked_alone() -> None:
    story = Story(Model(), None)
    assert run(story.behind(FIRST, [Asked((1.0,)), Asked((2.0,))])) == [[2.0], [4.0]]
    assert sorted(story.model.calls) == [[0.0], [1.0], [2.0]]
    assert story.sizes == []


def test_only_rows_of_one_kind_are_joined_and_some_are_never() -> None:
    story = Story(Model(), TERMS)
    jobs = [Asked((1.0,), "a"), Asked((2.0,), "b"), Asked((3.0,), "a"), Asked((4.0,), None), Asked((5.0,), None)]
    assert run(story.behind(FIRST, jobs)) == [[2.0], [4.0], [6.0], [8.0], [10.0]]
    assert sorted(story.model.calls[1:]) == [[1.0, 3.0], [2.0], [4.0], [5.0]]


def test_what_has_no_rows_is_answered_by_its_own_way() -> None:
    story = Story(Model(), TERMS)
    answers = run(story.behind(FIRST, [Asked((1.0,), odd=True), Asked((2.0,))]))
    assert answers == [("alone", (1.0,)), [4.0]]
    assert story.model.calls == [[0.0], [2.0]]


def test_a_bad_row_fails_its_own_request_only() -> None:
    story = Story(Model(), TERMS)
    answers = run(story.behind(FIRST, [Asked((1.0,)), Asked((BAD,)), Asked((3.0,))]))
    assert answers == [[2.0], "failed: a bad row", [6.0]]
    assert story.model.calls == [[0.0], [1.0, BAD, 3.0], [1.0], [BAD], [3.0]]


@pytest.mark.parametrize(
    "answer",
    [lambda _: np.array([7.0]), lambda _: 7.0, lambda v: {"p": v}],
    ids=["one row", "one value", "a mapping"],
)
def test_an_answer_without_a_row_for_each_row_is_asked_for_one_by_one(answer: Callable[[Any], Any]) -> None:
    story = Story(Model(answer), TERMS)

    async def odd_batches() -> None:
        for _ in range(MISFITS_TO_GIVE_UP + 1):
            await story.behind(FIRST, [Asked((1.0,)), Asked((2.0,))])

    run(odd_batches())
    tried = [[0.0], [1.0, 2.0], [1.0], [2.0]]
    assert story.model.calls == [*(tried * MISFITS_TO_GIVE_UP), [0.0], [1.0], [2.0]]


def test_new_terms_hold_at_once() -> None:
    story = Story(Model(), None)

    async def changes() -> None:
        await story.behind(FIRST, [])
        story.line.configure(TERMS)
        await story.behind(FIRST, [Asked((1.0,)), Asked((2.0,))])
        story.line.configure(None)
        await story.behind(FIRST, [Asked((3.0,)), Asked((4.0,))])

    run(changes())
    assert [1.0, 2.0] in story.model.calls
    assert [3.0] in story.model.calls
    assert [4.0] in story.model.calls


def test_a_full_batch_does_not_wait_and_a_lone_request_waits_no_longer_than_it_must() -> None:
    async def full() -> None:
        story = Story(Model(), Batching(max_batch_size=2, batch_wait_ms=1000.0))
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*story.ask(Asked((1.0,)), Asked((2.0,))))
        assert asyncio.get_running_loop().time() - started < 1.0
        assert story.model.calls == [[1.0, 2.0]]

    async def lone() -> None:
        story = Story(Model(), Batching(max_batch_size=2, batch_wait_ms=30.0))
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await asyncio.gather(*story.ask(Asked((1.0,)))) == [[2.0]]
        assert 0.03 <= loop.time() - started < WAIT_S / 2

    run(full())
    run(lone())


def test_requests_that_take_long_are_computed_beside_each_other_within_a_bound() -> None:
    story = Story(Model(), None, threads=THREADS)

    async def many() -> None:
        story.model.gate.clear()
        asked = story.ask(*[Asked((float(n),)) for n in range(THREADS + 3)])
        await until(lambda: len(story.model.calls) == THREADS)
        story.model.gate.set()
        assert await asyncio.gather(*asked) == [[n * 2.0] for n in range(THREADS + 3)]

    run(many())


@pytest.mark.parametrize(("cpus", "together"), [(1.0, 1), (4.0, THREADS)])
def test_a_model_that_computes_is_helped_only_where_the_replica_owns_more_cpus(cpus: float, together: int) -> None:
    looks: list[float] = []

    def one_cpu_is_busy() -> float:
        looks.append(time.monotonic())
        return looks[-1]

    story = Story(Model(), None, cpus=cpus, cpu_s=one_cpu_is_busy, threads=THREADS, very_long_s=WAIT_S)

    async def many() -> None:
        story.model.gate.clear()
        asked = story.ask(*[Asked((float(n),)) for n in range(THREADS + 3)])
        await until(lambda: len(looks) > LOOKS and len(story.model.calls) >= together)
        assert len(story.model.calls) == together
        story.model.gate.set()
        assert await asyncio.gather(*asked) == [[n * 2.0] for n in range(THREADS + 3)]

    run(many())


def test_a_request_that_computes_without_an_end_does_not_hold_up_the_others() -> None:
    def no_cpu_is_spare() -> float:
        return time.monotonic()

    ends = threading.Event()

    def answer(values: Any) -> Any:
        assert values[0] != 7.0 or ends.wait(WAIT_S)
        return values

    story = Story(Model(answer), None, cpu_s=no_cpu_is_spare, very_long_s=0.05)

    async def beside() -> None:
        (endless,) = story.ask(Asked((7.0,)))
        await until(lambda: story.model.calls)
        assert await asyncio.gather(*story.ask(Asked((1.0,)), Asked((2.0,)))) == [[1.0], [2.0]]
        assert not endless.done()
        ends.set()
        assert await endless == [7.0]

    run(beside())


def test_a_batch_that_hangs_does_not_hold_up_the_next() -> None:
    hangs = threading.Event()

    def answer(values: Any) -> Any:
        if values[0] == 7.0:
            assert hangs.wait(WAIT_S)
        return values

    story = Story(Model(answer), TERMS, long_batch_s=0.02)

    async def beside() -> None:
        (stuck,) = story.ask(Asked((7.0,)))
        await until(lambda: story.model.calls)
        assert await asyncio.gather(*story.ask(Asked((1.0,)))) == [[1.0]]
        assert not stuck.done()
        hangs.set()
        assert await stuck == [7.0]

    run(beside())


def test_who_gives_up_waiting_leaves_the_line() -> None:
    story = Story(Model(), TERMS)

    async def gives_up() -> None:
        story.model.gate.clear()
        ahead = story.ask(FIRST)
        await until(lambda: story.model.calls)
        (gone, stays) = story.ask(Asked((1.0,)), Asked((2.0,)))
        await turns()
        gone.cancel()
        await asyncio.wait({gone})
        story.model.gate.set()
        assert await stays == [4.0]
        await asyncio.gather(*ahead)

    run(gives_up())
    assert story.model.calls == [[0.0], [2.0]]


@pytest.mark.parametrize(("limit", "value"), [("waiting", 2), ("waiting_bytes", 25)])
def test_a_full_line_takes_no_more(limit: str, value: int) -> None:
    story = Story(Model(), TERMS, **{limit: value})

    async def fills() -> None:
        story.model.gate.clear()
        ahead = story.ask(Asked((0.0,), size=10))
        await until(lambda: story.model.calls)
        waiting = story.ask(Asked((1.0,), size=10), Asked((2.0,), size=10))
        await turns()
        with pytest.raises(Full):
            await story.line.do(Asked((3.0,), size=10))
        story.model.gate.set()
        assert await asyncio.gather(*ahead, *waiting) == [[0.0], [2.0], [4.0]]
        assert await story.line.do(Asked((3.0,), size=10)) == [6.0]

    run(fills())


def test_a_job_that_breaks_its_promise_ends_its_visit_and_not_the_line() -> None:
    class Broken(Asked):
        def read(self) -> Rows | None:
            raise RuntimeError("broken")

    story = Story(Model(), None)

    async def breaks() -> None:
        with pytest.raises(RuntimeError, match="broken"):
            await story.line.do(Broken((1.0,)))
        assert await story.line.do(Asked((1.0,))) == [2.0]

    run(breaks())


def test_a_job_that_would_end_the_replica_fails_by_itself_and_its_thread_goes_on() -> None:
    class Ends(Asked):
        def alone(self) -> object:
            raise SystemExit(1)

    story = Story(Model(), None)

    async def ends() -> None:
        for _ in range(Limits.threads + 1):
            with pytest.raises(RuntimeError, match="SystemExit in line"):
                await story.line.do(Ends((1.0,), odd=True))
        assert await story.line.do(Asked((1.0,))) == [2.0]

    run(ends())


def test_a_line_says_for_how_long_each_thread_has_been_at_one_request() -> None:
    """A visit that answers one request after the other moves with each of them."""
    gates = {1.0: threading.Event(), 2.0: threading.Event()}

    def answer(values: Any) -> Any:
        assert values[0] == 0.0 or gates[values[0]].wait(WAIT_S)
        return values

    story = Story(Model(answer), TERMS)

    async def visits() -> None:
        assert story.line.computing_s == ()
        behind = asyncio.create_task(story.behind(FIRST, [Asked((1.0,), None), Asked((2.0,), None)]))
        await until(lambda: [1.0] in story.model.calls and story.line.computing_s[0] > 0.05)
        moved = asyncio.get_running_loop().time()
        gates[1.0].set()
        await until(lambda: [2.0] in story.model.calls)
        (seconds,) = story.line.computing_s
        assert seconds <= asyncio.get_running_loop().time() - moved
        gates[2.0].set()
        await behind
        await until(lambda: story.line.computing_s == ())

    run(visits())


def test_a_line_that_nobody_has_any_more_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    story = Story(Model(), TERMS)
    run(story.behind(FIRST, [Asked((1.0,))]))
    own = set(threading.enumerate()) - before
    assert any(thread.name.startswith("predict") for thread in own)
    del story
    gc.collect()
    wait_until(lambda: not any(t.is_alive() for t in own if t.name.startswith("predict")), WAIT_S, "threads ended")
