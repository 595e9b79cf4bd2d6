"""API keys: what is kept of them, and whose key somebody sent."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from policies.errors import BadInput
from serving_runtime.api_keys import KEYS, PREFIX, new_key, parse_keys
from serving_runtime.callers import Caller, Reason

NOW = 1_800_000_000.0
KEY, LINE = new_key("shop", ["fraud"], ["feedback"])


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def line(**changes: Any) -> str:
    return json.dumps({**json.loads(LINE), **changes})


def test_a_key_says_whose_it_is_and_what_it_may() -> None:
    caller = parse_keys(text("# who asks", "", LINE)).find(KEY, NOW)
    assert caller == Caller("shop", frozenset({"fraud"}), frozenset({"feedback"}))
    assert isinstance(caller, Caller)
    assert (caller.may_call("fraud"), caller.may_call("churn")) == (True, False)
    assert (caller.may("feedback"), caller.may("force")) == (True, False)


def test_a_key_for_all_models_may_call_any() -> None:
    key, all_models = new_key("desk")
    caller = parse_keys(text(all_models)).find(key, NOW)
    assert isinstance(caller, Caller)
    assert caller.may_call("anything")
    assert not caller.permissions


@pytest.mark.parametrize(
    "sent",
    ["", KEY[:-1], KEY + "A", KEY.upper(), json.loads(LINE)["sha256"], "x" * 8000],
    ids=["nothing", "shorter", "longer", "in capitals", "its hash", "very long"],
)
def test_what_is_no_key_is_nobodys(sent: str) -> None:
    assert parse_keys(text(LINE)).find(sent, NOW) is None


def test_keys_are_long_random_and_easy_to_find_where_they_should_not_be() -> None:
    keys = {new_key("shop")[0] for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) == len(PREFIX) + 43 for key in keys)


def test_what_is_kept_is_its_hash_and_not_the_key() -> None:
    assert json.loads(LINE)["sha256"] == hashlib.sha256(KEY.encode()).hexdigest()
    assert KEY not in LINE


def test_a_key_that_was_made_elsewhere_does_as_well() -> None:
    own = "a-key-from-another-system-0123456789"
    table = parse_keys(text(line(sha256=hashlib.sha256(own.encode()).hexdigest())))
    assert isinstance(table.find(own, NOW), Caller)


def test_a_key_expires() -> None:
    key, dated = new_key("shop", expires=datetime.fromtimestamp(NOW, UTC))
    table = parse_keys(text(dated))
    assert isinstance(table.find(key, NOW - 1), Caller)
    assert table.find(key, NOW) is Reason.EXPIRED


def test_a_name_may_have_two_keys_while_one_replaces_the_other() -> None:
    later, other = new_key("shop")
    table = parse_keys(text(LINE, other))
    assert [isinstance(table.find(key, NOW), Caller) for key in (KEY, later)] == [True, True]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (text(LINE, "{"), "line 2: the line: Invalid JSON"),
        (text("shop " + KEY), "line 1: the line: Invalid JSON"),
        (text(line(sha256="abc")), "line 1: sha256: String should match"),
        (text(line(name="Shop 1")), "line 1: name: String should match"),
        (text(line(models=[])), "line 1: models: Tuple should have at least 1 item"),
        (text(line(models=["Fraud"])), "line 1: models.0: String should match"),
        (text(line(permissions=["root"])), "line 1: permissions.0: Input should be 'force' or 'feedback'"),
        (text(line(expires="tomorrow")), "line 1: expires: Input should be a valid datetime"),
        (text(line(expires="2027-01-01T00:00:00")), "line 1: expires: Input should have timezone info"),
        (text(line(**{KEY: 1})), "line 1: a field: Unexpected keyword argument"),
        (text(LINE, line(name="other")), "line 2: the same key stands above, under the name shop"),
        (text(LINE)[:-1], "half written"),
        (text(LINE)[:40], "half written"),
        (b"\xff\xfe\n", "no UTF-8 text"),
        (b"\x00" * 100 + b"\n", "line 1: the line: Invalid JSON"),
        (text("[" * 100_000), "line 1: the line: Invalid JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # a key is another one each time
)
def test_a_text_that_is_wrong_says_where_and_repeats_nothing(raw: bytes, says: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_keys(raw)
    assert says in str(raised.value)
    assert KEY not in str(raised.value)
    assert json.loads(LINE)["sha256"] not in str(raised.value)


def test_there_is_room_for_so_many_keys_and_no_more() -> None:
    def lines(number: int) -> bytes:
        return text(*(line(sha256=hashlib.sha256(str(n).encode()).hexdigest()) for n in range(number)))

    assert len(parse_keys(lines(KEYS))) == KEYS
    with pytest.raises(BadInput, match=f"more than {KEYS} keys"):
        parse_keys(lines(KEYS + 1))


@pytest.mark.parametrize(
    "about", [{"name": "Shop"}, {"name": "shop\n{}"}, {"models": ["a b"]}, {"models": []}, {"permissions": ["all"]}]
)
def test_no_key_is_made_that_a_file_would_refuse(about: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        new_key(**{"name": "shop", **about})
