"""Seconds that a config repo of many models costs: reading it, and a whole look.

    .venv/bin/python benchmarks/repo_speed.py [--models 1000] [--rounds 20]

Git is real (`pipelines/git_server.py` over HTTP); MLflow, Ray and Prometheus are in memory, as their answers are not
what is measured. Every model is STEADY. Each round changes one document and measures, one after the other:

- plain: `git fetch` of the change into a clone of its own. Nobody who reads a config repo can be faster.
- read: what `sluice run` reads of it: fetch, list, parse what changed, put it together.
- look: a whole look and what follows from it: read, decide, render, compare, commit, submit.

Every few rounds a new process reads everything for the first time: clone, list, parse. The ratios are of one round.
Writes results/repo_speed.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from seconds import summary

from pipelines.defaults import built_in_documents
from pipelines.documents_in_force import DocumentsInForce
from pipelines.git_server import HEALTH, create_repo
from pipelines.look import Doors
from pipelines.processes import LOOPBACK, ManagedProcess, answers, free_port
from pipelines.reconciler import Reconciler, Tick
from policies.application import Application, Settings
from policies.layout import release_path
from policies.release import Release
from policies.stored_documents import release_text
from registry_bridge.config_repo import ConfigRepo
from tests.fakes.metrics import FakeMetrics
from tests.fakes.registry import FakeRegistry
from tests.fakes.runtime import FakeServe

RESULTS = Path(__file__).resolve().parent / "results" / "repo_speed.json"
START_S = 30.0
SETTLE_TICKS = 200
FIRST_EVERY = 4
"""Rounds; a first read takes as long as ten others."""

SLUICE = "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments:\n  production: {trigger: {stage: Production}}\n"
MODEL = "apiVersion: sluicegate/v1\nkind: Model\nname: %s\nsettings: {cpus: 0.1}\nautoscaling: {max_replicas: %d}\n"


class SteppedClock:
    """A clock that goes on by a second with every reading: nothing waits."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def wait(self, duration: timedelta) -> None:
        self._now += duration


@dataclasses.dataclass
class Bench:
    """A config repo of many models that all serve, and a door to it for a person."""

    url: str
    folder: Path
    models: int
    registry: FakeRegistry = dataclasses.field(default_factory=FakeRegistry)
    serve: FakeServe = dataclasses.field(default_factory=FakeServe)
    metrics: FakeMetrics = dataclasses.field(default_factory=FakeMetrics)
    clock: SteppedClock = dataclasses.field(default_factory=SteppedClock)

    def __post_init__(self) -> None:
        self.person = self.door("person")
        names = [f"model-{n}" for n in range(self.models)]
        files = {"sluice.yaml": SLUICE, **{f"models/{n}.yaml": MODEL % (n, 1) for n in names}}
        for name in names:
            number = self.registry.register(name)
            self.registry.transition(name, number, "Production")
            files[release_path("production", name)] = release_text(self.steady(name, number))
        self.person.start(files, "Many models")
        reconciler = self.reconciler("builder")
        for _ in range(SETTLE_TICKS):
            tick = reconciler.tick()
            self.serve.settle()
            if tick.plan is not None and not tick.plan.moves and not tick.submitted and not tick.problems:
                return
        raise SystemExit(f"the models do not come to rest: {tick.problems[:3]} {tick.waits[:3]}")

    def steady(self, name: str, number: int) -> Release:
        artifact = self.registry.artifact(name, number)
        stable = Application(version=number, digest=artifact.digest, settings=Settings(cpus=0.1))
        return Release(model=name, environment="production", stable=stable, seen=(number,), revision=1)

    def door(self, cache: str) -> ConfigRepo:
        return ConfigRepo(self.url, "main", self.folder / cache)

    def reconciler(self, cache: str) -> Reconciler:
        doors = Doors(
            repo=self.door(cache),
            registry=lambda _: self.registry,
            runtime=lambda _: self.serve,
            metrics=lambda _: self.metrics,
        )
        return Reconciler(doors, self.clock, built_in_documents())

    def change_one(self, n: int) -> None:
        """A person gives one model another number of replicas."""
        tip = self.person.read().commit
        self.person.commit(tip, {"models/model-7.yaml": MODEL % ("model-7", n)}, "More replicas")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        server, url = git_server(Path(folder))
        try:
            bench = Bench(url, Path(folder), arguments.models)
            figures = measure(bench, arguments.rounds)
        finally:
            server.stop()
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def git_server(folder: Path) -> tuple[ManagedProcess, str]:
    root, port = folder / "repos", free_port()
    create_repo(root, "config")
    command = [sys.executable, "-m", "pipelines.git_server", "--root", str(root), "--port", str(port)]
    server = ManagedProcess("git server", command, folder / "git.log", cwd=Path(__file__).resolve().parents[1]).start()
    address = f"http://{LOOPBACK}:{port}"
    server.wait_until(lambda: answers(address + HEALTH), "answering", START_S)
    return server, f"{address}/config.git"


