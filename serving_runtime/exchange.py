"""What every HTTP door does with a request and its answer: read a body up to its limits, speak the caller's protocol.

Rules:
- A body is read up to its size and its time: who sends one slowly holds a place that others wait for.
- Bodies come as they are. A compressed one is refused: unpacked, a few bytes may be gigabytes.
- Every error is JSON, in the shape of the protocol that asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from serving_runtime.doorstep import REQUEST_ID_HEADER, REQUEST_ID_LIMIT_CHARS
from serving_runtime.open_inference import in_protocol
from serving_runtime.protocol import BODY_LIMIT_BYTES, JSON, Answer, CallKind, error_answer, too_large

if TYPE_CHECKING:
    from starlette.requests import Request

BODY_WITHIN_S: Final = 60.0
"""8 MiB by a line of 1 Mbit/s take 67 s, and nearly every body is a thousandth of that."""
NOT_HERE: Final = in_protocol(error_answer(404, "RESOURCE_DOES_NOT_EXIST", "No such model or version is here."))
"""To a stranger who asks whether it is ready: who answers in its place, they are not told."""
CLIENT_GONE: Final = 499  # nobody reads it; it is what Serve calls an aborted request in its own metrics
_ENCODING, _LENGTH = b"content-encoding", b"content-length"
_FIRST_ERROR: Final = 400
_LONGEST_SHOWN: Final = 40


def request_id(request: Request) -> str:
    """The request's id; the doorstep, or Serve itself, has put one there where the client sent none."""
    return request.headers.get(REQUEST_ID_HEADER, "")[:REQUEST_ID_LIMIT_CHARS]


def spoken(answer: Answer, kind: CallKind) -> Answer:
    """In the words of the protocol that asked: an error in its shape, and JSON, whatever it was before."""
    if answer.status < _FIRST_ERROR:
        return answer
    if answer.content_type != JSON:  # MLflow says some things in plain text
        told = error_answer(answer.status, "BAD_REQUEST", answer.body.decode(errors="replace"))
        answer = told._replace(headers=answer.headers)
    return in_protocol(answer) if kind is CallKind.INFER else answer


async def read_body(
    request: Request, limit_bytes: int = BODY_LIMIT_BYTES, within_s: float = BODY_WITHIN_S
) -> bytes | Answer:
    """The body, or the answer to one that is packed, too large or too slow, or that nobody waits for any more."""
    for name, value in request.scope["headers"]:  # once, and not by Starlette's, which read them all for each name
        if name == _ENCODING and value.lower() not in (b"", b"identity"):
            return _packed(value.decode("latin-1"))
        if name == _LENGTH and value.isdigit() and int(value) > limit_bytes:
            return too_large(limit_bytes)
    try:
        async with asyncio.timeout(within_s):
            return await _read(request, limit_bytes)
    except TimeoutError:
        words = f"The request body did not arrive within {within_s:g} s."
        return error_answer(408, "TIMEOUT", words)._replace(headers=(("connection", "close"),))


async def _read(request: Request, limit_bytes: int) -> bytes | Answer:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        # Not `request.stream()`: most bodies are one message, and Starlette's generator costs more than reading it.
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return Answer(CLIENT_GONE, b"")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > limit_bytes:
            return too_large(limit_bytes)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _packed(encoding: str) -> Answer:
    words = f"content-encoding {encoding[:_LONGEST_SHOWN]!r} is not supported: send the body as it is, without it."
    return error_answer(415, "BAD_REQUEST", words)._replace(headers=(("accept-encoding", "identity"),))
