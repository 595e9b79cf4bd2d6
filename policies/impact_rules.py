"""What a changed field of a Serve application does to its replicas: one table, checked against a real Ray Serve by PID.

Rules:
- The row whose field is the longest beginning of the changed one counts. A field without a row counts as one that
  restarts: nobody has measured it.
- `*` stands for one name. Fields of an application and of its deployment share one space, as their names do not meet.
- `user_config.split.share` is what `application`, `weight_percent` and `shadow` of a split say together.
- docs/impact.md shows this table; `tests/e2e/test_impact.py` holds it against Ray.

This module must not know which document a field comes from.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum


class Effect(StrEnum):
    """What a change does to the replicas of one deployment. The value is its word in comments and tables."""

    IN_PLACE = "in place"
    """Replicas stay; they are told while they serve."""
    RESTARTS = "restarts"
    """Every replica is replaced."""
    STARTS = "starts"
    """It is not there before."""
    STOPS = "stops"
    """It is not there after."""
    MOVES_TRAFFIC = "moves traffic"
    """Requests, or copies of them, go to another version than before; replicas stay."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row."""

    field: str
    effect: Effect
    why: str


_CODE = "Serve makes one hash of it for the code of all deployments: another hash is other code"
_ACTOR = "an actor's reservation is made when it starts"
_PLACED = f"{_ACTOR}; Serve looks at it once another field of the deployment changes as well"
_TOLD = "replicas are told by `reconfigure`, within a second"

RULES: tuple[Rule, ...] = (
    Rule("import_path", Effect.RESTARTS, _CODE),
    Rule("args", Effect.RESTARTS, _CODE),
    Rule("runtime_env", Effect.RESTARTS, f"{_CODE}; packages, image and variables are those a process starts with"),
    Rule("route_prefix", Effect.MOVES_TRAFFIC, "the proxy sends requests by it; replicas are told in place"),
    Rule("user_config", Effect.IN_PLACE, _TOLD),
    Rule("user_config.split", Effect.IN_PLACE, _TOLD),
    Rule("user_config.split.share", Effect.MOVES_TRAFFIC, "what the host hands over; replicas are told in place"),
    Rule("user_config.drain", Effect.MOVES_TRAFFIC, "a draining version refuses at once, and its host answers"),
    Rule("user_config.members.*", Effect.MOVES_TRAFFIC, "the front asks other hosts; replicas are told in place"),
    Rule("user_config.members.*.timeout_s", Effect.IN_PLACE, _TOLD),
    Rule("user_config.members.*.name", Effect.IN_PLACE, _TOLD),
    Rule("user_config.placement", Effect.RESTARTS, "a front's placement group is here too, so that Serve looks at it"),
    Rule("autoscaling_config", Effect.RESTARTS, "adding or removing the block changes the hash of the code"),
    Rule("autoscaling_config.policy", Effect.RESTARTS, _CODE),
    Rule("autoscaling_config.*", Effect.IN_PLACE, "Serve's controller starts or stops replicas; the others stay"),
    Rule("num_replicas", Effect.IN_PLACE, "Serve's controller starts or stops replicas; the others stay"),
    Rule("max_ongoing_requests", Effect.IN_PLACE, "replicas and proxies are told"),
    Rule("max_queued_requests", Effect.IN_PLACE, "proxies are told"),
    Rule("backpressure_config", Effect.IN_PLACE, "replicas are told"),
    Rule("max_surge_percent", Effect.IN_PLACE, "counts at the next restart, and at one in the same change"),
    Rule("graceful_shutdown_timeout_s", Effect.IN_PLACE, "counts for replicas that stop from then on"),
    Rule("health_check_period_s", Effect.IN_PLACE, "Serve's controller asks that often from then on"),
    Rule("health_check_timeout_s", Effect.IN_PLACE, "Serve's controller waits that long from then on"),
    Rule("logging_config", Effect.IN_PLACE, "replicas are told"),
    Rule("request_router_config", Effect.RESTARTS, _CODE),
    Rule("ray_actor_options", Effect.RESTARTS, _ACTOR),
    Rule("placement_group_bundles", Effect.RESTARTS, _PLACED),
    Rule("placement_group_strategy", Effect.RESTARTS, _PLACED),
)

_UNKNOWN = "nobody has seen what Serve does then, so it counts as the worst"


def rule_of(field: str) -> Rule:
    """The row that counts for this field, dotted: `user_config.batching.max_batch_size`."""
    parts = field.split(".")
    matching = [rule for rule in RULES if _begins(parts, rule.field.split("."))]
    if not matching:
        return Rule(field, Effect.RESTARTS, _UNKNOWN)
    return max(matching, key=lambda rule: (rule.field.count("."), not rule.field.endswith("*")))


def _begins(parts: list[str], pattern: list[str]) -> bool:
    return len(pattern) <= len(parts) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=False))
