"""The running local stack as the demo's story sees it: Git for what is desired, MLflow for stages, Ray for the rest."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines import status_file
from pipelines.commands.views import finished
from pipelines.defaults import built_in_documents
from pipelines.local_stack import ENVIRONMENT, LocalStack
from policies.actions import Wait
from policies.config_repo_documents import parse_repo, route_of, with_defaults
from policies.convergence import InPlace, converge
from policies.errors import Retry
from policies.names import slug
from policies.observations import RegisteredVersion
from policies.release import Release
from policies.rollout_record import HistoryRecord
from registry_bridge.mlflow_registry import MlflowRegistry
from serving_runtime.ray_cluster import RayCluster, ray_token

LOG_LIMIT = 200
"""Commits of a demo: some thirty."""


class DemoStack:
    """A `Stack` of pipelines/demo/script.py."""

    def __init__(self, local: LocalStack) -> None:
        self._local = local
        self._repo = local.repo
        self._registry = MlflowRegistry(local.tracking_uri)
        self._ray = RayCluster(local.ray.dashboard, lambda: ray_token(local.environment))

    @property
    def tracking_uri(self) -> str:
        """Where MLflow answers."""
        return self._local.tracking_uri

    def route_url(self, model: str) -> str:
        """The model's public address."""
        documents = parse_repo(with_defaults(self._repo.read().files, built_in_documents()))
        return self._local.ray.http + route_of(documents.models[slug(model)])

    def release(self, model: str) -> Release | None:
        """The release at the tip of the config repo."""
        documents = parse_repo(with_defaults(self._repo.read().files, built_in_documents()))
        return documents.releases.get((ENVIRONMENT, slug(model)))

    def history(self, model: str) -> tuple[HistoryRecord, ...]:
        """Finished rollouts, oldest first."""
        return tuple(record for record in finished(self._repo.read()) if record.model == model)

    def waiting(self, model: str) -> Wait | None:
        """What the reconciler's last look waits for."""
        said = status_file.read(self._local.status_path)
        return next((wait for wait in said.waits if wait.model == model), None) if said else None

    def git_log(self) -> list[str]:
        """`git log --oneline`, newest first."""
        return [f"{entry.commit[:9]} {entry.subject}" for entry in self._repo.log(LOG_LIMIT)]

    def commits(self, rollout: str) -> list[str]:
        """The same of one rollout's commits, oldest first."""
        entries = [e for e in self._repo.log(LOG_LIMIT) if rollout in e.trailers.get("Sluice-Rollout", "").split(", ")]
        return [f"{entry.commit[:9]} {entry.subject}" for entry in reversed(entries)]

    def git_equals_ray(self) -> bool:
        """Does Ray run exactly what the tip's serve.yaml says?"""
        documents = parse_repo(with_defaults(self._repo.read().files, built_in_documents()))
        return isinstance(converge(documents.serve[ENVIRONMENT] or {}, self._ray.observe()), InPlace)

    def registry_stages(self, model: str) -> Mapping[str, str]:
        """Stage by version number."""
        return {str(number): version.stage for number, version in sorted(self._versions(model).items())}

    def registry_tags(self, model: str, version: int) -> Mapping[str, str]:
        """The tags of one version."""
        return self._versions(model)[version].tags

    def _versions(self, model: str) -> Mapping[int, RegisteredVersion]:
        snapshot = self._registry.snapshot([model])
        if not snapshot.available:
            raise Retry(snapshot.reason)
        return snapshot.models.get(model, {})
