"""A config repo on this machine, read from its Git objects: two commits, what differs, and the files of either.

Rules:
- Nothing is checked out and no path of the repo is ever opened on disk: strangers choose the names, the kinds and the
  contents. Links are not followed, submodules not entered; what would be refused on the branch is refused here, file by
  file, so that a review can name all of them.
- Sizes are known before contents are read. Nothing is written, not even into the object store.
- No configuration counts but ours (`git_command.py`): no external diff, no textconv, no hooks, no replaced objects.

It must not know what the files mean.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from policies.errors import BadInput, Stalled
from registry_bridge.git_clone import BrokenCloneError, parse_batch, parse_entry
from registry_bridge.git_command import LOCAL_S, Answer, GitCommand
from registry_bridge.repo_files import MAX_FILES, MAX_TOTAL_BYTES, Entry, is_commit, shown

MAX_REV: Final = 250
"""Characters of a revision: branch names have up to 250."""


@dataclasses.dataclass(frozen=True)
class Differing:
    """One file that differs between two commits."""

    path: str
    """With escapes where it is no UTF-8: for rules and people, never to be opened."""
    before: Entry | None
    """None: it was not there."""
    after: Entry | None


class LocalRepo:
    """The objects of a repo on this machine: a working tree, or a bare repo."""

    def __init__(self, folder: Path, git: GitCommand | None = None) -> None:
        """Raises BadInput where there is no Git repo in `folder` itself."""
        git_dir = folder.absolute() / ".git"
        # Named outright, so that Git neither looks for one in the folders above nor asks whose it is.
        self._git_dir = git_dir if git_dir.exists() else folder.absolute()
        self._git = git or GitCommand()
        if self._run("rev-parse", "--git-dir").status != 0:
            raise BadInput(f"{folder} is no Git repo: give the folder of a clone of the config repo")

    def commit(self, rev: str) -> str:
        """The commit that a revision names. Raises BadInput where it names none."""
        if not rev or len(rev) > MAX_REV or rev.startswith("-") or not rev.isprintable():
            raise BadInput(f"{shown(rev)} is no revision: a branch, a tag or a commit")
        found = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        if found.status != 0 or not is_commit(found.text):
            raise BadInput(
                f"this clone has no commit {shown(rev)}: fetch it first (a checkout of one commit only has no others)"
            )
        return found.text

    def common(self, base: str, head: str) -> str:
        """The commit that a change began from: the newest that both have. Raises BadInput where there is none."""
        found = self._run("merge-base", base, head)
        if found.status != 0 or not is_commit(found.text.split("\n")[0]):
            raise BadInput(
                f"{base[:12]} and {head[:12]} have no commit in common in this clone: fetch more of their history"
            )
        return found.text.split("\n")[0]

    def entries(self, commit: str, below: Collection[str]) -> list[Entry]:
        """Every file of that commit that is one of these paths or below one of them. Raises Stalled for too many."""
        listing = self._done("ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--", *below).output
        return _bounded([parse_entry(line) for line in listing.split(b"\0") if line])

    def differing(self, before: str, after: str) -> tuple[Differing, ...]:
        """Every file that differs, by path. Raises Stalled for too many."""
        options = ("-r", "-z", "--raw", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-abbrev")
        output = self._done("diff-tree", *options, before, after, "--").output
        parts = output.split(b"\0")
        pairs = list(zip(parts[::2], parts[1::2], strict=False))
        if len(pairs) > MAX_FILES:
            raise Stalled(f"the change touches {len(pairs):,} files: at most {MAX_FILES:,} are reviewed")
        blobs = {name for head, _ in pairs for name in head.decode("ascii").split()[2:4]}
        sizes = self._sizes(name for name in blobs if set(name) != {"0"})
        return tuple(sorted((_differing(head, path, sizes) for head, path in pairs), key=lambda one: one.path))

    def contents(self, entries: Iterable[Entry]) -> dict[str, bytes]:
        """Content by blob. Whoever asks has looked at the sizes. Raises Stalled for too much, or a damaged clone."""
        wanted = {entry.blob: entry.size for entry in entries}
        if sum(wanted.values()) > MAX_TOTAL_BYTES:
            raise Stalled(f"{sum(wanted.values()):,} bytes are more than the {MAX_TOTAL_BYTES:,} that are read")
        if not wanted:
            return {}
        output = self._done("cat-file", "--batch", stdin="".join(f"{name}\n" for name in wanted).encode()).output
        try:
            return dict(parse_batch(output, list(wanted)))
        except BrokenCloneError as error:
            raise Stalled(f"this clone is not whole: {error}; fetch it again") from error

    def _sizes(self, blobs: Iterable[str]) -> dict[str, int]:
        names = sorted(blobs)
        asked = "".join(f"{name}\n" for name in names).encode()
        answer = self._done("cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", stdin=asked)
        rows = (line.split() for line in answer.text.splitlines())
        return {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[1] == "blob"}  # noqa: PLR2004 as asked

    def _done(self, *command: str, stdin: bytes = b"") -> Answer:
        answer = self._run(*command, stdin=stdin)
        if answer.status != 0:
            raise Stalled(f"git {command[0]} fails in {self._git_dir}: {answer.words or answer.status}")
        return answer

    def _run(self, *command: str, stdin: bytes = b"") -> Answer:
        # What is missing in a partial clone is said, and not fetched from wherever its config says.
        offline = {"GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0"}
        folder = f"--git-dir={os.fspath(self._git_dir)}"
        return self._git.run(folder, *command, deadline_s=LOCAL_S, stdin=stdin, environment=offline)


def _bounded(entries: list[Entry]) -> list[Entry]:
    if len(entries) > MAX_FILES:
        raise Stalled(f"the repo has {len(entries):,} files there: at most {MAX_FILES:,} are read")
    return entries


def _differing(head: bytes, path: bytes, sizes: dict[str, int]) -> Differing:
    """One pair of `git diff-tree --raw -z`: `:<mode> <mode> <blob> <blob> <letter>`, and the path."""
    mode_before, mode_after, before, after, _ = head.decode("ascii").removeprefix(":").split()

    def entry(mode: str, blob: str) -> Entry | None:
        return None if set(blob) == {"0"} else Entry(path, mode, blob, sizes.get(blob, 0))

    return Differing(path.decode("utf-8", "backslashreplace"), entry(mode_before, before), entry(mode_after, after))
