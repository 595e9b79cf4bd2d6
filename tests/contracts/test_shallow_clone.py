"""The clone brings the last commits only, then what is new; what looks further back fetches what it needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from policies.commit_message import message
from registry_bridge.config_repo import ConfigRepo
from registry_bridge.git_clone import DEPTH
from tests.contracts.repo_harness import RealStage, Server, run_git

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

COMMITS = 5 * DEPTH
MODEL = "models/fraud.yaml"
OLD = "models/old.yaml"


@pytest.fixture
def stage(server: Server, tmp_path: Path) -> RealStage:
    """A branch of many commits; `OLD` came with the first and changed with the second."""
    made = RealStage(server, tmp_path)
    stream = "".join(_imported(n) for n in range(COMMITS))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=made.bare, input=stream.encode(), check=True)
    return made


def _imported(n: int) -> str:
    subject, text = f"Number {n}", f"text {n}\n"
    old = f"M 100644 inline {OLD}\ndata {len(text)}\n{text}\n" if n < 2 else ""
    return (
        f"commit refs/heads/main\ncommitter Ada <ada@example.com> {1_700_000_000 + n} +0000\n"
        f"data {len(subject)}\n{subject}\nM 100644 inline {MODEL}\ndata {len(text)}\n{text}\n{old}"
    )


def numbered(stage: RealStage, back: int) -> str:
    return run_git("rev-parse", f"refs/heads/main~{back}", cwd=stage.bare)


def here(cache: Path) -> int:
    return int(run_git("rev-list", "--all", "--count", cwd=cache / "config-repo.git"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def door(stage: RealStage, cache: Path) -> ConfigRepo:
    return stage.door_at(cache)


def test_a_new_clone_brings_the_last_commits_and_a_fetch_what_is_new(
    stage: RealStage, door: ConfigRepo, cache: Path
) -> None:
    assert door.read().files[MODEL] == f"text {COMMITS - 1}\n"
    assert here(cache) == DEPTH
    stage.person_commits({MODEL: "new\n"})
    commit = door.commit(door.read().commit, {"models/churn.yaml": "one\n"}, message("Ours"))
    assert door.read().commit == commit
    assert here(cache) == DEPTH + 2


def test_descent_that_is_older_than_the_clone_is_found(stage: RealStage, door: ConfigRepo) -> None:
    tip = door.read().commit
    applied = numbered(stage, DEPTH + 20)
    door.mark_applied("prod", applied)
    assert door.descends(tip, applied)
    assert not door.descends(applied, tip)
    assert not stage.door().descends(applied, tip)


def test_a_branch_that_was_moved_back_is_seen_from_a_shallow_clone(stage: RealStage, door: ConfigRepo) -> None:
    lost = door.read().commit
    door.mark_applied("prod", lost)
    there = stage.force_push(numbered(stage, 3 * DEPTH))
    for each in (door, stage.door()):
        assert each.read().commit == there
        assert not each.descends(there, lost)
        assert each.descends(lost, there)
        assert each.read_at(lost, [MODEL])[MODEL] == f"text {COMMITS - 1}\n"


def test_a_log_is_as_long_as_it_is_asked_for(door: ConfigRepo, cache: Path) -> None:
    door.read()
    assert [entry.subject for entry in door.log(3)] == [f"Number {COMMITS - n}" for n in (1, 2, 3)]
    assert here(cache) == DEPTH
    assert len(door.log(2 * DEPTH)) == 2 * DEPTH
    assert here(cache) < COMMITS
    assert len(door.log(10 * DEPTH)) == COMMITS


def test_a_log_of_one_file_names_no_commit_that_left_it_alone(door: ConfigRepo) -> None:
    """The oldest commit of a shallow clone looks as if it had made every file."""
    door.read()
    assert [entry.subject for entry in door.log(1, OLD)] == ["Number 1"]
    assert [entry.subject for entry in door.log(5, OLD)] == ["Number 1", "Number 0"]


def test_an_old_commit_is_read_where_somebody_asks_for_it(stage: RealStage, door: ConfigRepo) -> None:
    door.read()
    assert door.read_at(numbered(stage, COMMITS - 1), [MODEL])[MODEL] == "text 0\n"


def test_changes_since_an_old_commit_are_all_there(stage: RealStage, door: ConfigRepo) -> None:
    tip = door.read().commit
    found = door.changes(numbered(stage, 3 * DEPTH), tip)
    assert len(found) == 3 * DEPTH
    assert all(change.paths == {MODEL} for change in found)
