"""An ensemble and the entry for gRPC on real Ray Serve, in front of two real models."""

from __future__ import annotations

import dataclasses
import json
import logging
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from policies.convergence import InPlace, Submit, converge
from policies.documents import GrpcEntry, ModelDocument, RolloutPolicy
from policies.fronts import GRPC_APPLICATION, EnsembleDocument, Fronts
from policies.model import Application, Release, Settings
from serving_runtime.artifact_cache import digest_of, registry_download
from serving_runtime.door import VERSION_HEADER
from serving_runtime.grpc_messages import SERVICE, request_of, response_of
from serving_runtime.serve_config import Surroundings, ToServe, render
from serving_runtime.serve_fronts import render_fronts
from tests.conditions import wait_until
from tests.e2e.test_model_server import MODEL_FILE, clear

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

pytestmark = pytest.mark.real
_log = logging.getLogger(__name__)

READY_S = 120.0
LIVE_S = 30.0
ANSWER_S = 60.0
TREE, NET = "tree", "net"
SCALES: Mapping[str, tuple[float, ...]] = {TREE: (1.0, 5.0), NET: (3.0,)}
BOTH = EnsembleDocument(name="both", members=(TREE, NET), settings=Settings(cpus=0.2))
LARGE_ROWS = 700_000
"""More than the 4 MiB that calls by handle take by default, less than the 8 MiB that a door takes."""


@dataclasses.dataclass(frozen=True)
class Registry:
    """Two registered models: `tree` in two versions, `net` in one; each multiplies by its scale."""

    uri: str
    digests: Mapping[tuple[str, int], str]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    example = pd.DataFrame({"x": [1.0]})
    experiment = mlflow.create_experiment("fronts", artifact_location=(folder / "artifacts").as_uri())
    digests = {}
    for name, scales in SCALES.items():
        for version, scale in enumerate(scales, 1):
            with mlflow.start_run(experiment_id=experiment):
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(MODEL_FILE),
                    model_config={"scale": scale},
                    signature=infer_signature(example, [1.0]),
                    registered_model_name=name,
                    pip_requirements=["mlflow"],
                )
            there = folder / f"{name}-{version}"
            there.mkdir()
            digests[name, version] = digest_of(registry_download(name, version, uri)(there))
    mlflow.set_tracking_uri(before)
    return Registry(uri, digests)


class Fronted:
    """Two models, the ensemble of both and the entry for gRPC, brought about as the reconciler does."""

    def __init__(self, ray: RaySession, registry: Registry, cache: Path) -> None:
        self.ray, self._registry = ray, registry
        self._settings = Settings(cpus=0.5, env={"SLUICE_CACHE": str(cache)})
        self.url = f"{ray.http}/ensembles/both"

    def config(self, tree: int) -> dict[str, Any]:
        """With that version of `tree`."""
        around = Surroundings(tracking_uri=self._registry.uri)
        served = [self._served(TREE, tree, revision=tree), self._served(NET, 1, revision=1)]
        fronts = Fronts(ensembles=(BOTH,), grpc=GrpcEntry(enabled=True, cpus=0.2))
        return {"applications": [*render(served, around)["applications"], *render_fronts(fronts, served, around)]}

    def _served(self, name: str, version: int, revision: int) -> ToServe:
        digest = self._registry.digests[name, version]
        stable = Application(version=version, digest=digest, settings=self._settings)
        release = Release(model=name, environment="production", stable=stable, traffic_revision=revision)
        policy = RolloutPolicy(name="default")
        return ToServe(release=release, model=ModelDocument(name=name), policy=policy, objectives=())

    def bring(self, tree: int) -> list[str]:
        """Converge to that version of `tree`; the reasons of every submit."""
        desired, reasons = self.config(tree), []

        def in_place() -> bool:
            step = converge(desired, self.ray.cluster.observe())
            if isinstance(step, Submit):
                self.ray.cluster.apply(step.config)
                reasons.append(step.reason)
            return isinstance(step, InPlace)

        wait_until(in_place, READY_S, f"tree v{tree} in place")
        return reasons

    def invoke(self, *values: float, session: Any = requests, url: str = "") -> requests.Response:
        answer = session.post(
            f"{url or self.url}/invocations",
            data=json.dumps({"inputs": {"x": list(values)}}),
            headers={"content-type": "application/json", "x-request-id": "mine"},
            timeout=ANSWER_S,
        )
        assert isinstance(answer, requests.Response)
        return answer


