"""The Open Inference Protocol over gRPC: each method's bytes in, its message out, its status where it fails.

Rules:
- A model is asked as over HTTP, by its host (`front.py`); what comes back is the host's answer in protobuf.
- A failure is a status with words that carry the request id, and nothing of the inside: INVALID_ARGUMENT, NOT_FOUND,
  UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED (too large, too often, no room), UNAVAILABLE (no host reached),
  DEADLINE_EXCEEDED, INTERNAL.
- A failure is set on the context and an empty message returned: what is raised, Serve would log as a fault of ours and
  send to the client as it is.

Nothing here knows Ray: `Context` is what it uses of Serve's.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from policies.errors import BadInput
from serving_runtime.access import Gate
from serving_runtime.callers import FORCE, Caller, Refusal
from serving_runtime.doorstep import REQUEST_ID_LIMIT_CHARS
from serving_runtime.ensemble import FrontTally
from serving_runtime.exposure import is_from_here
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.front import Front, Heard, Question
from serving_runtime.front_config import Member
from serving_runtime.front_door import HEADER_LIMIT_CHARS, passed_on
from serving_runtime.grpc_messages import request_of, response_of
from serving_runtime.grpc_tensors import infer_body, infer_response
from serving_runtime.open_inference_tensors import LENGTH_HEADER
from serving_runtime.outcomes import Outcome, UserOutcome, outcome_of
from serving_runtime.protocol import Call, CallKind

_log = logging.getLogger(__name__)

BINARY: Final = "application/octet-stream"
DETAILS_LIMIT_CHARS: Final = 2000
"""A status travels in HTTP/2 trailers, of which clients take 8 KiB."""

# By HTTP status; what is not here is INTERNAL. (Names of grpc.StatusCode.)
STATUSES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "RESOURCE_EXHAUSTED",
    504: "DEADLINE_EXCEEDED",
}


class Context(Protocol):
    """What is used of the context of a call."""

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What the client sent beside its message."""

    def peer(self) -> str:
        """Who has made the connection, as gRPC writes addresses."""

    def trailing_metadata(self) -> Sequence[tuple[str, str]]:
        """What goes back; Serve has put the request's id there."""

    def set_code(self, code: Any) -> None:
        """The status, a `grpc.StatusCode`."""

    def set_details(self, details: str) -> None:
        """Its words."""


class Failure(Exception):
    """Why a call has no message for an answer; caught where the call began."""

    def __init__(self, status: str, words: str) -> None:
        super().__init__(words)
        self.status = status


