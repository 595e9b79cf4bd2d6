"""How Ray Serve gets from what was submitted to what the tip's `serve.yaml` says: make before break, submit by submit.

`converge` is asked at every look and keeps nothing in between: whatever Ray shows and whatever the tip jumped to (a
promotion, its `git revert`, a cluster that came back empty), the answer is the next whole config to submit, or why
there is none.

Rules:
1. "Differs" compares what was submitted (`deployed_app_config`), not the status: what starts or fails holds up nobody.
2. An application that is missing is added; if its route is still another's, it starts without the route.
3. A route moves in one submit, and only to an application that runs, is healthy and has its own newest config.
4. A split never puts weight, or copies, on an application that has not been ready. Weight that is already there is not
   taken back because of bad health: that is the judge's business, and a candidate without traffic could not be judged.
5. Moves toward safety (weight 0, drain) are part of the very next submit.
6. What the tip does not name serves on until the tip's applications of the same model are in place with their routes;
   then it loses its route and is drained, and when that is in place it is dropped. A candidate that the tip no longer
   names is drained at once: its host answers.
7. An application that is being deleted must be gone before its name is submitted again.
8. No config without applications is ever submitted: `PUT {"applications": []}` deletes everything.
9. A hold (`holding.py`) stays until the tip says a higher revision: one whose rollback is not in Git is no drift that
   may be repaired.
10. A front asks hosts that serve: it is added after them and told of another once that serves. A host is not dropped
   while a front may ask it (`asking.py`).

This module must not decide what should run (that is `rollout.py`) nor talk to Ray (that is `ray_cluster.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from policies.asking import asking_who_serves, is_asked, waits_for
from policies.holding import lifts
from policies.observations import ApplicationStatus, ObservedApplication, ObservedDeployment, RuntimeObservation

Config = Mapping[str, Any]

# A deployment that scales is as good as HEALTHY: every replica it has runs its config. (Serve's words.)
_SERVING_STATUSES = frozenset({"HEALTHY", "UPSCALING", "DOWNSCALING"})


@dataclasses.dataclass(frozen=True)
class Submit:
    """Submit this whole config; `reason` says what it changes."""

    config: Config
    reason: str


@dataclasses.dataclass(frozen=True)
class InPlace:
    """Ray is what the tip says."""


@dataclasses.dataclass(frozen=True)
class Waiting:
    """Everything that may be submitted is; `reason` says what is not in place yet."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Refused:
    """The tip must not be applied; a person has to act."""

    reason: str


Step = Submit | InPlace | Waiting | Refused


@dataclasses.dataclass(frozen=True)
class Ready:
    """The application runs and its deployments are healthy."""


@dataclasses.dataclass(frozen=True)
class Starting:
    """Not ready, and it may still become so."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Failed:
    """Serve gave up; `message` is what it says."""

    message: str


Readiness = Ready | Starting | Failed


def converge(desired: Config, observed: RuntimeObservation, *, expected_empty: bool = False) -> Step:
    """The next step from `observed` toward `desired` (the parsed serve.yaml).

    `expected_empty` says that Git really wants no application; then the last one is kept, drained and without a route.
    """
    if not observed.available:
        return Waiting(f"Ray cannot be seen: {observed.reason}")
    look = _Look(wanted={app["name"]: app for app in desired.get("applications") or ()}, observed=observed)
    if not look.wanted and not expected_empty:
        return Refused("serve.yaml names no application: applying it would delete everything that serves")
    coming = _next_applications(look)
    changes = tuple(_changes(look, coming))
    if changes:
        return Submit({**desired, "applications": list(coming.values())}, "; ".join(changes))
    missing = tuple(_not_in_place(look))
    return Waiting("; ".join(missing)) if missing else InPlace()


def application_in_place(desired_app: Config, observed: RuntimeObservation) -> str:
    """Empty when Ray runs exactly this application, else why not."""
    name = desired_app["name"]
    if not observed.available:
        return f"{name}: Ray cannot be seen: {observed.reason}"
    application = observed.applications.get(name)
    if application is None:
        return f"{name}: not in Ray"
    if different := differing(application.submitted, desired_app):
        return f"{name}: {', '.join(different)} not submitted yet"
    match readiness(name, observed):
        case Starting(reason) | Failed(reason):
            return f"{name}: {reason}"
        case Ready():
            return _user_configs_in_place(desired_app, application)


def differing(submitted: Config, desired: Config) -> frozenset[str]:
    """Names of the application's fields that are not the same."""
    if submitted == desired:
        return frozenset()
    has, wants = _normalised(submitted), _normalised(desired)
    return frozenset(key for key in has.keys() | wants.keys() if has.get(key) != wants.get(key))


