"""Features as columns of a request's rows, for every shape that MLflow's parser gives, through MLflow's own checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc.scoring_server import infer_and_parse_data, parse_csv_input
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from policies.errors import BadInput
from policies.serving import Features
from serving_runtime.feature_columns import KEY_LIMIT_CHARS, KEYS_LIMIT, Columns
from serving_runtime.look_ups import Found, LookUp

SCHEMA = Schema(
    [
        ColSpec(DataType.double, "amount"),
        ColSpec(DataType.double, "spend"),
        ColSpec(DataType.long, "visits"),
        ColSpec(DataType.string, "country"),
    ]
)
DEFAULTS = {"spend": None, "visits": 0, "country": "?"}
ADA = {"spend": 12.5, "visits": 3, "country": "uk"}
FOUND = {"ada": Found(LookUp.HIT, ADA), "7": Found(LookUp.DEFAULT, {"visits": 9}), "nobody": Found(LookUp.MISS)}


def columns(schema: Schema | None = SCHEMA, required: tuple[str, ...] = (), **defaults: Any) -> Columns:
    terms = Features(entry_point="a:b", key="user", required=required, defaults=defaults or DEFAULTS)
    return Columns(terms, schema)


def joined(own: Columns, data: Any, found: Mapping[str, Found] = FOUND) -> Any:
    rows = own.rows(data)
    return own.joined(rows, own.values(rows, found))


def parsed(body: Mapping[str, Any], schema: Schema | None = SCHEMA) -> Any:
    return infer_and_parse_data(json.loads(json.dumps(body)), schema)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["user", "amount"], "data": [["ada", 1], ["nobody", 2]]}},
        {"dataframe_split": {"columns": ["user", "amount"], "data": [["ada", 1], ["nobody", 2]], "index": [7, 3]}},
        {"dataframe_records": [{"user": "ada", "amount": 1}, {"user": "nobody", "amount": 2}]},
        {"instances": [{"user": "ada", "amount": 1}, {"user": "nobody", "amount": 2}]},
        {"inputs": {"user": ["ada", "nobody"], "amount": [1, 2]}},
        {"inputs": [{"user": "ada", "amount": 1}, {"user": "nobody", "amount": 2}]},
    ],
    ids=["split", "split with an index", "records", "instances", "inputs", "inputs by row"],
)
def test_every_shape_of_rows_gets_its_features_and_passes_mlflows_own_checks(body: Mapping[str, Any]) -> None:
    seen = _enforce_schema(joined(columns(), parsed(body)), SCHEMA)
    rows = seen.reset_index(drop=True).astype({"country": object})
    expected = pd.DataFrame(
        {
            "amount": [1.0, 2.0],
            "spend": [12.5, np.nan],
            "visits": [3, 0],
            "country": np.array(["uk", "?"], dtype=object),
        }
    )
    pd.testing.assert_frame_equal(rows, expected, check_dtype=False)
    assert [str(kind) for kind in rows.dtypes[:3]] == ["float64", "float64", "int64"]


def test_one_row_of_plain_values_stays_one() -> None:
    one = joined(columns(), parsed({"inputs": {"user": "ada", "amount": 1.0}}))
    assert _enforce_schema(one, SCHEMA).to_dict("records") == [{"amount": 1.0, **ADA}]


def test_csv_too() -> None:
    from io import StringIO

    frame = parse_csv_input(StringIO("user,amount\nada,1\n7,2\n"), SCHEMA)
    assert joined(columns(), frame)["visits"].tolist() == [3, 9]


def test_without_a_signature_the_model_gets_the_key_and_what_the_source_gives() -> None:
    frame = joined(columns(schema=None), parsed({"dataframe_records": [{"user": "ada"}]}, None))
    assert frame.to_dict("records") == [{"user": "ada", **ADA}]


def test_named_tensors_of_one_value_a_row() -> None:
    schema = Schema([TensorSpec(np.dtype("float32"), (-1,), "amount"), TensorSpec(np.dtype("float32"), (-1,), "spend")])
    own = columns(schema, spend=0.0)
    data = joined(own, parsed({"inputs": {"user": ["ada", "nobody"], "amount": [1, 2]}}, schema))
    assert _enforce_schema(data, schema)["spend"].tolist() == [12.5, 0.0]
    assert data["spend"].dtype == np.float32


def test_what_the_request_carries_wins_and_needs_no_look_up() -> None:
    own = columns()
    body = {"dataframe_records": [{"user": "ada", "amount": 1.0, "spend": 1.0, "country": "fr"}]}
    assert own.rows(parsed(body)).missing == ("visits",)
    assert joined(own, parsed(body)).to_dict("records") == [{"amount": 1.0, "spend": 1.0, "country": "fr", "visits": 3}]
    whole = parsed({"dataframe_records": [{"amount": 1.0, "spend": 1.0, "visits": 1, "country": "fr"}]})
    assert own.rows(whole).keys == (), "nor a key"
    assert joined(own, whole).equals(whole)


def test_rows_of_their_own_keep_their_own() -> None:
    rows = [{"user": "ada", "spend": 1.0}, {"user": "ada"}]
    assert [row["spend"] for row in joined(columns(schema=None), rows)] == [1.0, 12.5]
    assert rows == [{"user": "ada", "spend": 1.0}, {"user": "ada"}], "nothing is changed in place"


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (["ada", "eve: 1\r\nDEL x", "*"], ("ada", "eve: 1\r\nDEL x", "*")),
        ([7, 8], ("7", "8")),
        ([7, None], ("7", None)),
        ([7.0], ("7",)),
        (["", None], (None, None)),
        ([2**70], (str(2**70),)),
    ],
)
def test_keys_are_text_and_whole_numbers_and_may_be_absent(values: list[Any], keys: tuple[str | None, ...]) -> None:
    frame = parsed({"dataframe_records": [{"user": value, "amount": 1} for value in values]})
    assert columns().rows(frame).keys == keys


@pytest.mark.parametrize(
    "value",
    [1.5, True, [1], {"a": 1}, "x" * (KEY_LIMIT_CHARS + 1), "\ud800", float("inf")],
    ids=["a fraction", "a truth", "a list", "an object", "too long", "half a character", "infinite"],
)
def test_a_key_that_can_be_none_is_refused_without_being_repeated(value: Any) -> None:
    with pytest.raises(
        BadInput, match="the field 'user' is text of at most 256 characters, or a whole number"
    ) as error:
        columns().rows([{"user": value}])
    assert "xxx" not in str(error.value)


def test_rows_without_the_key_are_refused_with_the_field_and_what_it_is_for() -> None:
    with pytest.raises(BadInput, match="a row needs the field 'user', by which spend, visits, country are looked up"):
        columns().rows(parsed({"dataframe_records": [{"amount": 1}]}))
    with pytest.raises(BadInput, match="a row needs the field 'user'"):
        columns().rows([{"user": "ada"}, {"amount": 1}])


@pytest.mark.parametrize("data", [[], [1.0], ["ada"], np.zeros((2, 2)), "ada", 1.0, None])
def test_rows_without_names_are_refused(data: Any) -> None:
    with pytest.raises(BadInput, match="rows have named fields here"):
        columns().rows(data)


def test_too_many_keys_are_refused() -> None:
    rows = [{"user": n} for n in range(KEYS_LIMIT + 1)]
    assert len(columns().rows(rows[1:]).keys) == KEYS_LIMIT
    with pytest.raises(BadInput, match="send it in parts"):
        columns().rows(rows)


def test_an_entry_is_checked_feature_by_feature_and_only_what_is_named_is_kept() -> None:
    own = columns(required=("spend",), visits=0)
    assert own.check({"spend": "12.5", "visits": "3", "password": "x"}) == ({"spend": 12.5, "visits": 3}, True, ())
    assert own.check({"spend": "much", "visits": 3}) == ({"visits": 3}, False, ("spend (ValueError)",))
    assert own.check({"spend": 1, "visits": None}) == ({"spend": 1.0}, False, ())


def test_a_required_feature_that_was_not_found_is_left_out() -> None:
    own = columns(required=("spend",), visits=0)
    rows = own.rows([{"user": "ada"}, {"user": "nobody"}, {"user": None}])
    assert own.values(rows, FOUND) == ({"spend": 12.5, "visits": 3}, {"visits": 0}, {"visits": 0})


@pytest.mark.parametrize(
    ("schema", "defaults", "message"),
    [
        (SCHEMA, {"visits": 1.5}, r"features\.defaults\.visits: 1\.5 is no DataType\.long: wanted a whole number"),
        (SCHEMA, {"spend": "much"}, r"features\.defaults\.spend: 'much' is no"),
        (SCHEMA, {"visits": None}, "has a value in every row"),
        (Schema([ColSpec(DataType.double)]), {"spend": 0.0}, "no names for its inputs"),
        (
            Schema([TensorSpec(np.dtype("float32"), (-1, 2), "spend")]),
            {"spend": 0.0},
            "feature spend: a feature has one",
        ),
    ],
)
def test_features_that_do_not_fit_the_model_are_refused(
    schema: Schema, defaults: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        columns(schema, **defaults)
