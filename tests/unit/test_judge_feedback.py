"""The judge on what users report: rare good events tell versions apart, and nobody reports in shadow."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np
import pytest

from policies.bets import drop_grid, near_grid
from policies.dispersion import dispersion
from policies.documents import RolloutPolicy
from policies.evidence import Bin, Counts, Evidence, Objective, Sli
from policies.findings import find
from policies.judge import judge
from policies.judged import is_as_good_as_stable
from policies.verdict import VerdictKind
from tests.unit.test_judge import AVAILABLE, ERRORS, START, WIDTH, seen

PURCHASES = Objective(name="purchases", sli=Sli.FEEDBACK, target=0.03)
POLICY = RolloutPolicy(name="experiment", shadow=None, steps=(50,), tolerance=1.1)
A_DAY = 24 * 12  # bins of five minutes
PER_BIN = 50  # reports about each version


def experiment(rate: float, stable_rate: float = 0.05, days: int = 14, objective: Objective = PURCHASES) -> Evidence:
    """Two arms of one size, each user's report by itself."""
    dice = np.random.default_rng(7)
    bins = []
    for number in range(days * A_DAY):
        total, stable_total = dice.poisson(PER_BIN, 2)
        good, stable_good = dice.binomial((total, stable_total), (rate, stable_rate))
        start = START + number * timedelta(minutes=5)
        bins.append(Bin(start, Counts(total, total - good), Counts(stable_total, stable_total - stable_good)))
    return Evidence(objective=objective, width=timedelta(minutes=5), bins=tuple(bins), source=AVAILABLE)


def verdict_of(evidence: Evidence, policy: RolloutPolicy = POLICY) -> VerdictKind:
    end = evidence.bins[-1].start + evidence.width
    return judge([evidence], policy, step_since=START, now=end).kind


@pytest.mark.parametrize(
    ("rate", "days", "kind"),
    [
        (0.05, 14, VerdictKind.PASS),  # no worse
        (0.055, 14, VerdictKind.PASS),  # better
        (0.048, 14, VerdictKind.PASS),  # worse by less than the tolerance
        (0.04, 6, VerdictKind.FAIL),  # a fifth less
        (0.03, 2, VerdictKind.FAIL),  # within the target, and stable has nearly twice as much
        (0.0, 1, VerdictKind.FAIL),
    ],
)
def test_fewer_good_reports_than_stables_are_harm_within_the_target_too(
    rate: float, days: int, kind: VerdictKind
) -> None:
    assert verdict_of(experiment(rate, days=days)) is kind


def test_at_tolerance_1_a_drop_by_a_tenth_is_harm() -> None:
    strict = dataclasses.replace(POLICY, tolerance=1.0)
    assert verdict_of(experiment(0.045, days=10), strict) is VerdictKind.FAIL
    assert verdict_of(experiment(0.05), strict) is VerdictKind.PASS


def test_fewer_good_reports_than_the_target_are_harm_without_a_stable_version() -> None:
    alone = [Bin(START + n * WIDTH, Counts(100, 99), Counts()) for n in range(40)]
    evidence = Evidence(objective=PURCHASES, width=WIDTH, bins=tuple(alone), source=AVAILABLE)
    assert verdict_of(evidence) is VerdictKind.FAIL


def test_a_proof_is_that_there_are_more_than_the_target() -> None:
    near = dataclasses.replace(
        PURCHASES, target=0.048
    )  # stable's own rate: more than that is not proved of an equal one
    found = find(experiment(0.05, objective=near), POLICY, step_since=START, now=START + timedelta(days=20))
    assert found.proved_at is not None
    assert found.by_stable  # but it is as good as stable, which is near its target itself
    far = find(experiment(0.05), POLICY, step_since=START, now=START + timedelta(days=20))
    assert far.proved_at is not None
    assert not far.by_stable


@pytest.mark.parametrize(("rate", "kind"), [(0.05, VerdictKind.INSUFFICIENT), (0.055, VerdictKind.PASS)])
def test_a_target_above_stables_rate_with_hardly_a_margin_asks_for_better(rate: float, kind: VerdictKind) -> None:
    better = dataclasses.replace(POLICY, margin=1.01)
    asked = dataclasses.replace(PURCHASES, target=0.055)
    assert verdict_of(experiment(rate, objective=asked), better) is kind


def test_a_verdict_speaks_of_good_reports() -> None:
    evidence = experiment(0.05, days=1)
    verdict = judge([evidence], POLICY, step_since=START, now=START + timedelta(days=2))
    assert "good of" in verdict.reasons[0]
    assert "SLO asks for 3 %" in verdict.reasons[0]
    few = dataclasses.replace(evidence, bins=evidence.bins[:2])
    waiting = judge([few], POLICY, step_since=START, now=START + timedelta(days=2))
    assert waiting.kind is VerdictKind.INSUFFICIENT
    assert "more reports" in waiting.reasons[0]


def test_frequent_good_reports_are_judged_by_the_bad_ones_as_every_slo() -> None:
    helpful = dataclasses.replace(PURCHASES, target=0.9)
    assert verdict_of(experiment(0.95, 0.95, days=1, objective=helpful)) is VerdictKind.PASS
    assert verdict_of(experiment(0.8, 0.95, days=1, objective=helpful)) is VerdictKind.FAIL


# --- in shadow --------------------------------------------------------------------------------------------------------


def test_in_shadow_no_proof_by_feedback_is_asked_for_and_with_users_it_is() -> None:
    errors = seen(ERRORS, [(5000, 3, 5000, 3)])
    reports = seen(PURCHASES, [(0, 0, 500, 470)])
    now = START + timedelta(hours=1)
    in_shadow = judge([errors, reports], POLICY, step_since=START, now=now, exposed=False)
    assert in_shadow.kind is VerdictKind.PASS
    assert any("nobody can report in shadow" in reason for reason in in_shadow.reasons)
    assert judge([errors, reports], POLICY, step_since=START, now=now).kind is VerdictKind.INSUFFICIENT
    assert is_as_good_as_stable(in_shadow, POLICY, exposed=False)
    assert not is_as_good_as_stable(in_shadow, POLICY)


def test_the_mean_of_harm_is_over_the_same_tests_in_every_phase() -> None:
    errors, reports = seen(ERRORS, [(1000, 9)]), seen(PURCHASES, [(0, 0, 500, 470)])
    now = START + timedelta(hours=1)
    means = {judge([errors, reports], POLICY, step_since=START, now=now, exposed=e).mean_harm for e in (True, False)}
    assert len(means) == 1


# --- the parts --------------------------------------------------------------------------------------------------------


def test_alternatives_begin_close_to_the_limit_and_never_reach_it() -> None:
    assert drop_grid(1.1).min() == pytest.approx(1.1 * 1.03)
    assert near_grid(1.25).max() == pytest.approx(1.25 / 1.03)
    assert (np.diff(drop_grid(1.0)) > 0).all()
    assert (np.diff(near_grid(1.25)) > 0).all()


def test_clusters_of_rare_good_events_count_as_dispersion() -> None:
    # One hour in bins of a minute: five good reports at once, every fifth minute.
    def of(objective: Objective) -> float:
        bins = [
            Bin(START + n * timedelta(minutes=1), Counts(100, 100 - 25 * (n % 5 == 0)), Counts())
            for n in range(24 * 60)
        ]
        return dispersion(Evidence(objective=objective, width=timedelta(minutes=1), bins=tuple(bins), source=AVAILABLE))

    assert of(PURCHASES) > 5
    assert of(dataclasses.replace(PURCHASES, target=0.9)) < of(PURCHASES)
