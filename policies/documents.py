"""The documents of a config repo that people write, as nouns: `sluice.yaml`, `models/*.yaml`, `policies/*.yaml`.

Rules:
- Strict: unknown keys, wrong kinds and values out of range are errors that name file, line, field and what would be
  right (`strict_yaml.py` reads, `config_repo_documents.py` puts a whole repo together).
- Each field's docstring is its description in the JSON Schema that `sluice schema` exports.
- What is written here is only the shape and the defaults; what it means is decided elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.admission_terms import AdmissionTerms
from policies.application import Settings
from policies.durations import Duration, format_duration
from policies.forges import ForgeTarget, Webhooks
from policies.loopback import leads_to_loopback
from policies.reserved_amounts import SMALLEST
from policies.serving import Access, Batching, Capture, ForcedVersion, RequestKey, Segments
from policies.stored_values import Percent
from policies.wrong_fields import WrongFields

API_VERSION = "sluicegate/v1"

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
# Nothing can be counted in bins without a width; what is sensible, lint says.
_SHORTEST_SCRAPE = timedelta(milliseconds=100)
# An hour: replicas refuse to be told of a longer one (`serving_runtime/user_config.py`).
_LONGEST_REQUEST = timedelta(hours=1)


# --- sluice.yaml ----------------------------------------------------------------------------------------------


@document(frozen=True, kw_only=True, config=_STRICT)
class Trigger:
    """What in the registry means "serve this here". Exactly one of the three."""

    stage: Literal["Staging", "Production"] | None = None
    """A model version stage."""
    alias: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """An alias, without the @."""
    tag: Annotated[str, Field(min_length=3, pattern=r"^[^=]+=.+$")] | None = None
    """A tag on the version, written key=value."""

    def __post_init__(self) -> None:
        """Exactly one must be set. Raises ValueError."""
        given = [name for name in ("stage", "alias", "tag") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a trigger is exactly one of stage, alias or tag; this one has {' and '.join(given) or 'none'}"
            )

    def __str__(self) -> str:
        """As a person would write it: stage Production, alias @champion, tag key=value."""
        if self.stage:
            return f"stage {self.stage}"
        return f"alias @{self.alias}" if self.alias else f"tag {self.tag}"


@document(frozen=True, kw_only=True, config=_STRICT)
class RayTarget:
    """The Ray cluster of an environment."""

    dashboard: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] = "http://127.0.0.1:8265"
    """Address of the Ray dashboard, which answers /api/serve/applications/. Its token comes from RAY_AUTH_TOKEN."""
    rayservice: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$", max_length=120)] | None = None
    """With target kuberay: namespace/name of the RayService whose status is read from the Kubernetes API, with the
    pod's service account; none: it is not read, and a cluster upgrade shows only as a step that does not arrive."""


@document(frozen=True, kw_only=True, config=_STRICT)
class PrometheusTarget:
    """The Prometheus that scrapes an environment's Ray cluster."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] = "http://127.0.0.1:9090"
    """Address of Prometheus, or of what answers its API."""
    scrape_interval: Duration = timedelta(seconds=15)
    """How often it scrapes Ray; evidence is counted in bins of this width."""
    labels: Mapping[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")], str] = dataclasses.field(
        default_factory=dict
    )
    """Labels that select this environment's series where one Prometheus sees several clusters."""

    def __post_init__(self) -> None:
        """Raises ValueError where bins would have no width."""
        if self.scrape_interval < _SHORTEST_SCRAPE:
            message = "scrape_interval is no time at all: evidence is counted in bins of that width"
            raise WrongFields(message, "scrape_interval")


@document(frozen=True, kw_only=True, config=_STRICT)
class Autoscaling:
    """How many replicas; changes in place."""

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas at least."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas at most."""
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 2.0
    """Requests in progress per replica that scaling aims for."""

    def __post_init__(self) -> None:
        """Raises ValueError where there would be more replicas at least than at most."""
        if self.min_replicas > self.max_replicas:
            message = f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}"
            raise WrongFields(message, "min_replicas", "max_replicas")


@document(frozen=True, kw_only=True, config=_STRICT)
class GrpcEntry:
    """The Open Inference Protocol over gRPC, for all models of the environment. Serve must have been started for it."""

    enabled: bool = False
    """Clients name it in their metadata: application = sluice-grpc."""
    cpus: Annotated[float, Field(ge=SMALLEST, le=512)] = 0.5
    """CPUs each of its replicas reserves."""
    autoscaling: Autoscaling = dataclasses.field(default_factory=Autoscaling)
    max_ongoing_requests: Annotated[int, Field(ge=1, le=10000)] = 64
    """Requests in progress that one replica takes at most."""


