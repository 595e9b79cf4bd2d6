"""Seconds that a config repo of many models costs: the first look, a look at nothing new, one after one file changed.

    .venv/bin/python benchmarks/repo_speed.py [--models 1000] [--looks 20]

Git is real (`pipelines/git_server.py` over HTTP); MLflow, Ray and Prometheus are in memory, as their answers are not
what is measured. Every model is STEADY. A look is what `sluice run` does every 15 s: read, decide, render, compare.
Writes results/repo_speed.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.defaults import built_in_documents
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
    parser.add_argument("--looks", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        server, url = git_server(Path(folder))
        try:
            bench = Bench(url, Path(folder), arguments.models)
            figures = measure(bench, arguments.looks)
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


def measure(bench: Bench, looks: int) -> dict[str, object]:
    """The first look is a process's own: everything is parsed that no look of this process remembers."""
    first = seconds_of_a_new_process(bench)
    reconciler, door = bench.reconciler("measured"), bench.door("read")
    read(door)
    reconciler.tick()
    unchanged, changed, reads = [], [], []
    for n in range(looks):
        unchanged.append(look(reconciler))
        bench.change_one(2 + n)
        reads.append(read(door))
        changed.append(look(reconciler))
        bench.serve.settle()
        while reconciler.tick().submitted:
            bench.serve.settle()
    return {
        "models": bench.models,
        "first_look_s": first,
        "look_without_a_change_s": summary(unchanged),
        "read_after_one_file_changed_s": summary(reads),
        "look_after_one_file_changed_s": summary(changed),
    }


def seconds_of_a_new_process(bench: Bench) -> float:
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from registry_bridge.config_repo import ConfigRepo\n"
        "from pipelines.defaults import built_in_documents\n"
        "from pipelines.documents_in_force import DocumentsInForce\n"
        "started = time.perf_counter(); door = ConfigRepo(sys.argv[1], 'main', Path(sys.argv[2]))\n"
        "DocumentsInForce(door, built_in_documents()).of(door.read()); print(time.perf_counter() - started)\n"
    )
    arguments = [bench.url, str(bench.folder / "first"), str(Path(__file__).resolve().parents[1])]
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    return round(float(done.stdout), 2)


def look(reconciler: Reconciler) -> float:
    started = time.perf_counter()
    tick: Tick = reconciler.tick()
    took = time.perf_counter() - started
    if tick.problems:
        raise SystemExit("; ".join(tick.problems))
    return took


def read(door: ConfigRepo) -> float:
    started = time.perf_counter()
    door.read()
    return time.perf_counter() - started


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"n": len(values), "median": round(statistics.median(values), 3), "p95": round(p95, 3)}


if __name__ == "__main__":
    main()
