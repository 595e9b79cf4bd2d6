"""Sluicegate and plain Ray Serve, side by side in one Ray: the same proxy, the same mode, the same limits.

Sluicegate's applications are those that the reconciler would commit (`serving_runtime/serve_config.py`), for a model
document that says nothing but its name. A state changes the host's `user_config` only, in place; the candidate's
application runs all the time, so that nothing starts between two readings.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from pipelines.ray_session import RaySession
from policies.config_repo_documents import route_of
from policies.documents import ModelDocument, RolloutPolicy
from policies.errors import Stalled
from policies.model import (
    Application,
    Objective,
    Phase,
    Release,
    Sli,
)
from policies.observations import ApplicationStatus
from policies.serving import Batching, Capture
from serving_runtime.artifact_cache import digest_of
from serving_runtime.serve_config import IMPORT_PATH, Surroundings, ToServe, render

from .matrix import BATCHED, CANARY, CAPTURE, SHADOW, STEADY
from .models import LoggedModel
from .usage import Process, own_children, trees

READY_S = 120.0
"""Three replicas that import MLflow and torch at once on two cores take a quarter of a minute."""
POLL_S = 0.1
SHARE_PERCENT = 10
CAPTURED_EVERY = timedelta(seconds=1)
"""Far more often than the default, so that a reading of some seconds has its share of writing files."""
CAPTURED_WITHIN_S = 10.0
PHASES = {CANARY: Phase.CANARY, SHADOW: Phase.SHADOW}
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
"""There so that the guard at the host works too, as it does in every rollout."""


class RaySide:
    """One Ray; serves one model at a time, on both systems. A context manager."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets its logs, and what is captured."""
        self._folder = folder
        self._session = RaySession(folder / "ray")
        self._roots: set[int] = set()
        self._revision = 0
        self._model: LoggedModel | None = None
        self._applications: tuple[str, str] = ("", "")
        self.state = STEADY

    def __enter__(self) -> Self:
        before = own_children()
        self._session.start()
        self._roots = own_children() - before
        return self

    def __exit__(self, *_: object) -> None:
        self._session.stop()

    def serve(self, model: LoggedModel) -> None:
        """Replace what is served; returns when all of it is. Raises Stalled when it does not come up."""
        self._model = model
        self.enter(STEADY)

    def enter(self, state: str) -> None:
        """Bring Sluicegate's host into a state. Returns when it has it. Raises Stalled when it does not."""
        if self._model is None:
            raise RuntimeError("nothing is served yet")
        self._revision += 1
        config = self._config(self._model, state)
        self._session.cluster.apply(config)
        deadline = time.monotonic() + READY_S
        while reason := self._missing(config):
            if time.monotonic() > deadline:
                raise Stalled(f"not within {READY_S:g} s: {reason}")
            time.sleep(POLL_S)
        self.state = state

    def captures(self, ask: Any) -> bool:
        """Is anything written in the state `capture 10`? `ask()` sends a request. Only then can its cost be read."""
        deadline = time.monotonic() + CAPTURED_WITHIN_S
        while time.monotonic() < deadline:
            ask()
            if any(self._captured.rglob("*.parquet")):
                return True
        return False

    def url(self, system: str) -> str:
        """Where a system answers."""
        if self._model is None:
            raise RuntimeError("nothing is served yet")
        if system == "sluicegate":
            return f"{self._session.http}{route_of(ModelDocument(name=self._model.name))}/invocations"
        return f"{self._session.http}/plain"

    def look(self, system: str) -> list[Process]:
        """The processes of a system: Ray's own, HAProxy's and its replicas'; not the other's replicas."""
        own = self._applications if system == "sluicegate" else ("plain",)
        replicas = tuple(f"ray::ServeReplica:{name}:" for name in own)
        return [
            process
            for process in trees(self._roots)
            if not process.title.startswith("ray::ServeReplica:") or process.title.startswith(replicas)
        ]

    @property
    def _captured(self) -> Path:
        return self._folder / "captured"

    def _config(self, model: LoggedModel, state: str) -> dict[str, Any]:
        digest = digest_of(model.folder)
        stable, candidate = (Application(version=version, digest=digest) for version in (1, 2))
        self._applications = (stable.name(model.name), candidate.name(model.name))
        release = Release(
            model=model.name,
            environment="production",
            traffic_revision=self._revision,
            phase=PHASES.get(state, Phase.WARMING),
            stable=stable,
            candidate=candidate,
            weight_percent=SHARE_PERCENT if state == CANARY else 0,
        )
        capture = Capture(share=SHARE_PERCENT / 100, to=f"file://{self._captured}", every=CAPTURED_EVERY)
        document = ModelDocument(
            name=model.name,
            capture=capture if state == CAPTURE else None,
            batching=Batching() if state == BATCHED else None,
        )
        to_serve = ToServe(release=release, model=document, policy=RolloutPolicy(name="default"), objectives=(ERRORS,))
        config = render([to_serve], Surroundings(tracking_uri=model.tracking_uri))
        return {"applications": [*config["applications"], _plain(config, model)]}

    def _missing(self, config: Mapping[str, Any]) -> str:
        """What is not in place yet; empty when all is."""
        seen = self._session.cluster.observe()
        if not seen.available:
            return seen.reason
        for application in config["applications"]:
            shown = seen.applications.get(application["name"])
            if shown is None or shown.submitted != application:
                return f"{application['name']} was not taken yet"
            if shown.status is not ApplicationStatus.RUNNING:
                return f"{application['name']} is {shown.status}: {shown.message}"
            if any(deployment.status != "HEALTHY" for deployment in shown.deployments):
                return f"{application['name']} is not healthy yet"
        return ""


def _plain(config: Mapping[str, Any], model: LoggedModel) -> dict[str, Any]:
    """Plain Ray Serve under the limits of the host."""
    host = config["applications"][0]
    if host["import_path"] != IMPORT_PATH:
        raise AssertionError("the host comes first")
    limits = {name: value for name, value in host["deployments"][0].items() if name != "user_config"}
    return {
        "name": "plain",
        "route_prefix": "/plain",
        "import_path": "benchmarks.serving_bench.plain:build",
        "args": {"folder": str(model.folder)},
        "deployments": [{**limits, "name": "Plain"}],
    }
