"""The door to a Ray cluster that KubeRay's operator runs: it looks, through the dashboard service, and never submits.

Rules:
- The operator submits what the RayService in Kubernetes says and compares it with what it submitted last, in its
  memory: what anybody else submits is neither repaired nor kept. So `apply` refuses; what serves changes by a commit.
- Whether a cluster is being replaced stands in the RayService's status only, which one GET reads from the Kubernetes
  API: plain HTTPS, the pod's own service account, its token read for each call (the kubelet rotates it).
- What cannot be read counts as an upgrade: nobody goes on without having seen that there is none.
- Before a first cluster serves there is no dashboard service; what became of its applications stands in the status.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import requests

from policies.capacity import Capacity
from policies.errors import Stalled
from policies.observations import ApplicationStatus, ObservedApplication, RuntimeObservation

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts token and ca.crt."""
CONNECT_TIMEOUT_S = 3.05
STATUS_TIMEOUT_S = 10.0
"""One object of some kilobytes; the API server answers in milliseconds, and in seconds while it is busy."""
WORDS_KEPT = 2000

_HTTP_OK, _HTTP_NOT_FOUND = 200, 404


class Looks(Protocol):
    """What shows Ray: the control door's first half."""

    def observe(self) -> RuntimeObservation:
        """What runs, and what was submitted."""

    def capacity(self) -> Capacity:
        """What the cluster has, and what of it is free. Raises Retry, Stalled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceState:
    """What a RayService's status says."""

    upgrading: str = ""
    """Why nothing reaches the cluster that serves; empty where no upgrade goes on."""
    serves: bool = True
    """Is there a cluster that serves, or may there be one?"""
    pending: Mapping[str, ObservedApplication] = dataclasses.field(default_factory=dict)
    """Applications of the cluster that starts, without what was submitted."""


class RayServiceStatus:
    """Reads whether KubeRay replaces a cluster, and whether any serves yet."""

    def __init__(self, api: str, rayservice: str, account: Path = SERVICE_ACCOUNT) -> None:
        """`api` is the address of the Kubernetes API, empty outside of a pod; `rayservice` is namespace/name."""
        namespace, _, name = rayservice.partition("/")
        self._url = f"{api.rstrip('/')}/apis/ray.io/v1/namespaces/{namespace}/rayservices/{name}"
        self._api, self._rayservice, self._account = api, rayservice, account
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor ~/.netrc gets between a pod and its API server

    def read(self) -> ServiceState:
        """The status now. Never raises for the outside: what cannot be read counts as an upgrade."""
        if not self._api:
            return self._unknown("this is no pod, and has no service account")
        try:
            answer = self._session.get(
                self._url,
                headers={"Authorization": f"Bearer {self._token()}", "Accept": "application/json"},
                timeout=(CONNECT_TIMEOUT_S, STATUS_TIMEOUT_S),
                allow_redirects=False,
                verify=str(self._account / "ca.crt"),
            )
            if answer.status_code == _HTTP_NOT_FOUND:
                return ServiceState(serves=False)  # it was not applied yet
            if answer.status_code != _HTTP_OK:
                return self._unknown(f"the Kubernetes API answers {answer.status_code}")
            return _state(self._rayservice, answer.json())
        except (requests.RequestException, OSError) as away:
            return self._unknown(type(away).__name__)
        except (ValueError, KeyError, TypeError, AttributeError) as nonsense:
            return self._unknown(f"its answer is no RayService: {nonsense!r}"[:WORDS_KEPT])

    def _token(self) -> str:
        return (self._account / "token").read_text(encoding="ascii").strip()

    def _unknown(self, why: str) -> ServiceState:
        words = f"whether KubeRay replaces the cluster of {self._rayservice} cannot be seen: {why}"
        return ServiceState(upgrading=words)


def kubernetes_api(environment: Mapping[str, str]) -> str:
    """The API server's address, as every pod is told; empty outside of a pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class KubeRay:
    """One RayService's cluster; a `Runtime` of pipelines/ports.py that is only looked at."""

    def __init__(self, dashboard: Looks, status: Callable[[], ServiceState]) -> None:
        self._dashboard, self._status = dashboard, status

    def observe(self) -> RuntimeObservation:
        """What runs in the cluster that serves, what was submitted, and whether it is being replaced.

        Where neither the dashboard nor Kubernetes knows a cluster that serves, nothing is served: that is seen.
        """
        state, shown = self._status(), self._dashboard.observe()
        if not shown.available and not state.serves:
            return RuntimeObservation(available=True, applications=state.pending)
        return dataclasses.replace(shown, upgrading=state.upgrading)

    def capacity(self) -> Capacity:
        """What the cluster that serves has now; an autoscaler may add to it. Raises Retry, Stalled."""
        return self._dashboard.capacity()

    def apply(self, config: Mapping[str, Any]) -> None:  # noqa: ARG002  (the port's signature)
        """Raises Stalled: KubeRay's operator submits, and nobody beside it."""
        raise Stalled("this Ray belongs to KubeRay's operator, which submits what Git says: nobody else does")


def _state(rayservice: str, shown: Mapping[str, Any]) -> ServiceState:
    status = shown.get("status") or {}
    if not (status.get("activeServiceStatus") or {}).get("rayClusterName"):
        pending = (status.get("pendingServiceStatus") or {}).get("applicationStatuses") or {}
        return ServiceState(serves=False, pending={name: _pending(name, app) for name, app in pending.items()})
    for condition in status.get("conditions") or ():
        if condition["type"] == "UpgradeInProgress" and condition["status"] != "False":
            words = str(condition.get("message") or condition.get("reason") or "")[:WORDS_KEPT]
            return ServiceState(upgrading=f"KubeRay replaces the cluster of {rayservice} (UpgradeInProgress): {words}")
    return ServiceState()


def _pending(name: str, shown: Mapping[str, Any]) -> ObservedApplication:
    deployments = (shown.get("serveDeploymentStatuses") or {}).values()
    said = [str(shown.get("message") or ""), *(str(each.get("message") or "") for each in deployments)]
    return ObservedApplication(
        name=name,
        status=ApplicationStatus(shown["status"]),
        submitted={},
        message="; ".join(filter(None, said))[-WORDS_KEPT:],
    )
