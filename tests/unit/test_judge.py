"""The judge: counts and a policy in, a verdict with its arithmetic out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.bets import GRID_SIZE, harm_grid
from policies.documents import RolloutPolicy
from policies.evidence import Bin, Counts, Discordant, Evidence, Objective, Sli, Source
from policies.findings import find
from policies.judge import judge, mean_harm, states
from policies.standing import Harm
from policies.verdict import Verdict, VerdictKind
from policies.verdict_words import e_value
from tests.unit.single_bets import health_log_e, mixture_log_e

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WIDTH = timedelta(seconds=15)
POLICY = RolloutPolicy(name="default")
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
LATENCY = Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=200)
AVAILABLE = Source(available=True, query="sum(requests)", age=timedelta(seconds=4))
AWAY = Source(available=False, query="sum(requests)", reason="Prometheus did not answer within 5 s")
STALE = Source(available=False, query="sum(requests)", reason="the newest sample is too old", age=timedelta(seconds=95))

BINS = st.lists(
    st.integers(0, 3000).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total))), max_size=8
)


def seen(
    objective: Objective, counts: Iterable[tuple[float, ...]], source: Source = AVAILABLE, start: datetime = START
) -> Evidence:
    """Evidence from `(total, bad)` of the candidate per bin, and `(total, bad, stable's total, stable's bad)`."""
    bins = tuple(
        Bin(start=start + index * WIDTH, candidate=Counts(*both[:2]), stable=Counts(*both[2:]))
        for index, both in enumerate(counts)
    )
    return Evidence(objective=objective, width=WIDTH, bins=bins, source=source)


def alone(total: float, bad: float, objective: Objective = ERRORS) -> float:
    """Log e-value of harm against the SLO after one bin without a stable version."""
    found = find(seen(objective, [(total, bad)]), POLICY, step_since=START, now=START + timedelta(hours=1))
    return found.harm[Harm.SLO]


def at(index: int) -> datetime:
    """The start of a bin."""
    return START + index * WIDTH


def asked(*evidence: Evidence, step_since: datetime | None = START, policy: RolloutPolicy = POLICY) -> Verdict:
    """The verdict an hour after the start."""
    return judge(evidence, policy, step_since=step_since, now=START + timedelta(hours=1))


# --- FAIL -----------------------------------------------------------------------------------------------------


def test_harm_is_a_fail_and_says_its_arithmetic() -> None:
    verdict = asked(seen(ERRORS, [(1000, 5), (204, 26)]))
    assert verdict.kind is VerdictKind.FAIL
    assert verdict.reasons == (
        (
            "errors: 31 bad of 1,204 (2.57 %), SLO allows 1 %; harm e-value 1.0e14 against the SLO, "
            "1 against stable, mean of 2 tests 5.0e13 >= 100 -> FAIL"
        ),
        "errors: counted in 2 bins of 15s from 2026-03-01 12:00:00 UTC, newest sample 4s old; query: sum(requests)",
    )


def test_the_objective_that_carries_a_fail_comes_first_and_says_the_mean() -> None:
    verdict = asked(seen(ERRORS, [(5210, 3)]), seen(LATENCY, [(1204, 300)]))
    assert verdict.kind is VerdictKind.FAIL
    assert verdict.reasons[0].startswith("latency: 300 of 1,204 over 200 ms (24.9 %), SLO allows 5 %; harm e-value ")
    assert verdict.reasons[0].endswith(" >= 100 -> FAIL")
    assert ", mean of 4 tests " in verdict.reasons[0]
    assert verdict.reasons[1].startswith("errors: 3 bad of 5,210 (0.0576 %), SLO allows 1 %; harm e-value ")
    assert "FAIL" not in verdict.reasons[1]


def test_harm_must_carry_the_mean_over_all_objectives() -> None:
    """300 alone is a FAIL at alpha 1 %, as one of two tests; as one of four it is 75."""
    bad = next(bad for bad in range(1000) if alone(1000, bad) >= math.log(200))
    harmed = seen(ERRORS, [(1000, bad)])
    assert math.exp(alone(1000, bad)) < 400
    assert asked(harmed).kind is VerdictKind.FAIL
    both = asked(harmed, seen(LATENCY, [(1000, 0)]))
    assert both.kind is VerdictKind.INSUFFICIENT
    assert ", mean of 4 tests " in both.reasons[0]
    assert " < 100; proof" in both.reasons[0]


def test_a_policy_with_a_smaller_alpha_asks_for_more() -> None:
    harmed = seen(ERRORS, [(1204, 31)])
    strict = dataclasses.replace(POLICY, alpha=1e-4)
    assert asked(harmed).kind is VerdictKind.FAIL
    assert asked(harmed, policy=strict).kind is VerdictKind.INSUFFICIENT


def test_an_effect_below_the_minimum_is_no_harm_however_sure() -> None:
    tiny = seen(dataclasses.replace(ERRORS, target=0.999), [(1_000_000, 1_400)])
    assert asked(tiny, policy=dataclasses.replace(POLICY, min_effect=0.0003)).kind is VerdictKind.FAIL
    verdict = asked(tiny, policy=dataclasses.replace(POLICY, min_effect=0.001))
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert (
        "(counts as 1: less than 0.1 % above what it is compared with), mean of 2 tests 1 < 100;" in verdict.reasons[0]
    )


def test_a_tiny_effect_does_not_lend_its_weight_to_another_objective() -> None:
    tiny = seen(dataclasses.replace(ERRORS, target=0.999), [(1_000_000, 1_400)])
    some = seen(LATENCY, [(40, 6)])
    assert 1 < math.exp(alone(40, 6, LATENCY)) < 100
    assert asked(tiny, some).kind is VerdictKind.INSUFFICIENT


def test_harm_outweighs_a_proof_from_before() -> None:
    proved_then_broken = seen(ERRORS, [(600, 0), (600, 300)])
    assert asked(proved_then_broken, step_since=at(1)).kind is VerdictKind.FAIL


def test_harm_is_a_fail_while_no_step_is_live() -> None:
    assert asked(seen(ERRORS, [(1204, 310)]), step_since=None).kind is VerdictKind.FAIL


# --- UNAVAILABLE ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [AWAY, STALE])
def test_a_source_that_is_away_is_unavailable_and_says_why(source: Source) -> None:
    verdict = asked(seen(ERRORS, [(5210, 0)]), seen(LATENCY, [(5210, 3)], source))
    assert verdict.kind is VerdictKind.UNAVAILABLE
    assert verdict.reasons[0].startswith(f"latency: unavailable: {source.reason}")
    assert verdict.reasons[0].endswith("query: sum(requests)")
    assert verdict.reasons[1].startswith("errors: 0 bad of 5,210")


def test_the_age_of_a_stale_source_is_said() -> None:
    assert "newest sample 1m35s old" in asked(seen(ERRORS, [], STALE)).reasons[0]


def test_a_source_without_a_reason_says_so() -> None:
    silent = dataclasses.replace(AWAY, reason="")
    assert "the source gives no reason" in asked(seen(ERRORS, [], silent)).reasons[0]


def test_an_outage_is_not_a_bad_model_whatever_was_counted_before_it() -> None:
    assert asked(seen(ERRORS, [(1204, 1204)], AWAY)).kind is VerdictKind.UNAVAILABLE


def test_harm_seen_is_harm_while_another_source_is_away() -> None:
    verdict = asked(seen(LATENCY, [], AWAY), seen(ERRORS, [(1204, 310)]))
    assert verdict.kind is VerdictKind.FAIL
    assert "mean of 4 tests (2 unavailable, counted as 0) " in verdict.reasons[0]
    assert verdict.reasons[1].startswith("latency: unavailable: Prometheus did not answer")


def test_an_outage_does_not_make_a_fail_easier() -> None:
    """With weights over the available objectives only, the mean would jump from 75 to 150 when one went away."""
    bad = next(bad for bad in range(1000) if alone(1000, bad) >= math.log(200))
    harmed = seen(ERRORS, [(1000, bad)])
    assert asked(harmed, seen(LATENCY, [(1000, 0)], AWAY)).kind is VerdictKind.UNAVAILABLE


@pytest.mark.parametrize(
    "counts",
    [(3, 5), (10, -1), (-4, -4), (math.nan, 0), (10, math.nan), (math.inf, 0), (math.inf, math.inf), (1e13, 0)],
)
def test_impossible_counts_are_a_fault_of_the_measurement(counts: tuple[float, float]) -> None:
    verdict = asked(seen(ERRORS, [(5000, 0), counts]))
    assert verdict.kind is VerdictKind.UNAVAILABLE
    assert "impossible counts at 12:00:15 UTC" in verdict.reasons[0]


@given(lost=BINS, other=BINS)
def test_counts_of_a_source_that_is_away_change_nothing(
    lost: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    known = seen(ERRORS, other)
    assert asked(seen(LATENCY, lost, AWAY), known).kind is asked(seen(LATENCY, [], AWAY), known).kind
    assert asked(seen(LATENCY, lost, AWAY), known).kind in (VerdictKind.FAIL, VerdictKind.UNAVAILABLE)


# --- PASS -----------------------------------------------------------------------------------------------------


def test_proved_health_and_a_clean_step_are_a_pass_and_say_their_arithmetic() -> None:
    verdict = asked(seen(ERRORS, [(700, 0), (504, 0)]), seen(LATENCY, [(5000, 0), (210, 3)]), step_since=at(1))
    assert verdict.kind is VerdictKind.PASS
    assert [reason.split("; ") for reason in verdict.reasons] == [
        [
            "errors: 0 bad of 1,204 (0 %), SLO allows 1 %",
            "harm e-value 0.251 against the SLO, 1 against stable, mean of 4 tests 0.625 < 100",
            "proof e-value 5.1e4 >= 100 since 12:00:15 UTC",
            "this step 0 bad of 504 (0 %), harm e-value 1 <= 3",
        ],
        [
            "latency: 3 of 5,210 over 200 ms (0.0576 %), SLO allows 5 %",
            "harm e-value 0.249 against the SLO, 1 against stable",
            "proof e-value 1.4e109 >= 100 since 12:00:15 UTC",
            "this step 3 of 210 over 200 ms (1.43 %), harm e-value 1 <= 3",
        ],
        [
            "errors: counted in 2 bins of 15s from 2026-03-01 12:00:00 UTC, newest sample 4s old",
            "query: sum(requests)",
        ],
        [
            "latency: counted in 2 bins of 15s from 2026-03-01 12:00:00 UTC, newest sample 4s old",
            "query: sum(requests)",
        ],
    ]


def test_a_perfect_candidate_passes_though_it_has_no_error_to_count() -> None:
    assert asked(seen(ERRORS, [(100, 0)] * 6)).kind is VerdictKind.PASS


def test_every_objective_must_be_proved() -> None:
    proved, thin = seen(ERRORS, [(5000, 0)]), seen(LATENCY, [(20, 0)])
    assert asked(proved).kind is VerdictKind.PASS
    assert asked(proved, thin).kind is VerdictKind.INSUFFICIENT


def test_a_proof_is_kept_through_a_worse_time() -> None:
    """Proved after the first bin; a bad second one takes its e-value below 100 again, a long good step follows."""
    history = [(600, 0), (200, 4)]
    assert health_log_e(Counts(600, 0), 0.01) > math.log(100) > health_log_e(Counts(800, 4), 0.01)
    verdict = asked(seen(ERRORS, [*history, (100, 0)]), step_since=at(2))
    assert verdict.kind is VerdictKind.PASS
    assert ">= 100 since 12:00:15 UTC" in verdict.reasons[0]


def test_a_step_must_not_look_worse_than_the_slo_even_when_health_is_proved() -> None:
    verdict = asked(seen(ERRORS, [(1204, 0), (10, 2)]), step_since=at(1))
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert verdict.reasons[0].endswith("this step 2 bad of 10 (20 %), harm e-value 20.1 > 3: harm is suspected")


def test_each_objective_must_be_clean_in_the_step() -> None:
    verdict = asked(seen(ERRORS, [(5000, 0), (500, 0)]), seen(LATENCY, [(5000, 0), (50, 10)]), step_since=at(1))
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert verdict.reasons[0].startswith("latency:")


def test_a_bin_that_began_before_the_step_was_live_is_not_the_steps() -> None:
    evidence = seen(ERRORS, [(5000, 0), (500, 0)])
    assert asked(evidence, step_since=at(1)).kind is VerdictKind.PASS
    assert asked(evidence, step_since=at(1) + timedelta(seconds=1)).kind is VerdictKind.INSUFFICIENT


def test_noise_in_a_step_does_not_hold_up_what_is_proved() -> None:
    """One bad answer among ninety is what 0.3 % gives every fourth step; at E < 1 it would wait for it to wear off."""
    verdict = asked(seen(ERRORS, [(2000, 6, 2000, 6), (90, 1, 810, 3)]), step_since=at(1))
    assert verdict.kind is VerdictKind.PASS


# --- beside stable ---------------------------------------------------------------------------------------------


def test_a_candidate_within_its_slo_that_is_far_worse_than_stable_fails() -> None:
    verdict = asked(seen(ERRORS, [(1000, 8, 9000, 9)] * 6))
    assert verdict.kind is VerdictKind.FAIL
    assert "48 bad of 6,000 (0.8 %), stable 54 of 54,000 (0.1 %), SLO allows 1 %" in verdict.reasons[0]
    (measured,) = verdict.measures
    assert (measured.harm_stable > 2, measured.harm_slo < 0) == (True, True)


def test_a_shared_outage_blames_nobody() -> None:
    """Both fail half of what they answer for five minutes: nothing speaks against the candidate."""
    outage = [(15, 7, 135, 68)] * 20
    verdict = asked(seen(ERRORS, [(15, 0, 135, 0)] * 40 + outage + [(15, 0, 135, 0)] * 40))
    assert verdict.kind is not VerdictKind.FAIL
    assert verdict.measures[0].harm_slo < 1
    without = asked(seen(ERRORS, [(15, 0)] * 40 + [(15, 7)] * 20))
    assert without.kind is VerdictKind.FAIL


def test_share_and_error_rate_that_move_together_blame_nobody() -> None:
    """The candidate's share grows from 5 to 50 % while everybody's error rate grows tenfold.

    Pooled over both times, the candidate seems to have more than its part of the errors.
    """
    quiet, busy = (50, 0.1, 950, 1.9), (500, 10, 500, 10)
    verdict = asked(seen(ERRORS, [quiet] * 40 + [busy] * 40))
    assert verdict.measures[0].harm_stable < 0
    assert verdict.kind is not VerdictKind.FAIL


def test_at_a_hundred_percent_it_is_blamed_for_what_stable_answered_well() -> None:
    """Stable has no traffic of its own then; what fails for both is an outage, what it rescues is the candidate's."""
    hosted = [Bin(at(i), Counts(100, 0), Counts(100, 0)) for i in range(10)]

    def then(rescued: float) -> Verdict:
        bins = (*hosted, *(Bin(at(i), Counts(100, 30), Counts(), rescued=rescued) for i in range(10, 20)))
        return asked(Evidence(objective=ERRORS, width=WIDTH, bins=bins, source=AVAILABLE), step_since=at(10))

    assert then(rescued=30).kind is VerdictKind.FAIL
    assert then(rescued=0).kind is not VerdictKind.FAIL


