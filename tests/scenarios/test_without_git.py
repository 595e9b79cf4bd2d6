"""Git that cannot be reached never keeps a failing candidate in traffic; what was done without it is recorded after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.reconciler import LAST_TIP_COUNTS
from policies.errors import Retry
from policies.holding import Stop, with_holds
from policies.release import Cause, CauseKind, Outcome, Phase, Release, Wish
from tests.simulation.world import BAD, HEALTHY, POLICY, PRODUCTION, STAGING, Line, Place, World


def with_bad_candidate(truth=BAD, *, phase: Phase = Phase.CANARY) -> World:
    """v1 serves, v2 has its first share, and nobody has judged it yet: the metrics were away meanwhile."""
    world = World()
    world.promote(world.register())
    world.run_until(lambda: len(world.history()) == 1)
    version = world.register()  # healthy until it has its share
    world.promote(version)
    world.run_until(lambda: world.release.phase is phase and world.release.rollout.current.live_since is not None)
    world.truths[world.release.candidate.digest] = truth
    return world


def gives(submit: Any, version: int) -> bool:
    """Does this submit tell a host to send requests or copies to the version?"""
    splits = [told["split"] for told in _user_configs(submit)]
    return any(s and s["version"] == version and (s["weight_percent"] or s["shadow"]) for s in splits)


def _user_configs(submit) -> Iterator[Any]:
    return (d["user_config"] for app in submit["applications"] for d in app["deployments"])


def held(world: World) -> bool:
    return any(told["hold"] for told in _user_configs(world.serve.submits[-1]))


def assert_never_put_back(world: World, version: int = 2) -> None:
    """After it was taken away, no submit ever made gave this version a request again."""
    given = [gives(submit, version) for submit in world.serve.submits]
    taken = given.index(False, given.index(True))
    assert not any(given[taken:]), world.serve.submits[taken:]


def assert_recorded(world: World, *, kind: CauseKind = CauseKind.FAILED) -> None:
    """The rollback is in Git with its evidence, the registry was told, nothing is held, and nobody went without."""
    world.settle()
    record = world.history()[-1]
    assert (record.version, record.outcome, record.cause.kind) == (2, Outcome.ROLLED_BACK, kind)
    assert [q.version for q in world.release.quarantine] == [2]
    assert "without a commit" in " ".join(record.cause.reasons)
    assert world.versions[2].stage == "Archived"
    assert world.versions[2].tags["sluice.production.phase"] == "QUARANTINED"
    assert not held(world)
    assert_never_put_back(world)
    assert world.unanswered == 0
    assert not world.step().problems
    assert not world.reconciler.plan().moves


def test_git_is_away_before_the_fail():
    world = with_bad_candidate()
    world.repo.outage()
    tip = world.repo.branch_tip
    world.run_until(lambda: held(world), minutes=5)
    world.step()
    assert world.serve.told(world.release.stable.name("fraud"))["split"]["weight_percent"] == 0
    assert world.serve.told(world.release.candidate.name("fraud"))["drain"]
    world.pass_time(300)
    assert world.repo.branch_tip == tip
    world.repo.recover()
    world.step()
    assert world.release.phase is Phase.ROLLING_BACK
    assert "e-value" in " ".join(world.release.rollout.cause.reasons)
    assert_recorded(world)


@pytest.mark.parametrize("readable", [True, False])
def test_git_goes_away_before_the_first_share_is_known_to_be_live(readable):
    """That every replica has it is a commit; without Git it is remembered, or nothing would ever be judged."""
    world = World()
    world.repo.person_commits({"policies/quick.yaml": POLICY.replace("shadow: {", "shadow: null  # {") % "[10, 50]"})
    world.promote(world.register())
    world.run_until(lambda: len(world.history()) == 1)
    world.promote(world.register(BAD))
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    assert world.release.rollout.current.live_since is None
    if readable:
        world.repo.refuses = "this branch is protected"
    else:
        world.repo.outage()
    world.run_until(lambda: held(world), minutes=5)
    world.repo.refuses = None
    assert_recorded(world)


def test_a_stop_without_git_is_one_submit_that_changes_two_user_configs_and_nothing_else():
    world = with_bad_candidate()
    before = world.serve.submits[-1]
    world.repo.outage()
    world.run_until(lambda: held(world), minutes=5)
    (stop,) = (s for s in world.serve.submits if any(told["hold"] for told in _user_configs(s)))
    changed = {"revision", "hold", "held", "drain", "split"}
    for app, app_before in zip(stop["applications"], before["applications"], strict=True):
        assert {**app, "deployments": None} == {**app_before, "deployments": None}
        (told,), (told_before,) = ([d.pop("user_config") for d in a["deployments"]] for a in (app, app_before))
        assert app == app_before
        assert {k: v for k, v in told.items() if k not in changed} == {
            k: v for k, v in told_before.items() if k not in changed
        }
        assert told["revision"] > told_before["revision"]


def test_what_was_done_without_git_and_since_when_is_said_at_every_look():
    world = with_bad_candidate()
    world.repo.outage()
    since = f"{world.now:%H:%M}"
    world.run_until(lambda: held(world), minutes=5)
    for _ in range(3):
        said = " | ".join(world.step().problems)
        assert f"nothing can be committed since {since}" in said
        assert "fraud (production): v2 is held out of traffic; its rollback is still to be committed" in said
        assert "e-value" in said


def test_git_goes_away_at_the_commit():
    world = with_bad_candidate()
    world.reconciler = world.reconciler_on(_AwayAtTheCommit(world.repo))
    world.run_until(lambda: held(world), minutes=5)
    assert world.release.phase is Phase.CANARY
    world.pass_time(60)
    world.restart()
    assert_recorded(world)


class _AwayAtTheCommit:
    """Git that can be read and, from the first rollback on, not be written."""

    def __init__(self, repo) -> None:
        self._repo = repo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repo, name)

    def commit(self, parent, changes, message) -> str:
        if "ROLLING_BACK" in message:
            raise Retry("the config repo is away: no route to host")
        return self._repo.commit(parent, changes, message)


def test_a_server_that_takes_no_commit_is_no_better_than_one_that_is_away():
    world = with_bad_candidate()
    world.repo.refuses = "this branch is protected"
    world.run_until(lambda: held(world), minutes=5)
    assert "this branch is protected" in " ".join(world.step().problems)
    world.repo.refuses = None
    assert_recorded(world)


def test_the_answer_to_the_push_of_a_rollback_is_lost_and_git_stays_away():
    world = with_bad_candidate()
    world.repo.lose_next_answer = True
    world.run_until(lambda: world.release.phase is Phase.ROLLING_BACK)
    world.repo.outage()
    assert held(world)
    world.pass_time(60)
    world.repo.recover()
    world.settle()
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    assert not held(world)
    assert_never_put_back(world)
    assert world.unanswered == 0


@pytest.mark.parametrize("metrics_are_away", [False, True])
def test_killed_after_the_stop_and_started_elsewhere(metrics_are_away):
    """The new process has no memory: what Ray shows is enough, also where the evidence cannot be read any more."""
    world = with_bad_candidate()
    world.repo.outage()
    world.run_until(lambda: held(world), minutes=5)
    world.restart()
    said = " ".join(world.step().problems)
    assert "has not seen the config repo yet" in said
    world.pass_time(60)
    assert held(world)
    if metrics_are_away:
        world.metrics.go_away()
    world.repo.recover()
    world.step()
    assert world.release.phase is Phase.ROLLING_BACK
    assert "e-value" in " ".join(world.release.rollout.cause.reasons)
    assert_recorded(world)


def test_a_process_that_never_saw_git_says_that_it_can_do_nothing():
    world = with_bad_candidate()
    world.repo.outage()
    world.restart()
    submits = len(world.serve.submits)
    world.pass_time(120)
    assert "can stop nothing" in " ".join(world.step().problems)
    assert len(world.serve.submits) == submits
    world.repo.recover()
    world.run_until(lambda: world.release.phase is Phase.ROLLING_BACK, minutes=1)


def test_a_tip_that_was_seen_too_long_ago_stops_nothing():
    world = with_bad_candidate(HEALTHY)
    world.repo.outage()
    world.step()
    world.now += LAST_TIP_COUNTS
    turns_bad(world)
    world.pass_time(300)
    assert "too long ago to stop anything by it" in " ".join(world.step().problems)
    assert not held(world)


def turns_bad(world: World) -> None:
    world.truths[world.release.candidate.digest] = BAD


def test_two_reconcilers_of_which_only_one_has_git():
    """The one with Git is the faster one here: the other has nothing left to stop, and does not disturb."""
    world = with_bad_candidate(HEALTHY)
    line = Line(world.repo)
    world.rival, world.reconciler = world.reconciler, world.reconciler_on(line)
    world.step()
    line.cut = True
    turns_bad(world)
    world.run_until(lambda: len(world.history()) == 2)
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    assert_never_put_back(world)
    assert world.unanswered == 0
    world.pass_time(120)
    assert not any(told["hold"] for submit in world.serve.submits for told in _user_configs(submit))


def test_the_one_without_git_stops_it_first_and_the_one_with_git_records_it():
    world = with_bad_candidate(HEALTHY)
    line = Line(world.repo)
    other, world.reconciler = world.reconciler, world.reconciler_on(line)
    world.step()
    line.cut = True
    turns_bad(world)
    world.run_until(lambda: held(world), minutes=5)
    assert world.release.phase is Phase.CANARY
    other.tick()
    assert world.release.phase is Phase.ROLLING_BACK
    assert_never_put_back(world)
    line.cut = False
    assert_recorded(world)


def test_one_that_lost_git_long_ago_leaves_it_to_the_one_that_went_on():
    """What it knows of the rollout is out of date: Ray was told more by somebody who has Git."""
    world = with_bad_candidate(HEALTHY)
    line = Line(world.repo)
    late = world.reconciler_on(line)
    late.tick()
    line.cut = True
    world.run_until(lambda: world.release.weight_percent == 50)
    world.step()
    turns_bad(world)
    world.reconciler, with_git = late, world.reconciler
    world.pass_time(300)
    assert "somebody who has Git went on" in " ".join(world.step().problems)
    assert not held(world)
    world.reconciler = with_git
    world.run_until(lambda: len(world.history()) == 2)


def test_a_hold_that_appears_between_look_and_submit_is_not_lifted():
    """A higher share is committed, and before Ray is told of it, somebody without Git has stopped the candidate."""
    world = with_bad_candidate(HEALTHY)
    world.reconciler = world.reconciler_on(_OtherStopsAfterCommit(world))
    world.run_until(lambda: world.release.weight_percent == 50)
    assert held(world)
    world.step()
    assert world.release.phase is Phase.ROLLING_BACK
    assert_recorded(world, kind=CauseKind.GUARD)


class _OtherStopsAfterCommit:
    """Git as the one sees it; as soon as it has committed a higher share, the other holds the candidate in Ray."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.repo, name)

    def commit(self, parent, changes, message) -> str:
        before, runtime = self._world.release, self._world.serve
        commit = self._world.repo.commit(parent, changes, message)
        if self._world.release.weight_percent > before.weight_percent:
            cause = Cause(kind=CauseKind.GUARD, reasons=("3 of 3 requests failed",))
            stop = Stop(slug="fraud", release=before, cause=cause, at=self._world.now)
            runtime.apply(with_holds([stop], runtime.observe()))
        return commit


