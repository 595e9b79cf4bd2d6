"""An edge that only pulls, on a real Git server where it has no right to push; its Ray is the one in memory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.pulling import Pulled, Puller, recall, write_report
from policies.application import Application
from policies.documents import RayTarget
from policies.edges import promoted, serves_the_same
from policies.errors import Stalled
from policies.release import Phase
from serving_runtime.serve_config import render, text
from tests.contracts.repo_harness import RealStage, Server, run_git
from tests.fakes.runtime import FakeServe
from tests.unit.releases import application, rolling, steady
from tests.unit.test_serve_config import AROUND, to_serve

SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production: {trigger: {alias: champion}}
edges:
  store-17: {follows: production}
"""
PATH = "environments/store-17/serve.yaml"
START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def serving(version: int, revision: int | None = None) -> str:
    """The edge's Serve config with this version stable."""
    release = steady(version, revision=revision or version, traffic_revision=revision or version)
    return text(render([to_serve(release)], AROUND))


class Clock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def wait(self, duration: timedelta) -> None:
        self.time += duration


class Edge:
    """One edge with its own disk, its own Ray and its own way to the server."""

    def __init__(self, stage: RealStage, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.serve, self.clock, self.unanswered = FakeServe(), Clock(), 0
        self.memory = folder / "store-17.json"
        self.start()

    def start(self) -> None:
        """A process that knows what is on the disk."""
        repo = self.stage.door_at(self.folder / "cache")
        self.asked: list[RayTarget] = []

        def runtime(target: RayTarget) -> FakeServe:
            self.asked.append(target)
            return self.serve

        self.puller = Puller(repo, runtime, self.clock, "store-17", self.memory)

    def tick(self) -> Pulled:
        served = self.serve.answering("/models/fraud")
        pulled = self.puller.tick()
        for _ in range(3):
            self.serve.advance()
            self.unanswered += served is not None and self.serve.answering("/models/fraud") is None
        return pulled

    def settle(self) -> Pulled:
        for _ in range(30):
            pulled = self.tick()
            if pulled.in_place:
                return pulled
        raise AssertionError(pulled)

    @property
    def version(self) -> int | None:
        name = self.serve.answering("/models/fraud")
        return int(self.serve.observe().applications[name].submitted["args"]["version"]) if name else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("edge"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def edge(server: Server, tmp_path: Path) -> Edge:
    server.start()
    (folder := tmp_path / tmp_path.name).mkdir()
    stage = RealStage(server, folder)
    stage.person_commits({"sluice.yaml": SLUICE, PATH: serving(1)})
    own = tmp_path / "edge"
    own.mkdir()
    made = Edge(stage, own)
    made.settle()
    # People push straight into the bare repo; over HTTP nobody may.
    stage.hook("pre-receive", '[ -z "$REMOTE_ADDR" ] || { echo "read only" >&2; exit 1; }\n')
    return made


def test_it_applies_what_git_says_without_a_right_to_push(edge: Edge):
    with pytest.raises(Stalled, match="read only"):
        edge.stage.door_at(edge.folder / "other").commit(_tip(edge), {"sluice.yaml": "x"}, "x")
    edge.stage.person_commits({PATH: serving(2)})
    pulled = edge.settle()
    assert (edge.version, edge.unanswered) == (2, 0)
    assert (pulled.commit, pulled.problems) == (_tip(edge), ())
    assert list(pulled.applications.values()) == ["RUNNING"]
    refs = run_git("for-each-ref", "--format=%(refname)", cwd=edge.stage.bare).split()
    assert refs == ["refs/heads/main"]


def _tip(edge: Edge) -> str:
    return edge.stage.door_at(edge.folder / "reader").read().commit


def test_offline_for_days_it_serves_on_and_then_goes_straight_to_the_newest(edge: Edge):
    edge.stage.outage()
    for _ in range(3):
        pulled = edge.tick()
        edge.clock.wait(timedelta(days=1))
    assert (edge.version, pulled.in_place, pulled.git_seen_at) == (1, True, START)
    assert "is what counts" in pulled.problems[0]
    for version in (2, 3, 4):
        edge.stage.person_commits({PATH: serving(version)})
    edge.stage.recover()
    edge.settle()
    assert (edge.version, edge.unanswered) == (4, 0)
    ran = {app["args"]["version"] for submit in edge.serve.submits for app in submit["applications"]}
    assert ran == {1, 4}


def test_a_ray_that_comes_back_empty_is_filled_while_git_is_away_by_a_new_process(edge: Edge):
    edge.stage.outage()
    edge.serve.restart_empty()
    edge.start()
    pulled = edge.settle()
    assert (edge.version, pulled.git_seen_at) == (1, None)
    assert pulled.commit is not None
    edge.stage.recover()


def test_a_rewritten_branch_is_not_applied_until_somebody_here_accepts_it(edge: Edge):
    edge.stage.force_push(files={"sluice.yaml": SLUICE, PATH: serving(7)})
    pulled = edge.tick()
    assert "does not descend" in pulled.problems[0]
    assert edge.version == 1
    edge.memory.unlink()
    edge.start()
    edge.settle()
    assert edge.version == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({PATH: None}, "names no application"),
        ({PATH: "applications:\n  - {name: x, surprise: 1}\n"}, "surprise"),
        ({"sluice.yaml": "edges: ["}, "sluice.yaml"),
        ({"sluice.yaml": SLUICE.replace("store-17", "store-18")}, "has no edge store-17; it has store-18"),
    ],
)
def test_what_cannot_be_applied_leaves_the_last_that_could(edge: Edge, changes: dict[str, str | None], words: str):
    edge.stage.person_commits(changes)
    pulled = edge.tick()
    assert words in pulled.problems[0]
    assert (edge.version, pulled.in_place) == (1, True)


def test_somebody_elses_broken_document_is_no_reason_to_stand_still(edge: Edge):
    edge.stage.person_commits({"models/fraud.yaml": "kind: [", PATH: serving(2)})
    edge.settle()
    assert edge.version == 2


def test_the_report_says_how_far_it_got(edge: Edge, tmp_path: Path):
    write_report(tmp_path / "report.json", edge.tick())
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert report == {
        "schema": 1,
        "edge": "store-17",
        "at": START.isoformat(),
        "commit": _tip(edge),
        "git_seen_at": START.isoformat(),
        "in_place": True,
        "step": "",
        "applications": {application(1).name("fraud"): "RUNNING"},
        "problems": [],
    }


def test_a_memory_of_another_kind_is_none(tmp_path: Path):
    for kept in ("", "[]", '{"schema": 2}', '{"schema": 1, "commit": "x"}'):
        (tmp_path / "m.json").write_text(kept)
        assert recall(tmp_path / "m.json") is None
    assert recall(tmp_path / "absent.json") is None


# --- what an edge gets --------------------------------------------------------------------------------------------


def test_an_edge_gets_stable_versions_only():
    running = rolling(Phase.CANARY, weight=10, step=1)
    first = dataclasses.replace(running, stable=None)
    found = promoted({"fraud": running, "spam": first})
    assert {slug: (release.stable, release.candidate, release.phase) for slug, release in found.items()} == {
        "fraud": (running.stable, None, Phase.STEADY)
    }
    assert isinstance(found["fraud"].stable, Application)


def test_a_new_revision_alone_is_no_change():
    one, other = (render([to_serve(steady(1, traffic_revision=n))], AROUND) for n in (1, 9))
    assert one != other
    assert serves_the_same(one, other)
    assert not serves_the_same(one, render([to_serve(steady(2, traffic_revision=1))], AROUND))