@document(frozen=True, kw_only=True, config=_STRICT)
class EnvironmentDocument:
    """One Ray cluster with its own trigger."""

    trigger: Trigger
    """What in the registry means "serve this here": exactly one of stage, alias and tag."""
    target: Literal["ray", "kuberay"] = "ray"
    """Who brings Ray to what Git says: Sluicegate itself, or KubeRay's operator by `rayservice.yaml`."""
    ray: RayTarget = dataclasses.field(default_factory=RayTarget)
    prometheus: PrometheusTarget = dataclasses.field(default_factory=PrometheusTarget)
    on_rollback: Literal["restore", "annotate"] = "restore"
    """What the registry is told after a rollback: move the trigger back to the stable version, or tags only."""
    look_interval: Duration = timedelta(seconds=15)
    """How often everything is looked at; at least 1s, and 5s or more where not all of it is on this machine."""
    review: Literal["none", "required", "every_step"] = "none"
    """What people agree to by a pull request before it happens: nothing; that a rollout starts; that, and each step."""
    review_approvals: Annotated[int, Field(ge=0, le=10)] = 1
    """Approvals of the head that is merged; with 0 the merge itself is enough."""
    access: Access | None = None
    """Who may call the models; none: anybody who reaches them, which is meant for a cluster on loopback only."""
    grpc: GrpcEntry = dataclasses.field(default_factory=GrpcEntry)


@document(frozen=True, kw_only=True, config=_STRICT)
class EdgeDocument:
    """A Ray cluster that serves what an environment has promoted; `sluice pull` there applies it. It judges nothing."""

    follows: Annotated[str, Field(min_length=1)]
    """The environment whose stable versions it serves."""
    ray: RayTarget = dataclasses.field(default_factory=RayTarget)
    access: Access | None = None
    """Who may call the models there; none: anybody who reaches them, which is meant for a cluster on loopback only."""