def test_a_persons_revert_while_it_is_held_does_not_put_it_back():
    world = with_bad_candidate()
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    world.repo.outage()
    world.run_until(lambda: held(world), minutes=5)
    world.restart()
    last = world.repo.commits[world.repo.branch_tip]
    world.repo.revert(last.hash)
    world.repo.recover()
    assert_recorded(world)


@pytest.mark.parametrize("wish", [Wish.PAUSE, Wish.ABORT])
def test_a_persons_wish_while_it_is_held_does_not_put_it_back(wish):
    world = with_bad_candidate()
    world.repo.outage()
    world.run_until(lambda: held(world), minutes=5)
    world.restart()
    world.repo.recover()
    world.ask(wish)
    assert_recorded(world)


def test_a_first_version_is_not_stopped_without_git_for_nobody_could_answer_in_its_place():
    world = World()
    world.promote(world.register())
    world.run_until(lambda: world.release is not None and world.release.phase is Phase.SETTLING)
    world.step()
    world.truths[world.release.candidate.digest] = BAD
    world.repo.outage()
    world.pass_time(300)
    assert "no stable version that could answer in its place" in " ".join(world.step().problems)
    assert world.serve.answering("/models/fraud") is not None


def test_a_healthy_candidate_keeps_its_share_and_gets_no_more_while_git_is_away():
    world = with_bad_candidate(HEALTHY)
    submits = len(world.serve.submits)
    world.repo.outage()
    world.pass_time(600)
    assert len(world.serve.submits) == submits
    world.repo.recover()
    world.run_until(lambda: world.outcomes()[-1] == (2, Outcome.PROMOTED))


