"""A few values of a document change, and nothing else of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.strict_yaml import YamlError, parse
from policies.yaml_edits import with_values

TEXT = """\
# What serves here.
registry:
  tracking_uri: "http://127.0.0.1:1"  # MLflow
environments:
  production:   # the one
    # What is served.
    trigger: {stage: Production}
    ray: {dashboard: 'http://127.0.0.1:2', other: 7}
    review: required
forge: {kind: gitea}
"""


def test_values_change_and_comments_order_and_quotes_stay():
    wanted = {
        ("registry", "tracking_uri"): "http://127.0.0.1:10",
        ("environments", "production", "ray", "dashboard"): "http://127.0.0.1:20",
    }
    edited = with_values(TEXT, wanted, "f.yaml")
    expected = TEXT.replace('"http://127.0.0.1:1"', "http://127.0.0.1:10")
    assert edited.text == expected.replace("'http://127.0.0.1:2'", "http://127.0.0.1:20")
    assert edited.left_out == ()


def test_an_equal_value_keeps_its_quotes():
    assert with_values(TEXT, {("registry", "tracking_uri"): "http://127.0.0.1:1"}, "f.yaml").text == TEXT


def test_a_missing_field_comes_first_in_the_mapping_it_belongs_into():
    edited = with_values(TEXT, {("environments", "production", "grpc", "enabled"): True}, "f.yaml")
    assert edited.text == TEXT.replace("# the one\n", "# the one\n    grpc:\n      enabled: true\n")
    off = with_values(edited.text, {("environments", "production", "grpc", "enabled"): False}, "f.yaml")
    assert off.text == edited.text.replace("true", "false")


@pytest.mark.parametrize(
    "path",
    [
        ("absent", "url"),
        ("environments", "staging"),
        ("environments", "production", "trigger", "alias"),
        ("environments", "production", "review", "by"),
        ("environments", "production"),
    ],
)
def test_a_field_without_a_place_of_its_own_is_told_or_takes_an_own_line(path):
    edited = with_values(TEXT, {path: "x"}, "f.yaml")
    if path == ("environments", "staging"):
        assert parse(edited.text, "f.yaml").value(path) == "x"
    else:
        assert edited.left_out == (path,)
        assert edited.text == TEXT


def test_text_that_is_no_strict_yaml_is_refused_with_file_and_place():
    with pytest.raises(YamlError, match=r"^f\.yaml:1:"):
        with_values("a: [", {("a",): "x"}, "f.yaml")


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=30))
def test_whatever_text_is_written_is_read_back_and_the_rest_is_as_it_was(value):
    edited = with_values(TEXT, {("registry", "tracking_uri"): value}, "f.yaml")
    read, before = parse(edited.text, "f.yaml").data, parse(TEXT, "f.yaml").data
    assert read == {**before, "registry": {"tracking_uri": value}}
