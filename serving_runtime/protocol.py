"""MLflow's scoring protocol, in and out: bytes of a request -> bytes of an answer, by MLflow's own parser.

Rules:
- The answer to a good request is byte for byte that of `mlflow models serve`.
- A request that cannot be parsed, or does not fit the signature, is 400 (415 for its type) with MLflow's error body.
  What the model itself raises is 500: MLflow's server calls both 400, which would hide every fault of a model from its
  SLO.
- No answer carries a traceback, a path or another internal: those go to the log, under the request id.
- MLflow is imported where it is used; so the host's side of this module costs nothing.

Where the line runs: the loaded model's own predict function is wrapped once (`mark_faults`); what it raises is the
model's fault, what is raised before it is called is the request's.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from serving_runtime.costly_bodies import too_much

_log = logging.getLogger(__name__)

JSON = "application/json"

# A request body above this is refused with 413. It is held in memory for as long as its request lasts, and once more
# for a copy in shadow: with 32 requests in progress per replica this bounds both together at half a GiB.
BODY_LIMIT_BYTES = 8 * 1024 * 1024

# MLflow quotes the whole input in some error messages; a client needs the beginning, the network does not need the
# rest.
MESSAGE_LIMIT_CHARS = 4000

_REPEATS_ROWS = "Failed to enforce schema of data"  # how MLflow begins such a message

DRAINING = 0  # in place of an HTTP status between host and candidate: no answer, and nobody's fault

# What is short of room or of a neighbour now has it again a few answers later; who comes at once makes it longer.
RETRY_AFTER_S = 1

# Set by a host on what it asks for a comparison only; the door lets no stranger set it.
COPY_HEADER = "x-sluice-copy"


class Answer(NamedTuple):
    """What goes back.

    Between host and candidate it travels as a plain tuple, so that both may run different releases of this package.
    """

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    rest: AsyncGenerator[bytes | Answer, None] | None = None
    """What follows where the answer streams (`event_stream.py`); an answer there says that the stream broke."""

    def plain(self) -> tuple[Any, ...]:
        """For the way to a host of any release, without the rest. Older ones know three fields, and need no other."""
        return (self.status, self.body, self.content_type, *((self.headers,) if self.headers else ()))


class CallKind(StrEnum):
    """The protocol that a request speaks."""

    INVOCATIONS = "invocations"
    """MLflow's scoring protocol."""
    INFER = "infer"
    """The Open Inference Protocol, version 2."""


_NO_HEADERS: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Call:
    """One request as it travels from the door to a version."""

    body: bytes
    content_type: str | None
    request_id: str
    kind: CallKind = CallKind.INVOCATIONS
    headers: Mapping[str, str] = dataclasses.field(default_factory=lambda: _NO_HEADERS)
    """Of the request's headers those that mean something behind the door, names in lower case."""


def as_copy(call: Call) -> Call:
    """The same call, asked for a comparison only."""
    return dataclasses.replace(call, headers={**call.headers, COPY_HEADER: "1"})


def error_answer(status: int, error_code: str, message: str, **more: str) -> Answer:
    """An error in MLflow's shape: `{"error_code": ..., "message": ...}`."""
    if len(message) > MESSAGE_LIMIT_CHARS:
        message = f"{message[:MESSAGE_LIMIT_CHARS]}... ({len(message)} characters)"
    return Answer(status, json.dumps({"error_code": error_code, "message": message, **more}).encode())


def try_again(message: str, **more: str) -> Answer:
    """A 503 that says when to come again: nobody's fault who asks, and soon over."""
    answer = error_answer(503, "TEMPORARILY_UNAVAILABLE", message, **more)
    return answer._replace(headers=(("retry-after", str(RETRY_AFTER_S)),))


def too_large(limit_bytes: int = BODY_LIMIT_BYTES) -> Answer:
    """The answer to a body above the limit."""
    return error_answer(413, "REQUEST_LIMIT_EXCEEDED", f"The request body is larger than {limit_bytes} bytes.")


