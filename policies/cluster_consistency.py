"""Lint of what belongs to clusters: KubeRay's templates and the environments that they are for, and edges.

Rules: those of `consistency.py`, which lists these checks too.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.config_repo_documents import ConfigRepo
from policies.layout import cluster_path
from policies.loopback import leads_to_loopback
from policies.notes import Note, Severity
from policies.strict_yaml import Path


def kuberay_has_its_template(repo: ConfigRepo) -> Iterator[Note]:
    """A manifest is rendered from the platform team's template, and from nothing else."""
    for name, environment in repo.sluice.environments.items():
        if environment.target == "kuberay" and name not in repo.clusters:
            message = f"is kuberay, and the template of its RayService is missing: {cluster_path(name)}"
            yield repo.note("sluice", "", ("environments", name, "target"), message)
    for name in repo.clusters:
        if name not in repo.sluice.environments or repo.sluice.environments[name].target != "kuberay":
            message = f"is not read: sluice.yaml has no environment {name} with target: kuberay"
            yield repo.note("clusters", name, (), message, Severity.WARNING)


def status_is_that_of_the_service(repo: ConfigRepo) -> Iterator[Note]:
    """The status of another RayService would hold up this environment, or let it go on in an upgrade."""
    for name, environment in repo.sluice.environments.items():
        named, path = environment.ray.rayservice, ("environments", name, "ray", "rayservice")
        if named is not None and environment.target != "kuberay":
            yield repo.note("sluice", "", path, "has a meaning only with target: kuberay")
        elif named is not None and name in repo.clusters:
            metadata = repo.clusters[name].metadata
            namespace, _, service = named.partition("/")
            if service != metadata.name or namespace != (metadata.namespace or namespace):
                right = f"{metadata.namespace or namespace}/{metadata.name}"
                yield repo.note("sluice", "", path, f"is not the RayService of {cluster_path(name)}: {right}")
    for name, edge in repo.sluice.edges.items():
        if edge.ray.rayservice is not None:
            path = ("edges", name, "ray", "rayservice")
            yield repo.note("sluice", "", path, "has no meaning for an edge: it submits to Ray itself")


def access_is_said_at_edges(repo: ConfigRepo) -> Iterator[Note]:
    """Replicas that others reach refuse everybody until somebody has said who may call."""
    for name, edge in repo.sluice.edges.items():
        if edge.access is None and not leads_to_loopback(edge.ray.dashboard):
            path: Path = ("edges", name, "access")
            message = "is not written: write keys or jwt, or open: true, or every request would be refused"
            yield repo.note("sluice", "", path, message)


CHECKS = (kuberay_has_its_template, status_is_that_of_the_service, access_is_said_at_edges)
