"""Whether the scrape can be believed: samples of `up` and of the hosts in, a reason or none out."""

from __future__ import annotations

from datetime import timedelta

from policies.counters import Series
from serving_runtime.promql import HOSTS
from serving_runtime.scrape_health import Health, read_health, window

INTERVAL = timedelta(seconds=15)
NOW_S = 10_000


def up(*samples: tuple[int, float], job: str = "ray", instance: str = "10.0.0.1:8080") -> Series:
    return Series({"__name__": "up", "job": job, "instance": instance}, [(s * 1000, v) for s, v in samples])


def host(last_s: int, *, model: str = "fraud", session: str = "session_1", job: str = "ray") -> Series:
    labels = {"__name__": HOSTS, "job": job, "model": model, "SessionName": session}
    return Series(labels, [(last_s * 1000, 1.0)])


def health(*series: Series) -> Health:
    return read_health(series, NOW_S * 1000, INTERVAL)


def test_a_fresh_scrape_of_every_target_is_healthy_up_to_the_slowest_of_them() -> None:
    seen = health(
        up((NOW_S - 20, 1), (NOW_S - 5, 1)), up((NOW_S - 27, 1), (NOW_S - 12, 1), instance="b"), host(NOW_S - 5)
    )

    assert seen.reason == ""
    assert seen.age == timedelta(seconds=5)
    assert seen.complete_ms == (NOW_S - 12) * 1000


def test_nothing_scraped_is_said() -> None:
    assert "scraped nothing in the last 300 s" in health().reason


def test_a_target_that_is_down_makes_the_whole_unavailable_and_is_named() -> None:
    seen = health(
        up((NOW_S - 5, 1)),
        up((NOW_S - 33, 1), (NOW_S - 18, 0), (NOW_S - 3, 0), instance="10.0.0.2:8080"),
        host(NOW_S - 5),
    )

    assert "1 of 2 scrape targets down" in seen.reason
    assert "ray 10.0.0.2:8080 (last answered 33 s ago)" in seen.reason


def test_a_target_that_never_answered_is_named_with_how_long() -> None:
    assert "(no answer for 48 s)" in health(up((NOW_S - 48, 0), (NOW_S - 3, 0)), host(NOW_S - 5)).reason


def test_a_target_that_answers_again_is_healthy() -> None:
    assert health(up((NOW_S - 18, 0), (NOW_S - 3, 1)), host(NOW_S - 3)).reason == ""


def test_a_long_list_of_targets_is_cut() -> None:
    gone = [up((NOW_S - 3, 0), instance=f"10.0.0.{i}") for i in range(10)]

    assert "10 of 11 scrape targets down" in health(*gone, up((NOW_S - 3, 1)), host(NOW_S - 3)).reason
    assert health(*gone, host(NOW_S - 3)).reason.endswith("and 7 more")


def test_an_unrelated_exporter_that_is_down_stops_nothing() -> None:
    seen = health(up((NOW_S - 5, 1)), up((NOW_S - 2, 0), job="node", instance="n"), host(NOW_S - 5))

    assert seen.reason == ""
    assert seen.complete_ms == (NOW_S - 5) * 1000


def test_a_node_that_left_is_waited_for_and_then_forgotten() -> None:
    left = up((NOW_S - 60, 1), instance="left")
    gone = up((NOW_S - 61, 1), instance="gone")

    assert health(up((NOW_S - 5, 1)), left, host(NOW_S - 5)).complete_ms == (NOW_S - 60) * 1000
    assert health(up((NOW_S - 5, 1)), gone, host(NOW_S - 5)).complete_ms == (NOW_S - 5) * 1000


def test_a_scrape_without_any_host_is_no_evidence_of_no_requests() -> None:
    reason = health(up((NOW_S - 5, 1), job="node")).reason

    assert HOSTS in reason
    assert "does it scrape this Ray cluster?" in reason


def test_ray_that_left_while_other_exporters_are_fresh_is_stale() -> None:
    seen = health(up((NOW_S - 70, 1)), up((NOW_S - 1, 1), job="node"), host(NOW_S - 70))

    assert "stale" in seen.reason
    assert "70 s old" in seen.reason


def test_hosts_of_one_model_in_two_clusters_at_once_are_ambiguous_for_that_model() -> None:
    seen = health(
        up((NOW_S - 5, 1)), host(NOW_S - 5), host(NOW_S - 5, session="session_2"), host(NOW_S - 5, model="churn")
    )

    assert seen.reason == ""
    assert set(seen.ambiguous) == {"fraud"}
    assert "session_1, session_2" in seen.ambiguous["fraud"]


def test_a_cluster_that_took_the_place_of_another_is_not_ambiguous() -> None:
    seen = health(up((NOW_S - 5, 1)), host(NOW_S - 65), host(NOW_S - 5, session="session_2"))

    assert seen.ambiguous == {}


def test_the_look_back_holds_more_than_four_scrapes_of_any_interval() -> None:
    assert window(timedelta(seconds=1)) == timedelta(minutes=5)
    assert window(timedelta(minutes=5)) == timedelta(minutes=30)


# --- jobs of somebody else's ----------------------------------------------------------------------------------


def test_a_job_of_somebody_elses_that_is_down_is_told_and_stops_only_who_reads_it() -> None:
    seen = health(up((NOW_S - 5, 1)), host(NOW_S - 5), up((NOW_S - 5, 0), job="app", instance="app:1"))

    assert seen.reason == ""
    assert seen.jobs.keys() == {"app"}
    assert "1 of 1 scrape targets down" in seen.jobs["app"]


def test_a_job_is_stale_by_its_own_interval() -> None:
    every_minute = [(NOW_S - 110 - 60 * k, 1) for k in (3, 2, 1, 0)]
    seen = health(up((NOW_S - 5, 1)), host(NOW_S - 5), up(*every_minute, job="slow"))
    assert seen.jobs == {}

    silent = [(NOW_S - 110 - 15 * k, 1) for k in (3, 2, 1, 0)]
    seen = health(up((NOW_S - 5, 1)), host(NOW_S - 5), up(*silent, job="silent"))
    assert "stale: the newest sample is 110 s old" in seen.jobs["silent"]
