"""The Open Inference Protocol v2 from the wire: bytes -> named tensors.

Rules:
- No value is converted that its datatype does not hold: 1.5 is no INT64, 300 no UINT8, "1" no number. A null in a
  floating tensor is NaN.
- Data in JSON is flat or nested as its shape says, row-major.
- What is wrong raises BadInput that names the field, what was expected and what came. Nothing else is raised, whatever
  the bytes are.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from policies.errors import BadInput
from serving_runtime.open_inference_tensors import (
    BYTES,
    DATATYPES,
    LENGTH_HEADER,
    NUMPY_TYPES,
    InferRequest,
    InferResponse,
    OutputWish,
    Tensor,
)

if TYPE_CHECKING:
    import numpy as np

RANK_LIMIT: Final = 16  # numpy holds 64 dimensions; no model has more than a handful
ELEMENTS_LIMIT: Final = 2**31  # far above what a body can hold: a shape beyond it is nonsense
_DIGITS: Final = 12  # of a length: more would be longer than any body
_SHOWN_CHARS = 60  # of a wrong value: enough to find it


def read_request(body: bytes, header_length: str | None = None) -> InferRequest:
    """A request from its body and, where it has a binary part, the header's value. Raises BadInput."""
    told, binary = _split(body, header_length)
    parameters = _mapping(told, "parameters")
    return InferRequest(
        inputs=_read_tensors(told, "inputs", binary),
        id=_text(told, "id"),
        parameters={name: value for name, value in parameters.items() if name != "binary_data_output"},
        outputs=tuple(_read_wish(each, f"outputs[{at}]") for at, each in enumerate(_list(told, "outputs"))),
        binary=parameters.get("binary_data_output") is True,
    )


def read_response(body: bytes, header_length: str | None = None) -> InferResponse:
    """An answer, as a client or an entry reads it. Raises BadInput."""
    told, binary = _split(body, header_length)
    return InferResponse(
        model_name=_text(told, "model_name"),
        model_version=_text(told, "model_version"),
        outputs=_read_tensors(told, "outputs", binary),
        id=_text(told, "id"),
        parameters=_mapping(told, "parameters"),
    )


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    length = len(body)
    if header_length:
        # Python makes no number of some thousands of digits.
        if not header_length.isdecimal() or len(header_length) > _DIGITS or int(header_length) > length:
            raise BadInput(
                f"header {LENGTH_HEADER}: expected the length of the JSON in bytes, at most the body's {length}, "
                f"not {_shown(header_length)}"
            )
        length = int(header_length)
    try:
        told = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(told, dict):
        raise BadInput(f"the body: expected a JSON object with `inputs`, not {_kind(told)}")
    return told, memoryview(body)[length:]


def _read_tensors(told: Mapping[str, Any], field: str, binary: memoryview) -> tuple[Tensor, ...]:
    if field not in told:
        raise BadInput(f"{field}: expected a list of tensors, and there is none")
    tensors: dict[str, Tensor] = {}
    for at, each in enumerate(_list(told, field)):
        tensor, binary = _read_tensor(each, f"{field}[{at}]", binary)
        if tensor.name in tensors:
            raise BadInput(f"{field}[{at}].name: {_shown(tensor.name)} is there twice")
        tensors[tensor.name] = tensor
    if len(binary):
        raise BadInput(f"{len(binary)} bytes follow the last tensor; every one needs its `binary_data_size`")
    return tuple(tensors.values())


def _read_tensor(told: Any, field: str, binary: memoryview) -> tuple[Tensor, memoryview]:
    if not isinstance(told, dict):
        raise BadInput(f"{field}: expected an object with name, shape, datatype and data, not {_kind(told)}")
    name, datatype = _text(told, "name", field), _text(told, "datatype", field)
    if not name:
        raise BadInput(f"{field}.name: expected the tensor's name")
    if datatype not in DATATYPES:
        raise BadInput(f"{field}.datatype: expected one of {', '.join(DATATYPES)}, not {_shown(datatype)}")
    shape = _shape(told, field)
    parameters = dict(_mapping(told, "parameters", field))
    size = parameters.pop("binary_data_size", None)
    if size is None:
        data = _from_json(told, datatype, shape, field)
    elif "data" in told:
        raise BadInput(f"{field}: has `data` and `binary_data_size`; expected one of them")
    else:
        raw, binary = _cut(binary, size, field)
        data = _from_binary(raw, datatype, shape, field)
    return Tensor(name, datatype, data, parameters), binary


def _shape(told: Mapping[str, Any], field: str) -> tuple[int, ...]:
    shape = told.get("shape")
    if not isinstance(shape, list) or len(shape) > RANK_LIMIT or not all(type(n) is int and n >= 0 for n in shape):
        raise BadInput(f"{field}.shape: expected up to {RANK_LIMIT} whole numbers from 0, not {_shown(shape)}")
    if math.prod(max(n, 1) for n in shape) > ELEMENTS_LIMIT:
        raise BadInput(f"{field}.shape: {_shown(shape)} is more than {ELEMENTS_LIMIT} elements")
    return tuple(shape)


def _from_json(told: Mapping[str, Any], datatype: str, shape: tuple[int, ...], field: str) -> np.ndarray[Any, Any]:
    data = told.get("data")
    if not isinstance(data, list):
        raise BadInput(f"{field}.data: expected a list of {math.prod(shape)} x {datatype}, not {_kind(data)}")
    array = _texts(data, shape, field) if datatype == BYTES else _numbers(data, datatype, field)
    if array.size != math.prod(shape) or array.shape not in (shape, (array.size,)):
        raise BadInput(
            f"{field}.data: expected {math.prod(shape)} x {datatype} for shape {list(shape)}, flat or nested so, "
            f"not {array.size} in shape {list(array.shape)}"
        )
    return array.reshape(shape)


