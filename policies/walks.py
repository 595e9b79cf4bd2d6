"""Walking through bins, and going on from where the last look stood.

A judge is asked after every bin, and all bins but the newest are those of the look before. What became of them is
remembered, so that a look costs the same in the eighth hour as in the first (23 ms a thousand bins otherwise), and a
replay of a rollout grows with its length and not with its square.

Rules:
- It is a memory and no state: bins that are not those that were walked are walked from their start, and the answer is
  the same.
- Evidence that holds an impossible count is walked no further: it cannot be believed.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from policies.evidence import Bin, Counts
from policies.stakes import FloatArray
from policies.standing import Counted, Setup, Standing
from policies.stored_values import MAX_COUNT

REMEMBERED = 512
"""Walks: each rollout has two per objective, of the rollout and of its step; one of a day at 15 s takes 100 kB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walked:
    """Some bins, and how the tests stand after them."""

    bins: tuple[Bin, ...]
    candidate: Counts
    stable: Counts
    end: Standing
    best: FloatArray
    """Largest log E of PROOF and EQUAL up to each bin, shape (bins, 2)."""
    trouble: str = ""
    """What in the bins cannot be; then the rest says nothing."""


_memory: OrderedDict[tuple[Setup, Bin], Walked] = OrderedDict()


def walked(bins: tuple[Bin, ...], setup: Setup) -> Walked:
    """How the tests stand after these bins, from nothing on; `setup` has a single dispersion."""
    if not bins:
        return _start()
    key = (setup, bins[0])
    before = _memory.get(key)
    if before is None or before.bins != bins[: len(before.bins)]:
        before = _start()
    walk = _further(before, bins[len(before.bins) :], setup)
    _memory[key] = walk
    _memory.move_to_end(key)
    if len(_memory) > REMEMBERED:
        _memory.popitem(last=False)
    return walk


def _start() -> Walked:
    return Walked(bins=(), candidate=Counts(), stable=Counts(), end=Standing.before(), best=np.zeros((0, 2)))


def _further(before: Walked, bins: tuple[Bin, ...], setup: Setup) -> Walked:
    if before.trouble or not bins:
        return dataclasses.replace(before, bins=before.bins + bins)
    if trouble := _impossible(bins):
        return dataclasses.replace(before, bins=before.bins + bins, trouble=trouble)
    walk = before.end.through(_counted(bins), setup)
    return Walked(
        bins=before.bins + bins,
        candidate=sum((b.candidate for b in bins), before.candidate),
        stable=sum((b.stable for b in bins), before.stable),
        end=walk.end,
        best=np.concatenate([before.best, walk.best]),
    )


def _counted(bins: Sequence[Bin]) -> Counted:
    def each(value: Callable[[Bin], float]) -> FloatArray:
        return np.fromiter((value(b) for b in bins), np.float64, len(bins))

    return Counted(
        total=each(lambda b: b.candidate.total),
        bad=each(lambda b: b.candidate.bad),
        stable_total=each(lambda b: b.stable.total),
        stable_bad=each(lambda b: b.stable.bad),
        rescued=each(lambda b: b.rescued or 0.0),
        told=np.fromiter((b.rescued is not None for b in bins), np.bool_, len(bins)),
        only_candidate=each(lambda b: b.pairs.candidate if b.pairs else 0.0),
        only_stable=each(lambda b: b.pairs.stable if b.pairs else 0.0),
        paired=np.fromiter((b.pairs is not None for b in bins), np.bool_, len(bins)),
    )


def _impossible(bins: Sequence[Bin]) -> str:
    """The first count that cannot be, in words, or nothing."""
    for b in bins:
        for who, counts in (("", b.candidate), (" of stable's", b.stable)):
            if not 0 <= counts.bad <= counts.total <= MAX_COUNT:
                return f"impossible counts at {b.start:%H:%M:%S} UTC: {counts.bad:g} bad of {counts.total:g}{who}"
        if b.rescued is not None and not 0 <= b.rescued <= b.candidate.bad:
            return f"impossible counts at {b.start:%H:%M:%S} UTC: {b.rescued:g} rescued of {b.candidate.bad:g} bad"
        if b.pairs is not None and not (0 <= b.pairs.candidate <= MAX_COUNT and 0 <= b.pairs.stable <= MAX_COUNT):
            return f"impossible counts of pairs at {b.start:%H:%M:%S} UTC: {b.pairs.candidate:g} and {b.pairs.stable:g}"
    return ""
