"""The benchmark of decisions decides as the live judge does, and its rules of others as others' arithmetic does."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from benchmarks.decisions import flagger, pipecd, ranks, sluicegate
from benchmarks.decisions.cells import Cell
from benchmarks.decisions.outcome import Outcomes, Result
from benchmarks.decisions.traffic import SLO_ERRORS, SLO_SLOW, TRUTHS, Answers, Bin, Traffic
from policies import dispersion as live_dispersion
from policies.documents import RolloutPolicy
from policies.evidence import Bin as LiveBin
from policies.evidence import Counts, Discordant, Evidence, Objective, Sli, Source
from policies.judge import judge
from policies.verdict import VerdictKind

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WIDTH = timedelta(seconds=15)
POLICY = RolloutPolicy(name="default")
PLANNED = POLICY.max_duration // WIDTH
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=1 - SLO_ERRORS)
LATENCY = Objective(name="latency", sli=Sli.LATENCY, target=1 - SLO_SLOW, threshold_ms=200)
AVAILABLE = Source(available=True, query="x")
STEPS = (0.0, 0.05, 0.5, 1.0)
"""Shares of the sample's steps, each of BINS_PER_STEP bins: shadow, canary, settling."""
BINS_PER_STEP = 16


def evidence(bins: list[Bin], shares: list[float], which: int) -> tuple[Evidence, Evidence]:
    """What the live judge would be shown of one rollout."""

    def counts(answers: Answers, bad: str) -> Counts:
        return Counts(answers.total[which], getattr(answers, bad)[which])

    errors, latency = [], []
    for i, (counted, share) in enumerate(zip(bins, shares, strict=True)):
        both, at = counted.both_failed[which], START + i * WIDTH
        candidate, stable = counts(counted.candidate, "errors"), counts(counted.stable, "errors")
        pairs = Discordant(candidate.bad - both, stable.bad - both) if share == 0 else None
        rescued = None if share == 0 else counted.rescued[which]
        errors.append(LiveBin(at, candidate, stable, rescued=rescued, pairs=pairs))
        latency.append(LiveBin(at, counts(counted.candidate, "slow"), counts(counted.stable, "slow")))
    return (
        Evidence(objective=ERRORS, width=WIDTH, bins=tuple(errors), source=AVAILABLE),
        Evidence(objective=LATENCY, width=WIDTH, bins=tuple(latency), source=AVAILABLE),
    )


@pytest.mark.parametrize("requests_per_minute", [60, 600])
@pytest.mark.parametrize("truth", ["healthy", "1.5 %", "5 %", "slow", "clusters 5", "outage"])
def test_many_side_by_side_get_the_verdicts_that_each_gets_from_the_live_judge(truth: str, requests_per_minute: int):
    told = next(t for t in TRUTHS if t.name == truth)
    traffic, rollouts = Traffic(told, requests_per_minute, 3, (7,)), 3
    phi = np.array([1.0, 1.3, 4.0])
    many = sluicegate.Judge(POLICY, phi, PLANNED)
    bins, shares, kinds, live_kinds = [], [], [], []
    for step, share in enumerate(STEPS):
        step_since = START + step * BINS_PER_STEP * WIDTH
        for _ in range(BINS_PER_STEP):
            shadow = np.full(rollouts, share == 0)
            shares.append(share)
            bins.append(traffic.next_bin(WIDTH / timedelta(minutes=1), share, shadow=shadow))
            passed, failed = many.look(bins[-1], shadow=shadow)
            if len(bins) % 8:
                continue  # every eighth look is a sample
            now = START + len(bins) * WIDTH
            for which in range(rollouts):
                kinds.append(_kind(passed[which], failed[which]))
                verdict = judge(
                    evidence(bins, shares, which),
                    POLICY,
                    step_since=step_since,
                    now=now,
                    dispersion={"errors": phi[which]},
                )
                live_kinds.append(verdict.kind)
        many.begin_step(np.ones(rollouts, dtype=np.bool_))
    assert kinds == live_kinds
    decided = {("healthy", 600): VerdictKind.PASS, ("5 %", 600): VerdictKind.FAIL}
    assert decided.get((truth, requests_per_minute), kinds[0]) in kinds


