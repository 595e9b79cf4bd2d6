from __future__ import annotations

import ast
import urllib.parse

from hypothesis import given
from hypothesis import strategies as st

from registry_bridge.mlflow_words import FILTER_CHARACTERS, name_filters

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=250)


def names_in(text: str) -> list[str]:
    """As MLflow reads a list in a filter."""
    read = ast.literal_eval(text.removeprefix("name IN "))
    return [read] if isinstance(read, str) else list(read)


@given(st.lists(NAMES, max_size=60), st.integers(min_value=1, max_value=20))
def test_filters_select_exactly_the_names_whatever_is_in_them(names: list[str], most: int) -> None:
    filters = list(name_filters(names, most))
    assert sorted(name for text in filters for name in names_in(text)) == sorted(set(names))
    assert all(len(names_in(text)) <= most for text in filters)
    assert all(len(urllib.parse.quote(text)) <= FILTER_CHARACTERS for text in filters)


@given(NAMES)
def test_nothing_in_a_filter_but_plain_characters_and_escapes(name: str) -> None:
    [text] = name_filters([name], 1)
    inside = text.removeprefix("name IN ('").removesuffix("')")
    assert all(c.isascii() and (c.isalnum() or c in "_-. \\") for c in inside)


def test_plain_names_stay_readable() -> None:
    assert list(name_filters(["fraud", "churn v2"], 10)) == ["name IN ('churn v2', 'fraud')"]
    assert list(name_filters(["it's"], 10)) == ["name IN ('it\\u0027s')"]
    assert list(name_filters([], 10)) == []


def test_what_is_no_text_is_left_out() -> None:
    assert list(name_filters(["a\ud800", "b"], 10)) == ["name IN ('b')"]
