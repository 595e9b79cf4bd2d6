"""How bursty stable's bad events are: phi, by which the judge divides its evidence of harm.

Errors come in clusters: a client retries, a connection breaks, a batch fails. A test for independent errors would roll
back healthy versions (5-56 % of them with clusters of 5-20), so stable is measured before the rollout.

    phi = max(1, sum (r_{i+1} - r_i)^2 / (2 sum x_i) * k / (k - 1)),   r_i = x_i - p n_i,   p = sum x_i / sum n_i

over k blocks, one after the other, with x_i bad of n_i events: Pearson's index of dispersion (McCullagh and Nelder,
Generalized Linear Models, 1989, section 4.5) with the variance from successive differences (von Neumann 1941), so that
the waves of a day, of traffic and of the error rate, are not taken for clusters: with one rate for the whole day a wave
of +-80 % made phi 23 at 6,000 requests a minute. For independent errors it is 1, for clusters of a fixed size c it is
c, for geometric ones of mean c about 2c - 1.

Rules:
- A cluster that straddles a bin's edge, or lasts for minutes, shows in coarser blocks only: the largest phi of three
  widths counts.
- With few bad events clusters cannot be told from chance: phi is 1.
- An outage is no cluster: neighbouring 5-minute blocks far above the day's rate, with more bad events together than two
  of the largest clusters, are left out. The judge's comparison with stable takes outages out; a phi that remembered
  one would blind the judge for a day. With little traffic the two look alike, and count.
- phi is bounded, for what is left.

This module must not know what is judged with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from policies.evidence import Counts, Evidence

BLOCKS = (timedelta(), timedelta(minutes=1), timedelta(minutes=5))
"""Widths of blocks; one that is shorter than a bin is a bin. A retry storm lasts seconds to a few minutes."""
MIN_BAD = 5
"""A small cluster. The estimate from k blocks with B bad events is about sqrt(3 / k + 1 / B) uncertain for independent
errors: 46 % with 5. With 20 here, clusters of 5 at 10 requests a minute went unseen on one day in eleven."""
MIN_BLOCKS = 12
"""Fewer say little about a variance: sqrt(2 / 12) is 40 %. An hour of 5-minute blocks."""
MAX_PHI = 50.0
"""Geometric clusters of 25, as bursty as was seen of clients that retry; 50 bad answers count for one then."""
FAR_ABOVE = 5
"""Times the day's rate. A day's waves and its worst hours stay below."""
MIN_BAD_OF_AN_OUTAGE = 5
"""In a block: fewer are an accident in a block with few requests."""
WORST_LEFT_OUT = 0.1
"""Part of the blocks, the worst, without which the day's rate is taken: two hours and a half."""


def dispersions(baseline: Sequence[Evidence]) -> Mapping[str, float]:
    """Phi by objective, of what is believed and above 1; to be recorded when the rollout starts."""
    found = {e.objective.name: dispersion(e) for e in baseline if e.source.available}
    return {name: phi for name, phi in found.items() if phi > 1}


def dispersion(baseline: Evidence) -> float:
    """Phi of one objective, rounded to two digits: at least 1, and 1 where nothing can be said.

    `baseline` has stable's counts in the place of the candidate's. Where good events are the rare ones, their clusters
    count: the tests are about these.
    """
    if baseline.objective.good_is_rare:
        baseline = _with_sides_changed(baseline)
    if not _possible(baseline) or baseline.candidate.bad < MIN_BAD:
        return 1.0
    calm = _without_outages(baseline)
    widest = max(_index(list(_blocks(calm, width).values())) for width in BLOCKS)
    return round(min(max(widest, 1.0), MAX_PHI), 2)


def _with_sides_changed(baseline: Evidence) -> Evidence:
    """Good events in the place of bad ones."""
    totals = [(b, b.candidate.total) for b in baseline.bins]
    changed = (dataclasses.replace(b, candidate=Counts(total, total - b.candidate.bad)) for b, total in totals)
    return dataclasses.replace(baseline, bins=tuple(changed))


def _possible(baseline: Evidence) -> bool:
    """Counts are differences of counters that others keep; impossible ones say nothing."""
    return all(0 <= b.candidate.bad <= b.candidate.total < math.inf for b in baseline.bins)


def _without_outages(baseline: Evidence) -> Evidence:
    """The baseline without the bins of an outage."""
    blocks = _blocks(baseline, BLOCKS[-1])
    usual = FAR_ABOVE * _usual_rate(list(blocks.values()))
    high = [n for n, c in sorted(blocks.items()) if c.bad >= MIN_BAD_OF_AN_OUTAGE and c.bad > usual * c.total]
    gone = {n for run in _runs(high) if sum(blocks[n].bad for n in run) > 2 * MAX_PHI for n in run}
    return dataclasses.replace(
        baseline, bins=tuple(b for b in baseline.bins if _number(b.start, BLOCKS[-1]) not in gone)
    )


def _usual_rate(blocks: list[Counts]) -> float:
    """The day's bad rate without its worst blocks; 0 where nothing is left."""
    usual = sorted(blocks, key=lambda c: c.bad / c.total)[: math.ceil(len(blocks) * (1 - WORST_LEFT_OUT))]
    total = sum(c.total for c in usual)
    return sum(c.bad for c in usual) / total if total else 0.0


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as runs of neighbours."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return runs


def _blocks(baseline: Evidence, width: timedelta) -> dict[int, Counts]:
    """The counts in clock-aligned blocks, by number; those without events are left out: they say nothing."""
    blocks: dict[int, Counts] = {}
    for b in baseline.bins:
        if b.candidate.total:
            number = _number(b.start, max(width, baseline.width))
            blocks[number] = blocks.get(number, Counts()) + b.candidate
    return blocks


def _number(start: datetime, width: timedelta) -> int:
    return (start - _EPOCH) // width


def _index(blocks: Sequence[Counts]) -> float:
    """The module's formula; 1 where there are too few blocks or no bad events."""
    total, bad = sum(b.total for b in blocks), sum(b.bad for b in blocks)
    k = len(blocks)
    if k < MIN_BLOCKS or not bad:
        return 1.0
    rate = bad / total
    left = [b.bad - rate * b.total for b in blocks]
    return sum((after - before) ** 2 for before, after in pairwise(left)) / (2 * bad) * k / (k - 1)


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
