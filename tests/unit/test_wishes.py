"""What people ask of a release, as the next look carries it out. Rules 14, 15, 16 and 21 of policies/rollout.py."""

from __future__ import annotations

import dataclasses

import pytest

from policies.actions import Restore, WriteHistory, WriteRelease
from policies.application import Settings
from policies.documents import Trigger
from policies.moving import SERVED_KEPT
from policies.observations import RegisteredVersion
from policies.promotion import at_trigger
from policies.release import Ask, Cause, CauseKind, Outcome, Phase, Purpose, Quarantined, Release, Wish
from policies.rollout import decide
from policies.stored_documents import parse_release, release_text
from policies.verdict import VerdictKind
from policies.wishes import in_vain, only_asks
from tests.unit.releases import (
    AWAY,
    FAILING,
    HEALTHY,
    MINUTE,
    NOW,
    PRODUCTION,
    RULES,
    THIN,
    application,
    digest,
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

ONLY_V2 = versions(v1="Archived", v2="Production")


def asks(wish: Wish, version: int | None = None) -> Ask:
    return Ask(wish=wish, by="Ada", why="she knows why", version=version)


def quarantined(version: int, **settings) -> Quarantined:
    stopped = application(version, **settings)
    return Quarantined(
        version=version, digest=stopped.digest, build=stopped.build, rollout="r1", since=NOW, reasons=("bad",)
    )


def promoted() -> Release:
    """v2 serves, v1 did before, and the registry says so."""
    return steady(2, seen=(2,), served=(application(1),))


# --- promote ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "following", "weight"),
    [
        (Phase.SHADOW, Phase.CANARY, 5),
        (Phase.CANARY, Phase.CANARY, 25),
        (Phase.PAUSED, Phase.CANARY, 25),
        (Phase.SETTLING, Phase.STEADY, 0),
    ],
)
def test_rule_14_a_person_goes_on_to_the_next_step_without_the_analysis_and_the_commit_says_so(
    phase, following, weight
):
    """Trap: "promote" that skips the analysis without saying so."""
    asked = in_phase(phase, ask=asks(Wish.PROMOTE))
    actions = decide(asked, observed(evidence=THIN), RULES, NOW)
    (write,) = only(WriteRelease, actions)
    assert (write.release.phase, write.release.weight_percent, write.release.ask) == (following, weight, None)
    assert "Ada asked to go on without the analysis: she knows why" in write.reasons
    assert "skipped: INSUFFICIENT" in write.reasons
    assert "by a person" in write.subject
    if write.release.rollout:
        assert write.release.rollout.records[-2].verdict is VerdictKind.INSUFFICIENT
        assert "Ada asked to go on without the analysis: she knows why" in write.release.rollout.records[-2].reasons


def test_rule_14_a_person_who_ends_the_time_at_100_makes_it_stable_and_the_record_says_who():
    actions = decide(in_phase(Phase.SETTLING, ask=asks(Wish.PROMOTE)), observed(evidence=THIN), RULES, NOW)
    (history,) = only(WriteHistory, actions)
    assert history.record.outcome is Outcome.PROMOTED
    assert any("Ada asked to go on" in reason for reason in history.record.phases[-1].reasons)


def test_rule_14_a_person_ends_the_last_step_at_100_percent():
    last = rolling(Phase.CANARY, weight=50, step=3, ask=asks(Wish.PROMOTE))
    release = written(decide(last, observed(evidence=THIN), RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.SETTLING, 100)


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.SETTLING, Phase.PAUSED])
def test_rule_14_harm_still_takes_it_back(phase):
    asked = in_phase(phase, ask=asks(Wish.PROMOTE))
    release = written(decide(asked, observed(evidence=FAILING), RULES, NOW))
    assert (release.phase, release.weight_percent, release.ask) == (Phase.ROLLING_BACK, 0, None)


def test_rule_14_an_unmeasured_step_can_be_skipped_by_a_person_only():
    asked = in_phase(Phase.CANARY, ask=asks(Wish.PROMOTE))
    release = written(decide(asked, observed(evidence=AWAY, unavailable_since=NOW), RULES, NOW))
    assert (release.phase, release.weight_percent) == (Phase.CANARY, 25)
    assert release.rollout.records[-2].verdict is VerdictKind.UNAVAILABLE


