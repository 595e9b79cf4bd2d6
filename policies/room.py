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
    """Why so many more replicas would not start now; empty where they would.

    In words that stay the same while there is no room: they are a reason in Git, and usage changes all the time.
    """
    bundles = replica_bundles(settings)
    if never := [bundle for bundle in bundles if not _fits_one(bundle, [node.total for node in capacity.nodes])]:
        return f"no node has {in_words(never[0])}, which a replica reserves"
    if _have_room(bundles, replicas, capacity.nodes):
        return ""
    each = " and ".join(in_words(bundle) for bundle in bundles)
    return f"beside what runs there is no room for {replicas} more, each of which reserves {each}"


def _fits_one(bundle: Amounts, places: Sequence[Amounts]) -> bool:
    return any(not beyond(bundle, place) for place in places)


def _have_room(bundles: Sequence[Amounts], replicas: int, nodes: Sequence[Node]) -> bool:
    free = [dict(node.free) for node in nodes]
    for bundle in (*bundles,) * replicas:
        place = next((place for place in free if not beyond(bundle, place)), None)
        if place is None:
            return False
        for name, amount in bundle.items():
            place[name] -= amount
    return True