@document(frozen=True, kw_only=True, config=_STRICT)
class RegistryTarget:
    """The MLflow registry. Credentials come from MLflow's own environment variables."""

    tracking_uri: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] = "http://127.0.0.1:5000"
    """Address of the MLflow server, reached by Sluicegate and by the replicas."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Signatures:
    """Whose changes count: what `policies/allowed_signers` does not vouch for is not applied."""

    paths: tuple[Literal["models/", "ensembles/", "policies/", "clusters/", "environments/"], ...] = (
        "models/",
        "ensembles/",
        "policies/",
        "clusters/",
    )
    """The folders whose changes must be signed; sluice.yaml, allowed_signers and accepted histories are always.
    With environments/ Sluicegate must sign, too (SLUICE_SIGNING_KEY), and so must who pauses or aborts."""


@document(frozen=True, kw_only=True, config=_STRICT)
class SluiceDocument:
    """`sluice.yaml`: the environments of this config repo."""

    registry: RegistryTarget = dataclasses.field(default_factory=RegistryTarget)
    signatures: Signatures | None = None
    """Changes must be signed; none: whoever may push may change."""
    environments: Annotated[Mapping[str, EnvironmentDocument], Field(min_length=1)]
    """By name: lower-case letters, digits and dashes."""
    forge: ForgeTarget | None = None
    """The forge that hosts this repo; none: it is a Git server like any other, and there are no pull requests."""
    webhooks: Webhooks | None = None
    """None: nothing listens, and changes are seen at the next look."""
    edges: Mapping[str, EdgeDocument] = dataclasses.field(default_factory=dict)
    """Clusters that only pull, by name; no environment has the same."""

    def is_on_one_machine(self, environment: str) -> bool:
        """Are the registry, the forge, and this environment's Ray and Prometheus all here? Then no one else is asked.

        So is the local stack of `sluice up`.
        """
        place = self.environments[environment]
        here = all(map(leads_to_loopback, (self.registry.tracking_uri, place.ray.dashboard, place.prometheus.url)))
        return here and (self.forge is None or leads_to_loopback(self.forge.url or ""))


# --- models/<model>.yaml --------------------------------------------------------------------------------------


@document(frozen=True, kw_only=True, config=_STRICT)
class ModelDocument:
    """`models/<model>.yaml`: how one registered model is served."""

    name: Annotated[str, Field(min_length=1, max_length=250)]
    """The registered model's name in MLflow, as it is there."""
    route: Annotated[str, Field(pattern=r"^/[a-z0-9]([a-z0-9._/-]*[a-z0-9])?$", max_length=200)] | None = None
    """Where it is reached; none means /models/<slug of the name>."""
    environments: tuple[str, ...] | None = None
    """The environments that serve it; none means all."""
    settings: Settings = dataclasses.field(default_factory=Settings)
    """What restarts replicas when it changes: a change is rolled out like a new version."""
    autoscaling: Autoscaling = dataclasses.field(default_factory=Autoscaling)
    max_ongoing_requests: Annotated[int, Field(ge=1, le=10000)] = 32
    """Requests in progress that one replica takes at most."""
    max_queued_requests: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests that wait for a replica at most; none means eight for each in progress."""
    memory_limit_mib: Annotated[int, Field(ge=64)] | None = None
    """A replica that grows above it is replaced; none: it may grow until the node is full."""
    request_timeout: Duration = timedelta(seconds=30)
    """After this an answer is a failure; at most 1h."""
    candidate_timeout: Duration | None = None
    """After this the host answers in the candidate's place; none means request_timeout / 2."""
    candidate_max_ongoing: Annotated[int, Field(ge=1, le=10000)] = 16
    """Requests in progress at the candidate per host replica; above, stable answers."""
    batching: Batching | None = None
    """Predict what arrives together in one call; none: each request by itself."""
    sticky: RequestKey | None = None
    """Keeps one user with one version; none: every request is drawn."""
    segments: Segments | None = None
    """Measures latency by a value of the request, too."""
    forced_version: ForcedVersion | None = None
    """Lets some callers choose the version; none: nobody."""
    capture: Capture | None = None
    """Keeps a share of requests and answers; none: nothing is kept."""
    graceful_shutdown: Duration = timedelta(seconds=40)
    """How long a replica that is going away may finish its requests; must be above request_timeout."""
    rollout: str = "default"
    """The RolloutPolicy, by name."""
    slos: tuple[str, ...] = ("errors", "latency")
    """The SLOs a candidate is judged by, by name."""

    def __post_init__(self) -> None:
        """Raises ValueError where requests would be cut off by a shutdown, or nothing would be judged."""
        check_request_times(self.request_timeout, self.graceful_shutdown)
        if not self.slos:
            raise WrongFields("slos is empty: a candidate that is not judged could never pass", "slos")


def check_request_times(request_timeout: timedelta, graceful_shutdown: timedelta) -> None:
    """Of a model or an ensemble. Raises ValueError where requests would be cut off when replicas are replaced."""
    request, graceful = format_duration(request_timeout), format_duration(graceful_shutdown)
    if not timedelta() < request_timeout <= _LONGEST_REQUEST:
        raise WrongFields(f"request_timeout is above 0s and at most 1h, not {request}", "request_timeout")
    if graceful_shutdown <= request_timeout:
        message = f"graceful_shutdown {graceful} is not longer than request_timeout {request}: requests would be lost"
        raise WrongFields(message, "graceful_shutdown", "request_timeout")


# --- policies/*.yaml ------------------------------------------------------------------------------------------


@document(frozen=True, kw_only=True, config=_STRICT)
class Bake:
    """How long one step lasts and how much it must see."""

    min_duration: Duration = timedelta(minutes=5)
    """A step passes after this at the soonest, counted from when its weight was live."""
    max_duration: Duration = timedelta(minutes=30)
    """Then the step is inconclusive."""
    min_requests: Annotated[int, Field(ge=0)] = 0
    """Requests that the candidate must have answered in this step."""

    def __post_init__(self) -> None:
        """Raises ValueError where a step could only ever be inconclusive."""
        if self.min_duration > self.max_duration:
            least, most = format_duration(self.min_duration), format_duration(self.max_duration)
            message = f"min_duration {least} is longer than max_duration {most}: the step could never pass"
            raise WrongFields(message, "min_duration", "max_duration")


