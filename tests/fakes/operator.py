"""A Ray cluster as it looks where Argo CD or Flux applies Git and KubeRay's operator does the rest; no Kubernetes.

Like KubeRay 1.7 (`ray-operator/controllers/ray/rayservice_controller.go`):
- what Git's tip says reaches Kubernetes some time later, and commits in between never do;
- the operator submits `serveConfigV2` where its text is not the one that it submitted last;
- another `rayClusterConfig` starts a second, pending cluster, which alone gets the Serve config from then on; when all
  its applications run, the services point at it and the old cluster goes. Until then UpgradeInProgress is True;
- before the first cluster serves, the head service leads nowhere.

Nobody else may submit: `apply` counts who tries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import yaml

from policies.capacity import Capacity
from policies.errors import Retry, Stalled
from policies.observations import ApplicationStatus, ObservedApplication, RuntimeObservation
from tests.fakes.runtime import FakeServe

UPGRADE = "both active and pending Ray clusters exist"


class _Cluster:
    """One Ray cluster of the operator's: its Serve, what it was made of, and what was submitted to it."""

    def __init__(self, spec: Any, failing: set[str]) -> None:
        self.serve, self.spec, self.cached = FakeServe(), spec, ""
        self.serve.failing = failing

    @property
    def ready(self) -> bool:
        shown = self.serve.observe().applications.values()
        return bool(shown) and all(a.status is ApplicationStatus.RUNNING for a in shown)


class OperatedCluster:
    """A `Runtime` that only looks, and everything behind it. `advance` is one step of everybody's time."""

    def __init__(self, manifest: Callable[[], str | None], *, syncs_every: int = 4) -> None:
        """`manifest` reads rayservice.yaml from Git's tip; it is applied every `syncs_every` steps."""
        self.status_is_read = True
        """Somebody has access to the RayService in Kubernetes."""
        self._manifest, self.syncs_every = manifest, syncs_every
        self.failing: set[str] = set()
        self.away = ""
        self.stopped = False
        """The operator does nothing."""
        self.hangs = False
        """A new cluster never becomes ready."""
        self.applied: list[Mapping[str, Any]] = []
        """The manifests that reached Kubernetes, oldest first."""
        self.upgrades = 0
        self.tried: list[Mapping[str, Any]] = []
        """What somebody submitted beside the operator."""
        self._active: _Cluster | None = None
        self._pending: _Cluster | None = None
        self._steps = 0

    # --- the port ---

    def observe(self) -> RuntimeObservation:
        """What there is to see: the cluster that serves, and, where it is read, the RayService's status."""
        dashboard = self.dashboard()
        if not self.away and self._active is None and self.status_is_read:
            return RuntimeObservation(available=True, applications=self.pending())
        upgrading = UPGRADE if self.upgrading and self.status_is_read else ""
        return dataclasses.replace(dashboard, upgrading=upgrading)

    def dashboard(self) -> RuntimeObservation:
        """What the head service leads to."""
        if self.away or self._active is None:
            return RuntimeObservation(available=False, reason=self.away or "no connection in time")
        return self._active.serve.observe()

    def pending(self) -> dict[str, ObservedApplication]:
        """What the RayService's status says about the cluster that starts."""
        shown = self._pending.serve.observe().applications if self._pending else {}
        return {name: dataclasses.replace(app, submitted={}, deployments=()) for name, app in shown.items()}

    def capacity(self) -> Capacity:
        """What the cluster that serves has. Raises Retry where there is none."""
        if self.away or self._active is None:
            raise Retry(self.away or "no connection in time")
        return self._active.serve.capacity()

    def apply(self, config: Mapping[str, Any]) -> None:
        """Nobody may."""
        self.tried.append(config)
        raise Stalled("only the operator submits")

    @property
    def serves(self) -> bool:
        return self._active is not None

    @property
    def upgrading(self) -> bool:
        return self._active is not None and self._pending is not None

    # --- what users see ---

    def answering(self, route: str) -> str | None:
        return self._active.serve.answering(route) if self._active else None

    def told(self, name: str) -> Mapping[str, Any]:
        return self._active.serve.told(name) if self._active else {}

    @property
    def submits(self) -> list[dict[str, Any]]:
        return self._active.serve.submits if self._active else []

    # --- time ---

    def advance(self) -> None:
        """Git is applied where it is due, the operator reconciles, Serve goes on."""
        self._steps += 1
        if self._steps % self.syncs_every == 0:
            self._sync()
        if self.applied and not self.stopped:
            self._reconcile(self.applied[-1])
        for cluster in filter(None, (self._active, self._pending)):
            cluster.serve.advance()

    def _sync(self) -> None:
        text = self._manifest()
        manifest = yaml.safe_load(text) if text else None
        valid = isinstance(manifest, dict) and "rayClusterConfig" in manifest.get("spec", {})  # else it is refused
        if valid and (not self.applied or self.applied[-1] != manifest):
            self.applied.append(manifest)

    def _reconcile(self, manifest: Mapping[str, Any]) -> None:
        spec, config = manifest["spec"]["rayClusterConfig"], manifest["spec"]["serveConfigV2"]
        newest = self._pending or self._active
        if self.upgrading and self._active is not None and self._active.spec == spec:
            self._pending, newest = None, self._active  # back to what serves
        if newest is None or newest.spec != spec:
            self.upgrades += self._active is not None and self._pending is None
            self._pending = _Cluster(spec, self.failing)
        target = self._pending or self._active
        assert target is not None
        if target.cached != config:
            with contextlib.suppress(Stalled):  # a name that is still being deleted: the operator tries again
                target.serve.apply(yaml.safe_load(config))
                target.cached = config
        elif target is self._pending and target.ready and not self.hangs:
            self._active, self._pending = target, None


