"""What is recorded of a rollout: its looks, its bins, and what they are good for when Prometheus forgets."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policies.errors import BadInput
from policies.evidence import Bin, Counts, Discordant, Evidence, Objective, Sli, Source
from policies.facts import Noticed, Signal
from policies.judge import states
from policies.layout import Place, locate, record_path
from policies.record import (
    MOST_CHARACTERS,
    MOST_LOOKS,
    SLUICEGATE,
    continued,
    evidence_with,
    fitted,
    looked,
    recorded_evidence,
)
from policies.release import Ask, Cause, CauseKind, Phase, Wish
from policies.rollout_record import LookRecord, Record
from policies.stored_documents import parse_record, plain, record_text
from policies.verdict import Measure, Verdict, VerdictKind
from tests.unit.releases import ERRORS, LATENCY, NOW, POLICY, observed, rolling, steady

WIDTH = timedelta(seconds=15)
START = NOW - timedelta(hours=8)


def bins(n: int, *, since: datetime = START, total: float = 150, bad: float = 0) -> tuple[Bin, ...]:
    return tuple(Bin(since + i * WIDTH, Counts(total, bad), Counts(2 * total, bad)) for i in range(n))


def counted(*some: Bin, objective: Objective = ERRORS, reason: str = "") -> Evidence:
    source = Source(available=not reason, query="sum(x)", reason=reason, age=timedelta(seconds=5))
    return Evidence(objective=objective, width=WIDTH, bins=some, source=source)


def recorded(*some: Bin, objective: Objective = ERRORS) -> Record:
    return Record(rollout="r1", evidence=continued((), (counted(*some, objective=objective),)))


def back(record: Record) -> tuple[Bin, ...]:
    (evidence,) = recorded_evidence(record)
    return evidence.bins


# --- bins -----------------------------------------------------------------------------------------------------


def test_what_was_recorded_can_be_judged_again_bin_by_bin() -> None:
    shadow = Bin(START, Counts(150, 1), Counts(150, 0), rescued=1.0, pairs=Discordant(1, 0))
    canary = Bin(START + WIDTH, Counts(15, 0), Counts(135, 1), rescued=0.0)
    latency = counted(*bins(2), objective=LATENCY)
    record = Record(rollout="r1", evidence=continued((), (counted(shadow, canary), latency)))
    again = recorded_evidence(parse_record(record_text(record)))
    assert [e.bins for e in again] == [(shadow, canary), latency.bins]
    assert [e.objective for e in again] == [ERRORS, LATENCY]
    assert [e.width for e in again] == [WIDTH, WIDTH]


def test_new_bins_are_added_behind_the_recorded_ones() -> None:
    record = recorded(*bins(4))
    assert continued(record.evidence, (counted(*bins(7)),)) == recorded(*bins(7)).evidence


def test_recorded_bins_win() -> None:
    record = recorded(*bins(4))
    changed = (*bins(4, total=1), *bins(2, since=START + 4 * WIDTH))
    assert continued(record.evidence, (counted(*changed),)) == recorded(*bins(6)).evidence


def test_a_gap_is_filled_with_bins_in_which_nothing_was_counted() -> None:
    record = recorded(*bins(2))
    later = bins(1, since=START + 5 * WIDTH)
    found = back(dataclasses.replace(record, evidence=continued(record.evidence, (counted(*later),))))
    assert [b.start for b in found] == [START + i * WIDTH for i in range(6)]
    assert [b.candidate.total for b in found] == [150, 150, 0, 0, 0, 150]


@pytest.mark.parametrize(
    "changed",
    [
        counted(*bins(3), objective=dataclasses.replace(ERRORS, target=0.999)),
        counted(*bins(3), objective=dataclasses.replace(ERRORS, window=timedelta(days=7))),
        dataclasses.replace(counted(*bins(3)), width=timedelta(seconds=30)),
    ],
)
def test_an_objective_that_changed_starts_anew(changed: Evidence) -> None:
    assert continued(recorded(*bins(9)).evidence, (changed,)) == continued((), (changed,))


def test_a_latency_with_another_threshold_starts_anew() -> None:
    slower = dataclasses.replace(LATENCY, threshold_ms=500)
    record = recorded(*bins(9), objective=LATENCY)
    assert continued(record.evidence, (counted(*bins(3), objective=slower),))[0].threshold_ms == 500


def test_no_evidence_and_evidence_that_is_away_change_nothing() -> None:
    record = recorded(*bins(4))
    assert continued(record.evidence, ()) == record.evidence
    assert continued(record.evidence, (counted(reason="away"),)) == record.evidence


@pytest.mark.parametrize("count", [math.nan, math.inf, -1.0, 1e13])
def test_what_is_no_count_ends_what_is_recorded(count: float) -> None:
    strange = Bin(START + 2 * WIDTH, Counts(count, 0), Counts(1, 0))
    assert back(recorded(*bins(2), strange, *bins(3, since=START + 3 * WIDTH))) == bins(2)


# --- the file -------------------------------------------------------------------------------------------------


def test_a_record_lies_beside_its_release() -> None:
    path = record_path("production", "fraud")
    assert path == "environments/production/records/fraud.json"
    located = locate(path)
    assert located is not None
    assert (located.place, located.environment, located.slug) == (Place.RECORD, "production", "fraud")


def test_where_the_tests_stood_is_kept_and_read_back() -> None:
    record = dataclasses.replace(
        recorded(*bins(40, bad=1)), state=states((counted(*bins(40, bad=1)),), POLICY, now=NOW)
    )
    assert len(record.state) == 1
    assert parse_record(record_text(record)) == record


def test_a_list_of_bins_is_one_line_of_whole_numbers() -> None:
    text = record_text(recorded(*bins(3)))
    assert '      "candidate": [[150,0],[150,0],[150,0]],\n' in text
    assert json.loads(text)["evidence"][0]["stable"] == [[300, 0]] * 3


def test_the_same_record_is_the_same_bytes() -> None:
    record = recorded(*bins(3))
    assert record_text(parse_record(record_text(record))) == record_text(record)


def test_eight_hours_of_two_objectives_are_well_under_300_kb() -> None:
    full = tuple(
        Bin(b.start, Counts(1234, 3), Counts(4321, 12), rescued=3.0, pairs=Discordant(2, 1)) for b in bins(8 * 240)
    )
    both = (counted(*full), counted(*full, objective=LATENCY))
    assert len(record_text(Record(rollout="r1", evidence=continued((), both)))) < 150_000


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stable": [[1, 0]]}, "differ in length"),
        ({"pairs": [[1], [], []]}, "a pair of errors is two counts"),
        ({"width_s": 0}, "greater than 0"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_record_that_a_person_broke_is_refused_with_what_is_wrong(wrong: dict[str, Any], says: str) -> None:
    data = json.loads(record_text(recorded(*bins(3))))
    data["evidence"][0].update(wrong)
    with pytest.raises(BadInput, match=says):
        parse_record(json.dumps(data), "environments/production/records/fraud.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidate": ((math.nan, 0.0),)},
        {"candidate": ((1e308, 0.0),)},
        {"stable": ((math.inf, 0.0),)},
        {"rescued": (-1.0,)},
        {"since": datetime(1, 1, 1, tzinfo=UTC)},
        {"since": datetime(9999, 12, 31, tzinfo=UTC)},
        {"window_s": 1e300},
        {"width_s": 1e9},
    ],
)
def test_bins_that_nobody_can_count_with_are_refused_when_they_are_read(wrong: dict[str, Any]) -> None:
    """A person's edit of a record must not end the loop at every look: the record begins anew."""
    (part,) = recorded(*bins(1)).evidence
    with pytest.raises(ValueError, match=r"no count|outside of what can be counted"):
        dataclasses.replace(part, **wrong)