@document(frozen=True, kw_only=True, config=_STRICT)
class Guard:
    """The judge at the host: stops a candidate within a few requests, without Prometheus or Git."""

    alpha: Annotated[float, Field(gt=0, le=0.05)] = 0.001
    """Chance at most that it stops a healthy version, per host replica over the whole rollout."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Budget:
    """What a rollout may do to the error budget of an SLO."""

    burn_rate: Annotated[float, Field(gt=0)] = 14.4
    """A rollout does not start while the service burns its budget this many times as fast as it lasts, over both
    windows. 14.4 spends 2 % of a 30-day budget in an hour."""
    short_window: Duration = timedelta(minutes=5)
    """Burning now, too."""
    long_window: Duration = timedelta(hours=1)
    """And for long enough to matter."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the whole window's budget that one rollout may spend; then it is taken back."""

    def __post_init__(self) -> None:
        """Raises ValueError where the windows are the wrong way round."""
        if not timedelta() < self.short_window < self.long_window <= timedelta(days=1):
            short, long = format_duration(self.short_window), format_duration(self.long_window)
            message = f"short_window {short} and long_window {long} should be 0s < short_window < long_window <= 1d"
            blamed = ("short_window", "long_window")
            raise WrongFields(message, *(blamed if self.long_window <= timedelta(days=1) else reversed(blamed)))


@document(frozen=True, kw_only=True, config=_STRICT)
class Agreement:
    """When two predictions count as the same, for an SLO of `sli: agreement`."""

    tolerance: Annotated[float, Field(ge=0)] | None = None
    """Numbers: largest difference, relative to stable's prediction. null: classes, which must be equal."""


@document(frozen=True, kw_only=True, config=_STRICT)
class RolloutPolicy:
    """`kind: RolloutPolicy`: how a candidate becomes stable."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
    """What models name under `rollout`."""
    shadow: Bake | None = dataclasses.field(default_factory=lambda: Bake(max_duration=timedelta(hours=6)))
    """The step in which copies go to the candidate and stable answers; null leaves it out."""
    steps: tuple[Annotated[Percent, Field(ge=1, le=99)], ...] = (5, 10, 25, 50)
    """Shares of requests, percent, rising; 100 follows by itself as SETTLING."""
    step: Bake = dataclasses.field(default_factory=Bake)
    """Every step of the canary."""
    settle: Bake = dataclasses.field(default_factory=Bake)
    """The time at 100 % in which the old version can still answer."""
    ready_deadline: Duration = timedelta(minutes=10)
    """A candidate that is not ready by then is rolled back."""
    metrics_deadline: Duration = timedelta(minutes=10)
    """Evidence that is unavailable for longer pauses the rollout."""
    max_duration: Duration = timedelta(hours=8)
    """The whole rollout; then it is inconclusive."""
    registry_deadline: Duration = timedelta(minutes=10)
    """How long a rollback waits for the registry to be told before it ends without."""
    on_inconclusive: Literal["pause", "rollback", "promote_if_stable_equal"] = "pause"
    """What an inconclusive step does: a person decides; it is rolled back and quarantined; or it goes on where the
    candidate is proved to be within `margin` of stable and no harm is shown, else it pauses."""
    on_metrics_down: Literal["pause", "rollback"] = "pause"
    """What happens when evidence has been unavailable for metrics_deadline; rollback blames nobody."""
    on_newer: Literal["queue", "supersede"] = "queue"
    """What a version that enters the trigger during a rollout does: wait for its end, or end it."""
    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Chance at most that a healthy version is rolled back, over the whole rollout."""
    beta: Annotated[float, Field(gt=0, le=0.2)] = 0.01
    """Chance at most that a version outside its SLO is proved healthy, per SLO."""
    min_effect: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """A rate of bad answers must be above what it is compared with by this much, and by a tenth of what the SLO allows,
    before it is called harm."""
    tolerance: Annotated[float, Field(ge=1, le=10)] = 1.5
    """A candidate whose bad rate is above stable's by more than this factor is harmful, also within its SLO."""
    margin: Annotated[float, Field(gt=1, le=10)] = 1.25
    """Where stable itself is near its SLO, a candidate passes that is proved to have at most this many times stable's
    bad rate."""
    guard: Guard | None = dataclasses.field(default_factory=Guard)
    """The judge at the host; null leaves it out."""
    budget: Budget | None = dataclasses.field(default_factory=Budget)
    """What a rollout may do to the error budget; null: nobody asks."""
    agreement: Agreement = dataclasses.field(default_factory=Agreement)
    admission: AdmissionTerms = dataclasses.field(default_factory=AdmissionTerms)
    """What is asked of a version before it is tried."""

    def __post_init__(self) -> None:
        """Raises ValueError where the steps do not rise."""
        if list(self.steps) != sorted(set(self.steps)):
            raise WrongFields(f"steps must rise: {list(self.steps)}", "steps")
