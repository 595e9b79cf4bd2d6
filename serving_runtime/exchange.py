"""What every HTTP door does with an answer: speak the caller's protocol. Bodies are read in `arrivals.py`.

Rules:
- Every error is JSON, in the shape of the protocol that asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serving_runtime.doorstep import REQUEST_ID_HEADER, REQUEST_ID_LIMIT_CHARS
from serving_runtime.open_inference import in_protocol
from serving_runtime.protocol import JSON, Answer, CallKind, error_answer

if TYPE_CHECKING:
    from starlette.requests import Request

NOT_HERE: Final = in_protocol(error_answer(404, "RESOURCE_DOES_NOT_EXIST", "No such model or version is here."))
"""To a stranger who asks whether it is ready: who answers in its place, they are not told."""
_FIRST_ERROR: Final = 400


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
