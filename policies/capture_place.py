"""Where captured traffic goes, as people write it: `s3://bucket/prefix`, or `file:///folder` on each node.

Rules:
- One reading for both ends: what lint takes, a replica can write to (`serving_runtime/object_store.py`).
- A person chose the folders, so a dot may stand first (`.sluice`). What no address may do is lead somewhere else: no
  part is empty, `.` or `..`, and none is the folder in which files wait that are not finished.
"""

from __future__ import annotations

import dataclasses
import re

PLACE = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|file://)(/[A-Za-z0-9._=-]+)*$"
"""Its shape; of the rest `read_place` says what is wrong."""
UNFINISHED = ".parts"
"""The folder within a place where files lie until they are whole; no name of a file begins with a dot."""
# S3 takes 1024 bytes with the name of the file, which may have 512; a file system takes 255 a part.
PLACE_LIMIT_CHARS = 512
PART_LIMIT_CHARS = 200

_PLACE = re.compile(f"{PLACE.removesuffix('$')}/?")
_NOWHERE = frozenset({".", "..", UNFINISHED})


@dataclasses.dataclass(frozen=True)
class CapturePlace:
    """A bucket and a prefix, or a folder."""

    bucket: str | None
    """None: a folder of each node."""
    path: str
    """The prefix, or the folder below /; without slashes at its ends."""


def read_place(address: str) -> CapturePlace:
    """The place at an address, which may end with a slash. Raises ValueError: what is wrong with it, unnamed."""
    if not (found := _PLACE.fullmatch(address)):
        raise ValueError("is no place to write to; write s3://bucket/prefix or file:///folder")
    bucket = None if found[1] == "file://" else found[1].removeprefix("s3://")
    path = address.removeprefix(found[1]).strip("/")
    if bucket is None and not path:
        raise ValueError("names no folder; write file:///folder")
    parts = path.split("/")
    if wrong := sorted(_NOWHERE.intersection(parts)):
        raise ValueError(f"has the part {wrong[0]}; write it without")
    if len(address) > PLACE_LIMIT_CHARS or any(len(part) > PART_LIMIT_CHARS for part in parts):
        raise ValueError(f"is too long: {PLACE_LIMIT_CHARS} characters at most, {PART_LIMIT_CHARS} between two slashes")
    return CapturePlace(bucket, path)
