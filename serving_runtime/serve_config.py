"""Releases and model documents as the Ray Serve config that is committed as `serve.yaml` and applied as it stands.

Rules:
- Deterministic: the same releases are the same bytes, models by slug, stable before its candidate.
- One application per live version. What restarts replicas (`args`, `runtime_env`, `ray_actor_options`) comes from the
  release's frozen `Application` only; what changes in place comes from the model document.
- An `autoscaling_config` block is there from the first day: adding one later would restart every replica.
- The public route is stable's; a first version, which has no host, gets it in SETTLING, and so does one of an
  emergency, whose host is failing.
- A stop is written at both ends: the host's split is gone and the candidate drains. One of an emergency does not drain
  before stable has the route again: whoever has it must answer.
- `parse` reads only what `render` can write: a key that Serve would ignore in silence is an error.

This module must not know what runs now: `policies/convergence.py` orders the changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.application import Application, Settings
from policies.config_repo_documents import route_of
from policies.document_errors import read_noun
from policies.documents import ModelDocument, RolloutPolicy
from policies.errors import BadInput
from policies.evidence import Objective, Sli
from policies.names import slug as slug_of
from policies.release import Phase, Release
from policies.serving import Access
from policies.stored_documents import plain
from policies.stored_values import Percent
from policies.strict_yaml import MAX_SERVE_CONFIG, dump
from policies.strict_yaml import parse as parse_yaml
from serving_runtime.app_arguments import IMPORT_PATH, AppArguments
from serving_runtime.front_config import FrontArgs, FrontConfig
from serving_runtime.protocol import RETRY_AFTER_S
from serving_runtime.user_config import UserConfig

DEPLOYMENT = "Model"

SPARE = 16
"""Requests that Serve lets through above the limits of a replica's door: the door turns them away in their protocol's
words and answers health checks. What comes on top of these Serve answers by itself, in plain text."""
QUEUED_PER_ONGOING = 8
"""Requests that wait per one in progress: the last of them waits eight answers' time, and more would only time out."""
HEALTH_CHECK_PERIOD_S = 10.0
"""Serve's default: a replica that says it is unhealthy goes after three times, so within half a minute, and one whose
event loop hangs after three timeouts of HEALTH_CHECK_TIMEOUT_S; at no cost that can be measured."""
HEALTH_CHECK_TIMEOUT_S = 30.0
"""Serve's default: three periods, so that a replica that pauses for garbage collection or swap is not killed."""
MAX_SURGE_PERCENT = 100
"""A replica that restarts has its successor first: with Serve's 0 a single replica stalls for its whole load time."""
CANDIDATE_SHARE_OF_TIMEOUT = 0.5
"""Of the request's time a candidate may use half: the other half is left for stable's answer."""

