"""Histories: what people, time and accidents do to a world, by seed, held against the promises at every step.

A history is a program: a world's shape, a seed, and acts that each draw their details from a number of their own. So
one can be played again to the letter, shortened act by act, and pasted into a test:

    python -m tests.simulation.histories 4711        # play it, and shorten it where it breaks a promise
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from policies.errors import BadInput, Retry
from policies.release import Wish
from tests.simulation.promises import Promises
from tests.simulation.world import (
    BAD,
    BREAKS,
    BROKEN,
    BY_ALIAS,
    DEAD,
    HEALTHY,
    PRODUCTION,
    STAGING,
    Environment,
    Place,
    World,
)

ACTS = 16
"""Of one history."""
PATIENCE = timedelta(hours=4)
"""For everything to come to rest at the end: above the longest deadline of the policy, pauses not counted."""

TRUTHS = (HEALTHY, HEALTHY, HEALTHY, BAD, BAD, DEAD, BROKEN)

SHAPES: tuple[tuple[tuple[str, ...], tuple[Environment, ...]], ...] = (
    (("fraud",), (PRODUCTION,)),
    (("fraud",), (PRODUCTION,)),
    (("fraud",), (BY_ALIAS,)),
    (("fraud",), (PRODUCTION, STAGING)),
    (("fraud", "churn"), (PRODUCTION,)),
    (("fraud", "churn"), (BY_ALIAS, STAGING)),
)


@dataclasses.dataclass(frozen=True)
class Act:
    """Something that is done; `dice` seeds what it draws."""

    name: str
    dice: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A whole history."""

    seed: int
    shape: int
    guards: bool
    acts: tuple[Act, ...]

    @classmethod
    def of(cls, seed: int) -> Program:
        """The history of this number."""
        dice = random.Random(seed)
        names = dice.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=ACTS)
        acts = tuple(Act(name, dice.randrange(1_000_000)) for name in names)
        return cls(seed=seed, shape=dice.randrange(len(SHAPES)), guards=dice.random() < 0.5, acts=acts)


