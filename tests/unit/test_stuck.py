"""When a model that does not come back costs its replica its place."""

from __future__ import annotations

import pytest

from serving_runtime.stuck import ALL_LEAST_S, LEAST_S, TIMES, stuck

THREADS = 8


@pytest.mark.parametrize(
    ("computing_s", "timeout_s"),
    [
        pytest.param((), 30.0, id="idle"),
        pytest.param((31.0, 149.0), 30.0, id="late, and not yet several times so"),
        pytest.param((59.0,), 0.5, id="the least, whatever the timeout"),
        pytest.param((29.0,) * THREADS, 30.0, id="every thread busy, all in time"),
        pytest.param((9.0,) * THREADS, 0.5, id="every thread late, for less than Serve's own patience"),
        pytest.param((149.0,) * (THREADS - 1) + (0.1,), 30.0, id="one thread still answers"),
        pytest.param((149.0,) * (THREADS - 1), 30.0, id="one thread is free"),
    ],
)
def test_a_replica_that_is_only_slow_stays(computing_s: tuple[float, ...], timeout_s: float) -> None:
    assert stuck(computing_s, THREADS, timeout_s) == ""


def test_a_predict_that_does_not_come_back_for_several_times_the_timeout_says_why_the_replica_goes() -> None:
    words = "a predict has not come back for 151 s, and a request may take 30 s: this replica is replaced"
    assert stuck((0.1, TIMES * 30.0 + 1), THREADS, 30.0) == words
    assert "for 61 s" in stuck((LEAST_S + 1,), THREADS, 4.0)


def test_where_no_thread_is_left_the_replica_goes_as_soon_as_nobody_can_be_waiting() -> None:
    words = (
        "all 8 threads have been in one predict for more than 30 s each, and a request may take 30 s: this replica "
        "answers nobody, and is replaced"
    )
    assert stuck((31.0, *(40.0,) * 7), THREADS, 30.0) == words
    assert "for more than 10 s each" in stuck((ALL_LEAST_S + 1,) * THREADS, THREADS, 0.5)
