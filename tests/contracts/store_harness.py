"""Stores for the contract suite: in memory, a folder, S3 by moto's server; Ceph's gateway in `make test-s3`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_runtime.object_store import ObjectStore, S3Store, open_store
from tests.fakes.object_store import MemoryStore

AWS_VARIABLES = ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY")
BUCKET = "captured"


def aim_at(monkeypatch: pytest.MonkeyPatch, endpoint: str, key: str, secret: str) -> None:
    """The AWS environment of one server on this machine, and nothing of this machine's own."""
    for name in AWS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def make_bucket(name: str = BUCKET) -> None:
    """What an administrator does, once."""
    import boto3

    boto3.client("s3").create_bucket(Bucket=name)


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Moto's S3 server, in this process, on a free port of the loopback."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto_s3(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment aimed at it, and a bucket that is new to this test; its name."""
    import boto3

    aim_at(monkeypatch, moto_endpoint, "key", "secret")
    name = f"{BUCKET}-{len(boto3.client('s3').list_buckets()['Buckets'])}"
    make_bucket(name)
    return name


@pytest.fixture(params=["memory", "folder", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Each kind of store, empty."""
    match request.param:
        case "memory":
            return MemoryStore()
        case "folder":
            return open_store(f"file://{tmp_path}/captured")
        case _:
            return S3Store(request.getfixturevalue("moto_s3"), "some/where")
