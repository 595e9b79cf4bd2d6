"""Where files of captured traffic lie: the one door to S3, and to a folder.

`open_store("s3://bucket/prefix")` or `open_store("file:///folder")`. S3's endpoint, region and credentials come from
the usual AWS environment (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, ..., profiles, instance roles).

Rules:
- A file is there whole or not at all: an S3 put is atomic; in a folder it is written beside, synced and renamed.
- The same name twice is the same file, the later one wins: a put that was not answered may be repeated.
- Names are checked here, whoever made them: no name leads out of the store, and none begins with a dot. The address
  is a person's, and `policies/capture_place.py` reads it.
- Every call ends: time limits and few attempts on S3, see the figures below. Whoever calls must not be an event loop.
- What went wrong is `Retry` (away, busy), `Stalled` (a person must act: no bucket, not allowed) or `BadInput`.

It must not know what is in the files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from policies.capture_place import PART_LIMIT_CHARS, UNFINISHED, read_place
from policies.errors import BadInput, Retry, SluiceError, Stalled

CONNECT_S = 3.0  # a store in reach answers in milliseconds; one that is away must not hold the caller
READ_S = 20.0  # for the largest file that capture writes over a slow line
ATTEMPTS = 3  # the client's own, a second or two apart; whoever calls has more patience if it wants
READ_LIMIT_BYTES = 256 * 1024 * 1024  # what `get` holds in memory; capture's files have a few MiB
NAME_LIMIT_CHARS = 512  # S3 takes 1024 bytes with the prefix, a file system 255 a part
PAGE_FILES = 1000  # what S3 lists at once at most
STALE_PART_S = 24 * 3600.0  # no put takes a day: what is older was left by a process that died

_PART = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.=+-]{{0,{PART_LIMIT_CHARS - 1}}}")


@dataclasses.dataclass(frozen=True)
class Stored:
    """One file of a store."""

    name: str
    size_bytes: int


class ObjectStore(Protocol):
    """Files by name. Each method blocks, and raises Retry, Stalled or BadInput."""

    def put(self, name: str, content: bytes) -> None:
        """Write the whole file; it is seen by others only when it is complete."""

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """The files whose names begin with `prefix`, in the order of their names' bytes, as they come."""

    def get(self, name: str) -> bytes | None:
        """The file's content, or None where there is no such file. Stalled above READ_LIMIT_BYTES."""


def open_store(address: str) -> ObjectStore:
    """The store at `s3://bucket/prefix` or `file:///folder`. Raises BadInput for another address; asks nobody yet."""
    try:
        place = read_place(address)
    except ValueError as error:
        raise BadInput(f"{address[:100]!r} {error}") from error
    if place.bucket is None:
        return FolderStore(Path("/") / place.path)
    return S3Store(place.bucket, place.path)


def check_name(name: str) -> str:
    """The name itself, where it is one: parts of letters, digits and `_.=+-`, joined by slashes. Raises BadInput."""
    if len(name) > NAME_LIMIT_CHARS or not all(_PART.fullmatch(part) for part in name.split("/")):
        raise BadInput(
            f"{name[:100]!r} is not a safe name: parts of letters, digits and _.=+-, none beginning with a dot,"
            f" joined by slashes, {NAME_LIMIT_CHARS} characters at most"
        )
    return name


# --- a folder -------------------------------------------------------------------------------------------------------


