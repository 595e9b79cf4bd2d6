"""The composition root: settings to doors, doors to a reconciler.

Rules:
- Every door is made here and nowhere else, one for each address, and kept.
- Heavy packages are imported by the doors themselves, when they are first used.
"""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.defaults import built_in_documents
from pipelines.forges import forge_door
from pipelines.look import Doors
from pipelines.ports import Forge
from pipelines.pulling import Puller
from pipelines.reconciler import Reconciler
from pipelines.settings import Settings
from pipelines.vouched import Trust
from policies.documents import PrometheusTarget, RayTarget, RegistryTarget
from policies.errors import BadInput
from policies.forges import ForgeTarget
from policies.names import check_environment_name
from registry_bridge.config_repo import ConfigRepo
from registry_bridge.git_signatures import Keys
from registry_bridge.mlflow_registry import MlflowRegistry
from registry_bridge.repo_files import is_commit
from serving_runtime.kuberay import KubeRay, RayServiceStatus, kubernetes_api
from serving_runtime.prometheus import PrometheusMetrics
from serving_runtime.ray_cluster import RayCluster, ray_token


class SystemClock:
    """The real time; `wake` ends a wait early."""

    def __init__(self) -> None:
        self._wake = threading.Event()

    def now(self) -> datetime:
        """UTC, aware."""
        return datetime.now(UTC)

    def wait(self, duration: timedelta) -> None:
        """Sleep at most that long."""
        self._wake.wait(duration.total_seconds())
        self._wake.clear()

    def wake(self) -> None:
        """End the current or the next wait."""
        self._wake.set()


def config_repo(settings: Settings) -> ConfigRepo:
    """The door to the config repo, with its clone in the cache."""
    name = hashlib.sha256(f"{settings.repo}\n{settings.branch}".encode()).hexdigest()[:16]
    keys = Keys(signing_key=settings.signing_key, gpg_home=settings.gpg_home)
    cache = settings.cache / "repos" / name
    return ConfigRepo(settings.repo, settings.branch, cache, token=settings.git_token, keys=keys)


def trust(settings: Settings) -> Trust:
    """What the operator says about signatures. Raises BadInput for what cannot be read."""
    commit, file = settings.trusted_commit, settings.allowed_signers
    if commit is not None and not is_commit(commit):
        raise BadInput("SLUICE_TRUSTED_COMMIT is no commit: a full hash")
    try:
        signers = file.read_text(encoding="utf-8") if file is not None else None
    except (OSError, ValueError) as error:
        raise BadInput(f"SLUICE_ALLOWED_SIGNERS cannot be read: {error}") from error
    return Trust(signers=signers, commit=commit)


def forge(settings: Settings, target: ForgeTarget) -> Forge:
    """The door to pull requests into the config repo's branch."""
    return forge_door(target, settings.branch, settings)


class _Kept:
    """The doors that documents name, one for each address."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registries: dict[str, MlflowRegistry] = {}
        self._clusters: dict[str, RayCluster] = {}
        self._services: dict[str, KubeRay] = {}
        self._prometheuses: dict[str, PrometheusMetrics] = {}
        self._forges: dict[str, Forge] = {}

    def registry(self, target: RegistryTarget) -> MlflowRegistry:
        """The registry at that address."""
        return self._registries.setdefault(target.tracking_uri, MlflowRegistry(target.tracking_uri, self._artifacts()))

    def runtime(self, target: RayTarget) -> RayCluster | KubeRay:
        """The cluster at that address, with its RayService's status where one is named."""
        environment = self._settings.environment
        cluster = self._clusters.setdefault(
            target.dashboard, RayCluster(target.dashboard, lambda: ray_token(environment))
        )
        if target.rayservice is None:
            return cluster
        status = RayServiceStatus(kubernetes_api(environment), target.rayservice)
        return self._services.setdefault(repr(target), KubeRay(cluster, status.read))

    def metrics(self, target: PrometheusTarget) -> PrometheusMetrics:
        """The Prometheus at that address, as this environment sees it."""
        return self._prometheuses.setdefault(repr(target), PrometheusMetrics(target))

    def forge(self, target: ForgeTarget) -> Forge:
        """That forge: what limits it has told is remembered."""
        if repr(target) not in self._forges:
            self._forges[repr(target)] = forge(self._settings, target)
        return self._forges[repr(target)]

    def _artifacts(self) -> Path:
        folder = self._settings.cache / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def doors(settings: Settings) -> Doors:
    """Every door that a reconciler needs. Opens no connection yet."""
    kept = _Kept(settings)
    return Doors(
        repo=config_repo(settings),
        registry=kept.registry,
        runtime=kept.runtime,
        metrics=kept.metrics,
        forge=kept.forge,
    )


def reconciler(settings: Settings, clock: SystemClock) -> Reconciler:
    """A reconciler for this config repo."""
    return Reconciler(doors(settings), clock, built_in_documents(), trust(settings))


def puller(settings: Settings, clock: SystemClock, edge: str) -> Puller:
    """The loop at an edge, with its memory in the cache. Raises BadInput for what is no name."""
    memory = settings.cache / "edges" / f"{check_environment_name(edge)}.json"
    return Puller(config_repo(settings), _Kept(settings).runtime, clock, edge, memory, trust(settings))
