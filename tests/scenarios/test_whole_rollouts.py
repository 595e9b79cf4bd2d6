"""Whole rollouts in the simulated world, each to its fixed point: tick again, nothing to do."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from policies.evidence import Bin, Counts
from policies.release import CauseKind, Outcome, Phase
from tests.simulation.world import BAD, BREAKS, BROKEN, World


def serving(world: World, version: int) -> bool:
    release = world.release
    return release is not None and release.phase is Phase.STEADY and _stable(world) == version


def _stable(world: World) -> int | None:
    release = world.release
    return release.stable.version if release and release.stable else None


def with_first() -> World:
    world = World()
    world.promote(world.register())
    world.run_until(lambda: serving(world, 1))
    return world


def assert_at_rest(world: World) -> None:
    world.settle()
    before = world.repo.branch_tip, len(world.serve.submits), world.registry.snapshot(["fraud"])
    for _ in range(5):
        world.step()
    assert (world.repo.branch_tip, len(world.serve.submits), world.registry.snapshot(["fraud"])) == before
    assert not world.reconciler.plan().moves


def test_a_first_version_is_served():
    world = with_first()
    assert world.outcomes() == [(1, Outcome.PROMOTED)]
    assert_at_rest(world)


def test_a_healthy_version_is_promoted_step_by_step_and_no_request_is_lost():
    world = with_first()
    lost = world.unanswered
    world.promote(world.register())
    world.run_until(lambda: serving(world, 2))
    phases = [(record.phase, record.weight_percent) for record in world.history()[-1].phases]
    assert phases == [
        (Phase.WARMING, 0),
        (Phase.SHADOW, 0),
        (Phase.CANARY, 10),
        (Phase.CANARY, 50),
        (Phase.SETTLING, 100),
    ]
    assert world.unanswered == lost
    assert_at_rest(world)


def test_every_commit_of_a_rollout_names_it_the_last_one_too():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: serving(world, 2))
    rollout = world.history()[-1].rollout
    of_it = [entry.subject for entry in world.repo.log(100) if entry.trailers.get("Sluice-Rollout") == rollout]
    assert of_it[-1].endswith("v2 STEADY -> WARMING")
    assert of_it[0].endswith("v2 promoted: SETTLING -> STEADY")


def test_a_bad_version_is_rolled_back_in_git_and_ray_and_the_registry_agrees():
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: len(world.history()) == 2 and serving(world, 1))
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    shown = world.registry.snapshot(["fraud"]).models["fraud"]
    assert (shown[1].stage, shown[2].stage) == ("Production", "Archived")
    assert shown[2].tags["sluice.production.phase"] == "QUARANTINED"
    assert_at_rest(world)


def test_a_bad_version_stays_down_and_comes_back_only_by_a_persons_hand():
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: len(world.history()) == 2 and serving(world, 1))
    world.pass_time(300)
    assert len(world.history()) == 2
    world.promote(2)
    world.run_until(lambda: len(world.history()) == 3)
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)


def test_a_version_that_cannot_start_never_gets_traffic():
    world = with_first()
    world.promote(world.register(BROKEN))
    world.run_until(lambda: len(world.history()) == 2)
    assert {record.phase for record in world.history()[-1].phases} == {Phase.WARMING, Phase.ROLLING_BACK}
    assert_at_rest(world)


def test_metrics_that_go_away_in_a_canary_freeze_it_and_it_goes_on_when_they_return():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    world.metrics.go_away()
    world.pass_time(45)
    assert (world.release.phase, world.release.weight_percent) == (Phase.CANARY, 10)
    world.pass_time(60)
    assert (world.release.phase, world.release.weight_percent) == (Phase.PAUSED, 10)
    assert world.release.rollout.cause.kind is CauseKind.NO_METRICS
    world.metrics.come_back()
    world.run_until(lambda: serving(world, 2))


def test_a_revert_of_a_promotion_goes_back_without_a_lost_request_and_stays():
    world = with_first()
    world.promote(world.register(), archive=False)
    world.run_until(lambda: serving(world, 2))
    lost = world.unanswered
    promotion = next(s for s in world.repo._history(world.repo.branch_tip) if "promoted" in s.message)
    world.repo.revert(promotion.hash)
    world.run_until(lambda: serving(world, 1))
    assert world.unanswered == lost
    world.pass_time(120)
    assert serving(world, 1)
    assert_at_rest(world)


def test_new_settings_are_rolled_out_like_a_new_version():
    world = with_first()
    world.change_settings(2)
    world.run_until(lambda: world.release.stable.settings.cpus == 2)
    assert world.release.stable.version == 1
    assert_at_rest(world)


def test_ray_that_comes_back_empty_is_filled_again():
    world = with_first()
    world.serve.restart_empty()
    world.pass_time(60)
    assert world.serve.answering("/models/fraud") is not None
    assert_at_rest(world)


@pytest.mark.parametrize("path", ["environments/production/serve.yaml", "environments/production/releases/fraud.yaml"])
def test_a_tip_without_what_serves_is_refused_and_said(path):
    world = with_first()
    submits = len(world.serve.submits)
    world.repo.person_commits({path: None})
    tick = world.step()
    world.pass_time(30)
    assert "bring" in " ".join(tick.problems)
    assert len(world.serve.submits) == submits
    assert world.serve.answering("/models/fraud") is not None


def test_a_rewritten_branch_is_refused_and_said():
    world = with_first()
    first = world.repo._history(world.repo.branch_tip)[-1].hash
    world.repo.force_push(first)
    tick = world.step()
    assert "does not descend" in " ".join(tick.problems)
    assert world.serve.answering("/models/fraud") is not None


@pytest.mark.parametrize("slip", BREAKS)
def test_a_broken_document_is_said_at_every_look_and_a_bad_candidate_is_rolled_back_all_the_same(slip):
    world = with_first()
    world.promote(world.register(BAD))
    world.run_until(lambda: world.release.phase is Phase.WARMING)
    world.repo.person_commits(slip)
    world.pass_time(15)
    world.restart()
    world.run_until(lambda: len(world.history()) == 2 and serving(world, 1))
    assert world.outcomes()[-1] == (2, Outcome.ROLLED_BACK)
    tick = world.step()
    assert "models/" in " ".join(tick.problems) or "policies/" in " ".join(tick.problems)
    assert tick.plan is not None
    assert "/models/fraud" in str(world.serve.submits[-1])
    assert "aaa" not in str(world.serve.submits[-1])


def test_a_document_that_was_broken_and_mended_counts_again():
    world = with_first()
    for broken in ("kind: Modle\n", "kind: Mudel\n"):
        world.repo.person_commits({"models/fraud.yaml": broken})
        world.pass_time(15)
    world.change_settings(2)
    world.run_until(lambda: world.release.stable.settings.cpus == 2)
    assert not world.step().problems


def test_a_removed_document_removes_the_model():
    world = with_first()
    world.repo.person_commits({"models/fraud.yaml": None})
    world.pass_time(60)
    assert world.release is None


def test_a_model_that_was_removed_and_comes_back_is_served_and_its_next_version_gets_its_share():
    """Ray keeps its last application, whose replicas ignore a lower revision than they know."""
    world = with_first()
    for version in (2, 3):
        world.promote(world.register())
        world.run_until(lambda: serving(world, version))  # noqa: B023 - called before the loop goes on
    world.pass_time(60)
    world.repo.person_commits({"models/fraud.yaml": None})
    world.pass_time(60)
    assert world.release is None
    world.mend()
    world.run_until(lambda: serving(world, 3))
    world.promote(world.register())
    world.run_until(lambda: serving(world, 4))
    assert_at_rest(world)


def test_git_that_is_away_changes_nothing_and_the_rollout_goes_on_when_it_returns():
    world = with_first()
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    world.repo.outage()
    tick = world.step()
    assert "away" in " ".join(tick.problems)
    world.pass_time(30)
    world.repo.recover()
    world.run_until(lambda: serving(world, 2))


def test_two_that_enter_at_once_are_refused_until_a_person_leaves_one():
    world = with_first()
    second, third = world.register(), world.register()
    world.promote(second, archive=False)
    world.promote(third, archive=False)
    tick = world.step()
    assert "v2 and v3" in " ".join(wait.reason for wait in tick.waits)
    world.archive(second)
    world.run_until(lambda: serving(world, 3))
    assert world.outcomes()[-1] == (3, Outcome.PROMOTED)


class OneReadLate:
    """A repo whose first read shows the branch as it was before somebody else's commit."""

    def __init__(self, repo, before) -> None:
        self._repo, self._before = repo, [before]

    def __getattr__(self, name) -> object:
        return getattr(self._repo, name)

    def read(self):
        return self._before.pop() if self._before else self._repo.read()


