"""Stores for the contract suites: in memory, a folder, S3 by moto's server; Ceph's gateway too in `make test-s3`."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.processes import LOOPBACK
from serving_runtime.object_store import ObjectStore, open_store
from tests.contracts.radosgw import KEY, SECRET, Radosgw
from tests.fakes.object_store import MemoryStore

SERVERS = ("moto", *(("radosgw",) if os.environ.get("SLUICE_RADOSGW") else ()))
AWS_VARIABLES = ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY")


def aim_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """The AWS environment of one server on this machine, and nothing of this machine's own."""
    for name in AWS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Moto's S3 server, in this process, on a free port of the loopback; its endpoint."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def radosgw() -> Iterator[str]:
    """Ceph's gateway; its endpoint."""
    with tempfile.TemporaryDirectory(prefix="rgw") as folder, Radosgw(Path(folder)) as server:
        yield server.endpoint


def new_bucket(request: pytest.FixtureRequest, server: str) -> str:
    """The environment aimed at that server, and the name of a bucket that is new to this test."""
    import boto3

    aim_at(request.getfixturevalue("monkeypatch"), request.getfixturevalue(server))
    client = boto3.client("s3")
    bucket = f"captured-{len(client.list_buckets()['Buckets'])}"
    client.create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture(params=SERVERS)
def bucket(request: pytest.FixtureRequest) -> str:
    """A new bucket of each S3 server."""
    return new_bucket(request, request.param)


@dataclasses.dataclass(frozen=True)
class Place:
    """An empty store that others can read, and its address."""

    store: ObjectStore
    address: str


@pytest.fixture(params=["folder", *SERVERS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder, and each S3 server."""
    inside = f"{tmp_path}/captured" if request.param == "folder" else f"{new_bucket(request, request.param)}/some/where"
    address = f"{'file' if request.param == 'folder' else 's3'}://{inside}"
    return Place(open_store(address), address)


@pytest.fixture(params=["memory", "folder", *SERVERS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Each kind of store, empty."""
    match request.param:
        case "memory":
            return MemoryStore()
        case "folder":
            return open_store(f"file://{tmp_path}/captured")
        case server:
            return open_store(f"s3://{new_bucket(request, server)}/some/where")
