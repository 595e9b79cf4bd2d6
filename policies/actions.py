"""What can be decided: a closed union of frozen values.

Printed they are `sluice plan`; `pipelines/reconciler.py` executes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from policies.release import Release
from policies.rollout_record import HistoryRecord, Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteRelease:
    """Commit this release; `subject` says in words what happened, `reasons` why."""

    release: Release
    subject: str
    reasons: tuple[str, ...] = ()
    verdict: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveRelease:
    """Commit that this model is served here no longer."""

    release: Release
    subject: str
    reasons: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteRecord:
    """Commit the record of a rollout that is under way."""

    model: str
    environment: str
    record: Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteHistory:
    """Commit the history of a finished rollout, with its record in it: it lies beside the release no longer."""

    record: HistoryRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotate:
    """Set tags on a version in the registry."""

    model: str
    environment: str
    version: int
    tags: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restore:
    """Take the candidate out of the trigger and put stable back, unless a person was faster."""

    model: str
    environment: str
    candidate: int
    stable: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskConsent:
    """Ask people to agree: a branch with the consent's text, and a pull request from it, both brought up to date."""

    model: str
    environment: str
    branch: str
    path: str
    text: str
    title: str
    body: str
    push: bool
    """The branch does not say it yet."""
    replaces: str | None = None
    """The branch's head that a push takes the place of; none: there is no such branch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithdrawConsent:
    """Nobody needs to answer any more: close the pull request with a word, then drop its branch."""

    model: str
    environment: str
    branch: str
    head: str
    """Of the branch: one that moved since is left."""
    number: int | None
    """The pull request, where it is open."""
    title: str
    body: str
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TellReviewers:
    """Say below the pull request why what it asks for does not happen."""

    model: str
    environment: str
    number: int
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseConsent:
    """Commit that what people agreed to is carried out, or is none any more: its document goes."""

    model: str
    environment: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing moves, and why; `until` is when patience ends, none where only the event `ends` can end it."""

    model: str
    environment: str
    reason: str
    until: datetime | None = None
    ends: str = ""


Action = (
    WriteRelease
    | RemoveRelease
    | WriteRecord
    | WriteHistory
    | UseConsent
    | AskConsent
    | WithdrawConsent
    | TellReviewers
    | Annotate
    | Restore
    | Wait
)
