"""The Serve application of one front: the builder that a Serve config names by import_path, and its deployments.

`serving_runtime.front_app:build`, with args `{"kind": "ensemble", "name", "combine", "options"}` or `{"kind": "grpc"}`.

Rules:
- As for a version's application (`app.py`): `reconfigure` is async, returns at once and never raises; handles are made
  in the request path.
- A front holds no model and keeps nothing: any replica may answer any request.
- The gate (`access.py`) stands here: hosts trust a front.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policies.errors import BadInput
from policies.fronts import GRPC_APPLICATION
from serving_runtime import combining
from serving_runtime.access import Gate
from serving_runtime.app import DEPLOYMENT as HOST_DEPLOYMENT
from serving_runtime.ensemble import Ensemble
from serving_runtime.ensemble_tensors import Tensors
from serving_runtime.exported_metrics import FLUSH_EVERY_S
from serving_runtime.exposure import is_exposed
from serving_runtime.front import Front, Question, Reply
from serving_runtime.front_config import EnsembleArgs, GrpcArgs, parse_front_args, parse_front_config
from serving_runtime.front_door import FrontDoor
from serving_runtime.front_telemetry import FrontTelemetry
from serving_runtime.grpc_entry import GrpcEntry
from serving_runtime.not_by_grpc import NotByGrpc
from serving_runtime.protocol import Answer, error_answer, overloaded
from serving_runtime.replica_log import start_log
from serving_runtime.serve_fronts import DEPLOYMENT

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.requests import Request
    from starlette.responses import Response

_log = logging.getLogger(__name__)


def build(args: dict[str, Any]) -> Application:
    """The Serve application of one front. Raises BadInput for wrong args, before anything starts."""
    from ray import serve

    match parse_front_args(args):
        case EnsembleArgs():
            return serve.deployment(name=DEPLOYMENT)(EnsembleFront).bind(dict(args))
        case GrpcArgs():
            return serve.deployment(name=DEPLOYMENT)(GrpcFront).bind()


class _FrontReplica:
    """What every front's replica does: it is told of its members, and counts."""

    async def _start(self, name: str) -> None:
        start_log({"front": name})
        self._telemetry = FrontTelemetry(name)
        self._front = Front(ServeHost)
        self._gate = Gate(exposed=await is_exposed(), refused=self._telemetry.may_not)
        self._flushing = asyncio.get_running_loop().create_task(self._flush_for_ever())

    async def reconfigure(self, user_config: object) -> None:
        """Take a new `user_config`. What is wrong with it is logged, and the replica keeps what it has."""
        try:
            config = parse_front_config(user_config)
        except BadInput as error:
            _log.error("%s; this replica keeps the members it has", error)
            return
        self._front.configure(config)
        self._gate.configure(config.access)
        for member in config.members:
            self._telemetry.announce(member.model)
        _log.info("members: %s", ", ".join(f"{member.model} by {member.application}" for member in config.members))

    async def _flush_for_ever(self) -> None:
        while True:
            try:
                self._telemetry.flush()
            except Exception:  # noqa: BLE001 whatever it is, the loop must go on
                # Ray's metrics have failed; requests go on, and the next flush may succeed.
                _log.exception("counts of one flush are lost")
            await asyncio.sleep(FLUSH_EVERY_S)


class EnsembleFront(NotByGrpc, _FrontReplica):
    """One replica of an ensemble."""

    async def __init__(self, args: Mapping[str, Any]) -> None:  # type: ignore[misc]
        """Import the function. What it raises, Serve shows as the reason of DEPLOY_FAILED."""
        about = parse_front_args(args)
        if not isinstance(about, EnsembleArgs):
            raise BadInput(f"an ensemble is built from args of kind ensemble, not {about.kind}")
        await self._start(about.name)
        combine = combining.combining(about.combine)
        ours = combine.__module__ == combining.__name__
        tensors = Tensors(about.name, about.combine)
        ensemble = Ensemble(self._front, combine, about.options, self._telemetry, ours=ours, tensors=tensors)
        self._door = FrontDoor(about.name, ensemble, tensors, self._gate, self._telemetry.refused)

    async def __call__(self, request: Request) -> Response:
        """One HTTP request."""
        return await self._door(request, self._front.config.route if self._front.config else "")


class GrpcFront(_FrontReplica):
    """One replica of the entry for gRPC. Serve calls a method by its name in the protocol, with the message's bytes."""

    async def __init__(self) -> None:  # type: ignore[misc]
        """Nothing is loaded."""
        await self._start(GRPC_APPLICATION)
        self._entry = GrpcEntry(self._front, self._gate, self._telemetry)

    async def ServerLive(self, _: bytes) -> Any:  # noqa: N802 the protocol's name, as all below
        """Open to everybody."""
        return self._entry.server_live()

    async def ServerReady(self, _: bytes) -> Any:  # noqa: N802
        """Open to everybody."""
        return self._entry.server_ready()

    async def ServerMetadata(self, _: bytes) -> Any:  # noqa: N802
        """Open to everybody: a name."""
        return self._entry.server_metadata()

    async def ModelReady(self, request: bytes, grpc_context: Any) -> Any:  # noqa: N802
        """Does it answer? Open to everybody."""
        return await self._entry.model_ready(request, grpc_context)

    async def ModelMetadata(self, request: bytes, grpc_context: Any) -> Any:  # noqa: N802
        """What it takes and gives."""
        return await self._entry.model_metadata(request, grpc_context)

    async def ModelInfer(self, request: bytes, grpc_context: Any) -> Any:  # noqa: N802
        """A prediction."""
        return await self._entry.model_infer(request, grpc_context)

    async def __call__(self, _: Request) -> Response:
        """Nothing is answered over HTTP here."""
        from starlette.responses import Response

        answer = error_answer(404, "ENDPOINT_NOT_FOUND", "Here is gRPC only; models are at their own routes.")
        return Response(answer.body, answer.status, media_type=answer.content_type)


class ServeHost:
    """The way to one host, by handle."""

    def __init__(self, application: str) -> None:
        self._application = application
        self._handle: Any = None

    async def ask(self, question: Question) -> Reply:
        """Ask. May hang or raise when the application is gone; cancelling it cancels the call over there.

        A host that has no room for one more request answers 503 by that: it is not gone.
        """
        from ray.serve.exceptions import BackPressureError

        call = question.call
        told = {
            "body": call.body,
            "content_type": call.content_type,
            "request_id": call.request_id,
            "kind": call.kind.value,
            "headers": dict(call.headers),
            "version": question.version,
            "may_force": question.may_force,
        }
        try:
            return await _reply(self._connect().ask.remote(told))
        except BackPressureError:
            return Reply(overloaded(call.request_id), "")

    async def describe(self) -> Reply:
        """What its version says of itself. Likewise."""
        return await _reply(self._connect().describe.remote())

    def _connect(self) -> Any:
        if self._handle is None:
            from ray import serve

            # As a host's way to its candidate (`app.py`): nothing here asks the controller.
            self._handle = serve.get_deployment_handle(
                HOST_DEPLOYMENT, app_name=self._application, _check_exists=False, _record_telemetry=False
            )
        return self._handle


async def _reply(response: Any) -> Reply:
    try:
        told = await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    return Reply(Answer(**{name: told[name] for name in Answer._fields if name in told}), told["version"])