def test_a_person_may_try_again_what_was_held():
    world = with_bad_candidate()
    world.repo.outage()
    world.run_until(lambda: held(world), minutes=5)
    world.repo.recover()
    world.run_until(lambda: len(world.history()) == 2)
    world.settle()
    world.truths[world.history()[-1].digest] = HEALTHY
    world.promote(2)
    world.run_until(lambda: world.outcomes()[-1] == (2, Outcome.PROMOTED), minutes=60)
    assert world.unanswered == 0


# --- a tip that is refused -----------------------------------------------------------------------------------------


def two_canaries() -> tuple[World, Place, Place]:
    """Two models in one environment, each with a candidate that has its first share and is well."""
    world = World(models=("fraud", "churn"))
    for place in world.places:
        place.promote(world.register(model=place.model))
    world.run_until(lambda: all(place.outcomes() for place in world.places))
    for place in world.places:
        place.promote(world.register(model=place.model))
    world.run_until(lambda: all(has_share(place.release) for place in world.places))
    return world, *world.places


def has_share(release: Release | None) -> bool:
    return release is not None and release.phase is Phase.CANARY and release.rollout.current.live_since is not None


def told_to_give(place: Place) -> bool:
    """Does what Ray was told last give this place's candidate requests?"""
    candidate = place.serving.candidate.name(place.model)
    told = [told["split"] for told in _user_configs(place.serve.submits[-1])]
    return any(s and s["application"] == candidate and (s["weight_percent"] or s["shadow"]) for s in told)


