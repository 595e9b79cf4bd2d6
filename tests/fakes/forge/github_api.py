"""GitHub's REST API, version 2022-11-28, as GitHub Enterprise Server has it below `/api/v3`.

- https://docs.github.com/en/rest/pulls/pulls (422 for a second pull request of a branch; merge: 405 and 409)
- https://docs.github.com/en/rest/pulls/reviews (an approval names its `commit_id`; it stays when the head moves, unless
  the branch's protection dismisses it)
- https://docs.github.com/en/rest/issues/comments, https://docs.github.com/en/rest/commits/statuses
- https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api (403 or 429)
- https://docs.github.com/en/rest/apps/apps#create-an-installation-access-token-for-an-app
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import jwt
from starlette.responses import JSONResponse, Response

from tests.fakes.forge.hub import Comment, Hub, Person, Pull, Review
from tests.fakes.forge.server import Call, Handler, hub_signature, page

_REFUSALS = {
    "unauthorized": (401, "Bad credentials"),
    "missing": (404, "Not Found"),
    "forbidden": (403, "Resource not accessible by personal access token"),
    "no branch": (422, "Validation Failed: head invalid"),
    "no commits": (422, "Validation Failed: No commits between main and the branch"),
    "exists": (422, "Validation Failed: A pull request already exists for team:branch."),
    "not open": (405, "Pull Request is not mergeable"),
    "conflict": (405, "Pull Request is not mergeable"),
    "approvals": (405, "At least 1 approving review is required by reviewers with write access."),
    "checking": (405, "Base branch was modified. Review and try the merge again."),
    "moved": (409, "Head branch was modified. Review and try the merge again."),
    "bad status": (422, "Validation Failed: description is too long (maximum is 140 characters)"),
}


class GitHubApi:
    """One hub in GitHub's words."""

    api = "/api/v3"
    kind = "github"
    app_key: Any = None
    """The App's public key."""
    lifetime = timedelta(hours=1)

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.issued: list[str] = []
        """Installation tokens."""

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        repo = f"/repos/{self._hub.repository}"
        return {
            ("GET", "/user"): self._user,
            ("POST", "/app/installations/{number:int}/access_tokens"): self._installation,
            ("GET", f"{repo}/pulls"): self._list,
            ("POST", f"{repo}/pulls"): self._open,
            ("GET", f"{repo}/pulls/{{number:int}}"): lambda call: self._shown(call.by, call.number()),
            ("PATCH", f"{repo}/pulls/{{number:int}}"): self._edit,
            ("PUT", f"{repo}/pulls/{{number:int}}/merge"): self._merge,
            ("GET", f"{repo}/pulls/{{number:int}}/reviews"): self._reviews,
            ("GET", f"{repo}/issues/{{number:int}}/comments"): self._comments,
            ("POST", f"{repo}/issues/{{number:int}}/comments"): self._write,
            ("PATCH", f"{repo}/issues/comments/{{number:int}}"): self._rewrite,
            ("POST", f"{repo}/statuses/{{sha}}"): self._status,
        }

    def token(self, headers: Mapping[str, str]) -> str:
        return headers.get("authorization", "").removeprefix("Bearer ")

    def refusal(self, kind: str) -> Response:
        status, words = _REFUSALS[kind]
        head, _, rest = words.partition(": ")
        errors = {"errors": [{"resource": "PullRequest", "message": rest}]} if rest else {}
        return JSONResponse({"message": head, "documentation_url": "https://docs.github.com/rest", **errors}, status)

    def limit(self, headers: Mapping[str, str], status: int) -> Response:
        spent = "x-ratelimit-remaining" in headers
        words = "API rate limit exceeded for user ID 1." if spent else "You have exceeded a secondary rate limit."
        return JSONResponse({"message": words}, status, dict(headers))

    def signed(self, secret: str, event: str, body: bytes) -> Mapping[str, str]:
        return hub_signature(secret, event, body)

    def _user(self, call: Call) -> Response:
        if call.by.bot:
            return JSONResponse({"message": "Resource not accessible by integration"}, 403)
        return JSONResponse(_person(call.by))

    def _installation(self, call: Call) -> Response:
        token = self.token(call.headers)
        try:
            claims = jwt.decode(token, self.app_key, algorithms=["RS256"], options={"require": ["exp", "iat", "iss"]})
        except jwt.PyJWTError as error:
            return JSONResponse({"message": f"A JSON web token could not be decoded: {error}"}, 401)
        if claims["exp"] - claims["iat"] > 660 or call.number() != 7:
            return JSONResponse({"message": "Not Found"}, 404)
        made = f"ghs_{len(self.issued)}"
        self.issued.append(made)
        self._hub.people[made] = Person("sluice[bot]", bot=True)
        ends = (self._hub.now() + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        return JSONResponse({"token": made, "expires_at": ends, "permissions": {"pull_requests": "write"}}, 201)

    def _list(self, call: Call) -> Response:
        assert call.by
        owner, _, branch = call.query.get("head", "").partition(":")
        state = call.query.get("state", "open")
        found = [
            pull
            for pull in reversed(self._hub.pulls)
            if pull.branch == branch
            and owner == ("mallory" if pull.fork else "team")
            and pull.base == call.query.get("base", pull.base)
            and (state == "all" or (pull.state == "open") == (state == "open"))
        ]
        return page(call, self._hub, [self._json(pull, listed=True) for pull in found], "per_page")

    def _open(self, call: Call) -> Response:
        told = call.body
        pull = self._hub.open(call.by, told["head"], told["base"], told["title"], told.get("body", ""))
        return JSONResponse(self._json(pull), 201)

    def _shown(self, by: Person, number: int) -> Response:
        assert by
        return JSONResponse(self._json(self._hub.pull(number)))

    def _edit(self, call: Call) -> Response:
        pull = self._hub.pull(call.number())
        pull.title, pull.body = call.body.get("title", pull.title), call.body.get("body", pull.body)
        if call.body.get("state") == "closed":
            self._hub.close(pull)
        return self._shown(call.by, pull.number)

    def _merge(self, call: Call) -> Response:
        pull = self._hub.pull(call.number())
        sha = self._hub.merge(pull, call.by, call.body.get("sha"), call.body.get("merge_method", "merge"))
        return JSONResponse({"sha": sha, "merged": True, "message": "Pull Request successfully merged"})

    def _reviews(self, call: Call) -> Response:
        assert call.by
        return page(call, self._hub, [_review(each) for each in self._hub.pull(call.number()).reviews], "per_page")

    def _comments(self, call: Call) -> Response:
        assert call.by
        pull = self._hub.pull(call.number())
        return page(call, self._hub, [self._comment(each) for each in pull.comments], "per_page")

    def _write(self, call: Call) -> Response:
        made = self._hub.comment(call.number(), call.by, call.body["body"])
        return JSONResponse(self._comment(made), 201)

    def _rewrite(self, call: Call) -> Response:
        found = self._hub.found_comment(call.number())
        assert call.by
        found.body = call.body["body"]
        return JSONResponse(self._comment(found))

    def _status(self, call: Call) -> Response:
        if len(call.body.get("description", "")) > 140:
            return self.refusal("bad status")
        assert call.by
        assert call.body["state"] in {"error", "failure", "pending", "success"}
        self._hub.statuses.append({"sha": call.path["sha"], **call.body})
        return JSONResponse({"id": len(self._hub.statuses), **call.body}, 201)

    def _json(self, pull: Pull, *, listed: bool = False) -> dict[str, Any]:
        merged = pull.state == "merged"
        home = f"mallory/{self._hub.name}" if pull.fork else self._hub.repository
        shown = {
            "number": pull.number,
            "html_url": f"{self._hub.url}/{self._hub.repository}/pull/{pull.number}",
            "state": "open" if pull.state == "open" else "closed",
            "title": pull.title,
            "body": pull.body or None,
            "user": _person(pull.author),
            "created_at": pull.at.isoformat(),
            "merged_at": pull.at.isoformat() if merged else None,
            "merge_commit_sha": pull.merge_commit or "f" * 40,  # of an open one: the trial merge
            "head": {"ref": pull.branch, "sha": pull.head, "repo": {"full_name": home}},
            "base": {"ref": pull.base, "sha": self._hub.tip(pull.base), "repo": {"full_name": self._hub.repository}},
        }
        return shown if listed else {**shown, "merged": merged, "mergeable": None if self._hub.checking else True}

    def _comment(self, each: Comment) -> dict[str, Any]:
        url = f"{self._hub.url}/{self._hub.repository}/pull/1#issuecomment-{each.id}"
        return {"id": each.id, "html_url": url, "body": each.body, "user": _person(each.by)}


def _person(by: Person) -> dict[str, Any]:
    return {"login": by.name, "type": "Bot" if by.bot else "User"}


def _review(each: Review) -> dict[str, Any]:
    return {
        "id": each.id,
        "user": _person(each.by),
        "state": "DISMISSED" if each.dismissed else each.state,
        "commit_id": each.commit,
        "submitted_at": each.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "author_association": "COLLABORATOR" if each.by.may_write else "NONE",
    }
