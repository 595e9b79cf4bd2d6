"""`sluice impact`: what the documents in a folder would do to what serves, against a commit.

Rules:
- Both sides are rendered with the same renderer, so that only what people changed differs; settings are shown as they
  are once they have been rolled out.
- A cluster is asked what it has at the address that the commit names, never at one that the change brings: the token
  goes there.

This module must not print.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.commands import lint
from pipelines.commands.commit_documents import side
from pipelines.commands.views import impact_data
from pipelines.serve_configs import meant, releases_of
from policies import impact_words
from policies.capacity import Capacity
from policies.config_repo_documents import ConfigRepo
from policies.documents import RayTarget
from policies.errors import BadInput, Retry, Stalled
from policies.impact import Impact, impact
from policies.notes import errors
from policies.release import Phase
from registry_bridge.local_repo import LocalRepo

Ask = Callable[[RayTarget], Capacity]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentImpact:
    """What a change does in one environment."""

    environment: str
    impact: Impact
    unknown: str = ""
    """Why nobody knows what the cluster has."""
    remarks: tuple[str, ...] = ()
    """What the Serve config does not show."""


def of_folder(folder: Path, base: str, ask: Ask | None) -> tuple[EnvironmentImpact, ...]:
    """The working tree in `folder` against the commit where it left `base`. Raises BadInput, Stalled."""
    clone = LocalRepo(folder)
    commit = clone.common(clone.commit(base), clone.commit("HEAD"))
    before, after = side(clone, commit), lint.read(folder)
    return impacts(_whole(before.repo, before.notes, commit[:12]), _whole(*after, str(folder)), ask)


def _whole(repo: ConfigRepo | None, notes: Any, where: str) -> ConfigRepo:
    if repo is None:
        said = "\n".join(str(note) for note in errors(notes))
        raise BadInput(f"the documents in {where} cannot be read:\n{said}")
    return repo


def impacts(before: ConfigRepo, after: ConfigRepo, ask: Ask | None) -> tuple[EnvironmentImpact, ...]:
    """By environment. `ask` says what a cluster has (it may raise Retry or Stalled); none: nobody is asked."""
    return tuple(
        _in_environment(name, before, after, ask)
        for name in sorted({*before.sluice.environments, *after.sluice.environments})
    )


def _in_environment(name: str, before: ConfigRepo, after: ConfigRepo, ask: Ask | None) -> EnvironmentImpact:
    was, now = ({} if name not in repo.sluice.environments else meant(repo, name) for repo in (before, after))
    target = before.sluice.environments[name].ray if name in before.sluice.environments else None
    capacity, unknown = capacity_of(target, ask)
    return EnvironmentImpact(
        environment=name,
        impact=impact(was, now, capacity),
        unknown=unknown,
        remarks=tuple(remarks(name, before, after)),
    )


def capacity_of(target: RayTarget | None, ask: Ask | None) -> tuple[Capacity | None, str]:
    """What the cluster has, or why nobody knows."""
    if ask is None:
        return None, "it was not asked"
    if target is None:
        return None, "the environment is new"
    try:
        return ask(target), ""
    except (Retry, Stalled) as error:
        return None, str(error)


def remarks(name: str, before: ConfigRepo, after: ConfigRepo) -> Iterator[str]:
    """What a change does in an environment that the Serve config does not show."""
    if name not in after.sluice.environments:
        yield "the environment is gone from sluice.yaml: its cluster is not looked after any more, and serves on"
        return
    known = before.serves(name) if name in before.sluice.environments else {}
    releases = releases_of(after, name)
    trigger = after.sluice.environments[name].trigger
    for key, document in after.serves(name).items():
        release = releases.get(key)
        if release is None and key not in known:
            yield f"{key} is new: nothing starts before a version is at {trigger}"
        elif (
            release and release.phase is not Phase.STEADY and key in known and document.settings != known[key].settings
        ):
            yield f"{key}: a rollout is under way, and its new settings are rolled out after that"


# --- words ----------------------------------------------------------------------------------------------------


def lines(found: tuple[EnvironmentImpact, ...]) -> Iterator[str]:
    """A block for each environment."""
    for each in found:
        yield f"{each.environment}:"
        yield from (f"  {line}" for line in impact_words.lines(each.impact))
        if each.unknown and each.impact.deployments:
            yield f"  (what the cluster has: {each.unknown})"
        yield from (f"  {remark}" for remark in each.remarks)


def as_data(found: tuple[EnvironmentImpact, ...]) -> list[dict[str, Any]]:
    """The same for programs; `capacity` is null where nobody knows."""
    return [
        {
            "environment": each.environment,
            "deployments": [impact_data(one) for one in each.impact.deployments],
            "reserved": dataclasses.asdict(each.impact.reserved),
            "extra_meanwhile": each.impact.extra_meanwhile,
            "extra_after": each.impact.extra_after,
            "capacity": dataclasses.asdict(each.impact.capacity) if each.impact.capacity else None,
            "unknown": each.unknown,
            "shortage": each.impact.shortage,
            "remarks": each.remarks,
        }
        for each in found
    ]
