"""The HTTP door of an ensemble: MLflow's scoring protocol and the Open Inference Protocol, and nothing else.

Rules:
- As at a version's door (`door.py`): what reaches no member is refused here and counted, a body is read up to its
  limit, every answer names what answered.
- Headers go on to the members' hosts, which know what they mean there; credentials do not, and neither does a forced
  version, which means something in one model only.
- Where access is limited, this is where it is: hosts trust a front (`app.py: Model.ask`).
- Nothing here knows Ray.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from serving_runtime.access import Gate
from serving_runtime.arrivals import Arrivals
from serving_runtime.callers import Refusal
from serving_runtime.door import VERSION_HEADER
from serving_runtime.doorstep import REQUEST_ID_HEADER
from serving_runtime.endpoints import OPEN, Endpoint, below_route, find_endpoint, is_v2
from serving_runtime.ensemble import Ensemble
from serving_runtime.ensemble_tensors import Tensors
from serving_runtime.exchange import NOT_HERE, request_id, spoken
from serving_runtime.open_inference import in_protocol, live, ready, server_metadata
from serving_runtime.protocol import Answer, Call, CallKind, error_answer

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

INVOCATIONS: Final = "/invocations"
TELLS: Final = ("/ping", "/health", "/version")
HEADERS_LIMIT: Final = 32
"""Headers that are passed on; clients send a dozen."""
HEADER_LIMIT_CHARS: Final = 512
"""Of each header's value: keys of users and trace contexts are shorter."""
MOST_SLOW: Final = 32
"""Bodies that may be slow at once: half of the requests that a front takes by default, and Serve counts them all."""
OURS: Final = "x-sluice-"
"""What begins so is said among ourselves, or about one model only (a forced version)."""
_KEPT_HERE: Final = frozenset(
    {
        *("authorization", "proxy-authorization", "x-api-key", "cookie"),
        *("host", "content-length", "content-type", "connection", "transfer-encoding", "user-agent", REQUEST_ID_HEADER),
    }
)

_V2: Final = (
    Endpoint.V2_SERVER,
    Endpoint.V2_LIVE,
    Endpoint.V2_READY,
    Endpoint.V2_MODEL,
    Endpoint.V2_MODEL_READY,
    Endpoint.V2_INFER,
)


def passed_on(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that hosts may need, by their names in lower case."""
    kept = ((name.lower(), value) for name, value in headers if len(value) <= HEADER_LIMIT_CHARS)
    return dict([pair for pair in kept if pair[0] not in _KEPT_HERE and not pair[0].startswith(OURS)][:HEADERS_LIMIT])


class FrontDoor:
    """HTTP for one replica of an ensemble."""

    def __init__(
        self, name: str, ensemble: Ensemble, tensors: Tensors, gate: Gate, refused: Callable[[], None]
    ) -> None:
        """Keys name an ensemble by its `name`, as a model; `refused()` is called for each request turned away here."""
        self._name, self._gate = name, gate
        self._arrivals = Arrivals()
        self._ensemble, self._tensors = ensemble, tensors
        self._refused = refused

    async def __call__(self, request: Request, route: str) -> Response:
        """One HTTP request to the ensemble at `route`."""
        path = below_route(request.scope["path"], request.scope.get("root_path", ""), route)
        if is_v2(path):
            return await self._infer(request, path)
        if path in (INVOCATIONS, "/version"):
            caller = await self._gate.admit(request.scope["headers"], self._name)
            if isinstance(caller, Refusal):
                return self._refuse(caller.answer, caller.headers)
        if path == INVOCATIONS:
            return await self._invoke(request) if request.method == "POST" else self._not_allowed(path, "POST")
        if path not in TELLS:
            known = ", ".join((INVOCATIONS, *TELLS, *_V2))
            return self._refuse(
                error_answer(404, "ENDPOINT_NOT_FOUND", f"An ensemble answers {known} below its route.")
            )
        if request.method not in ("GET", "HEAD"):
            return self._not_allowed(path, "GET, HEAD")
        return _response(Answer(200, _version() if path == "/version" else b"\n"), "")

    async def _infer(self, request: Request, path: str) -> Response:
        """A request in the Open Inference Protocol."""
        found = find_endpoint(request.method, path)
        if isinstance(found, Answer):
            return self._refuse(in_protocol(found))
        if found.endpoint not in OPEN:
            caller = await self._gate.admit(request.scope["headers"], self._name)
            if isinstance(caller, Refusal):
                return self._refuse(in_protocol(caller.answer), caller.headers)
        if found.model not in (None, self._name) or found.version is not None:
            unknown = self._tensors.unknown(found.model, found.version)
            return self._refuse(NOT_HERE if found.endpoint in OPEN else in_protocol(unknown))
        if found.endpoint is Endpoint.V2_INFER:
            return await self._invoke(request, CallKind.INFER)
        return _response(in_protocol(await self._tell(found.endpoint, request_id(request))), "")

    async def _tell(self, endpoint: Endpoint, request_id: str) -> Answer:
        match endpoint:
            case Endpoint.V2_SERVER:
                return server_metadata(importlib.metadata.version("sluicegate"))
            case Endpoint.V2_LIVE:
                return live()
            case Endpoint.V2_READY:
                return ready()
        heard, needed = await self._ensemble.described(request_id), self._ensemble.needed
        tell = self._tensors.metadata if endpoint is Endpoint.V2_MODEL else self._tensors.ready
        return tell(heard, needed, request_id)

    async def _invoke(self, request: Request, kind: CallKind = CallKind.INVOCATIONS) -> Response:
        body = await self._arrivals.read(request, MOST_SLOW)
        if isinstance(body, Answer):
            return self._refuse(spoken(body, kind))
        headers = passed_on(request.headers.items())
        call = Call(body, request.headers.get("content-type"), request_id(request), kind, headers)
        answer, versions = await self._ensemble.answer(call)
        return _response(spoken(answer, kind), versions)

    def _not_allowed(self, path: str, allowed: str) -> Response:
        answer = error_answer(405, "METHOD_NOT_ALLOWED", f"{path} answers {allowed.replace(', ', ' or ')}.")
        return self._refuse(answer, {"allow": allowed})

    def _refuse(self, answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
        self._refused()
        return _response(answer, "", headers)


def _response(answer: Answer, versions: str, more: Mapping[str, str] | None = None) -> Response:
    from starlette.responses import Response

    headers = {**({VERSION_HEADER: versions} if versions else {}), **dict(answer.headers), **(more or {})}
    return Response(answer.body, answer.status, headers, media_type=answer.content_type)


def _version() -> bytes:
    from mlflow.version import VERSION

    return str(VERSION).encode()
