"""What may lie in a config repo, and what may be written there: paths, sizes, kinds, encodings.

Rules:
- Everything that is read was put there by somebody. A link is never followed, a nested repository never opened, and
  what is no text of a bearable size is refused with its path and the reason, all of them in one message.
- The same rules hold for writing: what this module would refuse to read is never written.
- No I/O: the door (`config_repo.py`) and its in-memory fake ask the same functions.

This module must not know what a file means (`policies/layout.py` does).
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import Final

from policies.errors import BadInput, Stalled
from policies.layout import FOLDERS, SLUICE, Place, locate

ROOTS: Final = (SLUICE, *(folder.rstrip("/") for folder in FOLDERS))
"""What is read: these and everything below them."""
MAX_FILE_BYTES: Final = 1024 * 1024
"""A document people write has a few kB."""
MAX_SERVE_CONFIG_BYTES: Final = 4 * MAX_FILE_BYTES
"""Of `serve.yaml`: a thousand models take about 1.2 MB, more with long settings."""
MAX_FILES: Final = 50_000
"""Ten years of 13 rollouts a day leave as many records in history/; a look stays under a second."""
MAX_TOTAL_BYTES: Final = 256 * 1024 * 1024
"""All of it is held in memory, once."""
MAX_PATH_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 255
"""What every file system takes: people clone this repo onto theirs."""
MAX_COMPLAINTS: Final = 5
"""Refused files named in one message; more of them only hide the first."""

_REGULAR_MODES: Final = frozenset({"100644", "100755", "100664"})
_KINDS: Final = {"120000": "a symbolic link", "160000": "a submodule"}
_GIT_FOLDERS: Final = frozenset({".git", "git~1"})
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_BRANCH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
_URLS: Final = (
    re.compile(r"https?://[A-Za-z0-9\[][^\s@]*"),
    re.compile(r"ssh://([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9\[][^\s@]*"),
    re.compile(r"file:///[^\s]*"),
    re.compile(r"/[^\n]*"),
    re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!:)(?!//)[^\s]+"),
)
_CREDENTIALS: Final = re.compile(r"(https?://)[^/@\s]*@|(ssh://)[^/@\s]*:[^/@\s]*@", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file as a tree lists it, before its content is looked at."""

    path: bytes
    mode: str
    """Git's six octal digits."""
    blob: str
    size: int
    """Bytes."""


