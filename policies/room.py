"""Whether the nodes of a cluster have room for so many more replicas, each on one node. Pure.

Replicas are placed one by one where they fit first; Ray may place them better, so what has no room here may still find
some: the answer is for people, and for a start that would otherwise wait for room until its deadline.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.application import Settings
from policies.capacity import CPU, GPU, MEMORY, Amounts, Capacity, Node, added, beyond, in_words

_MIB = 2**20


def replica_bundles(settings: Settings) -> tuple[Amounts, ...]:
    """What one replica reserves: each of these on one node."""
    if settings.placement:
        return tuple(added(bundle) for bundle in settings.placement.bundles)
    own = {CPU: settings.cpus, GPU: settings.gpus, MEMORY: (settings.memory_mib or 0) * _MIB}
    return (added(own, settings.custom),)


def lacking(settings: Settings, replicas: int, capacity: Capacity) -> str:
    """Why so many more replicas would not start now; empty where they would."""
    bundles = replica_bundles(settings)
    if never := [bundle for bundle in bundles if not _fits_one(bundle, [node.total for node in capacity.nodes])]:
        return f"no node has {in_words(never[0])}, which a replica reserves"
    placed = _placed(bundles, replicas, capacity.nodes)
    if placed == replicas:
        return ""
    each = " and ".join(in_words(bundle) for bundle in bundles)
    free = in_words(capacity.free)
    return f"{replicas} replicas of {each} each, room for {placed} beside what runs (free on all nodes: {free})"


def _fits_one(bundle: Amounts, places: Sequence[Amounts]) -> bool:
    return any(not beyond(bundle, place) for place in places)


def _placed(bundles: Sequence[Amounts], replicas: int, nodes: Sequence[Node]) -> int:
    """How many whole replicas find room, one after the other."""
    free = [dict(node.free) for node in nodes]
    for count in range(replicas):
        for bundle in bundles:
            place = next((place for place in free if not beyond(bundle, place)), None)
            if place is None:
                return count
            for name, amount in bundle.items():
                place[name] -= amount
    return replicas
