"""The control door to Ray: looks at Serve and submits whole Serve configs, over the dashboard's REST API.

Rules:
- `observe` never raises for a Ray that is away, busy or talks nonsense: the observation says so.
- `capacity` reads what nodes have from Ray's state API, and what is reserved from the text that the dashboard shows:
  Ray has no other answer that every autoscaler gives.
- `apply` submits a whole config and returns at once; it never submits one without applications, because
  `PUT {"applications": []}` answers 200 and deletes everything.
- A `PUT` has no precondition: whoever calls `apply` has just read the tip of Git.
- The token is read for each call (it may be rotated), goes to the configured address only (redirects are not followed)
  and appears in no message.

This module must not decide what to submit: that is `policies/convergence.py`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from policies.capacity import Capacity, Node, added, times
from policies.errors import Retry, Stalled
from policies.observations import ApplicationStatus, ObservedApplication, ObservedDeployment, RuntimeObservation

_LOG = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
"""A dashboard on a reachable network accepts within milliseconds; three SYN retries fit."""
LOOK_TIMEOUT_S = 10.0
"""GET takes 10-50 ms; a busy head on 2 cores was seen to take 3 s."""
APPLY_TIMEOUT_S = 30.0
"""PUT takes 20-100 ms once Serve runs, and up to 10 s where it starts Serve first."""
RETRY_AFTER = timedelta(seconds=5)
"""A head that restarts answers again after 5-15 s."""
WORDS_KEPT = 4000
"""Characters of Serve's own words in a message: a traceback's end, where the reason stands."""

_PATH = "/api/serve/applications/"
_NODES = "/api/v0/nodes?detail=true&limit=10000"
"""Ray answers no more than that, and a hundred where nobody asks for more."""
_SUMMARY = "/nodes?view=summary"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HTTP_OK, _HTTP_SERVER_ERROR = 200, 500
_NOT_ALLOWED = frozenset({401, 403})
_BUSY = frozenset({408, 425, 429})
_STATUSES = frozenset(ApplicationStatus)


def ray_token(environment: Mapping[str, str]) -> str | None:
    """The cluster's token as Ray itself finds it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token; None is none.

    Raises Stalled when the file that is named cannot be read.
    """
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path(environment.get("HOME", "/nonexistent"), ".ray", "auth_token")
    if not named and not path.is_file():
        return None
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise Stalled(f"the file of Ray's token, {path}, cannot be read: {type(error).__name__}") from error


class RayCluster:
    """One Ray cluster's Serve; a `Runtime` of pipelines/ports.py."""

    def __init__(self, dashboard: str, token: Callable[[], str | None] = lambda: None) -> None:
        """`dashboard` is its address, `http://host:port`; `token` is asked at each call."""
        self._dashboard = dashboard.rstrip("/")
        self._url = self._dashboard + _PATH
        self._token = token
        self._session = requests.Session()
        # A proxy from the environment must not get between us and a loopback address.
        self._session.trust_env = urlsplit(dashboard).hostname not in _LOOPBACK
        self._session.headers["User-Agent"] = "sluicegate"  # a browser's name would get env_vars redacted

    def observe(self) -> RuntimeObservation:
        """What runs, and what was submitted. Never raises for the outside."""
        try:
            answer = self._call("GET", LOOK_TIMEOUT_S)
            return RuntimeObservation(available=True, applications=_applications(answer.json()))
        except (Retry, Stalled) as away:
            return RuntimeObservation(available=False, reason=str(away))
        except (ValueError, KeyError, TypeError, AttributeError) as nonsense:
            reason = f"Ray's answer from {self._url} is not what Serve 2.60 answers: {nonsense!r}"[:WORDS_KEPT]
            return RuntimeObservation(available=False, reason=reason)

    def apply(self, config: Mapping[str, Any]) -> None:
        """Submit the whole config. Raises Retry (away, busy), Stalled (Serve refuses it, or it has no applications)."""
        if not config.get("applications"):
            raise Stalled("a Serve config without applications is never submitted: Ray would delete everything")
        self._call("PUT", APPLY_TIMEOUT_S, config)
        _LOG.info("submitted %s", ", ".join(app["name"] for app in config["applications"]))

    def capacity(self) -> Capacity:
        """What the cluster's nodes have, and what of it is free. Raises Retry (away, not counted yet), Stalled."""
        try:
            nodes = self._call("GET", LOOK_TIMEOUT_S, path=_NODES).json()["data"]["result"]["result"]
            shown = self._call("GET", LOOK_TIMEOUT_S, path=_SUMMARY).json()["data"]["nodeLogicalResources"]
            alive = {node["node_id"]: node["resources_total"] for node in nodes if node["state"] == "ALIVE"}
            if uncounted := alive.keys() - shown.keys():
                raise Retry(f"Ray has not counted yet what is reserved on {len(uncounted)} of its nodes", RETRY_AFTER)
            return Capacity(nodes=tuple(_node(total, shown[name]) for name, total in sorted(alive.items())))
        except (ValueError, KeyError, TypeError, AttributeError) as nonsense:
            reason = f"Ray's answer about its nodes is not what Ray 2.60 answers: {nonsense!r}"[:WORDS_KEPT]
            raise Stalled(reason) from nonsense

    def _call(
        self, method: str, timeout_s: float, body: Mapping[str, Any] | None = None, path: str = _PATH
    ) -> requests.Response:
        url = self._dashboard + path
        try:
            answer = self._session.request(
                method,
                url,
                json=body,
                auth=_Bearer(self._token()),
                timeout=(CONNECT_TIMEOUT_S, timeout_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise Retry(f"Ray at {url} cannot be reached: {_cause(error)}", RETRY_AFTER) from error
        if answer.status_code != _HTTP_OK:
            raise _refusal(url, answer)
        return answer


class _Bearer(AuthBase):
    """Sets the token, and by being there keeps `requests` from taking another out of ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _cause(error: requests.RequestException) -> str:
    """Without the pool's repr and, with certainty, without headers."""
    if isinstance(error, requests.ReadTimeout):
        return "no answer in time"
    return "no connection in time" if isinstance(error, requests.ConnectTimeout) else type(error).__name__


def _refusal(url: str, answer: requests.Response) -> Retry | Stalled:
    """The error for an answer other than 200."""
    code, words = answer.status_code, answer.text[-WORDS_KEPT:].strip()
    if code in _NOT_ALLOWED:
        return Stalled(f"Ray at {url} wants a valid token ({code}): set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
    if code >= _HTTP_SERVER_ERROR or code in _BUSY:
        return Retry(f"Ray at {url} answers {code}: {words}", RETRY_AFTER)
    return Stalled(f"Ray at {url} refuses ({code}): {words or 'without a word'}")


# --- reading the answer: parse once, here -----------------------------------------------------------------------


def _applications(answer: Mapping[str, Any]) -> dict[str, ObservedApplication]:
    return {name: _application(name, shown) for name, shown in answer["applications"].items()}


def _application(name: str, shown: Mapping[str, Any]) -> ObservedApplication:
    status, message = str(shown["status"]), str(shown.get("message") or "")
    if status not in _STATUSES:  # a newer Serve's word: nothing is known to be ready
        status, message = ApplicationStatus.DEPLOYING, f"Serve says {status}: {message}"
    return ObservedApplication(
        name=name,
        status=ApplicationStatus(status),
        submitted=shown.get("deployed_app_config") or {},  # none where `serve.run` put it there
        message=message[-WORDS_KEPT:],
        deployments=tuple(_deployment(name, d) for name, d in (shown.get("deployments") or {}).items()),
    )


def _deployment(name: str, shown: Mapping[str, Any]) -> ObservedDeployment:
    return ObservedDeployment(
        name=name,
        status=str(shown["status"]),
        trigger=str(shown.get("status_trigger") or ""),
        message=str(shown.get("message") or "")[-WORDS_KEPT:],
        user_config=(shown.get("deployment_config") or {}).get("user_config") or {},
        replicas_running=sum(replica.get("state") == "RUNNING" for replica in shown.get("replicas") or ()),
    )


# --- reading what nodes have --------------------------------------------------------------------------------------

_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_AMOUNT = r"([0-9.e+-]+)([KMGT]?i?B)?"
_RESERVED = re.compile(rf"{_AMOUNT}/{_AMOUNT} (\S+)(?: \({_AMOUNT} used of {_AMOUNT} reserved in placement groups\))?")
_OF_RAY = re.compile(r"node:.*|object_store_memory")
"""What nobody reserves: the marks of nodes, and the store's own room."""


def _node(total: Mapping[str, float], shown: str) -> Node:
    has = {name: float(amount) for name, amount in total.items() if not _OF_RAY.fullmatch(name)}
    reserved = {name: amount for name, amount in _reserved(shown) if name in has}
    return Node(total=has, free=added(has, times(reserved, -1)))


def _reserved(shown: str) -> Iterator[tuple[str, float]]:
    """`3.0/16.0 CPU (1.0 used of 2.0 reserved in placement groups)`, a line for each resource. Raises ValueError.

    What a placement group has reserved is gone, used or not.
    """
    for line in filter(None, shown.splitlines()):
        found = _RESERVED.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"{line[:200]!r} is no line of reserved resources")
        used, in_groups, groups = (_number(found, at) for at in (1, 6, 8))
        yield found[5], used + groups - in_groups


def _number(found: re.Match[str], at: int) -> float:
    return float(found[at]) * _BYTES.get(found[at + 1] or "", 1) if found[at] else 0.0
