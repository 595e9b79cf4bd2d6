"""What each accident costs users, in requests: on the real stack, under a steady load, nothing retried.

`make test-faults`. The load is open (60 requests a second by a timetable, over 8 connections), and whatever is no 2xx
is lost. Each story has a model of its own; what it cost is counted and told at the end of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import requests

from pipelines.demo.load import Counters
from pipelines.local_stack import LocalStack
from policies.release import CauseKind, Outcome, Phase, Purpose
from policies.starting import EMERGENCY_TAG
from tests.conditions import wait_until
from tests.e2e.fault_documents import (
    HANGING,
    HOARDING,
    KILLED,
    LEAKING,
    POISONED,
    PROMOTED,
    STARVED,
    SWAPPED,
    TAKEN_BACK,
    TWINS,
    begun,
    documents,
)
from tests.e2e.world import ANSWER_S, CONNECTIONS, World, body, clear
from tests.fakes.ill_model import ALLOCATES, COMPUTES, EXITS, HANGS, POISON, RECURSES, SEIZES, SLOW

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(600)]

Told = Callable[[str, object], None]

ROWS_WITH_A_13 = (13.0, *(float(x) for x in range(11)))
ROWS_WITH_SLOW_ONES = (SLOW, 1.0, 2.0)
"""A third of them takes 0.25 s: at 60 a second, some five are in flight at any moment."""
KILLS = 3
REQUEST_TIMEOUT_S = 4.0
THREADS = 8
REPLACED_S = 240.0
"""A minute until a predict counts as stuck, half a minute of Serve's checks, a start; more on two busy cores."""
GIVEN_UP_S = 300.0
"""A candidate that answers nothing counts once each 15 s, and some of that makes a verdict."""


