"""What `sluice status`, `history` and `plan` show: values first, then words or JSON from the same values.

Rules:
- JSON carries a schema version; a field's meaning never changes under the same number.
- Every release says its phase, since when, why it waits and until when, as far as Git and the last look know.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.reconciler import Plan
from policies.actions import (
    Action,
    Annotate,
    AskConsent,
    RemoveRelease,
    Restore,
    TellReviewers,
    UseConsent,
    Wait,
    WithdrawConsent,
    WriteHistory,
    WriteRecord,
    WriteRelease,
)
from policies.config_repo_documents import ConfigRepo
from policies.consent import branches_of
from policies.durations import format_duration
from policies.impact import DeploymentImpact, Impact, impact
from policies.impact_words import deployment_lines
from policies.layout import Place, locate, serve_path
from policies.observations import Tip
from policies.release import Phase, Release
from policies.rollout_record import HistoryRecord
from policies.secret_values import hidden_in
from policies.stored_documents import parse_history
from serving_runtime.serve_config import parse as parse_serve
from serving_runtime.serve_config import phase_in_force

SCHEMA = 1


# --- status -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefusedView:
    """A version at the trigger that is not tried."""

    version: int
    reason: str
    pull_request: int | None
    """The one that a person closed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseView:
    """One release in words."""

    model: str
    environment: str
    phase: str
    serving: str
    """Who answers users, in words."""
    weight_percent: int
    stable: int | None
    candidate: int | None
    trying: str
    """What the candidate gets, in words; empty where there is none."""
    because: str
    """Why it is taken back; empty where it is not."""
    rollout: str | None
    since: datetime | None
    waits: str
    until: datetime | None
    ends: str
    """The event that ends the wait, where no time does."""
    quarantined: tuple[int, ...]
    queued: int | None
    refused: tuple[RefusedView, ...]


def releases(
    repo: ConfigRepo, waits: Iterable[Wait] = (), branches: Iterable[str] = (), looked_at: datetime | None = None
) -> tuple[ReleaseView, ...]:
    """Every release, with what its last look waited for; and models without one of which something is wanted.

    That is known from a wait, or from one of our `branches`, by which people are asked. `waits` are of the look at
    `looked_at`: one that is older than its release's phase says nothing about it any more.
    """
    reasons = {(w.environment, w.model): w for w in waits}
    views = [
        _view(r, None if _is_newer(r, looked_at) else reasons.get((r.environment, r.model)))
        for _, r in sorted(repo.releases.items())
    ]
    for environment in repo.sluice.environments:
        for key, model in repo.serves(environment).items():
            if (environment, key) not in repo.releases:
                wait = reasons.get((environment, model.name)) or _asked_by(model.name, environment, branches)
                views += [_view(Release(model=model.name, environment=environment), wait)] if wait else []
    return tuple(sorted(views, key=lambda view: (view.environment, view.model)))


def _asked_by(model: str, environment: str, branches: Iterable[str]) -> Wait | None:
    """What Git alone knows of a first version that people are asked about."""
    branch = next((b for b in branches if b.startswith(branches_of(environment, model))), None)
    if branch is None:
        return None
    reason = f"people are asked by a pull request from {branch}"
    return Wait(model=model, environment=environment, reason=reason, ends="it is merged or closed")


def _is_newer(release: Release, looked_at: datetime | None) -> bool:
    return release.rollout is not None and looked_at is not None and looked_at < release.rollout.current.since


def _view(release: Release, wait: Wait | None) -> ReleaseView:
    return ReleaseView(
        model=release.model,
        environment=release.environment,
        phase=release.phase.value,
        serving=_serving(release),
        weight_percent=release.weight_percent,
        stable=release.stable.version if release.stable else None,
        candidate=release.candidate.version if release.candidate else None,
        trying=_trying(release),
        because=_own_words(release) if release.phase is Phase.ROLLING_BACK else "",
        rollout=release.rollout.id if release.rollout else None,
        since=release.rollout.current.since if release.rollout else None,
        waits=wait.reason if wait else _own_words(release),
        until=wait.until if wait else None,
        ends=wait.ends if wait else "",
        quarantined=tuple(sorted({q.version for q in release.quarantine})),
        queued=release.queued,
        refused=tuple(
            RefusedView(version=r.version, reason=r.reason, pull_request=r.pull_request)
            for r in release.refused
            if r.version in release.seen  # one that left the trigger is nobody's question any more
        ),
    )


