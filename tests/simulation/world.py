"""A whole world in memory: Git, a registry, clusters with Serve and Prometheus, and users, on one clock, by one seed.

The real reconciler runs in it over fakes that pass the contract suites. Users' requests follow what the replicas were
told, versions fail by their own truth, hosts have their guards, and every accident that the design speaks of can be
played. A world has one model in one environment, unless it is told of more; `World` then speaks of the first place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.commands.asks import ask
from pipelines.defaults import built_in_documents
from pipelines.look import Doors
from pipelines.reconciler import Reconciler, Tick
from policies.application import Application
from policies.errors import BadInput, Retry
from policies.layout import ray_service_path, release_path
from policies.observations import RegisteredVersion
from policies.release import Outcome, Phase, Release, Wish
from policies.rollout_record import HistoryRecord
from policies.stored_documents import parse_history, parse_release
from serving_runtime.guard import Guard
from serving_runtime.user_config import GuardTerms
from tests.fakes.metrics import FakeMetrics
from tests.fakes.operator import OperatedCluster
from tests.fakes.pull_requests import FakeForge
from tests.fakes.registry import FakeRegistry
from tests.fakes.repo import FakeRepo, Snapshot
from tests.fakes.runtime import FakeServe

MODEL = "fraud"
STEP = timedelta(seconds=5)
REQUESTS_PER_STEP = 200
BIN = timedelta(seconds=5)
QUIET_STEPS = 3
"""After so many steps in which nothing moved, and nothing is under way, looks are a minute apart."""
GUARDED = 10
"""Of a candidate's requests in one step, those at the one host replica whose guard is played."""

MODEL_DOCUMENT = """\
apiVersion: sluicegate/v1
kind: Model
name: %s
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
TEMPLATE = """\
apiVersion: ray.io/v1
kind: RayService
metadata: {name: production, namespace: ray}
spec:
  rayClusterConfig:
    rayVersion: "2.60.0"
    headGroupSpec:
      rayStartParams: {}
      template:
        spec:
          containers:
            - {name: ray-head, image: "registry.example.com/serving:1"}
"""
BREAKS: tuple[dict[str, str | None], ...] = (
    {"models/fraud.yaml": "kind: Modle\n"},
    {"policies/quick.yaml": "steps: [\n"},
    {"policies/quick.yaml": None},
    {"models/aaa.yaml": MODEL_DOCUMENT % ("aaa\nroute: /models/fraud", 1)},
)
"""What people's slips do to the documents."""

# A look at the same text is the same release; a thousand of them are a few histories.
_read_release = functools.lru_cache(maxsize=1024)(parse_release)
_read_history = functools.lru_cache(maxsize=1024)(parse_history)


class Crash(BaseException):
    """The process is gone. Not an Exception: nothing may catch it."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a version is really like."""

    error_rate: float = 0.002
    starts: bool = True


HEALTHY = Truth()
BAD = Truth(error_rate=0.2)
DEAD = Truth(error_rate=1.0)
BROKEN = Truth(starts=False)


@dataclasses.dataclass(frozen=True)
class Environment:
    """One environment as `sluice.yaml` has it: exactly one of stage and alias is its trigger."""

    name: str
    stage: str | None = None
    alias: str | None = None
    on_rollback: str = "restore"
    kuberay: bool = False
    """Its Ray belongs to KubeRay's operator."""
    review: str = "none"
    approvals: int = 1

    @property
    def document(self) -> str:
        """Its lines in sluice.yaml."""
        trigger = f"alias: {self.alias}" if self.alias else f"stage: {self.stage}"
        return (
            f"  {self.name}:\n"
            f"    trigger: {{{trigger}}}\n"
            f"    on_rollback: {self.on_rollback}\n"
            f"    target: {'kuberay' if self.kuberay else 'ray'}\n"
            f"    review: {self.review}\n"
            f"    review_approvals: {self.approvals}\n"
            f'    ray: {{dashboard: "http://{self.name}:8265"}}\n'
            f'    prometheus: {{url: "http://{self.name}:9090", scrape_interval: 5s}}\n'
            "    look_interval: 5s\n"
        )


PRODUCTION = Environment("production", stage="Production")
BY_ALIAS = Environment("production", alias="champion")
REVIEWED = Environment("production", stage="Production", review="required")
EACH_STEP = Environment("production", stage="Production", review="every_step")
STAGING = Environment("staging", alias="next", on_rollback="annotate")


