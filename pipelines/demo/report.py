"""What the demo did: the report as JSON for programs, and the same in words for the person who watched.

Rules:
- The JSON's shape is a promise (README): `DemoReport` is that shape and nothing more.
- Everything in it was observed: histories from Git, requests from the load's own counters, stages from MLflow.
- The file is replaced whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from pipelines.demo.load import Counters
from policies.release import Outcome, Phase, PhaseRecord
from policies.rollout_record import HistoryRecord
from policies.stored_values import Percent
from policies.verdict import VerdictKind

NAME = "demo-report.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PhaseReport(_Frozen):
    """One phase or step of a rollout, as its history has it."""

    phase: Phase
    weight_percent: Percent
    since: AwareDatetime
    until: AwareDatetime | None
    verdict: VerdictKind | None
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, record: PhaseRecord) -> Self:
        """From the record in Git."""
        return cls(
            phase=record.phase,
            weight_percent=record.weight_percent,
            since=record.since,
            until=record.until,
            verdict=record.verdict,
            reasons=record.reasons,
        )


class RolloutReport(_Frozen):
    """One finished rollout and the commits that made it, oldest first, as `git log --oneline` shows them."""

    model: str
    version: int
    outcome: Outcome
    phases: tuple[PhaseReport, ...]
    commits: tuple[str, ...]

    @classmethod
    def of(cls, record: HistoryRecord, commits: Sequence[str]) -> Self:
        """From the history's record in Git."""
        return cls(
            model=record.model,
            version=record.version,
            outcome=record.outcome,
            phases=tuple(PhaseReport.of(phase) for phase in record.phases),
            commits=tuple(commits),
        )


class RequestsReport(_Frozen):
    """What the load saw from the first 200 on. `by_version` counts good answers."""

    sent: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]
    by_version: Mapping[str, int]

    @classmethod
    def of(cls, counters: Counters) -> Self:
        """From the load's final counters."""
        return cls(sent=counters.sent, failed=counters.failed, by_version=counters.by_version)


class DemoReport(_Frozen):
    """`.sluice/demo-report.json`."""

    rollouts: tuple[RolloutReport, ...]
    requests: RequestsReport
    registry: Mapping[str, str]
    """Stage by version, as MLflow says at the end."""
    git_equals_ray: bool
    """Does Ray serve exactly what the tip of the config repo says?"""
    seconds: Annotated[float, Field(ge=0)]
    """From the started stack to the last check."""


def write_report(folder: Path, report: DemoReport) -> Path:
    """Write `demo-report.json` into `folder`, which is made where it is missing; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path, draft = folder / NAME, folder / f"{NAME}.draft"
    draft.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def summary(report: DemoReport, git_log: Sequence[str]) -> list[str]:
    """What happened, line by line, for a terminal."""
    lines = ["What happened", ""]
    for rollout in report.rollouts:
        lines += [*_rollout_words(rollout), ""]
    lines += [*_requests_words(report.requests), *_end_words(report), "", "git log --oneline"]
    return [*lines, *(f"  {line}" for line in git_log)]


def _rollout_words(rollout: RolloutReport) -> list[str]:
    lines = [f"{rollout.model} v{rollout.version}: {rollout.outcome.value.replace('_', ' ')}"]
    for phase in rollout.phases:
        lines.append(
            f"  {phase.since.astimezone():%H:%M:%S}  {phase.phase:<12} {phase.weight_percent:>3} %  {_lasted(phase)}"
        )
        lines += [f"{'':36}{reason}" for reason in phase.reasons]
    return lines


def _lasted(phase: PhaseReport) -> str:
    seconds = f"{(phase.until - phase.since).total_seconds():.0f} s" if phase.until else "still"
    return f"{seconds:>6}  {phase.verdict.value if phase.verdict else ''}".rstrip()


def _requests_words(requests: RequestsReport) -> list[str]:
    by_version = ", ".join(f"{answered:,} by v{version}" for version, answered in requests.by_version.items())
    return [f"Requests: {requests.sent:,} sent, {requests.failed:,} failed; {by_version or 'none answered'}"]


def _end_words(report: DemoReport) -> list[str]:
    stages = ", ".join(f"v{version} {stage}" for version, stage in report.registry.items())
    same = "serves exactly what Git says" if report.git_equals_ray else "DIFFERS from what Git says"
    return [f"Registry: {stages}", f"Ray {same}", f"Took {report.seconds:.0f} s"]
