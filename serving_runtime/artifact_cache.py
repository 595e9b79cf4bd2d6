"""Model artifacts on this node's disk, each downloaded once, by digest.

Rules:
- A folder under its digest's name is complete and was verified: it gets that name by one rename, after the download. A
  process that dies leaves a `.part` folder, which the next one removes.
- Replicas that start at the same moment share one download: a lock on a file, which the system gives back when its
  holder dies.
- What was downloaded is served only if its digest is the one that was admitted; anything else is refused in words.
- The folders used last are kept, older ones are removed after a download.

It must not load a model: files only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from policies.artifact_digest import artifact_digest
from policies.errors import BadInput, Stalled

_log = logging.getLogger(__name__)

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

CHUNK_BYTES = 1024 * 1024  # large enough that hashing, not reading, sets the pace
KEPT_ARTIFACTS = 10  # stable, candidate and a few to go back to, for some models; a node's disk is the limit
KEPT_FOR_S = 24 * 3600.0  # a younger one may still be read by a replica that loads its files when it needs them


class ArtifactCache:
    """A folder of verified artifacts. `download(folder)` puts one model's files below the folder and returns where."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, digest: str, download: Callable[[Path], Path]) -> Path:
        """The folder with the artifact of that digest; blocks while it is downloaded, here or by a neighbour.

        Raises BadInput for a digest that is none, Stalled when the registry's artifact has another one.
        """
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise BadInput(f"{digest[:100]!r} is not a digest; write sha256: and 64 hex digits")
        target = self._folder / match[1]
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._folder / f"{match[1]}.lock"):
            if not target.is_dir():
                self._download(target, digest, download)
                self._remove_old(target)
            os.utime(target)
        return target

    def _download(self, target: Path, digest: str, download: Callable[[Path], Path]) -> None:
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)  # what a process that died has left
        part.mkdir(mode=0o700)
        try:
            files = download(part)
            found = digest_of(files)
            if found != digest:
                raise Stalled(
                    f"the artifact in the registry has digest {found}, the release admitted {digest}: it was changed"
                    " after it was admitted and is not served; register it as a new version"
                )
            files.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _remove_old(self, used: Path) -> None:
        folders = sorted(
            (f for f in self._folder.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime, reverse=True
        )
        for old in folders[KEPT_ARTIFACTS:]:
            if old != used and old.suffix != ".part" and time.time() - old.stat().st_mtime > KEPT_FOR_S:
                _log.info("removing the artifact %s from the cache: not used for a day", old.name)
                shutil.rmtree(old, ignore_errors=True)


def digest_of(folder: Path) -> str:
    """The digest of the model in that folder, by `policies.artifact_digest`."""
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return artifact_digest({p.relative_to(folder).as_posix(): partial(_chunks, p) for p in paths})


def registry_download(model: str, version: int, tracking_uri: str) -> Callable[[Path], Path]:
    """How to download one registered version.

    By the registry's own address for it, so that a name from outside is never part of a URI.
    """

    def download(folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        source = client.get_model_version_download_uri(model, str(version))
        return Path(download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=tracking_uri))

    return download


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