def _numbers(data: list[Any], datatype: str, field: str) -> np.ndarray[Any, Any]:
    import numpy as np

    wanted = np.dtype(NUMPY_TYPES[datatype])
    try:
        array = np.asarray(data)
        if array.dtype == object and wanted.kind == "f":  # a null, or a whole number beyond 64 bits
            _no_texts(array)
            array = array.astype(wanted)
    except (ValueError, TypeError, OverflowError):  # ragged, nested too deeply, a list or an object among numbers
        raise BadInput(f"{field}.data: expected {datatype} in a flat or evenly nested list") from None
    if not array.size:
        return array.astype(wanted)
    if wanted.kind in "iu" and array.dtype.kind in "fO" and _all_whole(data):
        array = np.asarray(data, dtype=object)  # NumPy makes floats of whole numbers that fit no one type of its own
    elif array.dtype.kind not in {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}[wanted.kind]:
        raise BadInput(f"{field}.data: expected {datatype}, and {_first_other(data, wanted.kind)} is none")
    if wanted.kind in "iu":
        limits, least, most = np.iinfo(wanted), int(array.min()), int(array.max())
        if least < limits.min or most > limits.max:
            outside = least if least < limits.min else most
            raise BadInput(f"{field}.data: expected {datatype} ({limits.min} to {limits.max}), not {outside}")
    with np.errstate(over="ignore"):  # 1e300 is infinity as FP32, as it is for every other reader
        return array.astype(wanted, copy=False)


def _all_whole(data: list[Any]) -> bool:
    import numpy as np

    return all(type(each) is int for each in np.asarray(data, dtype=object).flat)


def _no_texts(array: np.ndarray[Any, Any]) -> None:
    if any(not isinstance(each, int | float | None) for each in array.flat):
        raise TypeError


def _first_other(data: list[Any], kind: str) -> str:
    """The first value that is not of the kind, for a person to find."""
    accepts: Callable[[Any], bool] = {
        "b": lambda each: type(each) is bool,
        "f": lambda each: type(each) in (int, float),
    }.get(kind, lambda each: type(each) is int)
    todo: list[Any] = [data]
    while todo:
        each = todo.pop()
        if isinstance(each, list):
            todo.extend(reversed(each))
        elif not accepts(each):
            return _shown(each)
    return "a mixture"


def _texts(data: list[Any], shape: tuple[int, ...], field: str) -> np.ndarray[Any, Any]:
    import numpy as np

    flat, nested = data, len(shape) > 1 and bool(data) and isinstance(data[0], list)
    if nested:
        for wanted in shape[1:]:
            if not all(isinstance(each, list) and len(each) == wanted for each in flat):
                raise BadInput(f"{field}.data: expected BYTES nested as shape {list(shape)} says, or flat")
            flat = [inner for each in flat for inner in each]
    for each in flat:
        if not isinstance(each, str):
            raise BadInput(f"{field}.data: expected strings (BYTES), not {_kind(each)} {_shown(each)}")
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape) if nested and len(flat) == math.prod(shape) else array


def _cut(binary: memoryview, size: Any, field: str) -> tuple[memoryview, memoryview]:
    if type(size) is not int or not 0 <= size <= len(binary):
        raise BadInput(
            f"{field}.parameters.binary_data_size: expected at most the {len(binary)} bytes that are left, "
            f"not {_shown(size)}"
        )
    return binary[:size], binary[size:]


def _from_binary(raw: memoryview, datatype: str, shape: tuple[int, ...], field: str) -> np.ndarray[Any, Any]:
    import numpy as np

    if datatype == BYTES:
        return _bytes_elements(raw, shape, field)
    wanted = np.dtype(NUMPY_TYPES[datatype])
    expected = math.prod(shape) * wanted.itemsize
    if len(raw) != expected:
        raise BadInput(f"{field}: expected {expected} bytes for shape {list(shape)} of {datatype}, not {len(raw)}")
    return np.frombuffer(raw, dtype=wanted).reshape(shape).copy()  # a model may write into its input


def _bytes_elements(raw: memoryview, shape: tuple[int, ...], field: str) -> np.ndarray[Any, Any]:
    import numpy as np

    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at) if at + 4 <= len(raw) else (len(raw),)
        at += 4
        if at + length > len(raw):
            raise BadInput(f"{field}: the length of BYTES element {len(elements)} goes beyond the tensor's data")
        elements.append(bytes(raw[at : at + length]))
        at += length
    if len(elements) != math.prod(shape):
        raise BadInput(
            f"{field}: expected {math.prod(shape)} BYTES elements for shape {list(shape)}, not {len(elements)}"
        )
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _read_wish(told: Any, field: str) -> OutputWish:
    if not isinstance(told, dict):
        raise BadInput(f"{field}: expected an object with a name, not {_kind(told)}")
    binary = _mapping(told, "parameters", field).get("binary_data")
    return OutputWish(_text(told, "name", field), binary if isinstance(binary, bool) else None)


def _list(told: Mapping[str, Any], field: str) -> list[Any]:
    value = told.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadInput(f"{field}: expected a list, not {_kind(value)}")
    return value


def _mapping(told: Mapping[str, Any], name: str, below: str = "") -> Mapping[str, Any]:
    value = told.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{below}{'.' * bool(below)}{name}: expected an object, not {_kind(value)}")
    return value


def _text(told: Mapping[str, Any], name: str, below: str = "") -> str:
    value = told.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{below}{'.' * bool(below)}{name}: expected a string, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