def test_a_figure_that_is_no_number_is_refused_with_its_file() -> None:
    text = record_text(recorded(*bins(1))).replace("150", "NaN")
    with pytest.raises(BadInput, match=r"r\.json: not the JSON of a Record: NaN is no number"):
        parse_record(text, "r.json")


def test_behind_a_gap_of_days_a_record_starts_anew() -> None:
    record = recorded(*bins(2))
    later = bins(1, since=START + timedelta(days=30))
    (found,) = continued(record.evidence, (counted(*later),))
    assert (found.since, len(found.candidate)) == (later[0].start, 1)


def test_what_is_no_json_is_refused_by_its_path() -> None:
    with pytest.raises(BadInput, match=r"records/fraud\.json: not the JSON of a Record"):
        parse_record("{", "records/fraud.json")


# --- a record that stays small --------------------------------------------------------------------------------


def look(at: datetime, words: int = 1) -> LookRecord:
    measure = Measure(objective="errors", sli=Sli.ERRORS, allowed=0.01, query="q" * 300, candidate_total=9, rate=0.0)
    return LookRecord(
        at=at,
        signal="LIVE",
        phase=Phase.CANARY,
        following=Phase.CANARY,
        weight_percent=10,
        actor=SLUICEGATE,
        tip="c" * 40,
        reasons=("why " * words,),
        measures=(measure,),
    )


