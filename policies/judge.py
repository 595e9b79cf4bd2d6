"""Says what the evidence says: counts and a policy in, a verdict with its arithmetic out.

It may be asked after every bin for as long as a rollout lasts: the chance that a healthy version gets a FAIL is at most
alpha over the whole rollout, and that a version outside an SLO is proved to be inside is at most beta, where errors are
independent given the moment's rate (`bets.py` says why).

Rules; the first that holds decides:
 1. No objective at all is INSUFFICIENT: what nobody judges is never good.
 2. FAIL: the mean of the harm e-values, over objectives and tests with weights fixed beforehand, is at least 1/alpha.
    A mean of e-values is an e-value, so alpha is not split. Where the bad rate is not `min_effect` above what it is
    compared with, E counts as 1 at most and can carry no FAIL. A source that cannot be believed counts as E = 0: it
    helps to no FAIL, and it does not hide the harm that another shows (harm seen is harm).
 3. UNAVAILABLE: a source is away or stale, or its counts are impossible. What the others say helps to no PASS.
 4. PASS: every objective was proved healthy (E >= 1/beta after some bin since the candidate's first request; a proof
    is kept for the rollout), in this step every objective has requests, and no harm is suspected (`findings.py:
    SUSPECTED`). A step that was not measured never passes; nor does one whose weights are not live yet.
 5. INSUFFICIENT otherwise, with what is lacking.

This module must not keep anything between calls, nor know phases: minimum times and requests are `rollout.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import numpy as np

from policies.documents import RolloutPolicy
from policies.evidence import Evidence
from policies.findings import Finding, find, measure, state
from policies.rollout_record import TestState
from policies.stakes import log_mean_exp
from policies.standing import Harm
from policies.verdict import Verdict, VerdictKind
from policies.verdict_words import Words

NO_DISPERSION: Mapping[str, float] = MappingProxyType({})


def judge(
    evidence: Sequence[Evidence],
    policy: RolloutPolicy,
    *,
    step_since: datetime | None,
    now: datetime,
    dispersion: Mapping[str, float] = NO_DISPERSION,
    exposed: bool = True,
) -> Verdict:
    """Judge a candidate by all that was counted since its first request. The rules are the module's.

    `evidence` has one element per objective, every one of them needed, with the bins of the whole rollout.
    `step_since` is when this step's weights were live, none while they are not. `dispersion` is phi by objective,
    measured before the rollout; one that is not named has 1. While users get none of its answers (not `exposed`) nobody
    can report about them, and no proof by feedback is asked for. Bins that start at or after `now` are left out, so
    that an older look can be judged again. Raises ValueError where an objective's target is not between 0 and 1.
    """
    if not evidence:
        return Verdict(kind=VerdictKind.INSUFFICIENT, reasons=("no objective is judged: nothing can be proved",))
    findings = _findings(evidence, policy, dispersion, step_since=step_since, now=now, exposed=exposed)
    harm = mean_harm(findings)
    kind = _kind(findings, harm, policy)
    words = Words(kind=kind, policy=policy, findings=findings, mean_harm=harm, step_since=step_since, now=now)
    return Verdict(
        kind=kind,
        reasons=words.reasons(),
        measures=tuple(measure(f, policy) for f in findings),
        mean_harm=round(harm / math.log(10), 4) if math.isfinite(harm) else None,
    )


def states(
    evidence: Sequence[Evidence],
    policy: RolloutPolicy,
    *,
    now: datetime,
    dispersion: Mapping[str, float] = NO_DISPERSION,
) -> tuple[TestState, ...]:
    """The state of all tests after the evidence before `now`: what a release keeps of a look."""
    found = (state(f) for f in _findings(evidence, policy, dispersion, step_since=None, now=now))
    return tuple(s for s in found if s is not None)


def mean_harm(findings: Sequence[Finding]) -> float:
    """Logarithm of the mean harm e-value over objectives and tests, as rule 2 counts them.

    The weights are the same whichever sources are available: a mean over those alone would let an outage choose the
    test.
    """
    counted = [h for f in findings for h in f.counted]
    unavailable = [-math.inf] * (len(findings) * len(Harm) - len(counted))
    return float(log_mean_exp(np.array(counted + unavailable)))


def _findings(
    evidence: Sequence[Evidence],
    policy: RolloutPolicy,
    dispersion: Mapping[str, float],
    *,
    step_since: datetime | None,
    now: datetime,
    exposed: bool = True,
) -> list[Finding]:
    return [
        find(
            e,
            policy,
            step_since=step_since,
            now=now,
            dispersion=dispersion.get(e.objective.name, 1.0),
            exposed=exposed,
        )
        for e in evidence
    ]


def _kind(findings: Sequence[Finding], harm: float, policy: RolloutPolicy) -> VerdictKind:
    if harm >= -math.log(policy.alpha):
        return VerdictKind.FAIL
    if any(f.trouble for f in findings):
        return VerdictKind.UNAVAILABLE
    if all(f.passes for f in findings):
        return VerdictKind.PASS
    return VerdictKind.INSUFFICIENT