class FolderStore:
    """Files below a folder, which is made when it is first written to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unfinished = folder / UNFINISHED
        self._swept = False

    def put(self, name: str, content: bytes) -> None:
        """Write beside, sync, rename, sync the folder."""
        target = self._folder / check_name(name)
        part = self._unfinished / f"{os.getpid()}-{name.replace('/', ',')[-PART_LIMIT_CHARS:]}"
        with _folder_errors(self._folder):
            self._sweep()
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
            _sync(target.parent)

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Walk only the folders that can hold such names."""
        with _folder_errors(self._folder):
            yield from self._walk(self._folder, "", prefix)

    def get(self, name: str) -> bytes | None:
        """Read the file."""
        path = self._folder / check_name(name)
        with _folder_errors(self._folder):
            try:
                size = path.stat().st_size
                return path.read_bytes() if size <= READ_LIMIT_BYTES else _too_large(name, size)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None

    def _walk(self, folder: Path, above: str, prefix: str) -> Iterator[Stored]:
        try:
            found = [entry for entry in os.scandir(folder) if not (entry.is_symlink() or entry.name.startswith("."))]
        except FileNotFoundError:  # nothing was written yet
            return
        # A folder sorts with its slash, so that the whole is in the order of full names.
        entries = {f"{above}{entry.name}{'/' * entry.is_dir()}": entry for entry in found}
        for name in sorted(entries):
            if name.endswith("/") and (name.startswith(prefix) or prefix.startswith(name)):
                yield from self._walk(Path(entries[name].path), name, prefix)
            elif not name.endswith("/") and name.startswith(prefix):
                yield Stored(name, entries[name].stat().st_size)

    def _sweep(self) -> None:
        """Once: make the folder for unfinished files, and remove what a process that died has left there."""
        if self._swept:
            return
        self._unfinished.mkdir(parents=True, exist_ok=True)
        for old in self._unfinished.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a neighbour was faster: removed, or renamed as complete
                if time.time() - old.stat().st_mtime > STALE_PART_S:
                    old.unlink()
        self._swept = True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise Stalled(f"{folder} cannot be used: {error.strerror}; give this user a folder to write to") from error
    except OSError as error:
        raise Retry(f"{folder} does not take or give a file: {error.strerror}") from error


# --- S3 -------------------------------------------------------------------------------------------------------------

# What waiting does not mend.
_STALLED_CODES = frozenset(
    {"AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidBucketName", "403", "404"}
)
_MISSING_CODES = frozenset({"NoSuchKey"})
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


class S3Store:
    """Objects of a bucket below a prefix. The client is made at the first call, which imports boto3 (0.4 s)."""

    def __init__(self, bucket: str, prefix: str = "", *, page_files: int = PAGE_FILES) -> None:
        self._bucket, self._page_files = bucket, page_files
        self._prefix = f"{prefix}/" if prefix else ""
        self._made: Any = None

    def put(self, name: str, content: bytes) -> None:
        """One PUT, atomic on the server."""
        key = self._prefix + check_name(name)
        with _s3_errors(self._bucket):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Page by page."""
        with _s3_errors(self._bucket):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": self._page_files}
            ):
                for found in page.get("Contents", ()):
                    yield Stored(found["Key"].removeprefix(self._prefix), int(found["Size"]))

    def get(self, name: str) -> bytes | None:
        """One GET."""
        key = self._prefix + check_name(name)
        try:
            with _s3_errors(self._bucket), contextlib.closing(self._open(key)) as body:
                content: bytes = body.read(READ_LIMIT_BYTES + 1)
        except _Missing:
            return None
        return content if len(content) <= READ_LIMIT_BYTES else _too_large(name, len(content))

    def _open(self, key: str) -> Any:
        return self._client.get_object(Bucket=self._bucket, Key=key)["Body"]

    @property
    def _client(self) -> Any:
        if self._made is None:
            import boto3
            from botocore.config import Config

            # Behind an endpoint of one's own a bucket is rarely a host name.
            own = any(os.environ.get(name) for name in _ENDPOINT_VARIABLES)
            config = Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                s3={"addressing_style": "path" if own else "auto"},
                # Checksums of S3's newer kinds are refused by servers that are older than they are.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            self._made = boto3.session.Session().client("s3", config=config)
        return self._made


class _Missing(SluiceError):
    """There is no such object."""


@contextlib.contextmanager
def _s3_errors(bucket: str) -> Iterator[None]:
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in _MISSING_CODES:
            raise _Missing(code) from error
        if code in _STALLED_CODES:
            raise Stalled(f"bucket {bucket}: {code}; see that it exists and that the credentials may use it") from error
        raise Retry(f"bucket {bucket}: the store answers {code}") from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise Retry(f"bucket {bucket}: the store is not reached ({type(error).__name__})") from error
    except exceptions.BotoCoreError as error:  # no credentials, no profile, an endpoint that is no address
        raise Stalled(f"bucket {bucket}: {error}") from error


def _too_large(name: str, size_bytes: int) -> bytes:
    raise Stalled(f"{name} has {size_bytes} bytes or more, more than the {READ_LIMIT_BYTES} that are read at once")