def model_fault(request_id: str) -> Answer:
    """The answer when the model failed on a request: an id to find the reason by, and nothing else."""
    message = f"The model failed on this request. The log of its replica has the reason under request id {request_id}."
    return error_answer(500, "INTERNAL_ERROR", message, request_id=request_id)


def unavailable(request_id: str) -> Answer:
    """The answer when nobody who could answer was reached."""
    message = f"No version could be reached. Try again in {RETRY_AFTER_S} s. Request id {request_id}."
    return try_again(message, request_id=request_id)


def overloaded(request_id: str) -> Answer:
    """The answer when there is no room for one more request to wait."""
    message = f"Too many requests wait here. Try again in {RETRY_AFTER_S} s. Request id {request_id}."
    return try_again(message, request_id=request_id)


def timed_out(request_id: str, seconds: float) -> Answer:
    """The answer when no version answered in time."""
    message = f"No answer within {seconds:g} s. Request id {request_id}."
    return error_answer(504, "TIMEOUT", message, request_id=request_id)


class ModelFault(Exception):
    """The model's own predict function raised; the reason is its `__cause__`."""


def mark_faults(model: Any) -> None:
    """Wrap the functions of a loaded pyfunc model, so that what they raise can be told from a bad request."""
    type_hinted = model.metadata._is_signature_from_type_hint()  # noqa: SLF001 MLflow has no public name for it
    model._predict_fn = _marked(model._predict_fn, type_hinted=type_hinted)  # noqa: SLF001 the same
    if streams(model):
        model._predict_stream_fn = _marked_stream(model._predict_stream_fn)  # noqa: SLF001 the same


def streams(model: Any) -> bool:
    """Does a loaded pyfunc model have `predict_stream`?"""
    return getattr(model, "_predict_stream_fn", None) is not None


def _marked(predict: Callable[..., Any], *, type_hinted: bool) -> Callable[..., Any]:
    @functools.wraps(predict)  # MLflow reads its signature to see whether it takes params
    def marked(*args: Any, **kwargs: Any) -> Any:
        try:
            return predict(*args, **kwargs)
        except BaseException as error:
            # BaseException: a SystemExit from a model would otherwise end the replica's event loop.
            if type_hinted and _is_type_hint_error(error):
                raise
            raise ModelFault(str(error)) from error

    return marked


