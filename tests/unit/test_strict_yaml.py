"""Strict YAML: what is refused and in which words, and bytes that do not change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import BadInput
from policies.strict_yaml import MAX_DEPTH, YamlError, dump, parse


def refusal(text: str, **limits: int) -> str:
    with pytest.raises(YamlError) as caught:
        parse(text, "f.yaml", **limits)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2", "f.yaml:2:1: the key 'a' appears twice, first in line 1: keep one"),
        ("x:\n  a: 1\n  b: 2\n  a: 3", "f.yaml:4:3: x: the key 'a' appears twice, first in line 2: keep one"),
        ('{a: 1, "a": 2}', "f.yaml:1:8: the key 'a' appears twice, first in line 1: keep one"),
        ("a:\n\t- b", 'f.yaml:2:1: a tab: indent with spaces (inside double quotes, write "\\t")'),
        ("a: x\ty", 'f.yaml:1:5: a tab: indent with spaces (inside double quotes, write "\\t")'),
        ("a: &x [1]", "f.yaml:1:4: a: an anchor, &x: write the value out where it is needed"),
        ("&x a: 1", "f.yaml:1:1: an anchor, &x: write the value out where it is needed"),
        ("a: *x", "f.yaml:1:4: a: an alias, *x: write the value out, aliases are not read"),
        ("<<: {a: 1}", "f.yaml:1:1: a merge key, <<: write the values out"),
        ("a: !!python/object:os.system x", "a tag, tag:yaml.org,2002:python/object:os.system: plain values only"),
        ("a: !secret {}", "f.yaml:1:4: a: a tag, !secret: plain values only"),
        ("a: ! x", "f.yaml:1:4: a: a tag, !: plain values only"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: a second document: one file holds one document"),
        ("%YAML 1.1\n---\na: 1", "f.yaml:2:1: a % directive: remove the line"),
        ("1: a", "f.yaml:1:1: the key '1' is not text: put it in quotes"),
        ("true: a", "the key 'true' is not text: put it in quotes"),
        ("x:\n  ~: a", "f.yaml:2:3: x: the key '~' is not text: put it in quotes"),
        ("? [a]\n: b", "f.yaml:1:3: a mapping or list as a key: keys are text"),
        ("{a: 1}: b", "a mapping or list as a key: keys are text"),
        ("x: [1, 012]", "f.yaml:1:8: x: 012 is read differently by different YAML readers"),
        ("x: 0x1F", "0x1F is read differently by different YAML readers: write a number in plain decimal digits"),
        ("x: 1_000", "1_000 is read differently"),
        ("x: .inf", ".inf is read differently"),
        ("x: -.INF", "-.INF is read differently"),
        ("x: .nan", ".nan is read differently"),
        ("x: +5", "+5 is read differently"),
        ("x: 1e999", "1e999 is beyond what a number can hold"),
        ("x: " + "9" * 5000, "a number of 5000 digits, 18 at most"),
        ("a: b: c", "f.yaml:1:5: not YAML: mapping values are not allowed here"),
        ("a: [1, 2", "f.yaml:1:9: a: not YAML: expected ',' or ']'"),
        ("a: {b: 1", "not YAML: expected ',' or '}'"),
        ('a: "\\U99999999"', "not YAML: "),
        ("a: x\x07y", "f.yaml:1:5: an invisible character, U+0007: remove it"),
        ("a: 1\nb: \u202eevil", "f.yaml:2:4: an invisible character, U+202E"),
        ("\ufeffa: 1", "f.yaml:1:1: an invisible character, U+FEFF"),
        ("a: \ud800", "f.yaml:1:4: an invisible character, U+D800"),
        ("[" * 10_000, f"nested deeper than {MAX_DEPTH} levels"),
        ("- " * 10_000 + "a", f"nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_is_not_strict_is_refused_with_its_place(text: str, says: str) -> None:
    assert says in refusal(text)


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    assert "f.yaml:1:5: a0: an anchor, &a0" in refusal("\n".join(lines))


def test_a_document_over_the_size_is_refused_before_it_is_read() -> None:
    assert "the document has 51 characters, 50 at most are read" in refusal("[" * 51, max_characters=50)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("a: yes", {"a": "yes"}),
        ("on: off", {"on": "off"}),
        ("a: 2026-11-23", {"a": "2026-11-23"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: 5m", {"a": "5m"}),
        ("a: ~\nb: null\nc:\n", {"a": None, "b": None, "c": None}),
        ("a: 1e3\nb: -0.5\nc: 0", {"a": 1000.0, "b": -0.5, "c": 0}),
        ("a: '012'\nb: \"true\"", {"a": "012", "b": "true"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("a:\r\n  - b\r\n", {"a": ["b"]}),
        ("- [a, {b: c}]\n- d", [["a", {"b": "c"}], "d"]),
    ],
)
def test_what_plain_yaml_means(text: str, data: Any) -> None:
    assert parse(text, "f.yaml").data == data


def test_every_value_has_its_place() -> None:
    read = parse("a:\n  b:\n    - x\n    - c: 1\n", "f.yaml")
    assert read.position(("a", "b", 1, "c")).line == 4
    assert read.position(("a", "b", 0)).column == 7
    assert read.position(("a", "missing")).line == 1, "what is missing is where its parent is"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TRICKY = st.sampled_from(
    [
        *("yes", "No", "null", "~", "", "1", "01", "1e5", "1_0", "0x1", "1:30", "2026-01-01", ".", "..", ".5", "+1"),
        *("- a", "a: b", "a #b", "#", "<<", "=", "*a", "&a", "!a", "%a", "@a", "`a", "{a", "[a", "a]", "a:", ":a", "?"),
        *(
            "? a",
            "|",
            ">",
            "-",
            "--",
            "---",
            "...",
            " a",
            "a ",
            "a\nb",
            "\t",
            "\\",
            '"',
            "'",
            "y",
            "n",
            "5m",
            "sha256:ab",
        ),
        *("\u2028", "\x85", "\x00"),
    ]
)
NUMBERS = st.integers(-(10**18) + 1, 10**18 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | TRICKY, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_what_is_written_is_read_back_the_same_byte_for_byte(data: Any) -> None:
    text = dump(data)
    again = parse(text, "f.yaml").data
    assert again == data
    assert dump(again) == text


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_other_yaml_readers_read_the_same(data: Any) -> None:
    """Ray reads with PyYAML, a YAML 1.1 reader."""
    assert yaml.safe_load(dump(data)) == data


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(list("a:-[]{}&*!|>#\"'%@\n ,?1\\U")), max_size=40).map("".join))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        refusal = ""
        parse(text, "f.yaml")
    except YamlError as error:
        refusal = str(error)
    assert not refusal or refusal.startswith("f.yaml:")


def test_a_document_as_people_would_write_it() -> None:
    data = {"name": "fraud", "steps": [5, 10], "slos": ["errors"], "env": {}, "bake": [{"min": "5m", "on": "yes"}, []]}
    assert dump(data) == (
        'name: fraud\nsteps: [5, 10]\nslos:\n  - errors\nenv: {}\nbake:\n  - min: 5m\n    "on": "yes"\n  - []\n'
    )


@pytest.mark.parametrize("value", [math.inf, math.nan, 10**18, "\ud800"])
def test_what_yaml_cannot_hold_is_refused_when_written(value: Any) -> None:
    with pytest.raises(BadInput):
        dump({"a": value})


@pytest.mark.parametrize("value", [{1: 2}, {"a": object()}, {"a": b"x"}])
def test_what_is_not_plain_data_is_the_programmers_mistake(value: Any) -> None:
    with pytest.raises(TypeError):
        dump(value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("a", "b", 1), "5m"),
        (("a",), {"b": [1, "5m"]}),
        (("a", "c"), None),
        (("a", "b", 2), None),
        (("a", "b", "c"), None),
    ],
)
def test_what_stands_at_a_path_is_found_and_elsewhere_is_nothing(path: tuple[str | int, ...], value: object) -> None:
    assert parse("a: {b: [1, 5m]}\n", "x").value(path) == value
