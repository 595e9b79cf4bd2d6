"""What was seen of the world: it may be stale or partial, and its type says so.

Rules:
- Parsed once, at the doors, into frozen values; a door that cannot see says `available=False` and why.
- Nothing here is stored: what lies in Git is in `release.py` and `rollout_record.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from policies.model_signatures import Signature


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tip:
    """The config repo's branch as it was when it was fetched."""

    commit: str
    """Full hash of the branch's tip."""
    files: Mapping[str, str]
    """Text of every file below sluice.yaml, models/, policies/, environments/ and history/, by path."""
    author: str
    """`Name <email>` of the tip commit."""
    subject: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """One version as the registry shows it."""

    number: int
    stage: str
    aliases: frozenset[str] = frozenset()
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ready: bool = True
    """False while MLflow still registers it, or when that failed."""
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """What is known of a version's files: enough to admit it."""

    digest: str
    """`sha256:...` over the payload files."""
    requirements: tuple[str, ...] = ()
    """What its requirements.txt asks for."""
    size_bytes: int = 0
    """Of all its files."""
    pickled: tuple[str, ...] = ()
    """The first files that Python's pickle would load (`artifact_formats.py`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What a version says about itself and how it was evaluated: enough to compare it with another."""

    signature: Signature | None = None
    """None: it has none, or it cannot be read."""
    flavor: str = ""
    """The MLflow flavor by which it would be loaded; empty: none that pyfunc knows."""
    signature_reason: str = ""
    """Why signature and flavor cannot be read."""
    run: str = ""
    """Where its metrics were logged, in words: a run, a logged model."""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The last value of each."""
    metrics_reason: str = ""
    """Why none are known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegistrySnapshot:
    """What one look at the registry showed. A model that is absent from `models` is unknown there."""

    available: bool
    models: Mapping[str, Mapping[int, RegisteredVersion]] = dataclasses.field(default_factory=dict)
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trip:
    """The guard of some host replicas has stopped a candidate."""

    build: str
    """The candidate's application."""
    hosts: int
    """Host replicas whose guard has tripped."""
    requests: float
    """The candidate's requests at these, up to the trip."""
    bad: float
    """Bad answers among them that stable answered well."""
    at: datetime
    """When the first of them was seen to have tripped."""


class ApplicationStatus(StrEnum):
    """Serve's own words (ray.serve.schema.ApplicationStatus)."""

    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObservedDeployment:
    """One deployment as Serve shows it; `status` and `trigger` are Serve's words (HEALTHY, CONFIG_UPDATE_COMPLETED)."""

    name: str
    status: str
    trigger: str = ""
    message: str = ""
    user_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    replicas_running: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObservedApplication:
    """One Serve application as Ray shows it."""

    name: str
    status: ApplicationStatus
    submitted: Mapping[str, Any]
    """`deployed_app_config`: exactly what was submitted."""
    message: str = ""
    deployments: tuple[ObservedDeployment, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeObservation:
    """What one look at Ray Serve showed."""

    available: bool
    applications: Mapping[str, ObservedApplication] = dataclasses.field(default_factory=dict)
    reason: str = ""
    upgrading: str = ""
    """Why nothing reaches what serves now: KubeRay replaces the cluster; empty elsewhere."""