def readable_paths(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The entries by path. Raises Stalled that names every one (MAX_COMPLAINTS at most) that is refused, and why."""
    found: dict[str, Entry] = {}
    complaints: list[str] = []
    total = 0
    for entry in entries:
        path = entry.path.decode("utf-8", "backslashreplace")
        complaint = _entry_complaint(path, entry)
        if complaint:
            complaints.append(f"{shown(path)} {complaint}")
        found[path] = entry
        total += entry.size
    if complaints:
        raise Stalled(_refusal(complaints))
    if len(found) > MAX_FILES or total > MAX_TOTAL_BYTES:
        raise Stalled(
            f"the config repo has {len(found):,} files with {total:,} bytes; at most {MAX_FILES:,} files and "
            f"{MAX_TOTAL_BYTES:,} bytes are read: move old records out of history/"
        )
    return found


def decode_texts(contents: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Text by path. Raises Stalled that names what is not UTF-8 text."""
    texts: dict[str, str] = {}
    complaints: list[str] = []
    for path, content in contents:
        try:
            texts[path] = content.decode("utf-8")
        except UnicodeDecodeError as error:
            complaints.append(f"{shown(path)} is not UTF-8 (byte {error.start}): save it as UTF-8")
            continue
        if "\0" in texts[path]:
            complaints.append(f"{shown(path)} has NUL bytes: it is no text")
    if complaints:
        raise Stalled(_refusal(complaints))
    return texts


def check_change(path: str, text: str | None) -> None:
    """May this be written? Raises BadInput that names the path."""
    complaint = _path_complaint(path)
    if complaint:
        raise BadInput(f"{shown(path)} {complaint}")
    if text is None:
        return
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise BadInput(f"{shown(path)}: the text has half a surrogate pair at {error.start}") from error
    if size > max_bytes(path) or "\0" in text:
        raise BadInput(f"{shown(path)}: text without NUL and up to {max_bytes(path):,} bytes is written, not {size:,}")


def check_branch(branch: str) -> str:
    """The branch's name, if Git takes it and no command could read it as an option. Raises BadInput."""
    parts = branch.split("/")
    odd = ".." in branch or any(not p or p.startswith(".") or p.endswith((".", ".lock")) for p in parts)
    if not _BRANCH.fullmatch(branch) or odd:
        raise BadInput(f"{shown(branch)} is no name for a branch: letters, digits and . _ / + - inside, like main")
    return branch


def check_url(url: str) -> str:
    """The repo's address, if it is one of http, https, ssh, file or a path. Raises BadInput; secrets are not shown."""
    if _CREDENTIALS.match(url):
        raise BadInput(
            f"the address {shown(without_credentials(url))} carries a user or password: take it out and set "
            "SLUICE_GIT_TOKEN in the environment"
        )
    if not any(pattern.fullmatch(url) for pattern in _URLS) or not url.isprintable():
        raise BadInput(
            f"{shown(url)} is no address for a config repo: https://, http://, ssh://, user@host:path, file:/// "
            "or an absolute path"
        )
    return url


def without_credentials(url: str) -> str:
    """The address without user and password, for messages."""
    return _CREDENTIALS.sub(lambda match: match.group(1) or match.group(2), url)


def is_commit(text: str) -> bool:
    """Is it a full commit hash, by its looks?"""
    return _COMMIT.fullmatch(text) is not None


def is_wanted(path: str, wanted: Collection[str]) -> bool:
    """Is the path among those that are wanted, or below one of them that ends in /?"""
    return path in wanted or any(path[: at + 1] in wanted for at, char in enumerate(path) if char == "/")


def shown(text: str) -> str:
    """A stranger's text in a message: quoted, escaped, cut."""
    return ascii(text[:200]) if not text.isprintable() else repr(text[:200])


def _entry_complaint(path: str, entry: Entry) -> str:
    if entry.mode not in _REGULAR_MODES:
        return f"is {_KINDS.get(entry.mode, 'no regular file')}: only plain files are read, put the text itself there"
    if entry.size > MAX_FILE_BYTES and entry.size > max_bytes(path):
        return f"has {entry.size:,} bytes: at most {max_bytes(path):,} are read"
    try:
        entry.path.decode("utf-8")
    except UnicodeDecodeError:
        return "has a name that is not UTF-8: rename it"
    return _path_complaint(path)


def max_bytes(path: str) -> int:
    """How large a file at that path may be. A manifest of KubeRay is no exception: Kubernetes takes 1.5 MB."""
    located = locate(path)
    return MAX_SERVE_CONFIG_BYTES if located is not None and located.place is Place.SERVE else MAX_FILE_BYTES


@functools.lru_cache(maxsize=MAX_FILES)
def _path_complaint(path: str) -> str:
    parts = path.split("/")
    if any(part in ("", ".", "..") or part.lower().rstrip(". ") in _GIT_FOLDERS for part in parts):
        return "is no path inside the repo: no empty, '.', '..' or '.git' parts"
    if "\\" in path or any(unicodedata.category(char) in ("Cc", "Cs") for char in path):
        return "has a backslash or a control character in its name"
    size = len(path.encode("utf-8"))
    if size > MAX_PATH_BYTES or any(len(part.encode("utf-8")) > MAX_NAME_BYTES for part in parts):
        return f"is too long a path: up to {MAX_PATH_BYTES} bytes, {MAX_NAME_BYTES} for each name"
    return ""


def _refusal(complaints: list[str]) -> str:
    more = len(complaints) - MAX_COMPLAINTS
    listed = "; ".join(complaints[:MAX_COMPLAINTS]) + (f"; and {more} more" if more > 0 else "")
    return f"the config repo has files that are not read: {listed}"
