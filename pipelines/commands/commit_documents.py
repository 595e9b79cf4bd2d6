"""A config repo as it is at a commit, and the lines that a change adds to it; read as Git objects, bounded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.commands.lint import linted, readable
from policies.config_repo_documents import ConfigRepo
from policies.layout import FOLDERS, SLUICE
from policies.notes import Note
from registry_bridge.local_repo import Differing, LocalRepo
from registry_bridge.repo_files import Entry, max_bytes

MOST_SEARCHED = 2_000
MOST_SEARCHED_BYTES = 32 * 1024 * 1024
"""What is searched for secrets: half a minute of work, and more than any change that somebody reads."""
HISTORY = "history"
DOCUMENTS = (SLUICE, *(folder.rstrip("/") for folder in FOLDERS if folder.rstrip("/") != HISTORY))
"""What is read: records of the past only where they are asked for."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One commit: its files, the repo that they make, and what is wrong with them."""

    files: Mapping[str, str]
    repo: ConfigRepo | None
    notes: tuple[Note, ...]


def side(repo: LocalRepo, commit: str) -> Side:
    """The repo at a commit."""
    entries = [(entry.path.decode("utf-8", "backslashreplace"), entry) for entry in repo.entries(commit, DOCUMENTS)]
    contents = repo.contents(entry for _, entry in entries if is_bearable(entry))
    files, notes = readable(entries, lambda _, entry: contents[entry.blob])
    return Side(files, *linted(files, notes))


def is_bearable(entry: Entry) -> bool:
    """Is it a plain file of a size that is read?"""
    return entry.mode.startswith("100") and entry.size <= max_bytes(entry.path.decode("utf-8", "backslashreplace"))


def new_lines(
    repo: LocalRepo, differing: tuple[Differing, ...]
) -> tuple[dict[str, tuple[tuple[int, str], ...]], tuple[str, ...]]:
    """The lines of each file that were not in it before, and what was not searched for them."""
    wanted: list[Differing] = []
    total = 0
    for one in differing:
        if one.after is None or not is_bearable(one.after):
            continue
        size = one.after.size + (one.before.size if one.before and is_bearable(one.before) else 0)
        if len(wanted) < MOST_SEARCHED and total + size <= MOST_SEARCHED_BYTES:
            wanted.append(one)
            total += size
    sides = [entry for one in wanted for entry in (one.before, one.after) if entry is not None]
    contents = repo.contents(entry for entry in sides if is_bearable(entry))
    found = {one.path: _added(one, contents) for one in wanted}
    missed = sum(one.after is not None for one in differing) - len(wanted)
    said = f"{missed} files were not searched for secrets: links, or more than can be read"
    return found, (said,) if missed else ()


def _added(one: Differing, contents: Mapping[str, bytes]) -> tuple[tuple[int, str], ...]:
    known = set(_lines(contents.get(one.before.blob, b""))) if one.before else set()
    now = _lines(contents[one.after.blob]) if one.after else []
    return tuple((number, line) for number, line in enumerate(now, 1) if line not in known)


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8", "replace").split("\n")