class Player:
    """Plays one program; raises AssertionError where a promise is broken."""

    def __init__(self, program: Program) -> None:
        models, environments = SHAPES[program.shape]
        self._program = program
        self._armed = 0
        self.world = World(
            program.seed, self._crash_is_due, models=models, environments=environments, guards=program.guards
        )
        self.promises = Promises(self.world)
        self.world.on_step = self.promises.check_step

    def play(self) -> Counter[str]:
        """The whole history to its end; what happened in it, counted."""
        self._first_versions_serve()
        for act in self._program.acts:
            with contextlib.suppress(BadInput, Retry):  # nothing there that could be asked, or Git is away for a person
                ACT[act.name](self, random.Random(act.dice))
            self.promises.check()
        self._armed = 0
        self.world.settle(minutes=PATIENCE / timedelta(minutes=1))
        self.promises.check()
        self.promises.check_rest()
        return self.promises.seen()

    def _first_versions_serve(self) -> None:
        for place in self.world.places:
            version = self.world.register(HEALTHY, place.model)
            self.enter(place, version, archive=True)
        self.world.run_until(lambda: all(place.history() for place in self.world.places))

    def _crash_is_due(self, name: str) -> bool:
        if self._armed and name in ("commit", "apply", "mark_applied", "annotate", "restore", "read", "observe"):
            self._armed -= 1
            return self._armed == 0
        return False

    def kill_after(self, calls: int) -> None:
        """The process dies at the end of so many calls of its doors."""
        self._armed = calls

    def enter(self, place: Place, version: int, *, archive: bool) -> None:
        """A person moves the version to the trigger."""
        for each in self.world.places:  # a stage is seen by every environment that watches it
            if each.model == place.model and each.environment == place.environment and not each.at_trigger(version):
                self.promises.entered[each, version] += 1
        place.promote(version, archive=archive)
        self.promises.moved_by_a_person(place)

    # --- time ---

    def time_passes(self, dice: random.Random) -> None:
        self.world.pass_time(dice.randint(5, 120))

    def ten_minutes_pass(self, _dice: random.Random) -> None:
        self.world.pass_time(600)

    # --- people ---

    def somebody_promotes_a_new_version(self, dice: random.Random) -> None:
        place = dice.choice(self.world.places)
        version = self.world.register(dice.choice(TRUTHS), place.model)
        self.enter(place, version, archive=dice.random() < 0.5)

    def somebody_promotes_an_old_version(self, dice: random.Random) -> None:
        place = dice.choice(self.world.places)
        if place.versions:
            self.enter(place, dice.choice(sorted(place.versions)), archive=dice.random() < 0.5)

    def somebody_archives_a_version(self, dice: random.Random) -> None:
        place = dice.choice(self.world.places)
        if place.versions:
            place.archive(dice.choice(sorted(place.versions)))
            self.promises.moved_by_a_person(place)

    def somebody_deletes_a_version(self, dice: random.Random) -> None:
        place = dice.choice(self.world.places)
        if place.versions:
            self.world.registry.delete_version(place.model, dice.choice(sorted(place.versions)))
            for each in self.world.places:
                self.promises.moved_by_a_person(each)

    def somebody_changes_the_settings(self, dice: random.Random) -> None:
        self.world.change_settings(dice.randint(1, 3), dice.choice(self.world.models))

    def somebody_changes_the_steps(self, dice: random.Random) -> None:
        self.world.change_steps(dice.choice(["[10, 50]", "[5, 20, 80]", "[90]", "[]"]))

    def somebody_breaks_a_document(self, dice: random.Random) -> None:
        self.world.repo.person_commits(dice.choice(BREAKS))

    def somebody_mends_the_documents(self, _dice: random.Random) -> None:
        self.world.mend()

    def somebody_asks(self, dice: random.Random) -> None:
        self._ask(dice.choice(self.world.places), dice.choice(list(Wish)), dice)

    def somebody_asks_of_a_new_rollout(self, dice: random.Random) -> None:
        place = dice.choice(self.world.places)
        self.enter(place, self.world.register(dice.choice((HEALTHY, BAD)), place.model), archive=True)
        self.world.pass_time(dice.randint(5, 60))
        self._ask(place, dice.choice((Wish.PAUSE, Wish.ABORT, Wish.PROMOTE)), dice)
        self.world.pass_time(dice.randint(5, 30))
        self._ask(place, dice.choice((Wish.RESUME, Wish.ABORT, Wish.PROMOTE)), dice)

    def _ask(self, place: Place, wish: Wish, dice: random.Random) -> None:
        which = wish in (Wish.RETRY, Wish.LIFT) and place.versions and dice.random() < 0.5
        with contextlib.suppress(BadInput, Retry):  # in vain, or Git is away for people too
            place.ask(wish, dice.choice(sorted(place.versions)) if which else None)

    def somebody_reverts_the_last_change_of_a_release(self, _dice: random.Random) -> None:
        last = self.world.commits()[-1]
        if last.author.startswith("Sluicegate"):
            self.world.repo.revert(last.hash)

    # --- accidents ---

    def the_process_will_be_killed(self, dice: random.Random) -> None:
        self.kill_after(dice.randint(1, 12))

    def a_second_reconciler_starts(self, _dice: random.Random) -> None:
        self.world.join()

    def the_clock_is_set_back(self, _dice: random.Random) -> None:
        self.world.now -= timedelta(seconds=12)

    def somebody_else_pushes_first(self, _dice: random.Random) -> None:
        self.world.repo.conflict_next_push()

    def an_answer_to_a_push_is_lost(self, _dice: random.Random) -> None:
        self.world.repo.lose_next_answer = True

    def git_goes_away(self, _dice: random.Random) -> None:
        self.world.repo.outage()

    def git_goes_away_for_one(self, dice: random.Random) -> None:
        dice.choice((self.world.line, self.world.rival_line)).cut = True

    def git_goes_away_while_a_bad_version_is_in_traffic(self, dice: random.Random) -> None:
        """Its share is there before anybody can have seen what it is like."""
        place = dice.choice(self.world.places)
        version = self.world.register(HEALTHY, place.model)
        self.enter(place, version, archive=True)
        for _ in range(dice.randint(10, 40)):
            self.world.step()
            if place.gives() and dice.random() < 0.3:
                break
        release = place.release
        if place.gives() and release and release.candidate:
            self.promises.turned.add(release.candidate.digest)
            self.world.truths[release.candidate.digest] = BAD
        self.world.repo.outage()

    def a_version_turns_bad(self, dice: random.Random) -> None:
        release = dice.choice(self.world.places).release
        if release and release.candidate and self.world.truth(release.candidate) == HEALTHY:
            self.promises.turned.add(release.candidate.digest)
            self.world.truths[release.candidate.digest] = BAD

    def something_else_goes_away(self, dice: random.Random) -> None:
        place = dice.choice(self.world.places)
        match dice.choice(("registry", "metrics", "ray")):
            case "registry":
                self.world.registry.away = "connection refused"
            case "metrics":
                place.metrics.go_away()
            case _:
                place.serve.away = "connection refused"

    def ray_comes_back_empty(self, dice: random.Random) -> None:
        place = dice.choice(self.world.places)
        place.serve.restart_empty()
        self.world.emptied.add(place.environment.name)
        self.promises.forget_holds(place.environment.name)

    def everything_heals(self, _dice: random.Random) -> None:
        self.world.heal()


