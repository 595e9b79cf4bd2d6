"""Signatures of models: what callers send and read, and what two versions of it mean for them.

Rules:
- Read from the JSON texts that MLflow writes into MLmodel (3.17): columns with types, tensors with shapes, parameters
  with defaults. Columns inside objects, lists and maps are compared as columns, by their path (`address.zip`).
- What callers send must still be accepted: a column may be added where it is optional, become optional, or widen as
  MLflow widens values (integer to long or double, float to double). Removed, renamed, retyped, newly required: breaks.
- What callers read must still be answered: the other way round. An output may be added; none may go or change.
- A parameter may be added, for it has a default; none may go or change its type; another default is said.
- Columns without a name are compared by their place.

This module must not decide what a difference leads to: that is `admission_rules.py`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from policies.errors import BadInput

_DEPTH = 50
"""Of objects in objects; people write 3."""


@dataclasses.dataclass(frozen=True)
class Type:
    """What a column holds: a kind, and what is inside it."""

    kind: str
    """MLflow's word: double, long, string, ..., array, object, map, any, tensor."""
    dtype: str = ""
    """Of a tensor."""
    shape: tuple[int, ...] | None = None
    """Of a tensor or a parameter; -1 is any length."""
    items: Type | None = None
    """Of an array or a map."""
    columns: tuple[Column, ...] = ()
    """Of an object."""

    def __str__(self) -> str:
        """As a person would say it: array(double), object, float32(-1, 3)."""
        shape = f"({', '.join(map(str, self.shape))})" if self.shape is not None else ""
        inside = f"({self.items})" if self.items else ""
        return f"{self.dtype or self.kind}{inside}{shape}"


@dataclasses.dataclass(frozen=True)
class Column:
    """One input or output."""

    name: str
    type: Type
    required: bool = True


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a prediction."""

    name: str
    type: Type
    default: str
    """As JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """What a model takes and answers; none where it does not say."""

    inputs: tuple[Column, ...] | None = None
    outputs: tuple[Column, ...] | None = None
    parameters: tuple[Parameter, ...] = ()


# --- reading --------------------------------------------------------------------------------------------------


