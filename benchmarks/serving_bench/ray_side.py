"""Sluicegate and plain Ray Serve, side by side in one Ray: the same proxy, the same mode, the same limits.

Sluicegate's applications come from `serving_runtime/serve_config.py`, as the reconciler would render them for a model
document that says nothing but its name; a state only changes the host's `user_config`, in place.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.ray_session import RaySession
from policies.config_repo_documents import route_of
from policies.documents import ModelDocument, RolloutPolicy
from policies.errors import Stalled
from policies.model import Application, ApplicationStatus, Objective, Phase, Release, Sli
from serving_runtime.artifact_cache import digest_of
from serving_runtime.serve_config import ToServe, render

from .models import LoggedModel
from .usage import Process, own_children, trees

READY_S = 120.0
"""Five replicas that import MLflow and torch at once on two cores take half a minute."""
POLL_S = 0.1
SHARE_PERCENT = 10
CANDIDATE_TIMEOUT_S = 15.0
OBJECTIVE = Objective(name="errors", sli=Sli.ERRORS, target=0.99)


class RaySide:
    """One Ray; serves one model at a time, on both systems. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._session = RaySession(folder / "ray")
        self._revision = 0
        self._roots: set[int] = set()
        self._config: dict[str, Any] = {}
        self._host = self._candidate = ""
        self.state = "steady"

    def __enter__(self) -> RaySide:
        before = own_children()
        self._session.start()
        self._roots = own_children() - before
        return self

    def __exit__(self, *_: object) -> None:
        self._session.stop()

    def serve(self, model: LoggedModel) -> None:
        """Replace what is served; returns when all of it is."""
        digest = digest_of(model.folder)
        stable, candidate = (Application(version=version, digest=digest) for version in (1, 2))
        release = Release(
            model=model.name, environment="production", phase=Phase.WARMING, stable=stable, candidate=candidate
        )
        to_serve = ToServe(
            release=release,
            model=ModelDocument(name=model.name),
            policy=RolloutPolicy(name="default"),
            objectives=(OBJECTIVE,),
        )
        self._host, self._candidate = stable.name(model.name), candidate.name(model.name)
        self._route = route_of(to_serve.model)
        self._config = render([to_serve], tracking_uri=model.tracking_uri)
        self._config["applications"].append(_plain(self._config, model))
        self.enter("steady", {})

    def enter(self, state: str, told: Mapping[str, Any]) -> None:
        """Tell the host; `told` is merged into its `user_config`. Returns when it has it."""
        self._revision += 1
        config = copy.deepcopy(self._config)
        for application in config["applications"]:
            if application["import_path"] == "serving_runtime.app:build":
                user_config = application["deployments"][0]["user_config"]
                user_config["revision"] = self._revision
                if application["name"] == self._host:
                    user_config.update(told)
        self._session.cluster.apply(config)
        deadline = time.monotonic() + READY_S
        while reason := self._not_ready(config):
            if time.monotonic() > deadline:
                raise Stalled(f"not within {READY_S:g} s: {reason}")
            time.sleep(POLL_S)
        self.state = state

    def split(self, *, weight_percent: int, shadow: bool) -> dict[str, Any]:
        """The host's `split` with the model's candidate, under the built-in policy's guard."""
        return {
            "application": self._candidate,
            "version": 2,
            "build": self._candidate.rpartition("-")[2],
            "weight_percent": weight_percent,
            "shadow": shadow,
            "timeout_s": CANDIDATE_TIMEOUT_S,
            "max_ongoing": ModelDocument(name="any").candidate_max_ongoing,
            "guard": {"allowed": 0.01, "alpha": RolloutPolicy(name="any").guard.alpha},
        }

    def url(self, system: str) -> str:
        """Where a system answers."""
        return f"{self._session.http}{self._route}/invocations" if system == "sluicegate" else f"{self._session.http}/plain"

    def look(self, system: str) -> list[Process]:
        """The processes of a system: Ray's own, HAProxy's and its replicas'; not the other's replicas."""
        own = {"sluicegate": (self._host, self._candidate), "ray serve": ("plain",)}[system]
        replicas = tuple(f"ray::ServeReplica:{name}:" for name in own)
        return [
            process
            for process in trees(self._roots)
            if not process.title.startswith("ray::ServeReplica:") or process.title.startswith(replicas)
        ]

    def _not_ready(self, config: Mapping[str, Any]) -> str:
        seen = self._session.cluster.observe()
        if not seen.available:
            return seen.reason
        for application in config["applications"]:
            shown = seen.applications.get(application["name"])
            if shown is None or shown.submitted != application or shown.status is not ApplicationStatus.RUNNING:
                return f"{application['name']}: {shown.status if shown else 'not there'} {shown.message if shown else ''}"
            if any(deployment.status != "HEALTHY" for deployment in shown.deployments):
                return f"{application['name']} is not healthy yet"
        return ""


def _plain(config: Mapping[str, Any], model: LoggedModel) -> dict[str, Any]:
    """Plain Ray Serve under the limits of the host."""
    limits = dict(config["applications"][0]["deployments"][0])
    del limits["user_config"]
    return {
        "name": "plain",
        "route_prefix": "/plain",
        "import_path": "benchmarks.serving_bench.plain:build",
        "args": {"folder": str(model.folder)},
        "deployments": [{**limits, "name": "Plain"}],
    }
