"""The config repo in memory: the port `Repo`, with ways to play the people and the accidents around it.

Commits are immutable snapshots with one parent each. Paths, sizes and texts are judged by the same functions as in the
real door, so that what it refuses is refused here. `tests/contracts/test_repo_contract.py` runs on both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from policies.commit_message import trailers_of
from policies.errors import BadInput, Conflict, Retry, Stalled
from policies.names import check_environment_name
from policies.observations import Tip
from policies.signatures import Change, Signature
from registry_bridge.config_repo import CommitEntry
from registry_bridge.repo_files import (
    ROOTS,
    Entry,
    check_branch,
    check_change,
    decode_texts,
    is_commit,
    is_wanted,
    readable_paths,
)

SLUICEGATE = "Sluicegate <sluicegate@localhost>"
PERSON = "Ada <ada@example.com>"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class Link:
    """A symbolic link, which a person can commit and nobody follows."""

    target: str


Content = str | bytes | Link


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One commit."""

    hash: str
    parent: str | None
    files: Mapping[str, Content]
    author: str
    message: str
    date: datetime
    signer: str = ""
    """Who signed it; the signers that count are names here, one a line."""


class FakeRepo:
    """One branch. `branch_tip` is what the server has; everything a person does happens there at once."""

    def __init__(self, files: Mapping[str, Content] | None = None) -> None:
        """With `files` as its first commit, by a person; with none the branch does not exist."""
        self.commits: dict[str, Snapshot] = {}
        self.branch_tip: str | None = None
        self.away: str | None = None
        """Set to a reason, the server answers nobody."""
        self.refuses: str | None = None
        """Set to a hook's words, every push is refused."""
        self.refuses_branches: str | None = None
        """The same for pushes to the branches beside the one."""
        self.lose_next_answer = False
        """The next push arrives, and its answer does not."""
        self._rival: Mapping[str, Content | None] | None = None
        self._applied: dict[str, str] = {}
        self.heads: dict[str, str] = {}
        """Of the branches beside the one."""
        self.on_branch: Callable[[str, str], None] = lambda _branch, _head: None
        """Told of each of their new heads."""
        self._vouched: str | None = None
        self.signer = ""
        """Who signs what is committed through the port."""
        self._read: Tip | None = None
        """What was read last: the same until the branch moves."""
        self._lock = threading.Lock()
        if files is not None:
            self.person_commits(files)

    # --- the port -----------------------------------------------------------------------------------------------

    def read(self) -> Tip:
        self._reach()
        snapshot = self._tip_snapshot()
        if self._read is None or self._read.commit != snapshot.hash:
            subject = snapshot.message.split("\n")[0]
            texts = _texts(snapshot.files)
            self._read = Tip(commit=snapshot.hash, files=texts, author=snapshot.author, subject=subject)
        return self._read

    def commit(self, parent: str, changes: Mapping[str, str | None], message: str) -> str:
        if not is_commit(parent):
            raise BadInput(f"{parent!r} is no commit")
        return self._push(parent, changes, message)

    def start(self, changes: Mapping[str, str | None], message: str) -> str:
        return self._push(None, changes, message)

    def applied(self, environment: str) -> str | None:
        self._reach()
        return self._applied.get(check_environment_name(environment))

    def mark_applied(self, environment: str, commit: str) -> None:
        self._reach()
        check_environment_name(environment)
        if commit not in self.commits:
            raise Stalled(f"the config repo has no commit {commit!r}")
        if self.refuses is not None:
            raise Stalled(f"refused: {self.refuses}")
        self._applied[environment] = commit

    def descends(self, commit: str, ancestor: str) -> bool:
        self._reach()
        while commit in self.commits and commit != ancestor:
            commit = self.commits[commit].parent or ""
        return commit in self.commits

    def read_at(self, commit: str, paths: Collection[str]) -> Mapping[str, str]:
        self._reach()
        if commit not in self.commits:
            raise Stalled(f"the config repo no longer has the commit {commit!r}")
        return _texts({path: c for path, c in self.commits[commit].files.items() if is_wanted(path, paths)})

    def log(self, limit: int, path: str | None = None) -> list[CommitEntry]:
        self._reach()
        entries = [
            _entry(s) for s in self._history(self._tip_snapshot().hash) if path is None or self._changed(s, path)
        ]
        return entries[: max(limit, 0)]

    def vouched(self) -> str | None:
        self._reach()
        return self._vouched

    def mark_vouched(self, commit: str) -> None:
        self._reach()
        if commit not in self.commits:
            raise Stalled(f"the config repo has no commit {commit!r}")
        self._vouched = commit

    def changes(self, since: str, tip: str) -> tuple[Change, ...]:
        self._reach()
        if not {since, tip} <= self.commits.keys():
            raise Stalled("the config repo has no such commit")
        old = {snapshot.hash for snapshot in self._history(since)}
        found = [snapshot for snapshot in self._history(tip) if snapshot.hash not in old]
        return tuple(self._change(snapshot) for snapshot in reversed(found))

    def signature(self, commit: str, signers: str) -> Signature:
        self._reach()
        signer = self.commits[commit].signer
        if signer in signers.split():
            return Signature(signer=signer)
        return Signature(
            trouble=f"is signed by a key that is not allowed to sign: {signer}" if signer else "is not signed"
        )

    def branches(self, prefix: str) -> Mapping[str, str]:
        return {branch: head for branch, head in self.heads.items() if branch.startswith(prefix)}

    def propose(
        self, branch: str, parent: str, changes: Mapping[str, str | None], message: str, replaces: str | None
    ) -> str:
        _check_own(branch)
        for path, text in changes.items():
            check_change(path, text)
        self._reach()
        if self.heads.get(branch) != replaces:
            raise Conflict(f"{branch} is at {self.heads.get(branch)}, not at {replaces}")
        if self.refuses_branches is not None:
            raise Stalled(f"the config repo's server refuses the push to {branch}: {self.refuses_branches}")
        return self._move(branch, self._add(parent, changes, SLUICEGATE, message))

    def drop(self, branch: str, head: str) -> None:
        _check_own(branch)
        self._reach()
        if self.heads.get(branch, head) != head:
            raise Conflict(f"{branch} moved")
        self.heads.pop(branch, None)

    # --- people and accidents -----------------------------------------------------------------------------------

    def person_commits(
        self,
        changes: Mapping[str, Content | None],
        author: str = PERSON,
        message: str = "A person's change\n",
        signer: str = "",
    ) -> str:
        """Somebody commits on the tip, whatever it is."""
        with self._lock:
            self.branch_tip = self._add(self.branch_tip, changes, author, message, signer)
            return self.branch_tip

    def person_pushes(self, branch: str, changes: Mapping[str, Content | None]) -> str:
        """Somebody pushes on top of another branch."""
        return self._move(branch, self._add(self.heads[branch], changes, PERSON, "A person's change\n"))

    def merge(self, head: str) -> str:
        """Somebody merges that commit into the branch: what it changes since its parent; the merge's hash."""
        changed: dict[str, Content | None] = {}
        at = self.commits[head]
        main = {snapshot.hash for snapshot in self._history(self.branch_tip)}
        while at.hash not in main:
            before: Mapping[str, Content] = self.commits[at.parent].files if at.parent else {}
            touched = {path for path in {*before, *at.files} if before.get(path) != at.files.get(path)}
            changed = {**{path: at.files.get(path) for path in touched}, **changed}
            at = self.commits[at.parent or ""]
        return self.person_commits(changed, message="Merge a pull request\n")

    def revert(self, commit: str, author: str = PERSON) -> str:
        """`git revert`: what that commit changed goes back to what it was before."""
        snapshot = self.commits[commit]
        before: Mapping[str, Content] = self.commits[snapshot.parent].files if snapshot.parent else {}
        touched = {path for path in {*before, *snapshot.files} if before.get(path) != snapshot.files.get(path)}
        subject = snapshot.message.split("\n")[0]
        return self.person_commits({path: before.get(path) for path in touched}, author, f'Revert "{subject}"\n')

    def force_push(self, to: str | None = None, files: Mapping[str, Content] | None = None) -> str:
        """The branch moves `to` an older commit, or to a foreign history that holds `files`."""
        with self._lock:
            self.branch_tip = to if to is not None else self._add(None, files or {}, PERSON, "A foreign history\n")
            return self.branch_tip

    def conflict_next_push(self, changes: Mapping[str, Content | None] | None = None) -> None:
        """Somebody else will be faster than the next push."""
        self._rival = changes if changes is not None else {"models/.rival": f"{len(self.commits)}\n"}

    def outage(self, reason: str = "connection refused") -> None:
        """The server is away until `recover`."""
        self.away = reason

    def recover(self) -> None:
        """The server is back."""
        self.away = None

    # --- inside -------------------------------------------------------------------------------------------------

    def _reach(self) -> None:
        if self.away is not None:
            raise Retry(f"the config repo is away: {self.away}")

    def _tip_snapshot(self) -> Snapshot:
        if self.branch_tip is None:
            raise Stalled("the config repo has no branch main: write its first commit with `sluice init` and push it")
        return self.commits[self.branch_tip]

    def _push(self, parent: str | None, changes: Mapping[str, str | None], message: str) -> str:
        for path, text in changes.items():
            check_change(path, text)
        if not message.strip() or "\0" in message:
            raise BadInput("a commit needs a message, without NUL")
        self._reach()
        rival, self._rival = self._rival, None
        if rival is not None:
            self.person_commits(rival)
        with self._lock:
            return self._swap(parent, changes, message)

    def _swap(self, parent: str | None, changes: Mapping[str, str | None], message: str) -> str:
        if self.branch_tip != parent:
            raise Conflict(f"main moved to {self.branch_tip} while {parent} was expected")
        if parent is not None and _apply(self.commits[parent].files, changes) == self.commits[parent].files:
            return parent
        if self.refuses is not None:
            raise Stalled(f"the config repo's server refuses the push to main: {self.refuses}")
        self.branch_tip = self._add(parent, changes, SLUICEGATE, message, self.signer)
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise Retry("the push got no answer and may have arrived; look again")
        return self.branch_tip

    def _add(
        self, parent: str | None, changes: Mapping[str, Content | None], author: str, message: str, signer: str = ""
    ) -> str:
        files = _apply(self.commits[parent].files if parent else {}, changes)
        identity = repr((parent, sorted(files.items(), key=lambda item: item[0]), author, message, len(self.commits)))
        name = hashlib.sha1(identity.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
        date = EPOCH + timedelta(seconds=len(self.commits))
        self.commits[name] = Snapshot(
            hash=name, parent=parent, files=files, author=author, message=message, date=date, signer=signer
        )
        return name

    def _move(self, branch: str, head: str) -> str:
        self.heads[branch] = head
        self.on_branch(branch, head)
        return head

    def _history(self, commit: str | None) -> list[Snapshot]:
        """From that commit back to the first; nothing for one that is unknown."""
        found = []
        while commit is not None and commit in self.commits:
            found.append(self.commits[commit])
            commit = self.commits[commit].parent
        return found

    def _change(self, snapshot: Snapshot) -> Change:
        before: Mapping[str, Content] = self.commits[snapshot.parent].files if snapshot.parent else {}
        paths = {path for path in {*before, *snapshot.files} if before.get(path) != snapshot.files.get(path)}
        parents = (snapshot.parent,) if snapshot.parent else ()
        author = snapshot.author
        return Change(commit=snapshot.hash, author=author, parents=parents, paths=frozenset(paths))

    def _changed(self, snapshot: Snapshot, path: str) -> bool:
        before: Mapping[str, Content] = self.commits[snapshot.parent].files if snapshot.parent else {}
        return before.get(path) != snapshot.files.get(path)


def _check_own(branch: str) -> None:
    if not check_branch(branch).startswith("sluice/"):
        raise BadInput(f"{branch!r} is no branch of Sluicegate's")


def _apply(files: Mapping[str, Content], changes: Mapping[str, Content | None]) -> dict[str, Content]:
    merged = {**files, **changes}
    return {path: content for path, content in merged.items() if content is not None}


def _texts(files: Mapping[str, Content]) -> dict[str, str]:
    """What the layout has of these files, as the real door reads them."""
    layout = {path: content for path, content in files.items() if path.split("/")[0] in ROOTS}
    found = readable_paths(
        Entry(path.encode(), "120000" if isinstance(content, Link) else "100644", "", len(_bytes(content)))
        for path, content in sorted(layout.items())
    )
    return decode_texts((path, _bytes(layout[path])) for path in found)


def _bytes(content: Content) -> bytes:
    if isinstance(content, Link):
        return content.target.encode()
    return content.encode() if isinstance(content, str) else content


def _entry(snapshot: Snapshot) -> CommitEntry:
    subject = snapshot.message.split("\n")[0]
    return CommitEntry(
        commit=snapshot.hash,
        author=snapshot.author,
        date=snapshot.date,
        subject=subject,
        trailers=trailers_of(snapshot.message),
    )
