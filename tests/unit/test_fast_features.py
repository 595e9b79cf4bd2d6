"""Requests that lack features, read by the short way: answered byte for byte as by MLflow's own way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from policies.serving import Features
from serving_runtime.fast_features import AT_ONCE_BYTES, column_reader
from serving_runtime.fast_scoring import fast_form
from serving_runtime.feature_columns import Columns
from serving_runtime.features import FeatureJoin
from serving_runtime.look_ups import LookUps
from serving_runtime.model_server import ModelServer
from serving_runtime.protocol import Answer, Call, CallKind
from tests.fakes.features import KnownFeatures, LookUpCounts
from tests.fakes.signed_model import signed_model

JSON = "application/json"
KINDS = {"double": DataType.double, "float": DataType.float, "long": DataType.long, "integer": DataType.integer}
DOUBLES = {"amount": "double", "age": "double", "spend": "double", "visits": "double"}
MIXED = {"amount": "double", "age": "long", "spend": "float", "visits": "integer"}
WITH_KEY = {**MIXED, "user": "long"}
SIGNATURES = {"doubles": DOUBLES, "mixed": MIXED, "with key": WITH_KEY}
ENTRIES = {"ada": {"spend": 12.1, "visits": 3}, "7": {"spend": 0.1, "visits": 9}, "bob": {"spend": 2.5}}


def shown(frame: Any) -> list[Any]:
    """All that a model could see of a frame's columns, and their values."""
    about = [[name, str(frame[name].dtype), frame.to_numpy().flags.f_contiguous] for name in frame.columns]
    return [[*about, *map(repr, row)] for row in frame.itertuples(index=True)]


def server(columns: Mapping[str, str], *, short: bool) -> ModelServer:
    schema = Schema([ColSpec(KINDS[kind], name) for name, kind in columns.items()])
    terms = Features(entry_point="a:b", key="user", timeout_ms=5000, defaults={"spend": 1, "visits": 0}, cache_ttl_s=0)
    joined = Columns(terms, schema)
    look_ups = LookUps(KnownFeatures(ENTRIES), joined.check, terms=terms, tally=LookUpCounts(), clock=lambda: 0.0)
    own = ModelServer(
        signed_model(shown, ModelSignature(inputs=schema)), lambda _ms: None, features=FeatureJoin(joined, look_ups)
    )
    assert own._reader is not None
    if not short:
        own._reader = None
    return own


BOTH = {name: (server(columns, short=True), server(columns, short=False)) for name, columns in SIGNATURES.items()}


def ask(own: ModelServer, body: bytes, kind: CallKind = CallKind.INVOCATIONS) -> Answer:
    return asyncio.run(own.answer(Call(body, JSON, "r-1", kind)))


def is_taken(signature: str, body: bytes) -> bool:
    reader = BOTH[signature][0]._reader
    assert reader is not None
    return reader.read(body) is not None


def alike(signature: str, content: object, kind: CallKind = CallKind.INVOCATIONS) -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    short, slow = BOTH[signature]
    answer = ask(short, body, kind)
    assert answer == ask(slow, body, kind)
    return answer


ANSWERED = {200, 400}
ROW = {"user": "ada", "amount": 1.5, "age": 40}
TAKEN: list[object] = [
    {"dataframe_records": [ROW]},
    {"dataframe_records": [ROW, {"age": 41, "user": None, "amount": 2}, {**ROW, "user": ""}]},
    {"dataframe_records": [{**ROW, "spend": 3.0}]},
    {"dataframe_records": [{**ROW, "spend": 3, "visits": 1}]},
    {"dataframe_records": [{"amount": 1.5, "age": 40, "spend": 3, "visits": 1}]},
    {"dataframe_records": [{**ROW, "user": 7}, {**ROW, "user": 8}]},
    {"dataframe_split": {"columns": ["age", "user", "amount"], "data": [[40, "bob", 1.5], [41, "x", 2]]}},
    {"dataframe_split": {"data": [[40, 1.5, 1, 2]], "columns": ["age", "amount", "spend", "visits"]}},
    {"instances": [ROW, ROW]},
    {"inputs": {"user": ["ada", "bob"], "amount": [1.5, 2], "age": [40, 41]}},
]


@pytest.mark.parametrize("signature", ["doubles", "mixed"])
@pytest.mark.parametrize("content", TAKEN, ids=str)
def test_what_is_taken_is_answered_as_by_mlflows_own_way(signature: str, content: object) -> None:
    assert is_taken(signature, json.dumps(content).encode())
    assert alike(signature, content).status == 200


