"""What actions write into a commit: files, and the words of its message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

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
from policies.commit_message import message
from policies.layout import consent_path, history_path, record_path, release_path
from policies.names import slug
from policies.stored_documents import history_text, record_text, release_text


def written(environment: str, action: Action) -> dict[str, str | None]:
    """The files that an action changes; none removes."""
    match action:
        case WriteRelease(release=release):
            return {release_path(environment, slug(release.model)): release_text(release)}
        case RemoveRelease(release=release):
            return {release_path(environment, slug(release.model)): None}
        case WriteRecord(model=model, record=record):
            return {record_path(environment, slug(model)): record_text(record)}
        case WriteHistory(record=history):
            key = slug(history.model)
            ended = history_path(environment, key, history.rollout)
            return {ended: history_text(history), record_path(environment, key): None}
        case UseConsent(model=model):
            return {consent_path(environment, slug(model)): None}
        case AskConsent() | WithdrawConsent() | TellReviewers() | Annotate() | Restore() | Wait():
            return {}
        case _:
            assert_never(action)


def said_of(actions: Mapping[str, tuple[Action, ...]], changes: Mapping[str, str | None]) -> str:
    """`fraud (production): v2 CANARY 10 % -> CANARY 25 %`, the reasons, and trailers for `git log`."""
    moves = [a for each in actions.values() for a in each if isinstance(a, WriteRelease | RemoveRelease)]
    if not moves:
        return message(f"{', '.join(sorted(changes))} follows its documents") if changes else ""
    first = moves[0].release
    subject = f"{first.model} ({first.environment}): {moves[0].subject}"
    if len(moves) > 1:
        subject += f", and {len(moves) - 1} more"
    ended = [a.record.rollout for each in actions.values() for a in each if isinstance(a, WriteHistory)]
    return message(subject, "\n".join(_paragraph(move) for move in moves), _trailers(moves, ended))


def _paragraph(move: WriteRelease | RemoveRelease) -> str:
    release = move.release
    return "\n".join([f"{release.model} ({release.environment}): {move.subject}", *(f"  {r}" for r in move.reasons)])


def _trailers(moves: Sequence[WriteRelease | RemoveRelease], ended: Sequence[str]) -> dict[str, str]:
    """`ended` are rollouts that this commit ends: their releases do not name them any more."""
    releases = [move.release for move in moves]
    values = {
        "Sluice-Environment": [r.environment for r in releases],
        "Sluice-Model": [slug(r.model) for r in releases],
        "Sluice-Phase": [r.phase.value for r in releases],
        "Sluice-Step": [str(r.weight_percent) for r in releases],
        "Sluice-Rollout": [*(r.rollout.id for r in releases if r.rollout), *ended],
        "Sluice-Verdict": [m.verdict for m in moves if isinstance(m, WriteRelease) and m.verdict],
    }
    return {key: ", ".join(dict.fromkeys(found)) for key, found in values.items() if found}
