"""Whole stories on the real stack: MLflow, Git over HTTP, Ray Serve, Prometheus, the reconciler as its own process.

A story is a fixture: it happens once, under load, and the tests below it say what must have held. Models are apart, so
stories do not depend on each other's order.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.demo.load import VERSION_HEADER, Counters
from pipelines.local_stack import ENVIRONMENT, LocalStack
from pipelines.processes import LOOPBACK, free_port
from policies.layout import model_path, serve_path
from policies.release import CauseKind, Outcome, Phase, Release
from policies.rollout_record import HistoryRecord
from policies.verdict import VerdictKind
from tests.e2e.brisk_documents import CARRIED, FAULTY, GUARDED, LENIENT, WATCHED, documents, model_text
from tests.e2e.world import CONNECTIONS, STAGE, Begun, World, clear

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]  # the first test waits for the stack and for its story

GOOD = {"scale": 1.0, "unlucky": False}
BETTER = {"scale": 2.0, "unlucky": False}
UNLUCKY = {"scale": 3.0, "unlucky": True}

ROWS_WITH_A_13 = (13.0, *(float(x) for x in range(11)))
"""One real input in twelve, 8 %, is beyond a version that is unlucky; its SLO allows 3 %."""
ROWS_WITH_SLOW_ONES = (50.0, 1.0, 2.0)
"""A third of them takes 0.25 s: at 45 a second, some four are in flight at any moment."""

SEVERAL_LOOKS = 3


@pytest.fixture(scope="module")
def plan_before_anything_runs() -> dict[str, Any]:
    """Filled by `world`."""
    return {}


@pytest.fixture(scope="module")
def branches_when_told() -> list[str]:
    """Filled by `world`: what was at the config repo's address when a person was told it."""
    return []


@pytest.fixture(scope="module")
def world(
    ray_session: RaySession,
    tmp_path_factory: pytest.TempPathFactory,
    plan_before_anything_runs: dict[str, Any],
    branches_when_told: list[str],
) -> Iterator[World]:
    """Every model's first version serves, and the reconciler runs."""
    folder = tmp_path_factory.mktemp("e2e")

    def say(line: str) -> None:
        if line.startswith("Git server"):
            there = subprocess.run(
                ["git", "ls-remote", line.rsplit(maxsplit=1)[-1]], capture_output=True, text=True, check=True
            )
            branches_when_told.append(there.stdout)

    with LocalStack(folder / "stack", ray=ray_session, documents=documents(), reconcile=False, say=say) as stack:
        world = World(folder, stack)
        world.begin(
            [
                Begun(model=CARRIED, configs=[GOOD, BETTER], stable=1),
                Begun(model=FAULTY, configs=[GOOD, BETTER, UNLUCKY], stable=2),
                Begun(model=WATCHED, configs=[GOOD, BETTER], stable=1),
                Begun(model=GUARDED, configs=[GOOD, UNLUCKY], stable=1),
            ]
        )
        planned = world.sluice("plan", "--output", "json")
        plan_before_anything_runs |= {"code": planned.returncode, "said": planned.stdout, "errors": planned.stderr}
        stack.start_reconciler()
        for model, version in ((CARRIED, 1), (FAULTY, 2), (WATCHED, 1), (GUARDED, 1)):
            world.await_steady(model, version)
        yield world
        stack.stop()  # the reconciler first: it would bring back what is cleared
        clear(ray_session)


@pytest.mark.usefixtures("world")
def test_the_config_repo_can_be_cloned_when_its_address_is_said(branches_when_told: list[str]) -> None:
    (branches,) = branches_when_told
    assert "refs/heads/main" in branches


# --- what is seen at the end of a story -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """What was seen when a rollout had ended."""

    release: Release
    record: HistoryRecord
    commits: tuple[str, ...]
    requests: Counters
    git_equals_ray: bool
    stages: Mapping[str, str]
    tags: Mapping[int, Mapping[str, str]]