@pytest.fixture(scope="module")
def fronted(ray_session: RaySession, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    fronted = Fronted(ray_session, registry, tmp_path_factory.mktemp("cache"))
    fronted.bring(tree=1)
    wait_until(lambda: requests.get(f"{fronted.url}/ping", timeout=ANSWER_S).ok, LIVE_S, "the ensemble's route")
    yield fronted
    clear(ray_session)


def test_an_ensemble_answers_for_its_members(fronted: Fronted) -> None:
    answer = fronted.invoke(1.0, 2.0)
    assert (answer.status_code, answer.text) == (200, '{"predictions": [2.0, 4.0]}')
    assert answer.headers[VERSION_HEADER] == "tree=1,net=1"
    assert answer.headers["x-request-id"] == "mine"
    wrong = requests.post(
        f"{fronted.url}/invocations", data="{", headers={"content-type": "application/json"}, timeout=9
    )
    assert (wrong.status_code, wrong.json()["error_code"]) == (400, "BAD_REQUEST")
    fault = fronted.invoke(13.0)
    assert (fault.status_code, "secret" in fault.text) == (500, False)


def call(channel: Any, method: str, message: Any, *, application: str = GRPC_APPLICATION, **metadata: str) -> Any:
    """The answer, or the grpc.RpcError that is raised."""
    import grpc

    about = (("application", application), *((k.replace("_", "-"), v) for k, v in metadata.items()))
    asking = channel.unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=lambda each: each.SerializeToString(),
        response_deserializer=response_of(method).FromString,
    )
    try:
        return asking(message, metadata=about, timeout=ANSWER_S)
    except grpc.RpcError as error:
        return error


def infer_request(model: str, *values: float) -> Any:
    message = request_of("ModelInfer")(model_name=model, raw_input_contents=[struct.pack(f"<{len(values)}d", *values)])
    message.inputs.add(name="x", datatype="FP64", shape=[len(values)])
    return message


def test_grpc_answers_as_http_does_by_an_application_whose_name_never_changes(fronted: Fronted) -> None:
    import grpc

    # A client takes 4 MiB by default.
    with grpc.insecure_channel(fronted.ray.grpc, [("grpc.max_receive_message_length", -1)]) as channel:

        def ready() -> bool:
            return getattr(call(channel, "ModelReady", request_of("ModelReady")(name=TREE)), "ready", False) is True

        wait_until(ready, LIVE_S, "the entry for gRPC")
        assert call(channel, "ServerLive", request_of("ServerLive")()).live
        assert list(call(channel, "ModelMetadata", request_of("ModelMetadata")(name=NET)).versions) == ["1"]
        answer = call(channel, "ModelInfer", infer_request(NET, 1.0, 2.5))
        assert (answer.model_name, answer.model_version) == (NET, "1")
        assert struct.unpack("<2d", answer.raw_output_contents[0]) == (3.0, 7.5)
        large = call(channel, "ModelInfer", infer_request(NET, *[1.0] * LARGE_ROWS))
        assert len(large.raw_output_contents[0]) == 8 * LARGE_ROWS
        fault = call(channel, "ModelInfer", infer_request(NET, 13.0), x_request_id="mine")
        assert (fault.code(), "mine" in fault.details(), "secret" in fault.details()) == (
            grpc.StatusCode.INTERNAL,
            True,
            False,
        )
        unknown = call(channel, "ModelInfer", infer_request("other", 1.0))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND


def test_what_a_door_lets_in_reaches_a_host_by_handle(fronted: Fronted) -> None:
    answer = fronted.invoke(*[1.5] * LARGE_ROWS)
    assert answer.status_code == 200, answer.text[:300]
    assert len(answer.json()["predictions"]) == LARGE_ROWS


def test_a_promotion_of_a_member_under_load_fails_no_request(fronted: Fronted) -> None:
    answers: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                answer = fronted.invoke(1.0, session=session)
                answers[answer.status_code, answer.text] += 1

    users = [threading.Thread(target=load) for _ in range(4)]
    for user in users:
        user.start()
    try:
        reasons = fronted.bring(tree=2)
        wait_until(lambda: answers[200, '{"predictions": [4.0]}'] > 100, LIVE_S, "answers with the new version")
    finally:
        stop.set()
        for user in users:
            user.join(ANSWER_S)
    _log.info("%d requests in %d submits; %s", sum(answers.values()), len(reasons), reasons)
    assert set(answers) == {(200, '{"predictions": [2.0]}'), (200, '{"predictions": [4.0]}')}
    assert fronted.invoke(1.0).headers[VERSION_HEADER] == "tree=2,net=1"
