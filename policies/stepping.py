"""Where KubeRay's operator applies what Git says: what `rayservice.yaml` says next, so that every commit of it is safe.

`serve.yaml` says where the environment is going, as everywhere. The operator would jump there in one `PUT`; so the
manifest carries the steps of `convergence.py` one by one, each computed from what Ray shows, each a commit of its own:
a `git revert` of a release's commit does not touch the manifest, and is carried out step by step like everything.

Rules:
1. A step is written once the step before it was seen to be submitted. What is applied late, or skipped, therefore
   always goes from the step before to this one, or from this one to the next.
2. One thing does not wait for that: traffic that a candidate must not get any more is taken out of the step that is on
   its way. It changes user_configs only, toward less, so it is safe from the step before and from that one.
3. The cluster's template changes alone, never together with a Serve config: while everything is in place and no rollout
   runs. It makes the operator start a whole new cluster, and until that serves nothing can be stopped in the old one.
   An upgrade that goes on does not hold it up: it may be what ends one that never would.
4. While the operator upgrades a cluster nothing but rules 2 and 3 is written, and no rollout starts or goes on.
5. A version is not to blame for a time in which nobody told Ray to start it.
6. Where nothing was submitted yet, nothing can be lost: what is on its way is not waited for.

This module must not decide what should run nor read or write anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from policies.convergence import InPlace, Refused, Step, Submit, Waiting, converge, differing
from policies.observations import ApplicationStatus, RuntimeObservation
from policies.ray_service import RayService
from policies.release import Phase, Release

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class NextManifest:
    """What the manifest says after this look: as before where `changed` is empty."""

    step: Step
    manifest: RayService | None
    changed: str = ""
    """What changes, in words."""


def next_manifest(
    desired: Config,
    written: RayService | None,
    head: Config | None,
    observed: RuntimeObservation,
    releases: Iterable[Release],
) -> NextManifest:
    """What the manifest should say for `desired`, the environment's Serve config, and where Ray is on its way there.

    `written` is the tip's manifest and `head` the template as it is now; none where there is no file.
    """
    head = head or (written.head if written else None)
    if head is None:
        return NextManifest(Refused("target is kuberay, and clusters/ has no template for this environment"), written)
    if written is None:
        return _first(desired, head, observed)
    step = _next_step(desired, written.config, observed)
    if isinstance(step, Submit):
        return NextManifest(step, RayService(written.head, step.config), step.reason)
    if written.head == head or not (isinstance(step, InPlace) or observed.upgrading):
        return NextManifest(step, written)
    if busy := _under_way(releases):
        return NextManifest(Waiting(f"the cluster's template changes once no rollout runs: {', '.join(busy)}"), written)
    changed = "the cluster's template: KubeRay starts a new cluster where its groups changed"
    return NextManifest(Submit(written.config, changed), RayService(head, written.config), changed)


def on_hold(written: RayService | None, head: Config | None, observed: RuntimeObservation, release: Release) -> str:
    """Why this release must not start or go on, beyond whether Ray matches Git; empty where nothing is against it."""
    if observed.upgrading:
        return observed.upgrading
    if release.phase is Phase.STEADY and written is not None and head is not None and written.head != head:
        return "the cluster's template changed, and goes first"
    return ""


def not_told(release: Release, slug: str, observed: RuntimeObservation) -> str:
    """Why a candidate that warms up had no chance to do so (rule 5); empty where it had."""
    if release.phase is not Phase.WARMING or release.candidate is None:
        return ""
    if observed.upgrading:
        return observed.upgrading
    name = release.candidate.name(slug)
    return "" if name in observed.applications else f"KubeRay's operator has not submitted {name} yet"


def arrived(written: Config, observed: RuntimeObservation) -> str:
    """Empty when Ray was told exactly this config, else what it was not told yet."""
    if not observed.available:
        return f"Ray cannot be seen: {observed.reason}"
    if observed.upgrading:
        return observed.upgrading
    missing = "; ".join(_not_arrived(written, observed))
    return f"the last step in rayservice.yaml has not reached Ray yet: {missing}" if missing else ""


def with_stops(written: Config, desired: Config) -> Config:
    """The config of the step that is on its way, without traffic that `desired` gives a candidate no more (rule 2)."""
    wanted = {app["name"]: app for app in desired.get("applications") or ()}
    apps = [_stopped(app, wanted.get(app["name"], {})) for app in written.get("applications") or ()]
    return {**written, "applications": apps}


# --- the steps --------------------------------------------------------------------------------------------------


def _first(desired: Config, head: Config, observed: RuntimeObservation) -> NextManifest:
    """No manifest yet: the cluster comes with the first application. What is there already is adopted as it is."""
    if not desired.get("applications"):
        return NextManifest(Waiting("the cluster comes with the first model that is promoted"), None)
    seen = observed if observed.available else RuntimeObservation(available=True)
    step = converge(desired, seen)
    if isinstance(step, Refused):
        return NextManifest(step, None)
    config = step.config if isinstance(step, Submit) else {**desired, "applications": _submitted(seen)}
    changed = step.reason if isinstance(step, Submit) else "the cluster as it is"
    return NextManifest(Submit(config, changed), RayService(head, config), changed)


def _next_step(desired: Config, written: Config, observed: RuntimeObservation) -> Step:
    if observed.available and not _submitted(observed):
        step = converge(desired, observed, expected_empty=not desired.get("applications"))
        same = isinstance(step, Submit) and step.config == written
        return Waiting(arrived(written, observed)) if same else step
    if missing := arrived(written, observed):
        safer = with_stops(written, desired)
        return Waiting(missing) if safer == written else Submit(safer, f"stop what must stop, and {missing}")
    return converge(desired, observed, expected_empty=not desired.get("applications"))


def _submitted(observed: RuntimeObservation) -> list[Config]:
    return [a.submitted for _, a in sorted(observed.applications.items()) if a.submitted]


def _not_arrived(written: Config, observed: RuntimeObservation) -> Iterator[str]:
    named = {app["name"]: app for app in written.get("applications") or ()}
    for name, app in named.items():
        there = observed.applications.get(name)
        if there is None or there.status is ApplicationStatus.DELETING:
            yield f"{name} is not there"
        elif different := differing(there.submitted, app):
            yield f"{name} ({', '.join(sorted(different))})"
    for name, application in observed.applications.items():
        if name not in named and application.submitted and application.status is not ApplicationStatus.DELETING:
            yield f"{name} is still there"


def _under_way(releases: Iterable[Release]) -> list[str]:
    return [f"{release.model} is {release.phase}" for release in releases if release.phase is not Phase.STEADY]


# --- stops ------------------------------------------------------------------------------------------------------


def _stopped(app: Config, wanted: Config) -> Config:
    told = {d["name"]: d.get("user_config") for d in wanted.get("deployments") or ()}
    deployments = [
        {**d, "user_config": told[d["name"]]} if _stops(d.get("user_config"), told.get(d["name"]), app) else d
        for d in app.get("deployments") or ()
    ]
    return {**app, "deployments": deployments} if deployments else app


def _stops(before: object, after: object, app: Config) -> bool:
    """Does the newer user_config take traffic from a candidate, and nothing from anybody who may have to answer?"""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return False
    if after.get("revision", 0) <= before.get("revision", 0) or _gives(after):
        return False
    drains = bool(after.get("drain")) and not before.get("drain")
    return _gives(before) or (drains and not app.get("route_prefix"))


def _gives(told: Config) -> bool:
    split = told.get("split")
    return isinstance(split, Mapping) and bool(split.get("weight_percent") or split.get("shadow"))
