"""How all tests stand on one objective after some bins: what they bet on, and what their stakes have become.

| test | hypothesis that is bet against | bins that count |
|---|---|---|
| SLO | the candidate's bad rate is within the SLO | all while stable has traffic too |
| SHARED | it is at most stable's in the same bin | those in which both have requests |
| ALONE | it is within the SLO, by bad answers that stable answered well | while stable has no traffic of its own |
| OUTAGE | stable itself answers a fifth of these badly at least | those of ALONE with a bad answer |
| STABLE | it is at most `tolerance` times stable's in the same bin | those in which both have requests |
| PROOF | it is outside the SLO | all |
| EQUAL | it is `margin` times stable's at least | the same, without those that look like an outage of stable's |

Rules:
- Bets may start at any bin (`stakes.py`), but OUTAGE and EQUAL, which begin with their first: a bet against an outage
  that began after it would be no answer to it. Of the last two, which prove, the most that they ever were counts.
- Harm against the SLO is min(E_SLO, c E_SHARED) min(E_ALONE, E_OUTAGE): a shared outage blames nobody. It is at most
  any product of one of each, whose factors never move in the same bin, and so at most an e-process (ADR 7).
- Log likelihood ratios are divided by phi, the dispersion of bad events per bin: bad events that come in clusters are
  fewer than they look (quasi-likelihood, Wedderburn 1974). phi is at least 1, so it only ever makes a bet smaller.
- Where good events are the rare ones (an objective below one half, such as purchases), the tests count these: harm is
  that stable has `tolerance` times the candidate's good rate, and so on. The table reads the same.
- Arrays of any leading shape, as in `stakes.py`: the live judge has one rollout, a benchmark thousands.

This module must not know time, sources or verdicts.
"""

from __future__ import annotations

import dataclasses
import math
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.bets import (
    GRID_SIZE,
    drop_grid,
    equal_grid,
    harm_grid,
    health_grid,
    near_grid,
    rate_log_ratio,
    share_grid,
    share_log_ratio,
)
from policies.stakes import FloatArray, Schedule, Stakes

BoolArray = npt.NDArray[np.bool_]

AWAY_BINS = 4
"""Bins without a request of stable's after which it counts as without traffic; fewer happen by chance."""

FORGIVING = math.log(10.0)
"""c, as a logarithm: how much less it takes to show that an outage is not shared than that the SLO is missed. At 1, a
bad answer is worth a factor of two at most, and a candidate at 5 % takes a quarter longer; at 10, a shared outage
rolled back 0.02 % of healthy versions (ADR 7)."""

OUTAGE_RATE = 0.2
"""Stable's bad rate on what the candidate failed from which that counts as a shared outage. Stable is asked for nothing
else at 100 %, so a smaller one could not be told from none within minutes."""

NOTHING = 1e-9
"""A log e-value up to this is 0: a double's rounding."""

OUTAGE_TIMES = 5.0
"""How many times what the SLO allows is an outage: both failed half of everything for five minutes, and a candidate at
5 % was proved to be as good as stable by that."""

LEAST_PART = 0.1
"""Of what the SLO allows, or of what it asks for where that is less: a smaller difference would not be worth a person's
look, however certain it is."""

_PRIOR = np.full(GRID_SIZE, 1.0 / GRID_SIZE)


class Test(IntEnum):
    """The tests, in the order of the arrays."""

    __test__ = False
    """It is no test of pytest's."""

    SLO = 0
    SHARED = 1
    ALONE = 2
    OUTAGE = 3
    STABLE = 4
    PROOF = 5
    EQUAL = 6


class Harm(IntEnum):
    """Ways to look for harm, in the order of the arrays. All weigh the same in every verdict."""

    SLO = 0
    STABLE = 1


