"""Several models in one environment and several environments in one repo, at once: each release goes its own way."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

from pipelines.commands.asks import ask
from pipelines.defaults import built_in_documents
from pipelines.look import Doors
from pipelines.reconciler import Reconciler
from policies.layout import history_path, release_path
from policies.release import CauseKind, Outcome, Phase, Release, Wish
from policies.stored_documents import parse_history, parse_release
from tests.fakes.metrics import FakeMetrics
from tests.fakes.registry import FakeRegistry
from tests.fakes.repo import FakeRepo
from tests.fakes.runtime import FakeServe
from tests.simulation.world import BIN, MODEL_DOCUMENT, POLICY, STEP, STEPS

MODELS = ("fraud", "spam")
SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger: {stage: Production}
    ray: {dashboard: "http://ray-one:8265"}
    prometheus: {url: "http://prometheus-one:9090", scrape_interval: 5s}
    look_interval: 5s
  shop:
    trigger: {stage: Production}
    ray: {dashboard: "http://ray-two:8265"}
    prometheus: {url: "http://prometheus-two:9090", scrape_interval: 5s}
    on_rollback: annotate
    look_interval: 5s
  staging:
    trigger: {alias: next}
    ray: {dashboard: "http://ray-three:8265"}
    prometheus: {url: "http://prometheus-three:9090", scrape_interval: 5s}
    look_interval: 5s
"""
CLUSTERS = {"production": "one", "shop": "two", "staging": "three"}


@dataclasses.dataclass
class Clock:
    """The virtual time."""

    time: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def wait(self, duration: timedelta) -> None:
        self.time += duration


class Several:
    """Two models, three environments, one registry, one repo, one reconciler. A version is bad in the places given."""

    def __init__(self) -> None:
        documents = {f"models/{m}.yaml": MODEL_DOCUMENT % (m, 1) for m in MODELS}
        self.repo = FakeRepo({"sluice.yaml": SLUICE, "policies/quick.yaml": POLICY % STEPS, **documents})
        self.registry, self.clock = FakeRegistry(), Clock()
        self.serves = {f"http://ray-{n}:8265": FakeServe() for n in CLUSTERS.values()}
        self.metrics = {f"http://prometheus-{n}:9090": FakeMetrics(width=BIN) for n in CLUSTERS.values()}
        self.bad: set[tuple[str, str, int]] = set()
        doors = Doors(
            repo=self.repo,
            registry=lambda _: self.registry,
            runtime=lambda target: self.serves[target.dashboard],
            metrics=lambda target: self.metrics[target.url],
        )
        self.reconciler = Reconciler(doors, self.clock, built_in_documents())
        for model in MODELS:
            self.registry.register(model)
            self.registry.transition(model, 1, "Production")
            self.registry.set_alias(model, "next", 1)
        self.run(lambda: all(self.serving(e, m, 1) for e in CLUSTERS for m in MODELS))

    def release(self, environment: str, model: str) -> Release | None:
        text = self.repo.read().files.get(release_path(environment, model))
        return parse_release(text) if text else None

    def serving(self, environment: str, model: str, version: int) -> bool:
        release = self.release(environment, model)
        return bool(release and release.phase is Phase.STEADY and release.stable and release.stable.version == version)

    def outcomes(self, environment: str, model: str) -> list[tuple[int, Outcome]]:
        folder = history_path(environment, model, "x").rpartition("/")[0] + "/"
        texts = [text for path, text in self.repo.read().files.items() if path.startswith(folder)]
        found = sorted((parse_history(text) for text in texts), key=lambda record: record.ended_at)
        return [(record.version, record.outcome) for record in found]

    def step(self) -> None:
        for environment, n in CLUSTERS.items():
            self.serves[f"http://ray-{n}:8265"].advance()
            for model in MODELS:
                self._answer(environment, model)
        self.clock.time += STEP
        self.reconciler.tick()

    def run(self, done, minutes: float = 30) -> None:
        end = self.clock.time + timedelta(minutes=minutes)
        while not done():
            assert self.clock.time < end, [self.release(e, m) for e in CLUSTERS for m in MODELS]
            self.step()

    def _answer(self, environment: str, model: str) -> None:
        """200 requests each, and as many copies as the phase sends."""
        release = self.release(environment, model)
        if release is None or release.phase is Phase.ROLLING_BACK:
            return
        share = release.weight_percent * 2
        copies = 200 if release.rollout and Phase.SHADOW in (release.phase, release.rollout.paused_from) else share
        for application, requests in ((release.stable, 200 - share), (release.candidate, copies)):
            if (application and requests and release.phase is not Phase.WARMING) or application is release.stable:
                failing = application and (environment, model, application.version) in self.bad
                bad = requests // 5 if failing else 0
                if application and requests:
                    told = self.metrics[f"http://prometheus-{CLUSTERS[environment]}:9090"]
                    told.answered(model, application, self.clock.time, good=requests - bad, bad=bad)