@pytest.mark.parametrize("truth", ["healthy", "wave", "clusters 5", "clusters 20"])
def test_phi_of_many_is_the_phi_of_each(truth: str):
    day = Traffic(next(t for t in TRUTHS if t.name == truth), 60, 3, (7,)).day_before()
    midnight, minute = datetime(2026, 3, 1, tzinfo=UTC), timedelta(minutes=1)
    for which, phi in enumerate(sluicegate.dispersion(day)):
        bins = tuple(LiveBin(midnight + i * minute, Counts(*day[:, i, which]), Counts()) for i in range(day.shape[1]))
        baseline = Evidence(objective=ERRORS, width=minute, bins=bins, source=AVAILABLE)
        assert phi == pytest.approx(live_dispersion.dispersion(baseline), abs=0.02)


@pytest.mark.parametrize(
    ("rule", "requests_per_minute", "truth", "result", "known"),
    [
        ("argo inline", 10, "healthy", Result.ROLLED_BACK, 0.69),
        ("argo inline", 60, "healthy", Result.ROLLED_BACK, 0.83),
        ("argo inline", 600, "healthy", Result.ROLLED_BACK, 0.47),
        (flagger.DEFAULT, 10, "healthy", Result.ROLLED_BACK, 0.89),
        (flagger.DEFAULT, 60, "healthy", Result.ROLLED_BACK, 0.41),
        (flagger.DEFAULT, 600, "healthy", Result.ROLLED_BACK, 0.58),
        (flagger.DOCS, 10, "5 %", Result.PROMOTED, 0.93),
        (flagger.DOCS, 60, "5 %", Result.PROMOTED, 0.22),
    ],
)
def test_rules_of_others_do_what_is_known_of_them(
    rule: str, requests_per_minute: int, truth: str, result: Result, known: float
):
    outcomes = Cell(rule, requests_per_minute, truth).outcomes(2000, seed=1, part=0)
    assert (outcomes.result == result).mean() == pytest.approx(known, abs=0.04)


def test_a_rollout_is_decided_once():
    outcomes = Outcomes(3)
    kept = outcomes.decide(np.array([True, False, False]), np.array([False, True, False]), 5.0)
    assert outcomes.result.tolist() == [Result.PROMOTED, Result.ROLLED_BACK, Result.HELD]
    assert kept.tolist() == [False, False, True]
    assert outcomes.open.tolist() == [2]


def test_the_rank_test_is_scipys():
    random = np.random.default_rng(1)
    first, second = random.poisson(1.5, (20, 30)).astype(float), random.poisson(1.0, (20, 30)).astype(float)
    ours = ranks.rank_z(first, second)
    for z, x, y in zip(ours, first, second, strict=True):
        theirs = mannwhitneyu(x, y, alternative="two-sided", method="asymptotic")
        assert 2 * _upper_tail(abs(z)) == pytest.approx(theirs.pvalue, rel=1e-6)


def test_the_exact_rank_test_is_scipys_where_nothing_is_tied():
    canary, baseline = (0.1, 0.4, 0.5, 0.9, 1.1), (0.0, 0.2, 0.3, 0.6)
    ranked = sorted((*canary, *baseline))
    p = pipecd._p_value(tuple(ranked.index(v) for v in canary), tuple(ranked.index(v) for v in baseline))
    assert p == pytest.approx(mannwhitneyu(canary, baseline, alternative="greater", method="exact").pvalue)


@pytest.mark.parametrize(
    ("canary", "baseline", "passes"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), True),
        ((), (), True),
        ((), (0.0, 0.1), False),
        ((0.3, 0.4, 0.5, 0.6, 0.7), (0.0, 0.0, 0.1, 0.1, 0.2), False),
    ],
)
def test_pipecd_passes_equal_samples_and_fails_a_side_without_data(canary, baseline, passes):
    assert pipecd._acceptable(canary, baseline) is passes


@pytest.mark.parametrize("cluster", [5.0, 20.0])
@pytest.mark.parametrize("requests_per_minute", [10, 600])
def test_clusters_leave_the_mean_error_rate_as_it_is(cluster: float, requests_per_minute: int):
    truth = dataclasses.replace(TRUTHS[0], cluster=cluster)
    requests, errors = Traffic(truth, requests_per_minute, 400, (3,)).day_before().sum(axis=(1, 2))
    assert errors / requests == pytest.approx(0.003, rel=0.08)


def _kind(passed: bool, failed: bool) -> VerdictKind:
    if failed:
        return VerdictKind.FAIL
    return VerdictKind.PASS if passed else VerdictKind.INSUFFICIENT


def _upper_tail(z: float) -> float:
    from scipy.stats import norm

    return float(norm.sf(z))
