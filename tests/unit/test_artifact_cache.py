"""Artifacts on a node's disk: each once, complete, and the one that was admitted."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policies.errors import BadInput, Stalled
from serving_runtime.artifact_cache import KEPT_ARTIFACTS, KEPT_FOR_S, ArtifactCache, digest_of


class Source:
    """A registry with one artifact; counts its downloads."""

    def __init__(self, weights: bytes = b"weights") -> None:
        self.weights = weights
        self.downloads = 0
        self._lock = threading.Lock()

    def __call__(self, folder: Path) -> Path:
        with self._lock:
            self.downloads += 1
        files = folder / "model"
        (files / "data").mkdir(parents=True)
        (files / "MLmodel").write_text(f"run_id: run-{self.downloads}\nflavors: {{}}\n")
        (files / "data" / "weights").write_bytes(self.weights)
        return files

    def digest(self, tmp_path: Path) -> str:
        digest = digest_of(self(tmp_path / f"digest-{self.weights.hex()}"))
        self.downloads = 0
        return digest


def test_replicas_that_start_together_share_one_download(tmp_path: Path) -> None:
    source = Source()
    digest = source.digest(tmp_path)
    with ThreadPoolExecutor(8) as replicas:
        folders = set(replicas.map(lambda _: ArtifactCache(tmp_path / "cache").fetch(digest, source), range(8)))
    assert source.downloads == 1
    (folder,) = folders
    assert (folder / "data" / "weights").read_bytes() == b"weights"


def test_an_artifact_that_was_changed_is_refused_with_both_digests_and_leaves_nothing(tmp_path: Path) -> None:
    admitted = Source(b"admitted").digest(tmp_path)
    changed = Source(b"changed")
    cache = ArtifactCache(tmp_path / "cache")
    with pytest.raises(Stalled, match=f"has digest sha256:.*admitted {admitted}: it was changed"):
        cache.fetch(admitted, changed)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_what_a_process_that_died_has_left_is_not_served(tmp_path: Path) -> None:
    source = Source()
    digest = source.digest(tmp_path)
    part = tmp_path / "cache" / f"{digest.removeprefix('sha256:')}.part"
    part.mkdir(parents=True)
    (part / "half").write_bytes(b"wei")
    folder = ArtifactCache(tmp_path / "cache").fetch(digest, source)
    assert not (folder / "half").exists()
    assert not part.exists()
    assert source.downloads == 1


def test_a_download_that_fails_is_tried_again_by_the_next(tmp_path: Path) -> None:
    source = Source()
    digest = source.digest(tmp_path)
    cache = ArtifactCache(tmp_path / "cache")

    def fails(_folder: Path) -> Path:
        raise ConnectionError("the registry is away")

    with pytest.raises(ConnectionError, match="away"):
        cache.fetch(digest, fails)
    assert cache.fetch(digest, source).is_dir()


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../etc", "md5:" + "0" * 64, "sha256:" + "0" * 63 + "/"])
def test_what_is_no_digest_never_becomes_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(BadInput, match="is not a digest"):
        ArtifactCache(tmp_path / "cache").fetch(digest, Source())
    assert not (tmp_path / "cache").exists()


def test_only_the_artifacts_used_last_are_kept(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    sources = [Source(bytes([n])) for n in range(KEPT_ARTIFACTS + 3)]
    folders = []
    for age, source in enumerate(sources):
        folders.append(cache.fetch(source.digest(tmp_path), source))
        long_ago = folders[-1].stat().st_mtime - 10 * KEPT_FOR_S + age
        os.utime(folders[-1], (long_ago, long_ago))
    kept = [folder.is_dir() for folder in folders]
    assert kept == [False] * 3 + [True] * KEPT_ARTIFACTS
