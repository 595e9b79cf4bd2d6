"""Edges: clusters that serve what an environment has promoted, without rollouts of their own.

Rules:
1. An edge serves stable versions only: a candidate reaches it when it has become stable where it was judged.
2. The edge's config changes when what it serves changes, and not with every step of somebody else's rollout: a new
   revision alone is no change. Where it changes it carries the release's newest revision, so it never goes back.
3. At the edge only a tip that descends from the one that was applied last is applied, make before break.

This module must not render nor submit: a serving config is plain data here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from policies.release import Phase, Release

Config = Mapping[str, Any]


def promoted(releases: Mapping[str, Release]) -> dict[str, Release]:
    """The releases as an edge serves them, by slug; those without a stable version are left out."""
    return {
        slug: dataclasses.replace(release, phase=Phase.STEADY, candidate=None, rollout=None, weight_percent=0)
        for slug, release in releases.items()
        if release.stable is not None
    }


def serves_the_same(one: Config, other: Config) -> bool:
    """Are these the same but for revisions (rule 2)?"""
    return bool(_unrevised(one) == _unrevised(other))


def _unrevised(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _unrevised(inner) for key, inner in value.items() if key != "revision"}
    return [_unrevised(inner) for inner in value] if isinstance(value, list | tuple) else value
