"""Fronts: applications without a release of their own that stand before the models' hosts and ask them.

A front is rendered from a document and from the releases of its members. Which application hosts a member is part of
its `user_config`, so that a promotion changes it in place, in the submit that swaps the routes. There are two kinds: an
ensemble (`ensembles/<name>.yaml`) and the entry for gRPC (`grpc` of an environment in `sluice.yaml`).

Rules:
- A front's application has one name for ever: what changes restarts its replicas one after the other, each with its
  successor first, and the rest changes in place. What it computes is not judged: its members are, each by itself.
- A front has models as members and no fronts: nothing can go round in circles.
- No name of a front can be the name of a version's application, which ends in `--v<version>-<build>`.

This module must not know how a front answers: that is `serving_runtime/front.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.application import Settings
from policies.documents import Autoscaling, GrpcEntry, check_request_times
from policies.durations import Duration, format_duration
from policies.serving import EntryPoint, Scalar
from policies.wrong_fields import WrongFields

Config = Mapping[str, Any]

GRPC_APPLICATION = "sluice-grpc"
"""What gRPC clients write as the metadata `application`: Serve finds an application by that."""
GRPC_ROUTE = "/grpc"
"""Serve's proxy forwards gRPC only to applications that have a route. There is nothing to be had on it."""

# Each member is asked at once: an ensemble of more is a model to be trained, and one request would be twenty.
MOST_MEMBERS = 20
MEMBER_SHARE_OF_TIMEOUT = 0.8
"""Of the request's time a member may use this much: the rest is for combining what the others said."""
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@document(frozen=True, kw_only=True, config=_STRICT)
class EnsembleDocument:
    """`ensembles/<name>.yaml`: several models behind one route, their predictions combined; each has its own release.

    It answers MLflow's scoring protocol and the Open Inference Protocol. Every member is sent the request as it came,
    and answers as it would answer a user: split, fallback and counts included.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=40)]
    """Its name in files and in Ray; also that of the file."""
    route: Annotated[str, Field(pattern=r"^/[a-z0-9]([a-z0-9._/-]*[a-z0-9])?$", max_length=200)] | None = None
    """Where it is reached; none means /ensembles/<name>."""
    environments: tuple[str, ...] | None = None
    """The environments that serve it; none means all. Its members must be served there."""
    members: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_MEMBERS)]
    """Registered models by name. Each has a model document."""
    combine: Literal["mean", "median", "vote", "first"] | EntryPoint = "mean"
    """How predictions become one: mean, median, vote, first, or a function of yours as module:function."""
    options: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    """What the function is told beside the predictions; for mean and vote each member's weight, 1 where none is
    written."""
    on_failure: Literal["fail", "leave_out"] = "fail"
    """When a member does not answer well: the ensemble does not either, or the member is left out."""
    minimum: Annotated[int, Field(ge=1, le=MOST_MEMBERS)] = 1
    """With leave_out: members that must answer well; with fail it is not read, and all must."""
    request_timeout: Duration = timedelta(seconds=30)
    """After this an answer is a failure."""
    member_timeout: Duration | None = None
    """After this a member counts as failed; none means 80 % of request_timeout."""
    graceful_shutdown: Duration = timedelta(seconds=40)
    """How long a replica that is going away may finish its requests; must be above request_timeout."""
    settings: Settings = dataclasses.field(default_factory=lambda: Settings(cpus=0.5))
    """What its replicas reserve; they wait for members most of the time. A change restarts them one by one."""
    autoscaling: Autoscaling = dataclasses.field(default_factory=Autoscaling)
    max_ongoing_requests: Annotated[int, Field(ge=1, le=10000)] = 64
    """Requests in progress that one replica takes at most."""

    def __post_init__(self) -> None:
        """Raises ValueError where it could never answer, or would lose requests when it is replaced."""
        check_request_times(self.request_timeout, self.graceful_shutdown)
        if self.member_timeout is not None and not timedelta() < self.member_timeout < self.request_timeout:
            member, request = format_duration(self.member_timeout), format_duration(self.request_timeout)
            message = f"member_timeout {member} is not above 0s and below request_timeout {request}"
            raise WrongFields(f"{message}: a slow member would never be left out", "member_timeout")
        for i, name in enumerate(self.members):
            if name in self.members[:i]:
                message = f"members has a model twice, {name[:80]!r}: give it weight in options instead"
                raise WrongFields(message, ("members", i))
        self._check_options()
        if self.settings.features is not None:
            message = "features are looked up by models: write them into the members' documents"
            raise WrongFields(message, ("settings", "features"))
        if self.minimum > len(self.members):
            raise WrongFields(f"minimum {self.minimum} is more than its {len(self.members)} members", "minimum")

    def _check_options(self) -> None:
        """What a function of the document's own takes, nobody knows."""
        if self.combine in ("median", "first") and self.options:
            raise WrongFields(f"{self.combine} takes no options", "options")
        if self.combine not in ("mean", "vote"):
            return
        for name, weight in self.options.items():
            right = f"options of {self.combine} are weights above 0 of its members, by their names"
            if name not in self.members:
                raise WrongFields(f"{name[:80]!r} is no member; {right}", ("options", name))
            if type(weight) not in (int, float) or weight <= 0:  # type: ignore[operator]
                raise WrongFields(f"{right}, and this is none", ("options", name))

    @property
    def needed(self) -> int:
        """Members that must answer well."""
        return self.minimum if self.on_failure == "leave_out" else len(self.members)

    @property
    def patience(self) -> timedelta:
        """How long a member may take."""
        return self.member_timeout or self.request_timeout * MEMBER_SHARE_OF_TIMEOUT

    @property
    def application(self) -> str:
        """Its Serve application's name."""
        return f"{self.name}--ensemble"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fronts:
    """What stands before the models of one environment."""

    ensembles: tuple[EnsembleDocument, ...] = ()
    grpc: GrpcEntry | None = None
    """None where it is not enabled."""


def ensemble_route(ensemble: EnsembleDocument) -> str:
    """Where an ensemble is reached."""
    return ensemble.route or f"/ensembles/{ensemble.name}"


# --- what a rendered front says -----------------------------------------------------------------------------------


def members_of(user_config: object) -> tuple[Config, ...]:
    """The members in a front's user_config; empty for any other."""
    told = user_config.get("members") if isinstance(user_config, Mapping) else None
    if not isinstance(told, (list, tuple)):
        return ()
    return tuple(m for m in told if isinstance(m, Mapping) and isinstance(m.get("application"), str))
