"""Whether Serve takes requests from other machines, as its controller says.

What a replica sees of a request does not tell: HAProxy, wherever it listens, asks the replicas of its own node by
127.0.0.1, and they see nothing but that. Serve's HTTP host is set once, when Serve starts, and all of its
proxies and replicas listen there.

That host says nothing about gRPC: its ports (the replicas', the fallback proxy's and, without HAProxy, Serve's own)
listen on every address, whatever it is. There the caller's address is asked (`is_from_here`): behind a HAProxy that
listens on loopback it is loopback, too.

Where nobody answers, it is taken for exposed: then `access` has to be written, and nobody gets in by mistake.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from urllib.parse import unquote

from policies.loopback import is_loopback

_log = logging.getLogger(__name__)

ANSWER_S = 10.0
"""The controller answers within milliseconds, and has just started this replica."""


async def is_exposed() -> bool:
    """Does Serve listen elsewhere than on loopback? Must run inside a replica; never raises."""
    try:
        host = await asyncio.wait_for(_http_host(), ANSWER_S)
    except Exception as error:  # noqa: BLE001 whatever Ray raises: it has no public way to ask this
        _log.warning("Serve's HTTP host is not known (%s): taken for one that others reach", type(error).__name__)
        return True
    return not is_loopback(host)


def is_from_here(peer: str) -> bool:
    """Does that gRPC peer (`ipv4:127.0.0.1:4711`, `ipv6:[::1]:4711`, `unix:...`) ask from this machine? Pure."""
    scheme, _, rest = peer.partition(":")
    if scheme == "unix":
        return True
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


async def _http_host() -> str | None:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    host = (await controller.get_http_config.remote()).host
    return None if host is None else str(host)
