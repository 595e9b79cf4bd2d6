"""From samples to counts: for every history of processes, what was counted and scraped is what comes out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.counters import Role, Series, Unusable, milliseconds, moment
from policies.counting import Indicator, Ledger, first_edge, last_edge
from policies.evidence import Bin, Counts, Discordant, Sli

WIDTH_MS = 15_000
CANDIDATE, STABLE = ("2", "bbbbbbbb"), ("1", "aaaaaaaa")
ERRORS = Indicator(sli=Sli.ERRORS)
EMPTY = Ledger(candidate=CANDIDATE, stable=STABLE, indicator=ERRORS, width_ms=WIDTH_MS, upto_ms=0)


def labels(process: str, outcome: str, version: tuple[str, str] = CANDIDATE, instance: str = "a") -> dict[str, str]:
    return {
        "model": "fraud",
        "version": version[0],
        "build": version[1],
        "outcome": outcome,
        "WorkerId": process,
        "instance": instance,
    }


def at(seconds: float, value: float) -> tuple[int, float]:
    return round(seconds * 1000), value


def good(*samples: tuple[int, float], process: str = "w1", instance: str = "a") -> Series:
    return Series(labels(process, "good", instance=instance), samples)


def bad(*samples: tuple[int, float], process: str = "w1") -> Series:
    return Series(labels(process, "bad"), samples)


def entered(*series: Series, ledger: Ledger = EMPTY, until_s: int = 60) -> Ledger:
    found = ledger.entered(series, until_s * 1000)
    assert isinstance(found, Ledger), found
    return found


def candidate(ledger: Ledger) -> list[Counts]:
    return [b.candidate for b in ledger.bins]


# --- edges ----------------------------------------------------------------------------------------------------


def test_edges_are_multiples_of_the_width_on_the_clock() -> None:
    width = timedelta(seconds=15)
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)

    assert moment(first_edge(noon, width)) == noon
    assert moment(first_edge(noon + timedelta(milliseconds=1), width)) == noon + width
    assert moment(last_edge(noon + width - timedelta(milliseconds=1), width)) == noon


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.integers(1000, 3_600_000))  # noqa: DTZ001 made aware below
def test_an_edge_is_never_on_the_wrong_side(naive: datetime, width_ms: int) -> None:
    when, width = naive.replace(tzinfo=UTC), timedelta(milliseconds=width_ms)

    assert last_edge(when, width) <= milliseconds(when) <= first_edge(when, width) <= last_edge(when, width) + width_ms


def test_a_sample_belongs_to_the_bin_that_ends_with_it() -> None:
    ledger = entered(good(at(15, 4), at(15.001, 5), at(60, 6)))

    assert candidate(ledger) == [Counts(4, 0), Counts(1, 0), Counts(), Counts(1, 0)]


# --- restarts, newcomers, the vanished ----------------------------------------------------------------------------


def test_a_counter_that_existed_before_has_its_baseline_at_the_start() -> None:
    ledger = dataclasses.replace(EMPTY, upto_ms=30_000)
    opened = ledger.opened([good(at(14, 90), at(29, 100))])

    assert candidate(entered(good(at(44, 103)), ledger=opened)) == [Counts(3, 0), Counts()]


def test_a_fall_is_a_restart_from_zero() -> None:
    assert candidate(entered(good(at(10, 50), at(25, 3), at(40, 4)))) == [
        Counts(50, 0),
        Counts(3, 0),
        Counts(1, 0),
        Counts(),
    ]


def test_counters_of_one_process_restart_together_and_others_do_not() -> None:
    ledger = entered(
        good(at(10, 50), at(25, 3)),
        bad(at(10, 2), at(25, 6)),
        bad(at(10, 2), at(25, 6), process="w2"),
        good(at(10, 1), at(25, 2), process="w2"),
    )

    assert candidate(ledger)[:2] == [Counts(55, 4), Counts(3 + 6 + 1 + 4, 6 + 4)]


def test_a_restart_is_remembered_for_counters_that_come_back_later() -> None:
    history = (good(at(10, 50), at(25, 3), at(40, 3)), bad(at(10, 2), at(40, 6)))
    whole = entered(*history)
    first = entered(*history, until_s=30)

    assert candidate(whole)[2] == Counts(6, 6)
    assert entered(*history, ledger=first) == whole


def test_an_exporter_under_a_new_address_goes_on_with_the_same_counters() -> None:
    moved = entered(good(at(10, 50)), good(at(25, 60), instance="b"))

    assert candidate(moved)[:2] == [Counts(50, 0), Counts(10, 0)]


def test_a_process_that_is_scraped_at_two_places_is_ambiguous() -> None:
    here = good(at(10, 50), at(25, 60), at(40, 70))
    there = good(at(12, 50), at(27, 60), at(42, 70), instance="federated")

    found = EMPTY.entered([here, there], 60_000)

    assert isinstance(found, Unusable)
    assert "ambiguous" in found.reason
    assert "federated" in found.reason


def test_two_places_are_ambiguous_also_when_each_look_sees_one_scrape() -> None:
    here = good(at(10, 50), at(25, 60), at(40, 70))
    there = good(at(12, 50), at(27, 60), at(42, 70), instance="federated")
    first = entered(here, there, until_s=15)

    assert isinstance(first.entered([here, there], 30_000), Unusable)


def test_series_without_process_labels_are_known_by_all_their_labels() -> None:
    plain = {n: v for n, v in labels("", "good").items() if n != "WorkerId"}
    ledger = entered(
        Series({**plain, "instance": "a"}, [at(10, 5), at(25, 6)]),
        Series({**plain, "instance": "b"}, [at(12, 7), at(27, 9)]),
    )

    assert candidate(ledger)[:2] == [Counts(12, 0), Counts(3, 0)]


def test_other_versions_and_a_clients_errors_are_left_out() -> None:
    ledger = entered(
        good(at(10, 5)),
        Series(labels("w1", "client_error"), [at(10, 9)]),
        Series(labels("w1", "good", ("3", "cccccccc")), [at(10, 9)]),
        Series(labels("w1", "bad", STABLE), [at(10, 9)]),
    )

    assert candidate(ledger)[0] == Counts(5, 0)
    assert ledger.bins[0].stable == Counts(9, 9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1.0])
def test_what_cannot_be_a_count_is_unusable(value: float) -> None:
    found = EMPTY.entered([good(at(10, 5), at(25, value))], 60_000)

    assert isinstance(found, Unusable)
    assert "version 2" in found.reason
    assert f"{value:g}" in found.reason


def test_a_baseline_that_cannot_be_a_count_is_unusable_too() -> None:
    opened = dataclasses.replace(EMPTY, upto_ms=15_000).opened([good(at(10, float("nan")))])

    assert isinstance(opened.entered([good(at(25, 5))], 60_000), Unusable)


# --- histograms ---------------------------------------------------------------------------------------------------

LATENCY = dataclasses.replace(EMPTY, indicator=Indicator(sli=Sli.LATENCY, edge=200.0))


def bucket(edge: str, *samples: tuple[int, float]) -> Series:
    return Series({**labels("w1", ""), "le": edge}, samples)


def count(*samples: tuple[int, float]) -> Series:
    return Series(labels("w1", ""), samples)


@pytest.mark.parametrize("written", ["200", "200.0", "2e+02"])
def test_a_bucket_is_found_however_its_edge_is_written(written: str) -> None:
    ledger = entered(count(at(10, 10), at(25, 30)), bucket(written, at(10, 8), at(25, 27)), ledger=LATENCY)

    assert candidate(ledger)[:2] == [Counts(10, 2), Counts(20, 1)]


def test_a_threshold_that_is_no_bucket_edge_is_unusable_and_never_all_bad() -> None:
    found = LATENCY.entered([count(at(10, 10)), bucket("300", at(10, 10))], 60_000)

    assert isinstance(found, Unusable)
    assert "200 ms" in found.reason


def test_a_histogram_that_contradicts_itself_is_unusable() -> None:
    found = LATENCY.entered([count(at(10, 10)), bucket("200", at(10, 11))], 60_000)

    assert isinstance(found, Unusable)
    assert "contradict" in found.reason


# --- rescues, pairs, agreement ----------------------------------------------------------------------------------


def told(outcome: str, *samples: tuple[int, float], version: tuple[str, str] = CANDIDATE) -> Series:
    return Series(labels("w1", outcome, version), samples)


def test_a_rescued_answer_is_bad_and_told() -> None:
    ledger = entered(good(at(10, 5)), told("rescued", at(10, 2), at(25, 3)), bad(at(25, 1)))

    assert candidate(ledger)[:2] == [Counts(7, 2), Counts(2, 2)]
    assert [b.rescued for b in ledger.bins] == [2, 1, 0, 0]


def test_pairs_are_the_candidates_and_none_where_there_were_none() -> None:
    ledger = entered(
        told("good_good", at(10, 90), at(25, 95)),
        told("bad_good", at(10, 4)),
        told("good_bad", at(10, 2)),
        told("bad_bad", at(40, 1)),
        told("bad_good", at(55, 9), version=STABLE),  # of its own rollout
    )

    assert [b.pairs for b in ledger.bins] == [Discordant(4, 2), Discordant(), Discordant(), None]
    assert candidate(ledger) == [Counts()] * 4


def test_agreement_is_a_pair_of_counts() -> None:
    ledger = entered(
        good(at(10, 9)), bad(at(10, 1)), ledger=dataclasses.replace(EMPTY, indicator=Indicator(sli=Sli.AGREEMENT))
    )

    assert ledger.bins[0] == Bin(moment(0), Counts(10, 1), Counts())


# --- a document's own queries -----------------------------------------------------------------------------------

QUERIES = dataclasses.replace(EMPTY, indicator=Indicator(sli=Sli.QUERIES))
ESTIMATES = dataclasses.replace(EMPTY, indicator=Indicator(sli=Sli.QUERIES, estimated=True))


def own(role: Role, *samples: tuple[int, float], version: str = "2", **more: str) -> Series:
    return Series({"model": "fraud", "version": version, **more}, samples, role)


def test_series_of_one_process_that_differ_in_any_label_are_different_counters() -> None:
    ledger = entered(
        own(Role.TOTAL, at(10, 5), at(25, 7), WorkerId="w1", route="/a"),
        own(Role.TOTAL, at(10, 6), at(25, 6), WorkerId="w1", route="/b"),
        own(Role.BAD, at(25, 1), WorkerId="w1", route="/a"),
        ledger=QUERIES,
    )

    assert candidate(ledger)[:2] == [Counts(11, 0), Counts(2, 1)]


def test_a_process_scraped_under_a_new_address_goes_on_counting_for_a_document_too() -> None:
    ledger = entered(
        own(Role.TOTAL, at(10, 50), WorkerId="w1", instance="a", pod="x"),
        own(Role.TOTAL, at(25, 60), WorkerId="w1", instance="b", pod="y"),
        ledger=QUERIES,
    )

    assert candidate(ledger)[:2] == [Counts(50, 0), Counts(10, 0)]


def test_what_is_not_said_to_be_good_is_bad() -> None:
    ledger = entered(own(Role.UNPROVED, at(10, 50)), own(Role.GOOD, at(10, 48)), ledger=QUERIES)

    assert candidate(ledger)[0] == Counts(50, 2)


def test_no_good_series_of_any_version_is_unusable_and_one_of_stable_is_enough() -> None:
    assert isinstance(QUERIES.entered([own(Role.UNPROVED, at(10, 50))], 60_000), Unusable)
    stable = (own(Role.UNPROVED, at(10, 9), version="1"), own(Role.GOOD, at(10, 9), version="1"))
    known = entered(own(Role.UNPROVED, at(10, 50)), *stable, ledger=QUERIES)
    assert candidate(known)[0] == Counts(50, 50)


def test_what_is_no_number_is_no_data_for_a_document() -> None:
    nan = float("nan")
    assert candidate(entered(own(Role.TOTAL, at(10, nan), at(25, 4), at(40, nan)), ledger=QUERIES)) == [
        Counts(),
        Counts(4, 0),
        Counts(),
        Counts(),
    ]
    assert candidate(entered(own(Role.TOTAL, at(15, nan)), ledger=ESTIMATES)) == [Counts()] * 4


def test_good_counters_that_end_while_their_process_goes_on_are_stale_and_not_all_bad() -> None:
    total, good_ = own(Role.UNPROVED, at(10, 50), at(25, 60)), own(Role.GOOD, at(10, 50))
    found = QUERIES.entered([total, good_], 60_000)
    gone = QUERIES.entered([own(Role.UNPROVED, at(10, 50)), good_, own(Role.UNPROVED, at(40, 9), pod="b")], 60_000)

    assert isinstance(found, Unusable)
    assert "stale: of good events of version 2 there is nothing since 00:00:10" in found.reason
    assert isinstance(gone, Ledger), "another process begins with what is bad"
    assert candidate(gone)[2] == Counts(9, 9)


def test_an_estimate_of_good_that_ends_while_stable_has_events_is_stale_and_not_all_bad() -> None:
    stable = own(Role.UNPROVED, at(15, 50), at(30, 50), version="1")
    found = ESTIMATES.entered([stable, own(Role.GOOD, at(15, 50), version="1")], 60_000)
    alone = ESTIMATES.entered([stable, own(Role.GOOD, at(15, 50), at(30, 0), version="1")], 60_000)

    assert isinstance(found, Unusable)
    assert "stale" in found.reason
    assert isinstance(alone, Ledger), "zero is said, and is no silence"
    assert alone.bins[1].stable == Counts(50, 50)


def test_two_builds_of_one_version_are_told_by_their_build_or_not_at_all() -> None:
    rebuilt = dataclasses.replace(QUERIES, stable=("2", "aaaaaaaa"))
    apart = entered(
        own(Role.TOTAL, at(10, 5), build="bbbbbbbb"), own(Role.TOTAL, at(10, 6), build="aaaaaaaa"), ledger=rebuilt
    )
    mixed = rebuilt.entered([own(Role.TOTAL, at(10, 5))], 60_000)

    assert (apart.bins[0].candidate, apart.bins[0].stable) == (Counts(5, 0), Counts(6, 0))
    assert isinstance(mixed, Unusable)
    assert "no label build" in mixed.reason


def test_estimates_are_what_happened_in_the_bin_that_ends_with_them() -> None:
    ledger = entered(own(Role.TOTAL, at(15, 5.5), at(45, 4)), own(Role.BAD, at(45, 1)), ledger=ESTIMATES)

    assert candidate(ledger) == [Counts(5.5, 0), Counts(), Counts(4, 1), Counts()]
    assert entered(own(Role.TOTAL, at(75, 3)), ledger=ledger, until_s=75).bins[-1].candidate == Counts(3, 0)


@pytest.mark.parametrize(
    ("some", "words"),
    [
        ([own(Role.TOTAL, at(15, float("inf")))], "is inf"),
        ([own(Role.TOTAL, at(15, -1))], "is -1"),
        ([own(Role.TOTAL, at(15, 1), path="a"), own(Role.TOTAL, at(15, 1), path="b")], "several series"),
        ([own(Role.TOTAL, at(15, 100)), own(Role.BAD, at(15, 106))], "contradict"),
    ],
)
def test_estimates_that_cannot_be_counts_are_unusable(some: list[Series], words: str) -> None:
    found = ESTIMATES.entered(some, 60_000)

    assert isinstance(found, Unusable)
    assert words in found.reason


def test_estimates_may_be_off_by_a_little() -> None:
    ledger = entered(own(Role.UNPROVED, at(15, 10)), own(Role.GOOD, at(15, 10.4)), ledger=ESTIMATES)

    assert ledger.bins[0].candidate == Counts(10, 0)


def test_a_bucket_without_its_like_is_unusable() -> None:
    buckets = dataclasses.replace(EMPTY, indicator=Indicator(sli=Sli.QUERIES, of_buckets=True))
    whole = entered(own(Role.UNPROVED, at(10, 9), le="+Inf"), own(Role.GOOD, at(10, 7), le="0.5"), ledger=buckets)

    assert candidate(whole)[0] == Counts(9, 2)
    assert isinstance(buckets.entered([own(Role.UNPROVED, at(10, 9), le="+Inf")], 60_000), Unusable)


def test_a_ledger_lets_go_of_bins_before_an_edge_and_goes_on_the_same() -> None:
    history = (good(at(10, 5), at(25, 7), at(40, 9), at(70, 12)),)
    whole, short = entered(*history, until_s=75), entered(*history).from_edge(30_000)

    assert short.first_ms == 30_000
    assert entered(*history, ledger=short, until_s=75).bins == whole.bins[2:]


# --- for every history --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Process:
    """A process that counts; `name` lasts as long as it is not replaced."""

    name: str
    counted: dict[str, int] = dataclasses.field(default_factory=dict)
    scraped: dict[str, int] = dataclasses.field(default_factory=dict)


PROCESS = st.integers(0, 2)
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.tuples(PROCESS, st.sampled_from(["good", "bad"]), st.integers(1, 50))),
        st.tuples(st.just("scrape"), st.tuples(st.integers(1, 40))),
        st.tuples(st.just("restart"), st.tuples(PROCESS)),
        st.tuples(st.just("replace"), st.tuples(PROCESS)),
    ),
    max_size=60,
)


class Story:
    """Lives through happenings and keeps what Prometheus has, and the truth: what was counted and scraped."""

    def __init__(self) -> None:
        self.processes = [Process(f"w{i}") for i in range(3)]
        self.samples: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self.truth = Counts()
        self.now_s = 0
        self.names = (f"w{i}" for i in itertools.count(3))

    def count(self, i: int, outcome: str, n: int) -> None:
        counted = self.processes[i].counted
        counted[outcome] = counted.get(outcome, 0) + n

    def scrape(self, seconds: int) -> None:
        self.now_s += seconds
        for process in self.processes:
            for outcome, value in process.counted.items():
                new = value - process.scraped.get(outcome, 0)
                self.truth += Counts(new, new if outcome == "bad" else 0)
                self.samples.setdefault((process.name, outcome), []).append((self.now_s * 1000, float(value)))
            process.scraped = dict(process.counted)

    def restart(self, i: int) -> None:
        self.processes[i].counted = dict.fromkeys(self.processes[i].counted, 0)
        self.processes[i].scraped = {}

    def replace(self, i: int) -> None:
        self.processes[i] = Process(next(self.names))


def tell(happenings: list[tuple[str, tuple[Any, ...]]], *, hidden_restarts: bool) -> tuple[list[Series], Counts, int]:
    """Returns what Prometheus has, what was counted and scraped, and when it ended (seconds).

    Without `hidden_restarts`, a restarted process is scraped before it has counted anything again.
    """
    story = Story()
    for what, arguments in happenings:
        getattr(story, what)(*arguments)
        if what == "restart" and not hidden_restarts:
            story.scrape(1)
    return [Series(labels(n, o), s) for (n, o), s in story.samples.items()], story.truth, story.now_s


def ended(seconds: int) -> int:
    return -(-seconds * 1000 // WIDTH_MS) * WIDTH_MS


def total(ledger: Ledger) -> Counts:
    return sum((b.candidate for b in ledger.bins), Counts())


@given(HAPPENINGS)
def test_the_sum_is_what_was_counted_and_scraped(happenings: list[tuple[str, tuple[Any, ...]]]) -> None:
    series, truth, now_s = tell(happenings, hidden_restarts=False)

    assert total(entered(*series, until_s=ended(now_s) // 1000)) == truth


@given(HAPPENINGS)
def test_a_restart_nobody_could_see_hides_counts_and_invents_none(
    happenings: list[tuple[str, tuple[Any, ...]]],
) -> None:
    series, truth, now_s = tell(happenings, hidden_restarts=True)

    counted = total(entered(*series, until_s=ended(now_s) // 1000))

    assert 0 <= counted.total <= truth.total
    assert 0 <= counted.bad <= truth.bad


@given(HAPPENINGS, st.lists(st.integers(1, 60), max_size=8))
def test_entering_in_pieces_gives_what_entering_at_once_gives(
    happenings: list[tuple[str, tuple[Any, ...]]], cuts: list[int]
) -> None:
    series, _, now_s = tell(happenings, hidden_restarts=True)
    end_ms = ended(now_s)

    ledger = EMPTY
    for cut_ms in [*(c * WIDTH_MS for c in sorted(set(cuts)) if c * WIDTH_MS < end_ms), end_ms]:
        ledger = entered(*series, ledger=ledger, until_s=cut_ms // 1000)

    assert ledger.bins == entered(*series, until_s=end_ms // 1000).bins


@given(HAPPENINGS, st.integers(0, 40))
def test_what_was_counted_before_the_window_is_the_difference(
    happenings: list[tuple[str, tuple[Any, ...]]], bins: int
) -> None:
    series, _, now_s = tell(happenings, hidden_restarts=True)
    end_ms = ended(now_s)
    start_ms = min(bins * WIDTH_MS, end_ms)

    whole = entered(*series, until_s=end_ms // 1000)
    window = entered(
        *series, ledger=dataclasses.replace(EMPTY, upto_ms=start_ms).opened(series), until_s=end_ms // 1000
    )

    skipped: Mapping[datetime, object] = {b.start: b for b in whole.bins[: start_ms // WIDTH_MS]}
    assert total(window) == total(
        dataclasses.replace(whole, bins=tuple(b for b in whole.bins if b.start not in skipped))
    )