def _marked_stream(stream: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stream)  # the same
    def marked(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from stream(*args, **kwargs)
        except GeneratorExit:  # whoever reads has gone
            raise
        except BaseException as error:
            raise ModelFault(str(error)) from error

    return marked


def _is_type_hint_error(error: BaseException) -> bool:
    """Where the signature comes from type hints, MLflow checks the data inside predict: that is the request's fault."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.message.startswith("Failed to validate")


@dataclasses.dataclass(frozen=True)
class Scored:
    """An answer, and the reason where the model is at fault."""

    answer: Answer
    fault: BaseException | None = None
    features: Sequence[Mapping[str, Any]] = ()
    """What was looked up for it, a mapping for each row."""


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A request between its body and the model, for those who change its rows."""

    data: Any
    """As MLflow hands it to `predict`: a DataFrame, a mapping of columns, a list of mappings, an array, a value."""
    params: Mapping[str, Any] | None


class OneCall:
    """What a protocol calls in the model's place: it remembers how far the request came."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.metadata = model.metadata
        self.fault: BaseException | None = None
        self.predicted = False

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """The model's own, noting whether it failed. Raises ModelFault, and MLflow's where the data does not fit."""
        try:
            predictions = self._model.predict(data, params=params)
        except ModelFault as fault:
            self.fault = fault.__cause__ or fault
            raise
        self.predicted = True
        return predictions


def score(model: Any, input_schema: Any, call: Call) -> Scored:
    """Parse, enforce the schema, predict, serialize. Blocks; never raises.

    `model` is a loaded pyfunc model after `mark_faults`, `input_schema` its `metadata.get_input_schema()`.
    """
    one = OneCall(model)
    try:
        return Scored(_invoke(call, one, input_schema))
    except Exception as error:  # noqa: BLE001 whatever a stranger's bytes or a stranger's model raise
        return failed(one, error, call.request_id)


def failed(one: OneCall, error: Exception, request_id: str) -> Scored:
    """Whose fault an exception is: the model's from the moment its predict was called, the request's before."""
    if one.fault is not None or one.predicted:
        return Scored(model_fault(request_id), one.fault or error)
    return Scored(request_error(error))


def _invoke(call: Call, model: Any, input_schema: Any) -> Answer:
    from mlflow.pyfunc import scoring_server

    if not call.content_type:
        supported = ", ".join(scoring_server.CONTENT_TYPES)
        return error_answer(415, "BAD_REQUEST", f"The request has no content-type; supported are {supported}.")
    if words := too_much(call.body, call.content_type, BODY_LIMIT_BYTES):
        return error_answer(413, "REQUEST_LIMIT_EXCEEDED", words)
    response = scoring_server.invocations(call.body, call.content_type, model, input_schema)
    return Answer(response.status, response.response.encode(), response.mimetype)


# --- the same in two steps --------------------------------------------------------------------------------------


class _Reached(BaseException):
    """The request has been parsed. No Exception: MLflow would answer it."""


class _Stop:
    """What MLflow's `invocations` calls in the model's place to parse only."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata
        self.parsed: Parsed | None = None

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        self.parsed = Parsed(data, params)
        raise _Reached


def parse(model: Any, input_schema: Any, call: Call) -> Parsed | Answer:
    """The first half of `score`: the request's rows before the schema is enforced, or the answer to one without.

    Blocks; never raises. MLflow's form for language models (`messages`, `prompt`, `input`) has no rows.
    """
    stop = _Stop(model.metadata)
    try:
        return _invoke(call, stop, input_schema)
    except _Reached:
        parsed = stop.parsed
    except Exception as error:  # noqa: BLE001 whatever a stranger's bytes raise
        return request_error(error)
    if parsed is None or _is_for_language(call, parsed.data):
        return error_answer(400, "BAD_REQUEST", "This model takes rows with named fields, such as dataframe_records.")
    return parsed


def _is_for_language(call: Call, data: Any) -> bool:
    from mlflow.pyfunc.scoring_server import is_unified_llm_input

    # The columns of `inputs` may have these names too.
    return isinstance(data, dict) and is_unified_llm_input(data) and is_unified_llm_input(json.loads(call.body))


def finish(model: Any, parsed: Parsed, call: Call) -> Scored:
    """The second half of `score`: enforce the schema, predict, serialize. Blocks; never raises.

    What it says about a request never quotes its rows: others than its sender may have added to them.
    """
    from mlflow.pyfunc import scoring_server

    try:
        predictions = model.predict(parsed.data, params=parsed.params)
    except ModelFault as fault:
        return Scored(model_fault(call.request_id), fault.__cause__ or fault)
    except Exception as error:  # noqa: BLE001 whatever MLflow's checks raise about a stranger's rows
        return Scored(request_error(without_rows(error)))
    text = io.StringIO()
    try:
        scoring_server.predictions_to_json(predictions, text)
    except Exception as error:  # noqa: BLE001 whatever a stranger's model returns
        return Scored(model_fault(call.request_id), error)
    return Scored(Answer(200, text.getvalue().encode()))


def without_rows(error: Exception) -> Exception:
    """Where MLflow repeats all rows before it says what is wrong with them: only that."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException) or not error.message.startswith(_REPEATS_ROWS):
        return error
    reason = error.__context__
    said = f" {reason.message}" if isinstance(reason, MlflowException) else ""
    shorter: Exception = MlflowException.invalid_parameter_value(f"The rows do not fit the model's signature.{said}")
    return shorter


def request_error(error: Exception) -> Answer:
    """MLflow's own error body without its stack trace; always a status of the client."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        _log.info("a request could not be parsed: %r", error)
        return error_answer(400, "BAD_REQUEST", f"The request could not be parsed ({type(error).__name__}).")
    status = error.get_http_status_code()
    if not 400 <= status < 500:  # noqa: PLR2004 the client's statuses
        return error_answer(400, "BAD_REQUEST", error.message)
    return error_answer(status, error.error_code, error.message)
