"""Whether a cluster has room for so many more replicas of one model, each bundle on one node. Pure.

Ray may place replicas better, so what has no room here may still find some: the answer is for people, and for a start
that would otherwise wait for room until its deadline.
"""

from __future__ import annotations

from policies.application import Settings
from policies.capacity import Amounts, Capacity, added, fits_nowhere, in_words, unplaced


def replica_bundles(settings: Settings) -> tuple[Amounts, ...]:
    """What one replica reserves: each of these on one node."""
    if settings.placement:
        whole = settings.placement.strategy == "STRICT_PACK"
        return (added(*settings.placement.bundles),) if whole else tuple(map(added, settings.placement.bundles))
    return (settings.reserved,)


def lacking(settings: Settings, replicas: int, capacity: Capacity) -> str:
    """Why so many more replicas would not start now; empty where they would.

    In words that stay the same while there is no room: they are a reason in Git, and usage changes all the time.
    """
    bundles = replica_bundles(settings)
    if never := [bundle for bundle in bundles if fits_nowhere(bundle, capacity)]:
        return f"no node has {in_words(never[0])}, which a replica reserves"
    if not unplaced(bundles * replicas, capacity):
        return ""
    each = " and ".join(in_words(bundle) for bundle in bundles)
    return f"beside what runs there is no room for {replicas} more, each of which reserves {each}"