def ended(world: World, release: Release, requests: Counters) -> Ended:
    model = release.model
    record = world.records(model)[-1]
    stages = world.stages(model)
    return Ended(
        release=release,
        record=record,
        commits=tuple(world.commits(record.rollout)),
        requests=requests,
        git_equals_ray=world.git_equals_ray(),
        stages=stages,
        tags={int(version): world.tags(model, int(version)) for version in stages},
    )


# --- a promotion and a rollback, the reconciler killed in each phase of either ----------------------------------

WALKED = [(Phase.WARMING, 0), (Phase.SHADOW, 0), (Phase.CANARY, 10), (Phase.CANARY, 50), (Phase.SETTLING, 100)]
CAUGHT = [(Phase.WARMING, 0), (Phase.SHADOW, 0), (Phase.ROLLING_BACK, 0)]

Step = tuple[str, Phase, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Story:
    """Two rollouts at once."""

    kills: frozenset[Step]
    promotion: Ended
    rollback: Ended
    later: Ended
    """The model that was rolled back, some looks on."""


def under_way(world: World) -> frozenset[Step]:
    releases = [r for model in (CARRIED, FAULTY) if (r := world.release(model)) is not None]
    return frozenset((r.model, r.phase, r.weight_percent) for r in releases if r.phase is not Phase.STEADY)


def carry_through_kills(world: World) -> frozenset[Step]:
    """Kill the reconciler as soon as Git shows a phase of either rollout that is new, start it again; until the end."""
    kills: set[Step] = set()

    def news() -> frozenset[Step]:
        return under_way(world) - kills

    def over() -> bool:
        carried, faulty = world.release(CARRIED), world.release(FAULTY)
        assert carried is not None
        assert faulty is not None
        arrived = carried.stable is not None and carried.stable.version == 2
        return not under_way(world) and arrived and bool(faulty.quarantine)

    while not over():
        world.wait(lambda: news() or over(), "another phase, or the end", lambda: str(under_way(world)))
        fresh = news()
        if fresh:
            world.kill_reconciler()
            world.stack.start_reconciler()
            kills |= fresh
    return frozenset(kills)


@pytest.fixture(scope="module")
def story(world: World) -> Story:
    """At once, under load: a good version of one model, and of another one that fails on one input in twelve."""
    with world.load(CARRIED) as carried, world.load(FAULTY, ROWS_WITH_A_13) as faulty:
        world.await_answers(carried, 1)
        world.await_answers(faulty, 1)
        world.promote(CARRIED, 2)
        world.promote(FAULTY, 3)
        kills = carry_through_kills(world)
        promoted, rolled_back = world.await_steady(CARRIED, 2), world.await_steady(FAULTY, 2)
        world.await_looks(1)  # the registry is told after Git and Ray
        world.await_answers(carried, 20)
        promotion = ended(world, promoted, carried.stop())
        rollback = ended(world, rolled_back, faulty.counters())
        world.await_looks(SEVERAL_LOOKS)
        later = ended(world, world.await_steady(FAULTY, 2), faulty.stop())
    return Story(kills=kills, promotion=promotion, rollback=rollback, later=later)


@pytest.fixture(scope="module")
def promotion(story: Story) -> Ended:
    return story.promotion


def test_the_reconciler_was_killed_in_every_phase_of_a_promotion_and_of_a_rollback(story: Story) -> None:
    wanted = {(CARRIED, *step) for step in WALKED} | {(FAULTY, *step) for step in CAUGHT}
    assert story.kills == wanted


def test_a_rollout_whose_reconciler_is_killed_in_every_phase_is_promoted(promotion: Ended) -> None:
    assert promotion.release.stable is not None
    assert (promotion.release.phase, promotion.release.stable.version) == (Phase.STEADY, 2)
    assert (promotion.release.candidate, promotion.release.rollout) == (None, None)
    assert promotion.git_equals_ray


def test_a_promotion_fails_no_request_and_ends_with_the_new_version_answering(promotion: Ended) -> None:
    assert promotion.requests.failed == 0, promotion.requests
    assert promotion.requests.by_version.keys() == {"1", "2"}


def test_the_record_of_a_promotion_has_every_phase_with_its_verdict_and_arithmetic(promotion: Ended) -> None:
    record = promotion.record
    assert (record.outcome, record.version, record.stable_version) == (Outcome.PROMOTED, 2, 1)
    assert [(p.phase, p.weight_percent) for p in record.phases] == WALKED
    for phase in record.phases[1:]:
        assert phase.live_since is not None
        assert phase.until is not None
        assert phase.since <= phase.live_since <= phase.until
        assert phase.verdict is VerdictKind.PASS
        assert any("proof e-value" in reason for reason in phase.reasons)
    assert len(promotion.commits) == 1 + 2 * 4 + 1  # WARMING, then each phase and its going live, then the end


def test_the_registry_says_what_serves_after_a_promotion(promotion: Ended) -> None:
    assert promotion.stages == {"1": "Archived", "2": STAGE}
    assert promotion.tags[2]["phase"] == "STABLE"
    assert promotion.tags[2]["rollout"] == promotion.record.rollout


def test_a_version_that_fails_on_some_inputs_is_rolled_back_in_git_and_ray_and_the_registry(story: Story) -> None:
    end = story.rollback
    assert [(p.phase, p.weight_percent) for p in end.record.phases] == CAUGHT
    assert (end.record.outcome, end.record.version, end.record.stable_version) == (Outcome.ROLLED_BACK, 3, 2)
    assert end.record.cause is not None
    assert end.record.cause.kind is CauseKind.FAILED
    assert any("SLO allows 3 %" in reason for reason in end.record.cause.reasons)
    assert end.git_equals_ray
    assert end.stages == {"1": "None", "2": STAGE, "3": "Archived"}
    assert (end.tags[2]["phase"], end.tags[3]["phase"]) == ("STABLE", "QUARANTINED")
    assert "SLO allows 3 %" in end.tags[3]["verdict"]


def test_a_rollback_fails_no_request(story: Story) -> None:
    assert story.later.requests.failed == 0, story.later.requests
    assert story.later.requests.by_version.keys() == {"2"}  # it was caught by copies: nobody saw an answer of v3


def test_a_version_that_was_rolled_back_stays_down(story: Story) -> None:
    assert [q.version for q in story.rollback.release.quarantine] == [3]
    assert story.later.release == story.rollback.release
    assert story.later.stages == story.rollback.stages
    assert story.later.record == story.rollback.record


# --- the guard: a candidate that fails every request ---------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(world: World) -> Ended:
    """Half of the traffic for a version that fails every request that is made: the host stops it, Git learns of it."""
    with world.load(GUARDED, [13.0]) as load:
        world.await_answers(load, 20)
        world.promote(GUARDED, 2)
        world.await_release(GUARDED, lambda r: bool(r.quarantine), "with v2 in quarantine")
        release = world.await_steady(GUARDED, 1)
        world.await_looks(1)
        return ended(world, release, load.stop())


def test_a_candidate_that_fails_every_request_is_stopped_by_the_guard_and_rolled_back_with_a_record(
    guarded: Ended,
) -> None:
    assert guarded.record.outcome is Outcome.ROLLED_BACK
    assert guarded.record.cause is not None
    assert guarded.record.cause.kind is CauseKind.GUARD
    assert guarded.git_equals_ray
    assert guarded.stages == {"1": STAGE, "2": "Archived"}
    record = guarded.record.record
    assert record is not None
    assert record.looks[-1].signal == "ENDED"


def test_it_had_at_most_ten_requests_and_no_user_noticed(guarded: Ended) -> None:
    assert guarded.record.cause is not None
    assert guarded.requests.failed == 0, guarded.requests
    assert guarded.requests.by_version.keys() == {"1"}
    trip = re.search(r"([0-9,]+) of its ([0-9,]+) answers there were bad", guarded.record.cause.reasons[0])
    assert trip, guarded.record.cause.reasons
    assert 2 <= int(trip[1]) <= int(trip[2]) <= 10


def test_explain_and_replay_tell_it_again_from_its_record(world: World, guarded: Ended) -> None:
    told = world.sluice("explain", guarded.record.rollout)
    assert told.returncode == 0, told.stderr
    assert "the guard of 1 host replica stopped it" in told.stdout
    again = world.sluice("replay", "--policy", "half", "--rollout", guarded.record.rollout)
    assert again.returncode == 0, again.stderr
    assert "rolled back" in again.stdout


def test_two_versions_that_ran_are_judged_without_touching_traffic(world: World, promotion: Ended) -> None:
    head = world.head
    arguments = ["--dry-run", "--model", CARRIED, "--candidate", "2", "--stable", "1", "--window", "10m"]
    judged = world.sluice("analyze", *arguments, "--policy", "whole", "--output", "json")
    assert judged.returncode in (0, 2), judged.stderr
    (measure,) = json.loads(judged.stdout)["verdicts"][0]["verdict"]["measures"]
    assert measure["candidate_total"] >= promotion.requests.by_version["2"] / 2
    assert measure["candidate_bad"] == 0
    assert world.head == head


# --- its git revert ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reverted:
    """What was seen after a person's `git revert` of the promotion, and some looks later."""

    end: Ended
    answered_by: str
    head: str
    later: Ended
    head_later: str


@pytest.fixture(scope="module")
def reverted(world: World, promotion: Ended) -> Reverted:
    """A person reverts the promotion under load."""
    clone = world.clone("reverting")
    with world.load(CARRIED) as load:
        world.await_answers(load, 20)
        clone.revert(clone.commit_of(f"{CARRIED} ({ENVIRONMENT}): v{promotion.record.version} promoted"))
        release = world.await_steady(CARRIED, 1)
        answered_by = world.ask(CARRIED, 1.0).headers[VERSION_HEADER]
        world.await_looks(1)
        end, head = ended(world, release, load.counters()), world.head
        world.await_looks(SEVERAL_LOOKS)
        later = ended(world, world.await_steady(CARRIED, 1), load.stop())
    return Reverted(end=end, answered_by=answered_by, head=head, later=later, head_later=world.head)


def test_a_git_revert_of_a_promotion_brings_the_old_version_back_without_a_failed_request(reverted: Reverted) -> None:
    assert reverted.answered_by == "1"
    assert reverted.later.requests.failed == 0, reverted.later.requests
    assert reverted.later.requests.by_version.keys() == {"1", "2"}
    assert reverted.end.git_equals_ray
    assert reverted.end.record.outcome is Outcome.ABORTED
    assert reverted.end.record.cause is not None
    assert reverted.end.record.cause.kind is CauseKind.REVERTED
    assert "Petra Person" in reverted.end.record.cause.reasons[0]


def test_a_reverted_version_is_not_promoted_again(reverted: Reverted) -> None:
    assert reverted.head_later == reverted.head
    assert reverted.later.release.candidate is None
    assert reverted.later.stages == {"1": STAGE, "2": "Archived"}


# --- Prometheus taken away, and a candidate's replica killed ------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blind:
    """What was seen while Prometheus was away in a canary step, and how the rollout ended."""

    frozen: Release
    said: str
    later: Release
    end: Ended


@pytest.fixture(scope="module")
def troubled(world: World) -> Blind:
    """Prometheus is away at 25 %, and comes back; at 50 % the candidate's only replica is killed."""
    prometheus = world.stack.prometheus
    assert prometheus is not None
    with world.load(WATCHED) as load:
        world.await_answers(load, 1)
        world.promote(WATCHED, 2)
        frozen = world.await_phase(WATCHED, Phase.CANARY, 25, live=True)
        prometheus.stop()
        try:
            world.wait(lambda: "frozen" in world.waits(WATCHED), "a frozen weight", lambda: str(world.release(WATCHED)))
            said = world.waits(WATCHED)
            world.await_looks(SEVERAL_LOOKS)
            later = world.release(WATCHED)
            assert later is not None
        finally:
            prometheus.start()
        world.await_phase(WATCHED, Phase.CANARY, 50, live=True)
        world.kill_replica(WATCHED, 2)
        release = world.await_steady(WATCHED, 2)
        world.await_looks(1)
        return Blind(frozen=frozen, said=said, later=later, end=ended(world, release, load.stop()))


def test_without_prometheus_the_weight_is_frozen_and_the_reason_is_said(troubled: Blind) -> None:
    assert "the weight is frozen" in troubled.said
    assert "Prometheus" in troubled.said
    assert "cannot be reached" in troubled.said
    assert troubled.later == troubled.frozen


def test_a_rollout_goes_on_when_prometheus_returns(troubled: Blind) -> None:
    assert troubled.end.record.outcome is Outcome.PROMOTED
    walked = [(p.phase, p.weight_percent) for p in troubled.end.record.phases]
    assert walked == [(Phase.WARMING, 0), (Phase.CANARY, 25), (Phase.CANARY, 50), (Phase.SETTLING, 100)]


def test_a_candidate_that_is_killed_in_a_canary_fails_no_request(troubled: Blind) -> None:
    assert troubled.end.requests.failed == 0, troubled.end.requests
    assert troubled.end.requests.by_version.keys() == {"1", "2"}


# --- new settings, more replicas, a host killed -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resettled:
    """What was seen when a model document changed what restarts replicas."""

    before: frozenset[str]
    after: frozenset[str]
    cpus: float
    end: Ended


@pytest.fixture(scope="module")
def resettled(world: World, troubled: Blind) -> Resettled:
    """A person changes settings.cpus; beside it, in place, the number of replicas."""
    before = frozenset(world.applications(WATCHED))
    build = troubled.end.release.stable
    clone = world.clone("resettling")
    with world.load(WATCHED) as load:
        world.await_answers(load, 1)
        text = model_text(WATCHED, rollout="at-once", slo=LENIENT, cpus=0.25, replicas=2)
        clone.push({model_path(WATCHED): text}, "Smaller and twice")
        world.await_release(WATCHED, lambda r: r.phase is Phase.WARMING, "warming up with new settings")
        world.await_release(
            WATCHED, lambda r: r.phase is Phase.STEADY and r.stable and r.stable != build, "STEADY with new settings"
        )
        release = world.await_steady(WATCHED, 2)
        world.await_looks(1)
        end = ended(world, release, load.stop())
    assert release.stable is not None
    after = frozenset(world.applications(WATCHED))
    return Resettled(before=before, after=after, cpus=release.stable.settings.cpus, end=end)


def test_new_settings_become_a_rollout_of_the_same_version_without_a_failed_request(resettled: Resettled) -> None:
    record = resettled.end.record
    assert (record.outcome, record.version, record.stable_version) == (Outcome.PROMOTED, 2, 2)
    assert resettled.cpus == 0.25
    assert len(resettled.before) == len(resettled.after) == 1
    assert resettled.before != resettled.after
    assert resettled.end.requests.failed == 0, resettled.end.requests
    assert resettled.end.requests.by_version.keys() == {"2"}
    assert resettled.end.stages == {"1": "Archived", "2": STAGE}


def test_a_host_that_is_killed_loses_at_most_what_was_in_flight_and_service_returns_by_itself(
    world: World, resettled: Resettled
) -> None:
    def await_two(without: int = 0) -> None:
        both = world.once_a_look(lambda: len(found := world.replicas(WATCHED)) == 2 and without not in found)
        world.wait(both, "answers by two living replicas", lambda: str(world.replicas(WATCHED)))

    (application,) = resettled.after
    await_two()
    with world.load(WATCHED, ROWS_WITH_SLOW_ONES) as load:
        world.await_answers(load, 40)
        victim = world.kill_replica(WATCHED, 2)
        world.await_answers(load, 40)
        failed = load.counters().failed
        await_two(without=victim)
        world.await_answers(load, 40)
        requests = load.stop()
    assert requests.failed <= CONNECTIONS, requests
    assert requests.failed == failed, "nothing failed after the first moment"
    assert world.git_equals_ray()
    assert application in world.applications(WATCHED)


# --- a tip that must not be applied -------------------------------------------------------------------------------


def test_an_emptied_serve_yaml_is_refused_and_said_while_the_models_go_on_answering(world: World) -> None:
    clone = world.clone("emptying")
    running = world.applications(FAULTY)
    with world.load(FAULTY) as load:
        world.await_answers(load, 1)
        clone.push({serve_path(ENVIRONMENT): "applications: []\n"}, "Empty it")
        world.wait(lambda: "bring it back" in world.problems(), "the refusal said", world.problems)
        said = world.problems()
        world.await_looks(SEVERAL_LOOKS)
        world.await_answers(load, 40)
        assert world.applications(FAULTY) == running
        clone.revert("HEAD")
        world.wait(lambda: not world.problems(), "the refusal lifted", world.problems)
        requests = load.stop()
    assert serve_path(ENVIRONMENT) in said
    assert "names no application" in said
    assert requests.failed == 0, requests
    assert world.git_equals_ray()


# --- the command line ---------------------------------------------------------------------------------------------


def test_plan_exits_2_and_says_what_it_would_do(world: World, plan_before_anything_runs: dict[str, Any]) -> None:
    assert plan_before_anything_runs["code"] == 2, plan_before_anything_runs
    planned = json.loads(plan_before_anything_runs["said"])
    assert planned["schema"] == 1
    assert planned["moves"] is True
    assert all(f"add {model}--" in planned["submits"][ENVIRONMENT] for model in (CARRIED, FAULTY, WATCHED))
    assert world.head


def test_plan_exits_0_when_nothing_is_to_be_done(world: World) -> None:
    world.await_looks(1)
    planned = world.sluice("plan")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "nothing new is at stage Production" in planned.stdout


def test_plan_exits_1_without_a_config_repo_and_says_so(world: World) -> None:
    nowhere = f"http://{LOOPBACK}:{free_port()}/config.git"
    planned = world.sluice("plan", "--repo", nowhere)
    assert planned.returncode == 1
    assert planned.stdout == ""
    assert planned.stderr.startswith("sluice: ")


def test_status_says_of_every_model_what_serves_and_why_it_waits(world: World) -> None:
    told = world.sluice("status")
    assert told.returncode == 0, told.stderr
    for model in (CARRIED, FAULTY, WATCHED, GUARDED):
        assert f"{model} ({ENVIRONMENT}): STEADY, v" in told.stdout
    told = world.sluice("status", "--output", "json")
    releases = {r["model"]: r for r in json.loads(told.stdout)["releases"]}
    assert releases.keys() == {CARRIED, FAULTY, WATCHED, GUARDED}
    assert all("nothing new is at stage Production" in r["waits"] for r in releases.values())


def test_history_tells_a_rollback_with_its_arithmetic(world: World, story: Story) -> None:
    told = world.sluice("history", "--model", FAULTY, "--long")
    assert told.returncode == 0, told.stderr
    assert f"{FAULTY} ({ENVIRONMENT}) v3 over v2: rolled_back" in told.stdout
    assert "SLO allows 3 %" in told.stdout
    told = world.sluice("history", "--model", FAULTY, "--output", "json")
    (rollout,) = json.loads(told.stdout)["rollouts"]
    assert (rollout["rollout"], rollout["outcome"]) == (story.rollback.record.rollout, "rolled_back")


def test_lint_finds_nothing_in_what_sluicegate_wrote_and_names_what_a_person_broke(world: World) -> None:
    clone = world.clone("linting")
    clean = world.sluice("lint", str(clone.folder), stack=False)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    path = model_path(FAULTY)
    (clone.folder / path).write_text(model_text(FAULTY, rollout="hole", slo=LENIENT), encoding="utf-8")
    broken = world.sluice("lint", str(clone.folder), "--output", "json", stack=False)
    assert broken.returncode == 1
    notes = json.loads(broken.stdout)["notes"]
    assert [(n["severity"], n["file"], n["field"]) for n in notes if n["severity"] == "error"] == [
        ("error", path, "rollout")
    ]
