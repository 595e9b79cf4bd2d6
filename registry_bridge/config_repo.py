"""The config repo: one branch of a Git repo that is somewhere else. The door to Git (`Repo` of pipelines/ports.py).

Rules:
- The clone here is a cache (`git_clone.py`) and never a place to work in: commits are put together from objects, with
  an index in a temporary file.
- A commit is a compare-and-swap: it arrives only if the branch is still where the caller saw it. The push says so with
  a lease (`--force-with-lease=<branch>:<parent>`). The lease only ever narrows what a plain push may do: our commit's
  parent *is* that value, so it is a fast-forward as well; but a plain push would also be taken by a branch that
  somebody moved *back*, and would put back what they took away.
- What a push did is read from the server, not from the words of an error: after any failure the branch is asked for.
  Our commit is there: it worked, the answer was lost. Something else is there: Conflict. The parent is still there:
  refused. (GitPython's `Remote.push` raises nothing on a rejection: `git push --porcelain` is run, its status read.)
  Two writers who decide the same in the same second make the same commit, and both are told that it is there.
- Only Retry, Conflict, Stalled and BadInput leave this module.

It must not know what the files mean, decide anything, or read the process's environment: the token is an argument.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import tempfile
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from policies.errors import BadInput, Conflict, Retry, Stalled
from policies.names import check_environment_name
from policies.observations import Tip
from policies.signatures import Change, Signature
from registry_bridge import git_signatures
from registry_bridge.git_clone import APPLIED, OWN_BRANCHES, VOUCHED, BrokenCloneError, Clone
from registry_bridge.git_command import Answer, Deadlines, GitCommand, complain
from registry_bridge.git_signatures import Keys
from registry_bridge.repo_files import (
    Entry,
    check_branch,
    check_change,
    check_url,
    decode_texts,
    is_commit,
    is_wanted,
    readable_paths,
    shown,
)

_LOG = logging.getLogger(__name__)

LOG_LIMIT: Final = 10_000
"""Commits shown at most; more is `git log`'s business."""

_LOG_FIELDS: Final = ("%H", "%an <%ae>", "%aI", "%s", "%(trailers:only=true,unfold=true)")
_AUTHOR: Final = re.compile(r"(?P<name>[^<>\n\0]{1,100}) <(?P<email>[^<>\s\0]{1,100})>")
_BUSY: Final = re.compile(r"cannot lock|failed to (update|lock) ref|old value|already exists")
"""The server's own reasons for a ref that somebody else holds at this instant."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommitEntry:
    """One commit as `sluice history` shows it."""

    commit: str
    author: str
    """`Name <email>`."""
    date: datetime
    """When it was written, by its author's clock; UTC."""
    subject: str
    trailers: Mapping[str, str]
    """By key; of a key that comes twice, the last."""


