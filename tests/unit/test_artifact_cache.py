"""Artifacts on a node's disk: each once, complete, and the one that was admitted."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policies.errors import BadInput, Stalled
from serving_runtime.artifact_cache import KEPT_ARTIFACTS, ArtifactCache, digest_of, node_cache


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
        digest = digest_of(self(tmp_path / f"digest-{hash(self.weights)}"))
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


def test_a_limit_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    for wrong in ("0", "-1", "ten", "1.5"):
        with pytest.raises(BadInput, match=r"SLUICE_CACHE_LIMIT_GIB is .*; write whole GiB"):
            node_cache({"SLUICE_CACHE": str(tmp_path), "SLUICE_CACHE_LIMIT_GIB": wrong})


def test_a_node_keeps_its_artifacts_where_it_is_told(tmp_path: Path) -> None:
    source = Source()
    cache = node_cache({"SLUICE_CACHE": str(tmp_path / "here"), "SLUICE_CACHE_LIMIT_GIB": "1"})
    assert cache.fetch(source.digest(tmp_path), source).parent == tmp_path / "here" / "artifacts"


def fetched(tmp_path: Path, sizes: list[int], *, in_use: int | None = None, limit_bytes: int = 10**9) -> list[bool]:
    """Fetch artifacts of these sizes, each by a replica that ends, but for the one in use; which of them are kept?"""
    folders, replicas = [], []
    for age, size in enumerate(sizes):
        source = Source(bytes([age]) * size)
        replica = ArtifactCache(tmp_path / "cache", limit_bytes)
        folders.append(replica.fetch(source.digest(tmp_path), source))
        os.utime(folders[-1], (age, age))
        if age == in_use:
            replicas.append(replica)
    return [folder.is_dir() for folder in folders]


def test_only_the_artifacts_used_last_are_kept(tmp_path: Path) -> None:
    assert fetched(tmp_path, [1] * (KEPT_ARTIFACTS + 3)) == [False] * 3 + [True] * KEPT_ARTIFACTS


def test_only_as_many_are_kept_as_have_room(tmp_path: Path) -> None:
    assert fetched(tmp_path, [400, 400, 400, 400], limit_bytes=1000) == [False, False, True, True]


def test_what_a_replica_uses_is_kept_however_old_and_large(tmp_path: Path) -> None:
    assert fetched(tmp_path, [900, 400, 400, 400], in_use=0, limit_bytes=1000) == [True, False, True, True]


def test_what_is_larger_than_the_whole_limit_is_served_all_the_same(tmp_path: Path) -> None:
    assert fetched(tmp_path, [5000], limit_bytes=1000) == [True]