_MIB = 1024 * 1024
_DECIMALS = 12  # 1 - 0.99 is 0.010000000000000009 in binary
_COMMENT = "# Written by Sluicegate: the Ray Serve config, exactly what is applied. Do not edit; revert a commit.\n"
_STRICT = ConfigDict(extra="forbid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToServe:
    """One model of an environment, and what its candidates are held to."""

    release: Release
    model: ModelDocument
    policy: RolloutPolicy
    objectives: tuple[Objective, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all models of one environment share."""

    tracking_uri: str
    """Where the replicas find MLflow."""
    access: Access | None = None


def render(models: Sequence[ToServe], around: Surroundings) -> dict[str, Any]:
    """The Serve config of one environment: plain data, ready for `text` and for `PUT`.

    Raises BadInput for a model name that has no slug.
    """
    by_slug = {slug_of(each.release.model): each for each in models}
    return {
        "applications": [
            application for slug, each in sorted(by_slug.items()) for application in _applications(slug, each, around)
        ]
    }


def text(config: Mapping[str, Any]) -> str:
    """The text of `environments/<environment>/serve.yaml`."""
    return _COMMENT + dump(config)


def parse(text: str, file: str = "serve.yaml") -> dict[str, Any]:
    """The config from its text. Raises BadInput with file, line, field and what is wrong: unknown keys too."""
    parsed = parse_yaml(text, file, max_characters=MAX_SERVE_CONFIG)
    if parsed.data is None:
        return {"applications": []}
    notes = read_noun(ServeConfig, parsed, file).notes
    if notes:
        raise BadInput("\n".join(str(note) for note in notes))
    return dict(parsed.data)


# --- one release ------------------------------------------------------------------------------------------------


def _applications(slug: str, each: ToServe, around: Surroundings) -> Iterator[dict[str, Any]]:
    release, model = each.release, each.model
    phase = phase_in_force(release)
    route = route_of(model)
    alone = _answers_alone(release)
    if release.stable is not None:
        own = _user_config(slug, release.stable, each, around)
        own["split"] = None if alone else _split(slug, each)
        yield _application(slug, release.stable, model, own, None if alone else route, around)
    if release.candidate is not None and phase is not Phase.STEADY:
        own = _user_config(slug, release.candidate, each, around)
        had_the_route = release.candidate_takes_the_route and release.stable is not None
        own["drain"] = phase is Phase.ROLLING_BACK and not had_the_route
        # Told before its route comes: the next step of one in SETTLING is to have it.
        own["public"] = phase is Phase.SETTLING or release.candidate_takes_the_route
        yield _application(slug, release.candidate, model, own, route if alone else None, around)


def host_of(release: Release) -> Application | None:
    """The version that has the route, and answers for the model; none where there is none yet."""
    return release.candidate if _answers_alone(release) else release.stable


def _answers_alone(release: Release) -> bool:
    """Does the candidate have the route?"""
    return release.candidate_takes_the_route and phase_in_force(release) is Phase.SETTLING


def phase_in_force(release: Release) -> Phase:
    """The phase whose traffic is served: a paused release keeps what it was paused from."""
    if release.phase is Phase.PAUSED and release.rollout and release.rollout.paused_from:
        return release.rollout.paused_from
    return release.phase


def _split(slug: str, each: ToServe) -> dict[str, Any] | None:
    """What the host gives its candidate; none where it gets nothing."""
    release, model = each.release, each.model
    candidate, phase = release.candidate, phase_in_force(release)
    if candidate is None or phase not in (Phase.SHADOW, Phase.CANARY, Phase.PAUSED, Phase.SETTLING):
        return None
    timeout_s = model.request_timeout.total_seconds()
    limit_s = model.candidate_timeout.total_seconds() if model.candidate_timeout else None
    return {
        "application": candidate.name(slug),
        "version": candidate.version,
        "build": candidate.build,
        "weight_percent": _weight_percent(release, phase),
        "shadow": phase is Phase.SHADOW,
        "timeout_s": min(limit_s or timeout_s * CANDIDATE_SHARE_OF_TIMEOUT, timeout_s),
        "max_ongoing": model.candidate_max_ongoing,
        "guard": _guard(each),
        "agreement": _agreement(each),
    }


def _guard(each: ToServe) -> dict[str, float] | None:
    """What the guard at the host knows: the strictest SLO of errors; none where the policy or the SLOs have none."""
    targets = [objective.target for objective in each.objectives if objective.sli is Sli.ERRORS]
    if each.policy.guard is None or not targets:
        return None
    return {"allowed": round(1.0 - max(targets), _DECIMALS), "alpha": each.policy.guard.alpha}


def _agreement(each: ToServe) -> dict[str, float | None] | None:
    """How predictions are compared; none where no SLO asks for it."""
    if all(objective.sli is not Sli.AGREEMENT for objective in each.objectives):
        return None
    return {"tolerance": each.policy.agreement.tolerance}


def _weight_percent(release: Release, phase: Phase) -> int:
    if phase is Phase.SHADOW:
        return 0
    return 100 if phase is Phase.SETTLING else release.weight_percent


def _user_config(slug: str, application: Application, each: ToServe, around: Surroundings) -> dict[str, Any]:
    model = each.model
    return {
        "revision": each.release.traffic_revision,
        "public": True,
        "drain": False,
        "hold": False,
        "model": slug,
        "version": application.version,
        "build": application.build,
        "request_timeout_s": model.request_timeout.total_seconds(),
        "route": route_of(model),
        "split": None,
        "max_ongoing_requests": model.max_ongoing_requests,
        "max_queued_requests": _queued(model),
        **_written(model, "memory_limit_mib", "batching", "sticky", "segments", "forced_version", "capture"),
        **_written(around, "access"),
        **({"feedback": True} if any(one.sli is Sli.FEEDBACK for one in each.objectives) else {}),
    }


def _queued(model: ModelDocument) -> int:
    return model.max_queued_requests or model.max_ongoing_requests * QUEUED_PER_ONGOING


def _written(document: Any, *names: str) -> dict[str, Any]:
    """Of these fields those that somebody wrote: what nobody uses stays out of the file."""
    return {name: plain(value) for name in names if (value := getattr(document, name)) is not None}


def _application(
    slug: str,
    application: Application,
    model: ModelDocument,
    user_config: Mapping[str, Any],
    route: str | None,
    around: Surroundings,
) -> dict[str, Any]:
    environment = runtime_env(application.settings, application.requirements)
    return {
        "name": application.name(slug),
        "route_prefix": route,
        "import_path": IMPORT_PATH,
        **({"runtime_env": environment} if environment else {}),
        "args": {
            "model": model.name,
            "slug": slug,
            "version": application.version,
            "digest": application.digest,
            "build": application.build,
            "tracking_uri": around.tracking_uri,
            **_written(application.settings, "features"),
        },
        "deployments": [_deployment(application.settings, model, user_config)],
    }


def _deployment(settings: Settings, model: ModelDocument, user_config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": DEPLOYMENT,
        "user_config": dict(user_config),
        "autoscaling_config": dataclasses.asdict(model.autoscaling),
        "max_ongoing_requests": model.max_ongoing_requests + _queued(model) + SPARE,
        # Serve counts as queued what it has only just read, and with few of them turns away a burst that finds all
        # places free. Whoever is above what the door takes is turned away by the door, so nobody stays in this queue.
        "max_queued_requests": model.max_ongoing_requests + _queued(model) + SPARE,
        "backpressure_config": {"status_code": 503, "retry_after_s": RETRY_AFTER_S},
        "max_surge_percent": MAX_SURGE_PERCENT,
        "graceful_shutdown_timeout_s": model.graceful_shutdown.total_seconds(),
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        "ray_actor_options": actor_options(settings),
        **placement(settings),
    }


def actor_options(settings: Settings) -> dict[str, Any]:
    """What each replica reserves."""
    options: dict[str, Any] = {"num_cpus": settings.cpus}
    if settings.gpus:
        options["num_gpus"] = settings.gpus
    if settings.memory_mib is not None:
        options["memory"] = settings.memory_mib * _MIB
    if settings.custom:
        options["resources"] = dict(sorted(settings.custom.items()))
    return options


def placement(settings: Settings) -> dict[str, Any]:
    """Serve places the replica itself in the first bundle."""
    if settings.placement is None:
        return {}
    bundles = [dict(sorted(bundle.items())) for bundle in settings.placement.bundles]
    return {"placement_group_bundles": bundles, "placement_group_strategy": settings.placement.strategy}


def runtime_env(settings: Settings, requirements: Sequence[str] = ()) -> dict[str, Any]:
    """Only what is asked for: an empty pip list would make Ray build a virtual environment for nothing."""
    environment: dict[str, Any] = {}
    if packages := list(dict.fromkeys((*requirements, *settings.packages))):
        environment["uv" if settings.environment == "uv" else "pip"] = packages
    if settings.image:
        environment["image_uri"] = settings.image
    if settings.env:
        environment["env_vars"] = dict(sorted(settings.env.items()))
    return environment


# --- what may be read back --------------------------------------------------------------------------------------


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeAutoscaling:
    """How many replicas."""

    min_replicas: Annotated[int, Field(ge=1)]
    max_replicas: Annotated[int, Field(ge=1)]
    target_ongoing_requests: Annotated[float, Field(gt=0)]


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeActorOptions:
    """What a replica reserves."""

    num_cpus: float
    num_gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] | None = None


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeBackpressure:
    """What Serve itself answers when it is full."""

    status_code: int
    retry_after_s: float


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeReplicas:
    """How a deployment's replicas are kept."""

    autoscaling_config: ServeAutoscaling
    max_ongoing_requests: int
    max_queued_requests: int
    backpressure_config: ServeBackpressure | None = None
    """None in those of older Sluicegates."""
    max_surge_percent: Percent
    graceful_shutdown_timeout_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    ray_actor_options: ServeActorOptions
    placement_group_bundles: tuple[Mapping[str, float], ...] | None = None
    placement_group_strategy: str | None = None


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeDeployment(ServeReplicas):
    """The one deployment of a version."""

    name: Literal["Model"]
    user_config: UserConfig


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeRuntimeEnv:
    """What Ray prepares for the replicas."""

    pip: tuple[str, ...] | None = None
    uv: tuple[str, ...] | None = None
    image_uri: str | None = None
    env_vars: Mapping[str, str] | None = None


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeApplication:
    """One live version."""

    name: str
    route_prefix: str | None
    import_path: Literal["serving_runtime.app:build"]
    runtime_env: ServeRuntimeEnv | None = None
    args: AppArguments
    deployments: Annotated[tuple[ServeDeployment, ...], Field(min_length=1, max_length=1)]


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeFrontDeployment(ServeReplicas):
    """The one deployment of a front."""

    name: Literal["Front"]
    user_config: FrontConfig


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeFront:
    """One front (`serve_fronts.py`)."""

    name: str
    route_prefix: str | None
    import_path: Literal["serving_runtime.front_app:build"]
    runtime_env: ServeRuntimeEnv | None = None
    args: FrontArgs
    deployments: Annotated[tuple[ServeFrontDeployment, ...], Field(min_length=1, max_length=1)]


@document(frozen=True, kw_only=True, config=_STRICT)
class ServeConfig:
    """The whole file."""

    applications: tuple[Annotated[ServeApplication | ServeFront, Field(discriminator="import_path")], ...]
