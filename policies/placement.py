"""Whether Ray matches Git for one model, as the state machine needs to know it.

Rules:
- What counts is what the tip's `serve.yaml` says of this model's applications, field by field.
- While a rollout is taken back, one end is enough: either the host's weight is 0 on every replica, or the candidate
  drains; a candidate that cannot even start has no traffic.
- A candidate that takes the route does not wait for its stable version: that one is failing.

This module must not say what to submit: that is `convergence.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.application import Application
from policies.convergence import Failed, application_in_place, readiness
from policies.observations import RuntimeObservation
from policies.release import Phase, Release

Config = Mapping[str, Any]


def out_of_place(release: Release, slug: str, desired: Config, runtime: RuntimeObservation) -> str:
    """Empty when Ray runs this release as `desired` (the tip's serve.yaml) says, else why not."""
    stable = _why_not(release.stable, slug, desired, runtime)
    if release.candidate is None:
        return stable
    candidate = _why_not(release.candidate, slug, desired, runtime)
    if release.phase is not Phase.ROLLING_BACK:
        return candidate if release.candidate_takes_the_route else stable or candidate
    if isinstance(readiness(release.candidate.name(slug), runtime), Failed):
        return ""
    return (candidate and stable) if release.stable else candidate


def _why_not(application: Application | None, slug: str, desired: Config, runtime: RuntimeObservation) -> str:
    if application is None:
        return ""
    name = application.name(slug)
    wanted = next((app for app in desired.get("applications") or () if app["name"] == name), None)
    if wanted is None:
        return f"{name} is not in serve.yaml yet"
    return application_in_place(wanted, runtime)
