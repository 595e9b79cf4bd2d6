"""What is known about one environment from Git and the registry, before its own doors are asked; and what Ray was told.

Rules:
- What all its models need is made once: there may be a thousand of them.

This module must not ask anybody.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from policies.applying import Applier, applier
from policies.config_repo_documents import ConfigRepo
from policies.documents import EnvironmentDocument, ModelDocument
from policies.facts import Rules
from policies.holding import known_revisions, models_held
from policies.observations import RegistrySnapshot, RuntimeObservation, Tip
from policies.release import Release
from policies.rollout_record import Record

Config = Mapping[str, Any]


class Told:
    """What Ray shows, and what it was told by model."""

    def __init__(self, runtime: RuntimeObservation) -> None:
        self.runtime = runtime
        self.revisions = known_revisions(runtime)
        self.held = models_held(runtime)


@dataclasses.dataclass(frozen=True)
class KnownEnvironment:
    """One environment at one tip."""

    name: str
    tip: Tip
    repo: ConfigRepo
    snapshot: RegistrySnapshot
    warming: Mapping[tuple[str, str, datetime], datetime]
    """Since when candidates had had their chance to start, at the last look."""
    records: Mapping[tuple[str, str], Record]
    """What is recorded of running rollouts, by environment and slug."""

    @property
    def document(self) -> EnvironmentDocument:
        """What people wrote about it."""
        return self.repo.sluice.environments[self.name]

    @functools.cached_property
    def applier(self) -> Applier:
        """Who brings its Ray to what Git says."""
        return applier(self.repo, self.name)

    @functools.cached_property
    def served(self) -> Mapping[str, ModelDocument]:
        """The models that the environment serves, by slug."""
        return self.repo.serves(self.name)

    @functools.cached_property
    def releases(self) -> Mapping[str, Release]:
        """Its releases in Git, and empty ones for models that have none yet, by slug."""
        there = {
            slug: release for (environment, slug), release in self.repo.releases.items() if environment == self.name
        }
        fresh = {slug: Release(model=document.name, environment=self.name) for slug, document in self.served.items()}
        return dict(sorted({**fresh, **there}.items()))

    def rules(self, slug: str) -> Rules:
        """What the environment and the model's document ask for."""
        document = self.served.get(slug)
        return Rules(
            policy=self.repo.policies[document.rollout if document else "default"],
            trigger=self.document.trigger,
            on_rollback=self.document.on_rollback,
            settings=document.settings if document else None,
            min_replicas=document.autoscaling.min_replicas if document else 1,
            review=self.document.review,
            review_approvals=self.document.review_approvals,
        )

    @functools.cached_property
    def _applications(self) -> Mapping[str, Config]:
        config = self.repo.serve.get(self.name) or {}
        return {app["name"]: app for app in config.get("applications") or ()}

    def applications_of(self, release: Release, slug: str) -> Config:
        """Of the tip's Serve config what is this release's, so that a thousand models do not search a thousand each."""
        names = [application.name(slug) for application in (release.stable, release.candidate) if application]
        return {"applications": [self._applications[name] for name in names if name in self._applications]}


def registered_names(repo: ConfigRepo) -> tuple[str, ...]:
    """The models that the registry is asked about."""
    return tuple(sorted({m.name for m in repo.models.values()} | {release.model for release in repo.releases.values()}))
