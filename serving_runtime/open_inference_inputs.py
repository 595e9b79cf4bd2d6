"""Named tensors of a request -> what a model's predict gets, as its signature says.

Rules:
- For a frame of numbers one tensor `[n, columns]` will do, columns in the signature's order: so clients write that
  think in matrices.
- Numbers are converted where nothing is lost (whole floating numbers to integers, integers within range); FP64 becomes
  FP32 by rounding, as MLflow's own parser does it. Everything else is refused with the tensor's name, the datatype and
  shape that are expected, and an example.
- A tensor that the signature does not name is refused: whoever sends it expects it to matter.
- Raises BadInput and nothing else, whatever the tensors hold.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from policies.errors import BadInput
from serving_runtime.open_inference_signature import ANY_LENGTH, Layout, Signature, Slot
from serving_runtime.open_inference_tensors import BYTES, NUMPY_TYPES, InferRequest, Tensor


def model_input(signature: Signature, request: InferRequest) -> Any:
    """What the model's predict gets: a frame, an array, a dict of arrays or a list. Raises BadInput."""
    if not request.inputs:
        raise BadInput(f"inputs: expected at least one tensor. {_example(signature)}")
    if signature.layout is Layout.ANY:
        return _as_they_come(request.inputs)
    columns = input_columns(signature, request)
    if signature.layout is Layout.TENSOR:
        return next(iter(columns.values()))
    if signature.layout is Layout.TENSORS:
        return columns
    if signature.layout is Layout.LIST:
        examples = next(iter(columns.values()))
        return examples if isinstance(examples, list) else examples.tolist()
    return _frame(columns)


def input_columns(signature: Signature, request: InferRequest) -> dict[str | int, Any]:
    """The tensors by the signature's own names, converted to its types. Raises BadInput."""
    if signature.layout is Layout.ANY:
        return {tensor.name: _plain(tensor) for tensor in request.inputs}
    columns = _columns(signature, request.inputs)
    _same_length(signature, columns)
    return columns


def loose_input(signature: Signature, request: InferRequest) -> Any:
    """A frame of the tensors that there are, those that the signature names in its types. Raises BadInput."""
    import pandas as pd

    values = loose_columns(signature, request)
    try:
        return pd.DataFrame({name: _column(value) for name, value in values.items()})
    except ValueError:
        raise BadInput("inputs: expected tensors of the same length, one for each column") from None


def loose_columns(signature: Signature, request: InferRequest) -> dict[str, Any]:
    """The tensors that there are by name, those that the signature names in its types. Raises BadInput."""
    slots = {slot.name: slot for slot in signature.inputs}
    return {
        tensor.name: _value(tensor, slots[tensor.name]) if tensor.name in slots else _plain(tensor)
        for tensor in request.inputs
    }


def model_params(signature: Signature, request: InferRequest) -> dict[str, Any] | None:
    """The request's parameters that the model takes; none where it takes none."""
    return {name: request.parameters[name] for name in signature.params if name in request.parameters} or None


def check_outputs(signature: Signature, request: InferRequest) -> None:
    """Raises BadInput where the request names an output that the signature does not have."""
    known = [slot.name for slot in signature.outputs]
    for at, wish in enumerate(request.outputs):
        if known and wish.name not in known:
            raise BadInput(f"outputs[{at}].name: expected one of {_listed(known)}, not {wish.name[:60]!r}")


def _columns(signature: Signature, tensors: Sequence[Tensor]) -> dict[str | int, Any]:
    matrix = _matrix(signature, tensors)
    if matrix is not None:
        return {
            slot.column: converted(matrix.data[:, at], slot, matrix.name) for at, slot in enumerate(signature.inputs)
        }
    if signature.layout in (Layout.TENSOR, Layout.LIST) and len(tensors) == 1:
        # There is nothing to confuse it with, whatever it is called.
        tensors = [dataclasses.replace(tensors[0], name=signature.inputs[0].name)]
    given = {tensor.name: tensor for tensor in tensors}
    slots = {slot.name: slot for slot in signature.inputs}
    for at, name in enumerate(given):
        if name not in slots:
            raise BadInput(
                f"inputs[{at}].name: expected one of {_listed(slots)}, not {name[:60]!r}. {_example(signature)}"
            )
    missing = [slot for slot in signature.inputs if slot.required and slot.name not in given]
    if missing:
        raise BadInput(
            f"inputs: tensor {missing[0].name!r} is missing ({len(missing)} of {len(slots)} are). "
            f"Example: {json.dumps(missing[0].example())}"
        )
    return {slot.column: _value(given[slot.name], slot) for slot in signature.inputs if slot.name in given}


def _matrix(signature: Signature, tensors: Sequence[Tensor]) -> Tensor | None:
    """The one tensor that stands for all columns of a frame of numbers."""
    if signature.layout is not Layout.FRAME or len(tensors) != 1:
        return None
    (tensor,) = tensors
    numbers = all(slot.datatype != BYTES and slot.shape == (ANY_LENGTH,) for slot in signature.inputs)
    fits = tensor.data.ndim == 2 and tensor.data.shape[1] == len(signature.inputs)  # noqa: PLR2004 rows and columns
    return tensor if numbers and fits and tensor.datatype != BYTES else None


def _same_length(signature: Signature, columns: Mapping[str | int, Any]) -> None:
    if signature.layout is not Layout.FRAME:
        return
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        name, length = min(lengths.items(), key=lambda item: item[1])
        raise BadInput(
            f"inputs: tensor {name!r} has {length} rows and another has {max(lengths.values())}; "
            "expected the same number in all"
        )


