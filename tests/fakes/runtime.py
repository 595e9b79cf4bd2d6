"""An in-memory Ray Serve behind the `Runtime` port: it takes a config at once and gets there step by step.

Like the real one: a PUT returns at once and what is left out is deleted; user_config, scaling, routes change in place;
args, import path, runtime environment and actor options restart with a surge; an application that cannot start ends in
DEPLOY_FAILED with a traceback and touches no neighbour; one that is being deleted drains first, and its name cannot
come back before; requests are answered by the owner of the longest route, or 404.

What was submitted is kept as it was given, for good: nobody may change it.

Nothing happens by itself: `advance()` is one step of Serve's own time, for all or for one application. With
`advance_on_observe=True` each look is such a step.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from policies.capacity import Capacity, Node, added, times
from policies.errors import Retry, Stalled
from policies.impact import Effect, impact
from policies.observations import ApplicationStatus, ObservedApplication, ObservedDeployment, RuntimeObservation

START_STEPS = 3
"""From the PUT to RUNNING, unless `start_steps` says otherwise for the application."""


@dataclasses.dataclass
class _Application:
    """One application as this Serve has it."""

    submitted: dict[str, Any]
    status: ApplicationStatus = ApplicationStatus.DEPLOYING
    steps_left: int = START_STEPS
    starting: bool = True
    """Its newest code has not run yet."""
    running: bool = False
    """It has a replica that answers, of this code or, during a restart, of the one before."""
    told: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """What each deployment's replicas have as their user_config."""
    message: str = ""


class FakeServe:
    """A `Runtime` without Ray."""

    def __init__(self, *, advance_on_observe: bool = False) -> None:
        self.advance_on_observe = advance_on_observe
        self.has: Mapping[str, float] = {"CPU": 16.0}
        """What its node has."""
        self.away = ""
        """Why Ray does not answer; empty while it does."""
        self.failing: set[str] = set()
        """Names of applications that cannot start."""
        self.start_steps: dict[str, int] = {}
        self.submits: list[dict[str, Any]] = []
        """Every config that was taken, oldest first."""
        self._apps: dict[str, _Application] = {}
        self._routes: dict[str, str] = {}

    # --- the port ---

    def observe(self) -> RuntimeObservation:
        """What runs, and what was submitted."""
        if self.away:
            return RuntimeObservation(available=False, reason=self.away)
        if self.advance_on_observe:
            self.advance()
        shown = {name: _shown(name, app) for name, app in sorted(self._apps.items())}
        return RuntimeObservation(available=True, applications=shown)

    def apply(self, config: Mapping[str, Any]) -> None:
        """Take the whole config. Raises Retry while away, Stalled for an empty or invalid one."""
        if not config.get("applications"):
            raise Stalled("a Serve config without applications is never submitted: Ray would delete everything")
        if self.away:
            raise Retry(self.away)
        wanted: dict[str, dict[str, Any]] = {app["name"]: json.loads(json.dumps(app)) for app in config["applications"]}
        _refuse_what_serve_refuses(config["applications"], wanted)
        self._refuse_what_is_being_deleted(wanted)
        self.submits.append({"applications": list(wanted.values())})
        for name in [name for name in self._apps if name not in wanted]:
            self._delete(name)
        for name, app in wanted.items():
            self._deploy(name, app)
        self._routes = {route: name for name, app in wanted.items() if (route := app.get("route_prefix", "/"))}

    def capacity(self) -> Capacity:
        """One node, on which every application that is not gone reserves its `min_replicas`. Raises Retry."""
        if self.away:
            raise Retry(self.away)
        running = {"applications": [app.submitted for app in self._apps.values()]}
        reserved = impact({}, running, None).reserved.after
        return Capacity(nodes=(Node(total=self.has, free=added(self.has, times(reserved, -1))),))

    # --- what a test does to it ---

    def advance(self, name: str | None = None) -> None:
        """One step of Serve's time, for one application or for all."""
        for each in [name] if name else list(self._apps):
            if each in self._apps:
                self._step(each)

    def settle(self) -> None:
        """Everything that goes on comes to its end."""
        while any(app.steps_left for app in self._apps.values()):
            self.advance()

    def kill_replicas(self, name: str) -> None:
        """All replicas of one application die; Serve starts them again, without noticing at once."""
        self._apps[name].running = False
        self._apps[name].steps_left = max(self._apps[name].steps_left, 1)

    def restart_empty(self) -> None:
        """The head was replaced: nothing is left."""
        self._apps.clear()
        self._routes.clear()

    def answering(self, route: str) -> str | None:
        """The application that answers a request to `route`; None is a 404 or 503."""
        name = self._routes.get(route)
        return name if name is not None and name in self._apps and self._apps[name].running else None

    def restarting(self, name: str) -> bool:
        """Is its newest code still to run?"""
        return self._apps[name].starting

    def told(self, name: str) -> Mapping[str, Any]:
        """The user_config that the replicas of one application have now; empty when none run."""
        app = self._apps.get(name)
        return next(iter(app.told.values()), {}) if app and app.running else {}

    # --- Serve's own doing ---

    def _refuse_what_is_being_deleted(self, wanted: Mapping[str, Any]) -> None:
        """Stricter than Serve, on purpose: what it does then depends on how far the deletion is."""
        for name, app in self._apps.items():
            if name in wanted and app.status is ApplicationStatus.DELETING:
                raise Stalled(f"{name} is still being deleted")

    def _delete(self, name: str) -> None:
        app = self._apps[name]
        if app.status is not ApplicationStatus.DELETING:
            app.status, app.steps_left = ApplicationStatus.DELETING, 2

    def _deploy(self, name: str, wanted: dict[str, Any]) -> None:
        app = self._apps.get(name)
        if app is None:
            self._apps[name] = _Application(wanted, steps_left=self.start_steps.get(name, START_STEPS))
        elif app.submitted != wanted:
            restarts = _restarts(app.submitted, wanted)
            app.starting = app.starting or restarts
            app.submitted, app.status, app.message = wanted, ApplicationStatus.DEPLOYING, ""
            app.steps_left = self.start_steps.get(name, START_STEPS) if restarts or not app.running else 1

    def _step(self, name: str) -> None:
        app = self._apps[name]
        if not app.steps_left:
            return
        app.steps_left -= 1
        if app.steps_left:
            return
        if app.status is ApplicationStatus.DELETING:
            del self._apps[name]
        elif name in self.failing and (app.starting or not app.running):
            app.status = ApplicationStatus.DEPLOY_FAILED if app.starting else ApplicationStatus.UNHEALTHY
            app.message = f"RuntimeError: {name} cannot start"
        else:
            known = {} if app.starting or not app.running else app.told
            app.told = {name: _newer(known.get(name, {}), told) for name, told in _user_configs(app.submitted).items()}
            app.status, app.starting, app.running, app.message = ApplicationStatus.RUNNING, False, True, ""


