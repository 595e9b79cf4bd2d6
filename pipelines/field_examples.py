"""An example for each field of the documents: a config repo before and after somebody changed it.

The table in docs/impact.md is made of them (`field_effects.py`), and `tests/e2e/test_impact.py` submits them to a real
Ray.

Rules:
- Every field that `sluice schema` knows of these kinds has one; a new field without one fails a test.
- Fields of a model's `settings` are changed while one version serves, its others during a canary, where hosts are told
  more.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pipelines.defaults import built_in_documents
from policies.application import Application
from policies.config_repo_documents import ConfigRepo, parse_repo, with_defaults
from policies.layout import model_path, release_path
from policies.names import slug
from policies.release import Phase, PhaseRecord, Release, Rollout
from policies.stored_documents import release_text
from policies.strict_yaml import dump

Data = Mapping[str, Any]

ENVIRONMENT, MODEL = "production", "fraud"
_API = "sluicegate/v1"
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One field, changed."""

    kind: str
    field: str
    """Dotted, as in docs/config-repo.md."""
    after: Any
    given: Data = dataclasses.field(default_factory=dict)
    """Fields, dotted, that are written before and after: what this one needs beside it."""

    @property
    def is_setting(self) -> bool:
        """Is it a field whose change is rolled out?"""
        return self.kind == "Model" and self.field.startswith("settings.")


_FEATURES = {"settings.features": {"entry_point": "shop.features:source", "key": "user", "defaults": {"visits": 0}}}
_PLACED = {"settings.placement": {"bundles": [{"CPU": 1}]}}
_CAPTURED = {"capture": {"share": 0.1, "to": "s3://captured/fraud"}}
_KEYS = {"environments.production.access": {"keys": {"env": "API_KEYS"}}}
_TOKENS = {
    "environments.production.access": {"jwt": {"issuer": "https://id", "audience": "a", "jwks_file": "/etc/jwks.json"}}
}
_GRPC = {"environments.production.grpc": {"enabled": True}}


def _of_model() -> Iterator[Example]:
    def changed(field: str, after: Any, **given: Any) -> Example:
        return Example(kind="Model", field=field, after=after, given=given)

    yield changed("name", "fraud-2")
    yield changed("route", "/fraud")
    yield changed("environments", ["staging"])
    yield changed("settings.cpus", 2.0)
    yield changed("settings.gpus", 1.0)
    yield changed("settings.memory_mib", 256)
    yield changed("settings.custom", {"accelerator": 1})
    yield changed("settings.environment", "uv", **{"settings.packages": ["polars"]})
    yield changed("settings.image", "registry/fraud:2", **{"settings.environment": "image", "settings.image": "a:1"})
    yield changed("settings.packages", ["polars"])
    yield changed("settings.env", {"MODE": "fast"})
    yield changed("settings.placement.bundles", [{"CPU": 1}, {"CPU": 1}], **_PLACED)
    yield changed("settings.placement.strategy", "SPREAD", **_PLACED)
    yield changed("settings.features.entry_point", "shop.features:other", **_FEATURES)
    yield changed("settings.features.key", "account", **_FEATURES)
    yield changed("settings.features.timeout_ms", 20.0, **_FEATURES)
    yield changed("settings.features.cache_ttl_s", 5.0, **_FEATURES)
    yield changed("settings.features.cache_entries", 100, **_FEATURES)
    yield changed("settings.features.defaults", {"visits": 1}, **_FEATURES)
    yield changed("settings.features.required", ["age"], **_FEATURES)
    yield changed("settings.features.options", {"table": "users"}, **_FEATURES)
    yield changed("autoscaling.min_replicas", 2, **{"autoscaling.max_replicas": 3})
    yield changed("autoscaling.max_replicas", 3)
    yield changed("autoscaling.target_ongoing_requests", 4.0)
    yield changed("max_ongoing_requests", 8)
    yield changed("max_queued_requests", 8)
    yield changed("memory_limit_mib", 2048)
    yield changed("request_timeout", "10s")
    yield changed("candidate_timeout", "2s")
    yield changed("candidate_max_ongoing", 4)
    yield changed("batching.max_batch_size", 8, batching={"max_batch_size": 4})
    yield changed("batching.batch_wait_ms", 5.0, batching={"max_batch_size": 4})
    yield changed("sticky.header", "x-account", sticky={"header": "x-user"})
    yield changed("sticky.field", "account", sticky={"field": "user"})
    segments = {"key": {"header": "x-country"}, "values": ["de"]}
    yield changed("segments.key", {"field": "country"}, segments=segments)
    yield changed("segments.values", ["de", "at"], segments=segments)
    yield changed("forced_version.to", "anyone", forced_version={"to": "keys"})
    yield changed("capture.share", 0.2, **_CAPTURED)
    yield changed("capture.to", "s3://captured/other", **_CAPTURED)
    yield changed("capture.exclude", ["card"], **_CAPTURED)
    yield changed("capture.rows_per_file", 100, **_CAPTURED)
    yield changed("capture.every", "1m", **_CAPTURED)
    yield changed("graceful_shutdown", "50s")
    yield changed("rollout", "strict")
    yield changed("slos", ["errors", "feedback"])


