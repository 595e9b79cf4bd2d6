"""What hosts' guards show of a candidate they have stopped: gauges in, a trip or none out."""

from __future__ import annotations

from datetime import timedelta

from policies.counters import Series, moment
from policies.observations import Trip
from serving_runtime.guard_trips import read_trip
from serving_runtime.promql import GUARD_BAD, GUARD_REQUESTS

INTERVAL = timedelta(seconds=15)
NOW_S = 10_000


def shown(name: str, *samples: tuple[int, float], host: str = "w1", build: str = "bbbbbbbb") -> Series:
    labels = {"__name__": name, "model": "fraud", "version": "2", "build": build, "WorkerId": host}
    return Series(labels, [(NOW_S * 1000 - ago_s * 1000, value) for ago_s, value in samples])


def trip(*series: Series) -> Trip | None:
    return read_trip(series, "fraud", ("2", "bbbbbbbb"), NOW_S * 1000, INTERVAL)


def test_every_host_that_has_tripped_adds_its_counts_and_the_first_tells_when() -> None:
    seen = trip(
        shown(GUARD_REQUESTS, (50, 9.0), (35, 9.0), (5, 9.0)),
        shown(GUARD_BAD, (50, 3.0), (5, 3.0)),
        shown(GUARD_REQUESTS, (20, 4.0), host="w2"),
        shown(GUARD_BAD, (20, 4.0), host="w2"),
    )

    assert seen == Trip(build="bbbbbbbb", hosts=2, requests=13, bad=7, at=moment((NOW_S - 50) * 1000))


def test_none_has_tripped_where_none_shows_it() -> None:
    assert trip() is None
    assert trip(shown(GUARD_REQUESTS, (5, 3.0), build="cccccccc")) is None


def test_an_old_sample_is_a_host_that_has_let_go() -> None:
    assert trip(shown(GUARD_REQUESTS, (61, 3.0))) is None
    assert trip(shown(GUARD_REQUESTS, (60, 3.0))) is not None


def test_a_trip_that_began_again_is_as_old_as_its_newest_run() -> None:
    seen = trip(shown(GUARD_REQUESTS, (900, 3.0), (885, 3.0), (40, 5.0), (10, 5.0)))

    assert seen is not None
    assert seen.at == moment((NOW_S - 40) * 1000)
    assert seen.requests == 5


def test_what_is_no_count_is_no_trip() -> None:
    for value in (float("nan"), float("inf"), -1.0):
        assert trip(shown(GUARD_REQUESTS, (5, value))) is None
