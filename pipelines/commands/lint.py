"""`sluice lint`: everything that is wrong or unwise in a config repo, before it is pushed.

Rules:
- Reads what the door to Git would read and refuses what it would refuse: links, other encodings, huge files.
- All findings at once, each with file, line, field and what would be right.

This module must not print, and must not need Git, a network or a registry.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.defaults import built_in_documents
from policies.config_repo_documents import ConfigRepo, read_repo, with_defaults
from policies.consistency import check
from policies.errors import BadInput, Stalled
from policies.layout import FOLDERS, SLUICE, Place, locate
from policies.notes import Note, Severity, errors, in_order
from registry_bridge.repo_files import Entry, decode_texts, readable_paths


def lint(folder: Path) -> tuple[Note, ...]:
    """Every finding about the config repo in `folder`, in order. Raises BadInput when there is no such folder."""
    return read(folder)[1]


def read(folder: Path) -> tuple[ConfigRepo | None, tuple[Note, ...]]:
    """The repo in `folder` as it lies there, none where a document is wrong, and every finding. Raises BadInput."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder: give the folder of a config repo, with its sluice.yaml")
    files, notes = readable(_entries(folder), lambda path, _: (folder / path).read_bytes())
    return linted(files, notes)


def readable(
    entries: Iterable[tuple[str, Entry]], content: Callable[[str, Entry], bytes]
) -> tuple[dict[str, str], list[Note]]:
    """The text of every file that the door to Git would read, by path, and why it would refuse the others."""
    files: dict[str, str] = {}
    notes: list[Note] = []
    for path, entry in entries:
        try:
            readable_paths([entry])
            located = locate(path)
            # A record of the past is only looked at where it is asked for; here its place is enough.
            is_record = located is not None and located.place is Place.HISTORY
            files |= {path: ""} if is_record else decode_texts([(path, content(path, entry))])
        except Stalled as error:
            notes.append(Note(severity=Severity.ERROR, file=path, line=None, field="", message=str(error)))
    return files, notes


def linted(files: Mapping[str, str], notes: Iterable[Note]) -> tuple[ConfigRepo | None, tuple[Note, ...]]:
    """The repo that these files make, none where a document is wrong, and every finding with those that were there."""
    reading = read_repo(with_defaults(files, built_in_documents()))
    together = check(reading.repo) if reading.repo is not None else ()
    return reading.repo, in_order([*notes, *reading.notes, *together])


def render_notes(notes: Sequence[Note]) -> str:
    """The findings, one a line, and their number."""
    wrong = len(errors(notes))
    odd = len(notes) - wrong
    counts = " and ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((wrong, "error"), (odd, "warning")) if n)
    return "".join(f"{note}\n" for note in notes) + (f"{counts}\n" if notes else "nothing to report\n")


def notes_data(notes: Sequence[Note]) -> dict[str, Any]:
    """The findings for `--output json`."""
    fields = ("severity", "file", "line", "field", "message")
    return {"schema": 1, "notes": [{name: getattr(note, name) for name in fields} for note in notes]}


def exit_code(notes: Sequence[Note]) -> int:
    """1 where something must be mended before the repo can be applied, else 0."""
    return 1 if errors(notes) else 0


def _entries(folder: Path) -> Iterator[tuple[str, Entry]]:
    """Every file below the layout's folders, links included and not followed, by path with forward slashes."""
    roots = [folder / SLUICE, *(folder / name for name in FOLDERS)]
    found = [root for root in roots if os.path.lexists(root) and not _is_plain_folder(root)]
    for root in roots:
        if _is_plain_folder(root):
            for parent, folders, names in os.walk(root, followlinks=False):
                below = [Path(parent) / name for name in [*names, *folders]]
                found += [path for path in below if not _is_plain_folder(path)]
    for path in sorted(found):
        seen = path.lstat()
        name = path.relative_to(folder).as_posix()
        yield name, Entry(path=os.fsencode(name), mode=_git_mode(seen.st_mode), blob="", size=seen.st_size)


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _git_mode(mode: int) -> str:
    """Git's six digits for what a file is."""
    if stat.S_ISLNK(mode):
        return "120000"
    return "100644" if stat.S_ISREG(mode) else "000000"