def _of_sluice() -> Iterator[Example]:
    def changed(field: str, after: Any, **given: Any) -> Example:
        return Example(kind="Sluice", field=field, after=after, given=given)

    def inside(field: str, after: Any, **given: Any) -> Example:
        return changed(f"environments.<name>.{field}", after, **given)

    yield changed("registry.tracking_uri", "http://mlflow:5000")
    yield inside("trigger.stage", "Staging")
    yield inside("trigger.alias", "winner", **{"environments.production.trigger": {"alias": "champion"}})
    yield inside("trigger.tag", "live=yes", **{"environments.production.trigger": {"tag": "serve=yes"}})
    yield inside("ray.dashboard", "http://ray:8265")
    yield inside("ray.rayservice", "ml/fraud", **{"environments.production.target": "kuberay"})
    yield inside("target", "kuberay")
    yield inside("prometheus.url", "http://prometheus:9090")
    yield inside("prometheus.scrape_interval", "5s")
    yield inside("prometheus.labels", {"cluster": "a"})
    yield inside("on_rollback", "annotate")
    yield inside("look_interval", "5s")
    yield inside("review", "required")
    yield inside("review_approvals", 2)
    yield inside("access.keys.file", "/etc/keys", **{"environments.production.access": {"keys": {"file": "/keys"}}})
    yield inside("access.keys.env", "OTHER_KEYS", **_KEYS)
    yield inside("access.jwt.issuer", "https://other", **_TOKENS)
    yield inside("access.jwt.audience", "b", **_TOKENS)
    yield inside("access.jwt.jwks_file", "/etc/other.json", **_TOKENS)
    url = {"jwt": {"issuer": "https://id", "audience": "a", "jwks_url": "https://id/jwks"}}
    yield inside("access.jwt.jwks_url", "https://id/other", **{"environments.production.access": url})
    yield inside("access.jwt.algorithms", ["RS256"], **_TOKENS)
    limited = {"keys": {"env": "API_KEYS"}, "rate": {"per_s": 5.0, "burst": 10}}
    yield inside("access.rate.per_s", 10.0, **{"environments.production.access": limited})
    yield inside("access.rate.burst", 20, **{"environments.production.access": limited})
    yield inside("access", {"open": True})
    yield inside("grpc.enabled", True)
    yield inside("grpc.cpus", 1.0, **_GRPC)
    yield inside("grpc.autoscaling.min_replicas", 2, **{"environments.production.grpc": _scaled(1, 3)})
    yield inside("grpc.autoscaling.max_replicas", 4, **{"environments.production.grpc": _scaled(1, 3)})
    yield inside("grpc.autoscaling.target_ongoing_requests", 4.0, **{"environments.production.grpc": _scaled(1, 3)})
    yield inside("grpc.max_ongoing_requests", 8, **_GRPC)


def _scaled(least: int, most: int) -> Data:
    return {"enabled": True, "autoscaling": {"min_replicas": least, "max_replicas": most}}