def test_rule_14_a_wish_to_promote_waits_until_the_weights_are_live_and_is_not_lost():
    asked = rolling(Phase.CANARY, weight=10, step=1, live=False, ask=asks(Wish.PROMOTE))
    assert not only(WriteRelease, decide(asked, observed(evidence=THIN, out_of_place="UPDATING"), RULES, NOW))
    live = written(decide(asked, observed(evidence=THIN), RULES, NOW))
    assert (live.weight_percent, live.ask) == (10, asked.ask)
    assert written(decide(live, observed(evidence=THIN), RULES, NOW)).weight_percent == 25


def test_rule_14_a_paused_rollout_that_is_promoted_waits_for_ray_and_says_so():
    asked = in_phase(Phase.PAUSED, ask=asks(Wish.PROMOTE))
    actions = decide(asked, observed(evidence=THIN, out_of_place="host: UPDATING"), RULES, NOW)
    assert not only(WriteRelease, actions)
    assert reason(actions) == "Ada asked to go on without the analysis; first Ray must match Git: host: UPDATING"


def test_rule_14_who_promotes_a_rollout_past_its_maximum_gives_it_its_whole_time_again():
    rules = ruled(max_duration=5 * MINUTE)
    paused = written(decide(in_phase(Phase.CANARY), observed(evidence=THIN), rules, NOW))
    asked = dataclasses.replace(paused, ask=asks(Wish.PROMOTE))
    on = written(decide(asked, observed(evidence=THIN), rules, NOW + MINUTE))
    assert (on.phase, on.weight_percent, on.rollout.clock_since) == (Phase.CANARY, 25, NOW + MINUTE)


# --- undo ---------------------------------------------------------------------------------------------------------


def test_rule_15_an_undo_starts_what_served_before_as_it_served():
    asked = dataclasses.replace(promoted(), ask=asks(Wish.UNDO))
    release = written(decide(asked, observed(ONLY_V2), ruled(settings=Settings(cpus=4)), NOW))
    assert (release.phase, release.candidate, release.ask) == (Phase.WARMING, application(1), None)
    assert (release.rollout.purpose, release.rollout.asked_by) == (Purpose.UNDO, "Ada")
    assert "Ada asked to undo: she knows why" in release.rollout.records[0].reasons


def undoing(phase: Phase, **fields) -> Release:
    """v1 on its way back over v2, by a person's wish; the registry shows v2."""
    weight = {Phase.CANARY: 50, Phase.SETTLING: 100}.get(phase, 0)
    known = {"stable": application(2), "candidate": application(1), "seen": (2,), "served": (application(1),)}
    wish = {"purpose": Purpose.UNDO, "asked_by": "Ada"}
    return rolling(phase, weight=weight, step=3 if phase is Phase.CANARY else 0, **{**known, **wish, **fields})


def test_rule_15_an_undo_has_one_step_the_last_share_and_is_judged_there():
    warm = written(decide(undoing(Phase.WARMING), observed(ONLY_V2), RULES, NOW))
    assert (warm.phase, warm.weight_percent) == (Phase.CANARY, 50)
    thin = decide(undoing(Phase.CANARY), observed(ONLY_V2, evidence=THIN), RULES, NOW)
    assert not only(WriteRelease, thin)
    passed = written(decide(undoing(Phase.CANARY), observed(ONLY_V2, evidence=HEALTHY), RULES, NOW))
    assert (passed.phase, passed.weight_percent) == (Phase.SETTLING, 100)


def test_rule_15_an_undo_that_fails_goes_back_to_stable_and_no_undo_leads_there_again():
    release = written(decide(undoing(Phase.CANARY), observed(ONLY_V2, evidence=FAILING), RULES, NOW))
    assert (release.phase, release.stable) == (Phase.ROLLING_BACK, application(2))
    assert ([q.version for q in release.quarantine], release.served) == ([1], ())


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.CANARY])
def test_rule_15_a_version_that_a_person_asked_for_is_not_taken_out_by_not_being_at_the_trigger(phase):
    for write in only(WriteRelease, decide(undoing(phase), observed(ONLY_V2, evidence=THIN), RULES, NOW)):
        assert write.release.phase is not Phase.ROLLING_BACK


def test_rule_15_at_100_the_registry_follows():
    (move,) = only(Restore, decide(undoing(Phase.SETTLING), observed(ONLY_V2, evidence=THIN), RULES, NOW))
    assert (move.candidate, move.stable) == (2, 1)


