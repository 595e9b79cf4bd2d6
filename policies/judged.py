"""The verdict as the state machine acts on it.

Rules:
- Before the candidate's first request there is nothing to judge.
- A failure that is older than STALE_FAILURE is no reason to act by itself: it freezes, like evidence that is
  unavailable, and says so. One more bad answer makes it fresh again.
- A step that was measured, whose objectives are each proved, or proved to be within the policy's margin of stable, and
  that shows no harm, is as good as stable: what `promote_if_stable_equal` asks.

This module must not know what follows from a verdict.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from policies.dispersion import MAX_PHI
from policies.documents import RolloutPolicy
from policies.evidence import Evidence, Sli
from policies.facts import Observed, Rules, rollout_of
from policies.judge import judge, states
from policies.release import Phase, Release, Rollout
from policies.rollout_record import TestState
from policies.verdict import Measure, Verdict, VerdictKind

STALE_FAILURE = timedelta(minutes=20)
"""A failure is acted on at once or not by itself: whoever comes back after longer (a process that was away, a paused
rollout) finds a world that others may have mended since. A running loop acts within a look; Kargo's figure is the
same. A guard that holds a candidate says so at every scrape, so it is never stale."""


def judged(release: Release, observed: Observed, rules: Rules, now: datetime) -> Verdict:
    """What the evidence says now, as far as it may be acted on."""
    rollout = rollout_of(release)
    if rollout.traffic_since is None:
        return Verdict(kind=VerdictKind.INSUFFICIENT, reasons=("the candidate has seen no request yet",))
    verdict = judge(
        observed.evidence,
        rules.policy,
        step_since=rollout.current.live_since,
        now=now,
        dispersion=_dispersion(rollout),
        exposed=not in_shadow(release),
    )
    since = stale_since(observed.evidence)
    if verdict.kind is not VerdictKind.FAIL or since is None or now < since:
        return verdict
    newest = since - STALE_FAILURE
    words = (
        f"the newest failure is of {newest:%Y-%m-%d %H:%M:%S} UTC, more than {STALE_FAILURE.total_seconds() / 60:.0f} "
        "minutes ago: too old to act on"
    )
    return dataclasses.replace(verdict, kind=VerdictKind.UNAVAILABLE, reasons=(words, *verdict.reasons))


def states_of(
    rollout: Rollout, evidence: Sequence[Evidence], policy: RolloutPolicy, now: datetime
) -> tuple[TestState, ...]:
    """Where the tests stand after this evidence, for the record; nothing of what cannot be believed."""
    return states(evidence, policy, now=now, dispersion=_dispersion(rollout))


def _dispersion(rollout: Rollout) -> Mapping[str, float]:
    """Phi as it was recorded, so far as the judge takes it.

    A person can write anything into a release: less than 1 is refused, and more than can be measured makes it blind.
    """
    return {name: min(phi, MAX_PHI) for name, phi in rollout.dispersion.items() if phi >= 1}


def stale_since(evidence: Sequence[Evidence]) -> datetime | None:
    """From when on the failures in this evidence are, or will be, too old to act on; none where there is no failure."""
    ends = (b.start + e.width for e in evidence for b in reversed(e.bins) if b.candidate.bad > 0)
    newest = max(ends, default=None)
    return newest and newest + STALE_FAILURE


def in_shadow(release: Release) -> bool:
    """Do users get none of the candidate's answers, also while it is paused?"""
    return Phase.SHADOW in (release.phase, rollout_of(release).paused_from)


def is_as_good_as_stable(verdict: Verdict, policy: RolloutPolicy, *, exposed: bool = True) -> bool:
    """Every objective is proved or within the margin of stable, was measured in this step, and shows no harm.

    While users get none of its answers (not `exposed`), what they report is left out.
    """
    needed = -math.log10(policy.beta)
    asked = [m for m in verdict.measures if exposed or m.sli is not Sli.FEEDBACK]
    return bool(asked) and all(_as_good(measure, needed) for measure in asked)


def _as_good(measure: Measure, needed: float) -> bool:
    proofs = [p for p in (measure.proof, measure.equal) if p is not None]
    harms = [h for h in (measure.harm_slo, measure.harm_stable) if h is not None]
    proved = measure.proved_at is not None or max(proofs, default=-math.inf) >= needed
    measured = measure.step_total > 0 or measure.sli is Sli.AGREEMENT  # predictions are compared in shadow only
    return bool(not measure.trouble and proved and measured and harms and max(harms) <= 0)