def _serving(release: Release) -> str:
    """The stable version's part. At 100 % it answers only where the candidate fails."""
    if phase_in_force(release) is Phase.SETTLING:
        return f"v{release.stable.version} stands by" if release.stable else "no version stands by"
    return f"v{release.stable.version} serves" if release.stable else "nothing serves"


def _trying(release: Release) -> str:
    """The candidate's part. A pause keeps what it was paused in."""
    if release.candidate is None:
        return ""
    match phase_in_force(release):
        case Phase.WARMING:
            part = "is warming up"
        case Phase.SHADOW:
            part = "gets copies"
        case Phase.ROLLING_BACK:
            part = "is taken back"
        case _:
            part = f"at {release.weight_percent} %"
    return f"v{release.candidate.version} {part}"


def _own_words(release: Release) -> str:
    """What Git alone knows of why it waits."""
    cause = release.rollout.cause if release.rollout else None
    return "; ".join(cause.reasons) if cause else ""


def status_lines(views: Sequence[ReleaseView], now: datetime) -> list[str]:
    """A block for each release."""
    if not views:
        return ["no release yet: move a version to the trigger of an environment, and it will be served"]
    return [line for view in views for line in _status_block(view, now)]


def _status_block(view: ReleaseView, now: datetime) -> list[str]:
    head = f"{view.model} ({view.environment}): {view.phase}, {view.serving}"
    if view.trying:
        since = f" since {format_duration(_whole(now - view.since))}" if view.since else ""
        head += f"; {view.trying}{since}, rollout {view.rollout}"
    lines = [head]
    if view.because:
        lines.append(f"  taken back: {view.because}")
    if view.waits and view.waits != view.because:
        lines.append(f"  {view.waits}{_end_in_words(view.until, view.ends)}")
    if view.queued is not None:
        lines.append(f"  v{view.queued} is queued")
    lines += [f"  refused: {one.reason}" for one in view.refused if one.reason not in view.waits]
    if view.quarantined:
        lines.append("  quarantined: " + ", ".join(f"v{n}" for n in view.quarantined))
    return lines


def _end_in_words(until: datetime | None, ends: str) -> str:
    if until is not None:
        return f", until {until.astimezone(UTC):%H:%M:%S} UTC"
    return f"; it ends when {ends}" if ends else ""


def _whole(duration: Any) -> Any:
    return type(duration)(seconds=max(0, round(duration.total_seconds())))


# --- history ------------------------------------------------------------------------------------------------------


def finished(tip: Tip) -> tuple[HistoryRecord, ...]:
    """The finished rollouts, oldest first."""
    records = (parse_history(text, path) for path, text in tip.files.items() if _is_history(path))
    return tuple(sorted(records, key=lambda record: (record.ended_at, record.environment, record.model)))


def _is_history(path: str) -> bool:
    located = locate(path)
    return located is not None and located.place is Place.HISTORY


def history_lines(records: Sequence[HistoryRecord], *, long: bool = False) -> list[str]:
    """A line for each finished rollout; long, a block with each phase, its verdict and reasons."""
    if not records:
        return ["no rollout has finished yet"]
    return [line for record in records for line in (_history_block(record) if long else [_history_line(record)])]


def _history_line(record: HistoryRecord) -> str:
    lasted = format_duration(_whole(record.ended_at - record.started_at))
    over = f"over v{record.stable_version}" if record.stable_version else "the first version"
    head = f"{record.started_at:%Y-%m-%d %H:%M:%S} {record.model} ({record.environment}) v{record.version} {over}"
    because = f" ({record.cause.kind.value})" if record.cause else ""
    return f"{head}: {record.outcome.value} after {lasted}{because} [{record.rollout}]"


def _history_block(record: HistoryRecord) -> list[str]:
    lines = [_history_line(record)]
    for phase in record.phases:
        end = f"{phase.until:%H:%M:%S}" if phase.until else "..."
        verdict = f" {phase.verdict.value}" if phase.verdict else ""
        lines.append(f"  {phase.since:%H:%M:%S}-{end} {phase.phase.value} {phase.weight_percent} %{verdict}")
        lines += [f"      {reason}" for reason in phase.reasons]
    return lines


