"""The Serve config that a config repo's documents and releases make: as it stands, and as it is meant to become.

Both ends of a config repo need the same bytes: the reconciler that commits them, and the review of a change before it
is merged. This module must not read or decide anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from policies.application import Settings
from policies.config_repo_documents import ConfigRepo
from policies.documents import EdgeDocument
from policies.release import Phase, Release
from serving_runtime.serve_config import Surroundings, ToServe, render
from serving_runtime.serve_fronts import render_fronts

Config = Mapping[str, Any]


def serve_config(
    repo: ConfigRepo, environment: str, releases: Mapping[str, Release], edge: EdgeDocument | None = None
) -> Config:
    """The Serve config of one environment, with these releases by slug instead of the repo's own.

    With `edge` that of an edge which follows it. A release without a document is served no longer. Raises BadInput for
    a model name that has no slug.
    """
    documents = repo.serves(environment)
    served = [
        ToServe(
            release=release,
            model=documents[key],
            policy=repo.policies[documents[key].rollout],
            objectives=tuple(repo.slos[name] for name in documents[key].slos),
        )
        for key, release in releases.items()
        if key in documents
    ]
    access = (edge or repo.sluice.environments[environment]).access
    around = Surroundings(tracking_uri=repo.sluice.registry.tracking_uri, access=access)
    versions = render(served, around)["applications"]
    return {"applications": [*versions, *render_fronts(repo.fronts(environment), served, around)]}


def standing(repo: ConfigRepo, environment: str) -> Config:
    """The Serve config of one environment as the repo's documents and releases are."""
    return serve_config(repo, environment, releases_of(repo, environment))


def meant(repo: ConfigRepo, environment: str, models: Collection[str] | None = None) -> Config:
    """The Serve config once every stable version, or those of these models, has the settings that its document says.

    Settings that changed are rolled out like a new version: this is how it stands when that has gone well. A rollout
    that is under way stays as it is, and a model without a release serves nothing yet.
    """
    documents = repo.serves(environment)
    wanted = documents.keys() if models is None else documents.keys() & set(models)
    releases = {
        key: _with_settings(release, documents[key].settings) if key in wanted else release
        for key, release in releases_of(repo, environment).items()
    }
    return serve_config(repo, environment, releases)


def rolled_out(repo: ConfigRepo, environment: str) -> tuple[str, ...]:
    """The models, by slug, whose stable version does not have the settings of its document: they are rolled out."""
    documents = repo.serves(environment)
    return tuple(
        key
        for key, release in releases_of(repo, environment).items()
        if key in documents and _with_settings(release, documents[key].settings) != release
    )


def releases_of(repo: ConfigRepo, environment: str) -> dict[str, Release]:
    """The releases of one environment by slug."""
    return {key: release for (where, key), release in sorted(repo.releases.items()) if where == environment}


def _with_settings(release: Release, settings: Settings) -> Release:
    """The release once its stable version has these settings; as it is while a rollout is under way."""
    if release.stable is None or release.phase is not Phase.STEADY or release.stable.settings.fields == settings.fields:
        return release
    return dataclasses.replace(release, stable=dataclasses.replace(release.stable, settings=settings))