def test_a_record_of_weeks_gets_coarser_from_its_beginning_and_loses_no_request() -> None:
    weeks = bins(60_000, since=NOW - 60_000 * WIDTH, total=1234, bad=5)
    record = recorded(*weeks)
    assert len(record_text(record)) > MOST_CHARACTERS
    small = fitted(record)
    assert len(record_text(small)) <= MOST_CHARACTERS
    (evidence,) = recorded_evidence(small)
    assert evidence.width == WIDTH
    assert evidence.candidate == counted(*weeks).candidate
    assert evidence.bins[-1000:] == weeks[-1000:]
    widths = [part.width_s for part in small.evidence]
    assert widths == sorted(widths, reverse=True)
    assert [part.until for part in small.evidence[:-1]] == [part.since for part in small.evidence[1:]]


def test_a_coarse_record_goes_on_with_fine_bins() -> None:
    weeks = bins(60_000, since=NOW - 60_000 * WIDTH, total=1234, bad=5)
    small = fitted(recorded(*weeks))
    more = continued(small.evidence, (counted(*weeks, *bins(3, since=NOW)),))
    assert more[:-1] == small.evidence[:-1]
    assert more[-1].until == NOW + 3 * WIDTH


def test_pairs_and_rescues_are_known_of_a_coarse_bin_only_where_they_were_of_all() -> None:
    known = [Bin(b.start, b.candidate, b.stable, rescued=1.0, pairs=Discordant(1, 0)) for b in bins(30_000, bad=1)]
    unknown = bins(30_000, since=START + 30_000 * WIDTH)
    small = fitted(recorded(*known, *unknown))
    coarse = back(small)[0]
    merged = round(coarse.candidate.total / 150)
    assert merged >= 4
    assert (coarse.rescued, coarse.pairs) == (merged, Discordant(merged, 0))
    assert back(small)[-1].pairs is None


def test_a_record_of_too_many_looks_keeps_the_first_and_the_last_and_the_newest_figures() -> None:
    looks = tuple(look(NOW + i * WIDTH, words=600) for i in range(1000))
    small = fitted(Record(rollout="r1", looks=looks))
    assert len(record_text(small)) <= MOST_CHARACTERS
    assert len(small.looks) == MOST_LOOKS
    assert small.looks[0].at == looks[0].at
    assert small.looks[-1] == looks[-1]
    assert not small.looks[0].measures


# --- looks ----------------------------------------------------------------------------------------------------

PASSED = Verdict(
    kind=VerdictKind.PASS,
    reasons=("errors: 0 bad of 2,000",),
    measures=(Measure(objective="errors", sli=Sli.ERRORS, allowed=0.01, query="sum(x)", rate=0.0, harm_slo=-math.inf),),
    mean_harm=-0.5,
)


def test_a_look_says_what_was_noticed_what_followed_and_why_with_its_figures() -> None:
    before, after = rolling(Phase.SHADOW), rolling(Phase.CANARY, weight=10)
    noticed = Noticed(signal=Signal.PASSED, reasons=PASSED.reasons, verdict=PASSED.kind, judged=PASSED)
    seen = observed(evidence=(counted(*bins(3)),), tip="a" * 40)
    record = looked(before, after, noticed, observed=seen, policy=POLICY, now=NOW)
    (found,) = record.looks
    assert record.rollout == "r1"
    assert record.policy == plain(POLICY)
    assert back(record) == bins(3)
    assert (found.signal, found.phase, found.following) == ("PASSED", Phase.SHADOW, Phase.CANARY)
    assert (found.weight_percent, found.actor, found.tip) == (10, SLUICEGATE, "a" * 40)
    assert (found.verdict, found.mean_harm, found.reasons) == (VerdictKind.PASS, -0.5, PASSED.reasons)
    assert found.measures[0].query == "sum(x)"


def test_a_figure_that_no_json_could_hold_is_none() -> None:
    noticed = Noticed(signal=Signal.PASSED, judged=PASSED)
    record = looked(rolling(Phase.SHADOW), rolling(Phase.CANARY), noticed, observed=observed(), policy=POLICY, now=NOW)
    assert record.looks[0].measures[0].harm_slo is None
    assert parse_record(record_text(record)) == record


