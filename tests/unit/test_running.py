"""What `sluice run` says: whole words once, again where they change, and not because a counter moved."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipelines.commands.running import EdgeNarrator, Narrator
from pipelines.pulling import Pulled
from pipelines.reconciler import Tick
from policies.actions import Wait
from tests.unit.releases import NOW

PULL = "v3 is wanted; pull request 12 (http://127.0.0.1:3000/ops/config/pulls/12)"
FROZEN = "the weight is frozen: lenient: unavailable: the newest sample is"


def tick(*waits: str, problems: tuple[str, ...] = (), remarks: tuple[str, ...] = ()) -> Tick:
    named = tuple(Wait(model="fraud", environment="production", reason=reason, ends="x") for reason in waits)
    return Tick(at=NOW, plan=None, waits=named, problems=problems, remarks=remarks)


def said(*ticks: Tick) -> list[str]:
    """The lines of these looks, without their times."""
    lines: list[str] = []
    narrator = Narrator(lines.append, None)
    for each in ticks:
        narrator(each)
    return [line.split(" ", 1)[1] for line in lines]


def waits(*reasons: str) -> list[str]:
    head = "fraud (production) waits: "
    lines = said(*(tick(reason) for reason in reasons))
    assert all(line.startswith(head) for line in lines)
    return [line.removeprefix(head) for line in lines]


@pytest.mark.parametrize(
    "reasons",
    [
        (f"{PULL} has no approval of its head 1a2b3c4d", f"{PULL} was merged at 1a2b3c4d and has no approval"),
        (f"{PULL} has no approval of its head 1a2b3c4d", f"{PULL} has no approval of its head 9a2b3c4d"),
        (f"{PULL} may be merged", f"{PULL} may be merged".replace("12", "13")),
        ("v3 is warming up", "v4 is warming up"),
        (f"{FROZEN} 35s old", "the weight is frozen: lenient: unavailable: 127.0.0.1:9090 refused the connection"),
        ("stopped: the tip 1a2b3c4d is gone", "stopped: the tip e5f60718 is gone"),
    ],
)
def test_two_states_are_two_lines_with_the_whole_words(reasons):
    assert waits(*reasons) == list(reasons)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (f"{FROZEN} 35s old", f"{FROZEN} 1m5s old"),
        ("errors 31 of 1,204 (2.6 %), e-value 4.1e6 >= 100", "errors 30 of 1,310 (2.3 %), e-value 5e-07 >= 100"),
        ("seen last at 2026-11-23 12:00:00", "seen last at 2026-11-23 12:00:15"),
        ("lower bound -0.3", "lower bound 0.2"),
    ],
)
def test_a_figure_that_moves_is_no_news(first, then):
    assert waits(first, then, first) == [first]


def test_what_was_over_and_comes_again_is_said_again():
    assert waits("v3 is warming up", "v3 is ready", "v3 is warming up") == [
        "v3 is warming up",
        "v3 is ready",
        "v3 is warming up",
    ]


def test_problems_are_said_whole_and_once():
    lines = said(tick(problems=("no answer in 3 s",)), tick(problems=("no answer in 4 s",)), tick(problems=("away",)))
    assert lines == ["problem: no answer in 3 s", "problem: away"]


def test_models_whose_names_are_figures_are_two_models():
    both = Tick(
        at=NOW,
        plan=None,
        waits=tuple(Wait(model=name, environment="production", reason="so it is", ends="x") for name in ("1", "2")),
    )
    one = Tick(at=NOW, plan=None, waits=both.waits[:1])
    assert said(one, both) == ["1 (production) waits: so it is", "2 (production) waits: so it is"]


def test_an_edge_says_each_commit_and_a_wait_once():
    lines: list[str] = []
    narrator = EdgeNarrator(lines.append, None)
    for commit, step, seconds in (
        ("11111111", "Ray starts in 3 s", 0),
        ("11111111", "Ray starts in 2 s", 1),
        ("22222222", "", 2),
    ):
        narrator(pulled(commit, step, seconds))
    assert [line.split(" ", 1)[1] for line in lines] == [
        "shop: 11111111: Ray starts in 3 s",
        "shop: 22222222 is in place",
    ]


def pulled(commit: str, step: str, seconds: int) -> Pulled:
    at = NOW + timedelta(seconds=seconds)
    return Pulled(
        at=at,
        edge="shop",
        commit=commit + "0" * 32,
        git_seen_at=at,
        in_place=not step,
        step=step,
        applications={},
        problems=(),
    )
