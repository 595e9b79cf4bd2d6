"""`sluice replay`: which rollouts, where their bins come from, and what is said of them."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import timedelta

import pytest

from pipelines.commands import views
from pipelines.commands.replay import as_data, documents, from_prometheus, judged_again, lines, pasts, policy_of
from pipelines.look import Doors
from policies.errors import BadInput
from policies.layout import history_path
from policies.observations import Tip
from policies.past_rollout import finished
from policies.record import fitted
from policies.release import CauseKind, Outcome, Phase, Wish
from policies.replay import replay
from policies.rollout_record import Record
from policies.stored_documents import history_text
from tests.fakes.metrics import FakeMetrics
from tests.simulation.world import BAD, BIN, MODEL, World


@pytest.fixture(scope="module")
def world() -> World:
    """v1 serves, v2 was rolled back, v3 was promoted, v4 is on its way."""
    found = World(11)
    for truth in ({}, {"truth": BAD}, {}):
        found.promote(found.register(**truth))
        found.settle()
    found.promote(found.register())
    found.run_until(lambda: found.release is not None and found.release.phase is Phase.CANARY)
    return found


def doors(world: World, metrics: FakeMetrics | None = None) -> Doors:
    return Doors(
        repo=world.repo,
        registry=lambda _target: world.registry,
        runtime=lambda _target: world.serve,
        metrics=lambda _target: metrics or world.metrics,
    )


def without_records(world: World) -> Tip:
    """What older Sluicegates left."""
    tip = world.repo.read()
    old = {
        history_path("production", MODEL, h.rollout): history_text(dataclasses.replace(h, record=None))
        for h in world.history()
    }
    return dataclasses.replace(tip, files={**tip.files, **old})


# --- which ------------------------------------------------------------------------------------------------------


def test_rollouts_are_chosen_by_id_or_by_when_they_began(world: World) -> None:
    tip = world.repo.read()
    _, second, third = world.history()
    assert [p.version for p in pasts(tip, second.rollout, None, None)] == [2]
    assert [p.version for p in pasts(tip, None, third.started_at, None)] == [3, 4]
    with pytest.raises(BadInput, match="no rollout has begun since"):
        pasts(tip, None, world.now + timedelta(hours=1), None)
    with pytest.raises(BadInput, match="there is no rollout 'nonsense'; near it: "):
        pasts(tip, "nonsense", None, None)


def test_one_that_is_under_way_is_judged_as_far_as_it_is_recorded(world: World) -> None:
    (past,) = pasts(world.repo.read(), None, world.release.rollout.started_at, None)
    again = replay(past, policy_of("quick", documents(world.repo.read())))
    assert (past.outcome, again.outcome, again.same) == (None, None, True)


# --- Prometheus -------------------------------------------------------------------------------------------------


def test_a_rollout_without_bins_is_judged_by_what_prometheus_has_of_its_time(world: World) -> None:
    tip = without_records(world)
    policy = policy_of("quick", documents(tip))
    for history in world.history():
        again, problems = judged_again(
            pasts(tip, history.rollout, None, None), policy, doors(world), tip, world.now, prometheus=False
        )
        assert problems == ()
        assert (again[0].outcome, again[0].same) == (history.outcome, True)


def test_prometheus_may_be_asked_although_there_is_a_record(world: World) -> None:
    tip = world.repo.read()
    (past,) = pasts(tip, world.history()[2].rollout, None, None)
    asked = from_prometheus(past, doors(world), tip, world.now)
    assert [e.bins for e in asked.evidence] == [e.bins for e in past.evidence]


def test_a_prometheus_that_cannot_tell_is_said_by_its_reason(world: World) -> None:
    tip = without_records(world)
    away = FakeMetrics(width=BIN)
    away.go_away("it was replaced")
    (past,) = pasts(tip, world.history()[1].rollout, None, None)
    with pytest.raises(BadInput, match="Prometheus cannot tell of that time: it was replaced"):
        from_prometheus(past, doors(world, away), tip, world.now)


def test_of_several_those_that_cannot_be_judged_are_said_and_the_others_judged(world: World) -> None:
    tip = world.repo.read()
    path = history_path("production", MODEL, world.history()[1].rollout)
    tip = dataclasses.replace(tip, files={**tip.files, path: without_records(world).files[path]})
    away = FakeMetrics(width=BIN)
    away.go_away("it was replaced")
    policy = policy_of("quick", documents(tip))
    some = pasts(tip, None, world.history()[0].started_at, None)
    again, problems = judged_again(some, policy, doors(world, away), tip, world.now, prometheus=False)
    assert [one.past.version for one in again] == [1, 3, 4]
    assert len(problems) == 1


def test_without_any_bins_nothing_is_judged_again(world: World) -> None:
    old = dataclasses.replace(world.history()[1], record=None)
    with pytest.raises(BadInput, match="has no recorded bins: nothing can be judged again"):
        replay(finished(old), policy_of("quick", documents(world.repo.read())))


# --- what it cannot know ----------------------------------------------------------------------------------------


def test_coarse_bins_and_a_changed_policy_are_said(world: World) -> None:
    history = world.history()[2]
    assert history.record is not None
    looks = history.record.looks
    (part,) = history.record.evidence
    wide = dataclasses.replace(
        part,
        width_s=4 * part.width_s,
        since=part.since - timedelta(seconds=20 * part.width_s),
        candidate=((800, 2),) * 5,
        stable=((800, 2),) * 5,
        rescued=None,
        pairs=None,
    )
    changed = (*looks[:-1], dataclasses.replace(looks[-1], new_policy=True))
    record = dataclasses.replace(history.record, evidence=(wide, part), looks=changed)
    again = replay(
        finished(dataclasses.replace(history, record=record)), policy_of("quick", documents(world.repo.read()))
    )
    assert any("are recorded coarser than they were judged" in words for words in again.unknown)
    assert any("the policy was changed at" in words for words in again.unknown)


def test_a_record_that_fits_is_left_as_it_is(world: World) -> None:
    record = world.history()[2].record
    assert isinstance(record, Record)
    assert fitted(record) == record


# --- in words ---------------------------------------------------------------------------------------------------


def test_what_would_have_been_stands_beside_what_was(world: World) -> None:
    tip = world.repo.read()
    quick = policy_of("quick", documents(tip))
    strict = dataclasses.replace(quick, name="strict", beta=1e-12)
    again, _ = judged_again(
        pasts(tip, None, world.history()[0].started_at, None), strict, doors(world), tip, world.now, prometheus=False
    )
    said = "\n".join(lines(again))
    assert "  as it was, by policy quick: promoted after" in said
    assert "  by policy strict, another way: still under way" in said
    assert "  by policy strict, the same: rolled back after" in said
    assert "  cannot be known: " in said
    same = sum(one.same for one in again)
    assert 0 < same < 4
    assert said.endswith(f"4 rollouts: {same} would have gone the same way, {4 - same} another")
    assert "    it waits: errors: " in said


def test_durations_are_said_to_a_second(world: World) -> None:
    tip = world.repo.read()
    third = pasts(tip, world.history()[2].rollout, None, None)
    quick = policy_of("quick", documents(tip))
    again, _ = judged_again(third, quick, doors(world), tip, world.now, prometheus=False)
    late = [
        dataclasses.replace(one, ended_at=one.ended_at and one.ended_at + timedelta(microseconds=396_291))
        for one in again
    ]
    assert re.findall(r"after [\dhm]*\d+s$", "\n".join(lines(late)), re.MULTILINE)
    assert not re.search(r"after \S*\.", "\n".join(lines(late)))


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.SHADOW, Phase.CANARY])
def test_where_a_rollout_was_paused_and_would_have_been_nothing_is_said_to_be_other(phase: Phase) -> None:
    found = World(3)
    found.promote(found.register())
    found.settle()
    found.promote(found.register())
    found.run_until(lambda: found.release is not None and found.release.phase is phase)
    found.ask(Wish.PAUSE)
    found.pass_time(120)
    found.ask(Wish.ABORT)
    found.settle()
    history = found.history()[-1]
    again = replay(finished(history), policy_of("quick", documents(found.repo.read())))
    assert again.same
    assert not again.unknown


def test_where_another_way_begins_is_said_with_its_reasons(world: World) -> None:
    tip = world.repo.read()
    third = pasts(tip, world.history()[2].rollout, None, None)
    quick = policy_of("quick", documents(tip))
    bold = dataclasses.replace(quick, name="bold", steps=(40,))
    again, _ = judged_again(third, bold, doors(world), tip, world.now, prometheus=False)
    said = "\n".join(lines(again))
    assert re.search(r"it turns off at \d\d:\d\d:\d\d UTC, SHADOW -> CANARY:\n      errors: ", said)
    assert "would have been at CANARY 40 %, where it was at CANARY 10 %" in said


def test_json_has_both(world: World) -> None:
    tip = world.repo.read()
    again = replay(pasts(tip, world.history()[1].rollout, None, None)[0], policy_of("quick", documents(tip)))
    (data,) = json.loads(views.as_json("replays", [as_data(again)]))["replays"]
    assert data["same"] is True
    assert data["recorded"]["outcome"] == data["replayed"]["outcome"] == Outcome.ROLLED_BACK
    assert data["replayed"]["cause"]["kind"] == CauseKind.FAILED
    assert data["replayed"]["looks"][0]["signal"] == "STARTED"
    assert data["bins"]["errors"]["bins"] > 0