def test_in_shadow_the_pairs_that_differ_are_what_counts_against_stable() -> None:
    """Requests that both answer badly say nothing, however many: here they would make both look alike."""

    def shadow(candidate: float, stable: float) -> float:
        pairs = Discordant(candidate, stable)
        bins = tuple(Bin(at(i), Counts(100, 20 + candidate), Counts(100, 20 + stable), pairs=pairs) for i in range(20))
        return asked(Evidence(objective=ERRORS, width=WIDTH, bins=bins, source=AVAILABLE)).measures[0].harm_slo

    assert shadow(candidate=4, stable=0.5) > 5
    assert shadow(candidate=2, stable=2) < 1


def test_clusters_make_every_bet_smaller() -> None:
    evidence = seen(ERRORS, [(500, 20, 500, 2)] * 4)
    plain = judge([evidence], POLICY, step_since=START, now=at(4))
    clustered = judge([evidence], POLICY, step_since=START, now=at(4), dispersion={"errors": 20.0})
    assert plain.kind is VerdictKind.FAIL
    assert clustered.kind is VerdictKind.INSUFFICIENT
    assert clustered.measures[0].dispersion == 20.0


def test_a_dispersion_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="errors: a dispersion is at least 1"):
        judge([seen(ERRORS, [(1, 0)])], POLICY, step_since=START, now=at(1), dispersion={"errors": 0.5})


