"""Model artifacts on this node's disk, each downloaded once, by digest.

Rules:
- A folder under its digest's name is complete and was verified: it gets that name by one rename, after the download. A
  process that dies leaves a `.part` folder, which the next one removes.
- Replicas that start at the same moment share one download: a lock on a file, which the system gives back when its
  holder dies.
- What was downloaded is served only if its digest is the one that was admitted; anything else is refused in words.
- The folders used last are kept, up to a number and a size; others are removed after a download. One that a replica
  uses is not removed: the replica holds a lock on it for as long as it lives, because models read files when they need
  them.

It must not load a model: files only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TextIO

from policies.artifact_digest import artifact_digest
from policies.errors import BadInput, Stalled

_log = logging.getLogger(__name__)

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

CHUNK_BYTES = 1024 * 1024  # large enough that hashing, not reading, sets the pace
KEPT_ARTIFACTS = 10  # stable, candidate and a few to go back to, for some models
KEPT_BYTES = 50 * 1024**3  # half of a small node's disk
CACHE_VARIABLE = "SLUICE_CACHE"  # the folder on each node; without it, one below the system's temporary folder
LIMIT_VARIABLE = "SLUICE_CACHE_LIMIT_GIB"  # instead of KEPT_BYTES


class ArtifactCache:
    """A folder of verified artifacts. `download(folder)` puts one model's files below the folder and returns where."""

    def __init__(self, folder: Path, limit_bytes: int = KEPT_BYTES) -> None:
        """What it has fetched counts as used for as long as this object lives."""
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._used: list[TextIO] = []

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
            self._used.append(_use(target))
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

    def _remove_old(self, fetched: Path) -> None:
        others = [f for f in self._folder.iterdir() if f.is_dir() and f.suffix != ".part" and f != fetched]
        kept_bytes = _size(fetched)
        for kept, other in enumerate(sorted(others, key=lambda f: f.stat().st_mtime, reverse=True), start=1):
            size = _size(other)
            kept_bytes += size
            if (kept >= KEPT_ARTIFACTS or kept_bytes > self._limit_bytes) and _removed(other):
                kept_bytes -= size
                _log.info("removed the artifact %s, %d bytes, from the cache: others were used later", other.name, size)


def node_cache(environment: Mapping[str, str]) -> ArtifactCache:
    """This node's cache. Raises BadInput for a limit that is none, Stalled where the folder is somebody else's."""
    given = environment.get(LIMIT_VARIABLE, "")
    if given and not (given.isdecimal() and int(given)):
        raise BadInput(f"{LIMIT_VARIABLE} is {given[:20]!r}; write whole GiB, as in 50")
    return ArtifactCache(node_folder(environment) / "artifacts", int(given) * 1024**3 if given else KEPT_BYTES)


def node_folder(environment: Mapping[str, str]) -> Path:
    """Where artifacts lie, and the ledgers of capture.

    Raises Stalled where it is somebody else's: what lies there is run as code.
    """
    if given := environment.get(CACHE_VARIABLE):
        return Path(given)
    folder = Path(tempfile.gettempdir()) / f"sluicegate-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
        raise Stalled(f"{folder} belongs to somebody else; set {CACHE_VARIABLE} to a folder of your own")
    return folder


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


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())


def _use(folder: Path) -> TextIO:
    """A lock that says that the folder is used; the system gives it back when its holder dies."""
    used = folder.with_suffix(".used").open("a")
    fcntl.flock(used, fcntl.LOCK_SH)
    return used


def _removed(folder: Path) -> bool:
    """Remove it, unless a replica uses it or is about to."""
    try:
        with (
            _locked(folder.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB),
            _locked(folder.with_suffix(".used"), fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            shutil.rmtree(folder)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.warning("the artifact %s cannot be removed from the cache: %s", folder.name, error)
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, how)
        yield