class Line:
    """One process's own way to Git: it can be cut while everybody else has theirs."""

    def __init__(self, repo: FakeRepo) -> None:
        self._repo = repo
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        if self.cut:
            raise Retry("the config repo is away: no route to host")
        return getattr(self._repo, name)


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


# --- a place --------------------------------------------------------------------------------------------------------


class Place:
    """One model in one environment: its cluster, its users, and what people do there."""

    def __init__(self, world: World, environment: Environment, model: str) -> None:
        self.world, self.environment, self.model = world, environment, model
        self.route = f"/models/{model}"
        self.serve, self.metrics = world.serves[environment.name], world.prometheuses[environment.name]
        self.path = release_path(environment.name, model)
        self.requests = 0
        self.unanswered = 0
        """Requests without an answer while a stable version should have given it."""
        self.tripped = 0
        self._guard: tuple[Application, Guard] | None = None
        """That of one host replica, and the candidate it is for."""
        self._known: Release | None = None
        self._releases: list[Release] = []
        self._commits = 0

    def __repr__(self) -> str:
        return f"{self.model} ({self.environment.name})"

    # --- people ---

    def promote(self, version: int, *, archive: bool = True) -> None:
        """A person wants it served. An alias stands on one version: there `archive` says nothing."""
        registry, alias, stage = self.world.registry, self.environment.alias, self.environment.stage
        if alias:
            registry.set_alias(self.model, alias, version)
        elif stage:
            registry.transition(self.model, version, stage, archive_existing=archive)

    def archive(self, version: int) -> None:
        """A person takes it out of the trigger."""
        if not self.environment.alias:
            self.world.registry.transition(self.model, version, "Archived")
        elif self.at_trigger(version):
            self.world.registry.set_alias(self.model, self.environment.alias, None)

    def at_trigger(self, version: int) -> bool:
        shown = self.versions.get(version)
        alias = self.environment.alias
        return shown is not None and (alias in shown.aliases if alias else shown.stage == self.environment.stage)

    def ask(self, wish: Wish, version: int | None = None) -> None:
        """Raises BadInput where there is nothing to ask for."""
        repo, why = self.world.repo, "a person wants it"
        ask(repo, wish, self.model, self.environment.name, by="Ada", why=why, version=version)

    # --- readings ---

    @property
    def versions(self) -> Mapping[int, RegisteredVersion]:
        """As people see them, also while the registry answers nobody else."""
        with self.world.answering():
            return self.world.registry.snapshot([self.model]).models.get(self.model, {})

    @property
    def release(self) -> Release | None:
        return self._release_of(self.world.tip)

    @property
    def serving(self) -> Release | None:
        """What clusters know: the release, or the last one there was where somebody broke it."""
        if f"models/{self.model}.yaml" not in self.world.tip.files:
            self._known = None
        with contextlib.suppress(BadInput):
            self._known = self.release or self._known
        return self._known

    def _release_of(self, snapshot: Snapshot) -> Release | None:
        text = snapshot.files.get(self.path)
        return _read_release(text, self.path) if isinstance(text, str) else None

    def releases(self) -> list[Release]:
        """Every release that Git ever had, oldest first."""
        commits = self.world.commits()
        found = (self._release_of(commit) for commit in commits[self._commits :])
        self._releases += [release for release in found if release is not None]
        self._commits = len(commits)
        return self._releases

    def history(self) -> list[HistoryRecord]:
        folder = f"history/{self.environment.name}/{self.model}/"
        texts = [str(text) for path, text in sorted(self.world.tip.files.items()) if path.startswith(folder)]
        return sorted((_read_history(text) for text in texts), key=lambda record: record.ended_at)

    def outcomes(self) -> list[tuple[int, Outcome]]:
        return [(record.version, record.outcome) for record in self.history()]

    # --- time ---

    def fail_what_cannot_start(self) -> None:
        release = self.serving
        for application in (release.candidate, release.stable) if release else ():
            if application and not self.world.truth(application).starts:
                self.serve.failing.add(application.name(self.model))

    def users_ask(self) -> None:
        owner = self.serve.answering(self.route)
        release = self.serving
        if owner is None:
            excused = self.environment.name in self.world.emptied
            self.unanswered += REQUESTS_PER_STEP if release and release.stable and not excused else 0
            return
        self.requests += REQUESTS_PER_STEP
        told = self.serve.told(owner)
        split = told.get("split")
        host = _named(release, told)
        candidate = _named(release, split) if split else None
        if not split or (self._guard and self._guard[0] != candidate):
            self._no_guard()
        share = 0
        if split and candidate and self._takes_requests(split):
            share = round(REQUESTS_PER_STEP * split["weight_percent"] / 100)
        bad = self.world.bad_of(REQUESTS_PER_STEP - share, self._rate(host)) if host else 0
        if host:
            self.metrics.answered(self.model, host, self.world.now, good=REQUESTS_PER_STEP - share - bad, bad=bad)
        if split and candidate and host and self._takes_requests(split):
            if split["shadow"]:
                self._copied(candidate, host, bad)
            elif share:
                self._shared(candidate, host, share)
            if self.world.guards and (share or split["shadow"]):
                self._watch(candidate, host, split)

    def _shared(self, candidate: Application, host: Application, share: int) -> None:
        """The candidate's part; what it answers badly, its host answers."""
        bad = self.world.bad_of(share, self._rate(candidate))
        both = self.world.bad_of(bad, self._rate(host))
        self.metrics.answered(self.model, candidate, self.world.now, good=share - bad, bad=both, rescued=bad - both)

    def _copied(self, candidate: Application, host: Application, stable_bad: int) -> None:
        """A copy of everything that its host answered."""
        bad = self.world.bad_of(REQUESTS_PER_STEP, self._rate(candidate))
        both = min(self.world.bad_of(bad, self._rate(host)), stable_bad)
        now = self.world.now
        self.metrics.answered(self.model, candidate, now, good=REQUESTS_PER_STEP - bad, bad=bad)
        same = REQUESTS_PER_STEP - bad - stable_bad + 2 * both
        self.metrics.shadowed(
            self.model, candidate, now, same=same, candidate_bad=bad - both, stable_bad=stable_bad - both
        )

    def _rate(self, application: Application) -> float:
        return self.world.truth(application).error_rate

    def gives(self) -> bool:
        """Do users' requests, or copies, reach a candidate now?"""
        owner = self.serve.answering(self.route)
        split = self.serve.told(owner).get("split") if owner else None
        return bool(split and self._takes_requests(split) and (split["weight_percent"] or split["shadow"]))

    def _takes_requests(self, split: Mapping[str, Any]) -> bool:
        told = self.serve.told(split["application"])
        return bool(told) and not told["drain"] and not (self._guard and self._guard[1].tripped)

    # --- the guard of one host replica, which sees its part of the requests ---

    def _watch(self, candidate: Application, host: Application, split: Mapping[str, Any]) -> None:
        if split["guard"] is None:
            return
        if self._guard is None:
            self._guard = (candidate, Guard(GuardTerms(**split["guard"])))
        guard, dice = self._guard[1], self.world.random
        for _ in range(GUARDED):
            well, stable_well = dice.random() >= self._rate(candidate), dice.random() >= self._rate(host)
            guard.stable_answered(well=stable_well)
            if split["shadow"]:
                guard.both_answered(candidate_well=well, stable_well=stable_well)
            elif well or stable_well:
                guard.candidate_answered(well=well)
        if guard.tripped:
            self.tripped += 1
            requests, bad = guard.tripped.requests, guard.tripped.bad
            self.metrics.trip(candidate, self.world.now, requests=requests, bad=bad)

    def _no_guard(self) -> None:
        """Its host has no challenger any more, or another one."""
        if self._guard is not None:
            self.metrics.let_go(self._guard[0])
        self._guard = None