def test_a_change_after_an_hour_of_health_is_not_hidden_by_it() -> None:
    hour = [(15, 0, 15, 0)] * 240
    evidence = seen(ERRORS, hour + [(15, 2, 15, 0)] * 24)
    found = [judge([evidence], POLICY, step_since=START, now=at(240 + n)).kind for n in range(25)]
    assert found.index(VerdictKind.FAIL) <= 16
    plain = mixture_log_e(2 * 24, 15 * 264, harm_grid(0.01), 0.01)
    assert plain < math.log(100)  # one bet over everything would see nothing yet


def test_beside_a_stable_near_its_slo_as_good_as_stable_is_proof_enough() -> None:
    near = seen(ERRORS, [(20_000, 180, 20_000, 180)] * 20)
    policy = dataclasses.replace(POLICY, margin=1.25)
    verdict = asked(near, policy=policy)
    assert verdict.kind is VerdictKind.PASS
    assert "(against stable) >= 100" in verdict.reasons[0]
    far = seen(ERRORS, [(20_000, 180, 20_000, 40)] * 20)
    assert asked(far, policy=policy).kind is VerdictKind.FAIL


def test_being_as_bad_as_a_stable_far_from_its_slo_proves_nothing() -> None:
    """A wide margin: seven times stable's rate is within it, and outside the SLO."""
    wide = dataclasses.replace(POLICY, margin=10.0, tolerance=10.0, min_effect=0.05)
    verdict = asked(seen(ERRORS, [(20_000, 300, 20_000, 44)] * 20), policy=wide)
    assert verdict.measures[0].equal > 2
    assert verdict.measures[0].proved_at is None
    assert verdict.kind is not VerdictKind.PASS


