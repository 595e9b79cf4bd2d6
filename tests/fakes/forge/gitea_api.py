"""Gitea's and Forgejo's API v1.

- https://docs.gitea.com/api/ (the swagger of a server at `/api/swagger`), and `routers/api/v1/repo/pull.go` for what
  the document leaves out: a merge is 405 "Please try again later" where mergeability is unknown or texts conflict, 409
  "head out of date" where the head moved
- reviews carry `commit_id`, `stale`, `official` and `dismissed`; comments of an issue come without pages
- https://docs.gitea.com/usage/webhooks (`X-Gitea-Signature`, hex of HMAC-SHA256)
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from tests.fakes.forge.hub import Comment, Hub, Person, Pull, Review
from tests.fakes.forge.server import Call, Handler, hub_signature, page

_REFUSALS = {
    "unauthorized": (401, "token is required"),
    "missing": (404, "The target couldn't be found."),
    "forbidden": (405, "User not allowed to merge PR"),
    "no branch": (404, "The target couldn't be found."),
    "no commits": (422, "There are no changes between the head and the base"),
    "exists": (409, "pull request already exists for these targets [id: 1]"),
    "not open": (405, ""),
    "conflict": (405, "Please try again later"),
    "approvals": (405, "Does not have enough approvals"),
    "checking": (405, "Please try again later"),
    "moved": (409, "head out of date"),
}
_WORDS = {"CHANGES_REQUESTED": "REQUEST_CHANGES", "COMMENTED": "COMMENT"}


class GiteaApi:
    """One hub in Gitea's words."""

    api = "/api/v1"
    kind = "gitea"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        repo = f"/repos/{self._hub.repository}"
        return {
            ("GET", "/user"): lambda call: JSONResponse(_person(call.by)),
            ("GET", f"{repo}/pulls"): self._list,
            ("POST", f"{repo}/pulls"): self._open,
            ("GET", f"{repo}/pulls/{{number:int}}"): lambda call: self._shown(call.by, call.number()),
            ("PATCH", f"{repo}/pulls/{{number:int}}"): self._edit,
            ("POST", f"{repo}/pulls/{{number:int}}/merge"): self._merge,
            ("GET", f"{repo}/pulls/{{number:int}}/reviews"): self._reviews,
            ("GET", f"{repo}/issues/{{number:int}}/comments"): self._comments,
            ("POST", f"{repo}/issues/{{number:int}}/comments"): self._write,
            ("PATCH", f"{repo}/issues/comments/{{number:int}}"): self._rewrite,
            ("POST", f"{repo}/statuses/{{sha}}"): self._status,
        }

    def token(self, headers: Mapping[str, str]) -> str:
        return headers.get("authorization", "").removeprefix("token ")

    def refusal(self, kind: str) -> Response:
        status, words = _REFUSALS[kind]
        return JSONResponse({"message": words, "url": f"{self._hub.url}/api/swagger"}, status)

    def limit(self, headers: Mapping[str, str], status: int) -> Response:
        return Response("Too Many Requests", status, dict(headers))

    def signed(self, secret: str, event: str, body: bytes) -> Mapping[str, str]:
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        own = {"X-Gitea-Event": event, "X-Gitea-Delivery": str(uuid.uuid4()), "X-Gitea-Signature": signature}
        return {**hub_signature(secret, event, body), **own}

    def _list(self, call: Call) -> Response:
        assert call.by
        assert "per_page" not in call.query
        state = call.query.get("state", "open")
        shown = [p for p in reversed(self._hub.pulls) if state == "all" or (p.state == "open") == (state == "open")]
        return page(call, self._hub, [self._json(pull) for pull in shown], "limit")

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
        return JSONResponse(self._json(pull), 201)

    def _merge(self, call: Call) -> Response:
        pull = self._hub.pull(call.number())
        assert call.body["Do"] in {"merge", "rebase", "squash"}
        self._hub.merge(pull, call.by, call.body.get("head_commit_id"), call.body["Do"])
        return Response(status_code=200)

    def _reviews(self, call: Call) -> Response:
        assert call.by
        pull = self._hub.pull(call.number())
        return page(call, self._hub, [_review(each, pull) for each in pull.reviews], "limit")

    def _comments(self, call: Call) -> Response:
        assert call.by
        return JSONResponse([self._comment(each) for each in self._hub.pull(call.number()).comments])

    def _write(self, call: Call) -> Response:
        made = self._hub.comment(call.number(), call.by, call.body["body"])
        return JSONResponse(self._comment(made), 201)

    def _rewrite(self, call: Call) -> Response:
        found = self._hub.found_comment(call.number())
        assert call.by
        found.body = call.body["body"]
        return JSONResponse(self._comment(found))

    def _status(self, call: Call) -> Response:
        assert call.by
        assert call.body["state"] in {"pending", "success", "error", "failure", "warning"}
        self._hub.statuses.append({"sha": call.path["sha"], **call.body})
        return JSONResponse({"id": len(self._hub.statuses), "status": call.body["state"]}, 201)

    def _json(self, pull: Pull) -> dict[str, Any]:
        gone = not pull.fork and not self._hub.tip(pull.branch)
        home = f"mallory/{self._hub.name}" if pull.fork else self._hub.repository
        return {
            "number": pull.number,
            "html_url": f"{self._hub.url}/{self._hub.repository}/pulls/{pull.number}",
            "state": "open" if pull.state == "open" else "closed",
            "title": pull.title,
            "body": pull.body,
            "user": _person(pull.author),
            "merged": pull.state == "merged",
            "mergeable": not self._hub.checking,
            "merge_commit_sha": pull.merge_commit,
            "head": {
                "label": pull.branch,
                "ref": f"refs/pull/{pull.number}/head" if gone else pull.branch,
                "sha": pull.head,
                "repo": {"full_name": home},
            },
            "base": {"label": pull.base, "ref": pull.base, "repo": {"full_name": self._hub.repository}},
        }

    def _comment(self, each: Comment) -> dict[str, Any]:
        url = f"{self._hub.url}/{self._hub.repository}/pulls/1#issuecomment-{each.id}"
        return {"id": each.id, "html_url": url, "body": each.body, "user": _person(each.by)}


def _person(by: Person) -> dict[str, Any]:
    return {"id": 1, "login": by.name}


def _review(each: Review, pull: Pull) -> dict[str, Any]:
    return {
        "id": each.id,
        "user": _person(each.by),
        "state": _WORDS.get(each.state, each.state),
        "commit_id": each.commit,
        "stale": each.commit != pull.head,
        "official": each.by.may_write,
        "dismissed": each.dismissed,
        "submitted_at": each.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