class ConfigRepo:
    """One branch of the config repo. Safe to use from several threads, and from several processes on one cache."""

    def __init__(
        self,
        url: str,
        branch: str,
        cache: Path,
        *,
        token: str | None = None,
        author: str = "Sluicegate <sluicegate@localhost>",
        deadlines: Deadlines | None = None,
        keys: Keys | None = None,
    ) -> None:
        """Touches neither disk nor network yet.

        `cache` is a folder for the clone, made when it is missing; `token` is for http and https (wiring reads it from
        SLUICE_GIT_TOKEN); `author` is who commits, `keys` are what it signs with and whose signatures count. Raises
        BadInput for what is no address, branch, author or token.
        """
        self._url, self._branch = check_url(url), check_branch(branch)
        self._ref = f"refs/heads/{branch}"
        self._identity = _identity(author)
        self._keys = keys or Keys()
        self._clone = Clone(self._url, self._ref, cache.absolute(), GitCommand(token), deadlines or Deadlines())
        self._tip: Tip | None = None
        self._blobs: dict[str, str] = {}
        """Text by blob of the last read, so that a look costs what changed, not what there is."""

    def read(self) -> Tip:
        """Fetch and return the tip. Raises Retry when Git is away, Stalled without the branch or for a refused file."""
        return self._clone.attempt(lambda: self._read(self._clone.fetch()))

    def commit(self, parent: str, changes: Mapping[str, str | None], message: str) -> str:
        """Commit on top of `parent` and push: compare-and-swap. The new commit's hash; `parent` where nothing changes.

        `changes` maps paths to new text, None removes the file. Raises Conflict when the branch is no longer at
        `parent` (nothing is left behind), Retry when Git is away, Stalled when the server refuses, BadInput for what
        may not be written.
        """
        if not is_commit(parent):
            raise BadInput(f"{shown(parent)} is no commit: a full hash, as read() gives it")
        return self._commit(parent, changes, message)

    def start(self, changes: Mapping[str, str | None], message: str) -> str:
        """The first commit, in a repo without this branch. Raises Conflict when the branch exists, else as `commit`."""
        return self._commit(None, changes, message)

    def applied(self, environment: str) -> str | None:
        """The commit that was last applied there, asked of the server. Raises Retry, Stalled, BadInput."""
        ref = APPLIED + check_environment_name(environment)
        return self._clone.attempt(lambda: self._clone.remote_commit(ref))

    def mark_applied(self, environment: str, commit: str) -> None:
        """Move that ref to `commit`; the last one to say so wins. Raises Retry, Stalled, BadInput."""
        ref = APPLIED + check_environment_name(environment)
        self._clone.attempt(lambda: self._mark(ref, commit))

    def descends(self, commit: str, ancestor: str) -> bool:
        """Is `ancestor` in the history of `commit`, or the same? False for a commit that is unknown. Raises Retry."""
        return self._clone.attempt(lambda: self._descends(commit, ancestor))

    def read_at(self, commit: str, paths: Collection[str]) -> Mapping[str, str]:
        """Text of those files of the layout at an older commit; what did not exist there is left out.

        A path that ends in / means every file below it.
        Raises Stalled when the repo no longer has the commit or a file is refused, Retry.
        """
        return self._clone.attempt(lambda: self._read_at(commit, frozenset(paths)))

    def log(self, limit: int, path: str | None = None) -> list[CommitEntry]:
        """The branch's newest commits, newest first; with `path` those that changed it. Raises like `read`."""
        if path is not None:
            check_change(path, None)
        return self._clone.attempt(lambda: self._log(self._clone.fetch(), min(max(limit, 0), LOG_LIMIT), path))

    def vouched(self) -> str | None:
        """The commit up to which every change is vouched for, asked of the server. Raises Retry, Stalled."""
        return self._clone.attempt(lambda: self._clone.remote_commit(VOUCHED))

    def mark_vouched(self, commit: str) -> None:
        """Move that ref to `commit`. Raises Retry, Stalled."""
        self._clone.attempt(lambda: self._mark(VOUCHED, commit))

    def changes(self, since: str, tip: str) -> tuple[Change, ...]:
        """The commits of `tip` that are not in `since`, parents first. Raises Retry, Stalled where one is unknown."""
        return self._clone.attempt(lambda: self._changes(since, tip))

    def signature(self, commit: str, signers: str) -> Signature:
        """Who signed a commit, if `signers` (the text of an allowed_signers file) or the GPG keyring name them."""
        return self._clone.attempt(lambda: git_signatures.signature(self._clone, commit, signers, self._keys))

    def branches(self, prefix: str) -> Mapping[str, str]:
        """Heads of the branches that begin so, below `sluice/`, as the last read brought them. Raises Retry."""
        heads = self._clone.attempt(self._clone.own_branches)
        return {branch: head for branch, head in heads.items() if branch.startswith(prefix)}

    def propose(
        self, branch: str, parent: str, changes: Mapping[str, str | None], message: str, replaces: str | None
    ) -> str:
        """A commit on `parent` as the head of another branch below `sluice/`, in place of `replaces`; its hash.

        Raises Conflict where the branch is elsewhere by now, else as `commit`.
        """
        self._check(changes, message)
        place = _Place(ref=f"refs/heads/{_own(branch)}", parent=parent, replaces=replaces)
        return self._clone.attempt(lambda: self._write(place, changes, message))

    def drop(self, branch: str, head: str) -> None:
        """Delete that branch, if it is still there. Raises Conflict where it moved, Retry, Stalled."""
        self._clone.attempt(lambda: self._drop(f"refs/heads/{_own(branch)}", head))

    # --- reading ----------------------------------------------------------------------------------------------

    def _read(self, commit: str) -> Tip:
        if self._tip is not None and self._tip.commit == commit:
            return self._tip
        paths = readable_paths(self._clone.entries(commit))
        self._blobs = self._texts_by_blob(paths)
        author, subject = self._clone.local("log", "-1", "-z", "--format=%an <%ae>%x00%s", commit).text.split("\0")[:2]
        files = {path: self._blobs[entry.blob] for path, entry in paths.items()}
        self._tip = Tip(commit=commit, files=files, author=author, subject=subject)
        return self._tip

    def _read_at(self, commit: str, wanted: frozenset[str]) -> dict[str, str]:
        if not self._clone.knows(commit):
            raise Stalled(f"the config repo no longer has the commit {shown(commit)}: was its history rewritten?")
        entries = (e for e in self._clone.entries(commit) if is_wanted(e.path.decode("utf-8", "replace"), wanted))
        paths = readable_paths(entries)
        texts = self._texts_by_blob(paths)
        return {path: texts[entry.blob] for path, entry in paths.items()}

    def _texts_by_blob(self, paths: Mapping[str, Entry]) -> dict[str, str]:
        """Text of every blob, from the last read where it has it."""
        missing = {path: entry.blob for path, entry in paths.items() if entry.blob not in self._blobs}
        contents = dict(self._clone.blobs(set(missing.values())))
        texts = decode_texts((path, contents[blob]) for path, blob in missing.items())
        known = {entry.blob: self._blobs[entry.blob] for entry in paths.values() if entry.blob in self._blobs}
        return known | {missing[path]: text for path, text in texts.items()}

    def _descends(self, commit: str, ancestor: str) -> bool:
        if not (self._clone.knows(commit) and self._clone.knows(ancestor)):
            return False
        while True:
            answer = self._clone.local("merge-base", "--is-ancestor", ancestor, commit, accepted=(0, 1))
            if answer.status == 0 or not self._clone.deepen():  # a shallow clone may lack what lies between them
                return answer.status == 0

    def _changes(self, since: str, tip: str) -> tuple[Change, ...]:
        for commit in (since, tip):
            if not self._clone.knows(commit):
                raise Stalled(f"the config repo has no commit {shown(commit)} that its changes could be counted from")
        self._descends(tip, since)  # a shallow clone brings what lies between them
        return git_signatures.changes(self._clone, since, tip)

    def _log(self, tip: str, limit: int, path: str | None) -> list[CommitEntry]:
        form = "--format=" + "%x00".join(_LOG_FIELDS)
        command = ("log", "-z", f"--max-count={limit}", form, tip, "--", *([path] if path else []))
        while True:
            fields = self._clone.local(*command).output.decode("utf-8", "replace").split("\0")  # no field can hold NUL
            count = len(_LOG_FIELDS)
            rows = [fields[n : n + count] for n in range(0, len(fields) - count + 1, count)]
            known = len(rows) == limit and self._clone.boundary().isdisjoint(row[0] for row in rows)
            if known or not self._clone.deepen():  # a commit at the boundary looks as if it had made every file
                return [_entry(*row) for row in rows]

    # --- writing ----------------------------------------------------------------------------------------------

    def _commit(self, parent: str | None, changes: Mapping[str, str | None], message: str) -> str:
        self._check(changes, message)
        place = _Place(ref=self._ref, parent=parent, replaces=parent)
        return self._clone.attempt(lambda: self._write(place, changes, message))

    @staticmethod
    def _check(changes: Mapping[str, str | None], message: str) -> None:
        for path, text in changes.items():
            check_change(path, text)
        if not message.strip() or "\0" in message:
            raise BadInput("a commit needs a message, without NUL")

    def _write(self, place: _Place, changes: Mapping[str, str | None], message: str) -> str:
        if place.parent is not None and not self._clone.knows(place.parent):
            raise Conflict(f"{self._branch} has no commit {place.parent[:12]} any more: somebody rewrote it")
        commit = self._make_commit(place.parent, changes, message)
        answer = self._clone.push(commit, place.ref, place.lease)
        if answer.status != 0:
            self._account_for(answer, place, commit)
        return commit

    def _drop(self, ref: str, head: str) -> None:
        answer = self._clone.push("", ref, f"--force-with-lease={ref}:{head}")
        there = self._clone.remote_commit(ref) if answer.status != 0 else None
        if there == head:
            raise self._refusal(answer, ref)
        if there is not None:
            raise Conflict(f"{ref} moved to {there[:12]} while {head[:12]} was expected")

    def _make_commit(self, parent: str | None, changes: Mapping[str, str | None], message: str) -> str:
        tree = self._make_tree(parent, changes)
        if parent is not None and tree == self._clone.local("rev-parse", f"{parent}^{{tree}}").text:
            return parent  # pushed all the same: the lease tells whether the caller is right about the branch
        parents = ("-p", parent) if parent else ()
        text = message.encode("utf-8", "replace")
        return self._commit_tree(tree, *parents, text=text)

    def _commit_tree(self, *tree: str, text: bytes) -> str:
        bare = self._clone.local("commit-tree", *tree, "-F", "-", stdin=text, environment=self._identity).text
        if self._keys.signing_key is None:
            return bare
        with tempfile.TemporaryDirectory(prefix="sluice-keys-") as empty:
            around = {**self._identity, **self._keys.environment(empty)}
            command = (*self._keys.options, "commit-tree", "-S", *tree, "-F", "-")
            answer = self._clone.local(*command, stdin=text, environment=around, accepted=(0, 1, 128))
        if answer.status != 0:
            raise Stalled(f"commits cannot be signed with the key of SLUICE_SIGNING_KEY: {answer.words}")
        return answer.text

    def _make_tree(self, parent: str | None, changes: Mapping[str, str | None]) -> str:
        listing = "".join(self._index_line(path, text) for path, text in sorted(changes.items())).encode()
        with tempfile.TemporaryDirectory(prefix="sluice-index-") as folder:
            own_index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._clone.local("read-tree", parent or "--empty", environment=own_index)
            self._clone.local("update-index", "-z", "--replace", "--index-info", stdin=listing, environment=own_index)
            return self._clone.local("write-tree", environment=own_index).text

    def _index_line(self, path: str, text: str | None) -> str:
        """A line for `git update-index --index-info`; mode 0 removes."""
        if text is None:
            return f"0 {'0' * 40}\t{path}\0"
        return f"100644 {self._clone.local('hash-object', '-w', '--stdin', stdin=text.encode()).text}\t{path}\0"

    def _account_for(self, answer: Answer, place: _Place, commit: str) -> None:
        """What became of a push that failed. Returns where the commit arrived after all; else raises."""
        try:
            there = self._clone.remote_commit(place.ref)
        except Retry as away:
            raise Retry(f"the push got no answer and may have arrived; look again ({away})") from away
        if there == commit:
            _LOG.info("the push of %s arrived although its answer was lost: %s", commit[:12], answer.words)
            return
        if there != place.replaces:
            expected = (place.replaces or "nothing")[:12]
            raise Conflict(f"{place.branch} moved to {(there or 'nothing')[:12]} while {expected} was expected")
        raise self._refusal(answer, place.branch)

    def _refusal(self, answer: Answer, what: str) -> Exception:
        """The error for a push that did not arrive although nobody was faster."""
        rejection = _rejection(answer)
        if _BUSY.search(rejection):
            return Retry(f"the config repo's server is busy with {what}: {rejection}")
        if rejection:
            return Stalled(
                f"the config repo's server refuses pushes to {what}; let Sluicegate's user push there "
                f"({rejection}; {answer.words})"
            )
        return complain(self._url, answer) or BrokenCloneError(f"git push to {what}: {answer.words}")

    def _mark(self, ref: str, commit: str) -> None:
        if not self._clone.knows(commit):
            raise Stalled(f"the config repo has no commit {shown(commit)} that could be marked as applied")
        answer = self._clone.push(commit, ref, "--force")
        if answer.status != 0 and self._clone.remote_commit(ref) != commit:
            raise self._refusal(answer, ref)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a commit goes."""

    ref: str
    parent: str | None
    replaces: str | None
    """What the ref is at before; none: it is not there."""

    @property
    def branch(self) -> str:
        return self.ref.removeprefix("refs/heads/")

    @property
    def lease(self) -> str:
        return f"--force-with-lease={self.ref}:{self.replaces or ''}"


def _own(branch: str) -> str:
    """The branch's name, if it is one of Sluicegate's own. Raises BadInput."""
    if not check_branch(branch).startswith(OWN_BRANCHES):
        raise BadInput(f"{shown(branch)} is no branch of Sluicegate's: they begin with {OWN_BRANCHES}")
    return branch


def _identity(author: str) -> dict[str, str]:
    """The environment that makes `author` who commits."""
    match = _AUTHOR.fullmatch(author)
    if match is None or not author.isprintable():
        raise BadInput(f"{shown(author)} is no author: write it like Name <name@example.com>")
    return {f"GIT_{role}_{part.upper()}": match[part] for role in ("AUTHOR", "COMMITTER") for part in ("name", "email")}


def _rejection(answer: Answer) -> str:
    """The reason in `git push --porcelain`: `!<tab>from:to<tab>[remote rejected] (reason)`; empty if there is none."""
    rows = (line.split("\t") for line in answer.text.splitlines() if line.startswith("!"))
    return "; ".join(row[-1] for row in rows if "[remote rejected]" in row[-1])


def _entry(commit: str, author: str, date: str, subject: str, trailers: str) -> CommitEntry:
    try:
        when = datetime.fromisoformat(date).astimezone(UTC)
    except (ValueError, OverflowError):  # a commit can claim any year; it is shown all the same
        when = datetime.fromtimestamp(0, UTC)
    pairs = (line.partition(":") for line in trailers.splitlines())
    told = {key.strip(): value.strip() for key, _, value in pairs if key.strip()}
    return CommitEntry(commit=commit, author=author, date=when, subject=subject, trailers=told)
