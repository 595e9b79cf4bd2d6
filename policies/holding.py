"""Holds: a candidate that is stopped in Ray without a commit, and how everybody reads later that it was.

Git that cannot be reached never keeps a failing candidate in traffic. The stop is then told to Ray alone; what Ray
shows of it is the only record until Git answers, and the next decision of whoever sees it is the rollback.

Rules:
1. A hold changes two user_configs and nothing else: the host gives its candidate nothing, and the candidate drains.
2. Only what a host gives requests or copies is held. Without a host nobody could answer in the candidate's place; and a
   candidate that has the route itself (an emergency: stable fails) would lose requests without a swap, step by step.
3. Whoever has not seen Git's tip for a while holds only what Ray was told by the tip it knows: where Ray knows a higher
   revision, somebody who has Git went on, and knows better.
4. A hold is lifted by a higher revision only. Every release that is written by somebody who saw the hold has one, and
   what is decided on seeing a hold is a rollback (`noticing.py`).

This module must not decide that something is to be stopped: that is `rollout.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from policies.observations import ApplicationStatus, RuntimeObservation
from policies.release import Cause, CauseKind, Release

Config = Mapping[str, Any]

# A second reconciler that has Git may have a submit under way, decided before it could see the hold. A rollout takes
# about twenty revisions: none that did not know of the hold can be taken by the hosts for a newer one.
LEAD = 100
# Reasons that a hold carries. A verdict has one for each objective, and a service has two or three of these.
REASONS_LIMIT = 8

_UNEXPLAINED = "stopped without a commit, by somebody who left no reason"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """A rollout that is to stop, as it was decided without a commit."""

    slug: str
    release: Release
    """As it is in the tip that is known."""
    cause: Cause
    at: datetime

    @property
    def subject(self) -> str:
        """`fraud (production): v2`."""
        version = f"v{self.release.candidate.version}" if self.release.candidate else "the candidate"
        return f"{self.release.model} ({self.release.environment}): {version}"


# --- stopping ---------------------------------------------------------------------------------------------------


def has_traffic(release: Release, slug: str, observed: RuntimeObservation) -> bool:
    """Was a host told to give this candidate requests or copies?"""
    return any(gives for _, gives in _splits_to(release, slug, observed))


def why_not(stop: Stop, observed: RuntimeObservation) -> str:
    """Why this rollout cannot be stopped without a commit; empty when it can."""
    if not observed.available:
        return f"Ray cannot be seen: {observed.reason}"
    if stop.release.stable is None:
        return "it has no stable version that could answer in its place"
    guest = stop.release.candidate.name(stop.slug) if stop.release.candidate else ""
    if guest in observed.applications and observed.applications[guest].submitted.get("route_prefix"):
        return "it has the route itself, which only a commit moves"
    known = known_revision(stop.slug, observed)
    if known > stop.release.traffic_revision and held(stop.release, stop.slug, observed) is None:
        return (
            f"Ray was told revision {known}, the tip that is known here says {stop.release.traffic_revision}: "
            "somebody who has Git went on"
        )
    return ""


def with_holds(stops: Iterable[Stop], observed: RuntimeObservation) -> dict[str, Any]:
    """What Ray shows as a whole config to submit, with these rollouts held and everything else as it is."""
    live = {
        name: application.submitted
        for name, application in sorted(observed.applications.items())
        if application.submitted and application.status is not ApplicationStatus.DELETING
    }
    for stop in stops:
        live |= dict(_held(stop, live, known_revision(stop.slug, observed)))
    return {"applications": list(live.values())}


def _held(stop: Stop, live: Mapping[str, Config], known: int) -> Iterator[tuple[str, Config]]:
    """The applications of this rollout that change."""
    candidate, stable = stop.release.candidate, stop.release.stable
    if candidate is None or stable is None:
        return
    mark = {
        "revision": max(known, stop.release.traffic_revision) + LEAD,
        "hold": True,
        "held": {
            "rollout": stop.release.rollout.id if stop.release.rollout else "",
            "cause": stop.cause.kind.value,
            "reasons": list(stop.cause.reasons[:REASONS_LIMIT]),
            "at": stop.at.isoformat(timespec="seconds"),
        },
    }
    host, guest = stable.name(stop.slug), candidate.name(stop.slug)
    if host in live:
        yield host, _told(live[host], lambda told: {**told, **mark, "split": _nothing(told.get("split"))})
    if guest in live:
        yield guest, _told(live[guest], lambda told: {**told, **mark, "drain": True})


def _nothing(split: object) -> Config | None:
    """The same challenger, without its share: it stays named, so that the hold says whose it is."""
    return {**split, "weight_percent": 0, "shadow": False} if isinstance(split, Mapping) else None


def _told(app: Config, change: Any) -> Config:
    deployments = [
        {**d, "user_config": change(d["user_config"])} if isinstance(d.get("user_config"), Mapping) else d
        for d in app.get("deployments") or ()
    ]
    return {**app, "deployments": deployments}


# --- reading ----------------------------------------------------------------------------------------------------


def held(release: Release, slug: str, observed: RuntimeObservation) -> Cause | None:
    """Why this release's candidate is held in Ray, as whoever held it said; none where it is not.

    A hold of another rollout says nothing about this one.
    """
    if release.candidate is None:
        return None
    name = release.candidate.name(slug)
    for application in observed.applications.values():
        for told in _user_configs(application.submitted):
            its = application.name == name or _split(told).get("application") == name
            if its and told.get("hold") is True and _of_rollout(told, release):
                return _cause(told)
    return None


def lifts(desired: Config, submitted: Config) -> bool:
    """May this user_config replace that one? A hold is lifted by a higher revision only (rule 4)."""
    return submitted.get("hold") is not True or _revision(desired) > _revision(submitted)


def holds(observed: RuntimeObservation) -> frozenset[tuple[str, int]]:
    """Every hold that Ray shows: application and revision."""
    return frozenset(
        (name, _revision(told))
        for name, application in observed.applications.items()
        for told in _user_configs(application.submitted)
        if told.get("hold") is True
    )


def known_revision(slug: str, observed: RuntimeObservation) -> int:
    """The highest revision that was submitted for this model; 0 when none is seen."""
    return known_revisions(observed).get(slug, 0)


def known_revisions(observed: RuntimeObservation) -> Mapping[str, int]:
    """The same of every model that is seen, by slug."""
    known: dict[str, int] = {}
    for application in observed.applications.values():
        for told in _user_configs(application.submitted):
            model = told.get("model")
            if isinstance(model, str):
                known[model] = max(known.get(model, 0), _revision(told))
    return known


def models_held(observed: RuntimeObservation) -> frozenset[str]:
    """The models, by slug, of which something is held."""
    every = (told for application in observed.applications.values() for told in _user_configs(application.submitted))
    return frozenset(told["model"] for told in every if told.get("hold") is True and isinstance(told.get("model"), str))


def _of_rollout(told: Config, release: Release) -> bool:
    rollout = _mark(told).get("rollout")
    return not rollout or release.rollout is None or rollout == release.rollout.id


def _cause(told: Config) -> Cause:
    mark = _mark(told)
    kinds = [kind for kind in CauseKind if kind.value == mark.get("cause")]
    reasons = mark.get("reasons")
    said = tuple(str(r) for r in reasons) if isinstance(reasons, list) else ()
    when = f"stopped at {mark['at']} without a commit" if mark.get("at") else _UNEXPLAINED
    return Cause(kind=kinds[0] if kinds else CauseKind.FAILED, reasons=(when, *said[:REASONS_LIMIT]))


def _mark(told: Config) -> Config:
    mark = told.get("held")
    return mark if isinstance(mark, Mapping) else {}


def _splits_to(release: Release, slug: str, observed: RuntimeObservation) -> Iterator[tuple[str, bool]]:
    """The applications whose split names this release's candidate, and whether it gives it anything."""
    name = release.candidate.name(slug) if release.candidate else None
    for application in observed.applications.values():
        for told in _user_configs(application.submitted):
            split = _split(told)
            if name is not None and split.get("application") == name:
                yield application.name, bool(split.get("weight_percent") or split.get("shadow"))


def _user_configs(app: Config) -> Iterator[Config]:
    told = (deployment.get("user_config") for deployment in app.get("deployments") or ())
    return (config for config in told if isinstance(config, Mapping))


def _split(told: Config) -> Config:
    split = told.get("split")
    return split if isinstance(split, Mapping) else {}


def _revision(told: Config) -> int:
    revision = told.get("revision")
    return revision if isinstance(revision, int) else 0
