"""What there is below a model's route: method and path -> endpoint, or the answer that says why there is none. Pure.

Rules:
- The table below is all there is: a path that is not in it is 404, a method that its row does not name is 405.
- A path is compared as the server decoded it, part by part; nothing is decoded again, normalised or completed.
- Which model and version a path may name, whoever answers it knows.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum
from typing import Final

from serving_runtime.protocol import Answer, error_answer


class Endpoint(StrEnum):
    """What a replica answers, below its route. `{model}` and `{version}` stand for one part of the path each."""

    INVOCATIONS = "/invocations"
    PING = "/ping"
    HEALTH = "/health"
    VERSION = "/version"
    FEEDBACK = "/feedback"
    OPENAPI = "/openapi.json"
    V2_SERVER = "/v2"
    V2_LIVE = "/v2/health/live"
    V2_READY = "/v2/health/ready"
    V2_MODEL = "/v2/models/{model}"
    V2_MODEL_READY = "/v2/models/{model}/ready"
    V2_INFER = "/v2/models/{model}/infer"
    V2_VERSION = "/v2/models/{model}/versions/{version}"
    V2_VERSION_READY = "/v2/models/{model}/versions/{version}/ready"
    V2_VERSION_INFER = "/v2/models/{model}/versions/{version}/infer"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it answers."""
        return ("POST",) if self in _POST else ("GET", "HEAD")


OPEN: Final = frozenset(
    {
        *(Endpoint.PING, Endpoint.HEALTH, Endpoint.V2_LIVE, Endpoint.V2_READY),
        *(Endpoint.V2_MODEL_READY, Endpoint.V2_VERSION_READY),
    }
)
"""Answered to everybody: load balancers have no key, and these say nothing but whether what they name is ready."""

_POST: Final = frozenset({Endpoint.INVOCATIONS, Endpoint.FEEDBACK, Endpoint.V2_INFER, Endpoint.V2_VERSION_INFER})


@dataclasses.dataclass(frozen=True)
class Found:
    """An endpoint, and the model and version that its path names."""

    endpoint: Endpoint
    model: str | None = None
    version: str | None = None


_PLAIN: Final = {str(each): Found(each) for each in Endpoint if "{" not in each}
_TEMPLATES: Final = tuple((each, tuple(each.split("/"))) for each in Endpoint if "{" in each)


def below_route(path: str, *roots: str) -> str:
    """The path without the first of these roots that it begins with; an empty root is none."""
    for root in roots:
        if root and path.startswith(f"{root}/"):
            return path[len(root) :]
    return path


def find_endpoint(method: str, path: str) -> Found | Answer:
    """The endpoint at `path` (below the route), or the answer that says why there is none: 404, 405."""
    found = _PLAIN.get(path) or _match(path)
    if found is None:
        known = ", ".join(Endpoint)
        return error_answer(404, "ENDPOINT_NOT_FOUND", f"There is nothing at this path; below the route are {known}.")
    methods = found.endpoint.methods
    if method not in methods:
        words = f"{found.endpoint} answers {' or '.join(methods)}, not {method[:20]}."
        allow = (("allow", ", ".join(methods)),)
        return error_answer(405, "METHOD_NOT_ALLOWED", words)._replace(headers=allow)
    return found


def is_v2(path: str) -> bool:
    """Does the path (below the route) belong to the Open Inference Protocol?"""
    return path == Endpoint.V2_SERVER or path.startswith(f"{Endpoint.V2_SERVER}/")


def ends_in_v2(path: str) -> bool:
    """The same for a whole path, of which nobody has told where its route ends."""
    tails = (path[at.start() :] for at in re.finditer(str(Endpoint.V2_SERVER), path))
    return any(is_v2(tail) and (tail in _PLAIN or _match(tail) is not None) for tail in tails)


def _match(path: str) -> Found | None:
    parts = path.split("/")
    for endpoint, template in _TEMPLATES:
        if len(parts) != len(template):
            continue
        names = {want: part for want, part in zip(template, parts, strict=True) if want != part}
        if all(want.startswith("{") and part for want, part in names.items()):
            return Found(endpoint, names.get("{model}"), names.get("{version}"))
    return None
