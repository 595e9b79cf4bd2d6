"""What the tests find in the evidence of one objective; `judge.py` puts the findings of all together.

Rules:
- Every objective is put to every test (`standing.py`), over all bins since the candidate's first request.
- A proof is kept: it counts from the bin at which it first reached 1/beta, whatever comes after. Health is proved
  against the SLO or, where stable itself is near its SLO, against stable with the policy's margin.
- Evidence that cannot be believed is not put to any test.

This module must not decide what a verdict is.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from policies.bets import bounds
from policies.documents import RolloutPolicy
from policies.evidence import Bin, Counts, Evidence, Objective, Sli
from policies.rollout_record import TestState
from policies.stakes import FloatArray
from policies.standing import NOTHING, Harm, Setup, Standing, Test, counted_harm, counted_suspicion, in_outage
from policies.verdict import Measure
from policies.walks import Walked, walked

NEAR_SLO = 0.5
"""Stable is near its SLO where its bad rate is at least this part of what is allowed: a proof of health takes four
times the requests there and more, and a candidate that is as good as stable could hardly ever give it. Where good
events are the rare ones: where they are at most as many times what the SLO asks for."""

SUSPECTED = math.log(3.0)
"""Log e-value above which the harm of a step alone is suspected, and nothing passes; in the whole rollout 1 is enough.
One bad answer of ninety is worth more than 1 in a step: noise held up healthy versions for hours there (ADR 7)."""

_LOWEST = -1e6
"""A logarithm below which a stake is nothing; minus infinity is no number in YAML."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One objective: what was counted, and what the tests found in it. E-values as natural logarithms."""

    evidence: Evidence
    """What was judged: no bins from the future."""
    setup: Setup
    trouble: str = ""
    """Why it cannot be believed; then there is nothing else."""
    counts: Counts = dataclasses.field(default_factory=Counts)
    """The candidate's, over the rollout."""
    stable: Counts = dataclasses.field(default_factory=Counts)
    """Stable's, over the rollout."""
    harm: tuple[float, ...] = ()
    """By `Harm`."""
    counted: tuple[float, ...] = ()
    """The same, but 0 at most where the effect is below the policy's minimum: too little to call it harm."""
    proof: float = 0.0
    """The largest that the proof of health ever was."""
    equal: float = 0.0
    """The largest that the proof of being within the margin of stable ever was."""
    proved_at: datetime | None = None
    """The end of the bin with which a proof that counts first reached 1/beta."""
    by_stable: bool = False
    """Is that the proof against stable?"""
    step: Counts | None = None
    """The candidate's counts since the step's weights were live; none while they are not."""
    suspicion: tuple[float, ...] = ()
    """What speaks for harm over the rollout, by `Harm` (`counted_suspicion`)."""
    step_suspicion: tuple[float, ...] = ()
    """The same of this step alone: as if the rollout had begun with it."""
    standing: Standing = dataclasses.field(default_factory=Standing.before)
    asked: bool = True
    """False while nobody can have reported anything: in shadow no user has an answer of the candidate's. It is put to
    the tests all the same, as 0 of 0, so that the mean is over the same tests in every phase."""

    @property
    def objective(self) -> Objective:
        """What was asked."""
        return self.evidence.objective

    @property
    def worst(self) -> float:
        """What the worst harm counts for."""
        return max(self.counted, default=-math.inf)

    @property
    def suspected(self) -> bool:
        """Is there enough harm, in the rollout or in the step alone, to pass nothing?"""
        return any(h > NOTHING for h in self.suspicion) or any(h > SUSPECTED for h in self.step_suspicion)

    @property
    def measured(self) -> bool:
        """Was it measured in this step? Two predictions can only be compared where both versions predict: in shadow."""
        if self.step is None:
            return False
        return self.step.total > 0 or self.objective.sli is Sli.AGREEMENT or not self.asked

    @property
    def passes(self) -> bool:
        """Proved healthy, measured in this step, and no harm suspected."""
        return bool((self.proved_at or not self.asked) and self.measured and not self.suspected)


def find(
    evidence: Evidence,
    policy: RolloutPolicy,
    *,
    step_since: datetime | None,
    now: datetime,
    dispersion: float = 1.0,
    exposed: bool = True,
) -> Finding:
    """Put one objective to all tests. Bins that start at or after `now` are left out.

    `dispersion` is phi, measured before the rollout; `exposed`: do users get the candidate's answers now? Raises
    ValueError where an objective's target is not between 0 and 1.
    """
    bins = evidence.bins[: _first_at(evidence.bins, now)]
    judged = dataclasses.replace(evidence, bins=bins)
    setup = setup_of(evidence, policy, dispersion)
    if not evidence.source.available:
        return Finding(evidence=judged, setup=setup, trouble=evidence.source.reason or "the source gives no reason")
    walk = walked(bins, setup)
    if walk.trouble:
        return Finding(evidence=judged, setup=setup, trouble=walk.trouble)
    harm = tuple(float(h) for h in walk.end.harm)
    counted = tuple(float(h) for h in counted_harm(walk.end, setup, policy.min_effect))
    proved_at, by_stable = _proved(judged, walk, policy.beta)
    step = None if step_since is None else walked(bins[_first_at(bins, step_since) :], setup)
    of_step = step.end if step else Standing.before()
    return Finding(
        evidence=judged,
        setup=setup,
        counts=walk.candidate,
        stable=walk.stable,
        harm=harm,
        counted=counted,
        proof=float(walk.end.best[0]),
        equal=float(walk.end.best[1]),
        proved_at=proved_at,
        by_stable=by_stable,
        step=None if step is None else step.candidate,
        suspicion=_suspicion(walk.end, setup, policy),
        step_suspicion=_suspicion(of_step, setup, policy),
        standing=walk.end,
        asked=exposed or evidence.objective.sli is not Sli.FEEDBACK,
    )