def test_a_clean_step_does_not_pass_while_the_rollout_shows_harm() -> None:
    proved, bad, clean = [(500, 1, 500, 1)] * 4, [(100, 11, 100, 0)], [(30, 0, 30, 0)]
    verdict = asked(seen(ERRORS, proved + bad + clean), step_since=at(5))
    assert verdict.measures[0].proved_at is not None
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert "over all it is above 1: harm is suspected" in verdict.reasons[0]


def test_one_accident_does_not_hold_up_a_rollout_for_ever() -> None:
    """A killed replica costs one bad answer in a moment of few requests; at 100 % stable has none to compare with."""
    before, accident, alone = [(30, 0, 30, 0)] * 20, [(1, 1, 58, 0)], [(60, 0, 0, 0)] * 20
    at_once = asked(seen(ERRORS, before + accident), step_since=at(20))
    assert at_once.kind is VerdictKind.INSUFFICIENT
    later = asked(seen(ERRORS, before + accident + alone), step_since=at(21))
    assert later.kind is VerdictKind.PASS


def test_an_outage_of_both_proves_nobody_healthy() -> None:
    """Half of everything failed for both: equal, and no reason to let a candidate at 5 % through."""
    outage, after = [(150, 75, 150, 75)] * 20, [(150, 7.5, 150, 0.5)] * 4
    verdict = asked(seen(ERRORS, outage + after))
    assert verdict.kind is not VerdictKind.PASS
    assert verdict.measures[0].equal == 0.0
    assert verdict.measures[0].proved_at is None


