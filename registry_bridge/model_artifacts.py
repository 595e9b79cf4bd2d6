"""The files of one model version in its artifact store, as streams: enough to take a digest, and never a second copy.

Rules:
- One file at a time lies on disk, in a scratch folder, and is removed when it was read: the space that is needed is the
  largest file's.
- A listing comes from outside: it is bounded in files, depth and bytes, and names only what lies below what was listed.
- What MLflow supports as an artifact store works here (S3, GCS, its own proxy, a folder); MLflow does the talking.
- A source on another server is refused before anything is sent there (`artifact_source.py`).

It must not load a model, and not decide what its digest means.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policies.artifact_digest import Content
from policies.artifact_source import check_artifact_source
from policies.errors import BadInput, Stalled
from registry_bridge.mlflow_words import in_our_words_for_artifacts

MAX_FILES = 10_000
"""The largest models are some hundred shards; more is a folder that was logged by mistake."""
MAX_DEPTH = 30
"""Folders in folders; Python packages logged as code are 5-10 deep."""
MAX_BYTES = 200 << 30
"""200 GiB: what one node could load. Larger would take hours to read and could not be served."""
CHUNK_BYTES = 1 << 20
"""Read and hashed at a time."""


def artifact_files(uri: str, tracking_uri: str, scratch: Path | None, what: str) -> Mapping[str, Content]:
    """Every file below `uri` by its path relative to it; each is downloaded when its content is asked for.

    `what` names the artifact in errors. Raises Retry, Stalled.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        check_artifact_source(uri, tracking_uri)
    except BadInput as error:
        raise Stalled(f"{what}: {error}") from error
    with in_our_words_for_artifacts(f"reading {what}"):
        repository = get_artifact_repository(uri, tracking_uri=tracking_uri)
    sizes = dict(_walk(repository, None, what, 0))
    if sum(sizes.values()) > MAX_BYTES:
        raise Stalled(f"{what} has {sum(sizes.values()):,} bytes, at most {MAX_BYTES:,} are read")
    return {path: _content(repository, path, scratch, what) for path in sizes}


def _walk(repository: Any, folder: str | None, what: str, depth: int) -> Iterator[tuple[str, int]]:
    """Paths and sizes of files. The count is checked on the way: a listing may be endless."""
    if depth > MAX_DEPTH:
        raise Stalled(f"{what} has folders more than {MAX_DEPTH} deep: {folder}")
    with in_our_words_for_artifacts(f"listing {what}"):
        entries = repository.list_artifacts(folder)
    if len(entries) > MAX_FILES:
        raise Stalled(f"{what} has more than {MAX_FILES:,} files")
    found = 0
    for entry in entries:
        path = str(entry.path)
        if folder is not None and not path.startswith(f"{folder}/"):
            raise Stalled(f"{what}: the artifact store lists {path!r} in the folder {folder!r}")
        for item in _walk(repository, path, what, depth + 1) if entry.is_dir else [(path, int(entry.file_size or 0))]:
            found += 1
            if found > MAX_FILES:
                raise Stalled(f"{what} has more than {MAX_FILES:,} files")
            yield item


def _content(repository: Any, path: str, scratch: Path | None, what: str) -> Content:
    def read() -> Iterator[bytes]:
        with tempfile.TemporaryDirectory(prefix="sluice-artifact-", dir=scratch) as folder:
            with in_our_words_for_artifacts(f"downloading {path} of {what}"):
                local = Path(repository.download_artifacts(path, folder))
            yield from _chunks(local, path, what)

    return read


def _chunks(local: Path, path: str, what: str) -> Iterator[bytes]:
    if local.is_symlink() or not local.is_file():
        raise Stalled(f"{path} of {what} is not a plain file")
    with local.open("rb") as reading:
        while chunk := reading.read(CHUNK_BYTES):
            yield chunk