@dataclasses.dataclass(frozen=True)
class Counted:
    """One bin of one objective: events as arrays of one shape (...)."""

    total: FloatArray
    bad: FloatArray
    stable_total: FloatArray
    stable_bad: FloatArray
    rescued: FloatArray
    """Bad answers that stable, asked in the candidate's place, answered well."""
    told: BoolArray
    """Does the indicator tell which were rescued?"""
    only_candidate: FloatArray
    """Pairs in which only the candidate was bad."""
    only_stable: FloatArray
    paired: BoolArray
    """Are the pairs known in this bin?"""

    @property
    def fields(self) -> tuple[npt.NDArray[Any], ...]:
        """All arrays in their order."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What the tests are told beforehand."""

    allowed: float
    """Share of bad events that the SLO allows."""
    tolerance: float
    margin: float
    dispersion: float | FloatArray
    """phi, at least 1; one for all or of shape (...)."""
    good_is_rare: bool = False
    """Do the good events tell versions apart? Then they are what the tests count."""
    planned: int
    """Bins of a rollout that has all its time."""

    @property
    def schedule(self) -> Schedule:
        """When each test's stakes are placed, shape (tests,)."""
        searching, steadfast = Schedule.searching(self.planned), Schedule.steadfast()
        each = [steadfast if test in (Test.OUTAGE, Test.EQUAL) else searching for test in Test]
        first, later, tail = (np.array([getattr(s, name) for s in each]) for name in ("first", "later", "tail"))
        return Schedule(first, later, searching.bins, tail)


@dataclasses.dataclass(frozen=True)
class Standing:
    """The tests after some bins."""

    stakes: Stakes
    """Shape (..., tests)."""
    best: FloatArray
    """Largest log E so far of PROOF and EQUAL, shape (..., 2)."""
    rising: FloatArray
    """Events since each harm was last no more than nothing (E <= 1): total, bad, stable's total, stable's bad; shape
    (..., harms, 4). What a harm that is seen now is a rate over."""
    quiet: FloatArray
    """Bins since stable had a request, shape (...); infinity where it never had."""

    @classmethod
    def before(cls, shape: tuple[int, ...] = ()) -> Standing:
        """Before the first bin."""
        return cls(
            Stakes.none_placed((*shape, len(Test)), GRID_SIZE),
            np.zeros((*shape, 2)),
            np.zeros((*shape, len(Harm), 4)),
            np.full(shape, np.inf),
        )

    def after(self, counted: Counted, setup: Setup) -> Standing:
        """One bin later; `counted` has arrays of shape (...)."""
        return self.through(Counted(*(np.asarray(a)[np.newaxis] for a in counted.fields)), setup).end

    def through(self, counted: Counted, setup: Setup) -> Walk:
        """Some bins later; `counted` has arrays of shape (bins, ...), oldest first."""
        bins = len(counted.total)
        quiet = _quiet(counted.stable_total > 0, self.quiet)
        told = counted.told & np.isfinite(quiet)  # by a stable version that there was
        moves = _moves(counted, quiet > AWAY_BINS, told, setup.allowed)
        ratios = np.where(moves[..., np.newaxis], _log_ratios(counted, setup, told), 0.0)
        placed, unplaced = np.empty_like(ratios), np.empty(moves.shape)
        stakes, schedule = self.stakes, setup.schedule
        for i in range(bins):
            stakes = stakes.moved(ratios[i], moves[i], schedule, _PRIOR)
            placed[i], unplaced[i] = stakes.placed, stakes.unplaced
        after = Stakes(placed, unplaced, self.stakes.bins + moves.cumsum(axis=0))
        log_e = after.log_e
        best = np.maximum.accumulate(log_e[..., [Test.PROOF, Test.EQUAL]], axis=0)
        harm = _harm(after)
        end = Standing(
            stakes,
            np.maximum(self.best, best[-1]) if bins else self.best,
            self._rising(counted, harm),
            quiet[-1] if bins else self.quiet,
        )
        return Walk(end, harm, np.maximum(self.best, best))

    def _rising(self, counted: Counted, harm: FloatArray) -> FloatArray:
        """`rising` after the bins in which `harm`, shape (bins, ..., harms), was found."""
        fields = (counted.total, counted.bad, counted.stable_total, counted.stable_bad)
        counts = np.stack(np.broadcast_arrays(*fields), axis=-1)[..., np.newaxis, :]
        # True from the bin on after which the harm never was nothing again.
        still = np.flip(np.logical_and.accumulate(np.flip(harm > NOTHING, axis=0), axis=0), axis=0)[..., np.newaxis]
        before = np.where(still.all(axis=0), self.rising, 0.0)
        return np.asarray(before + np.where(still, counts, 0.0).sum(axis=0))

    @property
    def harm(self) -> FloatArray:
        """Log e-values of harm, shape (..., harms)."""
        return _harm(self.stakes)

    def effect(self, allowed: float) -> FloatArray:
        """How far the candidate's bad rate is above what each harm compares it with, since that harm has been rising.

        Shape (..., harms); 0 for a harm that is not rising.
        """
        total, bad, stable_total, stable_bad = np.moveaxis(self.rising, -1, 0)
        rate = bad / np.maximum(total, 1)
        stable_rate = stable_bad / np.maximum(stable_total, 1)
        compared = np.stack([np.full(rate.shape[:-1], allowed), stable_rate[..., Harm.STABLE]], axis=-1)
        return np.where(total > 0, rate - compared, 0.0)