def readiness(name: str, observed: RuntimeObservation) -> Readiness:
    """Whether the application can answer requests, by Serve's own status."""
    application = observed.applications.get(name)
    if not observed.available or application is None:
        return Starting("not in Ray" if observed.available else f"Ray cannot be seen: {observed.reason}")
    if application.status is ApplicationStatus.DEPLOY_FAILED:
        return Failed(_words(application) or "Serve could not start it and says no more")
    if application.status is not ApplicationStatus.RUNNING:
        return Starting(": ".join(filter(None, (application.status.value, _words(application)))))
    return _deployments_ready(application.deployments)


def _deployments_ready(deployments: tuple[ObservedDeployment, ...]) -> Readiness:
    if not deployments:
        return Starting("RUNNING, and Serve does not show its deployments yet")
    for deployment in deployments:
        if deployment.status not in _SERVING_STATUSES or deployment.trigger == "CONFIG_UPDATE_STARTED":
            said = f"{deployment.status} ({deployment.trigger})" if deployment.trigger else deployment.status
            return Starting(f"deployment {deployment.name} is {said}")
    return Ready()


def _user_configs_in_place(desired_app: Config, application: ObservedApplication) -> str:
    """Empty when Serve has taken over every user_config: after a PUT it shows RUNNING of the old one for a moment."""
    shown = {deployment.name: deployment.user_config for deployment in application.deployments}
    for deployment in desired_app.get("deployments") or ():
        wanted, has = deployment.get("user_config") or {}, shown.get(deployment["name"]) or {}
        if wanted.get("revision") != has.get("revision"):
            told = f"revision {has.get('revision')}, not {wanted.get('revision')}"
            return f"{application.name}: Serve shows {told}, of {deployment['name']}"
        if _plain(wanted) != _plain(has):
            return f"{application.name}: Serve shows an older user_config of {deployment['name']}"
    return ""


def _words(application: ObservedApplication) -> str:
    """What Serve says about it: a deployment's message has the traceback, the application's does not."""
    said = [d.message for d in application.deployments if d.message and d.status not in _SERVING_STATUSES]
    return "; ".join(said) or application.message


# --- one look ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Look:
    """What is wanted and what is there."""

    wanted: Mapping[str, Config]
    observed: RuntimeObservation

    @functools.cached_property
    def live(self) -> Mapping[str, ObservedApplication]:
        """What the control door may submit again: not what is being deleted, nor what `serve.run` put there by hand."""
        return {
            name: application
            for name, application in sorted(self.observed.applications.items())
            if application.submitted and application.status is not ApplicationStatus.DELETING
        }

    @functools.cached_property
    def leftover(self) -> Mapping[str, Config]:
        """What runs and is not wanted, as it was submitted."""
        return {name: a.submitted for name, a in self.live.items() if name not in self.wanted}

    @functools.cached_property
    def deleting(self) -> frozenset[str]:
        """Names that are not free yet."""
        return frozenset(n for n, a in self.observed.applications.items() if a.status is ApplicationStatus.DELETING)

    def submitted(self, name: str) -> Config:
        """What Ray was told of this application; empty when nothing."""
        application = self.live.get(name)
        return application.submitted if application else {}

    def ready(self, name: str) -> bool:
        return name in self.live and isinstance(readiness(name, self.observed), Ready)

    def serves(self, name: str) -> bool:
        """Runs and healthy, with a replica that is there: a front may ask it."""
        return self.ready(name) and all(d.replicas_running for d in self.live[name].deployments)

    def answers(self, config: Config) -> bool:
        """Runs, healthy, up to date but for its route, with a replica that is there: it can take a route."""
        name = config["name"]
        current = self.live.get(name)
        if current is None or not self.ready(name) or not all(d.replicas_running for d in current.deployments):
            return False
        return not (differing(current.submitted, config) - {"route_prefix"} or _user_configs_in_place(config, current))