def test_a_change_long_after_the_planned_time_is_seen_too() -> None:
    """A rollout that a person paused for a day: its bins are three times as many as planned."""
    short = dataclasses.replace(POLICY, max_duration=timedelta(minutes=30))
    evidence = seen(ERRORS, [(75, 0, 75, 0)] * 360 + [(75, 4, 75, 0)] * 20)
    kinds = [judge([evidence], short, step_since=START, now=at(360 + n)).kind for n in range(21)]
    assert VerdictKind.FAIL in kinds[:12]


def test_a_rollout_that_disagrees_only_where_it_can_be_compared() -> None:
    """Predictions are compared in shadow; a later step has none and is not held up by that."""
    agreement = Objective(name="agreement", sli=Sli.AGREEMENT, target=0.98)
    shadow = seen(agreement, [(500, 1)] * 4 + [(0, 0)] * 4)
    errors = seen(ERRORS, [(500, 0, 500, 0)] * 8)
    assert asked(shadow, errors, step_since=at(4)).kind is VerdictKind.PASS
    assert asked(seen(agreement, [(500, 100)] * 4), errors).kind is VerdictKind.FAIL


def test_the_state_is_one_vector_per_test_and_the_same_from_the_same_bins() -> None:
    evidence = seen(ERRORS, [(500, 5, 500, 2)] * 8)
    (state,) = states([evidence], POLICY, now=at(8))
    assert set(state.stakes) == {"slo", "shared", "alone", "outage", "stable", "proof", "equal"}
    assert all(len(stakes) == GRID_SIZE + 1 for stakes in state.stakes.values())
    assert state.until == at(8)
    assert states([evidence], POLICY, now=at(8)) == (state,)
    assert states([seen(ERRORS, [(1, 0)], AWAY)], POLICY, now=at(8)) == ()