# --- over HTTP ------------------------------------------------------------------------------------------------------


class OperatorServer:
    """The dashboard of such a cluster, and the Kubernetes API's answer about its RayService, over HTTP on loopback."""

    def __init__(self, cluster: OperatedCluster, rayservice: str, token: str) -> None:
        self.cluster, self.token = cluster, token
        namespace, name = rayservice.split("/")
        self._status_path = f"/apis/ray.io/v1/namespaces/{namespace}/rayservices/{name}"
        self.puts = 0
        self.answers_status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, body = server.answer(self.path, self.headers.get("Authorization", ""))
                content = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_PUT(self) -> None:
                server.puts += 1
                self.send_error(409)

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, path: str, authorization: str) -> tuple[int, Any]:
        if path == "/api/serve/applications/":
            seen = self.cluster.dashboard()
            return (200, _dashboard(seen)) if seen.available else (503, seen.reason)
        if path != self._status_path:
            return 404, {}
        if authorization != f"Bearer {self.token}":
            return 401, {}
        return self.answers_status, _status(self.cluster)


def _dashboard(observed: RuntimeObservation) -> dict[str, Any]:
    """As `GET /api/serve/applications/` of Serve 2.60 answers."""
    return {
        "applications": {
            name: {
                "name": name,
                "status": str(a.status),
                "message": a.message,
                "deployed_app_config": a.submitted,
                "deployments": {
                    d.name: {
                        "name": d.name,
                        "status": d.status,
                        "status_trigger": d.trigger,
                        "message": d.message,
                        "deployment_config": {"user_config": d.user_config},
                        "replicas": [{"state": "RUNNING"}] * d.replicas_running,
                    }
                    for d in a.deployments
                },
            }
            for name, a in observed.applications.items()
        }
    }


def _status(cluster: OperatedCluster) -> dict[str, Any]:
    """A RayService as the Kubernetes API shows it, as far as anybody reads it."""
    upgrading, pending = cluster.upgrading, cluster.pending()
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "status": {
            "activeServiceStatus": {"rayClusterName": "production-aaaaa"} if cluster.serves else {},
            "pendingServiceStatus": {
                "applicationStatuses": {
                    name: {"status": str(app.status), "message": app.message} for name, app in pending.items()
                }
            },
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints", "message": ""},
                {
                    "type": "UpgradeInProgress",
                    "status": "True" if upgrading else "False",
                    "reason": "BothActivePendingClustersExist" if upgrading else "NoPendingCluster",
                    "message": UPGRADE if upgrading else "",
                    "lastTransitionTime": "2026-11-23T12:00:00Z",
                },
            ],
        },
    }
