"""Experiments in the simulated world: both arms for the planned time, and then what users reported decides."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest

from policies.release import CauseKind, Outcome, Phase
from policies.rollout_record import HistoryRecord
from tests.simulation.world import BAD, BIN, HEALTHY, MODEL_DOCUMENT, Truth, World

PLANNED = timedelta(minutes=10)  # two weeks, for who waits for a test
POLICY = """\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: quick
shadow: %s
steps: [50]
step: {min_duration: 10m, max_duration: 10m, min_requests: 1000}
settle: {min_duration: 20s, max_duration: 5m}
max_duration: 40m
on_inconclusive: rollback
tolerance: 1.1
"""
PURCHASES = """\
apiVersion: openslo/v1
kind: SLO
metadata: {name: purchases}
spec:
  indicator:
    spec:
      ratioMetric:
        good: {metricSource: {type: sluicegate, spec: {sli: feedback}}}
        total: {metricSource: {type: sluicegate, spec: {sli: feedback}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.03}]
"""
STABLE = 0.05


class Shop(World):
    """Users of both versions buy, and say so; `buys` is how often by version."""

    def __init__(self, seed: int, shadow: str = "null") -> None:
        self.buys: dict[int, float] = {1: STABLE}
        self.reports_per_step = 40
        self._shadow = shadow
        super().__init__(seed)
        self.on_step = self._users_report
        self.promote(self.register())
        self.run_until(lambda: len(self.history()) == 1)

    def _documents(self) -> dict[str, str]:
        model = (MODEL_DOCUMENT % ("fraud", 1)).replace(
            "slos: [errors]", "slos: [errors, purchases]\nsticky: {header: x-user}"
        )
        return {
            "models/fraud.yaml": model,
            "policies/quick.yaml": POLICY % self._shadow,
            "policies/purchases.yaml": PURCHASES,
        }

    def _users_report(self) -> None:
        """Of the arm that each of them is in."""
        release = self.release
        if release is None:
            return
        share = release.weight_percent / 100 if release.phase is not Phase.SHADOW else 0.0
        share = 1.0 if release.phase is Phase.SETTLING else share
        for application, part in ((release.candidate, share), (release.stable, 1.0 - share)):
            reports = round(self.reports_per_step * part)
            if application and reports:
                good = self.bad_of(reports, self.buys[application.version])
                self.metrics.reported("fraud", application, self.now, good=good, bad=reports - good)


def experiment(shop: Shop, buys: float, truth: Truth = HEALTHY) -> HistoryRecord:
    """The record of a candidate whose users buy so often."""
    version = shop.register(truth)
    shop.buys[version] = buys
    shop.promote(version)
    shop.run_until(lambda: len(shop.history()) == 2, minutes=60)
    return shop.history()[-1]


def lasted(record: HistoryRecord) -> Mapping[Phase, timedelta]:
    """How long each phase was live."""
    return {r.phase: (r.until or record.ended_at) - (r.live_since or r.since) for r in record.phases}


def test_both_arms_stay_for_the_planned_time_and_then_what_is_no_worse_is_promoted() -> None:
    shop = Shop(seed=1)
    record = experiment(shop, STABLE)
    assert record.outcome is Outcome.PROMOTED
    shares = [(r.phase, r.weight_percent) for r in record.phases]
    assert shares == [(Phase.WARMING, 0), (Phase.CANARY, 50), (Phase.SETTLING, 100)]
    assert PLANNED <= lasted(record)[Phase.CANARY] <= PLANNED + 4 * BIN
    assert shop.unanswered == 0


def test_a_candidate_whose_users_buy_less_ends_the_experiment_although_it_is_within_its_target() -> None:
    shop = Shop(seed=2)
    shop.reports_per_step = 400
    record = experiment(shop, 0.032)
    assert record.outcome is Outcome.ROLLED_BACK
    assert record.cause is not None
    assert record.cause.kind is CauseKind.FAILED
    assert record.cause.reasons[0].startswith("purchases: ")
    assert "against stable" in record.cause.reasons[0]
    assert lasted(record)[Phase.CANARY] < PLANNED


def test_too_few_reports_in_the_planned_time_are_inconclusive_and_said_so() -> None:
    shop = Shop(seed=3)
    shop.reports_per_step = 4
    record = experiment(shop, STABLE)
    assert record.outcome is Outcome.ROLLED_BACK
    assert record.cause is not None
    assert record.cause.kind is CauseKind.INCONCLUSIVE
    assert any("of at least 1,000 requests" in reason for reason in record.cause.reasons)
    assert PLANNED <= lasted(record)[Phase.CANARY] <= PLANNED + 4 * BIN


def test_errors_end_it_too() -> None:
    shop = Shop(seed=4)
    record = experiment(shop, 2 * STABLE, BAD)  # however much its users buy
    assert record.outcome is Outcome.ROLLED_BACK
    assert lasted(record)[Phase.CANARY] < PLANNED


@pytest.mark.parametrize(
    ("truth", "phases"),
    [
        (HEALTHY, [Phase.WARMING, Phase.SHADOW, Phase.CANARY, Phase.SETTLING]),
        (BAD, [Phase.WARMING, Phase.SHADOW, Phase.ROLLING_BACK]),
    ],
)
def test_shadow_comes_first_where_the_policy_says_so_and_asks_for_no_reports(truth: Truth, phases: list[Phase]) -> None:
    shop = Shop(seed=5, shadow="{min_duration: 20s, max_duration: 5m}")
    record = experiment(shop, STABLE, truth)
    assert [r.phase for r in record.phases] == phases
    assert lasted(record)[Phase.SHADOW] < timedelta(minutes=2)