@pytest.mark.parametrize(
    "content",
    [
        {"dataframe_records": [{**ROW, "other": 1}]},
        {"dataframe_records": [{"user": "ada", "amount": 1.5}]},
        {"dataframe_records": [ROW, {"user": "ada", "amount": 1.5}]},
        {"dataframe_records": [{**ROW, "user": True}]},
        {"dataframe_records": [{**ROW, "user": 1.0}]},
        {"dataframe_records": [{**ROW, "user": 1.5}]},
        {"dataframe_records": [{**ROW, "user": [1]}]},
        {"instances": [{**ROW, "user": []}]},
        {"inputs": {"user": [[]], "amount": [1.5], "age": [40]}},
        {"dataframe_records": [{**ROW, "user": 7}, {**ROW, "user": None}]},
        {"dataframe_records": [{**ROW, "user": 2**60 + 1}]},
        {"dataframe_records": [{**ROW, "user": "x" * 300}]},
        {"dataframe_records": [{**ROW, "age": None}]},
        {"dataframe_records": [{**ROW, "age": "40"}]},
        {"dataframe_records": [{"user": "ada"}]},
        {"dataframe_records": [{"amount": 1.5, "age": 40}]},
        {"dataframe_records": []},
        {"dataframe_records": [1]},
        {"dataframe_split": {"columns": ["age", "user", "amount", "user"], "data": [[40, "bob", 1.5, "ada"]]}},
        {"dataframe_split": {"columns": ["age", "user", "amount"], "data": [[40, "bob"]]}},
        {"dataframe_split": {"columns": ["age", "user", "amount"], "data": []}},
        {"dataframe_split": {"columns": ["age", "user", "amount"], "data": [[40, "bob", 1.5]], "index": [3]}},
        {"inputs": {"user": "ada", "amount": 1.5, "age": 40}},
        {"inputs": {"user": ["ada"], "amount": [1.5, 2.5], "age": [40, 41]}},
        {"inputs": [ROW]},
        {"inputs": []},
        {"dataframe_records": [ROW], "params": {}},
        {"dataframe_records": [ROW], "stream": False},
        b'{"dataframe_records": [{"user": "ada", "amount": NaN, "age": 40}]}',
        b"{",
        b"[]",
    ],
    ids=str,
)
def test_what_is_odd_gets_the_same_answer_too(content: object) -> None:
    statuses = {alike(signature, content).status for signature in SIGNATURES}
    assert statuses <= ANSWERED


def test_a_key_that_the_model_sees_is_an_input_and_a_key() -> None:
    content = {"dataframe_records": [{**ROW, "user": 7}, {**ROW, "user": 8}]}
    assert is_taken("with key", json.dumps(content).encode())
    answer = alike("with key", content)
    assert answer.status == 200
    assert b"0.1" in answer.body  # what is known of 7


def test_a_large_body_is_read_the_same_way() -> None:
    content = {"dataframe_records": [ROW] * (AT_ONCE_BYTES // 20)}
    assert len(json.dumps(content)) > AT_ONCE_BYTES
    assert alike("doubles", content).status == 200


def tensor(name: str, datatype: str, *data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": list(data)}


@pytest.mark.parametrize(
    ("tensors", "status"),
    [
        ([tensor("user", "BYTES", "ada", "x"), tensor("age", "INT64", 1, 2), tensor("amount", "FP64", 1, 2.5)], 200),
        ([tensor("user", "INT64", 7), tensor("age", "INT32", 1), tensor("amount", "FP32", 2.5)], 200),
        ([tensor("user", "FP64", 7.5), tensor("age", "INT64", 1), tensor("amount", "FP64", 2.5)], 400),
        ([tensor("user", "BYTES", "ada"), tensor("age", "INT64", 1, 2), tensor("amount", "FP64", 1, 2.5)], 400),
        ([tensor("user", "BYTES", "ada"), tensor("age", "FP64", 1.5), tensor("amount", "FP64", 2.5)], None),
        ([tensor("user", "BYTES", "ada"), tensor("amount", "FP64", 2.5)], 400),
        ([tensor("age", "INT64", 1), tensor("amount", "FP64", 2.5)], 400),
    ],
)
def test_tensors_are_read_the_same_way(tensors: list[dict[str, Any]], status: int | None) -> None:
    for signature in ("doubles", "mixed"):
        answer = alike(signature, {"inputs": tensors}, CallKind.INFER)
        assert status in (answer.status, None)


def test_only_named_columns_of_numbers_are_read_so() -> None:
    text = Schema([ColSpec(DataType.string, "country"), ColSpec(DataType.double, "amount")])
    for signature in (None, ModelSignature(inputs=text)):
        assert column_reader(fast_form(signed_model(shown, signature)), "user") is None


VALUES = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=3), st.just([])
)
KEYS = st.one_of(st.sampled_from(["ada", "bob", "", "7"]), st.integers(-9, 9), st.none(), VALUES)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from([*WITH_KEY, "other"]), unique=True, max_size=6))
    plain = draw(st.booleans())
    if plain:  # most of these are taken
        names = draw(st.permutations([*{"amount": 0, "age": 0, **dict.fromkeys(names[:3])}]))
    good = {
        "user": st.sampled_from(["ada", "x", None]),
        "amount": st.floats(-9, 9),
        "spend": st.floats(-9, 9, width=32),
    }
    kinds = {
        name: good.get(name, st.integers(-9, 9)) if plain else (KEYS if name == "user" else VALUES) for name in names
    }
    rows = draw(st.lists(st.fixed_dictionaries(kinds), max_size=3))
    match draw(st.sampled_from(["dataframe_records", "dataframe_split", "instances", "inputs"])):
        case "dataframe_split":
            return {"dataframe_split": {"columns": names, "data": [list(row.values()) for row in rows]}}
        case "inputs":
            return {"inputs": {name: [row[name] for row in rows] for name in names}}
        case kind:
            return {kind: rows}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(bodies(), st.sampled_from(sorted(SIGNATURES)))
def test_generated_requests_get_the_same_answer(content: dict[str, Any], signature: str) -> None:
    assert alike(signature, content).status in ANSWERED
