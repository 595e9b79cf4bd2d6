"""Who asks: one value of a header or of a body, and nothing that a stranger sends raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.serving import RequestKey, Segments
from serving_runtime.protocol import Call
from serving_runtime.request_keys import BODY_READ_BYTES, OTHER, RequestKeys

USER = RequestKeys(RequestKey(field="user"), None)
BY_HEADER = RequestKeys(RequestKey(header="x-user"), None)
COUNTRIES = RequestKeys(None, Segments(key=RequestKey(field="country"), values=("de", "fr")))


def call(body: Any, **headers: str) -> Call:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(text, "application/json", "r-1", headers={n.replace("_", "-"): v for n, v in headers.items()})


@pytest.mark.parametrize(
    "body",
    [
        {"user": "u7", "inputs": [1]},
        {"dataframe_split": {"columns": ["amount", "user"], "data": [[3.5, "u7"], [1.0, "u8"]]}},
        {"dataframe_records": [{"user": "u7"}, {"user": "u8"}]},
        {"instances": [{"user": "u7"}]},
        {"inputs": [{"user": "u7"}]},
        {"inputs": {"user": ["u7", "u8"]}},
        {"inputs": {"user": [["u7"], ["u8"]]}},
        {"inputs": {"user": "u7"}},
        {"inputs": [{"name": "x", "data": [1]}, {"name": "user", "shape": [1, 1], "data": [["u7"]]}]},
        {"inputs": [1], "params": {"user": "u7"}},
        {"inputs": [], "parameters": {"user": "u7"}},
        {"user": " u7 "},
    ],
)
def test_a_field_is_found_at_the_top_or_in_the_first_row(body: Any) -> None:
    assert USER.read(call(body)).sticky == "u7"


@pytest.mark.parametrize(
    ("written", "read"),
    [(7, "7"), (7.0, "7"), ("7", "7"), (7.5, "7.5"), (True, "true"), (-3, "-3"), (1e300, str(int(1e300)))],
)
def test_one_user_is_one_name_however_it_is_written(written: Any, read: str) -> None:
    assert USER.read(call({"user": written})).sticky == read


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [1]},
        {"user": None},
        {"user": ""},
        {"user": ["u7"]},
        {"user": {"id": 7}},
        b'{"user": NaN}',
        {"dataframe_split": {"columns": ["user"], "data": []}},
        {"dataframe_split": {"columns": ["amount", "user"], "data": [[1]]}},
        {"dataframe_split": {"columns": "user", "data": 7}},
        {"dataframe_records": [7]},
        {"inputs": {"user": [[[[["deeper than any name"]]]]]}},
        [{"user": "u7"}],
        b"user,amount\nu7,1\n",
        b"",
        b"{",
        b'{"user": "\xff"}',
        b'{"user": ' + b"9" * 5000 + b"}",
        b'{"a":' * 20_000,
    ],
)
def test_what_names_nobody_is_none(body: Any) -> None:
    assert USER.read(call(body)).sticky is None


def test_a_body_above_the_limit_is_not_read() -> None:
    small = {"user": "u7", "inputs": "x" * (BODY_READ_BYTES - 100)}
    large = {"user": "u7", "inputs": "x" * BODY_READ_BYTES}
    assert USER.read(call(small)).sticky == "u7"
    assert USER.read(call(large)).sticky is None


def test_of_a_binary_body_only_the_json_is_read() -> None:
    head = b'{"parameters": {"user": "u7"}}'
    body = head + b"\x00" * (2 * BODY_READ_BYTES)
    assert USER.read(call(body, inference_header_content_length=str(len(head)))).sticky == "u7"
    assert USER.read(call(body, inference_header_content_length="9" * 5000)).sticky is None
    assert USER.read(call(body, inference_header_content_length="-1")).sticky is None


def test_a_header_is_read_without_the_body() -> None:
    assert BY_HEADER.headers == {"x-user"}
    assert BY_HEADER.read(call(b"no json", x_user="u7")).sticky == "u7"
    assert BY_HEADER.read(call({"x-user": "u7"})).sticky is None


@pytest.mark.parametrize(
    ("country", "segment"), [("de", "de"), ("fr", "fr"), ("se", OTHER), (None, OTHER), (["de"], OTHER), ("de\n", "de")]
)
def test_a_segment_is_a_listed_value_or_other(country: Any, segment: str) -> None:
    assert COUNTRIES.read(call({"country": country})).segment == segment


_NAMES = st.sampled_from(
    [
        "user",
        "country",
        "dataframe_split",
        "columns",
        "data",
        "dataframe_records",
        "instances",
        "inputs",
        "params",
        "name",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | _JSON.map(lambda document: json.dumps(document).encode()))
def test_nothing_that_is_sent_raises_and_every_segment_is_one_of_the_listed(body: bytes) -> None:
    found = USER.read(call(body)).sticky
    assert found is None or found.strip()
    assert COUNTRIES.read(call(body)).segment in ("de", "fr", OTHER)
