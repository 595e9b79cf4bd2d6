"""Records in a simulated world: written with what they tell of, whole at the end, and enough to judge again."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pipelines.commands.asks import ask
from pipelines.defaults import built_in_documents
from policies.config_repo_documents import parse_repo, with_defaults
from policies.documents import Bake, RolloutPolicy
from policies.judge import states
from policies.layout import record_path, release_path
from policies.past_rollout import finished, under_way
from policies.record import recorded_evidence
from policies.release import CauseKind, Outcome, Phase, Wish
from policies.replay import replay
from policies.rollout_record import HistoryRecord, Record
from policies.stored_documents import parse_record, parse_release
from policies.verdict import VerdictKind
from tests.simulation.world import BAD, BIN, BROKEN, HEALTHY, MODEL, Truth, World

RECORD = record_path("production", MODEL)
RELEASE = release_path("production", MODEL)


def world(*, seed: int = 3) -> World:
    """v1 serves."""
    found = World(seed)
    found.promote(found.register(HEALTHY))
    found.settle()
    return found


def rolled(found: World, truth: Truth = HEALTHY, seconds: float = 0) -> World:
    """Another version has been on its way for that long."""
    found.promote(found.register(truth))
    if seconds:
        found.pass_time(seconds)
    return found


def record_of(found: World) -> Record:
    text = found.repo.read().files[RECORD]
    return parse_record(text)


def last(found: World) -> HistoryRecord:
    return found.history()[-1]


def policy_of(found: World) -> RolloutPolicy:
    return parse_repo(with_defaults(found.repo.read().files, built_in_documents())).policies["quick"]


# --- edited by hand -----------------------------------------------------------------------------------------------


def _edited(found: World, change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(str(found.repo.read().files[RECORD]))
    change(data)
    return json.dumps(data)


def _bins_of(count: float) -> Callable[[dict[str, Any]], object]:
    return lambda d: d["evidence"][0].update(candidate=[[count, 0]], stable=[[count, 0]], pairs=None, rescued=None)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "bins of NaN": _bins_of(math.nan),
    "bins of infinity": _bins_of(math.inf),
    "bins of 1e308": _bins_of(1e308),
    "since the year 1": lambda d: d["evidence"][0].update(since="0001-01-01T00:00:00Z"),
    "since the year 2000": lambda d: d["evidence"][0].update(since="2000-01-01T00:00:00Z"),
    "since the year 9999": lambda d: d["evidence"][0].update(since="9999-12-31T23:59:59Z"),
    "an endless window": lambda d: d["evidence"][0].update(window_s=1e300),
    "endless bins": lambda d: d["evidence"][0].update(width_s=1e300),
    "a look in the year 1": lambda d: d["looks"][0].update(at="0001-01-01T00:00:00+10:00"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize(("truth", "outcome"), [(HEALTHY, Outcome.PROMOTED), (BAD, Outcome.ROLLED_BACK)])
def test_whatever_a_person_writes_into_a_record_the_rollout_goes_on_without_it(
    edit: Callable[[dict[str, Any]], object], truth: Truth, outcome: Outcome
) -> None:
    found = rolled(world())
    found.run_until(lambda: found.release is not None and found.release.phase is Phase.CANARY)
    found.step()
    assert found.release is not None
    assert found.release.candidate is not None
    found.truths[found.release.candidate.digest] = truth
    found.repo.person_commits({RECORD: _edited(found, edit)})
    found.run_until(lambda: len(found.history()) == 2)
    assert last(found).outcome is outcome


# --- where it lies ----------------------------------------------------------------------------------------------


def test_a_look_is_recorded_in_the_commit_that_it_makes() -> None:
    found = rolled(world(), seconds=60)
    commits = [found.repo.commits[entry.commit] for entry in found.repo.log(30, RELEASE)]
    running = [c.files for c in commits if RECORD in c.files]
    assert len(running) > 3
    for files in running:
        release, record = parse_release(str(files[RELEASE])), parse_record(str(files[RECORD]))
        assert release.rollout is not None
        assert record.rollout == release.rollout.id
        assert record.looks[-1].following is release.phase
        assert record.looks[-1].weight_percent == release.weight_percent


def test_each_look_names_the_commit_that_it_looked_at() -> None:
    found = rolled(world())
    found.settle()
    record = last(found).record
    assert record is not None
    for look in record.looks:
        (decision,) = [c for c in found.repo.commits.values() if c.parent == look.tip]
        assert last(found).rollout in decision.message


def test_the_state_of_the_tests_is_kept_at_each_step_and_recomputable_from_the_bins() -> None:
    found = rolled(world())
    found.settle()
    record = last(found).record
    assert record is not None
    (kept,) = record.state
    bins = recorded_evidence(record)
    again = states(bins, policy_of(found), now=kept.until, dispersion=last(found).dispersion)
    assert again == (kept,)


def test_at_the_end_it_moves_into_the_history() -> None:
    found = rolled(world())
    found.settle()
    assert RECORD not in found.repo.read().files
    record = last(found).record
    assert record is not None
    assert [look.signal for look in record.looks][:3] == ["STARTED", "READY_FOR_SHADOW", "LIVE"]
    assert record.looks[-1].signal == "SETTLED"
    assert record.policy["name"] == "quick"


def test_every_look_of_a_rollback_is_there_with_its_figures() -> None:
    found = rolled(world(), BAD)
    found.settle()
    record = last(found).record
    assert record is not None
    stopped = next(look for look in record.looks if look.signal == "STOPPED")
    (measure,) = stopped.measures
    assert stopped.verdict is VerdictKind.FAIL
    assert stopped.mean_harm is not None
    assert stopped.mean_harm >= 2
    assert measure.candidate_bad > 20
    assert measure.lower is not None
    assert measure.lower > measure.allowed
    assert [look.signal for look in record.looks[-2:]] == ["LIVE", "ENDED"]


def test_the_recorded_bins_are_what_was_counted() -> None:
    found = rolled(world())
    found.settle()
    record = last(found).record
    assert record is not None
    (evidence,) = record.evidence
    seen = record.looks[-1].measures[0]
    assert sum(total for total, _ in evidence.candidate) == seen.candidate_total
    assert sum(bad for _, bad in evidence.stable) == seen.stable_bad
    assert evidence.until == seen.until


def test_a_rollout_that_is_removed_takes_its_record_into_its_history() -> None:
    found = rolled(world(), seconds=40)
    found.repo.person_commits({"models/fraud.yaml": None})
    found.pass_time(20)
    assert RECORD not in found.repo.read().files
    assert last(found).cause is not None
    record = last(found).record
    assert record is not None
    assert record.looks[-1].signal == "ENDED"


# --- what people do to it ---------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_read_is_said_and_begun_anew() -> None:
    found = rolled(world(), seconds=40)
    found.repo.person_commits({RECORD: "{"})
    tick = found.step()
    assert tick is not None
    assert any(RECORD in problem and "goes on without it" in problem for problem in tick.problems)
    found.settle()
    record = last(found).record
    assert last(found).outcome is Outcome.PROMOTED
    assert record is not None
    assert record.evidence[0].since == next(p.live_since for p in last(found).phases if p.phase is Phase.SHADOW)


def test_a_record_that_is_gone_is_begun_anew() -> None:
    found = rolled(world(), seconds=40)
    found.repo.person_commits({RECORD: None})
    found.settle()
    assert last(found).outcome is Outcome.PROMOTED


def test_looks_that_a_revert_takes_back_were_all_the_same() -> None:
    found = rolled(world())
    found.run_until(lambda: found.release is not None and found.release.phase is Phase.CANARY)
    before = [look.signal for look in record_of(found).looks]
    found.repo.revert(found.repo.branch_tip or "")
    found.pass_time(10)
    after = record_of(found).looks
    assert [look.signal for look in after][: len(before)] == before
    assert after[len(before)].actor.startswith("Ada")
    assert after[len(before)].following is Phase.PAUSED


def test_a_wish_is_recorded_with_who_and_why() -> None:
    found = rolled(world(), seconds=30)
    found.ask(Wish.PAUSE)
    found.pass_time(10)
    look = record_of(found).looks[-1]
    assert (look.actor, look.following) == ("Ada", Phase.PAUSED)
    assert look.ask is not None
    assert (look.ask.wish, look.ask.why) == (Wish.PAUSE, "a person wants it")


# --- Prometheus that forgot -------------------------------------------------------------------------------------


def test_a_proof_outlives_the_prometheus_that_gave_it() -> None:
    """Another Prometheus takes its place, and another reconciler its own: nobody remembers but Git."""
    found = rolled(world())
    found.run_until(lambda: found.release is not None and found.release.phase is Phase.CANARY)
    proved = record_of(found).looks[-1].measures[0].proved_at
    assert proved is not None
    found.replace_prometheus()
    found.restart()
    found.settle()
    record = last(found).record
    assert last(found).outcome is Outcome.PROMOTED
    assert record is not None
    assert record.looks[-1].measures[0].proved_at == proved


# --- judged again -----------------------------------------------------------------------------------------------


def paused_and_resumed(found: World) -> None:
    rolled(found, seconds=40)
    found.ask(Wish.PAUSE)
    found.pass_time(20)
    found.ask(Wish.RESUME)


def without_metrics_for_a_while(found: World) -> None:
    rolled(found, seconds=40)
    found.metrics.go_away()
    found.pass_time(120)
    found.metrics.come_back()


def withdrawn(found: World) -> None:
    version = found.register(HEALTHY)
    found.promote(version)
    found.pass_time(40)
    found.archive(version)


def aborted(found: World) -> None:
    rolled(found, seconds=50)
    found.ask(Wish.ABORT)


def guarded(found: World) -> None:
    rolled(found, seconds=30)
    assert found.release is not None
    assert found.release.candidate is not None
    found.metrics.trip(found.release.candidate, found.now)


def promoted_by_a_person(found: World) -> None:
    rolled(found, seconds=30)
    found.ask(Wish.PROMOTE)


def undone(found: World) -> None:
    rolled(found)
    found.settle()
    ask(found.repo, Wish.UNDO, MODEL, "production", by="Ada", why="complaints")


def new_settings(found: World) -> None:
    found.change_settings(2)


STORIES = [
    rolled,
    lambda found: rolled(found, BAD),
    lambda found: rolled(found, BROKEN),
    lambda found: rolled(found, Truth(error_rate=0.009)),
    lambda found: rolled(found, Truth(error_rate=0.02)),
    paused_and_resumed,
    without_metrics_for_a_while,
    withdrawn,
    aborted,
    guarded,
    promoted_by_a_person,
    undone,
    new_settings,
]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("story", STORIES)
def test_with_its_own_policy_a_replay_gives_the_recorded_decisions(story, seed) -> None:
    found = world(seed=seed)
    story(found)
    found.settle()
    for history in found.history():
        again = replay(finished(history), policy_of(found))
        assert history.record is not None
        was = [(look.signal, look.at, look.phase, look.following) for look in history.record.looks]
        assert [(look.signal, look.at, look.phase, look.following) for look in again.looks] == was
        assert (again.outcome, again.ended_at) == (history.outcome, history.ended_at)
        assert again.same
        assert again.unknown == ()


@pytest.mark.parametrize("seconds", [1.7, 4.1])
def test_looks_that_are_not_at_the_edges_of_bins_are_repeated_too(seconds: float) -> None:
    found = World(5)
    found.now += timedelta(seconds=seconds)
    found.promote(found.register(HEALTHY))
    found.settle()
    rolled(found)
    found.settle()
    again = replay(finished(last(found)), policy_of(found))
    assert last(found).record is not None
    assert [(x.signal, x.at) for x in again.looks] == [(x.signal, x.at) for x in last(found).record.looks]


def test_a_record_that_was_begun_anew_on_the_way_is_judged_again() -> None:
    found = rolled(world(), seconds=40)
    found.repo.person_commits({RECORD: None})
    found.settle()
    again = replay(finished(last(found)), policy_of(found))
    assert again.outcome is Outcome.PROMOTED
    assert again.same


def test_a_rollout_under_way_is_judged_again_up_to_now() -> None:
    found = rolled(world(), seconds=75)
    assert found.release is not None
    assert found.release.phase is Phase.CANARY
    again = replay(under_way(found.release, record_of(found)), policy_of(found))
    assert (again.outcome, again.same) == (None, True)
    assert [look.signal for look in again.looks] == [look.signal for look in record_of(found).looks]


def test_a_stricter_policy_would_have_gone_on_waiting() -> None:
    found = rolled(world())
    found.settle()
    strict = dataclasses.replace(policy_of(found), beta=1e-9)
    again = replay(finished(last(found)), strict)
    assert (again.outcome, again.same) == (None, False)
    assert any("it would have seen other requests" in words for words in again.unknown)
    assert any("what would have followed is not known" in words for words in again.unknown)


def test_a_policy_that_bakes_longer_takes_its_steps_later() -> None:
    found = rolled(world())
    found.settle()
    policy = policy_of(found)
    slower = dataclasses.replace(policy, shadow=Bake(min_duration=timedelta(seconds=70), max_duration=BIN * 60))
    again = replay(finished(last(found)), slower)
    live = next(p.live_since for p in last(found).phases if p.phase is Phase.SHADOW)
    would_be = next(p.since for p in again.phases if p.phase is Phase.CANARY)
    assert live is not None
    assert would_be == live + timedelta(seconds=70)
    assert not again.same


def test_a_policy_without_shadow_shows_users_the_bad_version_and_says_what_is_a_guess() -> None:
    found = rolled(world(), BAD)
    found.settle()
    again = replay(finished(last(found)), dataclasses.replace(policy_of(found), shadow=None))
    assert [p.phase for p in again.phases] == [Phase.WARMING, Phase.CANARY, Phase.ROLLING_BACK]
    assert again.outcome is Outcome.ROLLED_BACK
    assert not again.same


def test_a_longer_patience_with_metrics_would_not_have_paused() -> None:
    found = world()
    without_metrics_for_a_while(found)
    found.settle()
    patient = dataclasses.replace(policy_of(found), metrics_deadline=timedelta(minutes=4))
    again = replay(finished(last(found)), patient)
    assert Phase.PAUSED in [p.phase for p in last(found).phases]
    assert Phase.PAUSED not in [p.phase for p in again.phases]


def test_without_a_guard_the_judge_stops_it() -> None:
    found = world()
    found.promote(found.register(BAD))
    found.run_until(lambda: found.release is not None and found.release.phase is Phase.SHADOW)
    assert found.release is not None
    assert found.release.candidate is not None
    found.metrics.trip(found.release.candidate, found.now)
    found.settle()
    assert last(found).cause is not None
    assert last(found).cause.kind is CauseKind.GUARD
    again = replay(finished(last(found)), dataclasses.replace(policy_of(found), guard=None))
    assert again.cause is None or again.cause.kind is not CauseKind.GUARD