WEIGHTS = {
    "time_passes": 6,
    "ten_minutes_pass": 2,
    "somebody_promotes_a_new_version": 5,
    "somebody_promotes_an_old_version": 2,
    "somebody_archives_a_version": 1,
    "somebody_deletes_a_version": 1,
    "somebody_changes_the_settings": 1,
    "somebody_changes_the_steps": 1,
    "somebody_breaks_a_document": 1,
    "somebody_mends_the_documents": 1,
    "somebody_asks": 2,
    "somebody_asks_of_a_new_rollout": 2,
    "somebody_reverts_the_last_change_of_a_release": 1,
    "the_process_will_be_killed": 2,
    "a_second_reconciler_starts": 1,
    "the_clock_is_set_back": 1,
    "somebody_else_pushes_first": 1,
    "an_answer_to_a_push_is_lost": 1,
    "git_goes_away": 1,
    "git_goes_away_for_one": 1,
    "git_goes_away_while_a_bad_version_is_in_traffic": 1,
    "a_version_turns_bad": 1,
    "something_else_goes_away": 2,
    "ray_comes_back_empty": 0.3,
    "everything_heals": 2,
}
"""How often each act is drawn, beside the others."""

ACT: dict[str, Callable[[Player, random.Random], None]] = {name: getattr(Player, name) for name in WEIGHTS}


# --- playing many, and shortening one -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Broken:
    """A history that broke a promise."""

    program: Program
    error: str
    where: str

    def __str__(self) -> str:
        acts = "".join(f"\n    {act}," for act in self.program.acts)
        program = f"Program({self.program.seed}, {self.program.shape}, {self.program.guards}, ({acts}\n))"
        again = f"python -m tests.simulation.histories {self.program.seed}"
        return f"{self.error}\n{self.where}\nplay it again: {again}\nor Player({program}).play()"


def broken(program: Program) -> Broken | None:
    """How this history breaks a promise; none where it keeps all."""
    return _outcome(program)[0]


def _outcome(program: Program) -> tuple[Broken | None, Counter[str]]:
    try:
        return None, Player(program).play()
    except Exception as error:  # noqa: BLE001 whatever it is, this history shows it
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = "".join(traceback.format_list(frames))
        said = f"{type(error).__name__}: {error}"
        return Broken(program, said[:4000], where), Counter({"broken": 1})


def shortened(found: Broken, tries: int = 150) -> Broken:
    """The same kind of failure with fewer acts."""
    kind = found.error.split("\n")[0][:60]
    at = 0
    while at < len(found.program.acts) and tries:
        tries -= 1
        acts = found.program.acts[:at] + found.program.acts[at + 1 :]
        shorter = broken(dataclasses.replace(found.program, acts=acts))
        if shorter is not None and shorter.error[:60].startswith(kind[:40]):
            found = shorter
        else:
            at += 1
    return found


def play_all(seeds: Iterable[int]) -> tuple[list[Broken], Counter[str]]:
    """Every history of these numbers: those that broke a promise, and what happened in all of them."""
    failed: list[Broken] = []
    happened: Counter[str] = Counter()
    for seed in seeds:
        found, seen = _outcome(Program.of(seed))
        happened += seen
        happened["histories"] += 1
        if found is not None:
            failed.append(found)
    return failed, happened


def main(arguments: list[str]) -> Iterator[str]:
    """Play the histories of these numbers, or ranges of numbers (`0-99`)."""
    happened: Counter[str] = Counter()
    for argument in arguments:
        first, _, last = argument.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            found, seen = _outcome(Program.of(seed))
            happened += seen
            if found is not None:
                yield f"--- {seed}"
                yield str(shortened(found))
    yield ", ".join(f"{name} {count}" for name, count in sorted(happened.items()))


if __name__ == "__main__":
    for line in main(sys.argv[1:]):
        print(line, flush=True)  # noqa: T201
