"""What the reconciler writes for edges: what was promoted, when it was promoted, and nothing in between."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import yaml

from pipelines.pulling import Puller
from policies.layout import ALLOWED_SIGNERS
from policies.release import Phase
from tests.fakes.runtime import FakeServe
from tests.simulation.world import BAD, PRODUCTION, World

PATH = "environments/store-17/serve.yaml"


class Clock:
    """The world's."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> datetime:
        return self._world.now

    def wait(self, duration: timedelta) -> None:
        self._world.now += duration


def world_with_an_edge() -> World:
    world = World(environments=(PRODUCTION,))
    sluice = str(world.tip.files["sluice.yaml"]) + "edges:\n  store-17: {follows: production}\n"
    world.repo.person_commits({"sluice.yaml": sluice})
    return world


def versions(world: World) -> list[list[int]]:
    """The versions that the edge's config named, text by text, oldest first."""
    texts = [commit.files.get(PATH) for commit in world.commits()]
    changed = [text for before, text in zip([None, *texts], texts, strict=False) if text and text != before]
    return [[app["args"]["version"] for app in yaml.safe_load(str(text))["applications"]] for text in changed]


def promote(world: World, *truth: object) -> int:
    world.promote(version := world.register(*truth))  # type: ignore[arg-type]  (a Truth, or nothing)
    count = len(world.history())
    world.run_until(lambda: len(world.history()) > count and world.release is not None, minutes=60)
    world.run_until(lambda: bool(world.release and world.release.phase is Phase.STEADY), minutes=60)
    world.settle()
    return version


def test_an_edge_follows_promotions_one_change_each():
    world = world_with_an_edge()
    promote(world)
    promote(world)
    assert versions(world) == [[1], [2]]
    serve = yaml.safe_load(str(world.tip.files[PATH]))
    assert serve["applications"][0]["deployments"][0]["user_config"]["split"] is None


def test_what_was_rolled_back_never_reaches_an_edge():
    world = world_with_an_edge()
    promote(world)
    promote(world, BAD)
    assert versions(world) == [[1]]
    assert not world.reconciler.plan().moves


def test_an_edge_applies_only_what_somebody_vouched_for_where_that_is_asked(tmp_path: Path):
    world = world_with_an_edge()
    promote(world)
    sluice = str(world.tip.files["sluice.yaml"])
    asking = sluice + "signatures: {paths: [models/, environments/]}\n"
    world.repo.person_commits({"sluice.yaml": asking, ALLOWED_SIGNERS: "ada\nsluicegate\n"})
    world.repo.signer = "sluicegate"
    serve = FakeServe()
    puller = Puller(world.repo, lambda _: serve, Clock(world), "store-17", tmp_path / "store-17.json")
    assert not puller.tick().problems
    told = len(serve.submits)
    forged = str(world.tip.files[PATH]).replace("version: 1\n", "version: 9\n")
    commit = world.repo.person_commits({PATH: forged}, author="Eve <eve@example.com>")
    said = " ".join(puller.tick().problems)
    assert all(part in said for part in (PATH, commit, "Eve <eve@example.com>", "is not signed"))
    world.repo.revert(commit)
    assert not puller.tick().problems
    elsewhere = asking.replace("follows: production", "follows: production, ray: {dashboard: 'http://evil:1'}")
    other = world.repo.person_commits({"sluice.yaml": elsewhere})
    said = " ".join(puller.tick().problems)
    assert other in said
    assert "evil" not in (tmp_path / "store-17.json").read_text()
    assert len(serve.submits) == told
