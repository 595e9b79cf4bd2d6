"""Gitea's and Forgejo's dialect: API v1, which both speak alike as far as it is used here.

- https://docs.gitea.com/api/ and https://forgejo.org/docs/latest/user/api-usage/ (every server has its own at
  `/api/swagger`)

Its token needs the scopes `write:issue` and `write:repository`, and `read:user` to know its own comments. Listings
cannot be filtered by branch: all open pull requests are read, then closed ones, the newest first, until one is found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.errors import Conflict, Retry, Stalled
from policies.pull_requests import Approval, PullRequest, PullRequestState
from registry_bridge.forge import Comment, moment
from registry_bridge.hub_api import HubApi

API: Final = "/api/v1"
CLOSED_READ: Final = 500
"""Closed pull requests among which the newest from a branch is looked for."""
CHECKED_AGAIN: Final = "try again later"
"""What a merge is answered while Gitea checks for text conflicts, and also where it found some."""

_NO_WORD = frozenset({"COMMENT", "PENDING", "REQUEST_REVIEW"})
_NOT_FOUND, _NOT_ALLOWED, _CONFLICT = 404, 405, 409


class Gitea(HubApi):
    """One repository, `owner/name`; pull requests into `base`."""

    description_characters = 255

    def requests_from(self, branch: str) -> Iterator[PullRequest]:
        """Open ones, then closed ones; asked for as far as they are needed."""
        for state, limit in (("open", None), ("closed", CLOSED_READ)):
            shown = self._http.pages(f"{self._path}/pulls", {"state": state}, size="limit")
            here = (each for each in itertools.islice(shown, limit) if self._is_here(each, branch))
            yield from (self._pull_request(each) for each in here)

    def create(self, branch: str, title: str, body: str) -> PullRequest | None:
        """409 says that there is one; 404 that a branch is missing."""
        wanted = {"title": title, "body": body, "head": branch, "base": self._base}
        answer = self._http.send("POST", f"{self._path}/pulls", wanted, also={_CONFLICT})
        return None if answer.status == _CONFLICT else self._pull_request(answer.body)

    def merge(self, number: int, head: str) -> None:
        """405: not mergeable, or not yet; 409: the head moved, or texts conflict."""
        wanted = {"Do": self._method, "head_commit_id": head}
        also = {_NOT_ALLOWED, _CONFLICT}
        answer = self._http.send("POST", f"{self._path}/pulls/{number}/merge", wanted, also=also)
        if answer.status == _CONFLICT and "out of date" in answer.words:
            raise Conflict(f"Gitea: {answer.words}")
        if answer.status == _NOT_ALLOWED and CHECKED_AGAIN in answer.words.lower():
            reason = f"it is still being checked, or its text conflicts with {self._base}"
            raise Retry(f"Gitea does not merge pull request {number} yet: {reason}")
        if answer.status in also:
            raise Stalled(f"Gitea does not merge pull request {number}: {answer.words or answer.status}")

    def approvals(self, number: int) -> Sequence[Approval]:
        """Each person's last word; a dismissed one is none."""
        last: dict[str, Mapping[str, Any]] = {}
        for review in self._http.pages(f"{self._path}/pulls/{number}/reviews", size="limit"):
            if review["state"] not in _NO_WORD:
                last[_login(review)] = review
        standing = {by: each for by, each in last.items() if each["state"] == "APPROVED" and not each.get("dismissed")}
        return tuple(
            Approval(
                by=by,
                commit=None if each.get("stale") else each.get("commit_id"),
                at=moment(each.get("submitted_at")),
                official=bool(each.get("official")),
            )
            for by, each in standing.items()
        )

    def comments(self, number: int) -> Iterator[Comment]:
        """All at once: this listing has no pages."""
        return (self._comment(each) for each in self._http.get(f"{self._path}/issues/{number}/comments").body)

    def _is_here(self, shown: Mapping[str, Any], branch: str) -> bool:
        home = (shown["head"].get("repo") or {}).get("full_name", "")
        mine = home.lower() == self._repository.lower()
        return bool(mine and _branch(shown) == branch and shown["base"]["ref"] == self._base)

    def _pull_request(self, shown: Mapping[str, Any]) -> PullRequest:
        closed = PullRequestState.MERGED if shown.get("merged") else PullRequestState.CLOSED
        return PullRequest(
            number=int(shown["number"]),
            url=shown["html_url"],
            branch=_branch(shown),
            base=shown["base"]["ref"],
            head=shown["head"]["sha"],
            state=PullRequestState.OPEN if shown["state"] == "open" else closed,
            title=shown["title"],
            body=shown.get("body") or "",
            author=_login(shown),
            merge_commit=shown.get("merge_commit_sha") if shown.get("merged") else None,
        )

    def _comment(self, shown: Mapping[str, Any]) -> Comment:
        if self._me is None:
            self._me = str(self._http.get("/user").body["login"])
        return Comment(
            id=str(shown["id"]), body=shown.get("body") or "", url=shown["html_url"], ours=_login(shown) == self._me
        )


def _login(shown: Mapping[str, Any]) -> str:
    return str((shown.get("user") or {}).get("login", ""))


def _branch(shown: Mapping[str, Any]) -> str:
    """Once the branch is deleted, `ref` is refs/pull/N/head; `label` stays."""
    return str(shown["head"].get("label") or shown["head"]["ref"])
