"""What `sluice explain` says of a rollout, and its charts."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from pipelines.commands import views
from pipelines.commands.chart import MOST_ROWS, PLAIN, Marks, charts
from pipelines.commands.explain import LOG, Told, chosen, lines, rollouts, with_commits
from policies.errors import BadInput
from policies.evidence import Sli
from policies.layout import history_path
from policies.record import SLUICEGATE
from policies.release import Phase
from policies.rollout_record import HistoryRecord, LookRecord, Record
from policies.stored_documents import history_text, parse_history
from policies.verdict import Measure
from tests.simulation.world import BAD, MODEL, World
from tests.unit.releases import MINUTE, NOW


@pytest.fixture(scope="module")
def world() -> World:
    """v1 serves, v2 was rolled back, v3 is on its way."""
    found = World(7)
    found.promote(found.register())
    found.settle()
    found.promote(found.register(BAD))
    found.settle()
    found.promote(found.register())
    found.run_until(lambda: found.release is not None and found.release.phase is Phase.CANARY)
    return found


def told(world: World) -> tuple[Told, ...]:
    log = world.repo.log(LOG)
    return tuple(with_commits(one, log) for one in rollouts(world.repo.read()))


def text(one: Told, width: int = 100, marks: Marks = PLAIN) -> str:
    return "\n".join(line.plain for line in lines(one, width=width, marks=marks))


# --- which one --------------------------------------------------------------------------------------------------


def test_all_rollouts_are_known_the_one_that_moved_last_at_the_end(world: World) -> None:
    assert [(one.version, one.outcome) for one in told(world)] == [(1, "promoted"), (2, "rolled_back"), (3, None)]
    assert chosen(told(world), None, None).version == 3


def test_one_is_named_by_its_id_or_by_a_beginning_that_no_other_has(world: World) -> None:
    second = told(world)[1]
    assert chosen(told(world), second.rollout, None) == second
    assert chosen(told(world), second.rollout[:-4], None) == second


def test_an_unknown_id_is_refused_with_those_that_are_near(world: World) -> None:
    second = told(world)[1].rollout
    wrong = second.replace("-v2-", "-v9-")
    with pytest.raises(BadInput, match=rf"there is no rollout '{wrong}'; near it: .*{second}"):
        chosen(told(world), wrong, None)


def test_a_beginning_of_several_is_refused_with_them(world: World) -> None:
    with pytest.raises(BadInput, match=r"3 rollouts begin with '2026'; near it: .*-v1-.*-v2-.*-v3-"):
        chosen(told(world), "2026", None)


def test_a_model_without_a_rollout_is_refused_with_those_that_have_one(world: World) -> None:
    with pytest.raises(BadInput, match="'spam' has had no rollout; these have: fraud"):
        chosen(told(world), None, "spam")
    with pytest.raises(BadInput, match="no rollout has begun yet"):
        chosen((), None, None)


# --- the story --------------------------------------------------------------------------------------------------


def test_a_rollback_is_told_with_what_was_tried_over_what_and_why_it_ended(world: World) -> None:
    said = text(told(world)[1])
    assert said.startswith("fraud (production): v2 over v1\n")
    assert "rolled back after" in said
    assert "because: failed" in said
    assert "a healthy version is taken back with a chance of 1 % at most (alpha)" in said
    assert "errors is counted by errors{model='fraud'}" in said


def test_each_look_is_told_with_time_signal_phases_actor_and_commit(world: World) -> None:
    one = told(world)[1]
    assert one.record is not None
    said = text(one)
    for look in one.record.looks:
        (decision,) = [c for c in world.repo.commits.values() if c.parent == look.tip]
        (line,) = [x for x in said.splitlines() if x.startswith(f"{look.at:%H:%M:%S}  {look.signal} ")]
        assert f"by {SLUICEGATE}" in line
        assert f"[{decision.hash[:10]}]" in line
        assert look.following.value in line


def test_the_arithmetic_is_there_counts_bounds_e_values_and_thresholds(world: World) -> None:
    said = text(told(world)[1])
    assert "-> FAIL" in said
    assert "mean of all tests" in said
    assert ">= 100 -> FAIL" in said
    assert "; the SLO allows 1 %" in said
    assert ", at any time " in said
    assert "proof: e-value of health 1 < 100" in said
    assert "newest sample 0s old" in said


def test_how_soon_anybody_could_have_known_is_said(world: World) -> None:
    said = text(told(world)[1])
    assert "the fewest that any test needs in the mean (T*)" in said
    assert " is harm, of 2,400 events a minute; 200 were seen" in said
    assert " healthy, of " in text(told(world)[0])


def test_a_first_version_and_one_under_way_are_told(world: World) -> None:
    assert text(told(world)[0]).startswith("fraud (production): v1 as the first version\n")
    assert "under way: CANARY 10 % since" in text(told(world)[2])


def test_what_an_older_sluicegate_wrote_is_told_by_its_phases(world: World) -> None:
    history = dataclasses.replace(world.history()[1], record=None)
    data = json.loads(history_text(history))
    for new in ("record", "budget", "dispersion", "purpose"):
        del data[new]
    path = history_path("production", MODEL, history.rollout)
    old = parse_history(json.dumps(data))
    assert isinstance(old, HistoryRecord)
    tip = dataclasses.replace(world.repo.read(), files={path: json.dumps(data)})
    (one,) = rollouts(tip)
    said = text(one)
    assert "SHADOW FAIL" in said
    assert "-> FAIL" in said


def test_json_has_the_same_looks(world: World) -> None:
    one = told(world)[1]
    data: dict[str, Any] = json.loads(views.as_json("rollouts", [one]))
    (rollout,) = data["rollouts"]
    assert data["schema"] == 1
    assert one.record is not None
    assert [look["signal"] for look in rollout["record"]["looks"]] == [look.signal for look in one.record.looks]
    assert rollout["commits"] == dict(one.commits)


# --- charts -----------------------------------------------------------------------------------------------------


def look(i: int, **figures: Any) -> LookRecord:
    about = {"objective": "errors", "sli": Sli.ERRORS, "allowed": 0.01, "query": "q", "rate": 0.003}
    return LookRecord(
        at=NOW + i * MINUTE,
        signal="LIVE",
        phase=Phase.CANARY,
        following=Phase.CANARY,
        weight_percent=10,
        actor=SLUICEGATE,
        tip="c" * 40,
        measures=(Measure(**{**about, **figures}),),
    )


def drawn(looks: Sequence[LookRecord], width: int = 80, marks: Marks = PLAIN) -> list[str]:
    record = Record(rollout="r1", policy={"alpha": 0.01, "beta": 0.01}, looks=tuple(looks))
    return [line.plain for line in charts(record, width=width, marks=marks)]


def rows(chart: list[str]) -> list[str]:
    return [line[10:] for line in chart if line[:2].isdigit()]


def test_a_row_shows_harm_and_proof_on_one_axis_with_what_decides() -> None:
    evidence, _ = rows(drawn([look(0, harm_slo=-1.0, proof=1.0)]))
    assert evidence.index("H") < evidence.index("|") < evidence.index("P") < evidence.rindex("|")


def test_harm_beyond_its_threshold_stands_right_of_it_and_beyond_the_axis_is_an_arrow() -> None:
    evidence, _ = rows(drawn([look(0, harm_slo=3.0, proof=-9.0)]))
    assert evidence.index("H") > evidence.rindex("|")
    assert evidence[0] == "<"
    evidence, _ = rows(drawn([look(0, harm_slo=12.0)]))
    assert evidence[-1] == ">"


def test_two_values_at_one_place_are_one_mark() -> None:
    evidence, _ = rows(drawn([look(0, harm_slo=1.0, proof=1.0)]))
    assert "X" in evidence
    assert "H" not in evidence


def test_the_rate_stands_between_its_bounds_against_the_slo() -> None:
    _, rate = rows(drawn([look(0, rate=0.004, lower=0.001, upper=0.008)]))
    assert rate.index("-") < rate.index("o") < rate.rindex("-") < rate.index("|")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_chart_is_no_wider_than_the_terminal_nor_than_can_be_read(width: int) -> None:
    looks = [look(i, harm_slo=-1.0, proof=1.0, lower=0.001, upper=0.5, stable_rate=0.002) for i in range(3)]
    longest = max(len(row) for row in rows(drawn(looks, width=width)))
    assert longest <= max(20, min(100, width - 11))


def test_of_many_looks_a_screen_full_is_shown_the_first_and_the_last_among_them() -> None:
    chart = drawn([look(i, harm_slo=-1.0) for i in range(200)])
    times = [line[:8] for line in chart if line[:2].isdigit()]
    assert len(times) == 2 * MOST_ROWS
    assert times[0] == f"{NOW:%H:%M:%S}"
    assert times[-1] == f"{NOW + timedelta(minutes=199):%H:%M:%S}"


def test_looks_without_figures_have_no_chart() -> None:
    assert drawn([look(0, rate=None)]) == []


def test_plain_marks_are_ascii_and_without_colour_where_that_is_wished(world: World) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=90, no_color=True, force_terminal=True, highlight=False, soft_wrap=True)
    for line in lines(told(world)[1], width=console.width, marks=PLAIN):
        console.print(line)
    said = screen.getvalue()
    assert said.isascii()
    assert "\x1b[3" not in said
