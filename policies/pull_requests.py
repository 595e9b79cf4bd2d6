"""Pull requests as every forge has them: what the review of a rollout or of a document needs, and nothing else.

GitHub and Gitea say pull request, GitLab says merge request; here it is always a pull request. Values only: the doors
that speak to forges are in `registry_bridge`, their port is `pipelines/ports.py: Forge`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum


class PullRequestState(StrEnum):
    """What has become of it. A merged one is never open again; a closed one may be."""

    OPEN = "open"
    MERGED = "merged"
    CLOSED = "closed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PullRequest:
    """One pull request as the forge showed it: it may have moved since."""

    number: int
    """As people write it after # (GitHub, Gitea) or ! (GitLab: the iid)."""
    url: str
    """The page for people."""
    branch: str
    """The branch that is to be merged."""
    base: str
    """The branch that it is to be merged into."""
    head: str
    """Full hash of that branch's tip: what a merge would take, or took."""
    state: PullRequestState
    title: str
    body: str
    author: str = ""
    merge_commit: str | None = None
    """The commit on `base` that holds it; None until it is merged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Approval:
    """One person's approval that stands: neither dismissed nor followed by a request for changes."""

    by: str
    """The person's name at the forge."""
    commit: str | None
    """The head that they approved; None where the forge does not say, which counts as stale."""
    at: datetime | None = None
    official: bool = True
    """Does the forge count it? A stranger's approval on a public repository is not official."""


class StatusState(StrEnum):
    """What a check says about a commit."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommitStatus:
    """A line that the forge shows beside a commit; one for each context, the newest counts."""

    context: str
    """Who says so: `sluice/review`."""
    state: StatusState
    description: str = ""
    """One short line; forges cut it at 140 (GitHub) or 255 characters."""
    url: str | None = None
    """Where more is to be read."""


def fresh(approvals: Iterable[Approval], head: str) -> tuple[Approval, ...]:
    """The official ones whose commit is this head: a push makes them stale, whatever the forge's settings say."""
    return tuple(each for each in approvals if each.official and each.commit == head)


def stale(approvals: Iterable[Approval], head: str) -> tuple[Approval, ...]:
    """Those whose commit is another one, or unknown."""
    return tuple(each for each in approvals if each.commit != head)
