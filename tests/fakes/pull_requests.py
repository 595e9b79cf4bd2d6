"""A forge in memory: the port `Forge`, with ways to play the people and the accidents around it.

It knows branches by their heads (`pushed`); what a merge does to Git is the caller's to play (`on_merge`).
`tests/contracts/test_forge_contract.py` runs on it and on the real doors.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from policies.errors import Conflict, Retry, Stalled
from policies.pull_requests import Approval, CommitStatus, PullRequest, PullRequestState
from registry_bridge.forge import shortened

US = "sluice"


class FakeForge:
    """One repository's pull requests into one branch."""

    def __init__(self, base: str = "main", on_merge: Callable[[PullRequest], str] | None = None) -> None:
        self.base = base
        self.away: str | None = None
        """Set to a reason, the forge answers nobody."""
        self.refuses_merges: str | None = None
        """Set to its words, it merges nothing: a protected branch, checks, conflicts."""
        self.statuses: list[tuple[str, CommitStatus]] = []
        self.on_merge = on_merge or (lambda pull: hashlib.sha1(pull.head.encode()).hexdigest())  # noqa: S324
        self._heads: dict[str, str] = {}
        self._pulls: dict[int, PullRequest] = {}
        self._approvals: dict[int, dict[str, Approval]] = {}
        self._comments: dict[int, dict[tuple[str, str], str]] = {}
        self._time = datetime(2026, 1, 1, tzinfo=UTC)

    # --- the port -----------------------------------------------------------------------------------------------

    def find(self, branch: str) -> PullRequest | None:
        self._reach()
        found = [pull for pull in self._pulls.values() if pull.branch == branch]
        open_ones = [pull for pull in found if pull.state is PullRequestState.OPEN]
        return (open_ones or found)[-1] if found else None

    def pull_request(self, number: int) -> PullRequest:
        self._reach()
        if number not in self._pulls:
            raise Stalled(f"there is no pull request {number}")
        return self._pulls[number]

    def open(self, branch: str, title: str, body: str) -> PullRequest:
        found = self.find(branch)
        if found is not None and found.state is PullRequestState.OPEN:
            return self.update(found.number, title, body)
        if branch not in self._heads:
            raise Stalled(f"there is no branch {branch}")
        number = len(self._pulls) + 1
        self._pulls[number] = PullRequest(
            number=number, url=f"https://forge.example/team/config/pull/{number}", branch=branch, base=self.base,
            head=self._heads[branch], state=PullRequestState.OPEN, title=title, body=shortened(body), author=US,
        )  # fmt: skip
        return self._pulls[number]

    def update(self, number: int, title: str, body: str) -> PullRequest:
        self.pull_request(number)
        return self._changed(number, title=title, body=shortened(body))

    def close(self, number: int, comment: str | None = None) -> PullRequest:
        if self.pull_request(number).state is not PullRequestState.OPEN:
            return self._pulls[number]
        if comment is not None:
            self.comment(number, "sluice:closed", comment)
        return self._changed(number, state=PullRequestState.CLOSED)

    def merge(self, number: int, head: str) -> str:
        found = self.pull_request(number)
        if found.head != head:
            raise Conflict(f"pull request {number} is at {found.head[:8]}, not at {head[:8]}")
        if found.state is PullRequestState.CLOSED:
            raise Stalled(f"pull request {number} is closed")
        if found.state is PullRequestState.OPEN:
            if self.refuses_merges is not None:
                raise Stalled(self.refuses_merges)
            found = self.person_merges(number)
        assert found.merge_commit is not None
        return found.merge_commit

    def approvals(self, number: int) -> Sequence[Approval]:
        self.pull_request(number)
        return tuple(self._approvals.get(number, {}).values())

    def comment(self, number: int, marker: str, body: str) -> str:
        self.pull_request(number)
        written = self._comments.setdefault(number, {})
        written[US, marker] = shortened(body)
        return f"{self._pulls[number].url}#comment-{list(written).index((US, marker))}"

    def set_status(self, commit: str, status: CommitStatus) -> None:
        self._reach()
        self.statuses.append((commit, status))

    # --- people -------------------------------------------------------------------------------------------------

    def pushed(self, branch: str, head: str) -> None:
        """The branch is at this commit now."""
        self._heads[branch] = head
        for number, pull in self._pulls.items():
            if pull.branch == branch and pull.state is PullRequestState.OPEN:
                self._pulls[number] = dataclasses.replace(pull, head=head)

    def approve(self, number: int, by: str, *, official: bool = True) -> None:
        self._time += timedelta(seconds=1)
        approval = Approval(by=by, commit=self._pulls[number].head, at=self._time, official=official)
        self._approvals.setdefault(number, {})[by] = approval

    def object_to(self, number: int, by: str) -> None:
        """Asks for changes: an approval that this person gave stands no longer."""
        self._approvals.get(number, {}).pop(by, None)

    def person_merges(self, number: int) -> PullRequest:
        commit = self.on_merge(self._pulls[number])
        return self._changed(number, state=PullRequestState.MERGED, merge_commit=commit)

    def person_closes(self, number: int) -> PullRequest:
        return self._changed(number, state=PullRequestState.CLOSED)

    def pulls(self) -> list[PullRequest]:
        """All of them, oldest first."""
        return list(self._pulls.values())

    def comments(self, number: int) -> list[str]:
        """Texts, oldest first."""
        return list(self._comments.get(number, {}).values())

    def _changed(self, number: int, **changes: object) -> PullRequest:
        self._pulls[number] = dataclasses.replace(self._pulls[number], **changes)  # type: ignore[arg-type]
        return self._pulls[number]

    def _reach(self) -> None:
        if self.away is not None:
            raise Retry(self.away)
