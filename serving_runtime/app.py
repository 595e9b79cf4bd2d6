"""The Serve application of one version: the builder that a Serve config names by import_path, and its only deployment.

`serving_runtime.app:build`, with args `{"model", "slug", "version", "digest", "build", "tracking_uri"}`.

Rules:
- `reconfigure` is async, returns at once and never raises: Serve kills a replica whose reconfigure raises.
- Handles are made in the request path: in Serve's throughput mode they need the running loop.
- The constructor is async and loads in threads, so that the replica's actor answers Serve's questions while a large
  model loads; Serve routes nothing to it before the constructor and the first reconfigure have ended.
- Ray's Serve is imported here, in `front_app.py`, in `exposure.py` and in the modules of metrics, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import BadInput, Stalled
from policies.serving import Features
from policies.stored_documents import plain
from serving_runtime import features, model_server, node_settings
from serving_runtime.access import Gate
from serving_runtime.app_arguments import AppArguments
from serving_runtime.artifact_cache import ArtifactCache, node_cache, node_folder, registry_download
from serving_runtime.capture import Recorded, Recorder
from serving_runtime.capture_batches import Origin
from serving_runtime.captured_rows import Layout
from serving_runtime.description import Named
from serving_runtime.door import Door
from serving_runtime.event_stream import EVENT_STREAM, wants_events
from serving_runtime.exported_metrics import FLUSH_EVERY_S
from serving_runtime.exposure import is_exposed
from serving_runtime.host import Host
from serving_runtime.memory import MemoryWatch, keep_loaded, resident_bytes
from serving_runtime.model_server import ModelServer
from serving_runtime.not_by_grpc import NotByGrpc
from serving_runtime.open_inference import model_metadata
from serving_runtime.outcomes import Served, UserOutcome
from serving_runtime.protocol import COPY_HEADER, DRAINING, JSON, Answer, Call, CallKind
from serving_runtime.public_route import PublicRoute
from serving_runtime.replica_log import start_log
from serving_runtime.telemetry import RayTelemetry
from serving_runtime.torch_models import Owned
from serving_runtime.tracing import tracer
from serving_runtime.user_config import parse_user_config

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.requests import Request
    from starlette.responses import Response

_log = logging.getLogger(__name__)

DEPLOYMENT = "Model"  # the one deployment of every application


def build(args: dict[str, Any]) -> Application:
    """The Serve application of one version. Raises BadInput for wrong args, before anything starts."""
    from ray import serve

    return serve.deployment(name=DEPLOYMENT)(Model).bind(plain(AppArguments.parse(args)))


class Model(NotByGrpc):
    """One replica: the door, the host and the model server of its version, and what a host asks by handle."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]
        """Fetch, load, warm up. What it raises, Serve shows as the reason of DEPLOY_FAILED."""
        about = AppArguments.parse(args)
        start_log({"model": about.slug, "version": str(about.version), "build": about.build})
        for trouble in node_settings.troubles(os.environ):
            _log.warning(trouble)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # its control characters fill the logs
        served = Served(about.version, about.build)
        self._drains = False
        self._cache = node_cache(os.environ)  # kept: what it has fetched counts as used for as long as it is there
        self._telemetry = RayTelemetry(about.slug, served)
        self._tracer = tracer(os.environ, about.slug, about.version)
        self._server = await model_server.start(
            partial(_fetch, self._cache, about),
            _owned(),
            self._telemetry,
            None if about.features is None else partial(self._start_features, about.features),
            Named(about.slug, str(about.version)),
            self._tracer,
        )
        self._recorder = await asyncio.to_thread(_recorder, about, self._server)
        self._answers = Recorded(self._server, self._recorder)
        self._host = Host(
            served,
            self._answers,
            connect=ServeConnection,
            tally=self._telemetry,
            draw=random.Random().random,  # noqa: S311 traffic is split, no secret made
            clock=time.monotonic,
        )
        self._memory = MemoryWatch(random.random())  # noqa: S311 it spreads restarts
        self._gate = Gate(exposed=await is_exposed(), refused=self._telemetry.refused)
        turned_away = partial(self._telemetry.answered, UserOutcome.REFUSED)
        route = PublicRoute(time.monotonic)
        self._door = Door(self._host, self._server.described, turned_away, self._gate, route, self._tracer)
        self._flushing = asyncio.get_running_loop().create_task(self._flush_for_ever())
        keep_loaded()

    async def _start_features(self, terms: Features, input_schema: Any) -> features.FeatureJoin:
        self._telemetry.announce_lookups()
        return await features.start(terms, input_schema, self._telemetry)

    async def __del__(self) -> None:
        """Called by Serve, once, when this replica's last request has been answered."""
        await self._server.close()
        await asyncio.to_thread(self._recorder.close)
        await asyncio.to_thread(self._tracer.close)
        self._flush()

    # --- configuring -------------------------------------------------------------------------------------------

    async def reconfigure(self, user_config: object) -> None:
        """Take a new `user_config`. What is wrong with it is logged, and the replica keeps what it has."""
        try:
            config = parse_user_config(user_config)
        except BadInput as error:
            _log.error("%s; this replica keeps revision %s", error, self._revision)
            return
        before = self._revision
        if not self._host.configure(config):
            _log.warning("ignored revision %d: this replica has %s already", config.revision, before)
            return
        self._gate.configure(config.access)
        self._drains = config.drain
        self._memory.configure(config.memory_limit_mib)
        self._server.configure(config.batching)
        self._recorder.configure(config.capture)
        _log.info("revision %d: drain %s, split %s", config.revision, config.drain, config.split)

    async def check_health(self) -> None:
        """Asked by Serve every few seconds; after three times it replaces the replica. Raises Stalled."""
        trouble = self._memory.trouble or self._server.trouble(self._host.timeout_s)
        if trouble:
            _log.error("%s", trouble)
            raise Stalled(trouble)

    @property
    def _revision(self) -> int | None:
        return None if self._host.config is None else self._host.config.revision

    async def _flush_for_ever(self) -> None:
        while True:
            try:
                self._telemetry.troubled(self._gate.troubles)
                self._flush()
            except Exception:  # noqa: BLE001 whatever it is, the loop must go on
                # Ray's metrics have failed; requests go on, and the next flush may succeed.
                _log.exception("counts of one flush are lost")
            await asyncio.sleep(FLUSH_EVERY_S)

    def _flush(self) -> None:
        self._telemetry.captured(self._recorder.take_counts())
        breaker, memory = self._host.breaker, resident_bytes()
        self._telemetry.flush(self._revision or 0, self._host.tripped, memory, breaker)

    # --- the handle: a host asks on behalf of a user, a front as a user ------------------------------------------

    async def answer(
        self,
        body: bytes,
        content_type: str | None,
        request_id: str,
        kind: str = CallKind.INVOCATIONS,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Any, ...]:
        """Answer for a host: the fields of an `Answer`, status `DRAINING` when this version is on its way out."""
        if self._drains:
            return (DRAINING, b"", JSON)
        answer = await self._answers.answer(Call(body, content_type, request_id, CallKind(kind), headers or {}))
        return answer.plain()

    async def stream(
        self, body: bytes, content_type: str | None, request_id: str, kind: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[tuple[Any, ...] | bytes, None]:
        """The same for a host whose user wants events: the head as `answer` gives it, then the others as they come."""
        if self._drains:
            yield (DRAINING, b"", JSON)
            return
        answer = await self._answers.answer(Call(body, content_type, request_id, CallKind(kind), headers))
        rest = answer.rest
        try:
            yield answer.plain()
            if rest is not None:
                async for item in rest:
                    yield item.plain() if isinstance(item, Answer) else item
        finally:
            if rest is not None:
                await rest.aclose()

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Answer for a front as a user would be answered: with split, copies, fallback and counts, drained or not.

        Both sides are plain mappings whose unknown keys nobody minds: a front may be younger than this version. Who may
        call was asked by the front.
        """
        call = Call(
            question["body"],
            question.get("content_type"),
            question.get("request_id", ""),
            CallKind(question.get("kind", CallKind.INVOCATIONS)),
            question.get("headers") or {},
        )
        wanted = question.get("version") or None
        answer, version = await self._door.ask(call, version=wanted, may_force=question.get("may_force") is True)
        return {**answer._replace(rest=None)._asdict(), "version": version}

    async def describe(self) -> dict[str, Any]:
        """What this version says of itself to a front: the answer to `GET /v2/models/{model}`."""
        return {**model_metadata(self._server.described)._asdict(), "version": self._server.described.named.version}

    async def __call__(self, request: Request) -> Response:
        """One HTTP request."""
        return await self._door(request)


class ServeConnection:
    """The way to another application's deployment, by handle."""

    def __init__(self, application: str) -> None:
        self._application = application
        self._handle: Any = None

    async def answer(self, call: Call) -> Answer:
        """Ask. May hang or raise when the application is gone; cancelling it cancels the call over there."""
        if wants_events(call) and COPY_HEADER not in call.headers:
            return await self._head(call)
        more = (call.kind.value, dict(call.headers)) if call.headers or call.kind is not CallKind.INVOCATIONS else ()
        response = self._connect().answer.remote(call.body, call.content_type, call.request_id, *more)
        try:
            return Answer(*await response)
        except asyncio.CancelledError:
            response.cancel()
            raise

    async def _head(self, call: Call) -> Answer:
        handle = self._connect().options(stream=True)
        response = handle.stream.remote(
            call.body, call.content_type, call.request_id, call.kind.value, dict(call.headers)
        )
        try:
            head = Answer(*await anext(response))
        except asyncio.CancelledError:
            response.cancel()
            raise
        return head._replace(rest=_rest(response)) if head.content_type == EVENT_STREAM else head

    def _connect(self) -> Any:
        if self._handle is None:
            from ray import serve

            # Not get_app_handle: it asks the controller and blocks the event loop meanwhile, for as long as a
            # controller that died needs to come back. The deployment's name is known, and whether it exists shows when
            # it is asked.
            self._handle = serve.get_deployment_handle(
                DEPLOYMENT, app_name=self._application, _check_exists=False, _record_telemetry=False
            )
        return self._handle


async def _rest(response: Any) -> AsyncGenerator[bytes | Answer, None]:
    """What follows over the handle; closing it ends the stream over there."""
    try:
        async for item in response:
            yield item if isinstance(item, bytes) else Answer(*item)
    finally:
        response.cancel()


def _recorder(about: AppArguments, server: ModelServer) -> Recorder:
    """Capture for this replica. Raises Stalled as the cache does."""
    from ray import serve

    replica = serve.get_replica_context().replica_id.unique_id
    inputs, outputs = (None if schema is None else schema.to_dict() for schema in server.schemas)
    terms = about.features
    looked_up = {**dict.fromkeys(terms.required), **terms.defaults} if terms else {}
    layout = Layout(about.build, inputs, outputs, looked_up)
    origin = Origin(about.slug, about.version, about.build, replica)
    return Recorder(origin, layout, node_folder(os.environ) / "capture")


def _owned() -> Owned:
    """What Ray has reserved for this replica."""
    import ray

    resources = ray.get_runtime_context().get_assigned_resources()
    return Owned(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))


def _fetch(cache: ArtifactCache, about: AppArguments) -> Path:
    return cache.fetch(about.digest, registry_download(about.model, about.version, about.tracking_uri))
