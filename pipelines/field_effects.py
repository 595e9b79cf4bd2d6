"""What changing each field of the documents does to what serves: the table in docs/impact.md.

It is found out by changing each (`field_examples.py`): both config repos go through the renderer and
`policies/impact.py`, as those of `sluice impact` do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.commands.impact import impacts
from pipelines.field_examples import ENVIRONMENT, EXAMPLES, Example, repos
from pipelines.serve_configs import meant
from policies.impact import Change, Effect, impact
from policies.impact_rules import RULES

Data = Mapping[str, Any]


def under_old_names(before: Data, after: Data) -> dict[str, Any]:
    """`after`, each application that takes another's place under the other's name: what it would be to change it."""
    taken = {each.application: each.replaces for each in impact(before, after, None).deployments if each.replaces}
    olds = {app["name"]: app for app in before.get("applications") or ()}
    return {"applications": [_as(app, olds.get(taken.get(app["name"], ""))) for app in after["applications"]]}


def _as(app: Data, old: Data | None) -> Data:
    if old is None:
        return app
    build = old["args"]["build"]
    deployments = [{**d, "user_config": {**d["user_config"], "build": build}} for d in app["deployments"]]
    return {**app, "name": old["name"], "args": {**app["args"], "build": build}, "deployments": deployments}


@dataclasses.dataclass(frozen=True)
class Row:
    """What one example does."""

    example: Example
    effects: tuple[Effect, ...]
    changes: tuple[Change, ...]
    """Fields of the Serve config; of a new application those that differ from the old one's."""

    @property
    def rolled_out(self) -> bool:
        """Is it an application of its own?"""
        return Effect.STARTS in self.effects and Effect.STOPS in self.effects


def row(example: Example) -> Row:
    """By the same way as `sluice impact`."""
    before, after = repos(example)
    (found,) = (each.impact for each in impacts(before, after, None) if each.environment == ENVIRONMENT)
    was, now = meant(before, ENVIRONMENT), meant(after, ENVIRONMENT)
    told = impact(was, under_old_names(was, now), None)
    effects = {effect for each in found.deployments for effect in each.effects}
    changes = {change.field: change for each in told.deployments for change in each.changes if change.field}
    return Row(example, tuple(e for e in Effect if e in effects), tuple(changes.values()))


def table_rows(kind: str) -> Iterator[tuple[str, str, str, str]]:
    """Field, what happens, where in the Serve config, why."""
    for found in (row(example) for example in EXAMPLES if example.kind == kind):
        fields = ", ".join(f"`{change.field}`" for change in found.changes)
        yield f"`{found.example.field}`", _effects(found), fields or "nothing", _why(found)


def _effects(found: Row) -> str:
    if found.rolled_out:
        return "a rollout: starts, moves traffic, stops"
    return ", ".join(found.effects) or "nothing"


def _why(found: Row) -> str:
    if found.rolled_out:
        words = "a new application beside the old one, by the steps of the policy"
        return f"{words}; in one application it restarts" if found.changes else words
    worst = [change for change in found.changes if change.effect is (found.effects or (None,))[-1]]
    if Effect.STOPS in found.effects:
        return "it is not served here any more"
    return worst[0].why if worst else "it is not in the Serve config"


def rule_rows() -> Iterator[tuple[str, str, str]]:
    """The rules themselves: field of the Serve config, effect, why."""
    for rule in RULES:
        yield f"`{rule.field}`", rule.effect.value, rule.why
