"""Two versions that run, judged by their metrics: what is asked, what is refused, what is answered."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from pipelines.commands.analyze import Analysis, Question, answer, lines, question
from pipelines.commands.init import Answers, repo_files
from pipelines.commands.replay import documents, policy_of
from policies.application import Application
from policies.errors import BadInput
from policies.layout import release_path
from policies.observations import Tip
from policies.release import Phase, Release
from policies.stored_documents import release_text
from policies.verdict import VerdictKind
from tests.fakes.metrics import FakeMetrics
from tests.fakes.repo import FakeRepo
from tests.unit.releases import NOW, application, rolling, steady

HOUR = timedelta(hours=1)
STRICT = """\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: strict
beta: 0.000001
"""


def tip(release: Release, **files: str) -> Tip:
    path = release_path(release.environment, release.model)
    return FakeRepo({**repo_files(Answers(models=("fraud",))), path: release_text(release), **files}).read()


def asked(release: Release, candidate: int = 2, **changes: Any) -> Question:
    more: dict[str, Any] = {"stable": None, "environment": None, "policy": None, "window": HOUR, "now": NOW, **changes}
    return question(tip(release), "fraud", candidate, **more)


def answered(*, bad: int = 0, away: str = "", release: Release | None = None) -> Analysis:
    """An hour of both versions, 20 requests in each bin."""
    metrics = FakeMetrics()
    for i in range(240):
        at = NOW - HOUR + i * metrics.width
        metrics.answered("fraud", application(1), at, good=20)
        metrics.answered("fraud", application(2), at, good=20 - bad, bad=bad)
    if away:
        metrics.go_away(away)
    return answer(asked(release or rolling(Phase.CANARY, weight=10)), metrics, NOW)


def test_a_healthy_version_passes_with_its_arithmetic() -> None:
    found = answered()
    assert found.verdict.kind is VerdictKind.PASS
    said = "\n".join(lines(found))
    assert said.startswith(
        "fraud (production): v2 beside v1, 2026-11-23 11:00:00 to 12:00:00 UTC, policy default\nPASS"
    )
    assert "0 bad of 4,8" in said


def test_a_failing_one_fails_and_one_whose_metrics_are_away_is_unavailable() -> None:
    assert answered(bad=4).verdict.kind is VerdictKind.FAIL
    away = answered(away="Prometheus cannot be reached")
    assert away.verdict.kind is VerdictKind.UNAVAILABLE
    assert any("Prometheus cannot be reached" in reason for reason in away.verdict.reasons)


def test_the_window_is_judged_by_the_models_slos_beside_the_version_that_serves() -> None:
    found = asked(rolling(Phase.CANARY, weight=10))
    assert found.request.since == NOW - HOUR
    assert [o.name for o in found.request.objectives] == ["errors", "latency"]
    assert (found.request.candidate, found.request.stable) == (application(2), application(1))
    assert found.policy.name == "default"


def test_the_version_that_serves_is_judged_by_its_slos_alone() -> None:
    found = asked(steady(1), candidate=1)
    assert found.request.stable is None
    assert "by its SLOs alone" in next(lines(answer(found, FakeMetrics(), NOW)))


def test_a_version_that_served_before_can_be_the_one_that_is_compared_with() -> None:
    before = steady(2, served=(application(1),))
    assert asked(before, candidate=2, stable=1).request.stable == application(1)


def test_a_running_build_goes_before_one_that_served() -> None:
    older: Application = dataclasses.replace(application(2), settings=application(2, cpus=4).settings)
    assert asked(steady(2, served=(older,)), candidate=2).request.candidate == application(2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"candidate": 9}, "v9 does not run in production: the versions of its release are v1, v2"),
        ({"stable": 9}, "v9 does not run in production"),
        ({"stable": 2}, "v2 cannot be compared with itself"),
        ({"window": timedelta()}, "--window is above 0s and 7d at most"),
        ({"window": timedelta(days=8)}, "--window is above 0s and 7d at most"),
        ({"environment": "staging"}, "'fraud' has no release here"),
        ({"policy": "strikt"}, "there is no policy 'strikt': name one of default"),
    ],
)
def test_what_git_does_not_know_is_refused_with_what_it_knows(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        asked(rolling(Phase.CANARY, weight=10), **changes)


def test_a_policy_is_one_of_the_repo_or_a_file(tmp_path: Any) -> None:
    repo = documents(tip(steady(1), **{"policies/strict.yaml": STRICT}))
    assert policy_of("strict", repo).beta == 0.000001
    (tmp_path / "draft.yaml").write_text(STRICT.replace("strict", "draft"), encoding="utf-8")
    assert policy_of(str(tmp_path / "draft.yaml"), repo).name == "draft"


def test_a_file_that_is_no_policy_is_refused_by_what_is_wrong(tmp_path: Any) -> None:
    repo = documents(tip(steady(1)))
    (tmp_path / "draft.yaml").write_text(STRICT.replace("beta", "betta"), encoding="utf-8")
    with pytest.raises(BadInput, match="betta"):
        policy_of(str(tmp_path / "draft.yaml"), repo)
    slo = repo_files(Answers(models=("fraud",)))["policies/slo-errors.yaml"]
    (tmp_path / "slo.yaml").write_text(slo, encoding="utf-8")
    with pytest.raises(BadInput, match="holds a SLO: a RolloutPolicy is asked for"):
        policy_of(str(tmp_path / "slo.yaml"), repo)
