"""The serving benchmark's own arithmetic: what wrk said, paired ratios, rows, goals, and the processes of a server."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.serving_bench.figures import LeftOut, Reading, Spread, ratio, ratios, rows
from benchmarks.serving_bench.goals import OF_MLFLOW, goals
from benchmarks.serving_bench.matrix import (
    BATCHED,
    BENTOML,
    CANARY,
    CAPTURE,
    MLFLOW,
    MODELS,
    RAY_SERVE,
    SLUICEGATE,
    STATES,
    Cell,
    Contestant,
    cells,
    contestants,
    in_turn,
)
from benchmarks.serving_bench.table import page
from benchmarks.serving_bench.usage import Process, parse, tree
from benchmarks.serving_bench.wrk import parse as parse_wrk
from policies.errors import BadInput

OWN, PLAIN, SERVER = Contestant(SLUICEGATE), Contestant(RAY_SERVE), Contestant(MLFLOW)
NOOP_1, NOOP_16 = Cell("noop", 1, 1), Cell("noop", 1, 16)

WRK = """\
Running 2s test @ http://127.0.0.1:8000/models/noop/invocations
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.95ms    2.01ms  30.11ms   88.00%
    Req/Sec     2.70k   150.00     2.90k    70.00%
  5400 requests in 2.00s, 1.20MB read
