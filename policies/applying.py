"""Who brings an environment's Ray to what Git says: Sluicegate itself, or KubeRay's operator by a manifest in Git.

Whatever differs between the two is asked here, so that everything else has one way for both.

This module must not decide what should run nor read or write anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from policies.config_repo_documents import ConfigRepo
from policies.convergence import Submit, converge
from policies.layout import ray_service_path
from policies.observations import RuntimeObservation
from policies.ray_service import RayService
from policies.release import Release
from policies.stepping import NextManifest, next_manifest, not_told, on_hold

Config = Mapping[str, Any]


class Applier(Protocol):
    """What the loop asks of it; the strings are empty where there is nothing to say."""

    @property
    def lives_by(self) -> str | None:
        """The path of the file without which the cluster itself may be deleted."""

    @property
    def stops_only_by(self) -> str:
        """What a candidate can only be stopped by, where Ray's own API would not do."""

    def not_told(self, release: Release, slug: str, observed: RuntimeObservation) -> str:
        """Why a candidate that warms up had no chance to do so."""

    def on_hold(self, release: Release, observed: RuntimeObservation) -> str:
        """Why a release must not start or go on, beyond whether Ray matches Git."""

    def submits(self, desired: Config, observed: RuntimeObservation, *, expected_empty: bool) -> str:
        """What Sluicegate would tell Ray next, in words."""

    def next_manifest(
        self, desired: Callable[[], Config], observed: RuntimeObservation, releases: Iterable[Release]
    ) -> NextManifest | None:
        """What a file in Git says next, once `desired()` and `releases` are committed; none: Ray is told directly."""


class Directly:
    """Sluicegate submits to Ray's own API."""

    lives_by = None
    stops_only_by = ""

    def not_told(self, release: Release, slug: str, observed: RuntimeObservation) -> str:  # noqa: ARG002 as Applier
        """It was told when it was committed."""
        return ""

    def on_hold(self, release: Release, observed: RuntimeObservation) -> str:  # noqa: ARG002 as Applier
        """Nothing is."""
        return ""

    def submits(self, desired: Config, observed: RuntimeObservation, *, expected_empty: bool) -> str:
        """The next step of `convergence.py`."""
        step = converge(desired, observed, expected_empty=expected_empty)
        return step.reason if isinstance(step, Submit) else ""

    def next_manifest(
        self,
        desired: Callable[[], Config],  # noqa: ARG002 as Applier
        observed: RuntimeObservation,  # noqa: ARG002 as Applier
        releases: Iterable[Release],  # noqa: ARG002 as Applier
    ) -> None:
        """There is none."""
        return


@dataclasses.dataclass(frozen=True)
class ByOperator:
    """KubeRay's operator applies `rayservice.yaml`, step by step (`stepping.py`)."""

    environment: str
    written: RayService | None
    """The tip's manifest."""
    head: Config | None
    """The platform team's template as it is now."""

    @property
    def lives_by(self) -> str:
        """The manifest: who applies the repo may delete what is gone from it."""
        return ray_service_path(self.environment)

    @property
    def stops_only_by(self) -> str:
        """A commit: what is told to Ray directly, the operator takes back."""
        return "what KubeRay's operator applies is only changed by a commit"

    def not_told(self, release: Release, slug: str, observed: RuntimeObservation) -> str:
        """The operator may not have come to it yet."""
        return not_told(release, slug, observed)

    def on_hold(self, release: Release, observed: RuntimeObservation) -> str:
        """A cluster may be replaced, or about to be."""
        return on_hold(self.written, self.head, observed, release)

    def submits(self, desired: Config, observed: RuntimeObservation, *, expected_empty: bool) -> str:  # noqa: ARG002 as Applier
        """Nothing, ever."""
        return ""

    def next_manifest(
        self, desired: Callable[[], Config], observed: RuntimeObservation, releases: Iterable[Release]
    ) -> NextManifest:
        """The next step of `stepping.py`."""
        return next_manifest(desired(), self.written, self.head, observed, releases)


def applier(repo: ConfigRepo, environment: str) -> Applier:
    """Who it is in this environment of a config repo."""
    if repo.sluice.environments[environment].target == "ray":
        return Directly()
    template = repo.clusters.get(environment)
    return ByOperator(environment, repo.ray_services.get(environment), template.head if template else None)
