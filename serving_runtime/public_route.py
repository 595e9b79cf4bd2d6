"""Whether a request came by its model's route: a version that has none is asked by its host, and by nobody else.

In HAProxy mode Serve gives every application a port of its own, also one without a route, and there any path is taken
(`ray.serve._private.replica: _direct_ingress_asgi`). Whoever found that port could feed a candidate answers of their
choice as evidence. So a version answers HTTP
- where its configuration says that it is public: it has the route, or may get it without notice;
- where Serve itself says so for this request;
- for `ROUTE_LOST_S` after either, because proxies hear later that a route has moved.

It must not decide who calls: that is `access.py`.
"""

from __future__ import annotations

from collections.abc import Callable

ROUTE_LOST_S = 60.0
"""Proxies hear within a second on one node, and within half a minute in a large cluster."""


class PublicRoute:
    """What one replica knows of its model's route. One event loop owns it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._led_here_at: float | None = None

    def leads_here(self, *, public: bool, route: str, root_path: str) -> bool:
        """May this request be answered? `root_path` is Serve's: it ends in the route that Serve gave this version."""
        now = self._clock()
        if public or (route and root_path.endswith(route)):
            self._led_here_at = now
            return True
        return self._led_here_at is not None and now - self._led_here_at < ROUTE_LOST_S
