"""A verdict: what the evidence says, with its arithmetic in words and figures.

This module must not find it: that is `judge.py`.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime
from pydantic.dataclasses import dataclass as document

from policies.evidence import Sli
from policies.stored_values import STRICT


class VerdictKind(StrEnum):
    """What the evidence says."""

    PASS = "PASS"
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"
    UNAVAILABLE = "UNAVAILABLE"


@document(frozen=True, kw_only=True, config=STRICT)
class Measure:
    """What one look found for one objective, in figures: a verdict can be recomputed from them and the record's bins.

    Rates are shares in [0, 1]; e-values are decimal logarithms (2 is an e-value of 100).
    """

    objective: str
    sli: Sli
    allowed: float
    """Share of bad events that the SLO allows."""
    query: str
    since: AwareDatetime | None = None
    """Start of the first bin that was judged."""
    until: AwareDatetime | None = None
    """End of the last."""
    age_s: float | None = None
    """Age of the newest sample, seconds."""
    trouble: str = ""
    """Why the evidence cannot be believed; then there are no figures."""
    candidate_total: float = 0.0
    candidate_bad: float = 0.0
    stable_total: float = 0.0
    stable_bad: float = 0.0
    step_total: float = 0.0
    """The candidate's events in this step."""
    step_bad: float = 0.0
    rate: float | None = None
    """The candidate's bad rate."""
    lower: float | None = None
    """Its bound from below, valid at any time with confidence 1 - alpha."""
    upper: float | None = None
    """Its bound from above, valid at any time with confidence 1 - beta."""
    stable_rate: float | None = None
    dispersion: float = 1.0
    """phi: variance over mean of stable's bad events per bin before the rollout, at least 1."""
    harm_slo: float | None = None
    """E-value of harm against the SLO (shared outages taken out), log10."""
    harm_stable: float | None = None
    """E-value of harm against stable, log10."""
    proof: float | None = None
    """Largest e-value of the proof of health so far, log10."""
    equal: float | None = None
    """Largest e-value so far that the candidate is within the margin of stable, log10."""
    proved_at: AwareDatetime | None = None
    """The end of the bin with which a proof was reached."""


@document(frozen=True, kw_only=True, config=STRICT)
class Verdict:
    """What the evidence says, with its arithmetic in words and figures: one reason per objective at least."""

    kind: VerdictKind
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...] = ()
    mean_harm: float | None = None
    """The mean e-value of harm that is compared with 1/alpha, log10."""