def test_each_release_goes_its_own_way():
    """The second fraud is promoted everywhere; the second spam is bad in production, which writes to the registry."""
    world = Several()
    for model in MODELS:
        world.registry.register(model)
        world.registry.transition(model, 2, "Production", archive_existing=True)
        world.registry.set_alias(model, "next", 2)
    world.bad.add(("production", "spam", 2))
    world.run(lambda: all(len(world.outcomes(e, m)) == 2 for e in CLUSTERS for m in MODELS))
    promoted, rolled_back = (2, Outcome.PROMOTED), (2, Outcome.ROLLED_BACK)
    assert [world.outcomes(e, "fraud")[-1] for e in CLUSTERS] == [promoted] * 3
    assert world.outcomes("production", "spam")[-1] == rolled_back
    assert world.outcomes("staging", "spam")[-1] == promoted
    shown = world.registry.snapshot(["spam"]).models["spam"]
    assert (shown[1].stage, shown[2].stage, shown[2].aliases) == ("Production", "Archived", {"next"})
    assert shown[2].tags["sluice.production.phase"] == "QUARANTINED"
    assert shown[2].tags["sluice.staging.phase"] == "STABLE"


def test_a_version_has_one_stage_so_what_one_environment_takes_out_the_other_that_watches_it_lets_go():
    world = Several()
    world.registry.register("spam")
    world.registry.transition("spam", 2, "Production", archive_existing=True)
    world.bad.add(("production", "spam", 2))
    world.run(lambda: all(len(world.outcomes(e, "spam")) == 2 for e in ("production", "shop")))
    assert world.outcomes("production", "spam")[-1] == (2, Outcome.ROLLED_BACK)
    assert world.outcomes("shop", "spam")[-1] == (2, Outcome.ABORTED)
    assert world.release("shop", "spam").quarantine == ()


def test_a_wish_and_a_pause_are_of_one_release_and_the_others_go_on():
    world = Several()
    for model in MODELS:
        world.registry.register(model)
        world.registry.transition(model, 2, "Production", archive_existing=True)
    world.run(lambda: world.release("production", "fraud").phase is Phase.CANARY)
    ask(world.repo, Wish.PAUSE, "fraud", "production", by="Ada", why="a sale")
    world.run(lambda: world.serving("production", "spam", 2) and world.serving("shop", "fraud", 2))
    paused = world.release("production", "fraud")
    assert (paused.phase, paused.rollout.cause.kind) == (Phase.PAUSED, CauseKind.ASKED)


def test_queues_are_of_one_release():
    world = Several()
    world.registry.register("fraud")
    world.registry.transition("fraud", 2, "Production", archive_existing=True)
    world.run(lambda: world.release("production", "fraud").phase is Phase.SHADOW)
    world.registry.register("fraud")
    world.registry.transition("fraud", 3, "Production", archive_existing=True)
    world.run(lambda: world.serving("production", "fraud", 3) and world.serving("shop", "fraud", 3))
    assert [v for v, _ in world.outcomes("production", "fraud")] == [1, 2, 3]
    assert world.serving("staging", "fraud", 1)
    assert world.outcomes("production", "spam") == [(1, Outcome.PROMOTED)]
