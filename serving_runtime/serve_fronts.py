"""Fronts as applications of the Ray Serve config, beside the versions that `serve_config.py` renders.

Rules:
- Deterministic: the same documents and releases are the same bytes; ensembles by name, then the entry for gRPC.
- A front names the application that has its member's route, or will have it in the same config. A member without one
  (no version yet) is left out; an ensemble that has too few is not served, and neither is an entry without a model.
- What restarts replicas is in `args`; the members' hosts are in the `user_config`, and change in place.
- A placement is in the `user_config` too: Serve takes no notice of a placement group that changes alone, and a front
  keeps one name for ever. (A version's settings are in its application's name.)

This module must not know what runs now: `policies/asking.py` says when a front may be told of a host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policies.application import Settings
from policies.documents import GrpcEntry
from policies.fronts import GRPC_APPLICATION, GRPC_ROUTE, EnsembleDocument, Fronts, ensemble_route
from policies.names import slug as slug_of
from policies.stored_documents import plain
from serving_runtime.protocol import RETRY_AFTER_S
from serving_runtime.serve_config import (
    HEALTH_CHECK_PERIOD_S,
    HEALTH_CHECK_TIMEOUT_S,
    MAX_SURGE_PERCENT,
    QUEUED_PER_ONGOING,
    Surroundings,
    ToServe,
    actor_options,
    host_of,
    placement,
    runtime_env,
)

IMPORT_PATH = "serving_runtime.front_app:build"
DEPLOYMENT = "Front"

GRPC_SHUTDOWN_S = 10.0
"""How much longer than its longest request a replica of the entry may take to go."""


@dataclasses.dataclass(frozen=True)
class _Hosted:
    """A model with the application that hosts it."""

    slug: str
    name: str
    application: str
    timeout_s: float


def render_fronts(fronts: Fronts, models: Sequence[ToServe], around: Surroundings) -> list[dict[str, Any]]:
    """The applications of all fronts that can answer. Raises BadInput for a model name that has no slug."""
    hosted = {each.slug: each for each in sorted(_hosted(models), key=lambda each: each.slug)}
    applications = [_ensemble(each, hosted, around) for each in fronts.ensembles if _can_answer(each, hosted)]
    if fronts.grpc is not None and hosted:
        applications.append(_grpc_entry(fronts.grpc, hosted, around))
    return applications


def _hosted(models: Sequence[ToServe]) -> Iterator[_Hosted]:
    for each in models:
        host, slug = host_of(each.release), slug_of(each.release.model)
        if host is not None:
            timeout_s = each.model.request_timeout.total_seconds()
            yield _Hosted(slug, each.model.name, host.name(slug), timeout_s)


def _can_answer(ensemble: EnsembleDocument, hosted: Mapping[str, _Hosted]) -> bool:
    return len(_slugs(ensemble) & hosted.keys()) >= ensemble.needed


def _slugs(ensemble: EnsembleDocument) -> frozenset[str]:
    return frozenset(slug_of(name) for name in ensemble.members)


def _ensemble(ensemble: EnsembleDocument, hosted: Mapping[str, _Hosted], around: Surroundings) -> dict[str, Any]:
    slugs = [slug_of(name) for name in ensemble.members]
    patience_s = ensemble.patience.total_seconds()
    args = {
        "kind": "ensemble",
        "name": ensemble.name,
        "combine": ensemble.combine,
        "options": plain(ensemble.options),
    }
    user_config = {
        "front": ensemble.name,
        "route": ensemble_route(ensemble),
        "request_timeout_s": ensemble.request_timeout.total_seconds(),
        "needed": ensemble.needed,
        "members": [_member(hosted[slug], patience_s) for slug in slugs if slug in hosted],
        **_access(around),
        **_placed(ensemble.settings),
    }
    environment = runtime_env(ensemble.settings)
    return {
        "name": ensemble.application,
        "route_prefix": ensemble_route(ensemble),
        "import_path": IMPORT_PATH,
        **({"runtime_env": environment} if environment else {}),
        "args": args,
        "deployments": [
            _deployment(ensemble, user_config, ensemble.settings, shutdown_s=ensemble.graceful_shutdown.total_seconds())
        ],
    }


def _grpc_entry(grpc: GrpcEntry, hosted: Mapping[str, _Hosted], around: Surroundings) -> dict[str, Any]:
    longest_s = max(each.timeout_s for each in hosted.values())
    user_config = {
        "front": GRPC_APPLICATION,
        "route": GRPC_ROUTE,
        "request_timeout_s": longest_s,
        "members": [_member(each, each.timeout_s) for each in hosted.values()],
        **_access(around),
    }
    return {
        "name": GRPC_APPLICATION,
        "route_prefix": GRPC_ROUTE,
        "import_path": IMPORT_PATH,
        "args": {"kind": "grpc"},
        "deployments": [
            _deployment(grpc, user_config, Settings(cpus=grpc.cpus), shutdown_s=longest_s + GRPC_SHUTDOWN_S)
        ],
    }


def _member(each: _Hosted, timeout_s: float) -> dict[str, Any]:
    return {"model": each.slug, "name": each.name, "application": each.application, "timeout_s": timeout_s}


def _access(around: Surroundings) -> dict[str, Any]:
    return {} if around.access is None else {"access": plain(around.access)}


def _placed(settings: Settings) -> dict[str, Any]:
    return {} if settings.placement is None else {"placement": plain(settings.placement)}


def _deployment(
    document: EnsembleDocument | GrpcEntry, user_config: Mapping[str, Any], settings: Settings, *, shutdown_s: float
) -> dict[str, Any]:
    return {
        "name": DEPLOYMENT,
        "user_config": dict(user_config),
        "autoscaling_config": dataclasses.asdict(document.autoscaling),
        "max_ongoing_requests": document.max_ongoing_requests,
        "max_queued_requests": document.max_ongoing_requests * QUEUED_PER_ONGOING,
        "backpressure_config": {"status_code": 503, "retry_after_s": RETRY_AFTER_S},
        "max_surge_percent": MAX_SURGE_PERCENT,
        "graceful_shutdown_timeout_s": shutdown_s,
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        "ray_actor_options": actor_options(settings),
        **placement(settings),
    }
