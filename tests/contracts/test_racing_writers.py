"""Twenty writers on one branch, reconcilers and people: nothing is lost, and nobody waits for ever.

What a race costs grows with the square of those who race at once: `make test` has four at a time, `make test-faults`
all twenty.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policies.commit_message import message
from policies.errors import Conflict, Stalled
from registry_bridge.config_repo import ConfigRepo
from tests.contracts.repo_harness import RealStage, Server, run_git, tries_git

pytestmark = pytest.mark.real

RECONCILERS, PEOPLE = 14, 6
WRITERS = RECONCILERS + PEOPLE
SHARED = "environments/production/releases/fraud.yaml"
START = {"sluice.yaml": "environments: {}\n", SHARED: "0\n"}
TRIES = 400
"""Of one commit. Somebody wins every round, so that 20 writers of a few commits each are far from it."""


@pytest.fixture
def stage(server: Server, tmp_path: Path) -> RealStage:
    made = RealStage(server, tmp_path)
    made.person_commits(START)
    return made


def reconciles(door: ConfigRepo, name: str, rounds: int) -> list[str]:
    """Decides from what it read, as a reconciler does: a counter of its own, and one that all of them count up."""
    made = []
    for n in range(rounds):
        for _ in range(TRIES):
            tip = door.read()
            changes = {
                SHARED: f"{int(tip.files[SHARED]) + 1}\n",
                f"environments/production/releases/{name}.yaml": f"{n + 1}\n",
            }
            try:
                made.append(door.commit(tip.commit, changes, message(f"{name} {n}")))
            except Conflict:
                continue
            door.mark_applied("production", made[-1])
            break
    return made


def edits(url: str, folder: Path, name: str, rounds: int) -> list[str]:
    """A person with a clone, who rebases and pushes again until it is taken."""
    run_git("clone", "--quiet", url, str(folder), cwd=folder.parent)
    subjects = []
    for n in range(rounds):
        (folder / "models").mkdir(exist_ok=True)
        (folder / "models" / f"{name}.yaml").write_text(f"{n + 1}\n")
        run_git("add", "--all", cwd=folder)
        run_git("commit", "--quiet", "-m", f"{name} {n}", cwd=folder)
        for _ in range(TRIES):
            if tries_git("push", "--quiet", "origin", "HEAD:main", cwd=folder):
                subjects.append(f"{name} {n}")
                break
            run_git("pull", "--quiet", "--rebase", "origin", "main", cwd=folder)
    return subjects


def race(stage: RealStage, tmp_path: Path, rounds: int, seed: int, at_once: int) -> list[str]:
    """In an order by the seed, so many at once. What went wrong: everything that was taken is in the branch, once."""
    doors = {f"r{n}": stage.door() for n in range(RECONCILERS)}
    assert WRITERS % at_once == 0, "or the last ones wait for others"
    together = threading.Barrier(at_once)

    def started(work: Callable[[], list[str]]) -> Callable[[], list[str]]:
        def run() -> list[str]:
            together.wait()
            return work()

        return run

    def reconciler(name: str) -> Callable[[], list[str]]:
        return started(lambda: reconciles(doors[name], name, rounds))

    def person(name: str) -> Callable[[], list[str]]:
        return started(lambda: edits(stage.url, tmp_path / name, name, rounds))

    work = {name: reconciler(name) for name in doors} | {f"p{n}": person(f"p{n}") for n in range(PEOPLE)}
    order = sorted(work)
    random.Random(seed).shuffle(order)
    with ThreadPoolExecutor(at_once) as pool:
        made = dict(zip(order, pool.map(lambda name: work[name](), order), strict=True))
    return list(_wrong(stage, order, {commit for name in doors for commit in made[name]}, rounds))


def _wrong(stage: RealStage, writers: list[str], made: set[str], rounds: int) -> Iterator[str]:
    tip, log = stage.door().read(), stage.door().log(10_000)
    subjects = [entry.subject for entry in reversed(log)]
    there, expected = Counter(subjects), Counter(f"{name} {n}" for name in writers for n in range(rounds))
    yield from (f"lost: {subject}" for subject in expected - there)
    yield from (f"twice: {subject}" for subject in there - expected if subject != "A person's change")
    yield from (f"not in the branch: {commit}" for commit in made - {entry.commit for entry in log})
    if int(tip.files[SHARED]) != RECONCILERS * rounds:
        yield f"{tip.files[SHARED]} of what all of them count"
    for name in writers:
        path = f"models/{name}.yaml" if name.startswith("p") else f"environments/production/releases/{name}.yaml"
        if tip.files[path] != f"{rounds}\n":
            yield f"{path} says {tip.files[path]}"
        own = [subject for subject in subjects if subject.startswith(f"{name} ")]
        if own != [f"{name} {n}" for n in range(rounds)]:
            yield f"out of order: {own}"
    parents = run_git("rev-list", "--parents", "main", cwd=stage.bare).split("\n")
    yield from (f"a merge of a race: {line}" for line in parents if len(line.split()) > 2)


@pytest.mark.timeout(120)
def test_twenty_writers_lose_nothing(stage: RealStage, tmp_path: Path) -> None:
    assert race(stage, tmp_path, rounds=1, seed=1, at_once=4) == []


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_twenty_writers_at_once_lose_nothing_for_long(stage: RealStage, tmp_path: Path, seed: int) -> None:
    assert race(stage, tmp_path, rounds=10, seed=seed, at_once=WRITERS) == []


# --- a branch that is protected -----------------------------------------------------------------------------------


def test_a_protected_branch_is_said_with_what_to_allow_and_nothing_is_left_behind(stage: RealStage) -> None:
    door = stage.door()
    tip = door.read()
    stage.hook(
        "pre-receive",
        "while read old new ref; do\n"
        "  if [ $ref = refs/heads/main ]; then echo 'GH006: Protected branch update failed' >&2; exit 1; fi\n"
        "done\n",
    )
    with pytest.raises(Stalled) as caught:
        door.commit(tip.commit, {SHARED: "1\n"}, message("Ours"))
    said = str(caught.value)
    assert "refuses pushes to main" in said
    assert "let Sluicegate's user push there" in said
    assert "GH006: Protected branch update failed" in said
    assert stage.door().read() == tip
    door.mark_applied("production", tip.commit)  # its own refs are not protected with the branch


def test_protected_refs_are_said_by_name(stage: RealStage) -> None:
    door = stage.door()
    tip = door.read()
    stage.hook(
        "pre-receive",
        "while read old new ref; do\n"
        "  case $ref in refs/heads/*) ;; *) echo 'only branches here' >&2; exit 1;; esac\ndone\n",
    )
    with pytest.raises(Stalled, match=r"refs/sluice/applied/production.*only branches here"):
        door.mark_applied("production", tip.commit)
    assert door.commit(tip.commit, {SHARED: "1\n"}, message("Ours")) == stage.door().read().commit
