"""What the port `Metrics` promises, on the fake and on a real Prometheus alike.

The traps are those of rivals.md, "the same situation, different verdicts"; where other tools abort, fail or pass,
here is what the judge is told.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.ports import EvidenceRequest, Metrics
from pipelines.prometheus_server import PrometheusServer
from policies.application import Application
from policies.counters import moment
from policies.counting import last_edge
from policies.evidence import Counts, Discordant, Evidence, Objective, Sli
from tests.contracts.metrics_worlds import ORDERS, WIDTH, FakeWorld, PrometheusWorld, World

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
LATENCY = Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=200.0)
PURCHASES = Objective(name="purchases", sli=Sli.FEEDBACK, target=0.03)
AGREEMENT = Objective(name="agreement", sli=Sli.AGREEMENT, target=0.98)
STABLE = Application(version=1, digest="sha256:" + "1" * 64)
CANDIDATE = Application(version=2, digest="sha256:" + "2" * 64)
MODEL = "fraud"

_environments = itertools.count()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on PATH")
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with PrometheusServer(folder, scrape_interval=MINUTE, accept_writes=True) as server:
        yield server


@pytest.fixture(scope="module")
def begin() -> datetime:
    """An edge in the past, the same for all: Prometheus takes what is at most an hour older than the newest."""
    return moment(last_edge(datetime.now(UTC) - 50 * MINUTE, WIDTH))


@pytest.fixture(params=["fake", pytest.param("prometheus", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest, begin: datetime) -> World:
    if request.param == "fake":
        return FakeWorld()
    server: PrometheusServer = request.getfixturevalue("prometheus")
    return PrometheusWorld(server.url, f"env{next(_environments)}", begin)


def ask(
    metrics: Metrics,
    now: datetime,
    since: datetime,
    *,
    objective: Objective = ERRORS,
    stable: Application | None = STABLE,
    candidate: Application = CANDIDATE,
) -> Evidence:
    request = EvidenceRequest(model=MODEL, candidate=candidate, stable=stable, objectives=(objective,), since=since)
    (evidence,) = metrics.evidence([request], now)[MODEL]
    return evidence


# --- counts ---------------------------------------------------------------------------------------------------


def test_counts_of_both_versions_fall_into_the_bins_in_which_they_happened(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin + 3 * SECOND, good=5, bad=1)
    world.answered(MODEL, STABLE, begin + 4 * SECOND, good=100)
    world.answered(MODEL, CANDIDATE, begin + 2 * WIDTH, good=7)
    world.answered(MODEL, STABLE, begin + 3 * WIDTH - SECOND, good=50, bad=2)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin)

    assert evidence.source.available, evidence.source.reason
    assert evidence.width == WIDTH
    assert [b.start for b in evidence.bins] == [begin, begin + WIDTH, begin + 2 * WIDTH]
    assert [b.candidate for b in evidence.bins] == [Counts(6, 1), Counts(), Counts(7, 0)]
    assert [b.stable for b in evidence.bins] == [Counts(100, 0), Counts(), Counts(52, 2)]


def test_what_was_counted_before_the_window_is_not_evidence(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10, bad=10)
    world.answered(MODEL, CANDIDATE, begin + 4 * WIDTH + SECOND, good=3, bad=1)
    world.scrape(begin + 6 * WIDTH)

    evidence = ask(world.metrics, begin + 6 * WIDTH, begin + 4 * WIDTH)

    assert evidence.candidate == Counts(4, 1)


def test_a_window_begins_at_the_first_edge_after_the_traffic_moved(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin + SECOND, good=10)
    world.answered(MODEL, CANDIDATE, begin + WIDTH + SECOND, good=20)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin + SECOND)

    assert evidence.bins[0].start == begin + WIDTH
    assert evidence.candidate == Counts(20, 0)


def test_the_first_errors_of_a_new_series_are_counted(world: World, begin: datetime) -> None:
    """`increase()` never sees them: the series begins at 7."""
    world.answered(MODEL, CANDIDATE, begin + WIDTH + SECOND, bad=7)
    world.scrape(begin + 4 * WIDTH)

    assert ask(world.metrics, begin + 4 * WIDTH, begin).candidate == Counts(7, 7)


def test_no_error_series_because_there_were_no_errors_is_zero_of_n(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin + SECOND, good=500)
    world.scrape(begin + 2 * WIDTH)

    evidence = ask(world.metrics, begin + 2 * WIDTH, begin)

    assert evidence.source.available
    assert evidence.candidate == Counts(500, 0)


def test_no_series_at_all_is_zero_of_zero_and_no_outage(world: World, begin: datetime) -> None:
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin)

    assert evidence.source.available
    assert evidence.source.reason == ""
    assert evidence.candidate == evidence.stable == Counts()


def test_a_candidate_without_series_beside_a_busy_stable_has_zero_of_zero(world: World, begin: datetime) -> None:
    world.answered(MODEL, STABLE, begin + SECOND, good=500, bad=3)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin)

    assert evidence.source.available
    assert evidence.candidate == Counts()
    assert evidence.stable == Counts(503, 3)


def test_a_first_version_has_no_stable_beside_it(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=4)
    world.answered(MODEL, STABLE, begin, good=400)
    world.scrape(begin + 2 * WIDTH)

    evidence = ask(world.metrics, begin + 2 * WIDTH, begin, stable=None)

    assert evidence.candidate == Counts(4, 0)
    assert evidence.stable == Counts()


def test_a_clients_errors_are_no_evidence(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10, bad=1, client_error=100)
    world.scrape(begin + 2 * WIDTH)

    assert ask(world.metrics, begin + 2 * WIDTH, begin).candidate == Counts(11, 1)


def test_another_build_of_the_same_version_is_another_candidate(world: World, begin: datetime) -> None:
    rebuilt = Application(version=2, digest="sha256:" + "3" * 64)
    world.answered(MODEL, CANDIDATE, begin, good=10)
    world.answered(MODEL, rebuilt, begin, bad=5)
    world.scrape(begin + 2 * WIDTH)

    assert ask(world.metrics, begin + 2 * WIDTH, begin).candidate == Counts(10, 0)
    assert ask(world.metrics, begin + 2 * WIDTH, begin, candidate=rebuilt).candidate == Counts(5, 5)


def test_latency_counts_what_took_longer_than_the_threshold(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=90, latency_ms=200.0)
    world.answered(MODEL, CANDIDATE, begin + SECOND, good=10, latency_ms=201.0)
    world.answered(MODEL, STABLE, begin + SECOND, good=100, latency_ms=3.0)
    world.scrape(begin + 2 * WIDTH)

    evidence = ask(world.metrics, begin + 2 * WIDTH, begin, objective=LATENCY)

    assert evidence.candidate == Counts(100, 10)
    assert evidence.stable == Counts(100, 0)


def test_answers_that_never_reached_the_versions_server_have_no_latency(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, bad=10, latency_ms=None)
    world.scrape(begin + 2 * WIDTH)

    assert ask(world.metrics, begin + 2 * WIDTH, begin, objective=LATENCY).candidate == Counts()
    assert ask(world.metrics, begin + 2 * WIDTH, begin).candidate == Counts(10, 10)


def test_what_stable_answered_in_the_candidates_place_is_bad_and_told(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=90, bad=2, rescued=8)
    world.answered(MODEL, CANDIDATE, begin + WIDTH, good=5)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin)

    assert [b.candidate for b in evidence.bins] == [Counts(100, 10), Counts(5, 0), Counts()]
    assert [b.rescued for b in evidence.bins] == [8, 0, 0]


def test_the_pairs_that_differ_are_told_where_there_was_shadow(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=95, bad=5)
    world.shadowed(MODEL, CANDIDATE, begin, same=93, candidate_bad=5, stable_bad=2)
    world.shadowed(MODEL, CANDIDATE, begin + WIDTH, same=10)
    world.answered(MODEL, CANDIDATE, begin + 2 * WIDTH, good=10)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin)

    assert [b.pairs for b in evidence.bins] == [Discordant(candidate=5, stable=2), Discordant(), None]
    assert evidence.candidate == Counts(110, 5)


def test_latency_cannot_tell_who_was_rescued_and_knows_no_pairs(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10, rescued=3)
    world.shadowed(MODEL, CANDIDATE, begin, same=13)
    world.scrape(begin + WIDTH)

    (only,) = ask(world.metrics, begin + WIDTH, begin, objective=LATENCY).bins

    assert (only.candidate, only.rescued, only.pairs) == (Counts(13, 0), None, None)


def test_agreement_is_the_candidates_alone(world: World, begin: datetime) -> None:
    world.agreed(MODEL, CANDIDATE, begin, good=97, bad=3)
    world.agreed(MODEL, STABLE, begin, good=50)  # of its own rollout, long ago
    world.agreed(MODEL, CANDIDATE, begin + WIDTH, good=20)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin, objective=AGREEMENT)

    assert evidence.source.available, evidence.source.reason
    assert [b.candidate for b in evidence.bins] == [Counts(100, 3), Counts(20, 0), Counts()]
    assert {b.stable for b in evidence.bins} == {Counts()}
    assert {(b.rescued, b.pairs) for b in evidence.bins} == {(None, None)}


def test_feedback_is_counted_for_both_versions_when_it_arrives(world: World, begin: datetime) -> None:
    world.reported(MODEL, CANDIDATE, begin, good=3, bad=97)
    world.reported(MODEL, STABLE, begin, good=5, bad=95)
    world.reported(MODEL, CANDIDATE, begin + WIDTH, bad=20)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin, objective=PURCHASES)

    assert evidence.source.available, evidence.source.reason
    assert [b.candidate for b in evidence.bins] == [Counts(100, 97), Counts(20, 20), Counts()]
    assert [b.stable for b in evidence.bins] == [Counts(100, 95), Counts(), Counts()]
    assert {(b.rescued, b.pairs) for b in evidence.bins} == {(None, None)}


def test_a_documents_own_counters_are_counted_as_ours(world: World, begin: datetime) -> None:
    world.counted(MODEL, CANDIDATE, begin, good=40, bad=6)
    world.counted(MODEL, STABLE, begin + SECOND, good=300, bad=1)
    world.scrape(begin + WIDTH)
    world.restart_everything()
    world.counted(MODEL, CANDIDATE, begin + 2 * WIDTH, good=3, bad=1)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin, objective=ORDERS)

    assert evidence.source.available, evidence.source.reason
    assert [b.candidate for b in evidence.bins] == [Counts(46, 6), Counts(), Counts(4, 1)]
    assert evidence.stable == Counts(301, 1)


def test_a_documents_own_counters_without_an_error_series_are_zero_errors_of_n(world: World, begin: datetime) -> None:
    world.counted(MODEL, CANDIDATE, begin, good=40)
    world.scrape(begin + WIDTH)

    assert ask(world.metrics, begin + WIDTH, begin, objective=ORDERS).candidate == Counts(40, 0)


def test_a_documents_own_counters_that_nobody_shows_are_zero_of_zero(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=40)
    world.scrape(begin + WIDTH)

    evidence = ask(world.metrics, begin + WIDTH, begin, objective=ORDERS)

    assert evidence.source.available
    assert evidence.candidate == evidence.stable == Counts()


# --- a service's own past -----------------------------------------------------------------------------------------


def test_the_services_own_day_before_a_rollout_is_asked_for_like_a_candidates(world: World, begin: datetime) -> None:
    now = begin + 8 * WIDTH
    for k in range(8):
        world.answered(MODEL, STABLE, begin + k * WIDTH, good=50, bad=k % 2)
    world.scrape(now)

    past = ask(world.metrics, now, now - timedelta(days=1), candidate=STABLE, stable=None)

    assert past.source.available, past.source.reason
    assert len(past.bins) == 5760
    assert [b.candidate for b in past.bins[-8:]] == [Counts(50 + k % 2, k % 2) for k in range(8)]
    assert past.stable == Counts()


def test_a_rollout_after_it_and_beside_it_is_answered_as_by_a_new_door(world: World, begin: datetime) -> None:
    """One that is asked for in the same look, and one whose window begins within the past that was asked for."""
    looks = []
    for k in range(6):
        world.answered(MODEL, STABLE, begin + k * WIDTH, good=50, bad=k % 2)
        world.answered(MODEL, CANDIDATE, begin + k * WIDTH, good=5)
        world.scrape(begin + (k + 1) * WIDTH)
        now = begin + (k + 1) * WIDTH
        ask(world.metrics, now, now - timedelta(hours=1), candidate=STABLE, stable=None)
        looks.append(ask(world.metrics, now, begin + 2 * WIDTH))

    afresh = ask(world.another_door(), now, begin + 2 * WIDTH)
    alone = ask(world.metrics, now, begin + 3 * WIDTH, candidate=STABLE, stable=None)

    assert looks[-1] == afresh
    assert len(afresh.bins) == 4
    assert [b.candidate for b in alone.bins] == [Counts(51, 1), Counts(50, 0), Counts(51, 1)]


def test_a_window_that_begins_earlier_than_the_one_before_is_answered_whole(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=5)
    world.answered(MODEL, CANDIDATE, begin + 3 * WIDTH, good=7)
    world.scrape(begin + 4 * WIDTH)
    late = ask(world.metrics, begin + 4 * WIDTH, begin + 2 * WIDTH)

    whole = ask(world.metrics, begin + 4 * WIDTH, begin)

    assert late.candidate == Counts(7, 0)
    assert [b.candidate for b in whole.bins] == [Counts(5, 0), Counts(), Counts(), Counts(7, 0)]


# --- guards -------------------------------------------------------------------------------------------------------


def request(candidate: Application = CANDIDATE, model: str = MODEL) -> EvidenceRequest:
    since = datetime(2026, 11, 23, tzinfo=UTC)
    return EvidenceRequest(model=model, candidate=candidate, stable=STABLE, objectives=(ERRORS,), since=since)


def test_a_guard_that_has_stopped_the_candidate_is_seen_with_its_counts(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, rescued=3)
    world.scrape(begin + WIDTH)
    before = world.metrics.trips([request()], begin + WIDTH)
    world.trip(MODEL, CANDIDATE, begin + WIDTH + SECOND, requests=7, bad=3)
    world.scrape(begin + 4 * WIDTH)

    after = world.metrics.trips([request()], begin + 4 * WIDTH)

    assert before == {}
    assert (after[MODEL].build, after[MODEL].hosts) == (CANDIDATE.build, 1)
    assert (after[MODEL].requests, after[MODEL].bad) == (7, 3)
    assert begin + WIDTH < after[MODEL].at <= begin + 2 * WIDTH


def test_a_trip_is_of_one_build_of_one_model(world: World, begin: datetime) -> None:
    rebuilt = Application(version=2, digest="sha256:" + "3" * 64)
    world.trip(MODEL, CANDIDATE, begin, requests=3, bad=3)
    world.scrape(begin + 2 * WIDTH)

    assert world.metrics.trips([request(rebuilt)], begin + 2 * WIDTH) == {}
    assert world.metrics.trips([request()], begin + 2 * WIDTH).keys() == {MODEL}


def test_a_guard_that_shows_nothing_any_more_has_let_go(world: World, begin: datetime) -> None:
    world.trip(MODEL, CANDIDATE, begin, requests=3, bad=3)
    world.scrape(begin + 2 * WIDTH)
    world.let_go(CANDIDATE)
    world.scrape(begin + 8 * WIDTH)

    assert world.metrics.trips([request()], begin + 8 * WIDTH) == {}


def test_a_backend_that_is_away_shows_no_trip(world: World, begin: datetime) -> None:
    world.trip(MODEL, CANDIDATE, begin, requests=3, bad=3)
    world.scrape(begin + 2 * WIDTH)
    world.go_away()
    away = world.metrics.trips([request()], begin + 2 * WIDTH)
    world.come_back()

    assert away == {}
    assert MODEL in world.metrics.trips([request()], begin + 2 * WIDTH)


# --- processes that come and go ---------------------------------------------------------------------------------


def test_a_restart_takes_nothing_back(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=100, bad=8)
    world.scrape(begin + WIDTH)
    world.restart_everything()
    world.answered(MODEL, CANDIDATE, begin + WIDTH + SECOND, good=30, bad=2)
    world.scrape(begin + 3 * WIDTH)

    evidence = ask(world.metrics, begin + 3 * WIDTH, begin)

    assert [b.candidate for b in evidence.bins] == [Counts(108, 8), Counts(32, 2), Counts()]


def test_a_restart_that_passes_its_old_count_is_told_by_its_neighbours(world: World, begin: datetime) -> None:
    """The errors alone (2, then 6) look like growth; the good answers of the same process fell."""
    world.answered(MODEL, CANDIDATE, begin, good=100, bad=2)
    world.scrape(begin + WIDTH)
    world.restart_everything()
    world.answered(MODEL, CANDIDATE, begin + WIDTH + SECOND, good=30, bad=6)
    world.scrape(begin + 2 * WIDTH)

    assert ask(world.metrics, begin + 2 * WIDTH, begin).candidate == Counts(138, 8)


def test_series_that_vanish_keep_what_they_gave_and_their_successors_count_from_zero(
    world: World, begin: datetime
) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=100, bad=4)
    world.scrape(begin + WIDTH)
    world.replace_everything()
    world.answered(MODEL, CANDIDATE, begin + 2 * WIDTH, good=200, bad=6)
    world.scrape(begin + 8 * WIDTH)

    assert ask(world.metrics, begin + 8 * WIDTH, begin).candidate == Counts(310, 10)


def test_a_latency_histogram_survives_a_restart(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10, latency_ms=5.0)
    world.answered(MODEL, CANDIDATE, begin, good=90, latency_ms=900.0)
    world.scrape(begin + WIDTH)
    world.restart_everything()
    world.answered(MODEL, CANDIDATE, begin + WIDTH, good=40, latency_ms=5.0)
    world.scrape(begin + 2 * WIDTH)

    evidence = ask(world.metrics, begin + 2 * WIDTH, begin, objective=LATENCY)

    assert [b.candidate for b in evidence.bins] == [Counts(100, 90), Counts(40, 0)]


# --- the present --------------------------------------------------------------------------------------------------


def test_the_bin_that_is_not_over_is_left_out(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10)
    world.scrape(begin + WIDTH)
    world.answered(MODEL, CANDIDATE, begin + WIDTH, bad=10)

    evidence = ask(world.metrics, begin + WIDTH + 14 * SECOND, begin)

    assert [b.candidate for b in evidence.bins] == [Counts(10, 0)]


def test_a_window_that_has_just_begun_has_no_bins(world: World, begin: datetime) -> None:
    world.scrape(begin + WIDTH)

    evidence = ask(world.metrics, begin + WIDTH + SECOND, begin + WIDTH + SECOND)

    assert evidence.source.available
    assert evidence.bins == ()


def test_baselines_are_read_also_when_the_first_look_came_before_the_window(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10, bad=10)
    world.scrape(begin + WIDTH)
    since = begin + WIDTH + SECOND
    assert ask(world.metrics, since, since).bins == ()
    world.answered(MODEL, CANDIDATE, begin + 2 * WIDTH, good=1)
    world.scrape(begin + 3 * WIDTH)

    assert ask(world.metrics, begin + 3 * WIDTH, since).candidate == Counts(1, 0)


def test_looking_often_gives_what_one_look_gives(world: World, begin: datetime) -> None:
    looks = []
    for k in range(12):
        world.answered(MODEL, CANDIDATE, begin + k * WIDTH, good=10 + k, bad=k % 3)
        world.answered(MODEL, STABLE, begin + k * WIDTH + SECOND, good=100)
        if k in (5, 8):
            world.restart_everything()
        world.scrape(begin + (k + 1) * WIDTH)
        looks.append(ask(world.metrics, begin + (k + 1) * WIDTH, begin))

    afresh = ask(world.another_door(), begin + 12 * WIDTH, begin)

    assert looks[-1] == afresh
    assert len(afresh.bins) == 12
    for earlier, later in itertools.pairwise(looks):
        assert later.bins[: len(earlier.bins)] == earlier.bins


def test_an_earlier_moment_is_answered_as_it_was_then(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10)
    world.answered(MODEL, CANDIDATE, begin + 2 * WIDTH, good=10)
    world.scrape(begin + WIDTH)
    then = ask(world.metrics, begin + WIDTH, begin)
    world.scrape(begin + 4 * WIDTH)
    ask(world.metrics, begin + 4 * WIDTH, begin)

    assert ask(world.metrics, begin + WIDTH, begin).bins == then.bins


def test_each_objective_of_each_model_is_answered_in_its_order(world: World, begin: datetime) -> None:
    if isinstance(world, PrometheusWorld):
        world.models = ["fraud", "churn"]
    world.answered("fraud", CANDIDATE, begin, good=9, bad=1, latency_ms=300.0)
    world.answered("churn", CANDIDATE, begin, good=20, latency_ms=5.0)
    world.scrape(begin + 2 * WIDTH)

    answers = world.metrics.evidence(
        [
            EvidenceRequest(
                model="fraud", candidate=CANDIDATE, stable=STABLE, objectives=(LATENCY, ERRORS), since=begin
            ),
            EvidenceRequest(model="churn", candidate=CANDIDATE, stable=None, objectives=(ERRORS, LATENCY), since=begin),
        ],
        begin + 2 * WIDTH,
    )

    assert [e.objective for e in answers["fraud"]] == [LATENCY, ERRORS]
    assert [e.candidate for e in answers["fraud"]] == [Counts(10, 10), Counts(10, 1)]
    assert [e.candidate for e in answers["churn"]] == [Counts(20, 0), Counts(20, 0)]


def test_asking_nothing_is_answered_by_nothing(world: World, begin: datetime) -> None:
    assert world.metrics.evidence([], begin) == {}


# --- outages: never bad, never good --------------------------------------------------------------------------------


def test_a_scrape_that_stopped_is_stale_after_four_intervals_whatever_prometheus_shows(
    world: World, begin: datetime
) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10)
    world.scrape(begin + 2 * WIDTH)

    fresh = ask(world.metrics, begin + 6 * WIDTH, begin)
    stale = ask(world.metrics, begin + 6 * WIDTH + SECOND, begin)

    assert fresh.source.available
    assert fresh.source.age == 4 * WIDTH
    assert fresh.candidate == Counts(10, 0)
    assert not stale.source.available
    assert "stale" in stale.source.reason
    assert "61 s" in stale.source.reason
    assert stale.source.age == 61 * SECOND
    assert stale.bins == ()


def test_nothing_is_lost_by_an_outage_of_the_scrape(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10)
    world.scrape(begin + WIDTH)
    assert not ask(world.metrics, begin + 8 * WIDTH, begin).source.available
    world.answered(MODEL, CANDIDATE, begin + WIDTH, good=90, bad=5)
    world.scrape(begin + 10 * WIDTH)

    evidence = ask(world.metrics, begin + 10 * WIDTH, begin)

    assert evidence.source.available
    assert evidence.candidate == Counts(105, 5)


def test_a_backend_that_is_away_is_unavailable_and_goes_on_when_it_returns(world: World, begin: datetime) -> None:
    world.answered(MODEL, CANDIDATE, begin, good=10, bad=3)
    world.scrape(begin + 2 * WIDTH)
    world.go_away()
    away = ask(world.metrics, begin + 2 * WIDTH, begin)
    world.come_back()

    assert not away.source.available
    assert "cannot be reached" in away.source.reason
    assert away.bins == ()
    assert away.objective == ERRORS
    assert ask(world.metrics, begin + 2 * WIDTH, begin).candidate == Counts(13, 3)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_nan_and_infinity_are_unavailable_for_that_model_alone(
    world: World, begin: datetime, value: float, word: str
) -> None:
    if isinstance(world, PrometheusWorld):
        world.models = ["fraud", "churn"]
    world.answered("fraud", CANDIDATE, begin, good=10)
    world.answered("churn", CANDIDATE, begin, good=20)
    world.scrape(begin + WIDTH)
    world.spoil("fraud", CANDIDATE, value)
    world.scrape(begin + 2 * WIDTH)
    requests = [
        EvidenceRequest(model=m, candidate=CANDIDATE, stable=STABLE, objectives=(ERRORS,), since=begin)
        for m in ("fraud", "churn")
    ]

    answers = world.metrics.evidence(requests, begin + 2 * WIDTH)

    assert not answers["fraud"][0].source.available
    assert word in answers["fraud"][0].source.reason
    assert answers["churn"][0].source.available
    assert answers["churn"][0].candidate == Counts(20, 0)
    again = world.metrics.evidence(requests, begin + 2 * WIDTH)
    assert not again["fraud"][0].source.available, "it does not heal by being looked at"


def test_the_query_that_was_asked_is_part_of_the_evidence(world: World, begin: datetime) -> None:
    world.scrape(begin + WIDTH)

    assert MODEL in ask(world.metrics, begin + WIDTH, begin).source.query