def _next_applications(look: _Look) -> dict[str, Config]:
    """The applications of the next submit by name: the wanted ones in the file's order, then what is left over."""
    free = {n: app for n, app in look.wanted.items() if n not in look.deleting and not _waits_for(app, look)}
    asking = {n: asking_who_serves(app, look.submitted(n), look.live, look.serves) for n, app in free.items()}
    wanted = {name: _still_held(_without_rash_weight(app, look), look) for name, app in asking.items()}
    routes = _next_routes(wanted, look)
    coming: dict[str, Config] = {name: {**app, "route_prefix": routes[name]} for name, app in wanted.items()}
    for name, submitted in look.leftover.items():
        kept = {**submitted, "route_prefix": routes[name]}
        drained = _drained(submitted)
        if not _may_drain(kept, look):
            coming[name] = kept
        elif not _may_drop(drained, look):
            coming[name] = drained
    if not coming and look.leftover:  # rule 8
        last = min(look.leftover)
        coming[last] = _drained(look.leftover[last])
    return coming


def _waits_for(app: Config, look: _Look) -> tuple[str, ...]:
    """The hosts that this front, which is not there yet, must not be added before (rule 10)."""
    return () if app["name"] in look.live else waits_for(app, look.serves)


# --- weights ----------------------------------------------------------------------------------------------------


def _without_rash_weight(app: Config, look: _Look) -> Config:
    """The application with weight 0 and no copies wherever a split names what has not been ready (rule 4)."""
    deployments = [_gated(deployment, app["name"], look) for deployment in app.get("deployments") or ()]
    return {**app, "deployments": deployments} if deployments else app


def _gated(deployment: Config, host: str, look: _Look) -> Config:
    split = _split(deployment)
    if not _moves_traffic(split) or _may_have_traffic(split["application"], host, look):
        return deployment
    return {
        **deployment,
        "user_config": {**deployment["user_config"], "split": {**split, "weight_percent": 0, "shadow": False}},
    }


def _still_held(app: Config, look: _Look) -> Config:
    """The application with the user_config that holds it, where the tip may not lift that (rule 9)."""
    told = {d["name"]: d.get("user_config") or {} for d in look.submitted(app["name"]).get("deployments") or ()}
    deployments = [
        d if lifts(d.get("user_config") or {}, told.get(d["name"], {})) else {**d, "user_config": told[d["name"]]}
        for d in app.get("deployments") or ()
    ]
    return {**app, "deployments": deployments} if deployments else app


def _may_have_traffic(candidate: str, host: str, look: _Look) -> bool:
    if candidate not in look.wanted or candidate not in look.live:
        return False
    if look.ready(candidate):
        return True
    gone = look.live[candidate].status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.NOT_STARTED)
    return not gone and candidate in _named_with_traffic(look.submitted(host))


def _split(deployment: Config) -> Config:
    user_config = deployment.get("user_config")
    split = user_config.get("split") if isinstance(user_config, Mapping) else None
    return split if isinstance(split, Mapping) and "application" in split else {}


def _moves_traffic(split: Config) -> bool:
    return bool(split) and bool(split.get("weight_percent") or split.get("shadow"))


def _named_with_traffic(app: Config) -> frozenset[str]:
    """The applications that this one sends requests or copies to."""
    splits = (_split(deployment) for deployment in app.get("deployments") or ())
    return frozenset(split["application"] for split in splits if _moves_traffic(split))


# --- routes -----------------------------------------------------------------------------------------------------


def _next_routes(wanted: Mapping[str, Config], look: _Look) -> dict[str, str | None]:
    """The route of every application in the next submit: a wanted route that is held is never without a holder."""
    holders = {route: name for name, app in look.live.items() if (route := app.submitted.get("route_prefix"))}
    owners = {route: name for name, app in look.wanted.items() if (route := app.get("route_prefix"))}
    stay = _must_stay(holders, owners, wanted, look)
    held = {name: route for route, name in holders.items()}
    routes = {name: held[name] if name in stay else app.get("route_prefix") for name, app in wanted.items()}
    for name, route in routes.items():
        if (
            name not in stay
            and route
            and holders.get(route, name) in stay | {name}
            and holders.get(route, name) != name
        ):
            routes[name] = held[name] if name in held and held[name] not in owners else None
    for name in look.leftover:
        routes[name] = held.get(name) if name in stay or held.get(name) not in owners else None
    return routes