def history_json(records: Sequence[HistoryRecord]) -> str:
    """The same for programs, without the records of looks and bins: `sluice explain` has those."""
    return as_json("rollouts", [{k: v for k, v in _plain(one).items() if k != "record"} for one in records])


# --- plan ---------------------------------------------------------------------------------------------------------


def plan_lines(plan: Plan) -> list[str]:
    """What the next look would do, in words."""
    lines = [line for actions in plan.actions.values() for action in actions for line in _action_lines(action)]
    lines += [f"{name}: Ray is told: {words}" for name, words in plan.submits.items()]
    lines += [f"commit: {path}" for path in sorted(plan.changes)]
    for name, found in plan_impacts(plan).items():
        lines += [f"{name}: {line}" for line in deployment_lines(found)]
    lines += [str(note) for note in plan.look.notes]
    return lines or ["nothing to do"]


def plan_impacts(plan: Plan) -> Mapping[str, Impact]:
    """What the Serve configs of its commit would do to what serves, by environment."""
    texts = {name: plan.changes.get(serve_path(name)) for name in plan.look.environments}
    return {
        name: impact(plan.look.environments[name].desired, parse_serve(text), None)
        for name, text in texts.items()
        if text is not None
    }


def _action_lines(action: Action) -> list[str]:
    match action:
        case WriteRelease() | RemoveRelease():
            release = action.release
            return [f"{release.model} ({release.environment}): {action.subject}", *(f"  {r}" for r in action.reasons)]
        case WriteHistory(record=record):
            return [f"{record.model} ({record.environment}): record of {record.rollout}: {record.outcome.value}"]
        case WriteRecord(record=record):
            return [f"{action.model} ({action.environment}): record of {record.rollout}: {len(record.looks)} looks"]
        case AskConsent() | WithdrawConsent() | TellReviewers() | UseConsent():
            return [f"{action.model} ({action.environment}): {_consent_in_words(action)}"]
        case Annotate():
            said = ", ".join(f"{key}={value}" for key, value in action.tags.items())
            return [f"{action.model} ({action.environment}): registry: v{action.version} is tagged {said}"]
        case Restore():
            back = f", v{action.stable} goes back there" if action.stable else ""
            return [f"{action.model} ({action.environment}): registry: v{action.candidate} leaves the trigger{back}"]
        case Wait():
            end = _end_in_words(action.until, action.ends)
            return [f"{action.model} ({action.environment}): waits: {action.reason}{end}"]


def _consent_in_words(action: AskConsent | WithdrawConsent | TellReviewers | UseConsent) -> str:
    match action:
        case AskConsent():
            return f"pull request from {action.branch}: {action.title}"
        case WithdrawConsent():
            closed = f"pull request {action.number} is closed and " if action.number else ""
            return f"{closed}{action.branch} is dropped: {action.words}"
        case TellReviewers():
            return f"pull request {action.number} is told: {action.words}"
        case UseConsent():
            return "what people agreed to is carried out"


# --- JSON ---------------------------------------------------------------------------------------------------------


def as_json(kind: str, items: Sequence[Any], **more: Any) -> str:
    """`{"schema": 1, "<kind>": [...]}`: dataclasses as objects, times in ISO 8601."""
    said = hidden_in({"schema": SCHEMA, kind: [_plain(item) for item in items], **more})
    return json.dumps(said, indent=2, default=_text)


def plan_json(plan: Plan) -> str:
    """The plan's actions by kind, its files and what Ray would be told."""
    actions = [{"action": type(action).__name__, **_plain(action)} for each in plan.actions.values() for action in each]
    told = {name: [impact_data(each) for each in found.deployments] for name, found in plan_impacts(plan).items()}
    return as_json(
        "actions", actions, changes=sorted(plan.changes), submits=dict(plan.submits), moves=plan.moves, impact=told
    )


def impact_data(each: DeploymentImpact) -> Mapping[str, Any]:
    """One deployment that differs, for programs."""
    return {**hidden_in(dataclasses.asdict(each), by_name=True), "effects": list(each.effects)}


def _plain(item: Any) -> Any:
    return dataclasses.asdict(item) if dataclasses.is_dataclass(item) and not isinstance(item, type) else item


def _text(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
