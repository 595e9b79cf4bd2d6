"""The promises of the design as invariants of a world: what must be so after every step, every act, and at rest.

Each method is named for its promise. They read what the world kept (every commit, every submit, every request), never
what the reconciler thinks.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from policies.convergence import InPlace, converge
from policies.release import CauseKind, Outcome, Phase, Release, Wish
from policies.verdict import VerdictKind
from serving_runtime.serve_config import parse
from tests.simulation.world import HEALTHY, Place, World

GOING_UP = (Phase.WARMING, Phase.SHADOW, Phase.CANARY, Phase.SETTLING)
BLAMES = (CauseKind.FAILED, CauseKind.GUARD, CauseKind.BUDGET)
"""Causes that say: the version itself answers badly."""
STEPS_OF_HARM = 36
"""A version that fails a fifth of its requests may have traffic for so many steps (3 minutes) in which it can be seen:
the first bins are counted 30 s late, and a 5 % share has 10 requests a step."""


class Promises:
    """What was promised, held against one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.entered: Counter[tuple[Place, int]] = Counter()
        """How often a person moved the version to the trigger there."""
        self.turned: set[str] = set()
        """Digests of versions that were healthy and are so no longer."""
        self._checked: Counter[Place] = Counter()
        self._submits: Counter[str] = Counter()
        self._holds: dict[str, dict[str, str]] = {name: {} for name in world.serves}
        """By environment: application and the rollout for which it is held."""
        self._aliases: dict[Place, Any] = {}
        self._harm: Counter[Place] = Counter()
        self._steps = 0

    # --- what people do, as far as promises depend on it ---

    def moved_by_a_person(self, place: Place) -> None:
        """Where a person left the trigger of an environment that only annotates."""
        for each in self.world.places:
            if each.model == place.model and each.environment.on_rollback == "annotate":
                self._aliases[each] = self._at_trigger(each)

    def forget_holds(self, environment: str) -> None:
        """Ray lost everything: a hold too, and the evidence decides anew."""
        self._holds[environment].clear()

    # --- when they are checked ---

    def check_step(self) -> None:
        """After every step of the world."""
        self._steps += 1
        for name in self.world.serves:
            self._a_hold_is_lifted_by_its_recorded_rollback_only(name)
        for place in self.world.places:
            self._no_request_is_lost_to_a_rollout(place)
            self._a_failing_candidate_is_out_of_traffic_soon_with_git_or_without(place)

    def check(self) -> None:
        """After every act."""
        for place in self.world.places:
            releases = place.releases()
            for before, after in itertools.pairwise(releases[max(0, self._checked[place] - 1) :]):
                if after.revision > before.revision:
                    self._traffic_never_grows_without_a_recorded_pass(before, after)
                    self._a_pause_that_a_person_wants_ends_by_a_person(before, after)
                    self._every_move_says_why(before, after)
            self._checked[place] = len(releases)
            self._no_bad_version_becomes_stable(place)
            self._nobody_is_blamed_who_is_healthy(place)
            self._a_bad_version_stays_down(place)
            self._who_annotates_moves_nothing_in_the_registry(place)

    def check_rest(self) -> None:
        """Left alone, every release comes to rest, Ray is what Git says, and one more look changes nothing."""
        before = self.world.repo.branch_tip, [len(serve.submits) for serve in self.world.serves.values()]
        for _ in range(3):
            self.world.step()
        assert (self.world.repo.branch_tip, [len(s.submits) for s in self.world.serves.values()]) == before
        assert self.world.at_rest
        for name in self.world.serves:
            self._ray_is_what_git_says(name)

    def seen(self) -> Counter[str]:
        """What happened: a promise that was never put to the test is none."""
        found: Counter[str] = Counter({"steps": self._steps, "crashes": self.world.crashes})
        for place in self.world.places:
            found["guards tripped"] += place.tripped
            for record in place.history():
                found[record.outcome.value] += 1
                if record.cause:
                    found[f"cause: {record.cause.kind.value}"] += 1
                    found["held"] += "without a commit" in " ".join(record.cause.reasons)
        return found

    # --- the promises ---

    def _traffic_never_grows_without_a_recorded_pass(self, before: Release, after: Release) -> None:
        if after.weight_percent <= before.weight_percent or after.stable is None:
            return  # a first version has nobody to be compared with, and nobody else could answer
        if before.phase is Phase.WARMING and after.rollout and after.rollout.purpose is not None:
            return  # an undo's one step, and an emergency's: a person asked for it, and they are judged from there
        by_a_person = before.ask is not None and before.ask.wish is Wish.PROMOTE
        closed = after.rollout.records[-2] if after.rollout and len(after.rollout.records) > 1 else None
        assert by_a_person or (closed and closed.verdict is VerdictKind.PASS), f"{before}\n-> {after}"

    def _a_pause_that_a_person_wants_ends_by_a_person(self, before: Release, after: Release) -> None:
        if before.waits_for_a_person and after.phase in GOING_UP:
            wish = before.ask.wish if before.ask else None
            assert wish in (Wish.RESUME, Wish.PROMOTE), f"{before}\n-> {after}"

    def _every_move_says_why(self, before: Release, after: Release) -> None:
        """Every decision can be explained from its record alone."""
        if after.rollout and before.rollout and len(after.rollout.records) > len(before.rollout.records):
            assert after.rollout.records[-2].reasons, f"{before}\n-> {after}"
        if after.phase in (Phase.ROLLING_BACK, Phase.PAUSED) and after.phase is not before.phase:
            assert after.rollout
            assert after.rollout.cause, after

    def _no_bad_version_becomes_stable(self, place: Place) -> None:
        """By a person's promote, or for want of anybody else, it may."""
        for record in place.history():
            if record.outcome is Outcome.PROMOTED and record.stable_version is not None:
                excused = record.digest in self.turned or self._was_promoted_by_a_person(place, record.rollout)
                assert excused or self.world.truths[record.digest] == HEALTHY, record

    def _was_promoted_by_a_person(self, place: Place, rollout: str) -> bool:
        asked = (r for r in place.releases() if r.ask and r.ask.wish is Wish.PROMOTE and r.rollout)
        return any(r.rollout.id == rollout for r in asked)

    def _nobody_is_blamed_who_is_healthy(self, place: Place) -> None:
        """A metrics outage is not a bad model, nor is an outage of anything else."""
        for record in place.history():
            if record.cause and record.cause.kind in BLAMES:
                assert self.world.truths[record.digest] != HEALTHY, record

    def _a_bad_version_stays_down(self, place: Place) -> None:
        """Each attempt of a quarantined version answers a person who entered it, or asked for it."""
        attempts: Counter[int] = Counter()
        for record in place.history():
            if record.cause and record.cause.quarantines and record.stable_version != record.version:
                attempts[record.version] += 1
        for version, count in attempts.items():
            wanted = self.entered[place, version] + self._asked_again(place, version)
            assert count <= wanted, (place, version, attempts, self.entered)

    def _asked_again(self, place: Place, version: int) -> int:
        asks = [r.ask for r in place.releases() if r.ask]
        different = [ask for ask, before in zip(asks, [None, *asks], strict=False) if ask != before]
        again = [a for a in different if a.wish in (Wish.RETRY, Wish.LIFT, Wish.UNDO) and a.version in (None, version)]
        return len(again)

    def _no_request_is_lost_to_a_rollout(self, place: Place) -> None:
        assert place.unanswered == 0, place

    def _a_hold_is_lifted_by_its_recorded_rollback_only(self, environment: str) -> None:
        """Old weight is never put back while the rollback of what was stopped without Git is not recorded."""
        serve, held = self.world.serves[environment], self._holds[environment]
        for submit in serve.submits[self._submits[environment] :]:
            for told in _told(submit):
                split = told["split"]
                given = split and (split["weight_percent"] or split["shadow"])
                rollout = held.get(split["application"]) if given else None
                assert not (rollout and self._goes_on(environment, told["model"], rollout)), (rollout, submit)
            held |= {name: mark["rollout"] for name, mark in _held(submit)}
        self._submits[environment] = len(serve.submits)

    def _goes_on(self, environment: str, model: str, rollout: str) -> bool:
        """Does the tip still say that this rollout is on its way up?"""
        place = next(p for p in self.world.places if (p.environment.name, p.model) == (environment, model))
        release = place.release
        running = release is not None and release.rollout is not None and release.rollout.id == rollout
        return running and release.phase is not Phase.ROLLING_BACK

    def _a_failing_candidate_is_out_of_traffic_soon_with_git_or_without(self, place: Place) -> None:
        release, reconciler = place.release, self.world.reconciler
        candidate = release.candidate if release else None
        bad = candidate is not None and self.world.truth(candidate).error_rate > HEALTHY.error_rate
        beside_a_healthy_one = release and release.stable and self.world.truth(release.stable) == HEALTHY
        has_git = not (self.world.repo.away or self.world.line.cut)
        seen = not place.serve.away and not place.metrics._away and (has_git or bool(reconciler._last))
        if not (bad and beside_a_healthy_one and seen and place.gives()):
            self._harm[place] = 0
            return
        self._harm[place] += 1
        assert self._harm[place] <= STEPS_OF_HARM, release

    def _who_annotates_moves_nothing_in_the_registry(self, place: Place) -> None:
        if place in self._aliases:
            assert self._at_trigger(place) == self._aliases[place], place

    def _ray_is_what_git_says(self, environment: str) -> None:
        """Git is the only desired state."""
        text = self.world.tip.files[f"environments/{environment}/serve.yaml"]
        assert isinstance(text, str)
        desired = parse(text)
        if desired["applications"]:  # an empty one is never submitted: the last application stays, drained
            step = converge(desired, self.world.serves[environment].observe())
            assert isinstance(step, InPlace), step
        for told in _told(self.world.serves[environment].submits[-1]):
            assert not told["hold"], told

    def _at_trigger(self, place: Place) -> frozenset[int]:
        return frozenset(version for version in place.versions if place.at_trigger(version))


def _told(submit: Mapping[str, Any]) -> Iterator[Any]:
    return (deployment["user_config"] for app in submit["applications"] for deployment in app["deployments"])


def _held(submit: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Applications of candidates that are held, with the mark they carry."""
    for app in submit["applications"]:
        for deployment in app["deployments"]:
            told = deployment["user_config"]
            if told["hold"] and told["drain"]:
                yield app["name"], told["held"]
