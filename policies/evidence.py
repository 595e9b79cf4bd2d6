"""Evidence: counts of good and bad events per version in bins, for one objective, with the health of their source.

Every value is immutable and holds its invariants from construction on. This module must not judge: that is `judge.py`.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from enum import StrEnum


class Sli(StrEnum):
    """What is counted."""

    ERRORS = "errors"
    LATENCY = "latency"
    AGREEMENT = "agreement"
    """In shadow: the candidate's prediction is stable's (the policy says how near)."""
    FEEDBACK = "feedback"
    """What users reported about answers, by the version that they were drawn for."""
    QUERIES = "queries"
    """Any pair of counters, in PromQL of the SLO document's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
    """The PromQL of an SLO document's own counts; exactly one of `good` and `bad`.

    `{{model}}`, `{{version}}` and `{{window}}` stand for patterns of label values and for a duration.
    """

    total: str
    good: str = ""
    bad: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """One SLO as the judge needs it: of all events, at least `target` are good.

    For `Sli.LATENCY` an event is good when it was answered within `threshold_ms`, which is a bucket edge.
    """

    name: str
    sli: Sli
    target: float
    threshold_ms: float | None = None
    queries: Queries | None = None
    """With `Sli.QUERIES`."""
    window: timedelta = timedelta(days=30)
    """The rolling window of the error budget."""

    @property
    def allowed_bad_rate(self) -> float:
        """Share of bad events the SLO allows, in (0, 1)."""
        return 1.0 - self.target

    @property
    def good_is_rare(self) -> bool:
        """Are good events the few that tell versions apart, as with purchases, of which 5 in 100 is much?"""
        return self.target < 0.5  # noqa: PLR2004 the rarer half


@dataclasses.dataclass(frozen=True)
class Counts:
    """Events of one version in one bin. `0 <= bad <= total`."""

    total: float = 0.0
    bad: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.total + other.total, self.bad + other.bad)


@dataclasses.dataclass(frozen=True)
class Discordant:
    """Requests that both versions answered (shadow), one well and the other not."""

    candidate: float = 0.0
    """Only the candidate was bad."""
    stable: float = 0.0
    """Only stable was bad."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """Counts of both versions in `[start, start + Evidence.width)`."""

    start: datetime
    candidate: Counts
    stable: Counts
    rescued: float | None = None
    """Of the candidate's bad answers those that stable, asked in its place, answered well; none where the indicator
    cannot tell."""
    pairs: Discordant | None = None
    """In shadow, where the indicator can tell: the pairs that differ."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where evidence comes from and whether it may be believed. `reason` is empty only when available."""

    available: bool
    query: str
    reason: str = ""
    age: timedelta | None = None
    """Age of the newest sample when it was read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """Counts of good and total events per version for one objective, in clock-aligned bins, oldest first."""

    objective: Objective
    width: timedelta
    bins: tuple[Bin, ...]
    source: Source

    def since(self, moment: datetime) -> Evidence:
        """The same evidence without the bins that start before `moment`."""
        return dataclasses.replace(self, bins=tuple(b for b in self.bins if b.start >= moment))

    @property
    def candidate(self) -> Counts:
        """All of the candidate's counts."""
        return sum((b.candidate for b in self.bins), Counts())

    @property
    def stable(self) -> Counts:
        """All of the stable version's counts."""
        return sum((b.stable for b in self.bins), Counts())