def _example(signature: Signature) -> str:
    if not signature.inputs:
        return 'Example: {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}]}'
    more = len(signature.inputs) - 1
    first = json.dumps(signature.inputs[0].example())
    return f'Example: {{"inputs": [{first}{f", and {more} more" if more else ""}]}}'


# --- one tensor --------------------------------------------------------------------------------------------------


def _value(tensor: Tensor, slot: Slot) -> Any:
    _fits(tensor, slot)
    if slot.datatype == BYTES:
        return _texts(tensor, slot)
    if tensor.datatype == BYTES:
        raise _wrong(tensor.name, slot, "BYTES")
    data = tensor.data.reshape(-1) if slot.shape == (ANY_LENGTH,) else tensor.data
    return converted(data, slot, tensor.name)


def _fits(tensor: Tensor, slot: Slot) -> None:
    shape = tensor.data.shape
    if slot.shape == (ANY_LENGTH,) and len(shape) == 2 and shape[1] == 1:  # noqa: PLR2004 rows and one column
        return
    if len(shape) != len(slot.shape) or any(w not in (n, ANY_LENGTH) for n, w in zip(shape, slot.shape, strict=True)):
        raise _wrong(tensor.name, slot, f"shape {list(shape)}")


def _wrong(name: str, slot: Slot, got: str) -> BadInput:
    return BadInput(
        f"tensor {name[:60]!r}: expected {slot.datatype} in shape {list(slot.shape)}, not {got}. "
        f"Example: {json.dumps(slot.example())}"
    )


def converted(data: Any, slot: Slot, name: str) -> Any:
    """Converted where nothing is lost."""
    import numpy as np

    wanted = np.dtype(NUMPY_TYPES[slot.datatype])
    if data.dtype == wanted:
        return data
    kinds = (data.dtype.kind, wanted.kind)
    if "b" in kinds or data.dtype.kind not in "iuf":
        raise _wrong(name, slot, str(data.dtype))
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            return data.astype(wanted)
    if data.size and (not np.isfinite(data).all() or (data != np.trunc(data)).any()):
        raise _wrong(name, slot, "fractions")
    limits = np.iinfo(wanted)
    if data.size and (int(data.min()) < limits.min or int(data.max()) > limits.max):
        raise _wrong(name, slot, "numbers beyond it")
    return data.astype(wanted)


def _texts(tensor: Tensor, slot: Slot) -> Any:
    import numpy as np

    if tensor.datatype != BYTES:
        raise _wrong(tensor.name, slot, tensor.datatype)
    flat = tensor.data.reshape(-1)
    if slot.content_type == "base64":
        return [_from_base64(each, tensor.name, slot) for each in flat]
    texts = [_text(each, tensor.name, slot) for each in flat]
    match slot.content_type:
        case "datetime":
            return _times(texts, tensor.name, slot)
        case "json":
            return [_parsed(each, tensor.name, slot) for each in texts]
        case "str":
            return texts
    return np.array(texts, dtype=str).reshape(tensor.data.shape)


def _text(element: str | bytes, name: str, slot: Slot) -> str:
    try:
        if isinstance(element, bytes):
            return element.decode()
        element.encode()  # JSON may hold half of a character, which pandas and most models cannot
    except UnicodeError:
        raise _wrong(name, slot, "what is no UTF-8") from None
    return element


def _from_base64(element: str | bytes, name: str, slot: Slot) -> bytes:
    if isinstance(element, bytes):
        return element
    try:
        return base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(name, slot, "text that is no base64") from None


def _times(texts: list[str], name: str, slot: Slot) -> Any:
    import pandas as pd

    try:
        times = pd.to_datetime(pd.Series(texts, dtype=object), format="ISO8601")
        return times.astype("datetime64[ns]")
    except (ValueError, TypeError, OverflowError):
        raise _wrong(name, slot, "text that is no ISO 8601 time (all with a time zone or none)") from None


def _parsed(element: str, name: str, slot: Slot) -> Any:
    try:
        return json.loads(element)
    except (ValueError, RecursionError):
        raise _wrong(name, slot, "text that is no JSON") from None


def _frame(columns: Mapping[str | int, Any]) -> Any:
    import numpy as np
    import pandas as pd

    arrays = list(columns.values())
    if all(isinstance(each, np.ndarray) and each.ndim == 1 and each.dtype == arrays[0].dtype for each in arrays):
        # One block: a frame of many columns is made some ten times as fast.
        return pd.DataFrame(np.column_stack(arrays), columns=list(columns))
    return pd.DataFrame({name: _column(values) for name, values in columns.items()})


def _column(values: Any) -> Any:
    """Pandas holds one-dimensional columns only: an Array is a list of rows."""
    return list(values) if getattr(values, "ndim", 1) > 1 else values


def _as_they_come(tensors: Sequence[Tensor]) -> Any:
    """Without a signature: one tensor is itself, several of one length are columns, others go by name."""
    import pandas as pd

    values = {tensor.name: _plain(tensor) for tensor in tensors}
    if len(values) == 1:
        return next(iter(values.values()))
    if len({array.shape for array in values.values()}) == 1 and next(iter(values.values())).ndim == 1:
        return pd.DataFrame(values)
    return values


def _plain(tensor: Tensor) -> Any:
    import numpy as np

    if tensor.datatype != BYTES:
        return tensor.data
    slot = Slot(tensor.name, BYTES, tensor.data.shape, "str")
    texts = np.empty(tensor.data.size, dtype=object)
    texts[:] = [_text(each, tensor.name, slot) for each in tensor.data.reshape(-1)]
    return texts.reshape(tensor.data.shape)


def _listed(names: Any) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")  # noqa: PLR2004 a line
