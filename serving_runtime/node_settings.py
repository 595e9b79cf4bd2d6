"""What the environment of a Ray node says that models would suffer from, in words for the log of each replica there.

Ray reads these variables once, in each process, and tells nobody: only a replica sees what its own node has. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from serving_runtime.doorstep import CALLBACK, HERE
from serving_runtime.protocol import BODY_LIMIT_BYTES

MESSAGE_LIMIT: Final = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"
ADVISED_BYTES: Final = 64 * 1024 * 1024
"""A request has 8 MiB at most, and an answer may be several times as large."""
_DEFAULT_BYTES: Final = 4 * 1024 * 1024
_BY_GRPC: Final = "RAY_SERVE_USE_GRPC_BY_DEFAULT"
_THROUGHPUT: Final = "RAY_SERVE_THROUGHPUT_OPTIMIZED"


def troubles(environment: Mapping[str, str]) -> Iterator[str]:
    """What should be set otherwise, and what comes of it as it is."""
    if environment.get(CALLBACK, "") != HERE:
        yield (
            f"{CALLBACK} is not {HERE} on this node: Serve answers headers that are no UTF-8 with a bare 500, and "
            "echoes an empty request id. Set it on every node."
        )
    if environment.get(_BY_GRPC, environment.get(_THROUGHPUT, "0")).lower() not in ("1", "true"):
        return
    limit = environment.get(MESSAGE_LIMIT, "")
    limit_bytes = int(limit) if limit.isdecimal() else _DEFAULT_BYTES
    if limit_bytes <= BODY_LIMIT_BYTES:
        yield (
            f"{MESSAGE_LIMIT} is {limit_bytes} on this node: larger requests, of which the door takes up to "
            f"{BODY_LIMIT_BYTES} bytes, fail at a candidate and behind a front, and count against it. "
            f"Set {ADVISED_BYTES} on every node."
        )
