"""The error budget of an SLO and a rollout: when none may start, and when one has spent its part.

Rules:
- A service **burns** where its bad rate is `burn_rate` times what the SLO allows over both windows: the long one says
  that it matters, the short one that it still goes on. (Google SRE workbook, chapter 5: multiwindow burn rates.)
- A rate is a rate from some events on: one error in three requests burns nothing.
- A rollout may cause `share` of the budget of the SLO's whole window: bad events that the SLO allows, at the traffic
  that the baseline shows. The number is recorded when it starts, and does not move with the traffic after.
- Counted is what the candidate answered badly where its answers count (CANARY, SETTLING, and paused in these), in
  excess of what is allowed, or of stable's own rate where that is higher. A healthy version spends its ordinary share
  of the budget as every version does; at an SLO window of a day a rollout of 8 hours at the allowed rate would spend a
  third of it, and be stopped for nothing. Nor is a candidate to blame for an outage that stable shares.
- A budget is never below a handful of events: at 10 requests an hour the tenth of a month's budget is 7 errors, and one
  burst would roll back a healthy version.

Answers that stable gave in the candidate's place count too: they came late, and hosts do not say it of every indicator.

This module must not decide what follows: that is `starting.py` and `noticing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from policies.documents import Budget
from policies.durations import format_duration
from policies.evidence import Counts, Evidence
from policies.release import Rollout

BASELINE = timedelta(hours=24)
"""How far back stable is looked at before a rollout: a day has every hour of the day in it once."""
MIN_BAD_TO_BURN = 10
"""Bad events in the long window. Ten of a Poisson count are known to a third; fewer are an accident, not a rate."""
LEAST_BUDGET = 10.0
"""Excess bad events that every rollout may cause. A healthy version at the allowed rate that expects 1 bad event in its
whole time has 11 with a chance of 1e-8; where it expects more, the tenth of a 30-day budget is larger than this."""


def burning(baseline: Sequence[Evidence], budget: Budget, now: datetime) -> tuple[str, ...]:
    """In words which objectives burn their budget over both windows now; nothing where none does.

    `baseline` has stable's counts in the place of the candidate's. What is unavailable burns nothing.
    """
    return tuple(words for e in baseline if e.source.available and (words := _burns(e, budget, now)))


def _burns(baseline: Evidence, budget: Budget, now: datetime) -> str:
    short, long = _last(baseline, budget.short_window, now), _last(baseline, budget.long_window, now)
    allowed = baseline.objective.allowed_bad_rate
    slower = min(_burn_rate(short, allowed), _burn_rate(long, allowed))
    if not (
        long.bad >= MIN_BAD_TO_BURN and slower >= budget.burn_rate
    ):  # so that NaN, which is no count, burns nothing
        return ""
    rates = " and ".join(
        f"{_burn_rate(counts, allowed):.1f} times over {format_duration(window)} "
        f"({counts.bad:,.0f} of {counts.total:,.0f})"
        for window, counts in ((budget.short_window, short), (budget.long_window, long))
    )
    return f"{baseline.objective.name}: {rates}, at {budget.burn_rate:g} nothing starts"


def _last(evidence: Evidence, window: timedelta, now: datetime) -> Counts:
    return evidence.since(now - window).candidate


def _burn_rate(counts: Counts, allowed: float) -> float:
    """How many times as fast as it lasts the budget is spent; 0 without events."""
    return counts.bad / counts.total / allowed if counts.total else 0.0


# --- what one rollout may spend -------------------------------------------------------------------------------


def allowances(
    baseline: Sequence[Evidence], budget: Budget, dispersion: Mapping[str, float], now: datetime
) -> Mapping[str, float]:
    """Excess bad events that a rollout may cause, by objective; without traffic to go by, none is named.

    `dispersion` is phi by objective: where errors come in clusters, a handful of events is a handful of clusters.
    """
    found = {}
    for e in baseline:
        if e.source.available and (expected := _expected(e, now)):
            share = budget.share * e.objective.allowed_bad_rate * expected
            found[e.objective.name] = float(max(share, LEAST_BUDGET * dispersion.get(e.objective.name, 1.0)))
    return {name: round(events, 1) for name, events in found.items() if math.isfinite(events)}


def _expected(baseline: Evidence, now: datetime) -> float:
    """Events in the SLO's whole window at the rate since the first that was seen."""
    first = next((b.start for b in baseline.bins if b.candidate.total), None)
    if first is None:
        return 0.0
    return baseline.candidate.total * (baseline.objective.window / max(now - first, baseline.width))


def spent(evidence: Sequence[Evidence], rollout: Rollout) -> tuple[str, ...]:
    """In words which budgets this rollout has spent; nothing where none is."""
    found = (_spent(e, rollout.budget[e.objective.name], rollout) for e in evidence if _counted(e, rollout))
    return tuple(words for words in found if words)


def _counted(evidence: Evidence, rollout: Rollout) -> bool:
    return evidence.source.available and evidence.objective.name in rollout.budget


def _spent(evidence: Evidence, allowance: float, rollout: Rollout) -> str:
    answered = [b for b in evidence.bins if _answers(rollout, b.start)]
    candidate = sum((b.candidate for b in answered), Counts())
    stable = sum((b.stable for b in answered), Counts())
    rate = max(evidence.objective.allowed_bad_rate, stable.bad / stable.total if stable.total else 0.0)
    excess = candidate.bad - rate * candidate.total
    if not excess >= allowance:
        return ""
    return (
        f"{evidence.objective.name}: {candidate.bad:,.0f} bad of {candidate.total:,.0f} answers, {excess:,.0f} more "
        f"than at {100 * rate:.3g} %; this rollout may spend {allowance:,.0f} of the error budget"
    )


def _answers(rollout: Rollout, moment: datetime) -> bool:
    """Did users get the candidate's answers then? A copy in shadow costs nobody anything."""
    return any(
        r.weight_percent and r.since <= moment and (r.until is None or moment < r.until) for r in rollout.records
    )
