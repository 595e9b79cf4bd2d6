"""A whole world in memory: Git, a registry, Serve, Prometheus and users, on one virtual clock, by one seed.

The real reconciler runs in it over fakes that pass the contract suites. Users' requests follow what the replicas were
told, versions fail by their own truth, and every accident that the design speaks of can be played.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.commands.asks import ask
from pipelines.defaults import built_in_documents
from pipelines.look import Doors
from pipelines.reconciler import Reconciler, Tick
from policies.layout import release_path
from policies.model import Application, HistoryRecord, Outcome, Phase, RegisteredVersion, Release, Wish
from policies.stored_documents import parse_history, parse_release
from tests.fakes.metrics import FakeMetrics
from tests.fakes.registry import FakeRegistry
from tests.fakes.repo import FakeRepo
from tests.fakes.runtime import FakeServe

MODEL = "fraud"
ROUTE = "/models/fraud"
STEP = timedelta(seconds=5)
REQUESTS_PER_STEP = 200
BIN = timedelta(seconds=5)

SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger: {%s}
    prometheus: {scrape_interval: 5s}
    look_interval: 5s
"""
MODEL_DOCUMENT = """\
apiVersion: sluicegate/v1
kind: Model
name: fraud
rollout: quick
slos: [errors]
settings:
  cpus: %s
"""
POLICY = """\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: quick
shadow: {min_duration: 20s, max_duration: 5m}
steps: %s
step: {min_duration: 20s, max_duration: 5m}
settle: {min_duration: 20s, max_duration: 5m}
ready_deadline: 2m
metrics_deadline: 1m
registry_deadline: 1m
max_duration: 30m
"""
STEPS = "[10, 50]"
BREAKS: tuple[dict[str, str | None], ...] = (
    {"models/fraud.yaml": "kind: Modle\n"},
    {"policies/quick.yaml": "steps: [\n"},
    {"policies/quick.yaml": None},
    {"models/aaa.yaml": (MODEL_DOCUMENT % 1).replace("name: fraud", "name: aaa\nroute: /models/fraud")},
)
"""What people's slips do to the documents."""


_read_release = functools.cache(parse_release)
_read_history = functools.cache(parse_history)


class Crash(BaseException):
    """The process is gone. Not an Exception: nothing may catch it."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a version is really like."""

    error_rate: float = 0.002
    starts: bool = True


HEALTHY = Truth()
BAD = Truth(error_rate=0.2)
BROKEN = Truth(starts=False)


class Crasher:
    """A door that dies with its process when its time has come: before or after the call that `due` names."""

    def __init__(self, door: Any, due: Callable[[str], bool]) -> None:
        self._door, self._due = door, due

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._door, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            answer = call(*args, **kwargs)
            if self._due(name):
                raise Crash(name)
            return answer

        return called


