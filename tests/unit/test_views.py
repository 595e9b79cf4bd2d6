"""What `sluice status` says of a release, phase by phase: who answers users, what the candidate gets, what ends it."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import pytest

from pipelines.commands.init import Answers, repo_files
from pipelines.commands.views import releases, status_lines
from pipelines.defaults import built_in_documents
from policies.actions import Wait
from policies.config_repo_documents import parse_repo, with_defaults
from policies.documents import Bake
from policies.layout import release_path
from policies.release import Cause, CauseKind, Phase, Purpose, Release
from policies.rollout import decide
from policies.stored_documents import release_text
from tests.unit.releases import (
    AWAY,
    HEALTHY,
    MINUTE,
    NOW,
    RULES,
    THIN,
    observed,
    only,
    rolling,
    ruled,
    steady,
)

ROLLOUT = " since 6m, rollout r1"


def status(release: Release, *waits: Wait, looked_at: datetime | None = None) -> list[str]:
    files = {**repo_files(Answers(models=("fraud",))), release_path("production", "fraud"): release_text(release)}
    repo = parse_repo(with_defaults(files, built_in_documents()))
    return status_lines(releases(repo, waits, looked_at=looked_at), NOW)


def paused_from(phase: Phase, weight: int, kind: CauseKind = CauseKind.INCONCLUSIVE) -> Release:
    return rolling(
        Phase.PAUSED, weight=weight, paused_from=phase, cause=Cause(kind=kind, reasons=("so it is",)), budget={}
    )


def first(release: Release) -> Release:
    """The same where no version served before."""
    return dataclasses.replace(release, stable=None)


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (steady(1), "STEADY, v1 serves"),
        (steady(None), "STEADY, nothing serves"),
        (rolling(Phase.WARMING), f"WARMING, v1 serves; v2 is warming up{ROLLOUT}"),
        (rolling(Phase.SHADOW), f"SHADOW, v1 serves; v2 gets copies{ROLLOUT}"),
        (rolling(Phase.CANARY, weight=25), f"CANARY, v1 serves; v2 at 25 %{ROLLOUT}"),
        (rolling(Phase.SETTLING, weight=100), f"SETTLING, v1 stands by; v2 at 100 %{ROLLOUT}"),
        (
            rolling(Phase.SETTLING, weight=100, purpose=Purpose.EMERGENCY),
            f"SETTLING, v1 stands by; v2 at 100 %{ROLLOUT}",
        ),
        (rolling(Phase.ROLLING_BACK), f"ROLLING_BACK, v1 serves; v2 is taken back{ROLLOUT}"),
        (paused_from(Phase.WARMING, 0), f"PAUSED, v1 serves; v2 is warming up{ROLLOUT}"),
        (paused_from(Phase.SHADOW, 0), f"PAUSED, v1 serves; v2 gets copies{ROLLOUT}"),
        (paused_from(Phase.CANARY, 10), f"PAUSED, v1 serves; v2 at 10 %{ROLLOUT}"),
        (paused_from(Phase.SETTLING, 100), f"PAUSED, v1 stands by; v2 at 100 %{ROLLOUT}"),
        (first(rolling(Phase.WARMING)), f"WARMING, nothing serves; v2 is warming up{ROLLOUT}"),
        (first(rolling(Phase.SETTLING, weight=100)), f"SETTLING, no version stands by; v2 at 100 %{ROLLOUT}"),
        (first(paused_from(Phase.SETTLING, 100)), f"PAUSED, no version stands by; v2 at 100 %{ROLLOUT}"),
        (first(rolling(Phase.ROLLING_BACK)), f"ROLLING_BACK, nothing serves; v2 is taken back{ROLLOUT}"),
    ],
)
def test_status_says_who_answers_and_what_the_candidate_gets(release: Release, words: str) -> None:
    assert status(release)[0] == f"fraud (production): {words}"


BY_A_PERSON = "a person resumes, promotes or aborts it, or it does harm"
BEFORE_IT_IS_WARM = "a person resumes or aborts it, or it cannot start"


@pytest.mark.parametrize(
    ("phase", "kind", "facts", "ends"),
    [
        (Phase.CANARY, CauseKind.INCONCLUSIVE, {"evidence": THIN}, f"the evidence says PASS, {BY_A_PERSON}"),
        (Phase.CANARY, CauseKind.NO_METRICS, {"evidence": AWAY}, f"the metrics are back, {BY_A_PERSON}"),
        (Phase.CANARY, CauseKind.NOT_READY, {"out_of_place": "host: UPDATING"}, f"Ray matches Git, {BY_A_PERSON}"),
        (Phase.CANARY, CauseKind.ASKED, {"evidence": HEALTHY}, BY_A_PERSON),
        (Phase.CANARY, CauseKind.REVERTED, {"evidence": HEALTHY}, BY_A_PERSON),
        (
            Phase.WARMING,
            CauseKind.NOT_READY,
            {"out_of_place": "host: UPDATING"},
            f"Ray matches Git, {BEFORE_IT_IS_WARM}",
        ),
        (Phase.WARMING, CauseKind.ASKED, {}, BEFORE_IT_IS_WARM),
    ],
)
def test_a_pause_says_all_that_ends_it(phase: Phase, kind: CauseKind, facts: dict[str, object], ends: str) -> None:
    paused = paused_from(phase, 10 if phase is Phase.CANARY else 0, kind)
    (wait,) = only(Wait, decide(paused, observed(**facts), RULES, NOW))
    assert status(paused, wait)[1] == f"  paused: so it is; it ends when {ends}"


def test_a_rollback_says_why_and_a_wait_of_a_look_before_it_says_nothing() -> None:
    cause = Cause(kind=CauseKind.GUARD, reasons=("5 of 9 were bad",))
    back = rolling(Phase.ROLLING_BACK, cause=cause)
    wait = Wait(model="fraud", environment="production", reason="it is told")
    assert status(back)[1:] == ["  taken back: 5 of 9 were bad"]
    assert status(back, wait)[1:] == ["  taken back: 5 of 9 were bad", "  it is told"]
    assert status(back, wait, looked_at=NOW)[1:] == status(back, wait)[1:]
    assert status(back, wait, looked_at=NOW - 7 * MINUTE)[1:] == status(back)[1:]


def test_past_the_rollouts_time_no_evidence_ends_a_pause_and_status_does_not_say_so() -> None:
    rules = ruled(max_duration=MINUTE, step=Bake(min_duration=MINUTE, max_duration=5 * MINUTE))
    paused = paused_from(Phase.CANARY, 10)
    (wait,) = only(Wait, decide(paused, observed(evidence=THIN), rules, NOW))
    assert wait.ends == BY_A_PERSON
    assert status(paused, wait)[1].endswith(f"it ends when {BY_A_PERSON}")