Requests/sec:   2697.30
Transfer/sec:    610.00KB
FIGURES {"requests": 5400, "duration_us": 2002000, "p50_us": 5812, "p99_us": 12750, "not_2xx": 3, "broken": 1}
"""


def reading(contestant: Contestant, cell: Cell = NOOP_16, number: int = 0, **figures: float) -> Reading:
    given: dict[str, Any] = {"requests_per_s": 100.0, "p50_ms": 1.0, "p99_ms": 2.0, "cpu_ms_per_request": 0.5}
    return Reading(cell=cell, contestant=contestant, round=number, **{**given, "rss_mb": 300.0, "failed": 0, **figures})


# --- wrk ----------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_load_are_read_from_the_one_marked_line():
    load = parse_wrk(WRK)
    assert load.requests_per_s == pytest.approx(5400 / 2.002)
    assert (load.p50_ms, load.p99_ms, load.requests) == (5.812, 12.75, 5400)


def test_answers_other_than_2xx_and_broken_connections_are_failures():
    assert parse_wrk(WRK).failed == 4


@pytest.mark.parametrize(
    "output", ["", WRK.replace("FIGURES", "figures"), WRK.replace('"requests": 5400', '"requests": 0')]
)
def test_a_load_without_figures_or_answers_is_refused(output: str):
    with pytest.raises(BadInput):
        parse_wrk(output)


# --- ratios -------------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_own_ratios_with_its_spread():
    seen = [
        reading(contestant, number=number, requests_per_s=rate)
        for contestant, rates in ((OWN, (90, 50, 99)), (PLAIN, (100, 50, 90)))
        for number, rate in enumerate(rates)
    ]
    assert ratio(seen, NOOP_16, OWN, PLAIN, "requests_per_s") == Spread(1.0, 0.9, pytest.approx(1.1))


def test_a_machine_that_is_slow_for_a_round_does_not_move_the_ratio():
    seen = [
        reading(contestant, number=number, requests_per_s=rate * share)
        for contestant, share in ((OWN, 0.5), (PLAIN, 1.0))
        for number, rate in enumerate((100, 10, 400))
    ]
    assert ratio(seen, NOOP_16, OWN, PLAIN, "requests_per_s") == Spread(0.5, 0.5, 0.5)


def test_only_rounds_that_have_both_are_compared():
    seen = [reading(OWN, number=0), reading(PLAIN, number=1), reading(OWN, number=1, requests_per_s=300)]
    assert ratio(seen, NOOP_16, OWN, PLAIN, "requests_per_s") == Spread(3, 3, 3)


def test_what_was_not_measured_has_no_ratio():
    assert ratio([reading(OWN)], NOOP_16, OWN, PLAIN, "requests_per_s") is None
    assert ratio([reading(OWN), reading(PLAIN)], NOOP_1, OWN, PLAIN, "requests_per_s") is None


def test_systems_are_set_against_the_steady_state_and_states_too():
    shadow = Contestant(SLUICEGATE, CANARY)
    found = ratios([reading(OWN), reading(PLAIN), reading(shadow, requests_per_s=80)])
    assert [(row["of"], row["to"]) for row in found] == [
        ("sluicegate, steady", "ray serve, steady"),
        ("sluicegate, canary 10", "sluicegate, steady"),
    ]
    assert found[1]["requests_per_s"] == {"median": 0.8, "least": 0.8, "most": 0.8}


# --- rows ---------------------------------------------------------------------------------------------------------


def test_a_row_has_the_medians_of_its_rounds_and_the_sum_of_its_failures():
    seen = [reading(OWN, number=n, requests_per_s=rate, failed=n) for n, rate in enumerate((10, 30, 20))]
    (row,) = rows(seen, [])
    assert (row["system"], row["model"], row["connections"], row["rows_per_request"], row["state"]) == (
        "sluicegate",
        "noop",
        16,
        1,
        "steady",
    )
    assert (row["requests_per_s"], row["failed"], row["requests_per_s_of_rounds"]) == (20, 3, [10, 30, 20])
    assert {"p50_ms", "p99_ms", "cpu_ms_per_request", "rss_mb"} <= set(row)


def test_what_is_left_out_is_a_row_with_its_reason():
    (row,) = rows([], [LeftOut(contestant=Contestant(BENTOML), model="torch", reason="it could not be installed")])
    assert (row["system"], row["model"], row["requests_per_s"]) == ("bentoml", "torch", None)
    assert row["reason"] == "it could not be installed"


# --- goals --------------------------------------------------------------------------------------------------------


def met(seen: list[Reading], cell: Cell, words: str) -> bool | None:
    (found,) = [goal.met for goal in goals(seen, [cell]) if words in goal.goal]
    return found


@pytest.mark.parametrize(("rate", "expected"), [(95, True), (94.9, False)])
def test_the_steady_state_has_095_of_plain_ray_serve(rate: float, expected: bool):
    assert met([reading(OWN, requests_per_s=rate), reading(PLAIN)], NOOP_16, "plain Ray Serve") is expected


@pytest.mark.parametrize(
    ("cell", "rate", "expected"),
    [(NOOP_1, 500, True), (NOOP_1, 499, False), (NOOP_16, 1000, True), (NOOP_16, 999, False)],
)
def test_five_times_mlflow_at_one_connection_and_ten_times_at_sixteen(cell: Cell, rate: float, expected: bool):
    seen = [reading(OWN, cell, requests_per_s=rate), reading(SERVER, cell)]
    assert met(seen, cell, f"requests/s >= {OF_MLFLOW[cell.connections]:g} x mlflow") is expected


def test_batching_is_held_to_the_same_where_there_is_something_to_join():
    seen = [reading(Contestant(SLUICEGATE, BATCHED), requests_per_s=1000), reading(SERVER)]
    assert met(seen, NOOP_16, "batched") is True
    assert met([*seen, reading(OWN)], NOOP_16, "requests/s >= 10 x mlflow") is False
    assert not any("batched" in goal.goal for goal in goals(seen, [NOOP_1]))


@pytest.mark.parametrize(("p99_ms", "expected"), [(2.0, True), (2.1, False)])
def test_no_worse_a_p99_than_mlflow(p99_ms: float, expected: bool):
    assert met([reading(OWN, p99_ms=p99_ms), reading(SERVER)], NOOP_16, "p99") is expected


@pytest.mark.parametrize(("rate", "expected"), [(95, True), (94, False)])
def test_capture_costs_less_than_five_percent(rate: float, expected: bool):
    seen = [reading(OWN), reading(Contestant(SLUICEGATE, CAPTURE), requests_per_s=rate)]
    assert met(seen, NOOP_16, "capture") is expected


@pytest.mark.parametrize(("p50_ms", "expected"), [(1.05, True), (1.2, False)])
def test_a_rollout_costs_nothing_outside_its_share(p50_ms: float, expected: bool):
    seen = [reading(OWN, NOOP_1), reading(Contestant(SLUICEGATE, CANARY), NOOP_1, p50_ms=p50_ms)]
    assert met(seen, NOOP_1, "beside a candidate") is expected


def test_a_goal_that_was_not_measured_is_neither_met_nor_missed():
    assert {goal.met for goal in goals([reading(OWN)], [NOOP_16])} == {None}


# --- what is measured ---------------------------------------------------------------------------------------------


def test_every_system_and_state_is_measured_at_1_and_16_connections():
    for model in MODELS:
        for connections in (1, 16):
            there = contestants(Cell(model, 1, connections))
            assert {each.system for each in there} == {SLUICEGATE, RAY_SERVE, MLFLOW, "mlserver", BENTOML}
            states = {each.state for each in there if each.system == SLUICEGATE}
            assert states == {"steady", *STATES} - ({BATCHED} if connections == 1 else set())


def test_the_three_that_the_goals_name_are_measured_in_every_cell():
    for model in MODELS:
        for cell in cells(model, quick=False):
            assert {OWN, PLAIN, SERVER} <= set(contestants(cell))


def test_each_round_has_everybody_and_begins_with_another():
    those = contestants(NOOP_16)
    turns = [in_turn(those, number) for number in range(len(those))]
    assert all(set(turn) == set(those) for turn in turns)
    assert len({turn[0] for turn in turns}) == len(those)


# --- processes ----------------------------------------------------------------------------------------------------


def test_a_process_is_read_although_its_name_has_spaces_and_brackets():
    fields = ["S", "7", *["0"] * 9, "100", "50", "20", "30", *["0"] * 6, "1000"]
    process = parse(12, "ray::x", f"12 (a) b (c)) {' '.join(fields)}")
    assert (process.pid, process.parent) == (12, 7)
    assert process.cpu_s == pytest.approx(2.0)
    assert process.rss_mb == pytest.approx(4.096)


def test_a_tree_has_all_descendants_and_nobody_else():
    everything = [Process(pid, parent, "", 0, 0) for pid, parent in ((2, 1), (3, 2), (4, 3), (5, 1), (6, 9))]
    assert {process.pid for process in tree(2, everything)} == {2, 3, 4}
    assert tree(77, everything) == []


# --- the page -----------------------------------------------------------------------------------------------------


def test_the_page_has_each_goal_each_row_and_what_was_left_out():
    seen = [reading(OWN, requests_per_s=1234.4, failed=3), reading(PLAIN)]
    left = LeftOut(contestant=Contestant(BENTOML), model="noop", reason="it did not start")
    result = {
        "machine": {"cpus": 2},
        "rounds": 1,
        "goals": [goal.row() for goal in goals(seen, [NOOP_16])],
        "rows": rows(seen, [left]),
    }
    text = page(result)
    assert "| requests/s >= 0.95 x plain Ray Serve | noop | 16 | 1 | 12.34 (12.34 to 12.34) | yes |" in text
    assert "| requests/s >= 10 x mlflow models serve | noop | 16 | 1 |  | not measured |" in text
    assert "| 16 | 1 | sluicegate | steady | 1234 | 1.00 | 2.0 | 0.50 | 300 | 3 |" in text
    assert "Left out: bentoml, steady: it did not start" in text
