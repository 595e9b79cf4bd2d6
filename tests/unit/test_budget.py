"""The error budget: when nothing starts, and what one rollout may spend. Rule 19 of policies/rollout.py."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta

import numpy as np
import pytest

from policies.actions import WriteRelease
from policies.budget import LEAST_BUDGET, MIN_BAD_TO_BURN, allowances, burning, spent
from policies.documents import Budget
from policies.evidence import Bin, Counts, Evidence, Source
from policies.observations import RegisteredVersion
from policies.release import Ask, Phase, Purpose, Release, Wish
from policies.rollout import decide, wants_baseline
from policies.starting import EMERGENCY_TAG
from tests.unit.releases import (
    ERRORS,
    MINUTE,
    NOW,
    POLICY,
    RULES,
    application,
    evidence,
    in_phase,
    observed,
    only,
    reason,
    rolling,
    ruled,
    steady,
    versions,
    written,
)

BUDGET = Budget()


def baseline(
    *, now: tuple[float, float], hour: tuple[float, float] = (0, 0), day: tuple[float, float] = (0, 0)
) -> Evidence:
    """Stable's (total, bad) in the last 5 minutes, in the hour before these, and in the day before that."""
    width = timedelta(minutes=5)
    counts = [*([day] * 276), *([hour] * 11), now]
    bins = tuple(
        Bin(start=NOW - (len(counts) - i) * width, candidate=Counts(*c), stable=Counts()) for i, c in enumerate(counts)
    )
    return Evidence(objective=ERRORS, width=width, bins=bins, source=Source(available=True, query="x"))


BURNS = baseline(now=(500, 90), hour=(500, 80), day=(500, 1))
CALM = baseline(now=(500, 1), hour=(500, 1), day=(500, 1))
UNKNOWN = evidence(total=0, reason="Prometheus cannot be reached")

# --- burning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "burns"),
    [
        (BURNS, True),
        (CALM, False),
        (baseline(now=(500, 90), hour=(500, 1)), False),
        (baseline(now=(500, 1), hour=(500, 90)), False),
        (baseline(now=(500, 73), hour=(500, 73)), True),
        (baseline(now=(500, 71), hour=(500, 71)), False),
        (baseline(now=(0, 0), hour=(500, 90)), False),
        (baseline(now=(500, math.nan), hour=(500, 90)), False),
    ],
)
def test_a_service_burns_over_both_windows_or_not_at_all(seen, burns):
    assert bool(burning((seen,), BUDGET, NOW)) is burns


def test_one_error_in_three_requests_burns_nothing():
    few = baseline(now=(1, 1), hour=(1, 0.5))
    assert few.since(NOW - BUDGET.long_window).candidate.bad < MIN_BAD_TO_BURN
    assert burning((few,), BUDGET, NOW) == ()


def test_burning_says_its_rates_and_windows():
    (words,) = burning((BURNS,), BUDGET, NOW)
    assert (
        words == "errors: 18.0 times over 5m (90 of 500) and 16.2 times over 1h (970 of 6,000), at 14.4 nothing starts"
    )


# --- what one rollout may spend -----------------------------------------------------------------------------------


def test_a_rollout_may_spend_a_share_of_the_whole_windows_budget():
    """500 requests in 5 minutes are 4.32 million in 30 days; 1 % may be bad, and a tenth of that is its part."""
    assert allowances((CALM,), BUDGET, {}, NOW) == {"errors": pytest.approx(4320)}


def test_the_rate_is_that_since_the_first_request():
    young = baseline(now=(500, 1), hour=(500, 1))
    assert allowances((young,), BUDGET, {}, NOW) == {"errors": pytest.approx(4320)}


def test_a_budget_is_never_below_a_handful_of_events_or_of_clusters():
    """A share below a handful of events must not roll back healthy versions."""
    thin = baseline(now=(1, 0))
    short = dataclasses.replace(thin, objective=dataclasses.replace(ERRORS, window=timedelta(hours=1)))
    assert allowances((short,), BUDGET, {}, NOW) == {"errors": LEAST_BUDGET}
    assert allowances((short,), BUDGET, {"errors": 20.0}, NOW) == {"errors": 20 * LEAST_BUDGET}


def test_without_traffic_to_go_by_no_budget_is_counted():
    assert allowances((baseline(now=(0, 0)), UNKNOWN), BUDGET, {}, NOW) == {}


def spends(total: float, bad: float, stable_bad: float = 0, phase: Phase = Phase.CANARY, allowance: float = 20) -> bool:
    seen = evidence(total=total, bad=bad, stable_bad=stable_bad)
    return bool(spent((seen,), in_phase(phase, budget={"errors": allowance}).rollout))


def test_what_is_spent_is_the_excess_over_what_is_allowed():
    assert not spends(total=2000, bad=39)
    assert spends(total=2000, bad=41)


def test_an_outage_that_stable_shares_is_not_the_candidates_spending():
    assert not spends(total=2000, bad=1000, stable_bad=990)
    assert spends(total=2000, bad=1000, stable_bad=900)


def test_only_answers_that_users_got_are_spent():
    assert not spends(total=2000, bad=1000, phase=Phase.SHADOW)
    assert spends(total=2000, bad=1000, phase=Phase.PAUSED)
    assert not spends(total=2000, bad=1000, phase=Phase.CANARY, allowance=math.nan)