# --- INSUFFICIENT ---------------------------------------------------------------------------------------------


def test_no_objective_is_never_a_pass() -> None:
    verdict = asked()
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert verdict.reasons == ("no objective is judged: nothing can be proved",)


@pytest.mark.parametrize("bins", [[], [(0, 0)], [(0, 0)] * 100])
def test_no_requests_are_no_pass(bins: list[tuple[float, float]]) -> None:
    verdict = asked(seen(ERRORS, bins))
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert verdict.reasons[0].split("; ") == [
        "errors: no requests yet",
        "harm e-value 1 against the SLO, 1 against stable, mean of 2 tests 1 < 100",
        "proof e-value 1 < 100, about 550 good requests",
        "no requests in this step yet",
    ]


def test_a_step_without_requests_is_no_pass_whatever_was_proved_before() -> None:
    verdict = asked(seen(ERRORS, [(5000, 0), (0, 0)]), step_since=at(1))
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert verdict.reasons[0].endswith("; no requests in this step yet")


def test_a_step_whose_weights_are_not_live_is_no_pass() -> None:
    verdict = asked(seen(ERRORS, [(5000, 0)]), step_since=None)
    assert verdict.kind is VerdictKind.INSUFFICIENT
    assert verdict.reasons[0].endswith("; this step's weights are not live yet")


def test_what_lacks_is_said_in_requests_and_time() -> None:
    bins = [(51, 0)] * 4
    verdict = judge([seen(ERRORS, bins)], POLICY, step_since=START, now=at(4))
    assert verdict.kind is VerdictKind.INSUFFICIENT
    # 204 good requests in a minute; 550 are needed.
    assert "proof e-value 4.48 < 100, about 346 more requests at this rate (some 1m42s)" in verdict.reasons[0]


def test_what_lacks_at_a_rate_that_proves_nothing_is_said_without_a_bad_one() -> None:
    verdict = asked(seen(ERRORS, [(204, 4)]))
    assert ", never at this rate, about 1,356 more requests without a bad one (some " in verdict.reasons[0]


def test_a_forecast_beyond_a_month_has_no_figure() -> None:
    assert "(more than 30d)" in asked(seen(dataclasses.replace(ERRORS, target=0.999999), [(51, 0)])).reasons[0]


def test_what_lacks_comes_first() -> None:
    proved, thin = seen(ERRORS, [(5000, 0)]), seen(LATENCY, [(20, 0)])
    assert asked(proved, thin).reasons[0].startswith("latency:")
    assert asked(thin, proved).reasons[0].startswith("latency:")


# --- rules over all verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.005, 0.0099, 0.01])
def test_ten_million_healthy_requests_are_never_a_fail(rate: float) -> None:
    bins = [(10_000, 10_000 * rate)] * 1000
    verdict = asked(seen(ERRORS, bins))
    assert verdict.kind is (VerdictKind.PASS if rate < 0.0099 else VerdictKind.INSUFFICIENT)


@pytest.mark.parametrize("rate", [0.02, 0.5, 1.0])
def test_ten_million_harmful_requests_are_a_fail(rate: float) -> None:
    assert asked(seen(ERRORS, [(10_000, 10_000 * rate)] * 1000)).kind is VerdictKind.FAIL


def test_bins_from_the_future_are_left_out() -> None:
    evidence = seen(ERRORS, [(5000, 0), (5000, 5000)])
    assert judge([evidence], POLICY, step_since=START, now=at(1)).kind is VerdictKind.PASS
    assert judge([evidence], POLICY, step_since=START, now=at(2)).kind is VerdictKind.FAIL