def _named(release: Release | None, told: Mapping[str, Any]) -> Application | None:
    """The release's application of this version and build."""
    for application in (release.stable, release.candidate) if release else ():
        if application and (application.version, application.build) == (told["version"], told["build"]):
            return application
    return None


# --- the world ------------------------------------------------------------------------------------------------------


class World:
    """Everything outside the reconciler, the reconciler, and the users."""

    def __init__(
        self,
        seed: int = 0,
        due: Callable[[str], bool] = lambda _name: False,
        *,
        models: tuple[str, ...] = (MODEL,),
        environments: tuple[Environment, ...] = (PRODUCTION,),
        guards: bool = False,
    ) -> None:
        """With `guards`, hosts have theirs."""
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.random = random.Random(seed)
        self.guards = guards
        self.models, self.environments = models, environments
        self.cpus, self.steps, self.template = dict.fromkeys(models, 1), STEPS, TEMPLATE
        forge = "forge: {kind: gitea, url: http://forge, repository: team/config}\n"
        sluice = forge if any(e.review != "none" for e in environments) else ""
        sluice += "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments:\n" + "".join(e.document for e in environments)
        self.repo = FakeRepo({"sluice.yaml": sluice, **self._documents()})
        self.forge = FakeForge(on_merge=lambda pull: self.repo.merge(pull.head))
        self.repo.on_branch = self.forge.pushed
        self.registry = FakeRegistry()
        self.serves: dict[str, Any] = {
            e.name: OperatedCluster(functools.partial(self._manifest, e.name)) if e.kuberay else FakeServe()
            for e in environments
        }
        self.prometheuses = {environment.name: FakeMetrics(BIN, began=self.now) for environment in environments}
        self.emptied: set[str] = set()
        """Environments whose Ray came back empty, and does not answer everybody yet."""
        self.places = tuple(Place(self, environment, model) for environment in environments for model in models)
        self.truths: dict[str, Truth] = {}
        self.crashes = 0
        self.on_step: Callable[[], None] = lambda: None
        """Called after every step."""
        self._due = due
        self._quiet = 0
        self._commits: list[Snapshot] = []
        self.line = Line(self.repo)
        self.reconciler = self._start()
        self.rival_line = Line(self.repo)
        self.rival: Reconciler | None = None
        """A second reconciler on the same repo, when there is one."""

    # --- people ---

    def register(self, truth: Truth = HEALTHY, model: str = MODEL) -> int:
        number = self.registry.register(model, payload=f"artifact-{len(self.truths)}")
        with self.answering():
            self.truths[self.registry.artifact(model, number).digest] = truth
        return number

    def change_settings(self, cpus: int, model: str = MODEL) -> None:
        self.cpus[model] = cpus
        self.mend()

    def change_steps(self, steps: str) -> None:
        self.steps = steps
        self.mend()

    def mend(self) -> None:
        """All documents are as they should be."""
        self.repo.person_commits({"models/aaa.yaml": None, **self._documents()})

    # --- time ---

    def pass_time(self, seconds: float) -> None:
        """Users ask, Serve works, and the reconciler looks every step; every minute where nothing has moved lately."""
        end = self.now + timedelta(seconds=seconds)
        self.step()
        while self.now < end:
            if self._quiet > QUIET_STEPS and all(p.serving and p.serving.phase is Phase.STEADY for p in self.places):
                self._go_on(min(timedelta(minutes=1), end - self.now))
            self.step()

    def step(self) -> Tick | None:
        """One step of everything."""
        before = self.repo.branch_tip, sum(len(serve.submits) for serve in self.serves.values())
        self._go_on(STEP)
        tick = self.tick()
        self._quiet += 1
        if before != (self.repo.branch_tip, sum(len(serve.submits) for serve in self.serves.values())):
            self._quiet = 0
        self.on_step()
        return tick

    def _go_on(self, duration: timedelta) -> None:
        """The world without the reconciler."""
        end = self.now + duration
        while self.now < end:
            for place in self.places:
                place.fail_what_cannot_start()
            for serve in self.serves.values():
                serve.advance()
            for place in self.places:
                place.users_ask()
            self.emptied -= {p.environment.name for p in self.places if self._all_answer(p.environment.name)}
            self.now += STEP

    def _all_answer(self, environment: str) -> bool:
        here = [p for p in self.places if p.environment.name == environment and p.serving and p.serving.stable]
        return all(p.serve.answering(p.route) for p in here)

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
            assert self.now < end, f"never reached: {[p.release for p in self.places]}"
            self.step()

    def settle(self, minutes: float = 60) -> None:
        """Everything heals, and time passes until nothing changes any more."""
        self.heal()
        end = self.now + timedelta(minutes=minutes)
        quiet = 0
        while quiet < 3 or not self.at_rest:
            assert self.now < end, f"never at rest: {[p.release for p in self.places]}"
            tick = self.step()
            waits = tick is None or any(wait.until for wait in tick.waits)  # something will move by itself, and when
            quiet = 0 if waits or not self._quiet else quiet + 1

    @property
    def at_rest(self) -> bool:
        """No rollout goes on by itself."""
        return all(p.release is not None and p.release.phase in (Phase.STEADY, Phase.PAUSED) for p in self.places)

    def heal(self) -> None:
        """No accident goes on."""
        self.repo.recover()
        self.line.cut = self.rival_line.cut = False
        self.registry.away = self.forge.away = None
        for metrics in self.prometheuses.values():
            metrics.come_back()
        for serve in self.serves.values():
            serve.away = ""

    # --- readings ---

    @property
    def tip(self) -> Snapshot:
        return self.repo.commits[self.repo.branch_tip or ""]

    def commits(self) -> list[Snapshot]:
        """Every commit of the branch, oldest first. Nobody rewrites it here."""
        new, at = [], self.repo.branch_tip
        known = self._commits[-1].hash if self._commits else None
        while at is not None and at != known:
            new.append(self.repo.commits[at])
            at = self.repo.commits[at].parent
        self._commits += reversed(new)
        return self._commits

    def truth(self, application: Application) -> Truth:
        return self.truths[application.digest]

    def bad_of(self, requests: int, rate: float) -> int:
        """How many of these fail, each by itself: the gaps between failures are geometric."""
        if rate >= 1.0:
            return requests
        bad, at = 0, 0.0
        while rate:
            at += 1 + int(math.log(1.0 - self.random.random()) / math.log(1.0 - rate))
            if at > requests:
                break
            bad += 1
        return bad

    # --- the first place, for stories of one model in one environment ---

    @property
    def _first(self) -> Place:
        return self.places[0]

    @property
    def serve(self) -> FakeServe:
        return self._first.serve

    @property
    def metrics(self) -> FakeMetrics:
        return self._first.metrics

    def replace_prometheus(self) -> None:
        """Another one takes the place of the first environment's: it knows nothing of before."""
        fresh = FakeMetrics(width=BIN)
        self.prometheuses[self._first.environment.name] = self._first.metrics = fresh

    @property
    def release(self) -> Release | None:
        return self._first.release

    @property
    def versions(self) -> Mapping[int, RegisteredVersion]:
        return self._first.versions

    @property
    def unanswered(self) -> int:
        return sum(place.unanswered for place in self.places)

    def promote(self, version: int, *, archive: bool = True) -> None:
        self._first.promote(version, archive=archive)

    def archive(self, version: int) -> None:
        self._first.archive(version)

    def ask(self, wish: Wish, version: int | None = None) -> None:
        self._first.ask(wish, version)

    def history(self) -> list[HistoryRecord]:
        return self._first.history()

    def outcomes(self) -> list[tuple[int, Outcome]]:
        return self._first.outcomes()

    # --- inside ---

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """The registry answers, whether it is away for others or not."""
        away, self.registry.away = self.registry.away, None
        yield
        self.registry.away = away

    def _documents(self) -> dict[str, str]:
        models = {f"models/{model}.yaml": MODEL_DOCUMENT % (model, self.cpus[model]) for model in self.models}
        clusters = {f"clusters/{e.name}.yaml": self.template for e in self.environments if e.kuberay}
        return {**models, **clusters, "policies/quick.yaml": POLICY % self.steps}

    def _manifest(self, environment: str) -> str | None:
        text = self.tip.files.get(ray_service_path(environment))
        return text if isinstance(text, str) else None

    def join(self) -> None:
        """A second reconciler starts beside the first."""
        self.rival = self.reconciler_on(self.rival_line)

    def _start(self) -> Reconciler:
        return self.reconciler_on(self.line)

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

        registry = Crasher(self.registry, due)
        runtimes = {f"http://{name}:8265": Crasher(serve, due) for name, serve in self.serves.items()}
        prometheuses = {f"http://{name}:9090": Crasher(metrics, due) for name, metrics in self.prometheuses.items()}
        doors = Doors(
            repo=Crasher(repo, due),
            registry=lambda _target: registry,
            runtime=lambda target: runtimes[target.dashboard],
            metrics=lambda target: prometheuses[target.url],
            forge=lambda _target: Crasher(self.forge, due),
        )
        return Reconciler(doors, VirtualClock(), built_in_documents())
