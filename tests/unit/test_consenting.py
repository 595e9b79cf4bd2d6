"""Which steps people must agree to, and what follows from what a forge shows of their answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from policies.actions import AskConsent, TellReviewers, UseConsent, Wait, WithdrawConsent
from policies.admission import Check, CheckOutcome
from policies.application import Settings
from policies.consent import Consent, ConsentLook, Outdated
from policies.consent_words import WITHDRAWN, body, withdrawn
from policies.consenting import consented, foreseen, outdated
from policies.errors import BadInput
from policies.facts import Idle, Noticed, Observed, Rules, Signal, Start
from policies.layout import Place, locate
from policies.model_signatures import Column, Signature, Type
from policies.observations import VersionFacts
from policies.pull_requests import Approval, PullRequest, PullRequestState
from policies.release import Ask, Phase, Purpose, Refused, Release, Wish
from policies.rollout import decide
from policies.stored_documents import parse_release, release_text
from policies.strict_yaml import parse
from tests.unit.releases import (
    AWAY,
    FAILING,
    NOW,
    RULES,
    application,
    observed,
    reason,
    rolling,
    steady,
    versions,
    written,
)

REQUIRED = dataclasses.replace(RULES, review="required")
EVERY_STEP = dataclasses.replace(RULES, review="every_step")
HEAD, OLD = "b" * 40, "a" * 40
START = Start(candidate=application(2), reasons=("v2 entered",))
STARTED = Noticed(signal=Signal.STARTED, start=START, reasons=START.reasons)
PASSED = Noticed(signal=Signal.PASSED, reasons=("errors: PASS",))


def consent(release: Release, seen: Observed | None = None, rules: Rules = REQUIRED) -> Consent:
    found = foreseen(release, seen or observed(), rules)
    assert found is not None
    return found


def pull(state: PullRequestState = PullRequestState.OPEN, **fields: Any) -> PullRequest:
    known: dict[str, Any] = {
        "number": 7,
        "url": "https://forge/7",
        "branch": "b",
        "base": "main",
        "head": HEAD,
        "state": state,
        "title": "t",
        "body": "b",
        "author": "sluice",
    }
    return PullRequest(**{**known, **fields})


OPEN, MERGED, CLOSED = (pull(state) for state in PullRequestState)
FRESH, STALE = Approval(by="ada", commit=HEAD), Approval(by="ada", commit=OLD)


def looked(release: Release, rules: Rules = REQUIRED, given: str | None = None, **look: Any) -> Observed:
    """As the forge shows it; with `given` the consent lies at the tip."""
    asked = consent(release, rules=rules)
    shown = ConsentLook(**{"consent": asked, "head": HEAD, "head_text": asked.text, **look})
    return observed(consent=shown, consent_given=asked.text if given == "" else given)


def outcome(release: Release, noticed: Noticed, seen: Observed, rules: Rules = REQUIRED) -> tuple[Any, tuple[Any, ...]]:
    return consented(release, noticed, seen, rules)


# --- the document -------------------------------------------------------------------------------------------------


def test_a_consent_has_one_branch_one_place_and_one_text():
    asked = consent(steady())
    build = application(2).build
    assert asked.branch == f"sluice/production/fraud/v2-{build}"
    assert asked.path == "environments/production/consents/fraud.yaml"
    located = locate(asked.path)
    assert located is not None
    assert (located.place, located.environment, located.slug) == (Place.CONSENT, "production", "fraud")
    said = parse(asked.text, asked.path).data
    assert said == {
        "apiVersion": "sluicegate/v1",
        "kind": "Consent",
        "model": "fraud",
        "environment": "production",
        "version": 2,
        "digest": application(2).digest,
        "build": build,
        "to": "start",
    }


def test_other_settings_and_other_steps_are_other_questions():
    other = dataclasses.replace(REQUIRED, settings=Settings(cpus=2))
    step = consent(rolling(Phase.CANARY, weight=10), rules=EVERY_STEP)
    branches = {consent(steady()).branch, consent(steady(), rules=other).branch, step.branch}
    assert len(branches) == 3
    assert step.branch == "sluice/production/fraud/r1-to-25"


def test_a_model_with_any_name_has_a_branch_that_git_takes():
    release = Release(model="../Fraud model:*", environment="production")
    start = Start(candidate=application(2), reasons=())
    asked, _ = consented(release, Noticed(signal=Signal.STARTED, start=start), observed(), REQUIRED)
    assert isinstance(asked, Idle)
    place = Consent(model=release.model, environment="production", version=2, digest="", build="0a")
    assert set(place.branch) <= set("abcdefghijklmnopqrstuvwxyz0123456789/-")
    with pytest.raises(BadInput):
        _ = dataclasses.replace(place, environment="../main").path


# --- what is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "rules", "to"),
    [
        (steady(), RULES, None),
        (steady(), REQUIRED, "start"),
        (steady(None, seen=(1,)), REQUIRED, "start"),
        (rolling(Phase.CANARY, weight=10), REQUIRED, None),
        (rolling(Phase.SHADOW), EVERY_STEP, "5"),
        (rolling(Phase.CANARY, weight=10), EVERY_STEP, "25"),
        (rolling(Phase.CANARY, weight=50), EVERY_STEP, "100"),
        (rolling(Phase.SETTLING, weight=100), EVERY_STEP, "stable"),
        (rolling(Phase.WARMING), EVERY_STEP, None),
        (rolling(Phase.PAUSED, weight=10), EVERY_STEP, None),
        (rolling(Phase.ROLLING_BACK), EVERY_STEP, None),
        (rolling(Phase.CANARY, weight=50, purpose=Purpose.UNDO), EVERY_STEP, None),
    ],
)
def test_what_gives_a_candidate_more_is_asked_and_nothing_else(release, rules, to):
    asked = foreseen(release, observed(), rules)
    assert (asked.to if asked else None) == to


def test_an_undo_asks_nobody_and_an_emergency_does():
    back = steady(2, served=(application(1),), seen=(1, 2), ask=Ask(wish=Wish.UNDO, by="Ada", why="it is slow"))
    assert foreseen(back, observed(), REQUIRED) is None
    emergency = Start(candidate=application(2), reasons=(), purpose=Purpose.EMERGENCY)
    waits, _ = outcome(steady(), Noticed(signal=Signal.STARTED, start=emergency), observed())
    assert isinstance(waits, Idle)


@pytest.mark.parametrize("signal", [Signal.STOPPED, Signal.HALTED, Signal.LIVE, Signal.SKIPPED, Signal.ENDED])
def test_what_goes_back_and_what_a_person_wished_goes_on_without_a_look_at_the_forge(signal):
    noticed = Noticed(signal=signal)
    assert outcome(rolling(Phase.CANARY, weight=10), noticed, observed(), EVERY_STEP) == (noticed, ())


def test_rule_22_a_version_is_not_started_before_people_agree_and_is_then():
    release = steady()
    waits = decide(release, looked(release, pull=OPEN), REQUIRED, NOW)
    assert "has no approval of its head" in reason(waits)
    merged = looked(release, pull=MERGED, approvals=(FRESH,), given="")
    actions = decide(release, merged, REQUIRED, NOW)
    assert written(actions).phase is Phase.WARMING
    assert UseConsent(model="fraud", environment="production") in actions
    assert "pull request 7 (https://forge/7) was merged, approved by ada" in written(actions).rollout.current.reasons


def test_rule_22_harm_asks_nobody():
    release = rolling(Phase.CANARY, weight=10)
    seen = dataclasses.replace(looked(release, EVERY_STEP, pull=OPEN), evidence=FAILING)
    assert written(decide(release, seen, EVERY_STEP, NOW)).phase is Phase.ROLLING_BACK


def test_rule_22_without_metrics_a_step_that_people_agreed_to_waits_for_them():
    release = rolling(Phase.CANARY, weight=10)
    seen = dataclasses.replace(looked(release, EVERY_STEP, pull=MERGED, approvals=(FRESH,), given=""), evidence=AWAY)
    assert "the weight is frozen" in reason(decide(release, seen, EVERY_STEP, NOW))


# --- what follows -------------------------------------------------------------------------------------------------


def test_a_question_that_was_never_put_is_put():
    release = steady()
    waits, (ask,) = outcome(release, STARTED, looked(release, head=None, head_text=None))
    assert isinstance(ask, AskConsent)
    assert (ask.push, ask.replaces, ask.text) == (True, None, consent(release).text)
    assert waits.ends == "it is approved and merged, or closed: v2 is refused then"


def test_a_branch_without_its_pull_request_is_not_pushed_again():
    release = steady()
    _, (ask,) = outcome(release, STARTED, looked(release))
    assert (ask.push, ask.replaces) == (False, HEAD)


def test_an_open_question_that_says_what_it_should_is_left_alone():
    release = steady()
    _, (ask,) = outcome(release, STARTED, looked(release, pull=OPEN))
    same = pull(title=ask.title, body=ask.body.replace("\n", "\r\n"))
    assert outcome(release, STARTED, looked(release, pull=same))[1] == ()


@pytest.mark.parametrize(
    ("approvals", "needed", "says"),
    [
        ((), 1, f"has no approval of its head {HEAD[:8]}"),
        ((FRESH,), 1, "may be merged (approved by ada)"),
        ((FRESH,), 2, f"has 1 of 2 approvals of its head {HEAD[:8]}"),
        ((STALE,), 1, f"ada approved {OLD[:8]}, another commit, so that is stale"),
        ((Approval(by="ada", commit=None),), 1, "ada approved a commit of no known name, so that is stale"),
        ((Approval(by="sluice", commit=HEAD),), 1, "has no approval"),
        ((Approval(by="eve", commit=HEAD, official=False),), 1, "has no approval"),
        ((), 0, "pull request 7 (https://forge/7) may be merged"),
    ],
)
def test_an_open_question_says_what_it_waits_for(approvals, needed, says):
    release, rules = steady(), dataclasses.replace(REQUIRED, review_approvals=needed)
    waits, _ = outcome(release, STARTED, looked(release, rules, pull=OPEN, approvals=approvals), rules)
    assert says in waits.reason


@pytest.mark.parametrize(
    ("approvals", "needed", "starts"),
    [
        ((FRESH,), 1, True),
        ((), 0, True),
        ((FRESH, Approval(by="bob", commit=HEAD)), 2, True),
        ((), 1, False),
        ((STALE,), 1, False),
        ((FRESH, Approval(by="bob", commit=OLD)), 2, False),
        ((Approval(by="sluice", commit=HEAD),), 1, False),
        ((Approval(by="eve", commit=HEAD, official=False),), 1, False),
    ],
)
def test_what_was_merged_starts_with_the_approvals_of_its_head_only(approvals, needed, starts):
    release, rules = steady(), dataclasses.replace(REQUIRED, review_approvals=needed)
    answer, actions = outcome(
        release, STARTED, looked(release, rules, pull=MERGED, approvals=approvals, given=""), rules
    )
    assert isinstance(answer, Noticed) is starts
    assert isinstance(actions[0], UseConsent if starts else TellReviewers)


@pytest.mark.parametrize("shown", [None, OPEN, CLOSED])
def test_a_consent_on_the_branch_without_a_merge_starts_nothing(shown):
    release = steady()
    answer, actions = outcome(release, STARTED, looked(release, pull=shown, approvals=(FRESH,), given=""))
    assert (answer.reason.endswith("it does not count before a merge"), actions) == (True, ())


def test_a_merge_that_git_does_not_show_yet_is_waited_for():
    release = steady()
    answer, actions = outcome(release, STARTED, looked(release, pull=MERGED, approvals=(FRESH,)))
    assert (answer.reason, actions) == (
        "v2 is wanted; pull request 7 (https://forge/7) is merged, and Git does not show it yet",
        (),
    )


@pytest.mark.parametrize("given", [None, "version: 8\n"])
def test_a_merge_whose_document_is_gone_or_another_is_an_old_one(given):
    release = steady()
    _, (ask,) = outcome(release, STARTED, looked(release, pull=MERGED, approvals=(FRESH,), arrived=True, given=given))
    assert (isinstance(ask, AskConsent), ask.push, ask.replaces) == (True, True, HEAD)


def test_a_branch_that_somebody_changed_is_said_there_and_starts_nothing():
    release = steady()
    waits, actions = outcome(release, STARTED, looked(release, pull=OPEN, head_text="x", approvals=(FRESH,)))
    assert "somebody changed the branch" in waits.reason
    assert [type(action) for action in actions] == [AskConsent, TellReviewers]


def test_a_closed_question_refuses_the_version_once():
    release = steady()
    refused, actions = outcome(release, STARTED, looked(release, pull=CLOSED))
    assert (refused.version, refused.pull_request, actions) == (2, 7, ())
    after = written(decide(release, looked(release, pull=CLOSED), REQUIRED, NOW))
    assert [(r.version, r.pull_request) for r in after.refused] == [(2, 7)]
    again = dataclasses.replace(after, seen=(1,))
    _, (ask,) = outcome(again, STARTED, looked(again, pull=CLOSED))
    assert ask.push


def test_what_sluicegate_closed_is_nobodys_no():
    release = steady()
    ours = dataclasses.replace(CLOSED, body=withdrawn("b", "superseded"))
    _, (ask,) = outcome(release, STARTED, looked(release, pull=ours))
    assert isinstance(ask, AskConsent)


def test_new_settings_that_were_closed_wait_for_the_document_or_to_be_opened_again():
    release, rules = steady(2, seen=(1, 2)), dataclasses.replace(REQUIRED, settings=Settings(cpus=2))
    start = Noticed(signal=Signal.STARTED, start=Start(candidate=application(2, cpus=2), reasons=()))
    waits, actions = outcome(release, start, looked(release, rules, pull=CLOSED), rules)
    assert (isinstance(waits, Idle), actions) == (True, ())
    assert waits.ends == "it is opened again, or the document asks for other settings"


def test_a_step_that_was_closed_stays():
    release = rolling(Phase.CANARY, weight=10)
    waits, _ = outcome(release, PASSED, looked(release, EVERY_STEP, pull=CLOSED), EVERY_STEP)
    assert waits.reason.endswith("was closed: the rollout stays where it is")
    assert waits.ends == "it is opened again, or by `sluice promote` or `sluice abort`"


def test_a_step_that_people_agreed_to_has_its_whole_time_again():
    release = rolling(Phase.CANARY, weight=10)
    seen = looked(release, EVERY_STEP, pull=MERGED, approvals=(FRESH,), given="")
    agreed, _ = outcome(release, PASSED, seen, EVERY_STEP)
    assert (agreed.agreed, agreed.signal) == (True, Signal.PASSED)


def test_a_forge_that_is_away_is_waited_for_and_withdraws_nothing():
    release = steady()
    old = {"sluice/production/fraud/v1-0": Outdated(head=OLD, pull=OPEN, why="superseded")}
    waits, actions = outcome(release, STARTED, looked(release, reason="no answer", outdated=old))
    assert (waits.reason, waits.ends, actions) == (
        "v2 is wanted; its review cannot be read: no answer",
        "the forge answers",
        (),
    )


def test_what_the_forge_says_of_another_question_is_not_taken_for_an_answer():
    release = steady()
    other = dataclasses.replace(consent(release), version=3)
    waits, _ = outcome(release, STARTED, looked(release, consent=other, pull=MERGED, approvals=(FRESH,)))
    assert waits.reason == "v2 is wanted; its review was not looked at yet"


# --- what is asked no more ----------------------------------------------------------------------------------------

OF_V2, OF_V3 = "sluice/production/fraud/v2-1234abcd", "sluice/production/fraud/v3-1234abcd"
STEP_OF = "sluice/production/fraud/r1-to-25"


@pytest.mark.parametrize(
    ("release", "seen", "why"),
    [
        (steady(), observed(versions(v1="Archived", v3="Production")), "superseded: v3 is what is wanted now"),
        (steady(), observed(), "superseded: v2 with other settings is what is wanted now"),
        (steady(), observed(versions(v1="Production")), "it is wanted no longer: v1 serves and nothing new"),
        (steady(), observed(versions(v2="Production", v3="Production")), ""),
        (steady(), Observed(versions=None, registry_reason="away"), ""),
        (steady(), observed(artifacts={}, artifact_reason="away"), ""),
        (steady(), observed(versions(v3="Production"), artifacts={}), "superseded: v3 is what is wanted now"),
        (steady(), observed(out_of_place="weights"), ""),
        (rolling(Phase.WARMING), observed(), "the rollout r1 is in WARMING"),
    ],
)
def test_a_question_is_withdrawn_when_it_is_known_that_nobody_needs_its_answer(release, seen, why):
    found = outdated(release, seen, REQUIRED, [OF_V2])
    assert found.get(OF_V2, "").startswith(why)
    assert bool(found) is bool(why)


def test_where_nobody_is_asked_any_more_all_are_withdrawn():
    assert outdated(steady(), observed(), RULES, [OF_V2, OF_V3]) == dict.fromkeys(
        (OF_V2, OF_V3), "nobody is asked any more: review is none"
    )
    gone = dataclasses.replace(REQUIRED, settings=None)
    assert outdated(steady(), observed(), gone, [OF_V2]) == {OF_V2: "the model's document was removed"}


def test_a_step_is_withdrawn_when_its_rollout_goes_back_and_not_while_it_is_paused():
    assert outdated(rolling(Phase.PAUSED, weight=10), observed(), EVERY_STEP, [STEP_OF]) == {}
    assert outdated(rolling(Phase.CANARY, weight=10), observed(), EVERY_STEP, [STEP_OF]) == {}
    assert outdated(rolling(Phase.ROLLING_BACK), observed(), EVERY_STEP, [STEP_OF]) == {
        STEP_OF: "the rollout r1 is in ROLLING_BACK"
    }


def test_a_withdrawal_closes_only_what_is_open():
    old = {"b1": Outdated(head=OLD, pull=OPEN, why="superseded"), "b2": Outdated(head=OLD, pull=MERGED, why="over")}
    _, actions = consented(steady(), Idle(reason="r", ends="e"), observed(consent=ConsentLook(outdated=old)), REQUIRED)
    assert [(a.branch, a.number, WITHDRAWN in a.body) for a in actions if isinstance(a, WithdrawConsent)] == [
        ("b1", 7, True),
        ("b2", None, True),
    ]


# --- words --------------------------------------------------------------------------------------------------------


def facts(**metrics: float) -> VersionFacts:
    return VersionFacts(signature=Signature(inputs=(Column("amount", Type("double")),)), run="run 1", metrics=metrics)


def test_the_body_shows_metrics_signature_and_admission_and_obeys_nobody():
    sly = Signature(inputs=(Column("![x](http://evil) @team", Type("double")),))
    own = dataclasses.replace(facts(**{"auc|`<img>": 0.925, "f1": 0.5}), signature=sly)
    check = Check(name="tags", outcome=CheckOutcome.WARN, words="<script> #1 [a](b)", mend="ask @ada")
    start = dataclasses.replace(START, admission=(check,))
    seen = observed(facts={1: facts(f1=0.4), 2: own})
    said = body(consent(steady()), steady(), dataclasses.replace(STARTED, start=start), seen, REQUIRED)
    assert "| `f1` | 0.5 | 0.4 | +0.1 |" in said
    assert "| not logged |" in said
    assert "- **warn** tags: \\<script\\>" in said
    prose = "\n".join(line for line in said.splitlines() if "`" not in line)
    assert not any(bad in prose for bad in ("<script>", "[x](", " @team", " @ada"))
    assert said == body(consent(steady()), steady(), dataclasses.replace(STARTED, start=start), seen, REQUIRED)


def test_no_name_that_looks_like_a_secret_is_repeated():
    key, token = "AKIA" + "IOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9
    own = dataclasses.replace(facts(**{key: 1.0}), signature=Signature(inputs=(Column(token, Type("double")),)))
    said = body(consent(steady()), steady(), STARTED, observed(facts={1: facts(), 2: own}), REQUIRED)
    assert (key in said, token in said, said.count("not shown") >= 2) == (False, False, True)


def test_a_body_has_an_end_however_much_differs():
    many = {f"m{n}": 1.0 for n in range(500)}
    columns = tuple(Column(f"c{n}", Type("double")) for n in range(5000))
    own = dataclasses.replace(facts(**many), signature=Signature(inputs=columns))
    said = body(consent(steady()), steady(), STARTED, observed(facts={1: facts(), 2: own}), REQUIRED)
    assert "and 460 more" in said
    assert len(said) < 20_000


def test_the_body_of_a_first_version_and_of_new_settings_say_what_there_is():
    first = steady(None, seen=(1,))
    said = body(consent(first), first, STARTED, observed(facts={2: facts()}), REQUIRED)
    assert "nothing serves yet" in said
    assert "v2 has none." in said
    release, rules = steady(2, seen=(1, 2)), dataclasses.replace(REQUIRED, settings=Settings(cpus=2))
    start = Noticed(signal=Signal.STARTED, start=Start(candidate=application(2, cpus=2), reasons=()))
    settings = body(consent(release, rules=rules), release, start, observed(), rules)
    assert "| `cpus` | `1.0` | `2.0` |" in settings
    assert "v2 serves, it is wanted with new settings." in settings


def test_the_body_of_a_step_does_not_change_by_itself():
    release = rolling(Phase.CANARY, weight=10)
    asked = consent(release, rules=EVERY_STEP)
    said = body(asked, release, PASSED, observed(), EVERY_STEP)
    other = dataclasses.replace(PASSED, reasons=("errors: PASS, with other figures",))
    assert said == body(asked, release, other, observed(), EVERY_STEP)
    assert "v2 has 10 %, and its evidence says PASS" in said


def test_a_refusal_by_people_says_what_ends_it():
    release = steady()
    (wait,) = [a for a in decide(release, looked(release, pull=CLOSED), REQUIRED, NOW) if isinstance(a, Wait)]
    assert "it leaves the trigger and enters it again, somebody asks for it (`sluice retry`)" in wait.ends


def test_a_refused_version_is_stored_with_its_pull_request():
    release = steady(refused=(Refused(version=2, reason="closed", pull_request=7),))
    assert parse_release(release_text(release)) == release
