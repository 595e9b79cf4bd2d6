"""An MLflow signature as the Open Inference Protocol shows it: named, typed tensors.

| signature | tensors |
|---|---|
| a column of numbers or booleans | `[n]` (or `[n, 1]`) of its datatype |
| string, datetime, binary column | BYTES: text, ISO 8601, base64 in JSON; `content_type` str, datetime, base64 |
| Array of numbers | `[n, k]`, and so on for Arrays of Arrays |
| Object, Map, Any, other Arrays | BYTES, each element a JSON text; `content_type` json |
| tensor | itself; without a name it is `input` or `output` |
| none | one tensor as it comes; several of one length as columns; others by name |

Rules:
- What a client reads here it may send: datatype, shape and content type are those that are accepted as they are.
- Nothing here touches data; `open_inference_inputs.py` and `open_inference_outputs.py` do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

from serving_runtime.open_inference_tensors import BYTES, NUMPY_TYPES

ANY_LENGTH: Final = -1
_DATATYPES: Final = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
}
_CONTENT_TYPES: Final = {"string": "str", "datetime": "datetime", "binary": "base64"}
_EXAMPLES: Final = {"str": "text", "datetime": "2026-01-31T12:00:00", "base64": "AQI=", "json": "{}"}


class Layout(StrEnum):
    """What the model's predict gets."""

    FRAME = "a frame with columns"
    LIST = "a list of examples"
    TENSOR = "one tensor"
    TENSORS = "tensors by name"
    ANY = "whatever comes"


@dataclasses.dataclass(frozen=True)
class Slot:
    """One input or output as clients see it; `column` is its name in the signature (a number where it has none)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content_type: str = ""
    required: bool = True
    column: str | int = ""

    def metadata(self) -> dict[str, Any]:
        """As the protocol's metadata shows it."""
        parameters = {
            **({"content_type": self.content_type} if self.content_type else {}),
            **({} if self.required else {"optional": True}),
        }
        shown = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return {**shown, **({"parameters": parameters} if parameters else {})}

    def example(self) -> dict[str, Any]:
        """A tensor that fits, of one row."""
        shape = [1 if n == ANY_LENGTH else n for n in self.shape]
        value: Any = {"BOOL": True, "BYTES": _EXAMPLES.get(self.content_type, "text")}.get(self.datatype, 1)
        size = 1
        for n in shape:
            size *= n
        return {"name": self.name, "datatype": self.datatype, "shape": shape, "data": [value] * min(size, 16)}


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a model takes and gives. `params` are the names of those that may be set per request."""

    layout: Layout
    inputs: tuple[Slot, ...] = ()
    outputs: tuple[Slot, ...] = ()
    params: tuple[str, ...] = ()


def signature_of(metadata: Any) -> Signature:
    """From the metadata of a loaded pyfunc model."""
    schema, answers = metadata.get_input_schema(), _schema(metadata, "get_output_schema")
    params = metadata.get_params_schema()
    names = tuple(str(param.name) for param in params.params) if params is not None else ()
    outputs = tuple(_slots(answers, "output"))
    if schema is None:
        return Signature(Layout.ANY, outputs=outputs, params=names)
    inputs = tuple(_slots(schema, "input"))
    if schema.is_tensor_spec():
        layout = Layout.TENSORS if schema.has_input_names() else Layout.TENSOR
    else:
        # Where type hints are the signature, predict gets the examples themselves.
        layout = Layout.LIST if metadata._is_signature_from_type_hint() else Layout.FRAME  # noqa: SLF001 MLflow's only way
    return Signature(layout, inputs, outputs, names)


def _schema(metadata: Any, getter: str) -> Any:
    return getattr(metadata, getter, lambda: None)()


def _slots(schema: Any, unnamed: str) -> Iterator[Slot]:
    for at, spec in enumerate(schema.inputs if schema is not None else ()):
        numbered = f"{unnamed}-{at}" if len(schema.inputs) > 1 else unnamed
        name = numbered if spec.name is None else str(spec.name)
        column = at if spec.name is None else spec.name
        if schema.is_tensor_spec():
            yield Slot(name, datatype_of(spec.type), tuple(int(n) for n in spec.shape), column=column)
        else:
            datatype, rank, content_type = _column_type(spec.type)
            yield Slot(name, datatype, (ANY_LENGTH,) * rank, content_type, bool(spec.required), column)


def _column_type(kind: Any) -> tuple[str, int, str]:
    """Datatype, rank and content type of a column."""
    inner, rank = kind, 1
    while type(inner).__name__ == "Array":
        inner, rank = inner.dtype, rank + 1
    name = getattr(inner, "name", "")
    if name in _DATATYPES:
        return _DATATYPES[name], rank, ""
    if rank == 1 and name in _CONTENT_TYPES:
        return BYTES, 1, _CONTENT_TYPES[name]
    return BYTES, 1, "json"


def datatype_of(dtype: Any) -> str:
    """The protocol's name of a numpy type; whatever it has none for is text."""
    import numpy as np

    if dtype.kind in "USOMm":
        return BYTES
    return next((name for name, code in NUMPY_TYPES.items() if np.dtype(code) == dtype.newbyteorder("<")), BYTES)
