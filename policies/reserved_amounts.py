"""What a replica reserves of Ray's resources, as people write it: refused here where Ray would only refuse the replica.

Rules:
- Ray counts in ten-thousandths: less than one of them is no amount.
- What has a field of its own is written there and nowhere else; some names are Ray's own.

What a cluster has is `capacity.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from policies.capacity import CPU, GPU, MEMORY

SMALLEST = 0.0001
"""Ray's unit (`ray._raylet.RESOURCE_UNIT_SCALING`)."""

_NOBODYS: Mapping[str, str] = {
    "object_store_memory": "is the node's: replicas reserve none of it",
    "bundle": "is a name that Ray keeps for itself",
}
_OWN_FIELDS: Mapping[str, str] = {
    CPU: "is written as settings.cpus",
    GPU: "is written as settings.gpus",
    MEMORY: "is written as settings.memory_mib",
}


def _countable(amount: float) -> float:
    if amount < 0:
        raise ValueError(f"should not be below 0, and is {amount:g}")
    if 0 < amount < SMALLEST:
        raise ValueError(f"{amount:g} is less than Ray can count: write at least {SMALLEST:g}, or nothing")
    return amount


def _for_bundles(name: str) -> str:
    if not name.strip():
        raise ValueError("a resource has a name, as `ray start --resources` gives it")
    if name in _NOBODYS:
        raise ValueError(_NOBODYS[name])
    return name


def _custom(name: str) -> str:
    if name in _OWN_FIELDS:
        raise ValueError(_OWN_FIELDS[name])
    return _for_bundles(name)


Amount = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_countable)]
"""Of one resource; 0 is none of it."""
CustomResource = Annotated[str, AfterValidator(_custom)]
"""A resource that the cluster's owner has named."""
BundledResource = Annotated[str, AfterValidator(_for_bundles)]
"""A resource in a bundle of a placement group, CPU, GPU and memory (bytes) among them."""
