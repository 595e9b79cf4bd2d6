"""The timeline says each thing once where lines are appended, and redraws a table on a terminal."""

from __future__ import annotations

import dataclasses
import io
from datetime import datetime, timedelta

from rich.console import Console

from pipelines.demo.documents import demo_policy
from pipelines.demo.load import Counters
from pipelines.demo.timeline import Scene, Timeline, requests_words, rows, until_words
from policies.actions import Wait
from policies.application import Application
from policies.release import Phase, PhaseRecord, Release, Rollout
from policies.verdict import VerdictKind
from tests.unit.test_demo_report import FAILED, START, history

POLICY = demo_policy()
ANSWERED = Counters(live=True, sent=1204, failed=0, by_version={"1": 1000, "2": 204}, slowest_ms=31.2)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def canary(*, live: bool = True) -> Release:
    stable, candidate = (Application(version=n, digest="sha256:" + f"{n}" * 64) for n in (1, 2))
    warming = PhaseRecord(phase=Phase.WARMING, weight_percent=0, since=START, until=at(9), reasons=("ready",))
    step = PhaseRecord(phase=Phase.CANARY, weight_percent=10, since=at(9), live_since=at(10) if live else None)
    return Release(
        model="breast-cancer",
        environment="production",
        phase=Phase.CANARY,
        stable=stable,
        candidate=candidate,
        weight_percent=10,
        rollout=Rollout(id="20261123-120000-v2-0a1b2c3d", started_at=START, records=(warming, step)),
    )


def waiting(seconds: float) -> Wait:
    return Wait(model="breast-cancer", environment="production", reason=f"step at {seconds:g} s", until=at(70))


def shown(*scenes: Scene, terminal: bool = False, no_color: bool | None = None, width: int = 200) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=width, no_color=no_color, height=24)
    with Timeline(console, POLICY) as timeline:
        timeline.say("A person moves v2 to Production in MLflow")
        for scene in scenes:
            timeline.show(scene)
    return screen.getvalue()


def test_appended_lines_say_each_phase_once_with_why_it_waits_and_until_when() -> None:
    scenes = [
        Scene(now=at(n), release=canary(), waiting=waiting(n), requests=ANSWERED) for n in (10.0, 11.0, 12.0, 16.0)
    ]
    lines = shown(*scenes).splitlines()
    assert lines[0] == "A person moves v2 to Production in MLflow"
    assert len([line for line in lines if "v2 WARMING 0 % since" in line]) == 1
    assert len([line for line in lines if "v2 WARMING 0 % ended after 9 s" in line]) == 1
    assert len([line for line in lines if "v2 CANARY 10 % since" in line]) == 1
    waits = [line for line in lines if "waiting: step at" in line]
    assert [line.split("waiting: ")[1].split(" (")[0] for line in waits] == ["step at 10 s", "step at 16 s"]
    assert "until" in waits[0]
    assert (
        len([line for line in lines if "1,204 requests, 0 failed: 1,000 by v1, 204 by v2; slowest 31 ms" in line]) == 1
    )
    assert "\x1b" not in "\n".join(lines)


def test_a_verdict_is_shown_with_its_arithmetic() -> None:
    words = shown(Scene(now=at(20), release=None, history=(history(),)))
    assert "v3 SHADOW 0 % ended after 5 s FAIL" in words
    assert FAILED in words


def test_a_terminal_gets_a_table_in_colour_unless_no_color_is_set() -> None:
    scene = Scene(now=at(20), release=canary(), history=(history(),), waiting=waiting(20), requests=ANSWERED)
    coloured, plain = shown(scene, terminal=True, no_color=False), shown(scene, terminal=True, no_color=True)
    for words in (coloured, plain):
        assert "verdict" in words
        assert "SHADOW" in words
        assert FAILED in words
        assert "waiting: step at 20 s" in words
        assert "1,204 requests" in words
    assert "\x1b[1;31m" in coloured
    assert "\x1b[1;31m" not in plain
    assert "31m" not in plain


def test_on_a_narrow_screen_only_the_why_is_cut_off_and_the_newest_phases_stay() -> None:
    many = tuple(dataclasses.replace(history(), rollout=f"rollout-{n}") for n in range(20))
    scene = Scene(now=at(20), release=canary(), history=many, requests=ANSWERED)
    screen = io.StringIO()
    console = Console(file=screen, width=80, height=24)
    console.print(Timeline(console, POLICY).table(scene))
    lines = screen.getvalue().splitlines()
    assert len(lines) < console.height
    assert [word in lines[-3] for word in ("v2", "CANARY", "10 %", "11 s", "until ")] == [True] * 5
    assert lines[-4].split()[:3] == ["v2", "WARMING", "0"]
    assert "errors: 9 bad" in lines[-5]
    assert lines[-5].rstrip().endswith("…")


def test_the_running_rollout_is_not_shown_twice_once_it_is_history() -> None:
    past = dataclasses.replace(history(), rollout="20261123-120000-v2-0a1b2c3d")
    assert len(rows(Scene(now=at(20), release=canary(), history=(past,)))) == len(past.phases)


def test_a_phase_says_until_when_by_its_policy() -> None:
    release = canary()
    assert release.rollout is not None
    step, unmoved = release.rollout.current, canary(live=False).rollout
    assert unmoved is not None
    low, high = (f"{(at(10) + d).astimezone():%H:%M:%S}" for d in (POLICY.step.min_duration, POLICY.step.max_duration))
    assert until_words(step, POLICY, at(11)) == f"until {low} at least, {high} at most"
    assert until_words(step, POLICY, at(30)) == f"until {high} at most"
    assert until_words(unmoved.current, POLICY, at(11)) == "until its weight is live on every replica"
    assert until_words(release.rollout.records[0], POLICY, at(1)).endswith("to be ready")
    assert until_words(PhaseRecord(phase=Phase.ROLLING_BACK, weight_percent=0, since=START), POLICY, at(1)) == ""


def test_failed_requests_are_named_and_the_time_before_the_first_version_is_not_a_failure() -> None:
    failed = dataclasses.replace(ANSWERED, failed=2, failures={"HTTP 500": 2})
    assert "2 failed (2 HTTP 500)" in requests_words(failed)
    assert requests_words(Counters(before=12)).startswith("12 requests before anything served")


def test_a_verdict_is_coloured_by_what_it_says() -> None:
    passed = dataclasses.replace(history().phases[1], verdict=VerdictKind.PASS, reasons=("proved",))
    past = dataclasses.replace(history(), phases=(passed,))
    assert "\x1b[32mPASS" in shown(Scene(now=at(20), release=None, history=(past,)), terminal=True, no_color=False)
