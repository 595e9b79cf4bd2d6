"""GitLab's dialect: API v4, gitlab.com and servers of one's own. Its merge requests are our pull requests.

- https://docs.gitlab.com/api/merge_requests/ and https://docs.gitlab.com/api/merge_request_approvals/
- https://docs.gitlab.com/api/notes/ and https://docs.gitlab.com/api/commits/ (statuses)

Its token needs the scope `api`, as Developer; as Maintainer to merge into a protected branch. An approval names no
commit: it is for the newest version of the merge request that was there when it was given. Where GitLab does not say
when that was (`approved_at`, https://gitlab.com/gitlab-org/gitlab/-/merge_requests/204605), it counts as stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from policies.errors import Conflict, Retry, Stalled
from policies.pull_requests import Approval, CommitStatus, PullRequest, PullRequestState, StatusState
from registry_bridge.forge import Comment, moment, open_first
from registry_bridge.forge_http import ForgeHttp

API: Final = "/api/v4"
_ON_ITS_WAY = frozenset({"unchecked", "checking", "preparing", "approvals_syncing", "ci_still_running"})
"""Of `detailed_merge_status`: GitLab will know soon."""
_STATES = {"opened": PullRequestState.OPEN, "locked": PullRequestState.OPEN, "merged": PullRequestState.MERGED}
_STATUS_WORDS = {
    StatusState.PENDING: "pending",
    StatusState.SUCCESS: "success",
    StatusState.FAILURE: "failed",
    StatusState.ERROR: "failed",
}
_BAD_REQUEST, _UNAUTHORIZED, _NOT_ALLOWED, _CONFLICT, _UNPROCESSABLE = 400, 401, 405, 409, 422


class GitLab:
    """One project, `group/name`; merge requests into `base`."""

    def __init__(self, http: ForgeHttp, repository: str, base: str, merge_method: str = "merge") -> None:
        """GitLab's project decides how branches are merged, apart from `squash`."""
        self._http, self._base, self._squash = http, base, merge_method == "squash"
        self._path = f"/projects/{quote(repository, safe='')}"
        self._requests = f"{self._path}/merge_requests"
        self._me: str | None = None

    def requests_from(self, branch: str) -> Iterator[PullRequest]:
        """One question: GitLab filters by branch."""
        asked = {"state": "all", "source_branch": branch, "target_branch": self._base, "order_by": "created_at"}
        shown = self._http.pages(self._requests, asked)
        return open_first(_pull_request(each) for each in shown if each["source_project_id"] == each["project_id"])

    def read(self, number: int) -> PullRequest:
        """One by its number."""
        return _pull_request(self._http.get(f"{self._requests}/{number}").body)

    def create(self, branch: str, title: str, body: str) -> PullRequest | None:
        """409 says that there is one."""
        wanted = {"title": title, "description": body, "source_branch": branch, "target_branch": self._base}
        answer = self._http.send("POST", self._requests, wanted, also={_CONFLICT})
        return None if answer.status == _CONFLICT else _pull_request(answer.body)

    def edit(self, number: int, title: str, body: str) -> PullRequest:
        """Title and description."""
        return self._put(number, {"title": title, "description": body})

    def shut(self, number: int) -> PullRequest:
        """Close it."""
        return self._put(number, {"state_event": "close"})

    def merge(self, number: int, head: str) -> None:
        """401: no right; 405 or 422: not mergeable, or not yet; 409: the head moved."""
        also = {_UNAUTHORIZED, _NOT_ALLOWED, _CONFLICT, _UNPROCESSABLE}
        wanted = {"sha": head, "squash": self._squash}
        answer = self._http.send("PUT", f"{self._requests}/{number}/merge", wanted, also=also)
        if answer.status == _CONFLICT:
            raise Conflict(f"GitLab: {answer.words}")
        if answer.status == _UNAUTHORIZED:
            raise Stalled(f"GitLab does not merge {number}: this token may not merge into {self._base}")
        if answer.status in also:
            why = str(self._http.get(f"{self._requests}/{number}").body.get("detailed_merge_status", ""))
            words = f"GitLab does not merge {number}: {answer.words} ({why.replace('_', ' ') or 'no reason given'})"
            raise Retry(words) if why in _ON_ITS_WAY else Stalled(words)

    def approvals(self, number: int) -> Sequence[Approval]:
        """Who may approve is GitLab's to say: all that it shows are official."""
        given = self._http.get(f"{self._requests}/{number}/approvals").body.get("approved_by") or ()
        if not given:
            return ()
        versions = [_version(each) for each in self._http.pages(f"{self._requests}/{number}/versions")]
        return tuple(_approval(each, sorted(versions)) for each in given)

    def comments(self, number: int) -> Iterator[Comment]:
        """Notes, without those that GitLab writes itself."""
        asked = {"sort": "asc", "order_by": "created_at"}
        notes = self._http.pages(f"{self._requests}/{number}/notes", asked)
        return (self._comment(number, each) for each in notes if not each.get("system"))

    def write_comment(self, number: int, body: str) -> Comment:
        """A new one."""
        return self._comment(number, self._http.send("POST", f"{self._requests}/{number}/notes", {"body": body}).body)

    def rewrite_comment(self, number: int, id: str, body: str) -> Comment:  # noqa: A002
        """Another text for it."""
        answer = self._http.send("PUT", f"{self._requests}/{number}/notes/{id}", {"body": body})
        return self._comment(number, answer.body)

    def set_status(self, commit: str, status: CommitStatus) -> None:
        """A status that is there already cannot be set again: GitLab says so, and it is well."""
        wanted = {
            "state": _STATUS_WORDS[status.state],
            "name": status.context,
            "description": status.description[:255],
            **({"target_url": status.url} if status.url else {}),
        }
        answer = self._http.send("POST", f"{self._path}/statuses/{commit}", wanted, also={_BAD_REQUEST})
        if answer.status == _BAD_REQUEST and "Cannot transition status" not in answer.words:
            raise Stalled(f"GitLab takes no status for {commit[:8]}: {answer.words}")

    def _put(self, number: int, wanted: Mapping[str, Any]) -> PullRequest:
        return _pull_request(self._http.send("PUT", f"{self._requests}/{number}", wanted).body)

    def _comment(self, number: int, shown: Mapping[str, Any]) -> Comment:
        if self._me is None:
            self._me = str(self._http.get("/user").body["username"])
        return Comment(
            id=str(shown["id"]),
            body=shown.get("body") or "",
            url=f"{self.read(number).url}#note_{shown['id']}" if _author(shown) == self._me else "",
            ours=_author(shown) == self._me,
        )


