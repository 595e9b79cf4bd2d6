"""What is stored of a rollout: its looks, the bins they judged, and how it ended.

It can be explained and judged again from this alone. What goes in and stays small is `record.py`; this module must not
do I/O or read a clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, Field
from pydantic.dataclasses import dataclass as document

from policies.evidence import Sli
from policies.release import Ask, Cause, Outcome, Phase, PhaseRecord, Purpose
from policies.stored_values import MAX_COUNT, STRICT, YEARS, Digest, Percent, Words
from policies.verdict import Measure, VerdictKind


@document(frozen=True, kw_only=True, config=STRICT)
class TestState:
    """Every test's stakes on one objective: the state from which the judge could go on without older bins."""

    __test__ = False
    """It is no test of pytest's."""

    objective: str
    until: AwareDatetime
    """The end of the last bin that is in it."""
    stakes: Mapping[str, tuple[float, ...]]
    """By test: natural logarithms, one for each alternative, the unplaced stake last."""


@document(frozen=True, kw_only=True, config=STRICT)
class LookRecord:
    """One look that changed something about a rollout, or was asked for."""

    at: AwareDatetime
    signal: str
    """What was noticed, by the signal's name in the table (PASSED, STOPPED, ...)."""
    phase: Phase
    """The phase that was looked at."""
    following: Phase
    """The phase after it."""
    weight_percent: Percent
    """The candidate's share after it."""
    actor: Words
    """Who moved it: `sluicegate`, or the person whose wish or commit it was."""
    tip: str
    """The commit that was looked at; the decision is the next commit of this release on the branch."""
    reasons: tuple[Words, ...] = ()
    verdict: VerdictKind | None = None
    mean_harm: float | None = None
    """The mean e-value of harm, log10."""
    measures: tuple[Measure, ...] = ()
    ask: Ask | None = None
    """The person's wish that it carried out."""
    new_policy: bool = False
    """The policy is another one than at the look before."""


_DAY_S = 86_400.0


@document(frozen=True, kw_only=True, config=STRICT)
class RecordedEvidence:
    """The bins of one objective as they were judged; what is needed to judge them again.

    One that became too long for a file has its oldest bins in an element of its own before it, several to a bin.
    """

    objective: str
    sli: Sli
    target: float
    threshold_ms: float | None = None
    window_s: Annotated[float, Field(gt=0)] = 30 * 86_400.0
    """The rolling window of the error budget, seconds."""
    query: str
    width_s: Annotated[float, Field(gt=0)]
    """Width of a bin, seconds."""
    since: AwareDatetime
    """Start of the first bin; the others follow without a gap."""
    candidate: tuple[tuple[float, float], ...]
    """(total, bad) of each bin."""
    stable: tuple[tuple[float, float], ...]
    rescued: tuple[float | None, ...] | None = None
    """Of the candidate's bad answers in each bin those that stable, asked in its place, answered well."""
    pairs: tuple[tuple[float, ...], ...] | None = None
    """(only the candidate bad, only stable bad) of each bin; empty where nothing is known of pairs."""

    def __post_init__(self) -> None:
        """Every list has an element for each bin, and what cannot be is refused. Raises ValueError.

        A person can write anything into a record, and a look must be able to count with it.
        """
        if not (self.since.year in YEARS and self.width_s <= _DAY_S and self.window_s <= 3660 * _DAY_S):
            raise ValueError(f"the bins of {self.objective} lie outside of what can be counted")
        pairs = (*self.candidate, *self.stable, *(self.pairs or ()))
        figures = (*(figure for pair in pairs for figure in pair), *(r or 0.0 for r in self.rescued or ()))
        if not all(0 <= figure <= MAX_COUNT for figure in figures):
            raise ValueError(f"a bin of {self.objective} holds what is no count")
        others = (self.stable, self.rescued, self.pairs)
        if any(other is not None and len(other) != len(self.candidate) for other in others):
            raise ValueError(f"the lists of {self.objective} differ in length: each has an element for each bin")
        if any(len(pair) not in (0, 2) for pair in self.pairs or ()):
            raise ValueError(f"a pair of {self.objective} is two counts, or empty")

    @property
    def until(self) -> datetime:
        """The end of the last bin."""
        return self.since + len(self.candidate) * timedelta(seconds=self.width_s)


@document(frozen=True, kw_only=True, config=STRICT)
class Record:
    """What a rollout can be explained and judged again from; while it is under way it lies beside its release."""

    rollout: str
    policy: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The RolloutPolicy that was in force at the last look, as its document says it."""
    looks: tuple[LookRecord, ...] = ()
    state: tuple[TestState, ...] = ()
    """Where the tests stood at the last look that moved the release, by objective: recomputable from the bins."""
    evidence: tuple[RecordedEvidence, ...] = ()

    @property
    def contradiction(self) -> str:
        """What no look could have recorded; empty for nothing. A person can commit anything."""
        moments = (*(look.at for look in self.looks), *(state.until for state in self.state))
        wrong = next((m for m in moments if m.year not in YEARS), None)
        return f"{wrong.isoformat()} is no moment of a look" if wrong else ""


@document(frozen=True, kw_only=True, config=STRICT)
class HistoryRecord:
    """A finished rollout: `history/<env>/<model>/<rollout>.json`."""

    model: str
    environment: str
    rollout: str
    version: int
    digest: Digest
    stable_version: int | None
    outcome: Outcome
    started_at: AwareDatetime
    ended_at: AwareDatetime
    cause: Cause | None
    phases: tuple[PhaseRecord, ...]
    purpose: Purpose | None = None
    """None: an ordinary rollout, with every step of the policy."""
    dispersion: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """phi by objective, as it was measured before the rollout."""
    budget: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Bad events in excess that it might cause, by objective."""
    record: Record | None = None
    """None in those of older Sluicegates."""
