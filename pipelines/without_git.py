"""What is decided while nothing can be committed: the rollouts that must stop, and what has become live since.

This module must not act: `reconciler.py` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from datetime import datetime

from pipelines.look import EnvironmentLook, Look
from policies.actions import Action, WriteRelease
from policies.holding import Stop
from policies.names import slug
from policies.release import Phase, Release


def stops(environment: EnvironmentLook, actions: Iterable[Action], now: datetime) -> Iterator[Stop]:
    """The rollouts that these actions would stop."""
    for action in actions:
        if isinstance(action, WriteRelease) and action.release.phase is Phase.ROLLING_BACK:
            key = slug(action.release.model)
            before = environment.models[key].release
            cause = action.release.rollout.cause if action.release.rollout else None
            if before.phase is not Phase.ROLLING_BACK and cause is not None:
                yield Stop(slug=key, release=before, cause=cause, at=now)


def seen_to_be_live(last: Look, environment: EnvironmentLook, actions: Iterable[Action]) -> Look:
    """The look with phases that are live by now. It changes nothing in Ray, and evidence counts from there."""
    live = {
        (environment.name, key): dataclasses.replace(before, rollout=action.release.rollout)
        for action in actions
        if isinstance(action, WriteRelease)
        for key in [slug(action.release.model)]
        if _became_live(before := environment.models[key].release, action.release)
    }
    releases = {**last.documents.releases, **live}
    return dataclasses.replace(last, documents=dataclasses.replace(last.documents, releases=releases)) if live else last


def _became_live(before: Release, after: Release) -> bool:
    if before.rollout is None or after.rollout is None or before.phase is not after.phase:
        return False
    return before.rollout.current.live_since is None and after.rollout.current.live_since is not None
