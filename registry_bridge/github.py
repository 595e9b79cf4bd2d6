"""GitHub's dialect: REST, API version 2022-11-28, github.com and GitHub Enterprise Server.

- https://docs.github.com/en/rest/pulls/pulls and .../pulls/reviews
- https://docs.github.com/en/rest/issues/comments and .../commits/statuses
- https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api

Its token needs "Pull requests" and "Commit statuses" (write); "Contents" (write) to merge. Reviews by people who are no
owner, member or collaborator are not official: on a public repository anybody may approve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from policies.errors import Conflict, Retry, Stalled
from policies.pull_requests import Approval, PullRequest, PullRequestState
from registry_bridge.forge import Comment, moment, open_first
from registry_bridge.hub_api import HubApi

HEADERS: Final = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
"""Of every call."""
DESCRIPTION_CHARACTERS: Final = 140
"""Of a commit status."""

_OFFICIAL = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
_NO_WORD = frozenset({"COMMENTED", "PENDING"})
"""Reviews that neither approve nor object: whoever approved before still does."""
_FORBIDDEN, _NOT_ALLOWED, _CONFLICT, _UNPROCESSABLE = 403, 405, 409, 422


def api_of(url: str) -> str:
    """Where the API of the GitHub at this address is."""
    parts = urlsplit(url)
    if parts.hostname in {"github.com", "www.github.com"}:
        return "https://api.github.com"
    return url.rstrip("/") + "/api/v3"


class GitHub(HubApi):
    """One repository, `owner/name`; pull requests into `base`."""

    description_characters = DESCRIPTION_CHARACTERS

    def requests_from(self, branch: str) -> Iterator[PullRequest]:
        """One question: GitHub filters by branch."""
        owner = self._repository.partition("/")[0]
        asked = {
            "state": "all",
            "head": f"{owner}:{branch}",
            "base": self._base,
            "sort": "created",
            "direction": "desc",
        }
        shown = self._http.pages(f"{self._path}/pulls", asked)
        return open_first(self._pull_request(each) for each in shown if self._is_here(each, branch))

    def create(self, branch: str, title: str, body: str) -> PullRequest | None:
        """422 says that there is one, or what else is wrong."""
        wanted = {"title": title, "body": body, "head": branch, "base": self._base}
        answer = self._http.send("POST", f"{self._path}/pulls", wanted, also={_UNPROCESSABLE})
        if answer.status != _UNPROCESSABLE:
            return self._pull_request(answer.body)
        if "already exists" in answer.words:
            return None
        raise Stalled(f"GitHub opens no pull request from {branch} into {self._base}: {answer.words}")

    def merge(self, number: int, head: str) -> None:
        """405: not mergeable; 409: the head moved."""
        wanted = {"sha": head, "merge_method": self._method}
        also = {_NOT_ALLOWED, _CONFLICT, _UNPROCESSABLE}
        answer = self._http.send("PUT", f"{self._path}/pulls/{number}/merge", wanted, also=also)
        if answer.status == _CONFLICT:
            raise Conflict(f"GitHub: {answer.words}")
        if answer.status == _NOT_ALLOWED and "try the merge again" in answer.words.lower():
            raise Retry(f"GitHub: {answer.words}")  # the base moved while it merged
        if answer.status in also:
            raise Stalled(f"GitHub does not merge pull request {number}: {answer.words or answer.status}")

    def approvals(self, number: int) -> Sequence[Approval]:
        """Each person's last word; reviews come oldest first."""
        last: dict[str, Mapping[str, Any]] = {}
        for review in self._http.pages(f"{self._path}/pulls/{number}/reviews"):
            if review["state"] not in _NO_WORD:
                last[_login(review)] = review
        return tuple(_approval(by, review) for by, review in last.items() if review["state"] == "APPROVED")

    def comments(self, number: int) -> Iterator[Comment]:
        """A pull request is an issue, too."""
        return (self._comment(each) for each in self._http.pages(f"{self._path}/issues/{number}/comments"))

    def _is_here(self, shown: Mapping[str, Any], branch: str) -> bool:
        home = (shown["head"].get("repo") or {}).get("full_name", "")
        return bool(shown["head"]["ref"] == branch and home.lower() == self._repository.lower())

    def _pull_request(self, shown: Mapping[str, Any]) -> PullRequest:
        merged = bool(shown.get("merged_at"))
        closed = PullRequestState.MERGED if merged else PullRequestState.CLOSED
        return PullRequest(
            number=int(shown["number"]),
            url=shown["html_url"],
            branch=shown["head"]["ref"],
            base=shown["base"]["ref"],
            head=shown["head"]["sha"],
            state=PullRequestState.OPEN if shown["state"] == "open" else closed,
            title=shown["title"],
            body=shown.get("body") or "",
            author=_login(shown),
            merge_commit=shown.get("merge_commit_sha") if merged else None,  # of an open one: a trial merge
        )

    def _comment(self, shown: Mapping[str, Any]) -> Comment:
        return Comment(
            id=str(shown["id"]), body=shown.get("body") or "", url=shown["html_url"], ours=self._is_ours(shown)
        )

    def _is_ours(self, shown: Mapping[str, Any]) -> bool:
        """An installation's or an Action's token may not ask who it is: it is a bot, and so is the author."""
        if self._me is None:
            answer = self._http.get("/user", also={_FORBIDDEN})
            self._me = "" if answer.status == _FORBIDDEN else str(answer.body["login"])
        author = shown.get("user") or {}
        return bool(author.get("login") == self._me if self._me else author.get("type") == "Bot")


def _login(shown: Mapping[str, Any]) -> str:
    return str((shown.get("user") or {}).get("login", "ghost"))


def _approval(by: str, review: Mapping[str, Any]) -> Approval:
    official = review.get("author_association") in _OFFICIAL
    return Approval(by=by, commit=review.get("commit_id"), at=moment(review.get("submitted_at")), official=official)