def setup_of(evidence: Evidence, policy: RolloutPolicy, dispersion: float) -> Setup:
    """What the tests of one objective are told beforehand. Raises ValueError for a dispersion below 1."""
    if not dispersion >= 1:
        raise ValueError(f"{evidence.objective.name}: a dispersion is at least 1, not {dispersion}")
    return Setup(
        allowed=evidence.objective.allowed_bad_rate,
        good_is_rare=evidence.objective.good_is_rare,
        tolerance=policy.tolerance,
        margin=policy.margin,
        dispersion=dispersion,
        planned=max(1, policy.max_duration // evidence.width),
    )


def measure(finding: Finding, policy: RolloutPolicy) -> Measure:
    """The finding in figures, for the record."""
    evidence, counts = finding.evidence, finding.counts
    objective, source = evidence.objective, evidence.source
    about = Measure(
        objective=objective.name,
        sli=objective.sli,
        allowed=round(objective.allowed_bad_rate, 12),
        query=source.query,
        age_s=None if source.age is None else source.age.total_seconds(),
        dispersion=float(np.asarray(finding.setup.dispersion)),
        trouble=finding.trouble,
    )
    if finding.trouble or not evidence.bins:
        return about
    lower, upper = bounds(counts, policy.alpha, policy.beta)
    step = finding.step or Counts()
    return dataclasses.replace(
        about,
        since=evidence.bins[0].start,
        until=evidence.bins[-1].start + evidence.width,
        candidate_total=counts.total,
        candidate_bad=counts.bad,
        stable_total=finding.stable.total,
        stable_bad=finding.stable.bad,
        step_total=step.total,
        step_bad=step.bad,
        rate=_rate(counts),
        lower=lower,
        upper=upper,
        stable_rate=_rate(finding.stable),
        harm_slo=_log10(finding.harm[Harm.SLO]),
        harm_stable=_log10(finding.harm[Harm.STABLE]),
        proof=_log10(finding.proof),
        equal=_log10(finding.equal),
        proved_at=finding.proved_at,
    )


def state(finding: Finding) -> TestState | None:
    """Every test's stakes after the last bin, for the release; none without a bin that could be believed."""
    bins = finding.evidence.bins
    if finding.trouble or not bins:
        return None
    placed, unplaced = finding.standing.stakes.placed, finding.standing.stakes.unplaced
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.concatenate([placed, np.log(unplaced)[:, np.newaxis]], axis=-1), _LOWEST)
    return TestState(
        objective=finding.objective.name,
        until=bins[-1].start + finding.evidence.width,
        stakes={test.name.lower(): tuple(round(float(x), 4) for x in logs[test]) for test in Test},
    )


# --- inside -------------------------------------------------------------------------------------------------------


def _first_at(bins: Sequence[Bin], moment: datetime) -> int:
    return bisect_left(bins, moment, key=lambda b: b.start)


def _suspicion(standing: Standing, setup: Setup, policy: RolloutPolicy) -> tuple[float, ...]:
    return tuple(float(h) for h in counted_suspicion(standing, setup, policy.min_effect))


def _proved(evidence: Evidence, walk: Walked, beta: float) -> tuple[datetime | None, bool]:
    """When health was first proved, and whether against stable."""
    health, equal = (_reached_at(evidence, walk.best[:, column], beta) for column in (0, 1))
    beside = _near_its_slo(evidence, equal) if equal else None
    if beside and (health is None or beside < health):
        return beside, True
    return health, False


def _near_its_slo(evidence: Evidence, since: datetime) -> datetime | None:
    """The first moment from `since` on at which stable was near its SLO, outages left out; none where it never was."""
    objective, seen = evidence.objective, Counts()
    allowed = objective.allowed_bad_rate
    for b in evidence.bins:
        if not in_outage(np.array(b.stable.total), np.array(b.stable.bad), allowed):
            seen += b.stable
        end = b.start + evidence.width
        if objective.good_is_rare:
            near = NEAR_SLO * (seen.total - seen.bad) <= objective.target * seen.total
        else:
            near = seen.bad >= NEAR_SLO * allowed * seen.total
        if end >= since and seen.total and near:
            return end
    return None


def _reached_at(evidence: Evidence, path: FloatArray, beta: float) -> datetime | None:
    reached = path >= -math.log(beta)
    return evidence.bins[int(reached.argmax())].start + evidence.width if reached.any() else None


def _rate(counts: Counts) -> float | None:
    return counts.bad / counts.total if counts.total else None


def _log10(natural: float) -> float:
    return round(max(natural, _LOWEST) / math.log(10), 4)
