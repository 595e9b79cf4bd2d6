"""A reconciler that is woken by webhooks and by nothing else: real Git, real MLflow, Ray and Prometheus in memory."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines.commands.listening import WebhookListener
from pipelines.defaults import built_in_documents
from pipelines.look import Doors
from pipelines.processes import free_port
from pipelines.reconciler import Reconciler, Tick
from pipelines.settings import settings
from pipelines.wiring import SystemClock
from registry_bridge.config_repo import ConfigRepo
from registry_bridge.mlflow_registry import MlflowRegistry
from tests.fakes.metrics import FakeMetrics
from tests.fakes.runtime import FakeServe

MLFLOW_SECRET, FORGE_SECRET = "mlflow-secret", "forge-secret"
SECRETS = {"SLUICE_MLFLOW_WEBHOOK_SECRET": MLFLOW_SECRET, "SLUICE_FORGE_WEBHOOK_SECRET": FORGE_SECRET}
SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
registry: {{tracking_uri: "{mlflow}"}}
environments:
  production:
    trigger: {{alias: champion}}
webhooks: {{listen: "127.0.0.1:{port}"}}
{forge}
"""
MODEL = "apiVersion: sluicegate/v1\nkind: Model\nname: {name}\n"


class OnlyWoken(SystemClock):
    """Waits for a webhook, however soon the loop would look by itself; remembers when it was woken."""

    def __init__(self) -> None:
        super().__init__()
        self.woken_at: list[float] = []

    def wait(self, duration: timedelta) -> None:
        super().wait(max(duration, timedelta(hours=1)))

    def wake(self) -> None:
        self.woken_at.append(time.monotonic())
        super().wake()


class TimedRepo:
    """The config repo; remembers when each commit was pushed."""

    def __init__(self, repo: ConfigRepo) -> None:
        self._repo = repo
        self.pushed_at: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repo, name)

    def commit(self, parent: str, changes: Mapping[str, str | None], message: str) -> str:
        made = self._repo.commit(parent, changes, message)
        self.pushed_at.append(time.monotonic())
        return made


@dataclasses.dataclass
class Loop:
    """What runs."""

    clock: OnlyWoken
    listener: WebhookListener
    port: int
    repo: TimedRepo
    ticks: list[tuple[float, Tick]] = dataclasses.field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def idle(self) -> bool:
        """Has it looked since it was woken last?"""
        return bool(self.ticks) and (not self.clock.woken_at or self.ticks[-1][0] > self.clock.woken_at[-1])


def documents(mlflow: str, port: int, models: Mapping[str, str], forge: str = "") -> dict[str, str]:
    """A config repo's files; `models` are names by file."""
    files = {f"models/{slug}.yaml": MODEL.format(name=name) for slug, name in models.items()}
    return {"sluice.yaml": SLUICE.format(mlflow=mlflow, port=port, forge=forge), **files}


@contextmanager
def running(repo: ConfigRepo, mlflow: str, port: int, scratch: Path) -> Iterator[Loop]:
    """The loop as `sluice run` has it, in a thread, after its first look."""
    scratch.mkdir(exist_ok=True)
    registry, runtime, metrics = MlflowRegistry(mlflow, scratch), FakeServe(), FakeMetrics()
    timed = TimedRepo(repo)
    doors = Doors(repo=timed, registry=lambda _: registry, runtime=lambda _: runtime, metrics=lambda _: metrics)
    clock, stopped, looked = OnlyWoken(), threading.Event(), threading.Event()
    reconciler = Reconciler(doors, clock, built_in_documents())
    said: list[str] = []
    with WebhookListener(settings(SECRETS, repo="-"), clock.wake, said.append) as listener:
        loop = Loop(clock, listener, port, timed)

        def report(tick: Tick) -> None:
            loop.ticks.append((time.monotonic(), tick))
            listener.follow(tick)
            looked.set()

        thread = threading.Thread(target=reconciler.run, args=(stopped.is_set, report))
        thread.start()
        try:
            assert looked.wait(60), "the first look"
            assert listener.port == port, (said, loop.ticks[0][1].problems)
            yield loop
        finally:
            stopped.set()
            clock.wake()
            thread.join(60)


def a_port() -> int:
    return free_port()
