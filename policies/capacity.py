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

_ROUNDING = 1e-6
"""Ray counts in ten-thousandths; sums of binary fractions differ by less than this."""
_MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One node of a Ray cluster that is alive."""

    total: Amounts
    """What it has."""
    free: Amounts
    """What nobody has reserved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a cluster has now. An autoscaler may add nodes: Ray tells nobody how many."""

    nodes: tuple[Node, ...]

    @property
    def total(self) -> dict[str, float]:
        """Of all nodes."""
        return added(*(node.total for node in self.nodes))

    @property
    def free(self) -> dict[str, float]:
        """Of all nodes, together."""
        return added(*(node.free for node in self.nodes))


# --- amounts ----------------------------------------------------------------------------------------------------


def added(*amounts: Amounts) -> dict[str, float]:
    """The sum; what is 0 is left out."""
    names = sorted({name for each in amounts for name in each})
    total = {name: sum(each.get(name, 0.0) for each in amounts) for name in names}
    return {name: amount for name, amount in total.items() if abs(amount) > _ROUNDING}


def times(amounts: Amounts, count: float) -> dict[str, float]:
    """So many of it."""
    return added({name: amount * count for name, amount in amounts.items()})


def larger(one: Amounts, other: Amounts) -> dict[str, float]:
    """Of each resource the larger amount."""
    return added({name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in {*one, *other}})


def beyond(amounts: Amounts, limit: Amounts) -> dict[str, float]:
    """By how much the amounts are above the limit; what is not, is left out."""
    over = added(amounts, times(limit, -1))
    return {name: amount for name, amount in over.items() if amount > 0}


# --- replicas on nodes ------------------------------------------------------------------------------------------


def bundles(deployment: Mapping[str, Any]) -> tuple[dict[str, float], ...]:
    """What one replica of this deployment of a Serve config reserves: each bundle on one node."""
    if groups := deployment.get("placement_group_bundles"):
        strict = deployment.get("placement_group_strategy") == "STRICT_PACK"
        return (added(*groups),) if strict else tuple(added(bundle) for bundle in groups)
    options = deployment.get("ray_actor_options") or {}
    named = {CPU: options.get("num_cpus", 1.0), GPU: options.get("num_gpus"), MEMORY: options.get("memory")}
    own = {name: float(amount) for name, amount in named.items() if amount}
    return (added(own, options.get("resources") or {}),)


def unplaced(wanted: Iterable[Amounts], capacity: Capacity) -> tuple[Amounts, ...]:
    """The bundles that find no node with room, the largest placed first, each on the first node that has room.

    Ray may place them otherwise, and then fewer: what is unplaced here is short, what is placed here may still wait.
    """
    free = [node.free for node in capacity.nodes]
    left = []
    for bundle in sorted(wanted, key=_size, reverse=True):
        node = next((n for n, room in enumerate(free) if not beyond(bundle, room)), None)
        if node is None:
            left.append(bundle)
        else:
            free[node] = added(free[node], times(bundle, -1))
    return tuple(left)


def fits_nowhere(bundle: Amounts, capacity: Capacity) -> bool:
    """Is it more than any node has, however empty?"""
    return all(beyond(bundle, node.total) for node in capacity.nodes)


def _size(bundle: Amounts) -> tuple[float, float, float, float]:
    """GPUs are scarcest, then CPUs."""
    others = sum(amount for name, amount in bundle.items() if name not in (CPU, GPU, MEMORY))
    return (bundle.get(GPU, 0.0), bundle.get(CPU, 0.0), bundle.get(MEMORY, 0.0), others)


# --- words ------------------------------------------------------------------------------------------------------


def in_words(amounts: Amounts) -> str:
    """`2 CPU, 0.5 GPU, 512 MiB of memory`; `nothing` where there is nothing."""
    return ", ".join(_amount(name, amounts[name]) for name in _ordered(amounts)) or "nothing"


def _ordered(names: Iterable[str]) -> list[str]:
    first = (CPU, GPU, MEMORY)
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))


def _amount(name: str, amount: float) -> str:
    if name == MEMORY:
        return f"{round(amount / _MIB):,} MiB of memory"
    return f"{round(amount, 4):,g} {name}"
