"""A forge to test against, with the people and accidents around it: in memory, or three dialects over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from pipelines.forges import forge_door
from pipelines.ports import Forge
from pipelines.settings import settings
from policies.forges import ForgeTarget
from tests.fakes.forge.gitea_api import GiteaApi
from tests.fakes.forge.github_api import GitHubApi
from tests.fakes.forge.gitlab_api import GitLabApi
from tests.fakes.forge.hub import BASE, Limit, Person
from tests.fakes.forge.server import ForgeServer
from tests.fakes.pull_requests import US, FakeForge

TOKENS = {
    "our-token": Person(US),
    "other-token": Person("other-bot"),
    "reader-token": Person("reader", may_write=False),
}
DIALECTS: dict[str, Any] = {"github": GitHubApi, "gitea": GiteaApi, "forgejo": GiteaApi, "gitlab": GitLabApi}
HEADS = (f"{n:040x}" for n in range(1, 10_000))


class Stage(Protocol):
    """A repository whose surroundings a test can move."""

    door: Forge

    def push(self, branch: str, text: str = "new") -> str:
        """A commit on the branch; its hash."""

    def approve(self, number: int, by: str, *, official: bool = True) -> None: ...

    def object_to(self, number: int, by: str) -> None: ...

    def person_merges(self, number: int) -> None: ...

    def comments(self, number: int) -> list[str]: ...

    def statuses(self) -> list[tuple[str, str, str]]:
        """Commit, context, description of each that was set."""

    def protect(self) -> None:
        """Merges need an approval."""

    def outage(self) -> None: ...


class FakeStage:
    """`FakeForge`."""

    def __init__(self) -> None:
        self.forge = self.door = FakeForge()

    def push(self, branch: str, text: str = "new") -> str:
        assert text
        head = next(HEADS)
        self.forge.pushed(branch, head)
        return head

    def approve(self, number: int, by: str, *, official: bool = True) -> None:
        self.forge.approve(number, by, official=official)

    def object_to(self, number: int, by: str) -> None:
        self.forge.object_to(number, by)

    def person_merges(self, number: int) -> None:
        self.forge.person_merges(number)

    def comments(self, number: int) -> list[str]:
        return self.forge.comments(number)

    def statuses(self) -> list[tuple[str, str, str]]:
        return [(commit, status.context, status.description) for commit, status in self.forge.statuses]

    def protect(self) -> None:
        self.forge.refuses_merges = "at least 1 approving review is required"

    def outage(self) -> None:
        self.forge.away = "the forge is away"


class RealStage:
    """One dialect: the door that a target in `sluice.yaml` gets."""

    def __init__(self, kind: str, server: ForgeServer) -> None:
        self.kind, self.server, self.hub = kind, server, server.hub
        self.hub.people = dict(TOKENS)
        self.hub.commit(BASE, {"sluice.yaml": "first"})
        self.door = self.door_of("our-token")

    def door_of(self, token: str, **environment: str) -> Forge:
        return forge_door(self.target(), BASE, settings({"SLUICE_FORGE_TOKEN": token, **environment}, repo="-"))

    def target(self) -> ForgeTarget:
        return ForgeTarget(kind=self.kind, url=self.server.url, repository=self.hub.repository)  # type: ignore[arg-type]

    def push(self, branch: str, text: str = "new") -> str:
        return self.hub.commit(branch, {f"{branch.replace('/', '-')}.yaml": text})

    def approve(self, number: int, by: str, *, official: bool = True) -> None:
        self.hub.review(number, Person(by, may_write=official))

    def object_to(self, number: int, by: str) -> None:
        self.hub.review(number, Person(by), "CHANGES_REQUESTED")

    def person_merges(self, number: int) -> None:
        self.hub.merge(self.hub.pull(number), Person("ada"), None, "merge")

    def comments(self, number: int) -> list[str]:
        return [each.body.partition("-->\n")[2] for each in self.hub.pull(number).comments]

    def statuses(self) -> list[tuple[str, str, str]]:
        return [(s["sha"], s.get("context") or s["name"], s["description"]) for s in self.hub.statuses]

    def protect(self) -> None:
        self.hub.protect()

    def outage(self) -> None:
        self.hub.broken = 1000

    def limit(self, *limits: Limit) -> None:
        self.hub.limits.extend(limits)


class ForgeServers:
    """One server for each dialect, started when it is first asked for; every test gets a forge of its own there."""

    def __init__(self) -> None:
        self._servers: dict[str, ForgeServer] = {}

    def stage(self, kind: str, folder: Path) -> Any:
        """An empty forge of this kind; `memory` is the one without a server."""
        if kind == "memory":
            return FakeStage()
        if kind in self._servers:
            self._servers[kind].fresh(folder)
        else:
            self._servers[kind] = ForgeServer(folder, DIALECTS[kind]).__enter__()
        return RealStage(kind, self._servers[kind])

    def stop(self) -> None:
        for server in self._servers.values():
            server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def forge_servers() -> Iterator[ForgeServers]:
    """All that ran is stopped at the end of the session."""
    servers = ForgeServers()
    yield servers
    servers.stop()
