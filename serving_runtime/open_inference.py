"""The Open Inference Protocol v2 over a loaded model: an infer request -> tensors -> predict -> tensors -> an answer.

Rules:
- Runs in the version's own server: each version has its own signature.
- Whose fault a failure is, is found as in MLflow's protocol (`protocol.py`): 400 where the request does not parse or
  fit, 500 where the model fails on it.
- Errors have the one shape that they have everywhere inside (`protocol.error_answer`); the door writes them in the
  protocol's own (`in_protocol`).
- An answer is JSON, but for the outputs that the client wants in binary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from policies.errors import BadInput
from serving_runtime.description import Described, Named
from serving_runtime.fast_features import ColumnReader
from serving_runtime.fast_scoring import Form, Rows
from serving_runtime.open_inference_inputs import (
    check_outputs,
    input_columns,
    loose_columns,
    loose_input,
    model_input,
    model_params,
)
from serving_runtime.open_inference_outputs import in_json, output_tensors
from serving_runtime.open_inference_reading import read_request
from serving_runtime.open_inference_tensors import (
    LENGTH_HEADER,
    InferRequest,
    InferResponse,
    Tensor,
    write_response,
)
from serving_runtime.protocol import (
    JSON,
    Answer,
    Call,
    OneCall,
    Parsed,
    Scored,
    error_answer,
    failed,
    model_fault,
    request_error,
    without_rows,
)

BINARY: Final = "application/octet-stream"
PLATFORM: Final = "mlflow_pyfunc"


class OpenInference:
    """The dialect of one call: what was read for the short way is not read again."""

    def __init__(self, about: Described) -> None:
        self._about = about
        self._request: InferRequest | None = None

    def read(self, call: Call, form: Form) -> Rows | None:
        """The rows that the call's tensors are, or None: `score` must answer it."""
        signature = self._about.signature
        try:
            request = self._read(call)
            if model_params(signature, request) is not None:
                return None
            return form.take({str(name): array for name, array in input_columns(signature, request).items()})
        except Exception:  # noqa: BLE001 whatever a stranger's bytes raise: `score` comes to the same and says it
            return None

    def write(self, call: Call, predictions: Any) -> Scored:
        """The answer that the model's predictions for the call's rows are. Never raises."""
        try:
            return Scored(
                _answer(self._read(call), output_tensors(self._about.signature, predictions), self._about.named)
            )
        except BadInput as error:
            return Scored(_wrong(error))
        except Exception as error:  # noqa: BLE001 whatever a stranger's model returns
            return Scored(model_fault(call.request_id), error)

    def score(self, model: Any, _input_schema: Any, call: Call) -> Scored:
        """Read, fit to the signature, predict, write. Blocks; never raises. `model` is one after `mark_faults`."""
        signature = self._about.signature
        try:
            request = self._read(call)
            data, params = model_input(signature, request), model_params(signature, request)
        except Exception as error:  # noqa: BLE001 whatever a stranger's bytes raise, the model was not asked
            return Scored(_wrong(error))
        one = OneCall(model)
        try:
            predictions = one.predict(data, params)
        except Exception as error:  # noqa: BLE001 whatever a stranger's model raises
            return failed(one, error, call.request_id)
        return self.write(call, predictions)

    def columns(self, call: Call, reader: ColumnReader) -> Mapping[str, Any] | None:
        """The tensors that the call has of the signature's, and its key."""
        signature = self._about.signature
        try:
            request = self._read(call)
            if model_params(signature, request) is not None:
                return None
            return reader.take(loose_columns(signature, request))
        except Exception:  # noqa: BLE001 whatever a stranger's bytes raise: `parse` comes to the same and says it
            return None

    def parse(self, _model: Any, _input_schema: Any, call: Call) -> Parsed | Answer:
        """The rows before the signature is enforced: what it asks for may be looked up. Never raises."""
        signature = self._about.signature
        try:
            request = self._read(call)
            return Parsed(loose_input(signature, request), model_params(signature, request))
        except Exception as error:  # noqa: BLE001 whatever a stranger's bytes raise
            return _wrong(error)

    def finish(self, model: Any, parsed: Parsed, call: Call) -> Scored:
        """Enforce the signature, predict, write, for rows that somebody else may have added to. Never raises."""
        one = OneCall(model)
        try:
            predictions = one.predict(parsed.data, parsed.params)
        except Exception as error:  # noqa: BLE001 whatever a stranger's rows or a stranger's model raise
            return failed(one, without_rows(error), call.request_id)
        return self.write(call, predictions)

    def _read(self, call: Call) -> InferRequest:
        if self._request is None:
            request = read_request(call.body, call.headers.get(LENGTH_HEADER))
            check_outputs(self._about.signature, request)
            self._request = request
        return self._request


def _wrong(error: Exception) -> Answer:
    return (
        error_answer(400, "INVALID_PARAMETER_VALUE", str(error))
        if isinstance(error, BadInput)
        else request_error(error)
    )


def _answer(request: InferRequest, tensors: tuple[Tensor, ...], named: Named) -> Answer:
    wishes = {wish.name: wish.binary for wish in request.outputs}
    missing = wishes.keys() - {tensor.name for tensor in tensors}
    if missing:
        raise BadInput(f"outputs: the model gave {', '.join(t.name for t in tensors)}, and no {min(missing)[:60]!r}")
    wanted = [tensor for tensor in tensors if not wishes or tensor.name in wishes]
    binary = frozenset(
        tensor.name for tensor in wanted if (request.binary if (wish := wishes.get(tensor.name)) is None else wish)
    )
    outputs = tuple(tensor if tensor.name in binary else in_json(tensor) for tensor in wanted)
    encoded = write_response(InferResponse(named.model, named.version, outputs, request.id, binary=binary))
    if encoded.header_length is None:
        return Answer(200, encoded.body)
    return Answer(200, encoded.body, BINARY, ((LENGTH_HEADER, str(encoded.header_length)),))


# --- what a replica says about itself ---------------------------------------------------------------------------


def server_metadata(package_version: str) -> Answer:
    """`GET /v2`."""
    return _json({"name": "sluicegate", "version": package_version, "extensions": ["binary_tensor_data"]})


def model_metadata(about: Described) -> Answer:
    """`GET /v2/models/{model}`."""
    signature, named = about.signature, about.named
    return _json(
        {
            "name": named.model,
            "versions": [named.version],
            "platform": PLATFORM,
            "inputs": [slot.metadata() for slot in signature.inputs],
            "outputs": [slot.metadata() for slot in signature.outputs],
            **({"parameters": {"params": list(signature.params)}} if signature.params else {}),
        }
    )


def live() -> Answer:
    """`GET /v2/health/live`: whoever answers, lives."""
    return _json({"live": True})


def ready(named: Named | None = None) -> Answer:
    """`GET /v2/health/ready` and a model's own: Serve routes nothing to a replica that is not warm."""
    return _json({"ready": True} if named is None else {"name": named.model, "ready": True})


def in_protocol(answer: Answer) -> Answer:
    """An error in the protocol's own shape, `{"error": ...}`; anything else as it is."""
    if answer.status < 400 or answer.content_type != JSON:  # noqa: PLR2004 the first status that is an error
        return answer
    try:
        told = json.loads(answer.body)
    except ValueError:
        return answer
    if not isinstance(told, dict) or "error" in told:
        return answer
    return answer._replace(body=json.dumps({"error": str(told.get("message", ""))}).encode())


def _json(content: Mapping[str, Any]) -> Answer:
    return Answer(200, json.dumps(content).encode())
