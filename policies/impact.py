"""What a change of the rendered Serve config does to what serves, deployment by deployment.

`impact` compares two Serve configs (the parsed `serve.yaml` before and after) and says for each deployment that
differs: what stays as it is and is told in place, what restarts its replicas and whether requests would stall
meanwhile, what starts, what stops, what moves traffic; and what it reserves before, meanwhile and after, against what
the cluster has.

This module must not know documents, nor which config comes next: `pipelines/commands/impact.py` renders both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from policies.capacity import Amounts, Capacity

Config = Mapping[str, Any]


class Effect(StrEnum):
    """What a change does to the replicas of one deployment. The value is its word in comments and tables."""

    IN_PLACE = "in place"
    """Replicas stay; they are told while they serve."""
    RESTARTS = "restarts"
    """Every replica is replaced."""
    STARTS = "starts"
    """It is not there before."""
    STOPS = "stops"
    """It is not there after."""
    MOVES_TRAFFIC = "moves traffic"
    """Requests, or copies of them, go to another version than before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One field that differs."""

    field: str
    """Where it stands in the application of the Serve config: `args.features`, `Model.user_config.batching`; empty for
    an application that starts or stops as a whole."""
    effect: Effect
    why: str
    """What makes it so, in words."""
    before: Any = None
    after: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stall:
    """Whether requests would wait or fail while it is carried out."""

    stalls: bool
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reserved:
    """What a deployment's replicas reserve together."""

    before: Amounts
    """At `min_replicas`, as the other two."""
    meanwhile: Amounts
    """At most, while old and new run side by side."""
    after: Amounts
    at_most: Amounts
    """After, with `max_replicas`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeploymentImpact:
    """One deployment that differs."""

    application: str
    deployment: str
    model: str
    """The slug of the model that it is a version of, or the name of the front."""
    changes: tuple[Change, ...]
    stall: Stall
    reserved: Reserved
    replaces: str = ""
    """For one that starts: the application of the same model that stops once it has proved itself."""

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Each once, in the order of `Effect`."""
        return tuple(effect for effect in Effect if any(change.effect is effect for change in self.changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impact:
    """What a change of the Serve config does."""

    deployments: tuple[DeploymentImpact, ...]
    """Those that differ, in the order of the config."""
    reserved: Reserved
    """Of all deployments, those that do not differ included."""
    capacity: Capacity | None
    """None: nobody knows what the cluster has."""
    shortage: tuple[str, ...] = ()
    """What the cluster does not have, in words; empty where all fits, or nobody knows."""

    @property
    def extra_meanwhile(self) -> Amounts:
        """What is reserved in addition while it is carried out, at most."""
        raise NotImplementedError

    @property
    def extra_after(self) -> Amounts:
        """What is reserved in addition when it is done; below 0 where less."""
        raise NotImplementedError


def impact(before: Config, after: Config, capacity: Capacity | None) -> Impact:
    """What going from one Serve config to the other does. `capacity` is what the cluster has, None where unknown."""
    raise NotImplementedError
