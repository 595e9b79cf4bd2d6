"""Twenty writers on one branch at once, reconcilers and people: nothing is lost, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
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
SHARED = "environments/production/releases/fraud.yaml"
START = {"sluice.yaml": "environments: {}\n", SHARED: "0\n"}
TRIES = 400
"""Of one commit. Somebody wins every round, so that 20 writers of a few commits each are far from it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("git"))
    running.start()
    yield running
    running.stop()


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


def race(stage: RealStage, tmp_path: Path, rounds: int, seed: int) -> None:
    """All of them at once, in an order by the seed; then everything that was taken is in the branch, once."""
    doors = {f"r{n}": stage.door() for n in range(RECONCILERS)}
    together = threading.Barrier(RECONCILERS + PEOPLE)

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
    with ThreadPoolExecutor(len(order)) as pool:
        made = dict(zip(order, pool.map(lambda name: work[name](), order), strict=True))
    tip = stage.door().read()
    log = stage.door().log(10_000)
    subjects = [entry.subject for entry in log]
    expected = [f"{name} {n}" for name in order for n in range(rounds)]
    assert sorted(subjects) == sorted([*expected, "A person's change"])
    assert {commit for name in doors for commit in made[name]} <= {entry.commit for entry in log}
    assert int(tip.files[SHARED]) == RECONCILERS * rounds
    assert {tip.files[f"environments/production/releases/{name}.yaml"] for name in doors} == {f"{rounds}\n"}
    assert {tip.files[f"models/p{n}.yaml"] for n in range(PEOPLE)} == {f"{rounds}\n"}
    for name in order:  # each writer's own come in its order
        own = [subject for subject in reversed(subjects) if subject.startswith(f"{name} ")]
        assert own == [f"{name} {n}" for n in range(rounds)]
    parents = run_git("rev-list", "--parents", "main", cwd=stage.bare).split("\n")
    assert all(len(line.split()) <= 2 for line in parents)  # one line, no merge of a race


@pytest.mark.timeout(120)
def test_twenty_writers_at_once_lose_nothing(stage: RealStage, tmp_path: Path) -> None:
    race(stage, tmp_path, rounds=1, seed=1)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_twenty_writers_lose_nothing_for_long(stage: RealStage, tmp_path: Path, seed: int) -> None:
    race(stage, tmp_path, rounds=10, seed=seed)


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
