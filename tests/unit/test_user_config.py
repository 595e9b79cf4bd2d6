"""What a replica accepts as its user_config."""

from __future__ import annotations

from typing import Any

import pytest

from policies.errors import BadInput
from policies.serving import Batching
from serving_runtime.user_config import AgreementTerms, GuardTerms, parse_user_config

SPLIT = {
    "application": "fraud--v2-22222222",
    "version": 2,
    "build": "22222222",
    "weight_percent": 10,
    "shadow": False,
    "timeout_s": 5,
    "max_ongoing": 16,
}
CONFIG: dict[str, Any] = {
    "revision": 3,
    "drain": False,
    "hold": False,
    "model": "fraud",
    "version": 1,
    "build": "11111111",
    "request_timeout_s": 30.0,
    "split": SPLIT,
}


def test_a_config_is_read_as_it_is_written() -> None:
    config = parse_user_config(CONFIG)
    assert config.revision == 3
    assert config.split is not None
    assert config.split.weight_percent == 10
    assert config.split.timeout_s == 5.0
    assert parse_user_config({**CONFIG, "split": None}).split is None


def test_a_split_of_an_older_release_has_no_guard_and_compares_nothing() -> None:
    split = parse_user_config(CONFIG).split
    assert split is not None
    assert (split.guard, split.agreement) == (None, None)


def test_guard_and_agreement_are_read() -> None:
    raw = {**SPLIT, "guard": {"allowed": 0.01, "alpha": 0.001}, "agreement": {"tolerance": 0}}
    split = parse_user_config({**CONFIG, "split": raw}).split
    assert split is not None
    assert split.guard == GuardTerms(allowed=0.01, alpha=0.001)
    assert split.agreement == AgreementTerms(tolerance=0.0)


def test_a_key_of_a_later_release_is_ignored() -> None:
    assert parse_user_config({**CONFIG, "mirrored_to": "user"}).revision == 3
    batching = parse_user_config({**CONFIG, "batching": {"max_batch_size": 8, "by_size": True}}).batching
    assert batching == Batching(max_batch_size=8)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"revision": "3"}, "revision"),
        ({"revision": -1}, "revision"),
        ({"drain": 1}, "drain"),
        ({"request_timeout_s": float("inf")}, "request_timeout_s"),
        ({"request_timeout_s": 0}, "request_timeout_s"),
        ({"split": {**SPLIT, "weight_percent": 101}}, "split.weight_percent"),
        ({"split": {**SPLIT, "weight_percent": True}}, "split.weight_percent"),
        ({"split": {**SPLIT, "build": "../../x"}}, "split.build"),
        ({"split": {**SPLIT, "guard": {"allowed": 0, "alpha": 0.001}}}, "split.guard.allowed"),
        ({"split": {**SPLIT, "guard": {"allowed": 0.01}}}, "split.guard.alpha"),
        ({"split": {**SPLIT, "agreement": {"tolerance": -1.0}}}, "split.agreement.tolerance"),
        ({"split": {}}, "split.application"),
        ({"split": []}, "split"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput, match=rf"(^|\W){field}"):
        parse_user_config({**CONFIG, **change})


@pytest.mark.parametrize("raw", [None, [], "text", 3, {}])
def test_what_is_no_config_is_bad_input_and_nothing_else(raw: object) -> None:
    with pytest.raises(BadInput):
        parse_user_config(raw)
