"""Sentences of the design that are no numbered rule, and other tools' traps: a test with the words of each.

The rest of them: tests/unit/test_rollout.py (rules 1 to 12), test_wishes.py, test_stopping.py, test_budget.py and
test_waits.py; the registry's part is in tests/contracts/test_registry_contract.py, lint's in test_consistency.py.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from policies.actions import Restore, WriteRelease
from policies.convergence import Failed
from policies.documents import Bake
from policies.evidence import Counts
from policies.release import Ask, Cause, CauseKind, Phase, Wish
from policies.rollout import decide
from policies.stored_documents import parse_release, release_text
from policies.verdict import VerdictKind
from policies.wishes import in_vain
from tests.unit.releases import (
    FAILING,
    HEALTHY,
    MINUTE,
    NOW,
    RULES,
    THIN,
    application,
    evidence,
    in_phase,
    observed,
    only,
    rolling,
    ruled,
    steady,
    versions,
    written,
)

# --- the design's words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.SETTLING, Phase.PAUSED])
def test_a_head_that_is_down_does_not_hold_up_a_rollback_and_moves_toward_safety_always_commit(phase):
    facts = observed(evidence=FAILING, out_of_place="Ray cannot be seen: no answer", runtime_reason="no answer")
    assert written(decide(in_phase(phase), facts, RULES, NOW)).phase is Phase.ROLLING_BACK


def test_a_candidate_that_cannot_start_does_not_hold_up_a_rollback():
    facts = observed(candidate=Failed(message="ImportError"), out_of_place="fraud--v2: DEPLOY_FAILED")
    assert written(decide(in_phase(Phase.WARMING), facts, RULES, NOW)).phase is Phase.ROLLING_BACK


def test_what_is_wanted_is_what_newly_entered_so_our_own_restore_never_undoes_a_person():
    """After a rollback v1 is at the trigger again by our hand, the newest transition there is: it starts nothing."""
    after = steady(1, seen=(2,))
    ours = decide(after, observed(versions(v1="Production", v2="Archived")), RULES, NOW)
    assert [w.release.candidate for w in only(WriteRelease, ours)] in ([], [None])
    persons = written(decide(after, observed(versions(v1="Production", v3="Production")), RULES, NOW))
    assert persons.candidate == application(3)


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY])
def test_while_stable_itself_breaches_its_slo_harm_against_the_slo_alone_pauses_and_does_not_blame_the_candidate(phase):
    both_bad = (evidence(total=6000, bad=300, stable_bad=300),)
    soon = Bake(min_duration=MINUTE, max_duration=10 * MINUTE)
    rules = ruled(shadow=soon, step=soon)
    first = decide(in_phase(phase), observed(evidence=both_bad), rules, NOW)
    assert not [w for w in only(WriteRelease, first) if w.release.phase is Phase.ROLLING_BACK]
    paused = written(decide(in_phase(phase), observed(evidence=both_bad), rules, NOW + 5 * MINUTE))
    assert (paused.phase, paused.rollout.cause.kind, paused.quarantine) == (Phase.PAUSED, CauseKind.INCONCLUSIVE, ())


def test_with_no_stable_version_to_return_to_a_first_rollout_that_fails_stops_at_0_and_says_so():
    first = rolling(Phase.SETTLING, weight=100, stable=None, candidate=application(1), seen=(1,))
    facts = observed(versions(v1="Production"), evidence=FAILING)
    actions = decide(first, facts, RULES, NOW)
    assert (written(actions).phase, written(actions).weight_percent) == (Phase.ROLLING_BACK, 0)
    assert written(actions).rollout.cause.reasons


def test_tags_are_the_environments_own():
    said = [a for a in decide(steady(1), observed(), RULES, NOW) if hasattr(a, "tags")]
    assert said
    assert all(key.startswith("sluice.production.") for a in said for key in a.tags)


# --- traps of others ----------------------------------------------------------------------------------------------


def test_trap_an_abort_is_ignored_after_a_full_promote():
    """At 100 % an abort still acts; once it is stable, it is refused in words and an undo does it."""
    ask = Ask(wish=Wish.ABORT, by="Ada", why="x")
    full = in_phase(Phase.SETTLING, ask=ask)
    assert written(decide(full, observed(evidence=HEALTHY), RULES, NOW)).phase is Phase.ROLLING_BACK
    assert "no rollout is running" in in_vain(steady(2, served=(application(1),)), ask)
    assert not in_vain(steady(2, served=(application(1),)), dataclasses.replace(ask, wish=Wish.UNDO))


@pytest.mark.parametrize("wish", [Wish.PAUSE, Wish.RESUME, Wish.PROMOTE])
@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.PAUSED, Phase.SETTLING])
def test_trap_failures_counted_but_not_acted_on_while_an_approval_is_pending(phase, wish):
    asked = in_phase(phase, ask=Ask(wish=wish, by="Ada", why="x"))
    assert written(decide(asked, observed(evidence=FAILING), RULES, NOW)).phase is Phase.ROLLING_BACK


def test_trap_cumulative_failure_counts_that_a_good_check_never_resets():
    """Twenty bad answers an hour ago, each minute since then good: that is no failure any more, and it passes."""
    early, since = evidence(total=1500, bad=20, stable_bad=15, ends=NOW - 6 * MINUTE), evidence(total=30_000, bad=60)
    since = dataclasses.replace(
        since, bins=tuple(dataclasses.replace(b, stable=Counts(b.stable.total, 2.5)) for b in since.bins)
    )
    seen = (dataclasses.replace(since, bins=(*early.bins, *since.bins)),)
    release = written(decide(in_phase(Phase.CANARY), observed(evidence=seen), RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.CANARY, 25)


@pytest.mark.parametrize("phase", [Phase.CANARY, Phase.SETTLING])
def test_trap_rollback_by_the_same_slow_clock_as_the_way_up(phase):
    release = written(decide(in_phase(phase), observed(evidence=FAILING), RULES, NOW))
    assert (release.weight_percent, release.phase) == (0, Phase.ROLLING_BACK)


def test_trap_a_run_re_created_after_a_pause_is_lifted_that_promotes_by_accident():
    """What is resumed keeps its share and has its minimum time before it again; nothing of it is a PASS."""
    asked = in_phase(Phase.PAUSED, ask=Ask(wish=Wish.RESUME, by="Ada", why="x"))
    resumed = written(decide(asked, observed(evidence=HEALTHY), RULES, NOW))
    assert (resumed.phase, resumed.weight_percent, resumed.rollout.records[-2].verdict) == (Phase.CANARY, 10, None)
    live = dataclasses.replace(
        resumed,
        rollout=dataclasses.replace(
            resumed.rollout,
            records=(*resumed.rollout.records[:-1], dataclasses.replace(resumed.rollout.current, live_since=NOW)),
        ),
    )
    assert not only(WriteRelease, decide(live, observed(evidence=HEALTHY), RULES, NOW + MINUTE))


def test_trap_a_restart_in_the_middle_of_a_rollback_loses_it():
    """Another process reads the release from Git and goes on: nothing else is known of it."""
    going = written(decide(in_phase(Phase.CANARY), observed(evidence=FAILING), RULES, NOW))
    read = parse_release(release_text(going))
    assert read == going
    live = decide(read, observed(), RULES, NOW + MINUTE)
    assert written(live).rollout.current.live_since == NOW + MINUTE
    (move,) = only(Restore, decide(written(live), observed(), RULES, NOW + 2 * MINUTE))
    assert (move.candidate, move.stable) == (2, 1)


def test_trap_ended_with_nothing_measured_is_no_success():
    rules = ruled(step=Bake(min_duration=MINUTE, max_duration=5 * MINUTE))
    for seen in ((), (evidence(total=0),), THIN):
        release = written(decide(in_phase(Phase.CANARY), observed(evidence=seen), rules, NOW))
        assert (release.phase, release.weight_percent) == (Phase.PAUSED, 10)
        assert release.rollout.records[-2].verdict is not VerdictKind.PASS


def test_trap_a_bad_version_that_a_person_took_out_is_written_back_by_nobody():
    cause = Cause(kind=CauseKind.WITHDRAWN, reasons=("v2 was taken out",))
    going = rolling(Phase.ROLLING_BACK, cause=cause, seen=(1,))
    ended = decide(going, observed(versions(v1="Production", v2="Archived")), RULES, NOW + timedelta(minutes=1))
    assert not only(Restore, ended)
    assert written(ended).phase is Phase.STEADY
