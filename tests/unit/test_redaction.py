"""What captured traffic never shows."""

from __future__ import annotations

import json
import time

import pytest

from policies.secret_values import has_secret_shape
from serving_runtime.api_keys import new_key
from serving_runtime.redaction import DEPTH_LIMIT, Redaction, looks_secret


@pytest.mark.parametrize(
    "name",
    [
        "password", "Password", "userPassword", "user_password", "PASSWORD_HASH", "passwd", "pwd", "api_key", "apiKey",
        "API-KEY", "X-Api-Key", "apikey", "secret", "client_secret", "clientSecret", "access_token", "token",
        "Authorization", "auth.bearer", "cookie", "Set-Cookie", "private_key", "ssh_private_key_1", "credentials",
        "card_number", "cardNumber", "cvv", "ssn", "iban", "session_id", "otp", "pin", "aws_access_key", "id_jwt",
    ],
)  # fmt: skip
def test_a_name_that_looks_like_a_secret_is_hidden(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    ["author", "tokens_seen", "tokenised", "keyboard", "key", "age", "pinned", "spinning", "card", "session_length",
     "number", "access", "secretary", "", "feature 1", "x" * 500, "größe", "api", "monkey"],
)  # fmt: skip
def test_an_ordinary_name_is_not(name: str) -> None:
    assert not looks_secret(name)


def test_a_policys_fields_are_hidden_whatever_their_case_at_any_depth() -> None:
    redaction = Redaction(("Email", "zip"))
    value = {"EMAIL": "a@b", "age": 3, "home": [{"zip": "1", "street": "s"}]}
    assert redaction.value(value) == {"EMAIL": None, "age": 3, "home": [{"zip": None, "street": "s"}]}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "token", "shape": [1], "data": ["hunter2"]},
        {"key": "password", "value": "hunter2"},
        {"columns": ["age", "password"], "data": [[3, "hunter2"]]},
        [{"field": "api_key", "value": {"deep": "hunter2"}}],
    ],
)
def test_a_name_beside_its_value_hides_it(value: object) -> None:
    assert "hunter2" not in json.dumps(Redaction().value(value))


@pytest.mark.parametrize(
    "text",
    [
        "Bearer abcdefgh.1234", "basic dXNlcjpwYXNzMQ==", "see eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdef0123", "sk-0123456789abcdef", "-----BEGIN RSA PRIVATE KEY-----",
        "postgres://user:pass@host/db", "my key is sluice_" + "x7Fq2a-" * 6 + "_", "password=hunter2secret, thanks",
        "DB_PASSWORD = 'hunter2'", 'see {"apiKey": "x7Fq2a"}', "pin: 1234", "https://host/path?token=x7Fq2a&page=1",
    ],
)  # fmt: skip
def test_a_text_that_looks_like_a_credential_is_hidden_wherever_it_stands(text: str) -> None:
    assert Redaction().value({"comment": ["fine", text]}) == {"comment": ["fine", None]}
    assert text not in Redaction().value({text: 1})


@pytest.mark.parametrize(
    "text",
    [
        "", "a bearer of news", "https://host/path", "12:30", "risk_taking_behaviour_high", "Basic subscription",
        "sluice_requests_in_progress_by_version_total", "forgot my password: please help", "token = next(tokens)",
        "tokens=1024", "the pin: 12", "password=", "page=1234", "pass: 4711",
    ],
)  # fmt: skip
def test_an_ordinary_text_is_not(text: str) -> None:
    assert Redaction().text(text) == text


def test_a_key_as_sluicegate_makes_it_is_hidden_and_never_in_a_document() -> None:
    key, _ = new_key("shop")
    assert Redaction().value({"note": f"use {key} for it"}) == {"note": None}
    assert has_secret_shape(f"use {key} for it")


def test_a_text_made_to_be_slow_is_not() -> None:
    started = time.process_time()
    for text in ("a=" * 100_000, "a" * 200_000, "a" * 100_000 + "=", "token=" * 40_000, "a:\n" * 60_000):
        assert Redaction().text(text) == text
    assert time.process_time() - started < 5, "a second or less is usual, a quadratic one takes minutes"


def test_what_lies_too_deep_to_be_looked_at_is_not_written() -> None:
    value: object = "hunter2"
    for _ in range(DEPTH_LIMIT + 1):
        value = [value]
    assert "hunter2" not in json.dumps(Redaction().value(value))


def test_what_no_json_can_hold_is_null() -> None:
    assert Redaction().value([float("nan"), float("inf"), 1.5]) == [None, None, 1.5]