REFUSED_TIPS = {
    "a release that cannot be read": ("environments/production/releases/fraud.yaml", "kind: Releese\n"),
    "a release that is gone": ("environments/production/releases/fraud.yaml", None),
    "a Serve config that is gone": ("environments/production/serve.yaml", None),
}


@pytest.mark.parametrize(("path", "text"), REFUSED_TIPS.values(), ids=REFUSED_TIPS)
@pytest.mark.parametrize("sick", [0, 1])
def test_a_tip_that_is_refused_keeps_no_failing_candidate_in_traffic(path, text, sick):
    """The one that fails is the model whose release is broken, or the other: it is held, and recorded once mended."""
    world, *places = two_canaries()
    place, stays = places[sick], places[1 - sick]
    world.step()
    candidate, good = place.release.candidate, world.tip.files[path]
    world.repo.person_commits({path: text})
    tip = world.repo.branch_tip
    world.truths[candidate.digest] = BAD
    world.run_until(lambda: held(world), minutes=5)
    said = " ".join(world.step().problems)
    assert f"{place.model} (production): v2 is held out of traffic; its rollback is still to be committed" in said
    assert path in said
    world.pass_time(60)
    assert world.repo.branch_tip == tip
    world.repo.person_commits({path: good})
    assert not told_to_give(place)
    assert told_to_give(stays)
    world.run_until(lambda: len(place.history()) == 2, minutes=10)
    record = place.history()[-1]
    assert (record.outcome, record.cause.kind) == (Outcome.ROLLED_BACK, CauseKind.FAILED)
    assert "without a commit" in " ".join(record.cause.reasons)
    world.run_until(lambda: len(stays.history()) == 2)
    assert stays.outcomes()[-1] == (2, Outcome.PROMOTED)
    assert world.unanswered == 0


def test_a_rewritten_branch_keeps_no_failing_candidate_in_traffic():
    world, fraud, _ = two_canaries()
    world.step()
    candidate = fraud.release.candidate
    world.repo.force_push(world.commits()[0].hash)
    world.truths[candidate.digest] = BAD
    world.pass_time(120)
    assert held(world)
    assert "does not descend" in " ".join(world.step().problems)


def test_a_process_that_starts_on_a_tip_that_cannot_be_read_stops_what_fails_all_the_same():
    world, _, churn = two_canaries()
    world.step()
    world.repo.person_commits({"environments/production/releases/fraud.yaml": "kind: Releese\n"})
    world.restart()
    world.step()
    world.truths[churn.release.candidate.digest] = BAD
    world.run_until(lambda: held(world), minutes=5)
    assert not told_to_give(churn)


def test_an_environment_whose_tip_is_refused_keeps_the_others_from_nothing():
    world = World(environments=(PRODUCTION, STAGING))
    first, second = world.places
    first.promote(world.register())
    second.promote(1)
    world.run_until(lambda: all(place.outcomes() for place in world.places))
    second.promote(world.register())
    world.run_until(lambda: has_share(second.release))
    world.repo.person_commits({first.path: "kind: Releese\n"})
    world.run_until(lambda: second.outcomes()[-1] == (2, Outcome.PROMOTED))
    assert "Releese" in " ".join(world.step().problems)
    assert second.unanswered == 0
