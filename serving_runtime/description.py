"""What a version says about itself: its names, what it takes and gives, an example, whether it streams.

Rules:
- Made once, when the model is loaded; plain data from there on.
- An example is the artifact's own, cut to its first row; a large one (an image, a document) is shown to nobody.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving_runtime.open_inference_signature import Signature, Slot, signature_of
from serving_runtime.protocol import Answer, streams

EXAMPLE_LIMIT_BYTES: Final = 16 * 1024  # it stands in error bodies: a page of text, and no image


FIELDS_SHOWN: Final = 100  # more than a person reads


@dataclasses.dataclass(frozen=True)
class Named:
    """Who answers: the model's slug and its version."""

    model: str
    version: str


UNNAMED: Final = Named("model", "0")


@dataclasses.dataclass(frozen=True)
class Described:
    """A version. `columns` and `params` are MLflow's JSON of the signature; without one, `columns` is none."""

    named: Named
    signature: Signature
    columns: Sequence[Mapping[str, Any]] | None = None
    params: Sequence[Mapping[str, Any]] = ()
    example: Mapping[str, Any] | None = None
    """A body for `/invocations`, of one row."""
    streams: bool = False

    def infer_example(self) -> dict[str, Any]:
        """A body for `infer`, of one row: the example's values where it is a table, otherwise values of the type."""
        row = _first_row(self.example)
        slots = self.signature.inputs or (Slot("input", "FP64", (-1, 2)),)
        return {"inputs": [_filled(slot, row) for slot in slots]}

    def hinted(self, refusal: Answer) -> Answer:
        """A 400 with what a client that sent something wrong may want to see: types by field, and an example."""
        fields = {slot.name: _words(slot) for slot in self.signature.inputs[:FIELDS_SHOWN]}
        hints = {**({"expected": fields} if fields else {}), **({"example": self.example} if self.example else {})}
        return refusal._replace(body=json.dumps({**json.loads(refusal.body), **hints}).encode()) if hints else refusal


def describe(model: Any, named: Named, example: bytes | None = None) -> Described:
    """From a loaded pyfunc model and its own request body, if it has one."""
    metadata = model.metadata
    schema, params = metadata.get_input_schema(), metadata.get_params_schema()
    return Described(
        named,
        signature_of(metadata),
        columns=None if schema is None else tuple(json.loads(json.dumps(schema.to_dict(), default=str))),
        params=() if params is None else tuple(json.loads(json.dumps(params.to_dict(), default=str))),
        example=_one_row(example),
        streams=streams(model),
    )


def _words(slot: Slot) -> str:
    kind = f"{slot.datatype} ({slot.content_type})" if slot.content_type else slot.datatype
    shape = "" if slot.shape == (-1,) else f" in shape {list(slot.shape)}"
    return f"{kind}{shape}{'' if slot.required else ', optional'}"


def _one_row(example: bytes | None) -> Mapping[str, Any] | None:
    if example is None or len(example) > EXAMPLE_LIMIT_BYTES:
        return None
    try:
        told = json.loads(example)
    except (ValueError, RecursionError):  # warm-up says what is wrong with it
        return None
    if not isinstance(told, dict):
        return None
    split = told.get("dataframe_split")
    if isinstance(split, dict) and isinstance(split.get("data"), list):
        columns = {"columns": split["columns"]} if "columns" in split else {}
        return {**told, "dataframe_split": {**columns, "data": split["data"][:1]}}
    rows = {name: told[name][:1] for name in ("dataframe_records", "instances", "inputs") if _is_list(told.get(name))}
    return {**told, **rows}


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _first_row(example: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The example's first row by column; nothing where it is no table."""
    split = (example or {}).get("dataframe_split")
    if not isinstance(split, dict) or not split.get("data") or not isinstance(split.get("columns"), list):
        return {}
    return dict(zip(map(str, split["columns"]), split["data"][0], strict=False))


def _filled(slot: Slot, row: Mapping[str, Any]) -> dict[str, Any]:
    value = row.get(str(slot.column))
    plain = slot.shape == (-1,) and slot.content_type in ("", "str") and isinstance(value, str | int | float)
    return {**slot.example(), **({"data": [value]} if plain else {})}
