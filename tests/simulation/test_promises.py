"""The promises of the design under everything at once, as invariants of a seeded simulation.

Hypothesis shuffles people, time and accidents; a failing history is printed as a program to paste into a test.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.errors import BadInput, Retry
from policies.model import CauseKind, Phase, Release, VerdictKind, Wish
from tests.simulation.world import BAD, BREAKS, BROKEN, HEALTHY, World

LONG = bool(os.environ.get("SLUICE_LONG_SIMULATION"))
HISTORIES = 1000 if LONG else 80

GOING_UP = (Phase.WARMING, Phase.SHADOW, Phase.CANARY, Phase.SETTLING)

WISHES = st.sampled_from([HEALTHY, HEALTHY, BAD, BROKEN])


class Promises(RuleBasedStateMachine):
    """People, time and accidents; the promises are its invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.checked = 0
        self.paused = 0
        self.entered: dict[int, int] = {}
        self.armed = 0

    @initialize(seed=st.integers(0, 2**32 - 1), alias=st.sampled_from([None, "champion"]))
    def a_first_version_serves(self, seed: int, alias: str | None) -> None:
        self.world = World(seed, due=self._crash_is_due, alias=alias)
        version = self.world.register(HEALTHY)
        self._promote(version, archive=True)
        self.world.run_until(lambda: bool(self.world.history()))

    def _crash_is_due(self, name: str) -> bool:
        if self.armed and name in ("commit", "apply", "mark_applied", "annotate", "restore", "read", "observe"):
            self.armed -= 1
            return self.armed == 0
        return False

    def _promote(self, version: int, *, archive: bool) -> None:
        if not self.world.at_trigger(version):
            self.entered[version] = self.entered.get(version, 0) + 1
        self.world.promote(version, archive=archive)

    # --- time ---

    @rule(seconds=st.integers(5, 120))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule()
    def ten_minutes_pass(self) -> None:
        self.world.pass_time(600)

    # --- people ---

    @rule(truth=WISHES, archive=st.booleans())
    def somebody_promotes_a_new_version(self, truth, archive) -> None:
        self._promote(self.world.register(truth), archive=archive)

    @precondition(lambda self: self.world.versions)
    @rule(data=st.data(), archive=st.booleans())
    def somebody_promotes_an_old_version(self, data, archive) -> None:
        self._promote(data.draw(st.sampled_from(sorted(self.world.versions))), archive=archive)

    @precondition(lambda self: self.world.versions)
    @rule(data=st.data())
    def somebody_archives_a_version(self, data) -> None:
        self.world.archive(data.draw(st.sampled_from(sorted(self.world.versions))))

    @precondition(lambda self: self.world.versions)
    @rule(data=st.data())
    def somebody_deletes_a_version(self, data) -> None:
        self.world.registry.delete_version("fraud", data.draw(st.sampled_from(sorted(self.world.versions))))

    @rule(cpus=st.integers(1, 3))
    def somebody_changes_the_settings(self, cpus) -> None:
        self.world.change_settings(cpus)

    @rule(steps=st.sampled_from(["[10, 50]", "[5, 20, 80]", "[90]", "[]"]))
    def somebody_changes_the_steps(self, steps) -> None:
        self.world.change_steps(steps)

    @rule(slip=st.sampled_from(BREAKS))
    def somebody_breaks_a_document(self, slip) -> None:
        self.world.repo.person_commits(slip)

    @rule()
    def somebody_mends_the_documents(self) -> None:
        self.world.mend()

    @precondition(lambda self: self.world.repo.away is None)
    @rule(wish=st.sampled_from([Wish.PAUSE, Wish.RESUME, Wish.ABORT]))
    def somebody_asks(self, wish) -> None:
        with contextlib.suppress(BadInput, Retry):  # nothing is running that could be asked, or Git's answer is lost
            self.world.ask(wish)

    @rule()
    def somebody_reverts_the_last_change_of_the_release(self) -> None:
        commits = self.world.repo._history(self.world.repo.branch_tip)
        of_release = [c for c in commits[:10] if c.author.startswith("Sluicegate")]
        if of_release and of_release[0] is commits[0]:
            self.world.repo.revert(of_release[0].hash)

    # --- accidents ---

    @rule(calls=st.integers(1, 12))
    def the_process_will_be_killed(self, calls) -> None:
        self.armed = calls

    @rule()
    def a_second_reconciler_starts(self) -> None:
        self.world.join()

    @rule()
    def the_clock_is_set_back(self) -> None:
        self.world.now -= timedelta(seconds=12)

    @rule()
    def somebody_else_pushes_first(self) -> None:
        self.world.repo.conflict_next_push()

    @rule()
    def an_answer_to_a_push_is_lost(self) -> None:
        self.world.repo.lose_next_answer = True

    @rule(what=st.sampled_from(["git", "registry", "metrics", "ray"]))
    def something_goes_away(self, what) -> None:
        match what:
            case "git":
                self.world.repo.outage()
            case "registry":
                self.world.registry.away = "connection refused"
            case "metrics":
                self.world.metrics.go_away()
            case _:
                self.world.serve.away = "connection refused"

    @rule()
    def everything_heals(self) -> None:
        self.world.heal()

    # --- the promises ---

    @invariant()
    def traffic_never_grows_without_a_recorded_pass(self) -> None:
        releases = self.world.releases()
        for before, after in itertools.pairwise(releases[max(0, self.checked - 1) :]):
            if after.weight_percent > before.weight_percent and after.revision > before.revision:
                assert self._was_passed(after), f"{before}\n-> {after}"
        self.checked = len(releases)

    def _was_passed(self, after: Release) -> bool:
        if after.stable is None:
            return True  # a first version has nobody to be compared with, and nobody else could answer
        closed = after.rollout.records[-2]
        return closed.verdict is VerdictKind.PASS

    @invariant()
    def a_pause_that_a_person_wants_ends_by_a_person(self) -> None:
        releases = self.world.releases()
        for before, after in itertools.pairwise(releases[max(0, self.paused - 1) :]):
            if before.waits_for_a_person and after.phase in GOING_UP and after.revision > before.revision:
                wish = before.ask.wish if before.ask else None
                assert wish is Wish.RESUME, f"{before}\n-> {after}"
        self.paused = len(releases)

    @invariant()
    def no_bad_version_replaces_another(self) -> None:
        release = self.world.release
        if release and release.stable:
            assert self.world.truth(release.stable) == HEALTHY, release

    @invariant()
    def no_request_is_lost_to_a_rollout(self) -> None:
        assert self.world.unanswered == 0

    @invariant()
    def a_metrics_outage_blames_nobody(self) -> None:
        for record in self.world.history():
            if record.cause and record.cause.kind is CauseKind.FAILED:
                assert self.world.truths[record.digest] == BAD, record

    @invariant()
    def a_bad_version_stays_down(self) -> None:
        """Each attempt of a quarantined version answers a person who entered it."""
        attempts: dict[int, int] = {}
        for record in self.world.history():
            if record.cause and record.cause.quarantines and record.stable_version != record.version:
                attempts[record.version] = attempts.get(record.version, 0) + 1
        for version, count in attempts.items():
            assert count <= self.entered.get(version, 0), (version, attempts, self.entered)

    def teardown(self) -> None:
        """Left alone, any release reaches STEADY or PAUSED, and one more look changes nothing."""
        if not hasattr(self, "world"):
            return
        self.armed = 0
        self.world.settle(minutes=240)
        self.traffic_never_grows_without_a_recorded_pass()
        self.no_bad_version_replaces_another()
        self.a_bad_version_stays_down()
        tip, submits = self.world.repo.branch_tip, len(self.world.serve.submits)
        for _ in range(3):
            self.world.step()
        assert (self.world.repo.branch_tip, len(self.world.serve.submits)) == (tip, submits)
        assert self.world.release.phase in (Phase.STEADY, Phase.PAUSED)


TestPromises = Promises.TestCase
TestPromises.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=20,
    deadline=None,
    phases=(Stage.explicit, Stage.generate),  # shrinking takes minutes: do it by hand where a history fails
    derandomize=not LONG,  # by seed: the same histories at every run; `make test-simulation` shuffles
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
