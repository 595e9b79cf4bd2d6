"""What differs between two states of one application of the Serve config, field by field, and what each field does.

Rules:
- The smallest part that differs is named: one key of a mapping, a whole list. Absent, null and empty are the same.
- A host's split is compared as the share that it gives away: a candidate that is named and gets nothing moves nobody.

This module must not know what the applications stand for: that is `impact.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from policies.impact_rules import Effect, rule_of

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One field that differs."""

    field: str
    """Where it stands in the application of the Serve config or in its deployment: `args.features`,
    `user_config.batching`; empty for an application that starts or stops as a whole."""
    effect: Effect
    why: str
    """What makes it so, in words."""
    before: Any = None
    after: Any = None


def changes(old_app: Config, new_app: Config, old: Config, new: Config) -> Iterator[Change]:
    """What differs between an application, and one deployment of it, before and after."""
    moves = bool(_share(old)) != bool(_share(new))  # then how the share is given is no news of its own
    own = _differing(_with_share(old, alone=moves), _with_share(new, alone=moves), "")
    for field, was, becomes in (*_differing(_without(old_app), _without(new_app), ""), *own):
        rule = rule_of(field)
        yield Change(field=field, effect=rule.effect, why=rule.why, before=was, after=becomes)


def _without(app: Config) -> dict[str, Any]:
    return {key: value for key, value in app.items() if key not in ("name", "deployments")}


_SHARE = frozenset({"application", "version", "build", "weight_percent", "shadow"})


def _with_share(deployment: Config, *, alone: bool) -> dict[str, Any]:
    """The deployment's fields, its split as the share that it gives away, with or without the rest of it."""
    fields = {key: value for key, value in deployment.items() if key != "name"}
    told = fields.get("user_config")
    if not isinstance(told, Mapping):
        return fields
    rest = {} if alone else {key: value for key, value in _split(deployment).items() if key not in _SHARE}
    return {**fields, "user_config": {**told, "split": {**rest, "share": _share(deployment)}}}


def _split(deployment: Config) -> Config:
    told = deployment.get("user_config")
    split = told.get("split") if isinstance(told, Mapping) else None
    return split if isinstance(split, Mapping) else {}


def _share(deployment: Config) -> str | None:
    split = _split(deployment)
    if weight := split.get("weight_percent"):
        return f"{weight} % to {split.get('application')}"
    return f"copies to {split.get('application')}" if split.get("shadow") else None


def _differing(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The smallest fields that differ; an absent field is the same as one that is null, or empty."""
    old, new = _plain(old), _plain(new)
    if old == new:
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield path, old, new
        return
    for key in [*new, *(key for key in old if key not in new)]:
        yield from _differing(old.get(key), new.get(key), f"{path}.{key}" if path else key)


def _plain(value: Any) -> Any:
    """Comparable; members of a front by their models."""
    if isinstance(value, Mapping):
        return dict(value) or None
    if isinstance(value, (list, tuple)):
        listed = list(value)
        if listed and all(isinstance(each, Mapping) and "model" in each for each in listed):
            return {each["model"]: each for each in listed}
        return listed or None
    return value