class World:
    """Everything outside the reconciler, the reconciler, and the users."""

    def __init__(
        self, seed: int = 0, due: Callable[[str], bool] = lambda _name: False, *, alias: str | None = None
    ) -> None:
        """With `alias`, that is the trigger in place of the stage Production."""
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.random = random.Random(seed)
        self.alias = alias
        self.cpus, self.steps = 1, STEPS
        trigger = f"alias: {alias}" if alias else "stage: Production"
        self.repo = FakeRepo({"sluice.yaml": SLUICE % trigger, **self._documents()})
        self.registry = FakeRegistry()
        self.serve = FakeServe()
        self.metrics = FakeMetrics(width=BIN)
        self.truths: dict[str, Truth] = {}
        self.requests = 0
        self.unanswered = 0
        """Requests without an answer while a stable version should have given it."""
        self.crashes = 0
        self._due = due
        self.reconciler = self._start()
        self.rival: Reconciler | None = None
        """A second reconciler on the same repo, when there is one."""

    # --- people ---

    def register(self, truth: Truth = HEALTHY) -> int:
        number = self.registry.register(MODEL, payload=f"artifact-{len(self.truths)}")
        with self._answering():
            self.truths[self.registry.digest(MODEL, number)] = truth
        return number

    def promote(self, version: int, *, archive: bool = True) -> None:
        """A person wants it served. An alias stands on one version: there `archive` says nothing."""
        if self.alias:
            self.registry.set_alias(MODEL, self.alias, version)
        else:
            self.registry.transition(MODEL, version, "Production", archive_existing=archive)

    def archive(self, version: int) -> None:
        """A person takes it out of the trigger."""
        if not self.alias:
            self.registry.transition(MODEL, version, "Archived")
        elif self.at_trigger(version):
            self.registry.set_alias(MODEL, self.alias, None)

    def at_trigger(self, version: int) -> bool:
        shown = self.versions.get(version)
        return shown is not None and (self.alias in shown.aliases if self.alias else shown.stage == "Production")

    def change_settings(self, cpus: int) -> None:
        self.cpus = cpus
        self.mend()

    def change_steps(self, steps: str) -> None:
        self.steps = steps
        self.mend()

    def mend(self) -> None:
        """All documents are as they should be."""
        self.repo.person_commits({"models/aaa.yaml": None, **self._documents()})

    def ask(self, wish: Wish, version: int | None = None) -> None:
        """Raises BadInput where there is nothing to ask for."""
        ask(self.repo, wish, MODEL, "production", by="Ada", why="a person wants it", version=version)

    # --- time ---

    def pass_time(self, seconds: float) -> None:
        """Users ask, Serve works, and the reconciler looks every step."""
        for _ in range(max(1, round(seconds / STEP.total_seconds()))):
            self.step()

    def step(self) -> Tick | None:
        """One step of everything."""
        self._fail_what_cannot_start()
        self.serve.advance()
        self._users_ask()
        self.now += STEP
        return self.tick()

    def tick(self) -> Tick | None:
        """One look; a crash starts the process anew."""
        if self.rival:
            with contextlib.suppress(Crash):  # it goes on with the next look, as another process would
                self.rival.tick()
        try:
            return self.reconciler.tick()
        except Crash:
            self.crashes += 1
            self.restart()
            return None

    def restart(self) -> None:
        """Another process goes on."""
        self.reconciler = self._start()

    def run_until(self, done: Callable[[], bool], minutes: float = 30) -> None:
        """Let time pass until it is so. Raises AssertionError with the state when it never is."""
        end = self.now + timedelta(minutes=minutes)
        while not done():
            assert self.now < end, f"never reached: {self.release}"
            self.step()

    def settle(self, minutes: float = 60) -> None:
        """Everything heals, and time passes until nothing changes any more."""
        self.heal()
        end = self.now + timedelta(minutes=minutes)
        quiet = 0
        while quiet < 3 or self.release is None or self.release.phase not in (Phase.STEADY, Phase.PAUSED):
            assert self.now < end, f"never at rest: {self.release}"
            before = self.repo.branch_tip, len(self.serve.submits)
            tick = self.step()
            changed = before != (self.repo.branch_tip, len(self.serve.submits))
            quiet = 0 if changed or tick is None else quiet + 1

    def heal(self) -> None:
        """No accident goes on."""
        self.repo.recover()
        self.registry.away = None
        self.metrics.come_back()
        self.serve.away = ""

    # --- readings ---

    @property
    def versions(self) -> Mapping[int, RegisteredVersion]:
        """As people see them, also while the registry answers nobody else."""
        with self._answering():
            return self.registry.snapshot([MODEL]).models.get(MODEL, {})

    @property
    def release(self) -> Release | None:
        files = self.repo.commits[self.repo.branch_tip or ""].files
        return self._release_of(files)

    def _release_of(self, files: Mapping[str, Any]) -> Release | None:
        text = files.get(release_path("production", MODEL))
        return _read_release(text) if isinstance(text, str) else None

    def releases(self) -> list[Release]:
        """Every release that Git ever had, oldest first."""
        commits = reversed(self.repo._history(self.repo.branch_tip))
        found = [self._release_of(commit.files) for commit in commits]
        return [release for release in found if release is not None]

    def history(self) -> list[HistoryRecord]:
        files = self.repo.commits[self.repo.branch_tip or ""].files
        texts = [str(text) for path, text in sorted(files.items()) if path.startswith("history/")]
        return sorted((_read_history(text) for text in texts), key=lambda record: record.ended_at)

    def outcomes(self) -> list[tuple[int, Outcome]]:
        return [(record.version, record.outcome) for record in self.history()]

    def truth(self, application: Application) -> Truth:
        return self.truths[application.digest]

    # --- inside ---

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """The registry answers, whether it is away for others or not."""
        away, self.registry.away = self.registry.away, None
        yield
        self.registry.away = away

    def _documents(self) -> dict[str, str]:
        return {"models/fraud.yaml": MODEL_DOCUMENT % self.cpus, "policies/quick.yaml": POLICY % self.steps}

    def join(self) -> None:
        """A second reconciler starts beside the first."""
        self.rival = self._start()

    def _start(self) -> Reconciler:
        return self.reconciler_on(self.repo)

    def reconciler_on(self, repo: Any) -> Reconciler:
        """A process of its own, with this repo as its door to Git."""

        def due(name: str) -> bool:
            return self._due(name)

        world = self

        class VirtualClock:
            def now(self) -> datetime:
                return world.now

            def wait(self, duration: timedelta) -> None:
                world.now += duration

        doors = Doors(
            repo=Crasher(repo, due),
            registry=lambda _target: Crasher(self.registry, due),
            runtime=lambda _target: Crasher(self.serve, due),
            metrics=lambda _target: Crasher(self.metrics, due),
        )
        return Reconciler(doors, VirtualClock(), built_in_documents())

    def _fail_what_cannot_start(self) -> None:
        release = self.release
        for application in (release.candidate, release.stable) if release else ():
            if application and not self.truth(application).starts:
                self.serve.failing.add(application.name(MODEL))

    def _users_ask(self) -> None:
        owner = self.serve.answering(ROUTE)
        if owner is None:
            release = self.release
            self.unanswered += REQUESTS_PER_STEP if release and release.stable else 0
            return
        self.requests += REQUESTS_PER_STEP
        told = self.serve.told(owner)
        split = told.get("split")
        share = 0
        if split and self._takes_requests(split["application"]):
            share = round(REQUESTS_PER_STEP * split["weight_percent"] / 100)
            self._answered(split, REQUESTS_PER_STEP if split["shadow"] else share)
        self._answered(told, REQUESTS_PER_STEP - share)

    def _takes_requests(self, name: str) -> bool:
        told = self.serve.told(name)
        return bool(told) and not told["drain"]

    def _answered(self, told: Mapping[str, Any], requests: int) -> None:
        release = self.release
        known = [a for a in ((release.stable, release.candidate) if release else ()) if a]
        for application in known:
            if (application.version, application.build) == (told["version"], told["build"]) and requests:
                rate = self.truth(application).error_rate
                bad = sum(self.random.random() < rate for _ in range(requests))
                self.metrics.answered(MODEL, application, self.now, good=requests - bad, bad=bad)