def test_a_look_for_a_person_names_them_and_their_wish() -> None:
    ask = Ask(wish=Wish.PAUSE, by="Ada", why="a sale starts")
    cause = Cause(kind=CauseKind.ASKED, reasons=("Ada asked to pause",))
    noticed = Noticed(signal=Signal.HALTED, cause=cause, by="Ada")
    before = rolling(Phase.CANARY, weight=10, ask=ask)
    record = looked(before, rolling(Phase.PAUSED), noticed, observed=observed(), policy=POLICY, now=NOW)
    assert (record.looks[0].actor, record.looks[0].ask) == ("Ada", ask)


def test_a_wish_that_harm_was_faster_than_is_not_what_was_carried_out() -> None:
    ask = Ask(wish=Wish.PAUSE, by="Ada", why="a sale starts")
    noticed = Noticed(signal=Signal.STOPPED, verdict=VerdictKind.FAIL)
    before = rolling(Phase.CANARY, weight=10, ask=ask)
    record = looked(before, rolling(Phase.ROLLING_BACK), noticed, observed=observed(), policy=POLICY, now=NOW)
    assert (record.looks[0].actor, record.looks[0].ask) == (SLUICEGATE, None)


def test_the_record_of_another_rollout_is_not_gone_on_with() -> None:
    other = dataclasses.replace(recorded(*bins(9)), rollout="r0")
    noticed = Noticed(signal=Signal.STARTED)
    record = looked(steady(), rolling(Phase.WARMING), noticed, observed=observed(record=other), policy=POLICY, now=NOW)
    assert (record.rollout, record.evidence, len(record.looks)) == ("r1", (), 1)


def test_a_look_says_where_the_policy_is_another_one() -> None:
    def after(record: Record | None, policy: Any) -> Record:
        live = Noticed(signal=Signal.LIVE)
        canary = rolling(Phase.CANARY)
        return looked(canary, canary, live, observed=observed(record=record), policy=policy, now=NOW)

    first = after(None, POLICY)
    changed = after(after(first, POLICY), dataclasses.replace(POLICY, alpha=0.02))
    assert [look.new_policy for look in changed.looks] == [False, False, True]


# --- Prometheus that forgot -----------------------------------------------------------------------------------


def test_as_long_as_prometheus_knows_what_it_knew_it_is_believed() -> None:
    evidence = (counted(*bins(9, total=151)),)
    assert evidence_with(recorded(*bins(4)), evidence) == evidence
    assert evidence_with(None, evidence) == evidence


def test_what_was_recorded_counts_where_prometheus_forgot_it() -> None:
    (found,) = evidence_with(recorded(*bins(4)), (counted(*bins(4, total=0)),))
    assert found.bins == bins(4)


def test_a_counter_that_a_new_prometheus_sees_for_the_first_time_is_not_counted_twice() -> None:
    """It shows all of its life at once, within two bins: that is left out, and what comes after it counts."""
    lost = bins(5, total=0)
    whole_life = bins(1, since=START + 5 * WIDTH, total=5000, bad=20)
    after = bins(3, since=START + 6 * WIDTH)
    (found,) = evidence_with(recorded(*bins(4)), (counted(*lost, *whole_life, *after),))
    assert found.bins[:4] == bins(4)
    assert [b.candidate.total for b in found.bins[4:]] == [0, 0, 0, 150, 150]
    assert [b.stable.total for b in found.bins[4:]] == [0, 0, 0, 300, 300]


def test_one_that_forgot_only_the_beginning_shows_what_came_since() -> None:
    shown = (*bins(2, total=0), *bins(1, since=START + 2 * WIDTH, total=200), *bins(3, since=START + 3 * WIDTH))
    (found,) = evidence_with(recorded(*bins(4)), (counted(*shown),))
    assert found.bins == bins(6)


def test_pairs_and_rescues_go_with_the_counts_that_are_not_known() -> None:
    strange = Bin(START + 4 * WIDTH, Counts(900, 9), Counts(900, 9), rescued=9.0, pairs=Discordant(9, 0))
    (found,) = evidence_with(recorded(*bins(4)), (counted(*bins(4, total=0), strange),))
    assert found.bins[-1] == Bin(strange.start, Counts(), Counts(), rescued=0.0, pairs=Discordant())


def test_evidence_that_is_away_stays_away() -> None:
    evidence = (counted(reason="Prometheus cannot be reached"),)
    assert evidence_with(recorded(*bins(4)), evidence) == evidence


def test_an_objective_that_is_not_recorded_is_as_prometheus_tells_it() -> None:
    evidence = (counted(*bins(4, total=0), objective=LATENCY),)
    assert evidence_with(recorded(*bins(4)), evidence) == evidence
