"""What the registry is asked about the version that could start next: its files, and what it says beside stable's.

Rules:
- Only one version of a release can start next; nothing is asked about any other: reading one may download gigabytes.
- A version that serves is known already, and so is what it says; only its requirements may be read.
- What cannot be read is said, and waited for; a stable version that the registry no longer has is known to be gone.

This module must not decide whether it starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.ports import Registry
from policies.errors import SluiceError, Stalled
from policies.facts import Rules
from policies.observations import Artifact, RegistrySnapshot, VersionFacts
from policies.promotion import Wanted, at_trigger, keep_books, wanted
from policies.release import Phase, Release, Wish
from policies.wishes import carried_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class WantedLook:
    """What was seen of it; nothing where no version could start."""

    artifacts: Mapping[int, Artifact] = dataclasses.field(default_factory=dict)
    artifact_reason: str = ""
    facts: Mapping[int, VersionFacts] = dataclasses.field(default_factory=dict)
    """Its own and those of the stable version."""
    facts_reason: str = ""


def look_at_wanted(registry: Registry, release: Release, rules: Rules, snapshot: RegistrySnapshot) -> WantedLook:
    """Ask about the version that could start next, if one could. Never raises for a registry that is away."""
    versions = snapshot.models.get(release.model, {})
    if rules.settings is None or not snapshot.available:
        return WantedLook()
    version = _could_start(carried_out(release, versions)[0], rules, at_trigger(rules.trigger, versions))
    if version is None or version not in versions:
        return WantedLook()
    serves = release.stable is not None and release.stable.version == version
    if release.stable and serves and not rules.settings.installs_requirements:
        return WantedLook(artifacts={version: Artifact(digest=release.stable.digest)})
    try:
        artifacts = {version: registry.artifact(release.model, version)}
    except SluiceError as error:
        return WantedLook(artifact_reason=str(error))
    try:
        return WantedLook(artifacts=artifacts, facts={} if serves else _facts(registry, release, version))
    except SluiceError as error:
        return WantedLook(artifacts=artifacts, facts_reason=str(error))


def _could_start(release: Release, rules: Rules, present: frozenset[int]) -> int | None:
    """What a person asked for, what is wanted, or what may supersede the running rollout."""
    kept = keep_books(release, present)
    if release.phase is not Phase.STEADY:
        return kept.queued if rules.policy.on_newer == "supersede" else None
    if release.ask and release.ask.wish is Wish.RETRY:
        return release.ask.version
    want = wanted(kept, rules.trigger, present, rules.settings) if rules.settings else None
    return want.version if isinstance(want, Wanted) else None


def _facts(registry: Registry, release: Release, version: int) -> Mapping[int, VersionFacts]:
    own = {version: registry.facts(release.model, version)}
    if release.stable is None:
        return own
    try:
        return {**own, release.stable.version: registry.facts(release.model, release.stable.version)}
    except Stalled as error:
        gone = VersionFacts(signature_reason=str(error), metrics_reason=str(error))
        return {**own, release.stable.version: gone}