class GrpcEntry:
    """All methods of the protocol. One event loop owns it."""

    def __init__(self, front: Front, gate: Gate, tally: FrontTally) -> None:
        self._front, self._gate = front, gate
        self._tally = tally

    def server_live(self) -> Any:
        """Whoever answers, lives."""
        return response_of("ServerLive")(live=True)

    def server_ready(self) -> Any:
        """Ready once it knows its models."""
        return response_of("ServerReady")(ready=self._front.config is not None)

    def server_metadata(self) -> Any:
        """A name; which release of it, nobody is told who has not said who they are."""
        return response_of("ServerMetadata")(name="sluicegate", extensions=["binary_tensor_data"])

    async def model_ready(self, body: bytes, context: Context) -> Any:
        """Does the model's host answer, and is it that version? A model that nobody knows is not ready.

        Open to everybody, as over HTTP: it says nothing but that.
        """
        try:
            asked = _parsed("ModelReady", body)
            await self._described(asked, context)
        except Failure as failure:
            if failure.status in _NOT_READY:
                return response_of("ModelReady")(ready=False)
            return _failed("ModelReady", failure, context)
        return response_of("ModelReady")(ready=True)

    async def model_metadata(self, body: bytes, context: Context) -> Any:
        """What the model's host says about itself."""
        try:
            asked = _parsed("ModelMetadata", body)
            await self._let_in(self._member(asked.name), context)
            about = await self._described(asked, context)
        except Failure as failure:
            return _failed("ModelMetadata", failure, context)
        tensors = {
            side: [{key: each[key] for key in ("name", "datatype", "shape")} for each in about[side]]
            for side in ("inputs", "outputs")
        }
        return response_of("ModelMetadata")(
            name=about["name"], versions=about["versions"], platform=about["platform"], **tensors
        )

    async def model_infer(self, body: bytes, context: Context) -> Any:
        """A prediction."""
        started = time.perf_counter()
        try:
            message, outcome = await self._infer(body, context), UserOutcome.OK
        except Failure as failure:
            message = _failed("ModelInfer", failure, context)
            outcome = UserOutcome.ERROR if failure.status in _OURS else UserOutcome.CLIENT_ERROR
        self._tally.answered(outcome, (time.perf_counter() - started) * 1000.0)
        return message

    async def _infer(self, body: bytes, context: Context) -> Any:
        message = _parsed("ModelInfer", body)
        member = self._member(message.model_name)
        caller = await self._let_in(member, context)
        try:
            request, header_length = infer_body(message)
        except BadInput as error:
            raise Failure("INVALID_ARGUMENT", str(error)) from error
        headers = {**_headers(context), LENGTH_HEADER: str(header_length)}
        call = Call(request, BINARY, request_id_of(context), CallKind.INFER, headers)
        may_force = FORCE in caller.permissions
        heard = await self._front.ask(member, Question(call, message.model_version or None, may_force))
        outcome = outcome_of(heard.answer.status)
        self._tally.heard(member.model, outcome)
        if outcome is not Outcome.GOOD:
            raise _failure(heard)
        length = dict(heard.answer.headers).get(LENGTH_HEADER)
        try:
            return infer_response(
                heard.answer.body, None if length is None else int(length), typed=not message.raw_input_contents
            )
        except BadInput as error:
            _log.error("%s (request id %s)", error, call.request_id)
            raise Failure("INTERNAL", "The version answered what cannot be sent over gRPC.") from error

    def _member(self, name: str) -> Member:
        member = self._front.find(name)
        if member is None:
            raise Failure("NOT_FOUND", f"No model is called {name[:100]!r} here.")
        return member

    async def _let_in(self, member: Member, context: Context) -> Caller:
        """Who calls. Raises Failure for who may not."""
        sent = [(name.encode(), _bytes(value)) for name, value in context.invocation_metadata()]
        caller = await self._gate.admit(sent, member.model, from_here=is_from_here(context.peer()))
        if isinstance(caller, Refusal):
            raise _failure(Heard(member, caller.answer))
        return caller

    async def _described(self, asked: Any, context: Context) -> Mapping[str, Any]:
        """What the host of the model that is asked about says of itself. Raises Failure, also for another version."""
        heard = await self._front.describe(self._member(asked.name), request_id_of(context))
        if outcome_of(heard.answer.status) is not Outcome.GOOD:
            raise _failure(heard)
        about: Mapping[str, Any] = json.loads(heard.answer.body)
        if asked.version not in ("", *about["versions"]):
            raise Failure("NOT_FOUND", f"{asked.name[:100]} has no version {asked.version[:40]} here.")
        return about


_NOT_READY = frozenset({"NOT_FOUND", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL"})
_OURS = frozenset({"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})


def request_id_of(context: Context) -> str:
    """The client's own, sent as over HTTP, or the one that Serve took or made."""
    sent = dict(context.invocation_metadata()).get("x-request-id", "")
    made = dict(context.trailing_metadata()).get("request_id", "")
    return (sent if isinstance(sent, str) and sent else made)[:REQUEST_ID_LIMIT_CHARS]


def _headers(context: Context) -> dict[str, str]:
    """What hosts may need: as over HTTP. Serve's own word for the application means nothing to them."""
    texts = [(k, v) for k, v in context.invocation_metadata() if isinstance(v, str) and k != "application"]
    forced = {name: value for name, value in texts if name == FORCE_HEADER and len(value) <= HEADER_LIMIT_CHARS}
    return {**passed_on(texts), **forced}


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _parsed(method: str, body: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return request_of(method).FromString(body)
    except DecodeError as error:
        raise Failure("INVALID_ARGUMENT", f"The message is no {method}Request of the protocol.") from error


def _failure(heard: Heard) -> Failure:
    """A host's answer, or that there was none, as a status."""
    status = STATUSES.get(heard.answer.status, "INTERNAL")
    if heard.reason and heard.answer.status == 503:  # noqa: PLR2004 nobody was reached
        status = "UNAVAILABLE"
    try:
        told = json.loads(heard.answer.body)
        words = str(told.get("message") or told.get("error") or "") if isinstance(told, dict) else ""
    except ValueError:
        words = ""
    return Failure(status, words)


def _failed(method: str, failure: Failure, context: Context) -> Any:
    import grpc

    request_id = request_id_of(context)
    words = str(failure)[:DETAILS_LIMIT_CHARS]
    context.set_code(grpc.StatusCode[failure.status])
    context.set_details(words if request_id in words else f"{words} Request id {request_id}.".strip())
    return response_of(method)()