def test_a_healthy_version_at_the_edge_of_its_slo_does_not_spend_a_small_budget():
    """8 hours at 100 % of 1 to 600 requests/min at exactly the allowed rate; the SLO's window is a week."""
    random = np.random.default_rng(3)
    for per_minute in (1, 10, 60, 600):
        week, bins = 7 * 24 * 60 * per_minute, 480
        allowance = max(LEAST_BUDGET, 0.1 * 0.01 * week)
        bad = random.binomial(per_minute, 0.01, (2000, bins)).cumsum(axis=1)
        excess = bad - 0.01 * per_minute * np.arange(1, bins + 1)
        assert (excess.max(axis=1) >= allowance).mean() <= 0.001, per_minute


# --- starting -----------------------------------------------------------------------------------------------------


def tagged(value: str = "true") -> dict[int, RegisteredVersion]:
    registry = versions(v1="Production", v2="Production")
    return {**registry, 2: dataclasses.replace(registry[2], tags={EMERGENCY_TAG: value})}


def test_rule_19_a_rollout_does_not_start_while_the_service_already_burns_its_error_budget():
    actions = decide(steady(1), observed(baseline=(BURNS,)), RULES, NOW)
    assert not only(WriteRelease, actions)
    assert "v2 is wanted, but the service burns its error budget: errors: 18.0 times over 5m" in reason(actions)


def test_rule_19_it_starts_when_that_is_over_and_has_its_budget_and_phi_recorded():
    release = written(decide(steady(1), observed(baseline=(CALM,)), RULES, NOW))
    assert (release.phase, release.rollout.budget) == (Phase.WARMING, {"errors": pytest.approx(4320)})
    clusters = baseline(now=(500, 20), day=(500, 0))
    assert written(decide(steady(1), observed(baseline=(clusters,)), RULES, NOW)).rollout.dispersion["errors"] > 10


def test_rule_19_unless_its_version_carries_the_emergency_tag():
    release = written(decide(steady(1), observed(tagged(), baseline=(BURNS,)), RULES, NOW))
    assert (release.phase, release.rollout.purpose) == (Phase.WARMING, Purpose.EMERGENCY)
    assert any("burn" in why or "18.0 times" in why for why in release.rollout.records[0].reasons)
    assert not only(WriteRelease, decide(steady(1), observed(tagged("false"), baseline=(BURNS,)), RULES, NOW))


def test_rule_19_without_trouble_the_emergency_tag_means_nothing():
    assert written(decide(steady(1), observed(tagged(), baseline=(CALM,)), RULES, NOW)).rollout.purpose is None


def test_rule_19_an_emergency_takes_everything_once_it_is_warm_and_is_judged_there():
    warming = rolling(Phase.WARMING, purpose=Purpose.EMERGENCY)
    release = written(decide(warming, observed(), RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.SETTLING, 100)


def test_rule_19_a_stable_version_that_cannot_be_brought_in_place_does_not_block_its_own_fix():
    """Trap: a stable that is already bad blocks its own fix."""
    facts = observed(tagged(), out_of_place="fraud--v1: deployment Model is UNHEALTHY")
    assert written(decide(steady(1), facts, RULES, NOW)).rollout.purpose is Purpose.EMERGENCY
    away = dataclasses.replace(facts, runtime_reason="no answer")
    assert not only(WriteRelease, decide(steady(1), away, RULES, NOW))


def test_rule_19_an_undo_starts_while_the_service_burns():
    asked = steady(2, served=(application(1),), ask=Ask(wish=Wish.UNDO, by="Ada", why="bad scores"))
    assert written(decide(asked, observed(baseline=(BURNS,)), RULES, NOW)).rollout.purpose is Purpose.UNDO


def test_rule_19_where_the_policy_has_no_budget_nobody_asks():
    release = written(decide(steady(1), observed(baseline=(BURNS,)), ruled(budget=None), NOW))
    assert (release.phase, release.rollout.budget) == (Phase.WARMING, {})


def test_rule_6_a_baseline_that_is_unavailable_does_not_block_for_ever():
    facts = observed(baseline=(UNKNOWN,), unavailable_since=NOW - MINUTE)
    waits = decide(steady(1), facts, RULES, NOW)
    assert not only(WriteRelease, waits)
    assert "how stable does is not known yet: Prometheus cannot be reached" in reason(waits)
    later = dataclasses.replace(facts, unavailable_since=NOW - POLICY.metrics_deadline)
    release = written(decide(steady(1), later, RULES, NOW))
    assert (release.phase, release.rollout.budget, release.rollout.dispersion) == (Phase.WARMING, {}, {})
    assert (
        "errors: not measured before the start: phi is 1, and no budget is counted"
        in release.rollout.records[0].reasons
    )


@pytest.mark.parametrize(
    ("release", "wanted"),
    [
        (steady(1), True),
        (steady(None), False),
        (steady(2, seen=(1, 2)), False),
        (in_phase(Phase.CANARY), False),
    ],
)
def test_a_baseline_is_asked_only_where_a_rollout_over_a_stable_version_is_about_to_begin(
    release: Release, wanted: bool
):
    assert wants_baseline(release, observed(), RULES) is wanted
