"""What a stranger may call a model, and what becomes of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import BadInput
from policies.names import check_environment_name, is_slug, slug


@pytest.mark.parametrize("name", ["fraud", "a", "0", "fraud-v2", "x" * 40])
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert slug(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "Fraud",
        "fraud--v2",
        "-fraud",
        "fraud-",
        "x" * 41,
        "../../etc/passwd",
        "..",
        ".",
        "/",
        "C:\\con",
        "models/fraud",
        "a b",
        "fraud.yaml",
        "a?b#c%2e",
        "$(reboot)",
        "模型",
        "café",
        "--",
        "x" * 250,
    ],
)
def test_any_other_name_gets_a_hash_and_stays_in_its_folder(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*-[0-9a-f]{8}", slug(name))
    assert is_slug(slug(name))


def test_names_that_look_alike_differ() -> None:
    alike = [
        "fraud",
        "Fraud",
        "FRAUD",
        "fraud ",
        "fraud/",
        "a/b",
        "a b",
        "a.b",
        "a-b",
        "A-B",
        "caf\u00e9",
        "cafe\u0301",
    ]
    assert len({slug(name) for name in alike}) == len(alike)


def test_a_slug_is_the_same_for_ever() -> None:
    assert slug("Fraud Model/EU") == "fraud-model-eu-b3c4efc5"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a\nb", "U\\+000A"),
        ("a\x00", "U\\+0000"),
        ("fraud\u202egnp", "U\\+202E"),
        ("x" * 251, "251 characters, 250 at most"),
    ],
)
def test_names_that_deceive_or_do_not_fit_are_refused_in_words(name: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        slug(name)


@given(st.text(max_size=300))
def test_every_name_is_a_safe_slug_or_refused(name: str) -> None:
    try:
        made = slug(name)
    except BadInput:
        return
    assert is_slug(made)
    assert slug(made) == made
    assert "--" not in made


@pytest.mark.parametrize("name", ["production", "eu-1", "a", "x" * 32])
def test_environment_names(name: str) -> None:
    assert check_environment_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "Prod", "prod/eu", "prod\n", "-prod", "x" * 33, "prod_eu"])
def test_other_environment_names_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="lower-case letters, digits and dashes"):
        check_environment_name(name)


def test_a_refused_environment_name_comes_with_one_that_would_do() -> None:
    with pytest.raises(BadInput, match="for example prod-eu"):
        check_environment_name("Prod/EU")
