"""An ensemble in the Open Inference Protocol: its members' tensors as predictions, and what they became as tensors.

Rules:
- Members are asked as the client asks: JSON or binary, with the outputs that it names. They answer by their own
  signatures, so they must take the same tensors: one that does not has failed, by its own 400.
- What is combined is what MLflow's protocol would show: one output is a list with a value for each row, several are
  lists by name.
- Means and medians are FP64, whatever came out whole; votes and firsts have the datatype of the first member's output;
  what a function of yours returns is typed by what it is.
- One output is called as the members call theirs, if they all do, otherwise `output`.

Nothing here asks anybody: `ensemble.py` does.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from policies.errors import BadInput
from serving_runtime.front import Heard
from serving_runtime.open_inference import BINARY
from serving_runtime.open_inference_outputs import in_json, output_tensors
from serving_runtime.open_inference_reading import read_response
from serving_runtime.open_inference_signature import Layout, Signature, Slot
from serving_runtime.open_inference_tensors import (
    BYTES,
    LENGTH_HEADER,
    InferResponse,
    Tensor,
    write_response,
)
from serving_runtime.outcomes import Outcome, outcome_of
from serving_runtime.protocol import Answer, error_answer, unavailable

PLATFORM: Final = "sluicegate_ensemble"
COMPUTED: Final = frozenset({"mean", "median"})
CHOSEN: Final = frozenset({"vote", "first"})
UNNAMED: Final = "output"


@dataclasses.dataclass(frozen=True)
class Said:
    """What one member answered."""

    predictions: Any
    response: InferResponse
    binary: bool


class Tensors:
    """The protocol's side of one ensemble."""

    def __init__(self, name: str, combine: str) -> None:
        """`combine` is the document's."""
        self._name, self._combine = name, combine

    def read(self, answer: Answer) -> Said | None:
        """What a member predicts; none where it answered something else."""
        length = dict(answer.headers).get(LENGTH_HEADER)
        try:
            response = read_response(answer.body, length)
            named = {tensor.name: _values(tensor) for tensor in response.outputs}
        except (BadInput, UnicodeDecodeError):
            return None
        if not named:
            return None
        return Said(next(iter(named.values())) if len(named) == 1 else named, response, length is not None)

    def write(self, combined: Any, said: Sequence[Said], versions: str) -> Answer:
        """The answer that the combined prediction is. Raises what numpy raises, and BadInput."""
        slots = _common(said)
        typed = tuple(self._typed(slot) for slot in slots) if self._combine in COMPUTED | CHOSEN else ()
        tensors = output_tensors(Signature(Layout.ANY, outputs=typed), combined)
        if len(tensors) == len(slots) == 1:
            tensors = (dataclasses.replace(tensors[0], name=slots[0].name),)
        binary = frozenset(tensor.name for tensor in tensors) if any(each.binary for each in said) else frozenset()
        outputs = tuple(tensor if tensor.name in binary else in_json(tensor) for tensor in tensors)
        id_ = said[0].response.id if said else ""
        encoded = write_response(InferResponse(self._name, versions, outputs, id_, binary=binary))
        if encoded.header_length is None:
            return Answer(200, encoded.body)
        return Answer(200, encoded.body, BINARY, ((LENGTH_HEADER, str(encoded.header_length)),))

    def metadata(self, heard: Sequence[Heard], needed: int, request_id: str) -> Answer:
        """`GET /v2/models/{ensemble}`: what the first member takes, and what becomes of what it gives."""
        described = _described(heard)
        if len(described) < needed:
            return _unready(heard, request_id)
        first = next(iter(described.values()))
        outputs: list[Any] = []
        if self._combine in CHOSEN:
            outputs = first["outputs"]
        elif self._combine in COMPUTED:
            outputs = [{**each, "datatype": "FP64"} for each in first["outputs"]]
        about = {"name": self._name, "platform": PLATFORM, "inputs": first["inputs"], "outputs": outputs}
        members = {model: each["versions"] for model, each in described.items()}
        return Answer(200, json.dumps({**about, "parameters": {"members": members}}).encode())

    def ready(self, heard: Sequence[Heard], needed: int, request_id: str) -> Answer:
        """`GET /v2/models/{ensemble}/ready`: do enough members answer? A stranger may ask: no word of theirs."""
        if len(_described(heard)) < needed:
            return unavailable(request_id)
        return Answer(200, json.dumps({"name": self._name, "ready": True}).encode())

    def unknown(self, model: str | None, version: str | None) -> Answer:
        """The answer to a path that names another model, or a version."""
        what = "and it has no versions of its own" if model == self._name and version else f"and no {model!r:.100}"
        return error_answer(404, "RESOURCE_DOES_NOT_EXIST", f"Here is the ensemble {self._name}, {what}.")

    def _typed(self, slot: Slot) -> Slot:
        return dataclasses.replace(slot, datatype="FP64") if self._combine in COMPUTED else slot


def _values(tensor: Tensor) -> Any:
    """A tensor's rows as plain values. Raises UnicodeDecodeError for bytes that are no text."""
    if tensor.datatype != BYTES:
        return tensor.data.tolist()
    texts = tensor.data.copy()
    texts.reshape(-1)[:] = [each.decode() if isinstance(each, bytes) else each for each in tensor.data.reshape(-1)]
    return texts.tolist()


def _common(said: Sequence[Said]) -> list[Slot]:
    """The outputs as the first member has them; one that others call otherwise is `output`."""
    outputs = said[0].response.outputs if said else ()
    slots = [Slot(each.name, each.datatype, tuple(each.data.shape)) for each in outputs]
    names = {tuple(each.name for each in one.response.outputs) for one in said}
    if len(slots) == 1 and len(names) > 1:
        return [dataclasses.replace(slots[0], name=UNNAMED)]
    return slots


def _described(heard: Sequence[Heard]) -> Mapping[str, Any]:
    """What members say of themselves, by model, of those that do."""
    return {
        each.member.model: json.loads(each.answer.body)
        for each in heard
        if outcome_of(each.answer.status) is Outcome.GOOD
    }


def _unready(heard: Sequence[Heard], request_id: str) -> Answer:
    failed = [each.answer for each in heard if outcome_of(each.answer.status) is not Outcome.GOOD]
    return failed[0] if failed else unavailable(request_id)
