"""What the files of model versions are and ask for: read once, in the background, and remembered (`read_once.py`).

Rules:
- Versions are immutable, so what was read holds for as long as model, number, source and creation time are the same (a
  model that is deleted and made again starts at 1 again).
- One reading of all files gives everything that is known of them: the digest, what is asked for, the size, and what
  pickle would load. Nothing is loaded, and of most files only the first bytes are held.

It must not be asked by several threads at once: the loop is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from policies.artifact_digest import Content, artifact_digest
from policies.artifact_formats import HEAD_BYTES, MOST_NAMED, is_pickled
from policies.errors import BadInput, Retry, Stalled
from policies.observations import Artifact
from policies.packages import REQUIREMENTS_BYTES, REQUIREMENTS_FILE, requirements_in
from registry_bridge.model_artifacts import artifact_files
from registry_bridge.read_once import WAIT_S, ReadOnce

Key = tuple[str, int, str, int]
"""Model, version number, source, creation time in ms."""


class VersionArtifacts:
    """Artifacts by version. `scratch` is where one file at a time is put; none means the system's folder."""

    def __init__(self, tracking_uri: str, scratch: Path | None = None, wait_s: float = WAIT_S) -> None:
        self._tracking_uri, self._scratch = tracking_uri, scratch
        self._read_once: ReadOnce[Artifact] = ReadOnce(wait_s)

    def of(self, key: Key, uri: str) -> Artifact:
        """What lies at `uri`. Raises Retry while it is being read and when the store is away, Stalled."""
        what = f"the artifact of version {key[1]} of {key[0]}"
        return self._read_once.of(key, what, lambda: self._read(uri, what))

    def _read(self, uri: str, what: str) -> Artifact:
        try:
            files = artifact_files(uri, self._tracking_uri, self._scratch, what)
            passed = {path: _Passed(content, _kept_of(path)) for path, content in files.items()}
            digest = artifact_digest({path: file.read for path, file in passed.items()})
        except BadInput as error:
            raise Stalled(f"{what}: {error}") from error
        except OSError as error:  # the scratch folder: full, or not ours
            raise Retry(f"reading {what} failed: {error}") from error
        requirements = passed.get(REQUIREMENTS_FILE)
        pickled = sorted(path for path, file in passed.items() if is_pickled(path, file.head[:HEAD_BYTES]))
        return Artifact(
            digest=digest,
            requirements=requirements_in(requirements.head.decode("utf-8", "replace")) if requirements else (),
            size_bytes=sum(file.size for file in passed.values()),
            pickled=tuple(pickled[:MOST_NAMED]),
        )


def _kept_of(path: str) -> int:
    """A requirements file that is longer ends in a line that may be no requirement, and is refused for it."""
    return REQUIREMENTS_BYTES if path == REQUIREMENTS_FILE else HEAD_BYTES


class _Passed:
    """A file's content on its way to the digest, of which the beginning is kept and the length counted."""

    def __init__(self, content: Content, kept: int) -> None:
        self._content, self._kept = content, kept
        self.head = b""
        self.size = 0

    def read(self) -> Iterator[bytes]:
        """The content, as it is."""
        self.head, self.size = b"", 0
        for chunk in self._content():
            self.head = (self.head + chunk[: self._kept])[: self._kept] if len(self.head) < self._kept else self.head
            self.size += len(chunk)
            yield chunk
