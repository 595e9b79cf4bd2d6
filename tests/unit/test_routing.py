"""Who answers a request."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serving_runtime.routing import Turn, pick
from serving_runtime.user_config import Split

DRAWS = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)


def split(weight_percent: int, *, shadow: bool = False) -> Split:
    return Split(
        application="fraud--v2-aaaaaaaa",
        version=2,
        build="aaaaaaaa",
        weight_percent=weight_percent,
        shadow=shadow,
        timeout_s=1.0,
        max_ongoing=4,
    )


@given(DRAWS)
def test_without_a_challenger_stable_answers_everything(draw: float) -> None:
    assert pick(None, draw) == Turn(to_candidate=False, copy=False)


@given(DRAWS)
def test_in_shadow_stable_answers_everything_and_everything_is_copied(draw: float) -> None:
    assert pick(split(0, shadow=True), draw) == Turn(to_candidate=False, copy=True)


@given(DRAWS)
def test_at_100_percent_the_candidate_answers_everything(draw: float) -> None:
    assert pick(split(100, shadow=True), draw) == Turn(to_candidate=True, copy=False)


@given(DRAWS, st.integers(0, 100), st.integers(0, 100), st.booleans())
def test_more_weight_only_adds_requests_to_the_candidate(draw: float, a: int, b: int, shadow: bool) -> None:
    low, high = sorted((a, b))
    to_candidate = [pick(split(weight, shadow=shadow), draw).to_candidate for weight in (low, high)]
    assert to_candidate == sorted(to_candidate)


@given(DRAWS, st.integers(0, 100), st.booleans())
def test_a_request_is_never_both_sent_and_copied(draw: float, weight: int, shadow: bool) -> None:
    turn = pick(split(weight, shadow=shadow), draw)
    assert not (turn.to_candidate and turn.copy)
    assert shadow or not turn.copy


def test_the_share_is_the_weight() -> None:
    draws = random.Random(7)
    turns = Counter(pick(split(10), draws.random()).to_candidate for _ in range(100_000))
    assert 9_700 < turns[True] < 10_300  # three standard deviations are 285
