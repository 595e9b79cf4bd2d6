"""A clone of a config repo with real Git: strangers commit whatever they like, also what no checkout would hold."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "ada"), ("EMAIL", "ada@example.com"), ("DATE", "2026-11-23T12:00:00Z"))
}


class ConfigClone:
    """A bare repo in `folder`; commits are made of objects, and the same commits have the same hashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs: dict[bytes, str] = {}
        self.git("init", "--quiet", "--bare", "--initial-branch=main", "--template=")

    def commit(
        self,
        files: Mapping[str, str | bytes | None],
        parent: str | None = None,
        *,
        modes: Mapping[str, str] | None = None,
    ) -> str:
        """A commit on top of `parent` with these files changed; None removes one. `modes` are Git's, by path."""
        lines = []
        for path, content in files.items():
            mode = (modes or {}).get(path, "100644")
            if content is None:
                lines.append(f"0 {'0' * 40}\t{path}\0")
            elif mode == "160000":
                lines.append(f"{mode} {content if isinstance(content, str) else content.decode()}\t{path}\0")
            else:
                data = content.encode() if isinstance(content, str) else content
                lines.append(f"{mode} {self._blob(data)}\t{path}\0")
        index = {"GIT_INDEX_FILE": str(self.folder / "index.new")}
        self.git("read-tree", parent or "--empty", environment=index)
        listing = "".join(lines).encode("utf-8", "surrogateescape")
        self.git("update-index", "-z", "--index-info", given=listing, environment=index)
        tree = self.git("write-tree", environment=index)
        (self.folder / "index.new").unlink()
        return self.git("commit-tree", tree, *(("-p", parent) if parent else ()), "-m", "a change", environment=_WHO)

    def _blob(self, content: bytes) -> str:
        if content not in self._blobs:
            self._blobs[content] = self.git("hash-object", "-w", "--stdin", given=content)
        return self._blobs[content]

    def branch(self, name: str, commit: str) -> None:
        """Let a branch be at a commit."""
        self.git("update-ref", f"refs/heads/{name}", commit)

    def git(self, *command: str, given: bytes = b"", environment: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            ["git", f"--git-dir={self.folder}", *command],
            input=given,
            capture_output=True,
            check=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, **(environment or {})},
        )
        return done.stdout.decode().strip()