@dataclasses.dataclass(frozen=True)
class Walk:
    """A standing, and the way to it bin by bin."""

    end: Standing
    harm: FloatArray
    """Log e-values of harm after each bin, shape (bins, ..., harms)."""
    best: FloatArray
    """Largest log E of PROOF and EQUAL up to each bin, shape (bins, ..., 2)."""


def _harm(stakes: Stakes, forgiving: float = FORGIVING) -> FloatArray:
    """Of all tests (..., tests), the harms (..., harms)."""
    log_e = stakes.log_e
    beside = np.minimum(log_e[..., Test.SLO], forgiving + log_e[..., Test.SHARED])
    # Where nobody tells what was rescued, nothing takes an outage out.
    told = stakes.bins[..., Test.OUTAGE] > 0
    alone = np.where(told, np.minimum(log_e[..., Test.ALONE], log_e[..., Test.OUTAGE]), log_e[..., Test.ALONE])
    return np.stack([beside + alone, log_e[..., Test.STABLE]], axis=-1)


def _quiet(seen: BoolArray, before: FloatArray) -> FloatArray:
    """Bins since stable had a request after each bin, shape (bins, ...)."""
    number = np.arange(len(seen)).reshape(-1, *(1,) * (seen.ndim - 1))
    if not len(seen):
        return np.empty(seen.shape)
    last = np.maximum.accumulate(np.where(seen, number, -1), axis=0)
    return np.where(last >= 0, number - last, before + number + 1.0)


def counted_harm(standing: Standing, setup: Setup, min_effect: float) -> FloatArray:
    """Log e-values of harm as a verdict counts them: 0 at most where the effect is below the least that matters.

    That is `min_effect`, and LEAST_PART of what the SLO allows: a latency SLO that allows 5 % does not mind 0.2 %.
    Capping makes an e-value smaller only, so what was promised of it still holds.
    """
    return _capped(standing.harm, standing, setup, min_effect)


def counted_suspicion(standing: Standing, setup: Setup, min_effect: float) -> FloatArray:
    """The same with c = 1: above 0, something speaks for harm that matters. Shape (..., harms)."""
    return _capped(_harm(standing.stakes, forgiving=0.0), standing, setup, min_effect)


def _capped(harm: FloatArray, standing: Standing, setup: Setup, min_effect: float) -> FloatArray:
    matters = standing.effect(setup.allowed) >= least_effect(setup.allowed, min_effect)
    return np.where(matters, harm, np.minimum(harm, 0.0))


def least_effect(allowed: float, min_effect: float) -> float:
    """The smallest difference of bad rates that is called harm."""
    return max(min_effect, LEAST_PART * min(allowed, 1.0 - allowed))


def in_outage(stable_total: FloatArray, stable_bad: FloatArray, allowed: float) -> BoolArray:
    """Does stable miss its SLO so widely in these bins that being as bad as stable proves nothing?

    A bet on EQUAL wins by stable's bad events only, and the more of them the more: to leave these bins out makes it
    lose at least as much in the mean (the ratio grows with what it is left out by).
    """
    return stable_bad > OUTAGE_TIMES * allowed * stable_total


