"""What replicas reserve, and what a cluster has: amounts of resources by Ray's names.

Rules:
- Ray counts reservations, not use: a replica that reserves nothing fits everywhere, and memory is counted only where
  it is asked for.
- A replica must fit on one node (each bundle of a placement group must): free amounts on two nodes are not added up
  for it.

This module must not ask a cluster: that is `serving_runtime/ray_cluster.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

CPU, GPU, MEMORY = "CPU", "GPU", "memory"
Amounts = Mapping[str, float]
"""By Ray's names: CPU, GPU, memory (bytes), custom ones. A resource that is not named is 0."""


def added(*amounts: Amounts) -> dict[str, float]:
    """The sum; what is 0 is left out."""
    names = sorted({name for each in amounts for name in each})
    total = {name: sum(each.get(name, 0.0) for each in amounts) for name in names}
    return {name: amount for name, amount in total.items() if amount}


def times(amounts: Amounts, count: float) -> dict[str, float]:
    """So many of it."""
    return {name: amount * count for name, amount in amounts.items() if amount * count}


def beyond(amounts: Amounts, limit: Amounts) -> dict[str, float]:
    """By how much the amounts are above the limit; what is not, is left out."""
    over = {name: amount - limit.get(name, 0.0) for name, amount in amounts.items()}
    return {name: amount for name, amount in over.items() if amount > _ROUNDING}


_ROUNDING = 1e-6
"""Ray counts in ten-thousandths; sums of binary fractions differ by less than this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One node of a Ray cluster that is alive."""

    total: Amounts
    """What it has."""
    free: Amounts
    """What nobody has reserved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a cluster has."""

    nodes: tuple[Node, ...]
    may_grow: bool = False
    """An autoscaler may add nodes: what is missing now may come."""

    @property
    def total(self) -> dict[str, float]:
        """Of all nodes."""
        return added(*(node.total for node in self.nodes))

    @property
    def free(self) -> dict[str, float]:
        """Of all nodes, together."""
        return added(*(node.free for node in self.nodes))


def bundles(deployment: Mapping[str, Any]) -> tuple[dict[str, float], ...]:
    """What one replica of this deployment of a Serve config reserves: each bundle on one node."""
    if groups := deployment.get("placement_group_bundles"):
        return tuple(added(bundle) for bundle in groups)
    options = deployment.get("ray_actor_options") or {}
    named = {CPU: options.get("num_cpus", 1.0), GPU: options.get("num_gpus"), MEMORY: options.get("memory")}
    own = {name: float(amount) for name, amount in named.items() if amount}
    return (added(own, options.get("resources") or {}),)


def in_words(amounts: Amounts) -> str:
    """`2 CPU, 0.5 GPU, 512 MiB of memory`; `nothing` where there is nothing."""
    return ", ".join(_amount(name, amounts[name]) for name in _ordered(amounts)) or "nothing"


def _ordered(names: Iterable[str]) -> list[str]:
    first = (CPU, GPU, MEMORY)
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))


def _amount(name: str, amount: float) -> str:
    if name == MEMORY:
        return f"{amount / 2**20:g} MiB of memory"
    return f"{round(amount, 4):g} {name}"