@pytest.mark.parametrize(
    ("registry", "rules"),
    [
        (versions(v1="Production", v2="Archived"), RULES),
        (versions(v1="Production", v2="Production"), RULES),
        (versions(v1="Archived", v2="Archived"), RULES),
        (versions(v1="Staging", v2="Production"), RULES),
        (ONLY_V2, ruled(on_rollback="annotate")),
    ],
)
def test_rule_15_the_registry_does_not_follow_against_a_person(registry, rules):
    """It agrees already, a person moved one since, it serves elsewhere, or another environment writes."""
    assert not only(Restore, decide(undoing(Phase.SETTLING), observed(registry, evidence=THIN), rules, NOW))


def test_rule_15_who_takes_the_version_out_after_the_registry_followed_ends_the_undo():
    followed = undoing(Phase.SETTLING, seen=(1,))
    release = written(decide(followed, observed(ONLY_V2, evidence=THIN), RULES, NOW))
    assert (release.phase, release.rollout.cause.kind) == (Phase.ROLLING_BACK, CauseKind.WITHDRAWN)


def test_rule_15_an_undo_of_an_undo_goes_back_further():
    served = (application(1), application(2))
    two = undoing(Phase.SETTLING, stable=application(3), candidate=application(2), served=served, seen=(3,))
    release = written(decide(two, observed(versions(v3="Production"), evidence=HEALTHY), RULES, NOW))
    assert (release.stable, release.served) == (application(2), (application(1),))