@given(bins=BINS, splits=st.integers(1, 5))
def test_empty_bins_change_nothing(bins: list[tuple[int, int]], splits: int) -> None:
    padded = [part for counts in bins for part in (counts, *[(0, 0)] * splits)]
    assert asked(seen(ERRORS, bins)).kind is asked(seen(ERRORS, padded)).kind


@given(errors=BINS, latency=BINS, since=st.integers(0, 8))
def test_a_pass_is_always_measured_proved_and_clean(
    errors: list[tuple[int, int]], latency: list[tuple[int, int]], since: int
) -> None:
    evidence = [seen(ERRORS, errors), seen(LATENCY, latency)]
    verdict = asked(*evidence, step_since=at(since))
    assert verdict.kind is not VerdictKind.UNAVAILABLE
    assert len(verdict.reasons) >= len(evidence)
    if verdict.kind is VerdictKind.PASS:
        for e in evidence:
            step = e.since(at(since)).candidate
            assert step.total > 0
        assert all(m.proved_at and max(m.harm_slo or 0, m.harm_stable or 0) <= 0 for m in verdict.measures)


@given(errors=BINS, latency=BINS)
def test_a_fail_needs_its_e_value_and_its_effect(errors: list[tuple[int, int]], latency: list[tuple[int, int]]) -> None:
    evidence = [seen(ERRORS, errors), seen(LATENCY, latency)]
    verdict = asked(*evidence)
    if verdict.kind is VerdictKind.FAIL:
        totals = [(e.candidate, e.objective.allowed_bad_rate) for e in evidence]
        assert (verdict.mean_harm or 0) >= 2
        assert any(c.bad > allowed * c.total / 10 for c, allowed in totals if c.total)


@given(errors=BINS, latency=BINS)
def test_the_order_of_objectives_does_not_matter(errors: list[tuple[int, int]], latency: list[tuple[int, int]]) -> None:
    evidence = [seen(ERRORS, errors), seen(LATENCY, latency)]
    assert asked(*evidence).kind is asked(*reversed(evidence)).kind


@given(bins=BINS, more=st.integers(1, 500))
def test_more_bad_requests_never_turn_a_verdict_to_the_better(bins: list[tuple[int, int]], more: int) -> None:
    worse = [(total, min(total, bad + more)) for total, bad in bins]
    order = [VerdictKind.FAIL, VerdictKind.INSUFFICIENT, VerdictKind.PASS]
    assert order.index(asked(seen(ERRORS, worse)).kind) <= order.index(asked(seen(ERRORS, bins)).kind)


def test_every_harm_test_of_every_objective_has_the_same_weight() -> None:
    evidence = [seen(ERRORS, [(1204, 31)]), seen(LATENCY, [(1204, 100)])]
    findings = [find(e, POLICY, step_since=START, now=START + timedelta(hours=1)) for e in evidence]
    mean = sum(math.exp(h) for f in findings for h in f.counted) / 4
    assert mean_harm(findings) == pytest.approx(math.log(mean))


def test_an_objective_that_allows_everything_or_nothing_is_refused() -> None:
    for target in (0.0, 1.0):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            asked(seen(dataclasses.replace(ERRORS, target=target), [(100, 0)]))


# --- the words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "1"),
        (100.0, "100"),
        (20.0, "20"),
        (99.99, "99.9"),
        (85.19, "85.1"),
        (0.02139, "0.0213"),
        (0.00162, "0.00162"),
        (1239.0, "1,230"),
        (9999.0, "9,990"),
        (10_000.0, "1.0e4"),
        (4.19e6, "4.1e6"),
        (9.99e-5, "9.9e-5"),
        (1 / 0.03, "33.3"),
    ],
)
def test_e_values_are_read_at_a_glance_and_never_too_large(value: float, words: str) -> None:
    assert e_value(math.log(value)) == words


def test_e_values_beyond_any_double_have_words_too() -> None:
    assert e_value(1000 * math.log(10)) == "1.0e1000"
    assert e_value(-1000 * math.log(10)) == "1.0e-1000"
    assert e_value(-math.inf) == "0"


def test_counts_of_parts_of_requests_are_not_rounded_away() -> None:
    assert asked(seen(ERRORS, [(100.5, 0.5)])).reasons[0].startswith("errors: 0.5 bad of 100.5 (0.498 %)")