@pytest.fixture(scope="module")
def world(ray_session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    with LocalStack(folder / "stack", ray=ray_session, documents=documents(), reconcile=False) as stack:
        world = World(folder, stack)
        models = begun()
        world.begin(models)
        stack.start_reconciler()
        for each in models:
            world.await_steady(each.model, each.stable)
        yield world
        stack.stop()  # the reconciler first: it would bring back what is cleared
        clear(ray_session)


def in_words(counts: Counters) -> str:
    versions = ", ".join(f"{number} by v{version}" for version, number in counts.by_version.items())
    failures = ", ".join(f"{number} {what}" for what, number in counts.failures.items())
    lost = f"{counts.failed} lost ({failures})" if counts.failed else "0 lost"
    return f"{counts.sent} requests, {lost}; {versions}; the slowest answer took {counts.slowest_ms:.0f} ms"


def bad_events(world: World, model: str, version: int) -> int:
    """What the candidate failed and stable answered, or neither answered."""
    exported = world.exported("ray_sluice_version_requests_total", model)
    return exported[str(version), "rescued"] + exported[str(version), "bad"]


# --- rollouts -----------------------------------------------------------------------------------------------------


def test_a_promotion_loses_no_request(world: World, record_property: Told) -> None:
    with world.load(PROMOTED) as load:
        world.await_answers(load, 60)
        world.promote(PROMOTED, 2)
        world.await_steady(PROMOTED, 2)
        world.await_answers(load, 60)
        counts = load.stop()
    record_property("promotion", in_words(counts))
    assert counts.failed == 0, counts
    assert counts.by_version.keys() == {"1", "2"}


def test_a_rollback_loses_no_request(world: World, record_property: Told) -> None:
    with world.load(TAKEN_BACK, ROWS_WITH_A_13) as load:
        world.await_answers(load, 60)
        world.promote(TAKEN_BACK, 2)
        world.await_release(TAKEN_BACK, lambda r: bool(r.quarantine), "with v2 in quarantine")
        world.await_steady(TAKEN_BACK, 1)
        world.await_answers(load, 60)
        counts = load.stop()
    bad = bad_events(world, TAKEN_BACK, 2)
    record_property("rollback", f"{in_words(counts)}; {bad} bad events of the candidate")
    assert counts.failed == 0, counts
    assert counts.by_version.keys() == {"1", "2"}
    assert world.records(TAKEN_BACK)[-1].outcome is Outcome.ROLLED_BACK
    assert bad > 0


def test_a_route_that_changes_its_host_in_an_emergency_loses_no_request(world: World, record_property: Told) -> None:
    """The candidate takes the route itself: one replica's work becomes another's from one moment to the next."""
    prometheus = world.stack.prometheus
    assert prometheus is not None
    with world.load(SWAPPED) as load:
        world.await_answers(load, 60)
        prometheus.stop()  # trouble: without any, an emergency is an ordinary rollout
        try:
            world.tag(SWAPPED, 2, EMERGENCY_TAG, "true")
            world.promote(SWAPPED, 2)
            world.await_release(
                SWAPPED, lambda r: r.phase is Phase.SETTLING and r.candidate_takes_the_route, "SETTLING"
            )
            world.await_answers_by(load, "2")
        finally:
            prometheus.start()
        world.await_steady(SWAPPED, 2)
        world.await_answers(load, 60)
        counts = load.stop()
    record_property("route swap", in_words(counts))
    assert counts.failed == 0, counts
    assert counts.by_version.keys() == {"1", "2"}
    assert world.records(SWAPPED)[-1].purpose is Purpose.EMERGENCY


# --- candidates ---------------------------------------------------------------------------------------------------


def test_a_candidate_that_is_killed_at_half_of_the_traffic_loses_no_request(
    world: World, record_property: Told
) -> None:
    with world.load(KILLED) as load:
        world.await_answers(load, 1)
        world.promote(KILLED, 2)
        world.await_phase(KILLED, Phase.CANARY, 50, live=True)
        world.await_answers_by(load, "2")
        victim = world.kill_replica(KILLED, 2)
        assert world.replica_of(KILLED, 2) != victim
        world.await_steady(KILLED, 2)
        world.await_answers(load, 60)
        counts = load.stop()
    bad = bad_events(world, KILLED, 2)
    record_property("candidate killed", f"{in_words(counts)}; {bad} bad events of the candidate")
    assert counts.failed == 0, counts
    assert bad > 0
    assert world.records(KILLED)[-1].outcome is Outcome.PROMOTED


@pytest.mark.parametrize(
    ("model", "what"),
    [
        pytest.param(HOARDING, "candidate out of memory, held by its limit", id="held by its limit"),
        pytest.param(STARVED, "candidate out of memory, killed by the system", id="killed by the system"),
        pytest.param(HANGING, "candidate hangs", id="hangs"),
    ],
)
def test_a_candidate_that_runs_out_of_memory_or_hangs_is_taken_back_and_loses_no_request(
    world: World, record_property: Told, model: str, what: str
) -> None:
    with world.load(model) as load:
        world.await_answers(load, 60)
        began = time.monotonic()
        world.promote(model, 2)
        world.wait(
            lambda: (release := world.release(model)) is not None and release.quarantine,
            f"{model} with v2 in quarantine",
            lambda: str(world.release(model)),
            GIVEN_UP_S,
        )
        took_s = time.monotonic() - began
        world.await_steady(model, 1)
        world.await_answers(load, 60)
        counts = load.stop()
    bad, record = bad_events(world, model, 2), world.records(model)[-1]
    cause = record.cause
    assert cause is not None
    told = f"{bad} bad events of the candidate, taken back {took_s:.0f} s after its promotion ({cause.kind})"
    record_property(what, f"{in_words(counts)}; {told}")
    assert counts.failed == 0, counts
    assert counts.slowest_ms < REQUEST_TIMEOUT_S * 1000
    assert bad > 0
    assert record.outcome is Outcome.ROLLED_BACK
    assert cause.kind in (CauseKind.GUARD, CauseKind.FAILED)


# --- hosts --------------------------------------------------------------------------------------------------------


def await_two(world: World, model: str, without: frozenset[int] | set[int] = frozenset(), within_s: float = 90) -> None:
    def both() -> bool:
        found = world.replicas(model)
        return len(found) == 2 and not found & without

    world.wait(both, "answers by two other replicas", lambda: f"{world.replicas(model)}, not {without}", within_s)


def test_a_host_that_is_killed_loses_at_most_what_it_had_in_flight_and_the_next_go_elsewhere_within_a_second(
    world: World, record_property: Told
) -> None:
    lost = []
    for _ in range(KILLS):
        await_two(world, TWINS)
        with world.load(TWINS, ROWS_WITH_SLOW_ONES) as load:
            world.await_answers(load, 60)
            victim = world.replica_of(TWINS, 1)
            killed_at = time.time()
            os.kill(victim, signal.SIGKILL)
            world.await_answers(load, 120)
            await_two(world, TWINS, {victim})
            world.await_answers(load, 60)
            counts = load.stop()
        after_s = [round(started - killed_at, 2) for started, _ in counts.noted]
        record_property("host killed", f"{in_words(counts)}; the lost ones began {after_s} s after the kill")
        assert all(seconds < 1.0 for seconds in after_s), after_s
        lost.append(counts.failed)
    assert max(lost) <= CONNECTIONS, lost


def test_replicas_that_leak_are_replaced_without_a_lost_request(world: World, record_property: Told) -> None:
    await_two(world, LEAKING)
    before = world.replicas(LEAKING)
    with world.load(LEAKING) as load:
        await_two(world, LEAKING, before, within_s=REPLACED_S)
        world.await_answers(load, 60)
        counts = load.stop()
    record_property("leaking replicas", f"{in_words(counts)}; both replicas replaced")
    assert counts.failed == 0, counts
    assert said_by_serve(world, "and its limit is")


def said_by_serve(world: World, words: str) -> bool:
    """Is that in a log of Serve's?"""
    return any(words in log.read_text(errors="replace") for log in world.stack.ray.replica_logs.glob("*.log"))


# --- poison -------------------------------------------------------------------------------------------------------

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
DEEP = 100_000


def parquet_bomb() -> bytes:
    """Some kilobytes that are two gigabytes of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column, file = pa.repeat(pa.scalar(1.0), 16_000_000), io.BytesIO()
    with pq.ParquetWriter(file, pa.schema([("x", pa.float64())]), compression="zstd") as writer:
        for _ in range(16):
            writer.write_table(pa.table({"x": column}))
    return file.getvalue()


def inputs(text: str) -> bytes:
    return f'{{"inputs": {{"x": {text}}}}}'.encode()


def v2(shape: str, data: str) -> bytes:
    return f'{{"inputs": [{{"name": "x", "shape": {shape}, "datatype": "FP64", "data": {data}}}]}}'.encode()


INFER = f"v2/models/{POISONED}/infer"
FAILS, WRONG, LARGE, GOOD = {500}, {400}, {413}, {200}
WRONG_OR_LATE = {400, 504}
"""Some seconds of work for MLflow's parser: the request's time may be over."""

POISONED_BODIES = [
    *(pytest.param("invocations", JSON, body(value), FAILS, id=kind.__name__) for value, kind in POISON.items()),
    pytest.param("invocations", JSON, body(RECURSES), FAILS, id="RecursionError"),
    pytest.param("invocations", JSON, body(ALLOCATES), FAILS, id="MemoryError"),
    pytest.param("invocations", JSON, b"[" * DEEP, WRONG, id="nested and never closed"),
    pytest.param("invocations", JSON, inputs("[" * DEEP + "]" * DEEP), WRONG, id="nested"),
    pytest.param("invocations", JSON, b'{"a":' * DEEP + b"1" + b"}" * DEEP, WRONG, id="nested objects"),
    pytest.param("invocations", JSON, inputs("[1" + "0" * 5000 + "]"), WRONG, id="an integer of 5,000 digits"),
    pytest.param("invocations", JSON, inputs("[" + "9" * 8_000_000 + "]"), WRONG, id="an integer of 8 MB"),
    pytest.param("invocations", JSON, inputs("[1e400, -1e400, NaN]"), GOOD, id="infinities and NaN"),
    pytest.param("invocations", JSON, inputs("[" + "[]," * 2_000_000 + "[]]"), WRONG_OR_LATE, id="two million lists"),
    pytest.param("invocations", CSV, b"x," * 2_000_000 + b"x\n1", LARGE, id="two million columns"),
    pytest.param("invocations", PARQUET, parquet_bomb, LARGE, id="a Parquet bomb"),
    pytest.param(INFER, JSON, v2("[4611686018427387904]", "[1.0]"), WRONG, id="a shape of 2^62"),
    pytest.param(INFER, JSON, v2("[-1]", "[1.0]"), WRONG, id="a negative shape"),
    pytest.param(INFER, JSON, v2("[1]", "[" * DEEP + "]" * DEEP), WRONG, id="a nested tensor"),
]


@dataclasses.dataclass(frozen=True)
class Poisoning:
    """What was sent and answered, and what others under load had got by then."""

    sent_bytes: int
    answer: requests.Response
    others: Counters
    replica_stays: bool


Sent = tuple[str, str, bytes | str | Callable[[], bytes]]


@pytest.fixture(scope="module")
def poison(world: World) -> Callable[[Sent], Poisoning]:
    """Sends one poisoned request beside a steady load of others, at a model with one replica; it stays for them all."""
    replica = world.replica_of(POISONED, 1)

    def send(sent: Sent) -> Poisoning:
        path, content_type, content = sent
        given = content() if callable(content) else content
        url = f"{world.stack.ray.http}/models/{POISONED}/{path}"
        with world.load(POISONED) as load:
            world.await_answers(load, 20)
            answer = requests.post(url, data=given, headers={"content-type": content_type}, timeout=ANSWER_S)
            world.await_answers(load, 20)
            others = load.stop()
        return Poisoning(len(given), answer, others, world.replica_of(POISONED, 1) == replica)

    return send


@pytest.mark.parametrize(("path", "content_type", "content", "statuses"), POISONED_BODIES)
def test_a_poisoned_request_is_answered_and_takes_nobody_along(
    poison: Callable[[Sent], Poisoning],
    record_property: Told,
    path: str,
    content_type: str,
    content: bytes | str | Callable[[], bytes],
    statuses: set[int],
) -> None:
    seen = poison((path, content_type, content))
    status = seen.answer.status_code
    told = f"{seen.sent_bytes} bytes of {content_type}, answered {status}"
    record_property("poisoned request", f"{told}; others: {in_words(seen.others)}")
    assert status in statuses, seen.answer.text[:200]
    assert seen.answer.headers["x-sluice-version"] == "1"
    assert seen.others.failed == 0, seen.others
    assert seen.replica_stays


# --- a predict that never returns -----------------------------------------------------------------------------------


def hang(world: World, value: float, requests_: int) -> list[int]:
    """Send as many requests at once whose predict never returns; the statuses they were answered with."""
    with ThreadPoolExecutor(requests_) as pool:
        return [answer.status_code for answer in pool.map(lambda _: world.ask(POISONED, value), range(requests_))]


def await_another(world: World, replica: int) -> None:
    def another() -> bool:
        answer = world.ask(POISONED, -1.0)
        return answer.ok and answer.json()["predictions"] != [replica]

    wait_until(another, REPLACED_S, f"another replica than {replica}")


@pytest.mark.parametrize(("value", "what"), [(HANGS, "waits"), (COMPUTES, "computes")])
def test_a_replica_with_a_predict_that_never_returns_is_replaced(
    world: World, record_property: Told, value: float, what: str
) -> None:
    """The only replica of a stable version: what is lost is the request itself, and what its restart costs."""
    replica = world.replica_of(POISONED, 1)
    with world.load(POISONED) as load:
        world.await_answers(load, 60)
        began = time.monotonic()
        assert hang(world, value, 1) == [504]
        await_another(world, replica)
        took_s = time.monotonic() - began
        world.await_answers(load, 60)
        counts = load.stop()
    record_property(
        f"one predict {what} for ever", f"{in_words(counts)}; the only replica replaced after {took_s:.0f} s"
    )
    assert counts.failed == 0, counts
    assert said_by_serve(world, "a predict has not come back for")


def test_a_replica_whose_every_predict_hangs_is_replaced_and_service_returns(
    world: World, record_property: Told
) -> None:
    replica = world.replica_of(POISONED, 1)
    with world.load(POISONED) as load:
        world.await_answers(load, 60)
        began = time.monotonic()
        assert set(hang(world, HANGS, THREADS)) == {504}
        await_another(world, replica)
        took_s = time.monotonic() - began
        world.await_answers(load, 60)
        failed = load.counters().failed
        world.await_answers(load, 120)
        counts = load.stop()
    record_property(
        "every predict waits for ever", f"{in_words(counts)}; the only replica replaced after {took_s:.0f} s"
    )
    assert counts.failed == failed, "nothing failed after the replica was replaced"
    assert said_by_serve(world, "this replica answers nobody")


def test_a_replica_whose_interpreter_is_seized_is_replaced_and_the_other_answers(
    world: World, record_property: Told
) -> None:
    """C code that never gives the interpreter back: the replica can neither answer nor say that it cannot."""
    await_two(world, TWINS)

    def seize() -> None:
        with contextlib.suppress(requests.RequestException):  # it is lost, one way or another
            world.ask(TWINS, SEIZES)

    def replaced() -> bool:
        try:
            now = world.replicas(TWINS)
        except (requests.RequestException, ValueError, KeyError):  # an answer of the seized one
            return False
        return len(now) == 2 and len(now & before) == 1

    with world.load(TWINS) as load:
        world.await_answers(load, 60)
        before = world.replicas(TWINS)
        began, began_at = time.monotonic(), time.time()
        seizing = threading.Thread(target=seize)
        seizing.start()
        wait_until(replaced, REPLACED_S, "another replica beside the one that was not seized")
        took_s = time.monotonic() - began
        seizing.join(ANSWER_S)
        world.await_answers(load, 60)
        failed = load.counters().failed
        world.await_answers(load, 120)
        counts = load.stop()
    after_s = [round(started - began_at, 1) for started, _ in counts.noted]
    told = f"the lost ones began {after_s} s after; replaced after {took_s:.0f} s"
    record_property("the interpreter is seized", f"{in_words(counts)}; {told}")
    assert counts.failed == failed, "nothing failed after the replica was replaced"


# --- a model that ends its process ----------------------------------------------------------------------------------


def end_process(world: World, model: str) -> str:
    """Send the request that ends the process it is predicted in; what its caller sees of it."""
    try:
        return str(world.ask(model, EXITS).status_code)
    except requests.ConnectionError:
        return "the connection is closed"


def test_a_model_that_ends_its_process_takes_its_only_replica_along_and_service_returns(
    world: World, record_property: Told
) -> None:
    replica = world.replica_of(POISONED, 1)
    with world.load(POISONED) as load:
        world.await_answers(load, 60)
        began_at = time.time()
        seen = end_process(world, POISONED)

        def another() -> bool:
            try:
                answer = world.ask(POISONED, -1.0)
            except requests.RequestException:
                return False
            return answer.ok and answer.json()["predictions"] != [replica]

        wait_until(another, REPLACED_S, f"another replica than {replica}")
        took_s = time.time() - began_at
        world.await_answers(load, 60)
        failed = load.counters().failed
        world.await_answers(load, 120)
        counts = load.stop()
    record_property(
        "the process ends, the only replica", f"{in_words(counts)}; its caller: {seen}; back after {took_s:.0f} s"
    )
    assert seen in {"500", "502", "503", "504", "the connection is closed"}
    assert counts.failed == failed, "nothing failed after the replica was replaced"
    assert said_by_serve(world, "crashed, marking it unhealthy")


def test_a_model_that_ends_its_process_costs_what_its_replica_had_in_flight_where_another_answers(
    world: World, record_property: Told
) -> None:
    await_two(world, TWINS)
    before = world.replicas(TWINS)
    with world.load(TWINS) as load:
        world.await_answers(load, 60)
        began_at = time.time()
        seen = end_process(world, TWINS)

        def replaced() -> bool:
            try:
                now = world.replicas(TWINS)
            except (requests.RequestException, ValueError, KeyError):  # an answer of the one that ends
                return False
            return len(now) == 2 and now != before

        wait_until(replaced, REPLACED_S, "another replica beside the one that stayed")
        took_s = time.time() - began_at
        world.await_answers(load, 60)
        counts = load.stop()
    after_s = [round(started - began_at, 1) for started, _ in counts.noted]
    told = f"its caller: {seen}; the lost ones began {after_s} s after; replaced after {took_s:.0f} s"
    record_property("the process ends, one of two", f"{in_words(counts)}; {told}")
    assert seen in {"500", "502", "503", "504", "the connection is closed"}
    assert counts.failed <= CONNECTIONS, counts
