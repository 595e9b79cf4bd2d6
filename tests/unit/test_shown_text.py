"""Texts of others as people are shown them: on one line, nothing invisible, no secret."""

from __future__ import annotations

import json

import pytest

from policies.commit_message import message
from policies.impact_words import value_in_words
from policies.markdown import code, fenced, prose
from policies.secret_values import HIDDEN, hidden, hidden_in, hidden_line
from policies.shown_text import shown, shown_line

TOKEN = "ghp_" + "a1B2" * 9


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("a\u200bb", "a\\u200bb"),
        ("a\ud800b", "a\\ud800b"),
        ("a\U000e0041b", "a\\U000e0041b"),
        ("  two\x1b[31m\u00a0 words", "  two [31m  words"),
        ("Größe 模型 🦆", "Größe 模型 🦆"),
    ],
)
def test_what_is_obeyed_and_not_seen_is_shown_by_its_code(text: str, seen: str) -> None:
    assert shown_line(text) == seen
    assert shown_line(text).isprintable()


def test_a_text_is_hidden_first_and_then_cut() -> None:
    assert shown(f"{'x' * 20} {TOKEN}", 30) == f"{'x' * 20} (not sho…"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (f"the metric {TOKEN} is gone", f"the metric {HIDDEN} is gone"),
        ("at redis://:hunter2@cache:6379/0", f"at redis{HIDDEN}cache:6379/0"),
        ("-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END RSA PRIVATE KEY----- left", f"{HIDDEN} left"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEpAIB\n", HIDDEN),
        ("sk-learn-churn-model-2: hf_sentiment has no access key for npm_builds", None),
        ("http://127.0.0.1:8265 is away, v3 of fraud-detection waits", None),
    ],
)
def test_only_what_looks_like_a_secret_is_hidden(text: str, seen: str | None) -> None:
    assert hidden(text) == (text if seen is None else seen)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("  DB_PASSWORD: hunter2", f"  DB_PASSWORD: {HIDDEN}"),
        (f'- "NOTE": "{TOKEN}"', f'- "NOTE": "{HIDDEN}"'),
        ("  command: PGPASSWORD=hunter2hunter2 psql", f"  command: PGPASSWORD={HIDDEN} psql"),
        ("name: token-classifier--v3-0a1b2c3d", "name: token-classifier--v3-0a1b2c3d"),
    ],
)
def test_a_line_of_a_document_hides_by_name_too(line: str, seen: str) -> None:
    assert hidden_line(line) == seen


def test_data_keeps_its_form_and_loses_no_entry() -> None:
    data = {TOKEN: 1, TOKEN[:-1]: [TOKEN, 2.5, None], "env": {"DB_PASSWORD": "hunter2", "MODE": "fast"}}
    assert hidden_in(data, by_name=True) == {
        HIDDEN: 1,
        f"{HIDDEN}'": [HIDDEN, 2.5, None],
        "env": {"DB_PASSWORD": HIDDEN, "MODE": "fast"},
    }
    assert hidden_in({"token-classifier": "waits"}) == {"token-classifier": "waits"}


@pytest.mark.parametrize(
    "out",
    [
        shown(f"a {TOKEN}", 300),
        prose(f"a {TOKEN}"),
        code(f"a {TOKEN}"),
        "\n".join(fenced([f"a {TOKEN}"], "diff")),
        message(f"a {TOKEN}", f"b {TOKEN}"),
        value_in_words({"NOTE": TOKEN}),
        value_in_words({"DB_PASSWORD": TOKEN[4:20]}),
        json.dumps(hidden_in({"a": [TOKEN]})),
    ],
)
def test_no_door_repeats_one(out: str) -> None:
    assert TOKEN[4:20] not in out
    assert "not shown" in out.replace("\\", "")
