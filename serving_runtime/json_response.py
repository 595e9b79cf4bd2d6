"""An answer in JSON on its way out: what Starlette's own response makes of it, without finding that out each time.

Starlette lowers, encodes and searches the headers of every response; ours are three, and known.
"""

from __future__ import annotations

from starlette.responses import Response

from serving_runtime.protocol import JSON

_TYPE = (b"content-type", JSON.encode())


class JsonResponse(Response):
    """Complete when it is made: nothing is rendered."""

    def __init__(self, body: bytes, status: int, version_header: tuple[bytes, bytes]) -> None:  # not Starlette's own
        self.status_code, self.body, self.media_type, self.background = status, body, JSON, None
        self.raw_headers = [version_header, (b"content-length", str(len(body)).encode()), _TYPE]