def _refuse_what_serve_refuses(given: Any, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    routes = [route for app in wanted.values() if (route := app.get("route_prefix", "/"))]
    if len(set(routes)) != len(routes) or len(given) != len(wanted):
        raise Stalled(f"Serve refuses (400): names and routes must be unique: {sorted(wanted)}, {sorted(routes)}")
    missing = [name for name, app in wanted.items() if "import_path" not in app]
    if missing:
        raise Stalled(f"Serve refuses (400): import_path: Field required: {missing}")


def _restarts(submitted: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """By the table that is held against a real Serve."""
    before, after = {"applications": [submitted]}, {"applications": [wanted]}
    return any(Effect.RESTARTS in each.effects for each in impact(before, after, None).deployments)


def _user_configs(app: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {d["name"]: d.get("user_config") or {} for d in app.get("deployments") or ()}


def _newer(has: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """A replica that runs ignores a lower revision than it has."""
    return has if told.get("revision", 0) < has.get("revision", 0) else told


def _shown(name: str, app: _Application) -> ObservedApplication:
    return ObservedApplication(
        name=name,
        status=app.status,
        submitted=app.submitted,
        message=app.message,
        deployments=tuple(_shown_deployment(d, app) for d in app.submitted.get("deployments") or ()),
    )


def _shown_deployment(deployment: Mapping[str, Any], app: _Application) -> ObservedDeployment:
    """Serve shows the target user_config, whatever the replicas have by now."""
    words = {
        ApplicationStatus.RUNNING: ("HEALTHY", "CONFIG_UPDATE_COMPLETED"),
        ApplicationStatus.DEPLOY_FAILED: ("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED"),
        ApplicationStatus.UNHEALTHY: ("UNHEALTHY", "HEALTH_CHECK_FAILED"),
        ApplicationStatus.DELETING: ("UPDATING", "DELETING"),
    }
    status, trigger = words.get(app.status, ("UPDATING", "CONFIG_UPDATE_STARTED"))
    return ObservedDeployment(
        name=deployment["name"],
        status=status,
        trigger=trigger,
        message=app.message,
        user_config=deployment.get("user_config") or {},
        replicas_running=int(app.running),
    )
