"""Named tensors, requests and answers of the Open Inference Protocol v2, and how they are written to the wire.

Rules:
- Numpy's arrays are what tensors are. BYTES are `str` or `bytes` in an array of objects; JSON has strings for them.
- NaN and infinities are written as null: JSON has neither.
- The binary extension: after the JSON (its length is a header's value) come the tensors that have `binary_data_size`,
  in order, little-endian, without gaps. BYTES elements carry their length in four bytes.
- Nothing here knows a model, a signature or a transport; the entry for gRPC and the door for HTTP share it.
  `open_inference_reading.py` is the other direction.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from policies.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

LENGTH_HEADER: Final = "inference-header-content-length"


NUMPY_TYPES: Final = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
BYTES: Final = "BYTES"
DATATYPES: Final = (*NUMPY_TYPES, BYTES)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A named array; `data.shape` is its shape. Elements of BYTES are `str` or `bytes` in an array of objects."""

    name: str
    datatype: str
    data: np.ndarray[Any, Any]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OutputWish:
    """An output that the client names; `binary` is none where it leaves that to the request."""

    name: str
    binary: bool | None = None


@dataclasses.dataclass(frozen=True)
class InferRequest:
    """What is to be computed. No `outputs`: all of them. `binary`: answer in binary where an output does not say."""

    inputs: tuple[Tensor, ...]
    id: str = ""
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: tuple[OutputWish, ...] = ()
    binary: bool = False


@dataclasses.dataclass(frozen=True)
class InferResponse:
    """What was computed, and by whom; `binary` names the outputs that are written so."""

    model_name: str
    model_version: str
    outputs: tuple[Tensor, ...]
    id: str = ""
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    binary: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Bytes ready to send. `header_length` is the value of `LENGTH_HEADER`, or none where all of it is JSON."""

    body: bytes
    header_length: int | None = None


# --- writing ----------------------------------------------------------------------------------------------------


def write_request(request: InferRequest, *, binary: bool = False) -> Encoded:
    """A request as a client or an entry sends it. Raises BadInput for BYTES that JSON cannot hold."""
    told: dict[str, Any] = {}
    if request.id:
        told["id"] = request.id
    parameters = {**request.parameters, **({"binary_data_output": True} if request.binary else {})}
    if parameters:
        told["parameters"] = parameters
    if request.outputs:
        told["outputs"] = [_wish(each) for each in request.outputs]
    names = {tensor.name for tensor in request.inputs} if binary else ()
    return _write(told, "inputs", request.inputs, names)


def write_response(response: InferResponse) -> Encoded:
    """An answer. Raises BadInput for BYTES that JSON cannot hold."""
    told: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        told["id"] = response.id
    if response.parameters:
        told["parameters"] = dict(response.parameters)
    return _write(told, "outputs", response.outputs, response.binary)


def _wish(wish: OutputWish) -> dict[str, Any]:
    binary = {} if wish.binary is None else {"parameters": {"binary_data": wish.binary}}
    return {"name": wish.name, **binary}


def _write(told: dict[str, Any], field: str, tensors: Sequence[Tensor], binary: Iterable[str]) -> Encoded:
    names = frozenset(binary)
    raw = {tensor.name: _to_binary(tensor) for tensor in tensors if tensor.name in names}
    told[field] = [_told(tensor, raw.get(tensor.name)) for tensor in tensors]
    header = json.dumps(told, allow_nan=False, separators=(",", ":")).encode()
    if not raw:
        return Encoded(header)
    return Encoded(b"".join((header, *raw.values())), len(header))


def _told(tensor: Tensor, raw: bytes | None) -> dict[str, Any]:
    parameters = {**tensor.parameters, **({} if raw is None else {"binary_data_size": len(raw)})}
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.data.shape),
        **({"parameters": parameters} if parameters else {}),
        **({"data": json_values(tensor)} if raw is None else {}),
    }


def json_values(tensor: Tensor) -> list[Any]:
    """A tensor's values for JSON, flat and row-major. Raises BadInput for bytes that are no UTF-8."""
    import numpy as np

    flat = tensor.data.reshape(-1)
    if tensor.datatype == BYTES:
        return [_json_text(each, tensor.name) for each in flat]
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if math.isfinite(value) else None for value in flat.tolist()]
    return flat.tolist()


def _json_text(element: str | bytes, name: str) -> str:
    if isinstance(element, str):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise BadInput(f"tensor {name[:60]!r} holds bytes that are no UTF-8; ask for it with `binary_data`") from None


def _to_binary(tensor: Tensor) -> bytes:
    if tensor.datatype != BYTES:
        return tensor.data.astype(NUMPY_TYPES[tensor.datatype], copy=False).tobytes()
    parts = []
    for element in tensor.data.reshape(-1):
        raw = element.encode() if isinstance(element, str) else bytes(element)
        parts += [struct.pack("<I", len(raw)), raw]
    return b"".join(parts)