def _must_stay(
    holders: Mapping[str, str], owners: Mapping[str, str], wanted: Mapping[str, Config], look: _Look
) -> frozenset[str]:
    """Who must keep the route it holds, because the one that should have it cannot take it in this submit.

    One that stays cannot take another route, so its future route stays with its holder too: repeated until no more do.
    """
    stay: frozenset[str] = frozenset()
    while True:
        more = frozenset(
            holder
            for route, holder in holders.items()
            if (owner := owners.get(route)) not in (None, holder)
            and (owner in stay or owner not in wanted or not look.answers(wanted[owner]))
        )
        if more <= stay:
            return stay
        stay |= more


# --- leaving ----------------------------------------------------------------------------------------------------


def _drained(app: Config) -> Config:
    """The application without its route, refusing at once. One that takes no user_config only loses its route."""
    deployments = [
        {**d, "user_config": {**d["user_config"], "drain": True, "split": None}}
        if isinstance(d.get("user_config"), Mapping)
        else d
        for d in app.get("deployments") or ()
    ]
    return {**app, "route_prefix": None, **({"deployments": deployments} if deployments else {})}


def _may_drain(kept: Config, look: _Look) -> bool:
    """Nobody needs it any more (rule 6). It keeps its revision: hosts take an equal one, a revert may need it again."""
    if kept["route_prefix"] and kept["route_prefix"] in {app.get("route_prefix") for app in look.wanted.values()}:
        return False
    hosted = any(kept["name"] in _named_with_traffic(a.submitted) for n, a in look.live.items() if n != kept["name"])
    if hosted and not look.submitted(kept["name"]).get("route_prefix"):
        return True
    return _successors_in_place(kept, look)


def _may_drop(drained: Config, look: _Look) -> bool:
    """Drained and seen to be, or with nothing running that could be drained; and no front asks it any more."""
    application = look.live[drained["name"]]
    if is_asked(drained["name"], look.live):
        return False
    if differing(application.submitted, drained) or not _successors_in_place(drained, look):
        return False
    updating = any(d.replicas_running and d.trigger == "CONFIG_UPDATE_STARTED" for d in application.deployments)
    behind = application.status is ApplicationStatus.RUNNING and bool(_user_configs_in_place(drained, application))
    return not (updating or behind)


def _successors_in_place(leftover: Config, look: _Look) -> bool:
    """All wanted applications of the same model that have a route are in place, so nothing is sent here any more."""
    models = _models(leftover)
    successors = [a for a in look.wanted.values() if a.get("route_prefix") and _models(a) & models]
    return not any(application_in_place(app, look.observed) for app in successors)


def _models(app: Config) -> frozenset[str]:
    configs = (deployment.get("user_config") or {} for deployment in app.get("deployments") or ())
    return frozenset(config["model"] for config in configs if isinstance(config.get("model"), str))


# --- words and comparison ---------------------------------------------------------------------------------------


def _changes(look: _Look, coming: Mapping[str, Config]) -> Iterator[str]:
    """What submitting `coming` would change, in words; nothing when nothing."""
    if not coming:
        return
    for name, app in coming.items():
        if name not in look.live:
            yield f"add {name}"
        elif different := differing(look.submitted(name), app):
            verb = "drain" if name not in look.wanted and "deployments" in different else "change"
            yield f"{verb} {name} ({', '.join(sorted(different))})"
    yield from (f"drop {name}" for name in look.live if name not in coming)


def _not_in_place(look: _Look) -> Iterator[str]:
    yield from (f"{name}: is still being deleted" for name in look.wanted if name in look.deleting)
    for name, app in look.wanted.items():
        if name not in look.deleting and (missing := _waits_for(app, look)):
            yield f"{name}: is added once its members serve: {', '.join(missing)}"
        elif name not in look.deleting and (why := application_in_place(app, look.observed)):
            held = _still_held(app, look) != app
            yield f"{name}: held: it was stopped without a commit, and Git must say so first" if held else why
    for name in look.leftover:
        if look.wanted:
            yield f"{name}: not wanted, and on its way out"
        else:
            yield f"{name}: the last application is kept, drained and without a route; Ray is never sent an empty list"


def _normalised(app: Config) -> dict[str, Any]:
    """The application as comparable values: deployments by name, and an absent field the same as an empty one."""
    plain = {key: value for key, value in app.items() if value not in (None, {}, [], ())}
    plain["route_prefix"] = app.get("route_prefix", "/")  # Serve's default; null means none and is no default
    plain["deployments"] = {d["name"]: _without_nulls(d) for d in app.get("deployments") or ()}
    return {key: _plain(value) for key, value in plain.items()}


def _without_nulls(deployment: Config) -> dict[str, Any]:
    return {key: value for key, value in deployment.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
