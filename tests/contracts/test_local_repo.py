"""Two commits of strangers, read from real Git objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import BadInput, Stalled
from registry_bridge.local_repo import LocalRepo
from tests.fakes.config_clone import ConfigClone


@pytest.fixture
def clone(tmp_path: Path) -> ConfigClone:
    (tmp_path / "repo").mkdir()
    return ConfigClone(tmp_path / "repo")


def test_a_change_begins_where_the_two_parted(clone: ConfigClone) -> None:
    first = clone.commit({"sluice.yaml": "a"})
    theirs = clone.commit({"models/theirs.yaml": "b"}, first)
    mine = clone.commit({"models/mine.yaml": "c", "sluice.yaml": None}, first)
    clone.branch("main", theirs)
    repo = LocalRepo(clone.folder)
    assert repo.commit("main") == theirs
    assert repo.common(theirs, mine) == first
    found = repo.differing(first, mine)
    assert [(one.path, one.before is None, one.after is None) for one in found] == [
        ("models/mine.yaml", True, False),
        ("sluice.yaml", False, True),
    ]
    assert repo.contents(one.after for one in found if one.after) == {found[0].after.blob: b"c"}
    assert found[0].after.size == 1


def test_a_working_tree_is_read_by_its_objects(clone: ConfigClone, tmp_path: Path) -> None:
    commit = clone.commit({"sluice.yaml": "a"})
    clone.branch("main", commit)
    tree = tmp_path / "tree"
    clone.git("clone", "--quiet", str(clone.folder), str(tree))
    (tree / "sluice.yaml").write_text("not committed")
    repo = LocalRepo(tree)
    (entry,) = repo.entries(repo.commit("HEAD"), ("sluice.yaml",))
    assert repo.contents([entry])[entry.blob] == b"a"


@pytest.mark.parametrize(
    "rev", ["", "-x", "--upload-pack=x", "main\nx", "nothing", "f" * 40, "x" * 300, "HEAD:sluice.yaml"]
)
def test_what_is_no_commit_here_is_said(clone: ConfigClone, rev: str) -> None:
    clone.branch("main", clone.commit({"sluice.yaml": "a"}))
    with pytest.raises(BadInput, match=r"revision|no commit"):
        LocalRepo(clone.folder).commit(rev)


def test_histories_without_a_common_commit_are_said(clone: ConfigClone) -> None:
    one, other = clone.commit({"sluice.yaml": "a"}), clone.commit({"sluice.yaml": "b"})
    with pytest.raises(BadInput, match="no commit in common"):
        LocalRepo(clone.folder).common(one, other)


def test_a_folder_without_git_is_said_and_none_above_it_is_taken(clone: ConfigClone, tmp_path: Path) -> None:
    clone.branch("main", clone.commit({"sluice.yaml": "a"}))
    clone.git("clone", "--quiet", str(clone.folder), str(tmp_path / "tree"))
    (tmp_path / "tree" / "below").mkdir()
    with pytest.raises(BadInput, match="no Git repo"):
        LocalRepo(tmp_path / "tree" / "below")


def test_links_and_submodules_are_entries_and_nothing_else(clone: ConfigClone) -> None:
    commit = clone.commit(
        {"models/link.yaml": "/etc/passwd", "models/sub": "a" * 40},
        modes={"models/link.yaml": "120000", "models/sub": "160000"},
    )
    empty = clone.commit({})
    repo = LocalRepo(clone.folder)
    modes = {e.path: e.mode for e in repo.entries(commit, ("models",))}
    assert modes == {b"models/link.yaml": "120000", b"models/sub": "160000"}
    assert {one.path: one.after.size for one in repo.differing(empty, commit) if one.after} == {
        "models/link.yaml": 11,
        "models/sub": 0,
    }


def test_replaced_objects_and_external_diffs_do_not_count(clone: ConfigClone) -> None:
    first = clone.commit({"sluice.yaml": "a"})
    second = clone.commit({"sluice.yaml": "b", ".gitattributes": "* diff=evil\n"}, first)
    clone.git("replace", second, first)
    clone.git("config", "diff.evil.command", "touch /tmp/never")
    clone.git("config", "diff.external", "false")
    repo = LocalRepo(clone.folder)
    assert [one.path for one in repo.differing(first, second)] == [".gitattributes", "sluice.yaml"]


def test_a_clone_that_lacks_a_blob_is_said(clone: ConfigClone) -> None:
    commit = clone.commit({"sluice.yaml": "a"})
    repo = LocalRepo(clone.folder)
    (entry,) = repo.entries(commit, ("sluice.yaml",))
    (clone.folder / "objects" / entry.blob[:2] / entry.blob[2:]).unlink()
    with pytest.raises(Stalled):
        repo.contents([entry])


def test_names_that_are_no_utf8_are_shown_with_escapes(clone: ConfigClone) -> None:
    first = clone.commit({})
    second = clone.commit({"models/\udcff.yaml": "x", "models/a\nb.yaml": "y"}, first)
    paths = [one.path for one in LocalRepo(clone.folder).differing(first, second)]
    assert paths == ["models/\\xff.yaml", "models/a\nb.yaml"]
