"""What there is below a model's route: method and path -> endpoint, or the answer that says why there is none. Pure.

Rules:
- The table below is all there is: a path that is not in it is 404, a method that its row does not name is 405.
- A path is compared as it came; nothing is decoded, normalised or completed.
"""

from __future__ import annotations

from enum import StrEnum

from serving_runtime.protocol import Answer, error_answer


class Endpoint(StrEnum):
    """What a replica answers, below its route."""

    INVOCATIONS = "/invocations"
    PING = "/ping"
    HEALTH = "/health"
    VERSION = "/version"
    FEEDBACK = "/feedback"


OPEN = frozenset({Endpoint.PING, Endpoint.HEALTH})
"""Answered to everybody: load balancers have no key, and these say nothing but that a replica lives."""

_METHODS = {
    Endpoint.INVOCATIONS: ("POST",),
    Endpoint.PING: ("GET", "HEAD"),
    Endpoint.HEALTH: ("GET", "HEAD"),
    Endpoint.VERSION: ("GET", "HEAD"),
    Endpoint.FEEDBACK: ("POST",),
}


def below_route(path: str, *roots: str) -> str:
    """The path without the first of these roots that it begins with; an empty root is none."""
    for root in roots:
        if root and path.startswith(f"{root}/"):
            return path[len(root) :]
    return path


def find_endpoint(method: str, path: str) -> Endpoint | Answer:
    """The endpoint at `path` (below the route), or the answer that says why there is none: 404, 405."""
    try:
        endpoint = Endpoint(path)
    except ValueError:
        known = ", ".join(Endpoint)
        return error_answer(404, "ENDPOINT_NOT_FOUND", f"There is nothing at this path; below the route are {known}.")
    if method not in _METHODS[endpoint]:
        allowed = " or ".join(_METHODS[endpoint])
        return error_answer(405, "METHOD_NOT_ALLOWED", f"{endpoint} answers {allowed}, not {method[:20]}.")
    return endpoint


def allowed_methods(path: str) -> str:
    """The value of the header `Allow` that belongs to a 405."""
    return ", ".join(_METHODS[Endpoint(path)])
