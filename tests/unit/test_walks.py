"""Going on from the last look gives what walking from the start gives."""

from __future__ import annotations

import math
import random
from datetime import timedelta

import numpy as np
import pytest

from policies import walks
from policies.evidence import Bin, Counts, Evidence, Source
from policies.findings import setup_of
from policies.standing import Setup
from policies.walks import REMEMBERED, Walked, walked
from tests.unit.releases import ERRORS, NOW, POLICY

WIDTH = timedelta(seconds=15)


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    walks._memory.clear()


def some_bins(seed: int, n: int = 60) -> tuple[Bin, ...]:
    rng = random.Random(seed)

    def counts() -> Counts:
        total = rng.choice([0, 3, 40])
        return Counts(total, sum(rng.random() < 0.03 for _ in range(total)))

    return tuple(Bin(NOW + i * WIDTH, counts(), counts()) for i in range(n))


def setup() -> Setup:
    source = Source(available=True, query="q")
    return setup_of(Evidence(objective=ERRORS, width=WIDTH, bins=(), source=source), POLICY, 1.5)


def fresh(bins: tuple[Bin, ...]) -> Walked:
    walks._memory.clear()
    return walked(bins, setup())


def assert_same(one: Walked, two: Walked) -> None:
    assert (one.candidate, one.stable, one.trouble) == (two.candidate, two.stable, two.trouble)
    np.testing.assert_allclose(one.best, two.best, rtol=1e-12)
    np.testing.assert_allclose(one.end.harm, two.end.harm, rtol=1e-12)
    np.testing.assert_allclose(one.end.harm, two.end.harm, rtol=1e-12)
    np.testing.assert_array_equal(one.end.rising, two.end.rising)


@pytest.mark.parametrize("seed", range(5))
def test_bin_by_bin_is_the_same_as_all_at_once(seed: int) -> None:
    bins = some_bins(seed)
    for n in range(1, len(bins) + 1):
        step = walked(bins[:n], setup())
    assert_same(step, fresh(bins))


def test_bins_that_changed_are_walked_from_their_start() -> None:
    bins, others = some_bins(1), some_bins(2)
    mixed = (*bins[:20], *others[20:])
    walked(bins, setup())
    assert_same(walked(mixed, setup()), fresh(mixed))


def test_an_older_look_can_be_judged_again() -> None:
    bins = some_bins(3)
    walked(bins, setup())
    assert_same(walked(bins[:30], setup()), fresh(bins[:30]))


def test_an_impossible_count_is_trouble_from_then_on() -> None:
    bins = some_bins(4)
    impossible = Bin(NOW + 60 * WIDTH, Counts(3, math.nan), Counts())
    assert walked(bins, setup()).trouble == ""
    assert "impossible counts" in walked((*bins, impossible), setup()).trouble
    later = Bin(NOW + 61 * WIDTH, Counts(3, 0), Counts())
    assert "impossible counts" in walked((*bins, impossible, later), setup()).trouble


def test_no_bins_are_no_walk() -> None:
    assert walked((), setup()).best.shape == (0, 2)


def test_only_so_many_walks_are_remembered() -> None:
    for i in range(REMEMBERED + 5):
        walked((Bin(NOW + i * WIDTH, Counts(1, 0), Counts()),), setup())
    assert len(walks._memory) == REMEMBERED