def _of_ensemble() -> Iterator[Example]:
    def changed(field: str, after: Any, **given: Any) -> Example:
        return Example(kind="Ensemble", field=field, after=after, given=given)

    yield changed("route", "/both")
    yield changed("environments", [])
    yield changed("members", ["fraud", "other"], members=["fraud"])
    yield changed("combine", "median")
    yield changed("options", {"fraud": 2.0})
    yield changed("on_failure", "leave_out")
    yield changed("minimum", 2, members=["fraud", "other"], on_failure="leave_out")
    yield changed("request_timeout", "10s")
    yield changed("member_timeout", "5s")
    yield changed("graceful_shutdown", "50s")
    yield changed("settings.cpus", 2.0)
    yield changed("settings.packages", ["polars"])
    yield changed("settings.env", {"MODE": "fast"})
    yield changed("settings.placement.bundles", [{"CPU": 1}, {"CPU": 1}], **_PLACED)
    yield changed("settings.placement.strategy", "SPREAD", **_PLACED)
    yield changed("autoscaling.max_replicas", 3)
    yield changed("max_ongoing_requests", 8)


EXAMPLES: tuple[Example, ...] = (*_of_model(), *_of_sluice(), *_of_ensemble())


# --- the documents ----------------------------------------------------------------------------------------------

_SLUICE: Data = {
    "apiVersion": _API,
    "kind": "Sluice",
    "environments": {
        "production": {"trigger": {"stage": "Production"}},
        "staging": {"trigger": {"stage": "Staging"}, "on_rollback": "annotate"},
    },
}
_MODEL: Data = {"apiVersion": _API, "kind": "Model", "name": MODEL, "environments": [ENVIRONMENT]}
_OTHER: Data = {**_MODEL, "name": "other"}
_ENSEMBLE: Data = {
    "apiVersion": _API,
    "kind": "Ensemble",
    "name": "both",
    "environments": [ENVIRONMENT],
    "members": ["fraud", "other"],
    "settings": {"cpus": 0.5},
}
_STRICT: Data = {"apiVersion": _API, "kind": "RolloutPolicy", "name": "strict", "guard": {"alpha": 0.01}}


def repos(example: Example, *, given_before: bool = True) -> tuple[ConfigRepo, ConfigRepo]:
    """The config repo before and after. Without `given_before` what the field needs beside it comes with it."""
    given = example.given if given_before else {}
    served = _with(_MODEL, given) if example.kind == "Model" else _MODEL
    changed = {**example.given, example.field.replace("<name>", ENVIRONMENT): example.after}
    return _repo(example, given, served), _repo(example, changed, served)


def _repo(example: Example, written: Data, served: Data) -> ConfigRepo:
    """With these fields written in the example's document; its release serves what the document `served` says."""
    data = {"Sluice": _SLUICE, "Model": _MODEL, "Ensemble": _ENSEMBLE}
    data[example.kind] = _with(data[example.kind], written)
    model, both = data["Model"], example.kind == "Ensemble"
    files = {
        "sluice.yaml": dump(data["Sluice"]),
        model_path(slug(model["name"])): dump(model),
        "policies/strict.yaml": dump(_STRICT),
        **({"ensembles/both.yaml": dump(data["Ensemble"]), model_path("other"): dump(_OTHER)} if both else {}),
    }
    names = (MODEL, "other") if both else (MODEL,)
    releases = {release_path(ENVIRONMENT, n): release_text(_release(n, example, served)) for n in names}
    return parse_repo(with_defaults({**files, **releases}, built_in_documents()))


def _with(document: Data, fields: Data) -> Data:
    """The document with these fields, by dotted names."""
    written = copy.deepcopy(dict(document))
    for field, value in fields.items():
        *parents, last = field.split(".")
        at = written
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = copy.deepcopy(value)
    return written


def _release(model: str, example: Example, document: Data) -> Release:
    alone = with_defaults({"sluice.yaml": dump(_SLUICE), model_path(MODEL): dump(document)}, built_in_documents())
    settings = parse_repo(alone).models[MODEL].settings
    stable, candidate = (Application(version=n, digest=f"sha256:{n:064x}", settings=settings) for n in (1, 2))
    steady = Release(model=model, environment=ENVIRONMENT, stable=stable, seen=(1,), revision=1, traffic_revision=1)
    if example.kind != "Model" or example.is_setting:
        return steady
    record = PhaseRecord(phase=Phase.CANARY, weight_percent=10, since=_START, live_since=_START)
    rollout = Rollout(id="r1", started_at=_START, step=1, records=(record,))
    return dataclasses.replace(
        steady, phase=Phase.CANARY, candidate=candidate, weight_percent=10, rollout=rollout, seen=(1, 2)
    )
