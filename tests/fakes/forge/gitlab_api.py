"""GitLab's API v4.

- https://docs.gitlab.com/api/merge_requests/ (merge: 401 no right, 405 not mergeable, 409 the SHA is not the head,
  422 cannot be merged; `versions` name each head and when it came)
- https://docs.gitlab.com/api/merge_request_approvals/ (`approved_by` names people and, in newer ones, times; never a
  commit; "remove all approvals when commits are added" is a project's setting)
- https://docs.gitlab.com/api/notes/, https://docs.gitlab.com/api/commits/#set-commit-pipeline-status (the same status
  again is 400 "Cannot transition status")
- https://docs.gitlab.com/user/project/integrations/webhooks/ (`X-Gitlab-Token`, `Idempotency-Key`)
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from tests.fakes.forge.hub import Comment, Hub, Person, Pull, Refused
from tests.fakes.forge.server import Call, Handler, page

_REFUSALS: dict[str, tuple[int, Any]] = {
    "unauthorized": (401, "401 Unauthorized"),
    "missing": (404, "404 Not found"),
    "forbidden": (401, "401 Unauthorized"),
    "no branch": (400, ["Source branch does not exist"]),
    "no commits": (400, ["No commits"]),
    "exists": (409, ["Another open merge request already exists for this source branch: !1"]),
    "not open": (405, "405 Method Not Allowed"),
    "conflict": (405, "405 Method Not Allowed"),
    "approvals": (405, "405 Method Not Allowed"),
    "checking": (422, "Branch cannot be merged"),
    "moved": (409, "SHA does not match HEAD of source branch: 1234"),
}
_STATES = {"open": "opened"}


class GitLabApi:
    """One hub in GitLab's words."""

    api = "/api/v4"
    kind = "gitlab"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._statuses: dict[tuple[str, str], str] = {}

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        # The project's path is one part, percent-encoded; Starlette hands it on decoded, so it has two here.
        project = f"/projects/{self._hub.repository}"
        one = f"{project}/merge_requests/{{number:int}}"
        return {
            ("GET", "/user"): lambda call: JSONResponse(_person(call.by)),
            ("GET", f"{project}/merge_requests"): self._list,
            ("POST", f"{project}/merge_requests"): self._open,
            ("GET", one): lambda call: self._shown(call.by, call.number()),
            ("PUT", one): self._edit,
            ("PUT", f"{one}/merge"): self._merge,
            ("GET", f"{one}/approvals"): self._approvals,
            ("GET", f"{one}/versions"): self._versions,
            ("GET", f"{one}/notes"): self._notes,
            ("POST", f"{one}/notes"): self._write,
            ("PUT", f"{one}/notes/{{note:int}}"): self._rewrite,
            ("POST", f"{project}/statuses/{{sha}}"): self._status,
        }

    def token(self, headers: Mapping[str, str]) -> str:
        return headers.get("private-token", "")

    def refusal(self, kind: str) -> Response:
        status, words = _REFUSALS[kind]
        return JSONResponse({"message": words}, status)

    def limit(self, headers: Mapping[str, str], status: int) -> Response:
        renamed = {name.replace("x-ratelimit", "ratelimit"): value for name, value in headers.items()}
        return Response("Retry later\n", status, renamed)

    def signed(self, secret: str, event: str, body: bytes) -> Mapping[str, str]:
        assert body
        return {
            "X-Gitlab-Event": {"push": "Push Hook"}.get(event, "Merge Request Hook"),
            "X-Gitlab-Token": secret,
            "X-Gitlab-Event-UUID": str(uuid.uuid4()),
            "Idempotency-Key": str(uuid.uuid4()),
        }

    def _checked(self, call: Call) -> None:
        assert call.by
        assert quote(self._hub.repository, safe="").encode() in call.raw_path

    def _list(self, call: Call) -> Response:
        self._checked(call)
        found = [
            pull
            for pull in reversed(self._hub.pulls)
            if pull.branch == call.query["source_branch"] and pull.base == call.query["target_branch"]
        ]
        assert call.query["state"] == "all"
        return page(call, self._hub, [self._json(pull) for pull in found], "per_page")

    def _open(self, call: Call) -> Response:
        told = call.body
        made = self._hub.open(
            call.by, told["source_branch"], told["target_branch"], told["title"], told.get("description", "")
        )
        return JSONResponse(self._json(made), 201)

    def _shown(self, by: Person, number: int) -> Response:
        assert by
        return JSONResponse(self._json(self._hub.pull(number)))

    def _edit(self, call: Call) -> Response:
        pull = self._hub.pull(call.number())
        pull.title, pull.body = call.body.get("title", pull.title), call.body.get("description", pull.body)
        if call.body.get("state_event") == "close":
            self._hub.close(pull)
        return self._shown(call.by, pull.number)

    def _merge(self, call: Call) -> Response:
        pull = self._hub.pull(call.number())
        self._hub.merge(pull, call.by, call.body.get("sha"), "squash" if call.body.get("squash") else "merge")
        return self._shown(call.by, pull.number)

    def _approvals(self, call: Call) -> Response:
        self._checked(call)
        given = [
            {
                "user": _person(each.by),
                **({"approved_at": each.at.isoformat()} if self._hub.names_approval_times else {}),
            }
            for each in self._hub.approved_by(self._hub.pull(call.number()))
        ]
        return JSONResponse({"approvals_required": self._hub.required_approvals, "approved_by": given})

    def _versions(self, call: Call) -> Response:
        self._checked(call)
        newest_first = reversed(self._hub.pull(call.number()).versions)
        shown = [
            {"id": n, "head_commit_sha": head, "created_at": at.isoformat(), "state": "collected"}
            for n, (at, head) in enumerate(newest_first)
        ]
        return page(call, self._hub, shown, "per_page")

    def _notes(self, call: Call) -> Response:
        self._checked(call)
        assert call.query["sort"] == "asc"
        return page(call, self._hub, [_note(each) for each in self._hub.pull(call.number()).comments], "per_page")

    def _write(self, call: Call) -> Response:
        return JSONResponse(_note(self._hub.comment(call.number(), call.by, call.body["body"])), 201)

    def _rewrite(self, call: Call) -> Response:
        found = self._hub.found_comment(call.number("note"))
        if found.by != call.by:
            raise Refused("missing")
        found.body = call.body["body"]
        return JSONResponse(_note(found))

    def _status(self, call: Call) -> Response:
        self._checked(call)
        state, name, sha = call.body["state"], call.body["name"], call.path["sha"]
        assert state in {"pending", "running", "success", "failed", "canceled", "skipped"}
        if self._statuses.get((sha, name)) == state:
            words = f"Cannot transition status via :enqueue from :{state} (Reason(s): Status cannot transition)"
            return JSONResponse({"message": words}, 400)
        self._statuses[sha, name] = state
        self._hub.statuses.append({"sha": sha, **call.body})
        return JSONResponse({"id": len(self._hub.statuses), "status": state}, 201)

    def _json(self, pull: Pull) -> dict[str, Any]:
        return {
            "id": 1000 + pull.number,
            "iid": pull.number,
            "project_id": 3,
            "source_project_id": 4 if pull.fork else 3,
            "web_url": f"{self._hub.url}/{self._hub.repository}/-/merge_requests/{pull.number}",
            "state": _STATES.get(pull.state, pull.state),
            "title": pull.title,
            "description": pull.body or None,
            "author": _person(pull.author),
            "source_branch": pull.branch,
            "target_branch": pull.base,
            "sha": pull.head,
            "merge_commit_sha": pull.merge_commit,
            "squash_commit_sha": None,
            "detailed_merge_status": self._merge_status(pull),
        }

    def _merge_status(self, pull: Pull) -> str:
        if self._hub.checking:
            return "checking"
        if len(self._hub.approved_by(pull)) < self._hub.required_approvals:
            return "not_approved"
        return "mergeable" if self._hub.merged_tree(pull) else "conflict"


def _person(by: Person) -> dict[str, Any]:
    return {"id": 1, "username": by.name, "name": by.name.title()}


def _note(each: Comment) -> dict[str, Any]:
    return {"id": each.id, "body": each.body, "author": _person(each.by), "system": each.system}
