"""`sluice analyze --dry-run`: two versions that run, judged by their metrics; no traffic is moved and nothing written.

Rules:
- Only versions that Git names can be judged: their metrics carry the builds of their applications.
- The window is judged as one step that began with it, by the model's SLOs and a policy's alpha and beta. Those hold for
  one window that is chosen beforehand, not for the best of many.
- phi is not measured before the window: clusters of errors count as they come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta

from pipelines.commands.replay import documents, policy_of
from pipelines.ports import EvidenceRequest, Metrics
from policies.application import Application
from policies.config_repo_documents import ConfigRepo
from policies.documents import PrometheusTarget, RolloutPolicy
from policies.durations import format_duration
from policies.errors import BadInput
from policies.evidence import Objective, Sli
from policies.judge import judge
from policies.names import slug
from policies.observations import Tip
from policies.release import Release
from policies.slo import asked_of
from policies.verdict import Verdict

LONGEST = timedelta(days=7)
"""Of a window: older samples are more than one answer of Prometheus holds, and say little of now."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is judged, by what, and where its metrics are."""

    request: EvidenceRequest
    policy: RolloutPolicy
    prometheus: PrometheusTarget
    environment: str
    model: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """What the evidence says."""

    model: str
    environment: str
    candidate: int
    stable: int | None
    policy: str
    since: datetime
    until: datetime
    verdict: Verdict


def question(
    tip: Tip,
    model: str,
    candidate: int,
    *,
    stable: int | None,
    environment: str | None,
    policy: str | None,
    window: timedelta,
    now: datetime,
) -> Question:
    """What is asked, in the tip's terms. `stable` none is the version that serves, unless that is the candidate.

    Raises BadInput for what Git does not know.
    """
    if not timedelta() < window <= LONGEST:
        raise BadInput(f"--window is above 0s and {format_duration(LONGEST)} at most, not {format_duration(window)}")
    repo = documents(tip)
    release = _release(repo, model, environment)
    key = slug(model)
    if key not in repo.models:
        raise BadInput(f"{model!r} has no document any more: its SLOs are not known")
    judged = _application(release, candidate)
    serves = release.stable.version if release.stable else None
    compared = stable if stable is not None else serves if serves != candidate else None
    if compared == candidate:
        raise BadInput(f"v{candidate} cannot be compared with itself: name another version with --stable")
    return Question(
        request=EvidenceRequest(
            model=key,
            candidate=judged,
            stable=_application(release, compared) if compared is not None else None,
            objectives=_objectives(repo, release, judged),
            since=now - window,
        ),
        policy=policy_of(policy or repo.models[key].rollout, repo),
        prometheus=repo.sluice.environments[release.environment].prometheus,
        environment=release.environment,
        model=model,
    )


def answer(asked: Question, metrics: Metrics, now: datetime) -> Analysis:
    """Ask Prometheus once and judge."""
    request = asked.request
    evidence = metrics.evidence([request], now)[request.model]
    verdict = judge(evidence, asked.policy, step_since=request.since, now=now)
    return Analysis(
        model=asked.model,
        environment=asked.environment,
        candidate=request.candidate.version,
        stable=request.stable.version if request.stable else None,
        policy=asked.policy.name,
        since=request.since,
        until=now,
        verdict=verdict,
    )


def lines(found: Analysis) -> Iterator[str]:
    """The verdict with its arithmetic."""
    beside = f"beside v{found.stable}" if found.stable is not None else "by its SLOs alone"
    span = f"{found.since:%Y-%m-%d %H:%M:%S} to {found.until:%H:%M:%S} UTC"
    yield f"{found.model} ({found.environment}): v{found.candidate} {beside}, {span}, policy {found.policy}"
    yield found.verdict.kind.value
    yield from (f"  {reason}" for reason in found.verdict.reasons)


def _release(repo: ConfigRepo, model: str, environment: str | None) -> Release:
    found = [r for r in repo.releases.values() if r.model == model and environment in (None, r.environment)]
    if not found:
        known = ", ".join(sorted({r.model for r in repo.releases.values()})) or "none"
        raise BadInput(f"{model!r} has no release here; the releases are of: {known}")
    if len(found) > 1:
        names = ", ".join(sorted(r.environment for r in found))
        raise BadInput(f"{model!r} is in several environments ({names}): say which with --environment")
    return found[0]


def _objectives(repo: ConfigRepo, release: Release, judged: Application) -> tuple[Objective, ...]:
    """The model's SLOs. Predictions are compared while one is in shadow only."""
    objectives = [repo.slos[name] for name in repo.models[slug(release.model)].slos]
    if release.rollout and release.candidate == judged:
        return asked_of(release.rollout, objectives)
    return tuple(one for one in objectives if one.sli is not Sli.AGREEMENT)


def _application(release: Release, version: int) -> Application:
    known = [a for a in (release.candidate, release.stable, *reversed(release.served)) if a]
    found = next((a for a in known if a.version == version), None)
    if found is None:
        there = ", ".join(f"v{n}" for n in sorted({a.version for a in known})) or "none"
        raise BadInput(f"v{version} does not run in {release.environment}: the versions of its release are {there}")
    return found