def test_a_commit_that_came_in_between_is_no_rewritten_branch():
    world = with_first()
    before = world.repo.read()
    world.repo.mark_applied("production", world.repo.person_commits({"models/README.md": "for people\n"}))
    tick = world.reconciler_on(OneReadLate(world.repo, before)).tick()
    assert "moved while it was looked at" in " ".join(tick.remarks)
    assert not tick.problems


def test_a_race_that_is_lost_is_a_remark_and_no_problem():
    world = with_first()
    world.promote(world.register())
    world.repo.conflict_next_push()
    tick = world.step()
    assert "somebody else committed first" in " ".join(tick.remarks)
    assert (tick.problems, tick.commit, tick.submitted) == ((), None, ())
    assert world.step().commit is not None


class OfTheEndOfTime:
    """Metrics whose bins of one model are of the last second that there is: nothing can be added to it."""

    def __init__(self, metrics, model: str) -> None:
        self._metrics, self._model = metrics, model

    def __getattr__(self, name) -> object:
        return getattr(self._metrics, name)

    def evidence(self, requests, now):
        late = Bin(datetime.max.replace(tzinfo=UTC), Counts(9, 9), Counts(9, 0))
        answers = self._metrics.evidence(requests, now)
        return {
            model: tuple(dataclasses.replace(e, bins=(*e.bins, late)) for e in answer)
            if model == self._model
            else answer
            for model, answer in answers.items()
        }


def test_a_model_that_cannot_be_decided_waits_and_says_so_and_keeps_no_other_from_its_way():
    world = World(models=("fraud", "churn"))
    world.prometheuses["production"] = OfTheEndOfTime(world.prometheuses["production"], "fraud")
    world.restart()
    fraud, churn = world.places
    for place in world.places:
        place.promote(world.register(model=place.model))
    world.run_until(lambda: bool(churn.outcomes()))
    assert churn.outcomes() == [(1, Outcome.PROMOTED)]
    assert not fraud.outcomes()
    assert "nothing can be decided, for a document or a record holds" in " ".join(w.reason for w in world.step().waits)
