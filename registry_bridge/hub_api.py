"""What GitHub's API and those that were made after it (Gitea's, Forgejo's) have in common.

A pull request is an issue too: comments are the issue's. Each dialect says what its answers mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from policies.pull_requests import CommitStatus, PullRequest
from registry_bridge.forge import Comment
from registry_bridge.forge_http import ForgeHttp


class HubApi(ABC):
    """One repository, `owner/name`; pull requests into `base`."""

    description_characters: ClassVar[int]
    """Of a commit status."""

    def __init__(self, http: ForgeHttp, repository: str, base: str, merge_method: str = "merge") -> None:
        self._http, self._repository, self._base, self._method = http, repository, base, merge_method
        self._path = f"/repos/{repository}"
        self._me: str | None = None

    @abstractmethod
    def _pull_request(self, shown: Mapping[str, Any]) -> PullRequest:
        """What an answer shows."""

    @abstractmethod
    def _comment(self, shown: Mapping[str, Any]) -> Comment:
        """The same."""

    def read(self, number: int) -> PullRequest:
        """One by its number."""
        return self._pull_request(self._http.get(f"{self._path}/pulls/{number}").body)

    def edit(self, number: int, title: str, body: str) -> PullRequest:
        """Title and body."""
        return self._patched(number, {"title": title, "body": body})

    def shut(self, number: int) -> PullRequest:
        """Close it."""
        return self._patched(number, {"state": "closed"})

    def write_comment(self, number: int, body: str) -> Comment:
        """A new one."""
        answer = self._http.send("POST", f"{self._path}/issues/{number}/comments", {"body": body})
        return self._comment(answer.body)

    def rewrite_comment(self, number: int, id: str, body: str) -> Comment:  # noqa: A002, ARG002
        """Comments are numbered in the repository, or in the whole server."""
        return self._comment(self._http.send("PATCH", f"{self._path}/issues/comments/{id}", {"body": body}).body)

    def set_status(self, commit: str, status: CommitStatus) -> None:
        """The newest of a context counts."""
        wanted = {
            "state": status.state.value,
            "context": status.context,
            "description": status.description[: self.description_characters],
            **({"target_url": status.url} if status.url else {}),
        }
        self._http.send("POST", f"{self._path}/statuses/{commit}", wanted)

    def _patched(self, number: int, wanted: Mapping[str, Any]) -> PullRequest:
        return self._pull_request(self._http.send("PATCH", f"{self._path}/pulls/{number}", wanted).body)