def _moves(counted: Counted, away: BoolArray, told: BoolArray, allowed: float) -> BoolArray:
    """Which tests take part in this bin, shape (..., tests). But for EQUAL, requests alone decide it."""
    any_, both = counted.total > 0, (counted.total > 0) & (counted.stable_total > 0)
    columns = {
        Test.SLO: any_ & ~away,
        Test.SHARED: both,
        Test.ALONE: any_ & away,
        Test.OUTAGE: any_ & away & told,
        Test.STABLE: both,
        Test.PROOF: any_,
        Test.EQUAL: both & ~in_outage(counted.stable_total, counted.stable_bad, allowed),
    }
    return np.stack(np.broadcast_arrays(*(columns[test] for test in Test)), axis=-1)


def _log_ratios(counted: Counted, setup: Setup, told: BoolArray) -> FloatArray:
    """The bin's log likelihood ratios over phi, shape (..., tests, alternatives)."""
    columns = _of_good(counted, setup) if setup.good_is_rare else _of_bad(counted, setup, told)
    ratios = np.stack(np.broadcast_arrays(*(columns[test] for test in Test)), axis=-2)
    return np.asarray(ratios / np.asarray(setup.dispersion)[..., np.newaxis, np.newaxis])


def _of_bad(counted: Counted, setup: Setup, told: BoolArray) -> dict[Test, FloatArray]:
    c, allowed = counted, setup.allowed
    paired = c.paired & (c.stable_total > 0)
    half = np.where(paired, 1.0, c.total), np.where(paired, 1.0, c.stable_total)
    alone = rate_log_ratio(np.where(told, c.rescued, c.bad), c.total, harm_grid(allowed), allowed)
    outage = rate_log_ratio(c.bad - c.rescued, c.bad, health_grid(OUTAGE_RATE), OUTAGE_RATE)
    shared = share_grid(1.0)
    return {
        Test.SLO: rate_log_ratio(c.bad, c.total, harm_grid(allowed), allowed),
        # Each pair that differs is the candidate's with chance 1/2 at most where its rate is at most stable's.
        Test.SHARED: share_log_ratio(
            np.where(paired, c.only_candidate, c.bad), np.where(paired, c.only_stable, c.stable_bad), *half, shared, 1.0
        ),
        Test.ALONE: alone,
        Test.OUTAGE: outage,
        Test.STABLE: _share(c, share_grid(setup.tolerance), setup.tolerance),
        Test.PROOF: rate_log_ratio(c.bad, c.total, health_grid(allowed), allowed),
        Test.EQUAL: _share(c, equal_grid(setup.margin), setup.margin),
    }


def _of_good(counted: Counted, setup: Setup) -> dict[Test, FloatArray]:
    """The same tests on good events, where these are the rare ones: harm is fewer of them, so sides change places.

    Of the good events of a bin stable's part is the larger the worse the candidate is: the same test of two shares.
    """
    target = 1.0 - setup.allowed
    good, stable_good = counted.total - counted.bad, counted.stable_total - counted.stable_bad
    fewer = rate_log_ratio(good, counted.total, health_grid(target), target)

    def of_stable(risks: FloatArray, limit: float) -> FloatArray:
        return share_log_ratio(stable_good, good, counted.stable_total, counted.total, risks, limit)

    return {
        Test.SLO: fewer,
        Test.SHARED: of_stable(drop_grid(1.0), 1.0),
        Test.ALONE: fewer,
        Test.OUTAGE: np.zeros_like(fewer),  # nobody tells what was rescued
        Test.STABLE: of_stable(drop_grid(setup.tolerance), setup.tolerance),
        Test.PROOF: rate_log_ratio(good, counted.total, harm_grid(target), target),
        Test.EQUAL: of_stable(near_grid(setup.margin), setup.margin),
    }


def _share(c: Counted, risks: FloatArray, limit: float) -> FloatArray:
    return share_log_ratio(c.bad, c.stable_bad, c.total, c.stable_total, risks, limit)
