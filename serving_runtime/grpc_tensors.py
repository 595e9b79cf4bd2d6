"""Requests and answers of the Open Inference Protocol between its two forms: protobuf here, JSON with binary there.

The entry for gRPC hands a host what the host's own door would have got over HTTP; tensors are read, checked and typed
in one place, the version's own server (`open_inference_reading.py`).

Rules:
- Raw contents go through as they are, both ways: no value is looked at.
- A client gets what it sends: raw contents for raw ones, typed contents for typed ones. FP16 has no typed form, so an
  answer with one is raw.
- What is wrong raises BadInput that names the field.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from policies.errors import BadInput
from serving_runtime.grpc_messages import CHOICE, response_of
from serving_runtime.protocol import BODY_LIMIT_BYTES

BYTES: Final = "BYTES"
TYPED: Final[Mapping[str, tuple[str, str]]] = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "<i1"),
    "INT16": ("int_contents", "<i2"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", "<u1"),
    "UINT16": ("uint_contents", "<u2"),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
    BYTES: ("bytes_contents", ""),
}
"""Where a datatype's values stand in typed contents, and how they lie in raw ones (numpy's names)."""


def infer_body(message: Any) -> tuple[bytes, int]:
    """A `ModelInferRequest` as the body of an infer request, and the length of its JSON. Raises BadInput."""
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise BadInput(f"raw_input_contents: expected one for each of {len(message.inputs)} inputs, not {len(raws)}")
    told: dict[str, Any] = {"parameters": {**_parameters(message.parameters), "binary_data_output": True}}
    if message.id:
        told["id"] = message.id
    if message.outputs:
        told["outputs"] = [{"name": each.name} for each in message.outputs]
    inputs, tail = [], []
    for at, tensor in enumerate(message.inputs):
        about, raw = _input(tensor, raws[at] if raws else None, at)
        inputs.append(about)
        tail.append(raw)
    told["inputs"] = inputs
    header = json.dumps(told, separators=(",", ":")).encode()
    body = b"".join((header, *tail))
    if len(body) > BODY_LIMIT_BYTES:
        raise BadInput(f"the request is larger than {BODY_LIMIT_BYTES} bytes")
    return body, len(header)


def _input(tensor: Any, raw: bytes | None, at: int) -> tuple[dict[str, Any], bytes]:
    """What the JSON says of one input, and its binary part."""
    parameters = _parameters(tensor.parameters)
    told = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    if raw is not None:
        if tensor.HasField("contents"):
            raise BadInput(f"inputs[{at}].contents: the request has raw_input_contents; expected one of them")
    elif tensor.datatype == BYTES:
        raw = b"".join(struct.pack("<I", len(each)) + each for each in tensor.contents.bytes_contents)
    elif tensor.datatype in TYPED:
        data = list(getattr(tensor.contents, TYPED[tensor.datatype][0]))
        return {**told, "data": data, **({"parameters": parameters} if parameters else {})}, b""
    else:
        known = ", ".join(TYPED)
        raise BadInput(f"inputs[{at}].datatype: typed contents hold {known}, not {tensor.datatype[:40]!r}: send it raw")
    return {**told, "parameters": {**parameters, "binary_data_size": len(raw)}}, raw


def _parameters(parameters: Any) -> dict[str, Any]:
    """Values by name, whichever kind each has."""
    return {name: getattr(each, kind) for name, each in parameters.items() if (kind := each.WhichOneof(CHOICE))}


def infer_response(body: bytes, header_length: int | None, *, typed: bool) -> Any:
    """The `ModelInferResponse` of an infer answer. Raises BadInput for what is none."""
    try:
        told = json.loads(body if header_length is None else body[:header_length])
        message = response_of("ModelInfer")(
            model_name=told.get("model_name", ""), model_version=told.get("model_version", ""), id=told.get("id", "")
        )
        tensors = list(_outputs(told["outputs"], body[len(body) if header_length is None else header_length :]))
        as_typed = typed and all(about["datatype"] in TYPED for about, _ in tensors)
        for about, raw in tensors:
            output = message.outputs.add(name=about["name"], datatype=about["datatype"], shape=about["shape"])
            if as_typed:
                _fill(output.contents, about["datatype"], raw)
            else:
                message.raw_output_contents.append(raw)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BadInput(f"the version's answer is none of the protocol: {error!r:.200}") from error
    return message


def _outputs(outputs: list[dict[str, Any]], binary: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """What the JSON says of each output, and its raw contents."""
    at = 0
    for about in outputs:
        size = about["parameters"]["binary_data_size"]
        yield about, binary[at : at + size]
        at += size


def _fill(contents: Any, datatype: str, raw: bytes) -> None:
    field, numpy_type = TYPED[datatype]
    if datatype == BYTES:
        contents.bytes_contents.extend(_elements(raw))
        return
    import numpy as np

    getattr(contents, field).extend(np.frombuffer(raw, dtype=numpy_type).tolist())


def _elements(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        yield raw[at + 4 : at + 4 + length]
        at += 4 + length
