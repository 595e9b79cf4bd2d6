"""The clone of the config repo on this machine: bare, disposable, mended by itself, used by one at a time.

Rules:
- It holds nothing that matters. Broken or missing, it is made anew beside the old one and put in its place when it is
  whole: a server that is away costs nothing that was there.
- The address is given with every command and never stored: another address, or a repo that was made again, is no stale
  remote but simply what the next fetch brings.
- A command that needs nobody else and fails means that the clone is broken (`BrokenCloneError`); a command that talks
  to the server fails as `git_command.complain` sorts it.
- It is shallow: a new one brings the last commits only, a fetch what is new since. What looks further back (whose
  descendant a commit is, a longer log) brings twice as much, until it knows or has all of it.

It must not know what a commit is for, or what its files mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from policies.errors import Retry, Stalled
from registry_bridge.git_command import Answer, Deadlines, GitCommand, complain
from registry_bridge.repo_files import ROOTS, Entry, is_commit

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

APPLIED: Final = "refs/sluice/applied/"
"""Below this, by environment, the commit that was last applied: on the server and here."""
DEPTH: Final = 100
"""Commits of each ref that a new clone brings: some days of one model. What looks further back fetches more."""
VOUCHED: Final = "refs/sluice/vouched"
"""The commit up to which every change is vouched for, where changes must be signed: on the server and here."""
LOCK_S: Final = 120.0
"""Seconds to wait for another process on the same clone: a fetch and a push of theirs."""
LOCK_POLL_S: Final = 0.05
"""Between two tries: short beside a fetch."""

OWN_BRANCHES: Final = "sluice/"
"""Branches of the server below this are fetched, too: what people are asked to agree to."""
_BRANCHES: Final = "refs/sluice/branches/"
_TIP: Final = "refs/sluice/tip"
_CLONE: Final = "config-repo.git"


class BrokenCloneError(Exception):
    """The clone is missing or damaged; `Clone.attempt` makes it anew. Never leaves the door."""


class NoBranchError(Stalled):
    """The server has no such branch (yet)."""


class Clone:
    """The bare clone in its cache folder: fetched into, recreated when it is broken, one user at a time."""

    def __init__(self, url: str, ref: str, cache: Path, git: GitCommand, deadlines: Deadlines) -> None:
        self._url, self._ref, self._git, self._deadlines = url, ref, git, deadlines
        self._cache, self._folder = cache, cache / _CLONE
        self._local_s = deadlines.local_s
        self._lock = threading.Lock()

    def attempt(self, operation: Callable[[], _T]) -> _T:
        """Run the operation alone with the clone; once more on a new clone if this one turns out broken.

        What this machine refuses (a full disk, a folder that is not ours) is Stalled: a person has to act.
        """
        with self._lock:
            try:
                with self._alone():
                    return self._attempt(operation)
            except OSError as error:
                raise Stalled(f"the cache folder {self._cache} cannot be used: {error}") from error

    def _attempt(self, operation: Callable[[], _T]) -> _T:
        try:
            return operation()
        except BrokenCloneError as error:
            _LOG.info("the clone in %s is made anew: %s", self._folder, error)
        try:
            self._recreate()
            return operation()
        except BrokenCloneError as error:
            raise Retry(f"Git fails in {self._cache} on a new clone too: {error}") from error

    def fetch(self) -> str:
        """Bring the branch's tip and what was applied; the tip's hash."""
        if not self._folder.is_dir():
            raise BrokenCloneError("it is missing")
        self._fetch_into(self._folder, self._deadlines.network_s)
        return self.local("rev-parse", "--verify", f"{_TIP}^{{commit}}").text

    def knows(self, commit: str) -> bool:
        """Is the commit here, or on the server in what is fetched from there?"""
        if not is_commit(commit):
            return False
        if not self._folder.is_dir():
            raise BrokenCloneError("it is missing")
        if self._has(commit):
            return True
        with contextlib.suppress(NoBranchError):  # then nothing is known there
            self.fetch()
        while not self._has(commit):
            if not self.deepen():
                return False
        return True

    def deepen(self) -> bool:
        """Bring twice as much history as there is here; False where all of it is here."""
        if not self.boundary():
            return False
        count = int(self.local("rev-list", "--count", "--all").text)
        self._fetch_into(self._folder, self._deadlines.clone_s, f"--deepen={max(count, DEPTH)}")
        return True

    def boundary(self) -> frozenset[str]:
        """The commits here whose parents are not; none where all of history is here."""
        shallow = self._folder / "shallow"
        return frozenset(shallow.read_text("ascii").split()) if shallow.is_file() else frozenset()

    def entries(self, commit: str) -> list[Entry]:
        """Every file of the layout in that commit."""
        listing = self.local("ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--", *ROOTS).output
        return [parse_entry(line) for line in listing.split(b"\0") if line]

    def blobs(self, wanted: Iterable[str]) -> list[tuple[str, bytes]]:
        """Content by blob."""
        names = list(wanted)
        if not names:
            return []
        output = self.local("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode()).output
        return list(parse_batch(output, names))

    def own_branches(self) -> dict[str, str]:
        """Heads of the branches below OWN_BRANCHES by name, as the last fetch brought them."""
        rows = self.local("for-each-ref", "--format=%(objectname) %(refname)", _BRANCHES).text.splitlines()
        pairs = (row.split(" ", 1) for row in rows)
        return {OWN_BRANCHES + ref.removeprefix(_BRANCHES): head for head, ref in pairs}

    def remote_commit(self, ref: str) -> str | None:
        """Where a ref of the server is now; none if it has no such ref."""
        answer = self._network(self._folder, ("ls-remote", "--refs", "--", self._url, ref), self._deadlines.network_s)
        if answer.status != 0:
            raise complain(self._url, answer) or Retry(f"the config repo at {self._url}: {answer.words}")
        rows = (line.split("\t") for line in answer.text.splitlines())
        return next((row[0] for row in rows if len(row) == 2 and row[1] == ref), None)  # noqa: PLR2004 - hash, name

    def push(self, commit: str, ref: str, force: str) -> Answer:
        """Push one commit to one ref; its answer, whatever it is."""
        command = ("push", "--porcelain", "--no-verify", "--no-signed", force, "--", self._url, f"{commit}:{ref}")
        return self._network(self._folder, command, self._deadlines.network_s)

    def local(
        self,
        *command: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        accepted: tuple[int, ...] = (0,),
    ) -> Answer:
        """A command that needs nobody else: what fails here is the clone's fault."""
        answer = self._git.run(
            f"--git-dir={self._folder}",
            *command,
            deadline_s=self._deadlines.local_s,
            stdin=stdin,
            environment=environment,
        )
        if answer.status not in accepted:
            raise BrokenCloneError(f"git {command[0]}: {answer.words or answer.status}")
        return answer

    def _network(self, folder: Path, command: tuple[str, ...], deadline_s: float) -> Answer:
        return self._git.run(f"--git-dir={folder}", *command, deadline_s=deadline_s, network=True)

    def _has(self, commit: str) -> bool:
        here = self.local("cat-file", "-e", f"{commit}^{{commit}}", accepted=(0, 1, 128))
        return here.status == 0

    def _fetch_into(self, folder: Path, deadline_s: float, *more: str) -> None:
        options = (*more, "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--prune", "--quiet")
        own = f"+refs/heads/{OWN_BRANCHES}*:{_BRANCHES}*"
        refspecs = (f"+{self._ref}:{_TIP}", f"+{APPLIED}*:{APPLIED}*", f"+{VOUCHED}*:{VOUCHED}*", own)
        answer = self._network(folder, ("fetch", *options, "--", self._url, *refspecs), deadline_s)
        if answer.status == 0:
            return
        if "couldn't find remote ref" in answer.words:
            raise NoBranchError(
                f"the config repo at {self._url} has no branch {self._ref.removeprefix('refs/heads/')}: "
                "write its first commit with `sluice init` and push it"
            )
        raise complain(self._url, answer) or BrokenCloneError(f"git fetch: {answer.words}")

    def _recreate(self) -> None:
        fresh = self._folder.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)  # a killed process may have left one
        self._cache.mkdir(parents=True, exist_ok=True)
        made = self._git.run(f"--git-dir={fresh}", "init", "--quiet", "--bare", "--template=", deadline_s=self._local_s)
        if made.status != 0:
            raise Stalled(f"the cache folder {self._cache} cannot be used: {made.words}")
        with contextlib.suppress(NoBranchError):  # an empty repo has an empty clone; the operation tells
            self._fetch_into(fresh, self._deadlines.clone_s, f"--depth={DEPTH}")
        shutil.rmtree(self._folder, ignore_errors=True)
        fresh.rename(self._folder)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._cache.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._cache / f"{_CLONE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for(handle)
            yield
        finally:
            os.close(handle)  # and with it the lock, also when this process is killed

    def _wait_for(self, handle: int) -> None:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Retry(f"another process holds the clone in {self._cache} for {LOCK_S:g} s") from error
                time.sleep(LOCK_POLL_S)
            else:
                return


def parse_entry(line: bytes) -> Entry:
    """One line of `git ls-tree -l -z`."""
    head, _, path = line.partition(b"\t")
    mode, _, blob, size = head.decode("ascii").split()
    return Entry(path, mode, blob, int(size) if size.isdigit() else 0)


def parse_batch(output: bytes, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Take apart `git cat-file --batch`: `<name> blob <size>`, the content, a line break."""
    at = 0
    for name in names:
        end = output.find(b"\n", at)
        head = output[at:end].decode("ascii", "replace").split() if end >= 0 else []
        if head[:2] != [name, "blob"]:
            raise BrokenCloneError(f"git cat-file: {name} is {' '.join(head[1:]) or 'missing'}")
        size = int(head[2])
        yield name, output[end + 1 : end + 1 + size]
        at = end + size + 2