def parse_signature(written: object) -> Signature | None:
    """`signature` of an MLmodel; none where it has none. Raises BadInput."""
    if written is None:
        return None
    try:
        if not isinstance(written, Mapping):
            raise TypeError("it is no mapping")  # noqa: TRY301 said with the others
        texts = {key: _json(written.get(key)) for key in ("inputs", "outputs", "params")}
        return Signature(
            inputs=_columns(texts["inputs"]),
            outputs=_columns(texts["outputs"]),
            parameters=tuple(_parameter(each) for each in texts["params"] or ()),
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise BadInput(f"the signature in MLmodel cannot be read: {error}") from error


def _json(text: object) -> Any:
    return json.loads(text) if isinstance(text, str) and text else None


def _columns(given: Sequence[Mapping[str, Any]] | None) -> tuple[Column, ...] | None:
    if given is None:
        return None
    return tuple(
        Column(str(each.get("name") or f"#{place}"), _type(each, 0), bool(each.get("required", True)))
        for place, each in enumerate(given, 1)
    )


def _type(given: Mapping[str, Any], depth: int) -> Type:
    if depth > _DEPTH:
        raise ValueError(f"it is more than {_DEPTH} deep")
    kind = str(given["type"])
    if kind == "tensor":
        spec = given["tensor-spec"]
        return Type(kind, dtype=str(spec["dtype"]), shape=tuple(int(n) for n in spec["shape"]))
    if kind in ("array", "map"):
        return Type(kind, items=_type(given["items" if kind == "array" else "values"], depth + 1))
    properties = sorted(given.get("properties", {}).items()) if kind == "object" else ()
    inside = (Column(str(n), _type(p, depth + 1), bool(p.get("required", True))) for n, p in properties)
    return Type(kind, columns=tuple(inside))


def _parameter(given: Mapping[str, Any]) -> Parameter:
    shape = given.get("shape")
    of = dataclasses.replace(_type(given, 0), shape=None if shape is None else tuple(int(n) for n in shape))
    return Parameter(str(given["name"]), of, json.dumps(given.get("default"), sort_keys=True))


# --- comparing ------------------------------------------------------------------------------------------------


class Weight(StrEnum):
    """What a difference means for who calls the model."""

    FINE = "nothing breaks"
    NOTED = "a person should know"
    BREAKS = "callers break"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference between two signatures."""

    weight: Weight
    words: str


def differences(before: Signature, after: Signature) -> tuple[Difference, ...]:
    """What differs from `before`, in the order of the model's inputs, outputs and parameters."""
    return (
        *_sides("input", before.inputs, after.inputs, _Sent()),
        *_sides("output", before.outputs, after.outputs, _Read()),
        *_parameters(before.parameters, after.parameters),
    )


class _Sent:
    """What callers send: the new version may ask for less and take more."""

    gone, new, hardened = "callers send it", "callers do not send it", "not every caller sends it"

    def new_breaks(self, column: Column) -> bool:
        return column.required

    def hardens(self, before: Column, after: Column) -> bool:
        return after.required and not before.required

    def covers(self, before: Type, after: Type) -> bool:
        return after.kind == "any" or (before.kind, after.kind) in _WIDER

    def fits(self, before: int, after: int) -> bool:
        return after in (before, -1)


class _Read:
    """What callers read: the new version may answer more, and nothing else."""

    gone, new, hardened = "callers read it", "", "callers count on it"

    def new_breaks(self, column: Column) -> bool:  # noqa: ARG002 the other side asks
        return False

    def hardens(self, before: Column, after: Column) -> bool:
        return before.required and not after.required

    def covers(self, before: Type, after: Type) -> bool:
        return before.kind == "any" and after.kind != "any"

    def fits(self, before: int, after: int) -> bool:
        return before in (after, -1)


_Side = _Sent | _Read
_WIDER = frozenset({("integer", "long"), ("integer", "double"), ("float", "double")})
"""What MLflow converts by itself without losing anything."""


def _sides(
    what: str, before: tuple[Column, ...] | None, after: tuple[Column, ...] | None, side: _Side
) -> Iterator[Difference]:
    if before is None or after is None:
        if before is not after:
            words = f"{what}s are described now, and were not" if before is None else f"{what}s are described no longer"
            yield Difference(Weight.NOTED if before is None else Weight.BREAKS, words)
        return
    yield from _compared(what, "", before, after, side)


def _compared(
    what: str, path: str, before: Sequence[Column], after: Sequence[Column], side: _Side
) -> Iterator[Difference]:
    old, new = {c.name: c for c in before}, {c.name: c for c in after}
    removed = [c for c in before if c.name not in new]
    added = [c for c in after if c.name not in old]
    for column in [c for c in before if c.name in new]:
        yield from _one(what, path, column, new[column.name], side)
    for gone, came in _renamed(removed, added):
        words = f"{what} {path}{gone.name} ({gone.type}) is renamed to {path}{came.name}: {side.gone}"
        yield Difference(Weight.BREAKS, words)
        removed.remove(gone)
        added.remove(came)
    for column in removed:
        yield Difference(Weight.BREAKS, f"{what} {path}{column.name} ({column.type}) is removed: {side.gone}")
    for column in added:
        if side.new_breaks(column):
            words = f"{what} {path}{column.name} ({column.type}) is added and required: {side.new}"
            yield Difference(Weight.BREAKS, words)
        else:
            optional = "" if column.required else "optional "
            yield Difference(Weight.FINE, f"{optional}{what} {path}{column.name} ({column.type}) is added")


def _renamed(removed: Sequence[Column], added: Sequence[Column]) -> list[tuple[Column, Column]]:
    """Pairs of one type, where no other of that type came or went: what a person would call renamed."""
    pairs = []
    for gone in removed:
        same = [c for c in added if c.type == gone.type]
        alone = sum(c.type == gone.type for c in removed) == 1
        if alone and len(same) == 1 and not gone.name.startswith("#"):
            pairs.append((gone, same[0]))
    return pairs


def _one(what: str, path: str, before: Column, after: Column, side: _Side) -> Iterator[Difference]:
    name = f"{path}{before.name}"
    if side.hardens(before, after):
        now = "required" if after.required else "optional"
        yield Difference(Weight.BREAKS, f"{what} {name} is {now} now: {side.hardened}")
    elif before.required != after.required:
        yield Difference(Weight.FINE, f"{what} {name} is {'required' if after.required else 'optional'} now")
    yield from _types(what, name, before.type, after.type, side)


def _types(what: str, name: str, before: Type, after: Type, side: _Side) -> Iterator[Difference]:
    if before == after:
        return
    if before.items and after.items and before.kind == after.kind:
        yield from _types(what, f"{name}[]", before.items, after.items, side)
    elif before.kind == after.kind == "object":
        yield from _compared(what, f"{name}.", before.columns, after.columns, side)
    elif _shapes_fit(before, after, side):
        yield Difference(Weight.FINE, f"{what} {name} has the shape {after}, was {before}")
    else:
        weight = Weight.NOTED if side.covers(before, after) else Weight.BREAKS
        yield Difference(weight, f"{what} {name} is {after}, was {before}")


def _shapes_fit(before: Type, after: Type, side: _Side) -> bool:
    old, new = before.shape, after.shape
    if (before.kind, before.dtype) != (after.kind, after.dtype) or old is None or new is None or len(old) != len(new):
        return False
    return all(side.fits(b, a) for b, a in zip(old, new, strict=True))


def _parameters(before: Sequence[Parameter], after: Sequence[Parameter]) -> Iterator[Difference]:
    new = {p.name: p for p in after}
    for old in before:
        now = new.pop(old.name, None)
        if now is None:
            yield Difference(Weight.BREAKS, f"parameter {old.name} ({old.type}) is removed: callers send it")
        elif now.type != old.type:
            yield Difference(Weight.BREAKS, f"parameter {old.name} is {now.type}, was {old.type}")
        elif now.default != old.default:
            words = f"parameter {old.name} is {now.default} where nobody sends it, was {old.default}"
            yield Difference(Weight.NOTED, words)
    for added in new.values():
        yield Difference(Weight.FINE, f"parameter {added.name} ({added.type}) is added")
