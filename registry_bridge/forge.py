"""The door to a forge: pull requests into the config repo's branch, whatever dialect the forge speaks.

Rules, the same for every forge:
- Everything can be repeated: opening what is open brings it up to date, closing what is closed and merging what is
  merged change nothing. Before a write the forge is asked how things are.
- A pull request is ours to find only if its branch lies in the config repo itself: a fork may have a branch of any
  name.
- Only a comment that this account wrote is replaced, whoever else uses its marker.
- A merge names the head that was looked at; a forge that refuses is asked whether the head moved.

What each forge calls things, and where, is the dialect's: `github.py`, `gitea.py`, `gitlab.py`. This module must not
decide when to merge, or what an approval is worth.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, Protocol

from policies.errors import BadInput, Conflict, Retry, Stalled
from policies.pull_requests import Approval, CommitStatus, PullRequest, PullRequestState

MARKER: Final = re.compile(r"[a-z0-9][a-z0-9:._-]{2,79}")
BODY_CHARACTERS: Final = 60_000
"""GitHub takes 65,536 in a comment or a body; Gitea and GitLab more."""
CUT: Final = "\n\n(cut here: the forge takes no longer text)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comment:
    """One comment below a pull request."""

    id: str
    body: str
    url: str
    ours: bool
    """Written by the account that we are."""


class Dialect(Protocol):
    """What one forge does. Raises Retry and Stalled as the port says."""

    def requests_from(self, branch: str) -> Iterator[PullRequest]:
        """Those from this branch of the repository itself, the open one first, then the newest."""

    def read(self, number: int) -> PullRequest:
        """One of them."""

    def create(self, branch: str, title: str, body: str) -> PullRequest | None:
        """Open one; None where one is open already."""

    def edit(self, number: int, title: str, body: str) -> PullRequest:
        """Set both."""

    def shut(self, number: int) -> PullRequest:
        """Close it."""

    def merge(self, number: int, head: str) -> None:
        """Merge it. Raises Conflict where the forge says that the head moved."""

    def approvals(self, number: int) -> Sequence[Approval]:
        """One for each person whose last word is an approval."""

    def comments(self, number: int) -> Iterator[Comment]:
        """Oldest first."""

    def write_comment(self, number: int, body: str) -> Comment:
        """A new one."""

    def rewrite_comment(self, number: int, id: str, body: str) -> Comment:  # noqa: A002
        """Another text for it."""

    def set_status(self, commit: str, status: CommitStatus) -> None:
        """Show it; repeating it changes nothing."""


class ForgeDoor:
    """One repository's pull requests; a `Forge` of pipelines/ports.py."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def find(self, branch: str) -> PullRequest | None:
        """The open one, else the newest."""
        return next(self._dialect.requests_from(branch), None)

    def pull_request(self, number: int) -> PullRequest:
        """One by its number."""
        return self._dialect.read(number)

    def open(self, branch: str, title: str, body: str) -> PullRequest:
        """Open it, or bring the open one up to date."""
        found = self._open_one(branch)
        if found is None:
            created = self._dialect.create(branch, title, shortened(body))
            if created is not None:
                return created
            found = self._open_one(branch)  # somebody was faster
        if found is None:
            raise Retry(f"the forge says that {branch} has an open pull request, and shows none")
        return self._up_to_date(found, title, body)

    def update(self, number: int, title: str, body: str) -> PullRequest:
        """Nothing is sent where it says so already."""
        return self._up_to_date(self._dialect.read(number), title, body)

    def close(self, number: int, comment: str | None = None) -> PullRequest:
        """The word first: whoever is told that it was closed finds it there."""
        found = self._dialect.read(number)
        if found.state is not PullRequestState.OPEN:
            return found
        if comment is not None:
            self.comment(number, "sluice:closed", comment)
        return self._dialect.shut(number)

    def merge(self, number: int, head: str) -> str:
        """Merge from that head only; what is merged is asked for its commit."""
        found = self._dialect.read(number)
        if found.state is PullRequestState.OPEN and found.head == head:
            try:
                self._dialect.merge(number, head)
            except Stalled:
                if self._dialect.read(number).head != head:
                    raise Conflict(f"pull request {number}: {found.branch} is no longer at {head[:8]}") from None
                raise
            found = self._dialect.read(number)
        if found.head != head:
            raise Conflict(f"pull request {number}: {found.branch} is at {found.head[:8]}, not at {head[:8]}")
        if found.state is PullRequestState.CLOSED:
            raise Stalled(f"pull request {number} is closed: open it again, or promote the version again")
        if found.merge_commit is None:
            raise Retry(f"pull request {number} was merged, and its commit is not there yet")
        return found.merge_commit

    def approvals(self, number: int) -> Sequence[Approval]:
        """Those that stand."""
        return self._dialect.approvals(number)

    def comment(self, number: int, marker: str, body: str) -> str:
        """Ours with this marker, written or replaced."""
        if not MARKER.fullmatch(marker):
            raise BadInput(f"{marker[:100]!r} is no marker: lower-case letters, digits and : . _ - only")
        hidden = f"<!-- {marker} -->"
        text = f"{hidden}\n{shortened(body)}"
        for found in self._dialect.comments(number):
            if found.ours and found.body.startswith(hidden):
                same = found.body.replace("\r\n", "\n").rstrip() == text.rstrip()
                return (found if same else self._dialect.rewrite_comment(number, found.id, text)).url
        return self._dialect.write_comment(number, text).url

    def set_status(self, commit: str, status: CommitStatus) -> None:
        """Show it."""
        self._dialect.set_status(commit, status)

    def _open_one(self, branch: str) -> PullRequest | None:
        found = self.find(branch)
        return found if found is not None and found.state is PullRequestState.OPEN else None

    def _up_to_date(self, found: PullRequest, title: str, body: str) -> PullRequest:
        wanted = shortened(body)
        if (found.title, found.body.replace("\r\n", "\n").rstrip()) == (title, wanted.rstrip()):
            return found
        return self._dialect.edit(found.number, title, wanted)


def shortened(body: str) -> str:
    """A text as long as every forge takes it; where it is cut, it says so."""
    return body if len(body) <= BODY_CHARACTERS else body[: BODY_CHARACTERS - len(CUT)] + CUT


def open_first(found: Iterable[PullRequest]) -> Iterator[PullRequest]:
    """Open ones, then the others, each newest first: for dialects that list all states at once."""
    ordered = sorted(found, key=lambda each: (each.state is not PullRequestState.OPEN, -each.number))
    return iter(ordered)


def moment(text: str | None) -> datetime | None:
    """A time as forges write it (ISO 8601)."""
    return datetime.fromisoformat(text) if text else None
