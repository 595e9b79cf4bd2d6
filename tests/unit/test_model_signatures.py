"""What a new signature means for those who call the old one, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.errors import BadInput
from policies.model_signatures import Signature, Weight, differences, parse_signature

BREAKS, NOTED, FINE = Weight.BREAKS, Weight.NOTED, Weight.FINE


def column(name: str | None, kind: str, *, required: bool = True, **more: Any) -> dict[str, Any]:
    return {"type": kind, "required": required, **({"name": name} if name else {}), **more}


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return {**spec, "name": name} if name else spec


def address(*properties: str, required: bool = True) -> dict[str, Any]:
    inside = {name: {"type": "string", "required": not name.endswith("?")} for name in properties}
    return column("address", "object", required=required, properties={k.rstrip("?"): v for k, v in inside.items()})


def signature(**sides: Any) -> Signature:
    parsed = parse_signature({side: json.dumps(given) for side, given in sides.items()})
    assert parsed is not None
    return parsed


def found(side: str, before: list[Any], after: list[Any]) -> list[tuple[Weight, str]]:
    return [(d.weight, d.words) for d in differences(signature(**{side: before}), signature(**{side: after}))]


AMOUNT, COUNTRY = column("amount", "double"), column("country", "string")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([AMOUNT, COUNTRY], [COUNTRY, AMOUNT], []),  # columns with names have no order
        ([AMOUNT, COUNTRY], [AMOUNT], [(BREAKS, "input country (string) is removed: callers send it")]),
        (
            [AMOUNT],
            [column("amount_eur", "double")],
            [(BREAKS, "input amount (double) is renamed to amount_eur: callers send it")],
        ),
        ([AMOUNT], [column("amount", "string")], [(BREAKS, "input amount is string, was double")]),
        (
            [AMOUNT],
            [AMOUNT, COUNTRY],
            [(BREAKS, "input country (string) is added and required: callers do not send it")],
        ),
        (
            [AMOUNT],
            [AMOUNT, column("country", "string", required=False)],
            [(FINE, "optional input country (string) is added")],
        ),
        (
            [column("a", "long", required=False)],
            [column("a", "long")],
            [(BREAKS, "input a is required now: not every caller sends it")],
        ),
        ([column("a", "long")], [column("a", "long", required=False)], [(FINE, "input a is optional now")]),
        ([column("a", "integer")], [column("a", "long")], [(NOTED, "input a is long, was integer")]),
        ([column("a", "float")], [column("a", "double")], [(NOTED, "input a is double, was float")]),
        ([column("a", "long")], [column("a", "double")], [(BREAKS, "input a is double, was long")]),
        ([column("a", "long")], [column("a", "integer")], [(BREAKS, "input a is integer, was long")]),
        ([column("a", "long")], [column("a", "any")], [(NOTED, "input a is any, was long")]),
        (
            [column(None, "double")],
            [column(None, "double")] * 2,
            [(BREAKS, "input #2 (double) is added and required: callers do not send it")],
        ),
        (
            [tensor("float32", -1, 3)],
            [tensor("float32", -1, 4)],
            [(BREAKS, "input #1 is float32(-1, 4), was float32(-1, 3)")],
        ),
        (
            [tensor("float32", 1, 3)],
            [tensor("float32", -1, 3)],
            [(FINE, "input #1 has the shape float32(-1, 3), was float32(1, 3)")],
        ),
        (
            [tensor("float32", -1, 3)],
            [tensor("float32", 1, 3)],
            [(BREAKS, "input #1 is float32(1, 3), was float32(-1, 3)")],
        ),
        ([tensor("float32", -1)], [tensor("int64", -1)], [(BREAKS, "input #1 is int64(-1), was float32(-1)")]),
        ([address("zip")], [address("zip", "city?")], [(FINE, "optional input address.city (string) is added")]),
        (
            [address("zip")],
            [address("zip", "city")],
            [(BREAKS, "input address.city (string) is added and required: callers do not send it")],
        ),
        ([AMOUNT], [AMOUNT, address("zip", required=False)], [(FINE, "optional input address (object) is added")]),
        (
            [column("a", "array", items={"type": "double"})],
            [column("a", "array", items={"type": "string"})],
            [(BREAKS, "input a[] is string, was double")],
        ),
        (
            [column("a", "array", items={"type": "double"})],
            [column("a", "map", values={"type": "double"})],
            [(BREAKS, "input a is map(double), was array(double)")],
        ),
    ],
)
def test_what_callers_send_must_still_be_accepted(before, after, said):
    assert found("inputs", before, after) == said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([AMOUNT], [AMOUNT, COUNTRY], [(FINE, "output country (string) is added")]),
        ([AMOUNT, COUNTRY], [AMOUNT], [(BREAKS, "output country (string) is removed: callers read it")]),
        (
            [AMOUNT],
            [column("amount", "double", required=False)],
            [(BREAKS, "output amount is optional now: callers count on it")],
        ),
        ([column("a", "integer")], [column("a", "long")], [(BREAKS, "output a is long, was integer")]),
        (
            [tensor("float32", -1, -1)],
            [tensor("float32", -1, 3)],
            [(FINE, "output #1 has the shape float32(-1, 3), was float32(-1, -1)")],
        ),
        (
            [tensor("float32", -1, 3)],
            [tensor("float32", -1, -1)],
            [(BREAKS, "output #1 is float32(-1, -1), was float32(-1, 3)")],
        ),
        ([column("a", "any")], [column("a", "long")], [(NOTED, "output a is long, was any")]),
    ],
)
def test_what_callers_read_must_still_be_answered(before, after, said):
    assert found("outputs", before, after) == said


def parameter(name: str, kind: str, default: Any, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "default": default, "shape": shape}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([], [parameter("t", "double", 0.5)], [(FINE, "parameter t (double) is added")]),
        ([parameter("t", "double", 0.5)], [], [(BREAKS, "parameter t (double) is removed: callers send it")]),
        (
            [parameter("t", "double", 0.5)],
            [parameter("t", "double", 0.7)],
            [(NOTED, "parameter t is 0.7 where nobody sends it, was 0.5")],
        ),
        (
            [parameter("t", "long", [1], [-1])],
            [parameter("t", "long", 1)],
            [(BREAKS, "parameter t is long, was long(-1)")],
        ),
    ],
)
def test_parameters_have_defaults_so_they_may_come_and_not_go(before, after, said):
    assert found("params", before, after) == said


def test_two_that_went_and_one_of_their_type_that_came_are_no_renaming():
    said = found("inputs", [AMOUNT, column("b", "double")], [column("c", "double")])
    assert [words for _, words in said] == [
        "input amount (double) is removed: callers send it",
        "input b (double) is removed: callers send it",
        "input c (double) is added and required: callers do not send it",
    ]


def test_inputs_that_were_not_described_are_a_word_and_those_that_are_no_longer_break():
    with_inputs, without = signature(inputs=[AMOUNT]), signature(outputs=None)
    assert [(d.weight, d.words) for d in differences(without, with_inputs)] == [
        (NOTED, "inputs are described now, and were not")
    ]
    assert [(d.weight, d.words) for d in differences(with_inputs, without)] == [
        (BREAKS, "inputs are described no longer")
    ]


def test_no_signature_is_none_and_nonsense_is_refused_in_words():
    assert parse_signature(None) is None
    deep = '{"type": "array", "items": ' * 60 + '{"type": "long"}' + "}" * 60
    for nonsense in (
        "inputs",
        {"inputs": "["},
        {"inputs": "[3]"},
        {"inputs": '[{"name": "a"}]'},
        {"inputs": f"[{deep}]"},
    ):
        with pytest.raises(BadInput, match="the signature in MLmodel cannot be read: "):
            parse_signature(nonsense)


def test_what_mlflow_writes_is_read():
    """The text of mlflow.types 3.17 for a column of each shape."""
    mlflow_types = pytest.importorskip("mlflow.types")
    schema = pytest.importorskip("mlflow.types.schema")
    inputs = schema.Schema(
        [
            schema.ColSpec("double", "amount"),
            schema.ColSpec(schema.Array(schema.Object([schema.Property("zip", "string")])), "homes", required=False),
            schema.ColSpec(schema.Map("long"), "counts"),
        ]
    )
    params = schema.ParamSchema([schema.ParamSpec("t", "double", 0.5)])
    written = mlflow_types and {"inputs": inputs.to_json(), "outputs": None, "params": params.to_json()}
    read = parse_signature(written)
    assert read is not None
    assert [(c.name, str(c.type), c.required) for c in read.inputs or ()] == [
        ("amount", "double", True),
        ("homes", "array(object)", False),
        ("counts", "map(long)", True),
    ]
    assert [(p.name, str(p.type), p.default) for p in read.parameters] == [("t", "double", "0.5")]
