"""Who answers a request."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_runtime.routing import Turn, draw_of, pick
from serving_runtime.user_config import Split

DRAWN = 0.7472803510204744

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


# --- sticky -----------------------------------------------------------------------------------------------------------

KEYS = st.text(max_size=40)
FIRST, SECOND = "fraud--v2-aaaaaaaa", "fraud--v3-aaaaaaaa"


@given(KEYS, st.lists(st.integers(0, 100), min_size=2, max_size=8))
def test_while_the_weight_grows_a_key_goes_to_the_candidate_once_and_stays(key: str, weights: list[int]) -> None:
    steps = [pick(split(weight), draw_of(key, FIRST)).to_candidate for weight in sorted(weights)]
    assert all(after or not before for before, after in pairwise(steps))


@given(KEYS | st.just("\ud800"), st.text(max_size=40))
def test_the_draw_of_a_key_is_a_draw_and_always_the_same(key: str, application: str) -> None:
    assert 0.0 <= draw_of(key, application) < 1.0
    assert draw_of(key, application) == draw_of(key, application)


def test_the_draw_of_a_key_is_the_same_in_every_process_and_release() -> None:
    assert draw_of("u7", FIRST) == pytest.approx(DRAWN)


def test_of_many_keys_the_share_is_the_weight() -> None:
    for weight in (1, 10, 50, 90):
        to_candidate = sum(pick(split(weight), draw_of(f"user-{n}", FIRST)).to_candidate for n in range(20_000))
        assert abs(to_candidate - 200 * weight) < 4 * math.sqrt(200 * weight * (1 - weight / 100))


def test_the_keys_of_one_candidate_say_nothing_about_the_keys_of_another() -> None:
    ours, theirs = ([draw_of(f"user-{n}", name) < 0.1 for n in range(50_000)] for name in (FIRST, SECOND))
    both = sum(a and b for a, b in zip(ours, theirs, strict=True))
    assert abs(both - 500) < 4 * math.sqrt(500)  # a tenth of a tenth; with one draw for all it would be 5,000