def measure(bench: Bench, rounds: int) -> dict[str, object]:
    """Rounds of one change each; the processes that read are warm, but for those of `first`."""
    reconciler, door = bench.reconciler("measured"), bench.door("read")
    documents = DocumentsInForce(door, built_in_documents())
    plain = bench.folder / "plain"
    git("clone", "--quiet", "--bare", "--depth=1", bench.url, str(plain))
    documents.of(door.read())
    reconciler.tick()
    taken: dict[str, list[float]] = {name: [] for name in ("first", "plain", "read", "look", "unchanged")}
    for n in range(rounds):
        taken["unchanged"].append(seconds(lambda: look(reconciler)))
        bench.change_one(2 + n)
        if n % FIRST_EVERY == 0:
            taken["first"].append(seconds_of_a_new_process(bench, n))
        both = {
            "plain": lambda: git("-C", str(plain), "fetch", "--quiet", "origin", "main"),
            "read": lambda: documents.of(door.read()),
        }
        for name in sorted(both, reverse=n % 2 == 0):  # who is first finds the server's files cold
            taken[name].append(seconds(both[name]))
        taken["look"].append(seconds(lambda: look(reconciler)))
        bench.serve.settle()
        while reconciler.tick().submitted:
            bench.serve.settle()
    reads = taken["read"][::FIRST_EVERY]
    return {
        "models": bench.models,
        "rounds": rounds,
        "first_read_s": summary(taken["first"]),
        "plain_git_fetch_of_a_change_s": summary(taken["plain"]),
        "read_after_a_change_s": summary(taken["read"]),
        "look_without_a_change_s": summary(taken["unchanged"]),
        "look_after_a_change_s": summary(taken["look"]),
        "read_over_plain_git_fetch": summary([r / p for r, p in zip(taken["read"], taken["plain"], strict=True)]),
        "first_read_over_read": summary([f / r for f, r in zip(taken["first"], reads, strict=True)]),
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def seconds_of_a_new_process(bench: Bench, n: int) -> float:
    """Without its imports: they are the same for one model."""
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from registry_bridge.config_repo import ConfigRepo\n"
        "from pipelines.defaults import built_in_documents\n"
        "from pipelines.documents_in_force import DocumentsInForce\n"
        "started = time.perf_counter(); door = ConfigRepo(sys.argv[1], 'main', Path(sys.argv[2]))\n"
        "DocumentsInForce(door, built_in_documents()).of(door.read()); print(time.perf_counter() - started)\n"
    )
    arguments = [bench.url, str(bench.folder / f"first-{n}"), str(Path(__file__).resolve().parents[1])]
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout)


def look(reconciler: Reconciler) -> None:
    tick: Tick = reconciler.tick()
    if tick.problems:
        raise SystemExit("; ".join(tick.problems))


if __name__ == "__main__":
    main()