def _author(shown: Mapping[str, Any]) -> str:
    return str((shown.get("author") or {}).get("username", ""))


def _version(shown: Mapping[str, Any]) -> tuple[datetime, str]:
    return datetime.fromisoformat(shown["created_at"]), str(shown["head_commit_sha"])


def _approval(given: Mapping[str, Any], versions: Sequence[tuple[datetime, str]]) -> Approval:
    """For the newest version that was there when it was given."""
    at = moment(given.get("approved_at"))
    seen = [head for since, head in versions if at is not None and since <= at]
    return Approval(by=str(given["user"]["username"]), commit=seen[-1] if seen else None, at=at)


def _pull_request(shown: Mapping[str, Any]) -> PullRequest:
    state = _STATES.get(shown["state"], PullRequestState.CLOSED)
    commit = shown.get("merge_commit_sha") or shown.get("squash_commit_sha") or shown["sha"]  # the last: fast-forward
    return PullRequest(
        number=int(shown["iid"]),
        url=shown["web_url"],
        branch=shown["source_branch"],
        base=shown["target_branch"],
        head=shown["sha"],
        state=state,
        title=shown["title"],
        body=shown.get("description") or "",
        author=_author(shown),
        merge_commit=commit if state is PullRequestState.MERGED else None,
    )
