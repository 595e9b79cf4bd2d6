"""What the files of model versions are and ask for: read once, in the background, and remembered.

Rules:
- The loop waits for an artifact a few seconds and then says "not yet" (`Retry`): a large artifact takes minutes, and a
  failing candidate of another model must not wait for it.
- One artifact is read at a time: two would share one network and one disk.
- Versions are immutable, so what was read holds for as long as model, number, source and creation time are the same (a
  model that is deleted and made again starts at 1 again). A failure is forgotten once it was told.

It must not be asked by several threads at once: the loop is one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from datetime import timedelta
from pathlib import Path

from policies.artifact_digest import Content, artifact_digest
from policies.errors import BadInput, Retry, Stalled
from policies.observations import Artifact
from policies.packages import REQUIREMENTS_BYTES, REQUIREMENTS_FILE, requirements_in
from registry_bridge.model_artifacts import artifact_files

WAIT_S = 5.0
"""Most artifacts are read in under a second (some MB, a local network); a look is not held up for longer than this."""
ASK_AGAIN = timedelta(seconds=5)
REMEMBERED = 10_000
"""Artifacts known, a kilobyte each; the one that was not asked for longest is dropped first."""

Key = tuple[str, int, str, int]
"""Model, version number, source, creation time in ms."""


class VersionArtifacts:
    """Artifacts by version. `scratch` is where one file at a time is put; none means the system's folder."""

    def __init__(self, tracking_uri: str, scratch: Path | None = None, wait_s: float = WAIT_S) -> None:
        self._tracking_uri, self._scratch, self._wait_s = tracking_uri, scratch, wait_s
        self._futures: OrderedDict[Key, Future[Artifact]] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def of(self, key: Key, uri: str) -> Artifact:
        """What lies at `uri`. Raises Retry while it is being read and when the store is away, Stalled."""
        what = f"the artifact of version {key[1]} of {key[0]}"
        future = self._futures.get(key)
        if future is None:
            future = self._futures[key] = self._start(lambda: self._read(uri, what))
        self._futures.move_to_end(key)
        self._forget_old()
        if not wait([future], timeout=self._wait_s).done:
            raise Retry(f"{what} is still being read", after=ASK_AGAIN)
        if future.exception() is not None:
            del self._futures[key]
        return future.result()

    def _start(self, work: Callable[[], Artifact]) -> Future[Artifact]:
        """A daemon thread, unlike an executor's: an exit does not wait for gigabytes."""
        future: Future[Artifact] = Future()

        def run() -> None:
            with self._one_at_a_time:
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 (handed to whoever asks, like an executor does)
                    future.set_exception(error)

        threading.Thread(target=run, name="artifact", daemon=True).start()
        return future

    def _read(self, uri: str, what: str) -> Artifact:
        try:
            files = dict(artifact_files(uri, self._tracking_uri, self._scratch, what))
            requirements = _Remembered(files.get(REQUIREMENTS_FILE))
            if REQUIREMENTS_FILE in files:
                files[REQUIREMENTS_FILE] = requirements.read
            return Artifact(digest=artifact_digest(files), requirements=requirements_in(requirements.text))
        except BadInput as error:
            raise Stalled(f"{what}: {error}") from error
        except OSError as error:  # the scratch folder: full, or not ours
            raise Retry(f"reading {what} failed: {error}") from error

    def _forget_old(self) -> None:
        for key in list(self._futures)[:-REMEMBERED]:
            if self._futures[key].done():
                del self._futures[key]


class _Remembered:
    """A file's content on its way to the digest, of which the beginning is kept."""

    def __init__(self, content: Content | None) -> None:
        self._content = content
        self._kept = b""

    def read(self) -> Iterator[bytes]:
        """The content, as it is."""
        self._kept = b""
        for chunk in self._content() if self._content else ():
            self._kept = (self._kept + chunk)[:REQUIREMENTS_BYTES]
            yield chunk

    @property
    def text(self) -> str:
        """What was kept; a file that is longer ends in a line that may be no requirement, and is refused for it."""
        return self._kept.decode("utf-8", "replace")
