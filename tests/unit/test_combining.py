"""What several members predict as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from policies.errors import BadInput
from serving_runtime.combining import Incombinable, combining


def combined(name: str, predictions: Mapping[str, Any], **options: Any) -> Any:
    return combining(name)(predictions, options)


@pytest.mark.parametrize(
    ("function", "one", "other", "together"),
    [
        ("mean", [1.0, 2.0], [3, 4], [2.0, 3.0]),
        ("mean", [[0.5, 1.0]], [[0.0, 3.0]], [[0.25, 2.0]]),
        ("mean", [{"score": 1}, {"score": 0}], [{"score": 0}, {"score": 0}], [{"score": 0.5}, {"score": 0.0}]),
        ("mean", [1.0, None], [2.0, 2.0], [1.5, None]),
        ("mean", 1, 2, 1.5),
        ("mean", [], [], []),
        ("median", [1.0, 5.0], [3.0, 5.0], [2.0, 5.0]),
        ("first", ["a"], ["b"], ["a"]),
        ("vote", ["cat", "dog"], ["cat", "cat"], ["cat", "dog"]),
        ("vote", [[1, 2]], [[2, 1]], [[1, 2]]),
        ("vote", "cat", "dog", "cat"),
    ],
)
def test_two_members(function: str, one: Any, other: Any, together: Any) -> None:
    assert combined(function, {"one": one, "other": other}) == together


def test_a_vote_goes_to_the_most_row_by_row_and_a_tie_to_the_first() -> None:
    said = {"a": ["x", "p"], "b": ["y", "q"], "c": ["y", "r"]}
    assert combined("vote", said) == ["y", "p"]
    assert combined("vote", said, a=3) == ["x", "p"]


def test_weights_count_members_as_often() -> None:
    assert combined("mean", {"one": [0.0], "other": [4.0]}, other=3) == [3.0]


def test_a_member_that_was_left_out_has_no_weight() -> None:
    assert combined("mean", {"one": [2.0]}, other=100) == [2.0]


@pytest.mark.parametrize(
    ("function", "one", "other"),
    [
        ("mean", [1.0], [1.0, 2.0]),
        ("mean", ["secret"], [1.0]),
        ("mean", [{"a": 1}], [{"b": 1}]),
        ("median", [1.0], 1.0),
        ("vote", ["a"], ["a", "b"]),
    ],
)
def test_what_does_not_go_together_is_said_without_what_was_predicted(function: str, one: Any, other: Any) -> None:
    with pytest.raises(Incombinable, match="one") as refused:
        combined(function, {"one": one, "other": other})
    assert "secret" not in str(refused.value)


def test_a_function_of_yours_is_imported_by_its_name() -> None:
    assert combined("tests.unit.test_combining:best", {"one": 1, "other": 3}, least=2) == 3


@pytest.mark.parametrize("name", ["no_such_module:f", "json:no_such", "json:decoder"])
def test_one_that_is_not_there_is_said_before_anything_is_served(name: str) -> None:
    with pytest.raises(BadInput, match=name):
        combining(name)


def best(predictions: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """A function as a user writes one."""
    return max(each for each in predictions.values() if each >= options["least"])
