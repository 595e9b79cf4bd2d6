"""A config repo to test against, with the people and accidents around it: in memory, or on a real server over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from pipelines.git_server import HEALTH, TOKEN_VARIABLE, create_repo
from pipelines.ports import Repo
from pipelines.processes import LOOPBACK, ManagedProcess, answers, free_port
from policies.observations import Tip
from registry_bridge.config_repo import CommitEntry, ConfigRepo
from registry_bridge.git_command import Deadlines
from tests.fakes.repo import PERSON, Content, FakeRepo, Link

ROOT = Path(__file__).parents[2]
START_S = 30.0
"""The server is up in half a second; this machine may be busy."""


class Door(Repo, Protocol):
    """The port, and what `sluice init` and `sluice history` use beside it."""

    def start(self, changes: Mapping[str, str | None], message: str) -> str: ...

    def log(self, limit: int, path: str | None = None) -> list[CommitEntry]: ...


class Stage(Protocol):
    """A config repo whose surroundings a test can move."""

    def door(self) -> Door:
        """A writer of its own, with a cache of its own."""

    def person_commits(self, changes: Mapping[str, Content | None], author: str = PERSON) -> str: ...

    def person_reverts(self, commit: str) -> str: ...

    def force_push(self, to: str | None = None, files: Mapping[str, Content] | None = None) -> str: ...

    def refuse_pushes(self, words: str) -> None:
        """A `pre-receive` hook that declines with these words."""

    def lose_next_answer(self) -> None:
        """The next push arrives and the server is gone before it can say so."""

    def outage(self) -> None: ...

    def recover(self) -> None: ...


class FakeStage:
    """`FakeRepo`: all doors are one object."""

    def __init__(self) -> None:
        self.repo = FakeRepo()

    def door(self) -> Door:
        return self.repo

    def person_commits(self, changes: Mapping[str, Content | None], author: str = PERSON) -> str:
        return self.repo.person_commits(changes, author)

    def person_reverts(self, commit: str) -> str:
        return self.repo.revert(commit)

    def force_push(self, to: str | None = None, files: Mapping[str, Content] | None = None) -> str:
        return self.repo.force_push(to, files)

    def refuse_pushes(self, words: str) -> None:
        self.repo.refuses = self.repo.refuses_branches = words

    def lose_next_answer(self) -> None:
        self.repo.lose_next_answer = True

    def outage(self) -> None:
        self.repo.outage()

    def recover(self) -> None:
        self.repo.recover()


class Server:
    """`python -m pipelines.git_server` on a free port; it can be stopped and started again on the same one."""

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.root, self.log, self.port = folder / "repos", folder / "git-server.log", free_port()
        self._token = token
        self._process: ManagedProcess | None = None

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Safe to repeat. A process that was killed may look alive for an instant, so it is asked."""
        if self._process is not None and answers(self.address + HEALTH):
            return
        self.stop()
        command = [sys.executable, "-m", "pipelines.git_server", "--root", str(self.root), "--port", str(self.port)]
        env = {**os.environ, TOKEN_VARIABLE: self._token or ""}
        self._process = ManagedProcess("git server", command, self.log, env=env, cwd=ROOT).start()
        self._process.wait_until(lambda: answers(self.address + HEALTH), "answering", START_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class RealStage:
    """A bare repo of its own on a real server; a person has a working clone beside it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder, self._doors = server, folder, 0
        self.name = folder.name
        self.bare = create_repo(server.root, self.name)
        self.work = folder / "work"
        run_git("init", "--quiet", "--initial-branch=main", str(self.work), cwd=folder)

    @property
    def url(self) -> str:
        return f"{self._server.address}/{self.name}.git"

    def door(self) -> ConfigRepo:
        self._doors += 1
        return self.door_at(self._folder / f"cache-{self._doors}")

    def door_at(
        self, cache: Path, *, token: str | None = None, deadlines: Deadlines | None = None, url: str | None = None
    ) -> ConfigRepo:
        return ConfigRepo(url or self.url, "main", cache, token=token, deadlines=deadlines)

    def person_commits(self, changes: Mapping[str, Content | None], author: str = PERSON) -> str:
        self._pull()
        for path, content in changes.items():
            _put(self.work / path, content)
        return self._commit_and_push(author)

    def person_reverts(self, commit: str) -> str:
        self._pull()
        run_git("revert", "--no-edit", commit, cwd=self.work)
        return self._push()

    def force_push(self, to: str | None = None, files: Mapping[str, Content] | None = None) -> str:
        self._pull()
        if to is not None:
            run_git("reset", "--quiet", "--hard", to, cwd=self.work)
            return self._push("--force")
        run_git("checkout", "--quiet", "--orphan", "foreign", cwd=self.work)
        run_git("rm", "-rfq", "--ignore-unmatch", ".", cwd=self.work)
        for path, content in (files or {}).items():
            _put(self.work / path, content)
        return self._commit_and_push(PERSON, "--force")

    def hook(self, name: str, script: str) -> None:
        path = self.bare / "hooks" / name
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o755)

    def refuse_pushes(self, words: str) -> None:
        self.hook("pre-receive", f"echo '{words}' >&2\nexit 1\n")

    def lose_next_answer(self) -> None:
        self.hook("post-receive", f"kill -9 {self._server.pid}\n")

    def outage(self) -> None:
        self._server.stop()

    def recover(self) -> None:
        self._server.start()

    def commit_index(self, *cacheinfo: str) -> str:
        """A commit of entries that no working tree holds: `mode,hash,path`."""
        self._pull()
        for info in cacheinfo:
            run_git("update-index", "--add", "--cacheinfo", info, cwd=self.work)
        run_git("commit", "--quiet", "-m", "By index", cwd=self.work)
        return self._push()

    def _pull(self) -> None:
        if run_git("ls-remote", str(self.bare), "refs/heads/main", cwd=self.work):
            run_git("fetch", "--quiet", str(self.bare), "main", cwd=self.work)
            run_git("checkout", "--quiet", "--force", "-B", "main", "FETCH_HEAD", cwd=self.work)

    def _commit_and_push(self, author: str, *options: str) -> str:
        run_git("add", "--all", cwd=self.work)
        run_git("commit", "--quiet", "--author", author, "-m", "A person's change", cwd=self.work)
        return self._push(*options)

    def _push(self, *options: str) -> str:
        run_git("push", "--quiet", *options, str(self.bare), "HEAD:refs/heads/main", cwd=self.work)
        return run_git("rev-parse", "HEAD", cwd=self.work)


def run_git(*arguments: str, cwd: Path) -> str:
    """Git as a person runs it; its output without the last line break. A failure fails the test with its words."""
    done = _git(arguments, cwd)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout.decode().rstrip("\n")


def tries_git(*arguments: str, cwd: Path) -> bool:
    """The same where it may fail: did it work?"""
    return _git(arguments, cwd).returncode == 0


def _git(arguments: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    who = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in _ADA.items()}
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **who}
    return subprocess.run(["git", *arguments], cwd=cwd, env=env, capture_output=True, check=False)


_ADA = {"NAME": "Ada", "EMAIL": "ada@example.com"}


def _put(path: Path, content: Content | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if isinstance(content, Link):
        path.symlink_to(content.target)
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def texts(tip: Tip) -> dict[str, str]:
    """The tip's files as a plain dict, to compare."""
    return dict(tip.files)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Git server of the module's own."""
    running = Server(tmp_path_factory.mktemp("git"))
    running.start()
    yield running
    running.stop()
