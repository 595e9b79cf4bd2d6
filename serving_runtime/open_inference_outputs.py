"""What a model's predict gave -> named tensors of an answer.

Rules:
- Named by the output signature where there are as many as it names; otherwise by their own names, or `output`.
- Typed by the output signature where nothing is lost, otherwise by what they are.
- Text is BYTES; bytes are BYTES, in JSON as base64; whatever else is no number is BYTES, each element a JSON text.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
from collections.abc import Iterator
from typing import Any

from policies.errors import BadInput
from serving_runtime.open_inference_inputs import converted
from serving_runtime.open_inference_signature import Signature, Slot, datatype_of
from serving_runtime.open_inference_tensors import BYTES, Tensor

_log = logging.getLogger(__name__)


def output_tensors(signature: Signature, predictions: Any) -> tuple[Tensor, ...]:
    """What the model gave as tensors, named by the output signature where they fit it. Raises what numpy raises."""
    named, slots = list(_named(predictions, len(signature.outputs))), signature.outputs
    by_name = {slot.name: slot for slot in slots}
    if by_name.keys() == {name for name, _ in named}:
        return tuple(_out(name, values, by_name[name]) for name, values in named)
    if len(named) == len(slots):
        return tuple(_out(slot.name, values, slot) for slot, (_, values) in zip(slots, named, strict=True))
    return tuple(_out(name or "output", values, None) for name, values in named)


def _named(predictions: Any, wanted: int) -> Iterator[tuple[str, Any]]:
    """Names and values; a matrix with as many columns as outputs are wanted is that many."""
    import numpy as np
    import pandas as pd

    several = (list, np.ndarray, pd.Series)
    if isinstance(predictions, pd.DataFrame):
        yield from ((str(name), predictions[name].to_numpy()) for name in predictions.columns)
    elif isinstance(predictions, dict) and all(isinstance(each, several) for each in predictions.values()):
        yield from ((str(name), values) for name, values in predictions.items())
    elif wanted > 1 and isinstance(predictions, np.ndarray) and predictions.shape[1:] == (wanted,):
        yield from (("", predictions[:, at]) for at in range(wanted))
    elif hasattr(predictions, "toarray"):
        yield "", predictions.toarray()
    else:
        yield "", predictions if isinstance(predictions, several) else [predictions]


def _out(name: str, values: Any, slot: Slot | None) -> Tensor:
    import numpy as np

    array = _array(values)
    datatype = datatype_of(array.dtype)
    if datatype != BYTES:
        if slot is not None and slot.datatype not in (BYTES, datatype):
            return _as_signed(name, array, datatype, slot)
        return Tensor(name, datatype, array)
    elements = [_element(each) for each in array.reshape(-1)]
    content_types = {content_type for _, content_type in elements}
    texts = np.empty(len(elements), dtype=object)
    texts[:] = [element for element, _ in elements]
    parameters = {"content_type": content_types.pop()} if len(content_types) == 1 else {}
    return Tensor(name, BYTES, texts.reshape(array.shape), parameters)


def _as_signed(name: str, array: Any, datatype: str, slot: Slot) -> Tensor:
    """By the signature's type where nothing is lost; else by what it is, whatever its author thought."""
    try:
        return Tensor(name, slot.datatype, converted(array, slot, name))
    except BadInput as error:
        _log.debug("an output is written as %s, not as the signature has it: %s", datatype, error)
        return Tensor(name, datatype, array)


def _array(values: Any) -> Any:
    """An array of numbers, or of text and objects that has a list's own length: rows of unequal length stay rows."""
    import numpy as np

    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    try:
        array = np.asarray(list(values))
    except ValueError:  # rows of unequal length
        array = np.empty(0, dtype=object)
    if array.dtype.kind in "biufMm":
        return array
    objects = np.empty(len(values), dtype=object)
    objects[:] = list(values)
    return objects


def _element(value: Any) -> tuple[str | bytes, str]:
    """One element of BYTES and its content type."""
    import numpy as np
    import pandas as pd

    if isinstance(value, str):
        return str(value), "str"
    if isinstance(value, bytes | bytearray):
        return bytes(value), "base64"
    if isinstance(value, np.datetime64):
        return pd.Timestamp(value).isoformat(), "datetime"
    if hasattr(value, "isoformat"):
        return value.isoformat(), "datetime"
    from mlflow.utils.proto_json_utils import NumpyEncoder

    return json.dumps(value, cls=NumpyEncoder), "json"


def in_json(tensor: Tensor) -> Tensor:
    """The same tensor with bytes as base64, so that JSON can hold it."""
    import numpy as np

    if tensor.parameters.get("content_type") != "base64":
        return tensor
    texts = np.empty(tensor.data.size, dtype=object)
    texts[:] = [base64.b64encode(each).decode() for each in tensor.data.reshape(-1)]
    return dataclasses.replace(tensor, data=texts.reshape(tensor.data.shape))
