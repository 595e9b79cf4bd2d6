"""What a forge keeps besides Git: pull requests, reviews, comments, statuses, who may do what; one bare repo.

Merges are made with Git's own `merge-tree`; the protected branch is closed to pushes by a `pre-receive` hook, and open
to merges that have their approvals. Times never stand still, so that "before" and "after" are always told apart.
"""

from __future__ import annotations

import dataclasses
import subprocess
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.git_server import create_repo

BASE = "main"
HOOK = """#!/bin/sh
while read old new ref; do
  if [ "$ref" = refs/heads/main ]; then
    echo "main is protected: open a pull request" >&2
    exit 1
  fi
done
"""
WHO = {f"GIT_{role}_{what}": f"{role.lower()}@example.com" if what == "EMAIL" else role.title()
       for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody with an account."""

    name: str
    may_write: bool = True
    bot: bool = False
    """An installation's or an Action's token: it may not ask who it is."""


@dataclasses.dataclass
class Review:
    """`state` in GitHub's words."""

    id: int
    by: Person
    state: str
    commit: str
    at: datetime
    dismissed: bool = False


@dataclasses.dataclass
class Comment:
    id: int
    by: Person
    body: str
    system: bool = False


@dataclasses.dataclass
class Pull:
    number: int
    branch: str
    title: str
    body: str
    author: Person
    head: str
    at: datetime
    state: str = "open"
    merge_commit: str | None = None
    fork: bool = False
    """Its branch lies in a stranger's fork."""
    base: str = BASE
    versions: list[tuple[datetime, str]] = dataclasses.field(default_factory=list)
    reviews: list[Review] = dataclasses.field(default_factory=list)
    comments: list[Comment] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Limit:
    """The next answers are limits: `spent` is GitHub's primary one, with a reset and no Retry-After."""

    seconds: int
    spent: bool = False
    status: int = 429


class Refused(Exception):
    """What the forge does not do: `kind` is taken by each dialect for its status and words."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Hub:
    """One forge with one repository, `team/config`."""

    def __init__(self, root: Path, name: str = "config") -> None:
        self.root, self.repository, self.name = root, f"team/{name}", name
        self.git_dir = create_repo(root, name)
        self.url = ""
        """Where it is reached; set by the server."""
        self.people: dict[str, Person] = {}
        """By token."""
        self.pulls: list[Pull] = []
        self.statuses: list[dict[str, Any]] = []
        self.required_approvals = 0
        self.dismisses_stale = False
        self.checking = False
        """Mergeability is not known yet."""
        self.names_approval_times = True
        """GitLab: newer ones say when an approval was given."""
        self.page_limit = 100
        self.limits: list[Limit] = []
        self.broken = 0
        """So many next answers are 502."""
        self.requests: list[tuple[str, str]] = []
        self.emit: Callable[[str, Mapping[str, Any]], None] = lambda _event, _payload: None
        self.lock = threading.RLock()
        self._numbers = 0
        self._branches = ""
        self._time = datetime.now(UTC)

    # --- time and numbers -------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        with self.lock:
            self._time = max(datetime.now(UTC), self._time + timedelta(milliseconds=1))
            return self._time

    def number(self) -> int:
        with self.lock:
            self._numbers += 1
            return self._numbers

    # --- Git --------------------------------------------------------------------------------------------------------

    def git(self, *arguments: str, text: str | None = None, fails: bool = False) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.git_dir), *arguments], input=text, capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null", **WHO},
        )  # fmt: skip
        if done.returncode and not fails:
            raise AssertionError(f"git {arguments}: {done.stderr}")
        return "" if done.returncode else done.stdout.strip()

    def tip(self, branch: str) -> str:
        return self.git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", fails=True)

    def commit(self, branch: str, files: Mapping[str, str], start: str = BASE) -> str:
        """A person's push, as far as the repo is concerned; the hook is not asked."""
        parent = self.tip(branch) or self.tip(start)
        entries = dict(line.split("\t")[::-1] for line in self.git("ls-tree", parent).splitlines()) if parent else {}
        for name, text in files.items():
            entries[name] = f"100644 blob {self.git('hash-object', '-w', '--stdin', text=text)}"
        tree = self.git("mktree", text="".join(f"{entry}\t{name}\n" for name, entry in entries.items()))
        new = self.git("commit-tree", tree, *(["-p", parent] if parent else []), "-m", f"On {branch}")
        self.git("update-ref", f"refs/heads/{branch}", new)
        self.pushed()
        return new

    def protect(self, approvals: int = 1, *, dismiss_stale: bool = False) -> None:
        """Nobody pushes to main; a merge needs approvals."""
        hook = self.git_dir / "hooks" / "pre-receive"
        hook.write_text(HOOK)
        hook.chmod(0o755)
        self.required_approvals, self.dismisses_stale = approvals, dismiss_stale

    def pushed(self) -> None:
        """Pull requests follow their branches; forges tell of branches, not of other refs."""
        with self.lock:
            before, self._branches = self._branches, self.git("for-each-ref", "refs/heads")
            if before == self._branches:
                return
            for pull in self.pulls:
                head = "" if pull.fork or pull.state != "open" else self.tip(pull.branch)
                if head and head != pull.head:
                    pull.head = head
                    pull.versions.append((self.now(), head))
                    for review in pull.reviews if self.dismisses_stale else ():
                        review.dismissed = True
        pushed = {"ref": f"refs/heads/{BASE}", "after": self.tip(BASE), "pushed_at": self.now().isoformat()}
        self.emit("push", {**pushed, "repository": {"full_name": self.repository}})

    # --- pull requests ----------------------------------------------------------------------------------------------

    def pull(self, number: int) -> Pull:
        for each in self.pulls:
            if each.number == number:
                return each
        raise Refused("missing")

    def open(self, by: Person, branch: str, base: str, title: str, body: str) -> Pull:
        with self.lock:
            head = self.tip(branch)
            if not head or not self.tip(base):
                raise Refused("no branch")
            if head == self.tip(base):
                raise Refused("no commits")
            if any(p.branch == branch and p.base == base and p.state == "open" and not p.fork for p in self.pulls):
                raise Refused("exists")
            return self._add(Pull(self.number(), branch, title, body, by, head, self.now(), base=base))

    def open_from_fork(self, by: Person, branch: str, title: str) -> Pull:
        """A stranger's: their branch has the name of ours."""
        head = self.git("commit-tree", f"{BASE}^{{tree}}", "-p", BASE, "-m", "evil")
        return self._add(Pull(self.number(), branch, title, "", by, head, self.now(), fork=True))

    def _add(self, pull: Pull) -> Pull:
        pull.versions.append((pull.at, pull.head))
        self.pulls.append(pull)
        self.emit("pull_request", {"action": "opened", "number": pull.number})
        return pull

    def close(self, pull: Pull) -> None:
        if pull.state == "open":
            pull.state = "closed"
            self.emit("pull_request", {"action": "closed", "number": pull.number})

    def review(self, number: int, by: Person, state: str = "APPROVED") -> None:
        pull = self.pull(number)
        pull.reviews.append(Review(self.number(), by, state, pull.head, self.now()))
        self.emit("pull_request_review", {"action": "submitted", "number": number})

    def approved_by(self, pull: Pull) -> list[Review]:
        """Who counts: each person's last word, undismissed, by somebody who may write."""
        last = {r.by.name: r for r in pull.reviews if r.state != "COMMENTED"}
        return [r for r in last.values() if r.state == "APPROVED" and not r.dismissed and r.by.may_write]

    def merge(self, pull: Pull, by: Person, head: str | None, method: str) -> str:
        with self.lock:
            if pull.state != "open":
                raise Refused("not open")
            if not by.may_write:
                raise Refused("forbidden")
            if self.checking:
                raise Refused("checking")
            if head is not None and head != pull.head:
                raise Refused("moved")
            if len(self.approved_by(pull)) < self.required_approvals:
                raise Refused("approvals")
            base, tree = self.tip(pull.base), self.merged_tree(pull)
            if not tree:
                raise Refused("conflict")
            parents = ["-p", base] if method == "squash" else ["-p", base, "-p", pull.head]
            new = self.git("commit-tree", tree, *parents, "-m", f"{pull.title}\n\n{pull.body}")
            self.git("update-ref", f"refs/heads/{pull.base}", new, base)
            pull.state, pull.merge_commit = "merged", new
        self.emit("pull_request", {"action": "closed", "number": pull.number, "merged": True})
        return new

    def merged_tree(self, pull: Pull) -> str:
        """Empty where texts conflict."""
        return self.git("merge-tree", "--write-tree", self.tip(pull.base), pull.head, fails=True).partition("\n")[0]

    def comment(self, number: int, by: Person, body: str, *, system: bool = False) -> Comment:
        made = Comment(self.number(), by, body, system)
        self.pull(number).comments.append(made)
        return made

    def found_comment(self, identity: int) -> Comment:
        for pull in self.pulls:
            for each in pull.comments:
                if each.id == identity:
                    return each
        raise Refused("missing")
