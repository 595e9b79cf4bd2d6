"""A model whose callers are asked, on real Ray Serve, and the ports at which its applications listen."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from pipelines.ray_session import RANGE_FROM, RANGE_TO, RaySession
from policies.convergence import InPlace, Submit, converge
from policies.documents import GrpcEntry, ModelDocument, RolloutPolicy
from policies.fronts import Fronts
from policies.model import Application, Phase, Release, Settings
from policies.serving import Access, ApiKeys, ForcedVersion, Jwt, Rate
from serving_runtime.api_keys import new_key
from serving_runtime.artifact_cache import digest_of, registry_download
from serving_runtime.serve_config import Surroundings, ToServe, render
from serving_runtime.serve_fronts import render_fronts
from tests.conditions import wait_until
from tests.e2e.test_model_server import ANSWER_S, MODEL_FILE, READY_S

MODEL = "vault"
ROUTE = f"/models/{MODEL}"
STABLE, CANDIDATE = 1, 2
BODY = b'{"inputs": {"x": [1.0]}}'
ISSUER, AUDIENCE = "https://login.example.com/", "sluice"
SIGNER = ed25519.Ed25519PrivateKey.generate()
RATE = Rate(per_s=1, burst=40)
"""More than any caller of these tests asks, but for the one that asks too often."""
PREDICTED = b"predictions"


@dataclasses.dataclass(frozen=True)
class Versions:
    """A registered model's two versions; each multiplies by its number."""

    uri: str
    applications: Mapping[int, Application]


def registered(folder: Path) -> Versions:
    """Log and register both versions there."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    example = pd.DataFrame({"x": [1.0]})
    uri, before = f"sqlite:///{folder}/mlflow.db", mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment(MODEL, artifact_location=(folder / "artifacts").as_uri())
    settings, applications = Settings(cpus=0.5, env={"SLUICE_CACHE": str(folder / "cache")}), {}
    for version in (STABLE, CANDIDATE):
        with mlflow.start_run(experiment_id=experiment):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MODEL_FILE),
                model_config={"scale": float(version)},
                signature=infer_signature(example, [1.0]),
                registered_model_name=MODEL,
                pip_requirements=["mlflow"],
            )
        there = folder / str(version)
        there.mkdir()
        digest = digest_of(registry_download(MODEL, version, uri)(there))
        applications[version] = Application(version=version, digest=digest, settings=settings)
    mlflow.set_tracking_uri(before)
    return Versions(uri, applications)


class Guarded:
    """Stable on its route, a candidate with no share, the entry for gRPC; and who may call them."""

    def __init__(self, ray: RaySession, versions: Versions, folder: Path) -> None:
        self.ray, self._versions, self._folder = ray, versions, folder
        self.url = ray.http + ROUTE
        self._lines: dict[str, str] = {}
        self._file = folder / "keys"
        self._revision = 0
        self.shop = self.permit("shop")
        self.hasty = self.permit("hasty")
        self.tester = self.permit("tester", permissions=("force",))
        self.other = self.permit("other", model="other")
        tokens = Jwt(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(folder / "jwks"))
        self.access = Access(keys=ApiKeys(file=str(self._file)), jwt=tokens, rate=RATE)
        (folder / "jwks").write_text(json.dumps({"keys": [OKPAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True)]}))

    def application(self, version: int) -> str:
        return self._versions.applications[version].name(MODEL)

    def permit(self, name: str, model: str = MODEL, permissions: tuple[str, ...] = ()) -> str:
        """A new key, written beside the others as a person would: aside, and renamed."""
        key, self._lines[name] = new_key(name, [model], permissions)
        self._write()
        return key

    def _write(self) -> None:
        aside = self._folder / "keys.new"
        aside.write_text("".join(f"{line}\n" for line in self._lines.values()))
        aside.rename(self._file)

    def bring(self, access: Access | None) -> None:
        """Converge to these terms, as the reconciler does."""
        self._revision += 1
        desired = self._config(access)

        def in_place() -> bool:
            step = converge(desired, self.ray.cluster.observe())
            if isinstance(step, Submit):
                self.ray.cluster.apply(step.config)
            return isinstance(step, InPlace)

        wait_until(in_place, READY_S, "both versions and the entry for gRPC")

    def _config(self, access: Access | None) -> dict[str, Any]:
        around = Surroundings(tracking_uri=self._versions.uri, access=access)
        release = Release(
            model=MODEL,
            environment="production",
            phase=Phase.CANARY,
            stable=self._versions.applications[STABLE],
            candidate=self._versions.applications[CANDIDATE],
            traffic_revision=self._revision,
        )
        model = ModelDocument(name=MODEL, forced_version=ForcedVersion(to="keys"))
        served = [ToServe(release=release, model=model, policy=RolloutPolicy(name="default"), objectives=())]
        fronts = Fronts(grpc=GrpcEntry(enabled=True, cpus=0.2))
        return {"applications": [*render(served, around)["applications"], *render_fronts(fronts, served, around)]}

    def ask(self, *, url: str = "", **headers: str) -> requests.Response:
        sent = {"content-type": "application/json", **{name.replace("_", "-"): said for name, said in headers.items()}}
        return requests.post(f"{url or self.url}/invocations", data=BODY, headers=sent, timeout=ANSWER_S)

    def replicas(self) -> Mapping[str, int]:
        """The ports of the versions' replicas: each start takes another."""
        return http_ports()


# --- where applications listen ----------------------------------------------------------------------------------------

LOOPBACK_IN_PROC, ANY_IN_PROC = "0100007F", "0" * 32
LISTENS = "0A"


def http_ports() -> Mapping[str, int]:
    """Where each application answers HTTP past HAProxy, on loopback."""
    return _direct_ports("/proc/net/tcp", LOOPBACK_IN_PROC, _application_by_http)


def grpc_ports() -> Mapping[str, int]:
    """The same for gRPC, on every address."""
    return _direct_ports("/proc/net/tcp6", ANY_IN_PROC, _application_by_grpc)


def _direct_ports(table: str, address: str, ask: Callable[[int], str]) -> Mapping[str, int]:
    """The ports that Serve has given to applications, by their names. What else listens there is no application."""
    ports = set()
    for line in Path(table).read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        where, _, port = local.partition(":")
        if (where, state) == (address, LISTENS) and int(port, 16) in range(RANGE_FROM, RANGE_TO):
            ports.add(int(port, 16))
    return {name: port for port in ports if (name := ask(port))}


def _application_by_http(port: int) -> str:
    try:
        told = requests.get(f"http://127.0.0.1:{port}/-/routes", timeout=ANSWER_S).json()
    except (requests.RequestException, ValueError):
        return ""
    return str(next(iter(told.values()), ""))


def _application_by_grpc(port: int) -> str:
    import grpc
    from ray.serve.generated.serve_pb2 import ListApplicationsRequest, ListApplicationsResponse

    with grpc_channel(f"127.0.0.1:{port}") as channel:
        asking = channel.unary_unary(
            "/ray.serve.RayServeAPIService/ListApplications",
            request_serializer=ListApplicationsRequest.SerializeToString,
            response_deserializer=ListApplicationsResponse.FromString,
        )
        try:
            return str(asking(ListApplicationsRequest(), timeout=ANSWER_S).application_names[0])
        except grpc.RpcError:
            return ""


def grpc_channel(target: str) -> Any:
    import grpc

    return grpc.insecure_channel(target)


def own_address() -> str | None:
    """One of this machine's that is not loopback, or None. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.9", 9))
        except OSError:
            return None
        own = str(probe.getsockname()[0])
    return None if own.startswith("127.") else own
