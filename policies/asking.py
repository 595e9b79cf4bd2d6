"""Which hosts a front asks while hosts come and go: the part of convergence that fronts need.

Rules:
1. A front is added once the hosts of all its members serve.
2. It is told of another host once that serves, and until then asks the one it had.
3. It is told of more members once they serve, and until then stays as it was: it may need all of them.
4. A host may be asked for as long as a front was told so, or a replica of a front may not have heard otherwise yet.

This module must not know where hosts come from or go to: that is `convergence.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from policies.fronts import members_of
from policies.observations import ObservedApplication

Config = Mapping[str, Any]
Serves = Callable[[str], bool]
"""Does the application of that name run, healthy, with a replica that is there?"""


def hosts_named(app: Config) -> Iterator[str]:
    """The applications that a front is told to ask; none for a version's application."""
    for deployment in app.get("deployments") or ():
        yield from (member["application"] for member in members_of(deployment.get("user_config")))


def waits_for(app: Config, serves: Serves) -> tuple[str, ...]:
    """The hosts that an application must not be added before."""
    return tuple(host for host in hosts_named(app) if not serves(host))


def asking_who_serves(app: Config, submitted: Config, live: Collection[str], serves: Serves) -> Config:
    """The application as it may be submitted now: each front told of hosts that serve, or as it was.

    `submitted` is what Ray was told of it, `live` the names that may be asked at all.
    """
    before = {d.get("name"): d.get("user_config") for d in submitted.get("deployments") or ()}
    deployments = [
        {**d, "user_config": _told(d["user_config"], before.get(d["name"]), live, serves)}
        if members_of(d.get("user_config"))
        else d
        for d in app.get("deployments") or ()
    ]
    return {**app, "deployments": deployments} if deployments else app


def _told(wanted: Config, before: object, live: Collection[str], serves: Serves) -> Config:
    """The front's user_config with each member's present host where its new one does not serve (rules 2 and 3)."""
    present = {member.get("model"): member["application"] for member in members_of(before)}
    still_there = bool(present) and all(host in live for host in present.values())
    strangers = [m["application"] for m in members_of(wanted) if m.get("model") not in present]
    if still_there and isinstance(before, Mapping) and not all(serves(host) for host in strangers):
        return before

    def host_of(member: Config) -> str:
        new: str = member["application"]
        host: str = present.get(member.get("model"), new)
        return host if host in live and not serves(new) else new

    return {**wanted, "members": [{**member, "application": host_of(member)} for member in members_of(wanted)]}


def is_asked(host: str, live: Mapping[str, ObservedApplication]) -> bool:
    """May a replica of a front still ask this application?"""
    for application in live.values():
        shown = {"deployments": [{"user_config": d.user_config} for d in application.deployments]}
        is_front = any(True for _ in hosts_named(application.submitted))
        changing = any(d.replicas_running and d.trigger == "CONFIG_UPDATE_STARTED" for d in application.deployments)
        if host in hosts_named(application.submitted) or host in hosts_named(shown) or (is_front and changing):
            return True
    return False
