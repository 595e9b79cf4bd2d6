"""KubeRay's RayService in a config repo: the platform team's template, and the manifest that is rendered from it.

Rules:
- The template, `clusters/<environment>.yaml`, is the manifest without `serveConfigV2`: name, head and worker groups,
  images. What applies the manifest (Argo CD, Flux) gets every field as the template has it.
- The manifest, `environments/<environment>/rayservice.yaml`, is the same bytes for the same template and Serve config:
  the template's keys in their order, then `serveConfigV2` as a literal block, which is compared as text by KubeRay.
- `read_manifest` reads only what `manifest_text` can write.

This module must not decide when either changes: that is `stepping.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.errors import BadInput
from policies.strict_yaml import dump, parse

Config = Mapping[str, Any]

API_VERSION = "ray.io/v1"
KIND = "RayService"
# KubeRay takes 47: it appends a part of its own to make the name of the cluster, and DNS labels end at 63.
MAX_NAME = 47

_COMMENT = "# Written by Sluicegate: what KubeRay's operator applies. Do not edit; change clusters/, or revert.\n"
_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_SERVE = "serveConfigV2"
_INDENT = "    "
# Two clusters would serve at once, and only one of them can be seen and told to stop a candidate.
_STRATEGIES = frozenset({None, "NewCluster", "None"})


@document(frozen=True, kw_only=True, config=_STRICT)
class RayServiceMetadata:
    """The manifest's metadata."""

    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=MAX_NAME)]
    """The RayService's name; its dashboard is then <name>-head-svc, port 8265."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)] | None = None
    """Where it is; none: where Argo CD or Flux puts it."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels of the RayService."""
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Annotations of the RayService."""


@document(frozen=True, kw_only=True, config=_STRICT)
class RayServiceTemplate:
    """`clusters/<environment>.yaml`: KubeRay's manifest without `serveConfigV2`, which Sluicegate writes."""

    metadata: RayServiceMetadata
    """Name, namespace, labels and annotations."""
    spec: Mapping[str, Any]
    """KubeRay's own fields, as they are: `rayClusterConfig` with head and worker groups, `upgradeStrategy`, ..."""

    def __post_init__(self) -> None:
        """Raises ValueError for what KubeRay would refuse, or Sluicegate could not work with."""
        if wrong := "; ".join(_wrong(self.spec)):
            raise ValueError(wrong)

    @property
    def head(self) -> dict[str, Any]:
        """The manifest without `serveConfigV2`."""
        own = {"name": self.metadata.name, "namespace": self.metadata.namespace}
        more = {"labels": dict(self.metadata.labels), "annotations": dict(self.metadata.annotations)}
        metadata = {key: value for key, value in {**own, **more}.items() if value}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": dict(self.spec)}


@dataclasses.dataclass(frozen=True)
class RayService:
    """A rendered manifest, read."""

    head: Config
    """All of it but `serveConfigV2`."""
    config: Config
    """The Serve config."""


def manifest_text(head: Config, config: Config) -> str:
    """The text of `rayservice.yaml`. Raises BadInput for what YAML cannot hold."""
    serve = "".join(f"{_INDENT}{line}\n" for line in dump(config).splitlines())
    return f"{_COMMENT}{dump(head)}  {_SERVE}: |\n{serve}"


def read_manifest(data: Any, file: str) -> RayService:
    """The manifest from its parsed YAML. Raises BadInput."""
    spec = data.get("spec") if isinstance(data, Mapping) else None
    text = spec.get(_SERVE) if isinstance(spec, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(spec, Mapping) or not isinstance(text, str):
        raise BadInput(f"{file} is no {KIND} with spec.{_SERVE}: take back the commit that changed it by hand")
    config = parse(text, f"{file}: spec.{_SERVE}").data
    if not isinstance(config, Mapping) or not isinstance(config.get("applications"), list):
        raise BadInput(f"{file}: spec.{_SERVE} names no applications: take back the commit that changed it by hand")
    return RayService(head={**data, "spec": {k: v for k, v in spec.items() if k != _SERVE}}, config=dict(config))


def _wrong(spec: Config) -> Iterator[str]:
    if _SERVE in spec:
        yield f"spec.{_SERVE} is written by Sluicegate: leave it out"
    cluster = spec.get("rayClusterConfig")
    if not isinstance(cluster, Mapping):
        yield "spec.rayClusterConfig is missing: the head and worker groups"
        return
    yield from _wrong_group(cluster.get("headGroupSpec"), "spec.rayClusterConfig.headGroupSpec")
    workers = cluster.get("workerGroupSpecs") or []
    if not isinstance(workers, list | tuple):
        yield "spec.rayClusterConfig.workerGroupSpecs is a list of groups"
        return
    for n, group in enumerate(workers):
        yield from _wrong_group(group, f"spec.rayClusterConfig.workerGroupSpecs[{n}]")
        if isinstance(group, Mapping) and not group.get("groupName"):
            yield f"spec.rayClusterConfig.workerGroupSpecs[{n}].groupName is missing"
    strategy = spec.get("upgradeStrategy") or {}
    kind = strategy.get("type") if isinstance(strategy, Mapping) else strategy
    if kind not in _STRATEGIES:
        yield (
            f"spec.upgradeStrategy.type {str(kind)[:40]!r} is not supported: two clusters would serve at once and a "
            "failing candidate could be stopped in one of them only; write NewCluster or None"
        )


def _wrong_group(group: Any, where: str) -> Iterator[str]:
    """What KubeRay refuses a group for: it needs a Pod's template with at least one container that has an image."""
    template = group.get("template") if isinstance(group, Mapping) else None
    pod = template.get("spec") if isinstance(template, Mapping) else None
    containers = pod.get("containers") if isinstance(pod, Mapping) else None
    if not isinstance(containers, list | tuple) or not containers:
        yield f"{where}.template.spec.containers is missing or empty"
    elif not all(isinstance(each, Mapping) and each.get("name") and each.get("image") for each in containers):
        yield f"{where}.template.spec.containers: each has a name and an image"