def test_rule_15_a_person_who_promotes_an_older_version_that_served_before_gets_a_fast_undo():
    """One step, still guarded. The older version is at the trigger by a person's hand."""
    release = written(decide(promoted(), observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert (release.candidate, release.rollout.purpose, release.rollout.asked_by) == (application(1), Purpose.UNDO, "")
    warm = written(decide(release, observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert (warm.phase, warm.weight_percent) == (Phase.CANARY, 50)
    failed = written(decide(undoing(Phase.CANARY), observed(ONLY_V2, evidence=FAILING), RULES, NOW))
    assert failed.phase is Phase.ROLLING_BACK


@pytest.mark.parametrize(
    "release",
    [
        dataclasses.replace(promoted(), served=()),
        dataclasses.replace(promoted(), quarantine=(quarantined(1),)),
        steady(2, seen=(2,), served=(dataclasses.replace(application(1), digest=digest(9)),)),
    ],
)
def test_rule_15_an_older_version_that_did_not_serve_or_was_stopped_since_takes_every_step(release):
    release = written(decide(release, observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert (release.candidate.version, release.rollout.purpose) == (1, None)


def test_rule_15_what_was_undone_takes_every_step_when_it_is_promoted_again():
    undone = steady(1, seen=(1,), served=())
    release = written(decide(undone, observed(versions(v1="Archived", v2="Production")), RULES, NOW))
    assert (release.candidate.version, release.rollout.purpose) == (2, None)


def test_rule_15_new_settings_that_a_person_undid_do_not_start_again_by_themselves():
    wide = application(1, cpus=2)
    settling = undoing(Phase.SETTLING, stable=wide, candidate=application(1), seen=(1,), served=(application(1),))
    facts = observed(versions(v1="Production"), evidence=HEALTHY)
    undone = written(decide(settling, facts, ruled(settings=Settings(cpus=2)), NOW))
    assert (undone.phase, undone.stable) == (Phase.STEADY, application(1))
    again = decide(undone, observed(versions(v1="Production")), ruled(settings=Settings(cpus=2)), NOW)
    assert not only(WriteRelease, again)
    assert "not tried again" in reason(again)


def test_rule_15_an_undo_needs_neither_the_registry_nor_a_healthy_stable_version():
    """Trap: a stable that is already bad blocks its own fix."""
    asked = dataclasses.replace(promoted(), ask=asks(Wish.UNDO))
    facts = dataclasses.replace(observed(out_of_place="fraud--v2: UNHEALTHY"), versions=None, registry_reason="down")
    assert written(decide(asked, facts, RULES, NOW)).candidate == application(1)


def test_what_served_is_remembered_at_the_promotion_five_deep():
    before = tuple(application(n) for n in range(10, 10 + SERVED_KEPT))
    settling = in_phase(Phase.SETTLING, served=before)
    release = written(decide(settling, observed(evidence=HEALTHY), RULES, NOW))
    assert release.served == (*before[1:], application(1))
    assert parse_release(release_text(release)) == release


# --- retry and lift -----------------------------------------------------------------------------------------------


def test_rule_16_a_version_that_was_stopped_is_tried_again_on_fresh_evidence_with_every_step():
    """Trap: a retry that reuses the old failed analysis."""
    failed = (dataclasses.replace(FAILING[0]), FAILING[1])
    stopped = steady(1, seen=(1,), quarantine=(quarantined(2),), ask=asks(Wish.RETRY, 2))
    release = written(decide(stopped, observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert (release.phase, release.candidate, release.quarantine) == (Phase.WARMING, application(2), ())
    assert (release.rollout.purpose, release.rollout.traffic_since) == (None, None)
    shadow = written(decide(release, observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert shadow.phase is Phase.SHADOW
    live = written(decide(shadow, observed(versions(v1="Production", v2="Archived"), evidence=failed), RULES, NOW))
    assert (live.phase, live.rollout.traffic_since) == (Phase.SHADOW, NOW)


def test_rule_16_a_retry_of_a_version_that_is_gone_is_dropped_in_words():
    asked = steady(1, quarantine=(quarantined(2),), ask=asks(Wish.RETRY, 2))
    (write,) = only(WriteRelease, decide(asked, observed(versions(v1="Production")), RULES, NOW))
    assert (write.release.phase, write.release.ask) == (Phase.STEADY, None)
    assert "refused" in write.subject
    assert "has no v2 in the registry" in write.subject


def test_rule_16_a_retry_lifts_the_digest_too_under_whatever_number_it_was_stopped():
    same = dataclasses.replace(quarantined(2), digest=digest(3))
    asked = steady(1, quarantine=(same,), ask=asks(Wish.RETRY, 3))
    release = written(decide(asked, observed(versions(v1="Production", v3="Archived")), RULES, NOW))
    assert (release.phase, release.candidate.version) == (Phase.WARMING, 3)


def test_rule_16_at_100_a_retried_version_takes_the_trigger_too():
    settling = in_phase(Phase.SETTLING, asked_by="Ada", seen=(1,))
    (move,) = only(Restore, decide(settling, observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert (move.candidate, move.stable) == (1, 2)


def test_rule_16_a_retry_of_stables_settings_lets_them_start():
    rules = ruled(settings=Settings(cpus=2))
    asked = steady(1, quarantine=(quarantined(1, cpus=2),), ask=asks(Wish.RETRY, 1))
    release = written(decide(asked, observed(versions(v1="Production")), rules, NOW))
    assert (release.phase, release.candidate) == (Phase.WARMING, application(1, cpus=2))


def test_rule_16_a_lifted_version_that_is_at_the_trigger_is_tried():
    asked = steady(1, seen=(1, 2), quarantine=(quarantined(2),), ask=asks(Wish.LIFT, 2))
    release = written(decide(asked, observed(), RULES, NOW))
    assert (release.phase, release.candidate.version, release.quarantine) == (Phase.WARMING, 2, ())


def test_rule_16_a_lifted_version_that_is_not_there_waits_until_it_enters():
    asked = steady(1, seen=(1,), quarantine=(quarantined(2),), ask=asks(Wish.LIFT, 2))
    (write,) = only(WriteRelease, decide(asked, observed(versions(v1="Production", v2="Archived")), RULES, NOW))
    assert (write.release.phase, write.release.quarantine, write.release.ask) == (Phase.STEADY, (), None)
    assert write.subject == "v2 is lifted from the quarantine; Ada: she knows why"
    assert written(decide(write.release, observed(), RULES, NOW)).candidate.version == 2


def test_rule_16_a_version_can_be_lifted_while_another_is_on_its_way():
    running = in_phase(Phase.CANARY, quarantine=(quarantined(7),), ask=asks(Wish.LIFT, 7))
    release = written(decide(running, observed(evidence=THIN), RULES, NOW))
    assert (release.phase, release.weight_percent, release.quarantine) == (Phase.CANARY, 10, ())


# --- in vain ------------------------------------------------------------------------------------------------------

STARTS = [Wish.UNDO, Wish.RETRY]
OF_A_ROLLOUT = [Wish.PAUSE, Wish.RESUME, Wish.ABORT, Wish.PROMOTE]


@pytest.mark.parametrize(
    ("release", "ask", "words"),
    [
        *((steady(1), asks(wish), "no rollout is running") for wish in OF_A_ROLLOUT),
        *((in_phase(Phase.ROLLING_BACK), asks(wish), "on its way back") for wish in OF_A_ROLLOUT),
        *((in_phase(Phase.CANARY), asks(wish, 7), "v2 is on its way; abort it") for wish in STARTS),
        (in_phase(Phase.CANARY), asks(Wish.RESUME), "not paused"),
        (in_phase(Phase.PAUSED), asks(Wish.PAUSE), "paused already"),
        (in_phase(Phase.WARMING), asks(Wish.PROMOTE), "is not warm"),
        (rolling(Phase.PAUSED, paused_from=Phase.WARMING), asks(Wish.PROMOTE), "is not warm"),
        (steady(1), asks(Wish.UNDO), "nothing to go back to"),
        (steady(1), asks(Wish.RETRY), "say with --version"),
        (steady(1), asks(Wish.RETRY, 1), "already"),
        (steady(1), asks(Wish.LIFT, 7), "there is nothing"),
        (steady(1, quarantine=(quarantined(2),)), asks(Wish.LIFT, 7), "there is v2"),
        (steady(1), asks(Wish.LIFT), "needs --version"),
    ],
)
def test_rule_21_a_wish_that_would_change_nothing_is_refused_and_dropped_in_words(release, ask, words):
    assert words in in_vain(release, ask)
    asked = dataclasses.replace(release, ask=ask)
    for write in only(WriteRelease, decide(asked, observed(versions(v1="Production", v2="Production")), RULES, NOW)):
        assert write.release.ask is None
        assert words in " ".join((write.subject, *write.reasons))


@pytest.mark.parametrize("wish", Wish)
def test_rule_21_no_wish_outlives_a_look_in_which_everything_answers(wish):
    known = {"quarantine": (quarantined(7),), "served": (application(9),)}
    registry = versions(v1="Production", v2="Production", v7="Archived", v9="Archived")
    for phase in Phase:
        release = steady(1, **known) if phase is Phase.STEADY else in_phase(phase, **known)
        asked = dataclasses.replace(release, seen=(1, 2), ask=asks(wish, 7))
        assert written(decide(asked, observed(registry, evidence=THIN), RULES, NOW)).ask is None, phase


def test_rule_21_a_wish_that_a_revert_brings_back_was_carried_out_already():
    before = in_phase(Phase.WARMING, revision=9)
    reverted = dataclasses.replace(promoted(), revision=8, ask=asks(Wish.UNDO))
    facts = observed(ONLY_V2, taken_back_from=before, taken_back_by="Ada")
    release = written(decide(reverted, facts, RULES, NOW))
    assert (release.phase, release.ask) == (Phase.STEADY, None)


def test_rule_21_a_person_may_write_the_wish_into_the_release_by_hand():
    release = in_phase(Phase.CANARY)
    by_hand = dataclasses.replace(release, ask=asks(Wish.PROMOTE))
    assert only_asks(release, by_hand)
    assert not only_asks(release, dataclasses.replace(by_hand, weight_percent=50))
    assert not only_asks(by_hand, by_hand)


def test_an_alias_follows_an_undo_too():
    rules = ruled(trigger=Trigger(alias="champion"))
    registry = {
        1: RegisteredVersion(number=1, stage="None"),
        2: RegisteredVersion(number=2, stage="None", aliases=frozenset({"champion"})),
    }
    (move,) = only(Restore, decide(undoing(Phase.SETTLING), observed(registry, evidence=THIN), rules, NOW))
    assert (move.candidate, move.stable) == (2, 1)


def test_a_rollback_of_an_undo_gives_the_trigger_back():
    cause = Cause(kind=CauseKind.FAILED, reasons=("harm",))
    back = undoing(Phase.ROLLING_BACK, cause=cause, seen=(1,))
    registry = versions(v1="Production", v2="Archived")
    assert at_trigger(PRODUCTION, registry) == {1}
    (move,) = only(Restore, decide(back, observed(registry), RULES, NOW))
    assert (move.candidate, move.stable) == (1, 2)


# --- a stop that waits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.PAUSED, Phase.SETTLING])
@pytest.mark.parametrize("wish", [wish for wish in Wish if wish is not Wish.ABORT])
def test_an_abort_that_waits_for_the_next_look_is_replaced_by_no_other_wish(phase, wish):
    waiting = in_phase(phase, ask=asks(Wish.ABORT))
    assert in_vain(waiting, Ask(wish=wish, by="Bob", why="he thinks otherwise", version=2)) == (
        "waits for the next look, which carries out the wish of Ada to abort"
    )
    assert written(decide(waiting, observed(), RULES, NOW)).phase is Phase.ROLLING_BACK


def test_an_abort_replaces_whatever_waits_and_another_abort_too():
    for wish in (Wish.PROMOTE, Wish.PAUSE, Wish.ABORT):
        waiting = in_phase(Phase.CANARY, ask=asks(wish))
        assert not in_vain(waiting, Ask(wish=Wish.ABORT, by="Bob", why="it hurts"))
