"""What only the real door to MLflow can show: its errors in our words, its patience, its artifacts, its credentials."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.mlflow_server import MlflowServer
from pipelines.processes import LOOPBACK, free_port
from policies.documents import Trigger
from policies.errors import Retry, Stalled
from registry_bridge.mlflow_registry import MlflowRegistry
from registry_bridge.version_artifacts import VersionArtifacts
from tests.conditions import wait_until
from tests.contracts.mlflow_server import RealRegistry
from tests.fakes.registry import SIGNATURE

pytestmark = pytest.mark.real
SOON_S = 20.0


@pytest.fixture(scope="module")
def real(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> RealRegistry:
    return RealRegistry(mlflow_server, tmp_path_factory.mktemp("scratch"))


class Stranger(http.server.ThreadingHTTPServer):
    """Answers everything with `answer` and remembers what it was told."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__((LOOPBACK, 0), _StrangerHandler)
        self.status, self.body = status, body
        self.headers_seen: list[dict[str, str]] = []
        self.address = f"http://{LOOPBACK}:{self.server_address[1]}"


class _StrangerHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Stranger)
        self.server.headers_seen.append({"Method": self.command, **dict(self.headers)})
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def answering(server: Stranger) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield
    server.shutdown()
    thread.join()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Stranger(200, b"{}") as server, answering(server):
        yield server


# --- errors and patience ----------------------------------------------------------------------------------------


def error_body(code: str) -> bytes:
    return json.dumps({"error_code": code, "message": "says the server"}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"You are not authenticated", Stalled),
        (403, b"Permission denied", Stalled),
        (404, error_body("RESOURCE_DOES_NOT_EXIST"), Stalled),
        (404, b"<html>no MLflow here</html>", Stalled),
        (400, error_body("INVALID_PARAMETER_VALUE"), Stalled),
        (500, error_body("INVALID_STATE"), Retry),  # after its own retries MLflow forgets the body
        (409, error_body("RESOURCE_CONFLICT"), Retry),
        (429, b"slow down", Retry),
        (500, b"oops", Retry),
        (502, b"<html>bad gateway</html>", Retry),
        (503, error_body("TEMPORARILY_UNAVAILABLE"), Retry),
        (200, b"<html>please log in</html>", Retry),
        (200, b"[1, 2]", Retry),
    ],
)
def test_every_answer_is_retry_or_stalled_in_words(
    stranger: Stranger, status: int, body: bytes, kind: type[Exception]
) -> None:
    stranger.status, stranger.body = status, body
    door = MlflowRegistry(stranger.address)
    with pytest.raises(kind, match=r"^reading version 1 of fraud from MLflow failed: ") as caught:
        door.annotate("fraud", 1, {"a": "b"})
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert len(stranger.headers_seen) <= 2


@pytest.mark.parametrize("body", [b"{}", b'{"model_version": "nonsense"}', b'{"registered_models": [{"name": "x"}]}'])
def test_nothing_is_written_on_the_strength_of_an_answer_about_something_else(stranger: Stranger, body: bytes) -> None:
    stranger.body = body
    door = MlflowRegistry(stranger.address)
    with pytest.raises(Retry, match="asked for version 1 of fraud, MLflow answered"):
        door.annotate("fraud", 1, {"a": "b"})
    assert not door.restore("fraud", Trigger(stage="Production"), 1, None)
    assert door.snapshot(["fraud"]).models == {}
    assert {headers["Method"] for headers in stranger.headers_seen} == {"GET"}


def test_an_unavailable_snapshot_says_why(stranger: Stranger) -> None:
    stranger.status, stranger.body = 403, b"Permission denied"
    snapshot = MlflowRegistry(stranger.address).snapshot(["fraud"])
    assert not snapshot.available
    assert snapshot.models == {}
    assert "Permission denied" in snapshot.reason
    assert stranger.address in snapshot.reason


def test_a_server_that_is_not_there_is_said_within_seconds() -> None:
    address = f"http://{LOOPBACK}:{free_port()}"
    before = time.monotonic()
    snapshot = MlflowRegistry(address).snapshot(["fraud"])
    assert time.monotonic() - before < 10
    assert not snapshot.available
    assert "Connection refused" in snapshot.reason


# --- credentials --------------------------------------------------------------------------------------------------


def test_credentials_come_from_mlflows_variables_and_stay_out_of_words(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "sluice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim-4711")
    stranger.status, stranger.body = 401, b"who are you"
    with caplog.at_level(logging.DEBUG):
        snapshot = MlflowRegistry(stranger.address).snapshot(["fraud"])
    sent = base64.b64encode(b"sluice:geheim-4711").decode()
    assert stranger.headers_seen[0]["Authorization"] == f"Basic {sent}"
    assert "geheim-4711" not in snapshot.reason + caplog.text
    assert sent not in snapshot.reason + caplog.text


@pytest.mark.parametrize("scheme", ["http", "mlflow-artifacts"])
def test_a_source_on_another_server_gets_nothing_from_us(stranger: Stranger, scheme: str) -> None:
    """MLflow 3.17 refuses to register one, unless it is told otherwise; older servers take it."""
    with Stranger(200, b"") as evil, answering(evil):
        elsewhere = evil.address.replace("http", scheme, 1) + "/model"
        version = {"name": "fraud", "version": "1", "status": "READY", "source": elsewhere}
        stranger.body = json.dumps({"model_version": version, "artifact_uri": elsewhere}).encode()
        with pytest.raises(Stalled, match="lies on another server than the registry"):
            MlflowRegistry(stranger.address).artifact("fraud", 1)
        assert evil.headers_seen == []
    assert len(stranger.headers_seen) >= 2


# --- artifacts ----------------------------------------------------------------------------------------------------


def test_a_model_that_is_logged_again_has_the_same_digest(real: RealRegistry) -> None:
    for logged in (real.log("same"), real.log("same"), real.log("other")):
        real.register_source("again", logged.model_uri, logged.model_id)
    one, again, other = (real.port.artifact("again", version).digest for version in (1, 2, 3))
    assert one == again != other


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_the_digest_is_that_of_a_download(real: RealRegistry, tmp_path: Path) -> None:
    """The model server takes it from a folder that MLflow downloaded: `registered_model_meta` lies there too."""
    import mlflow

    from policies.artifact_digest import artifact_digest

    real.register("download", "x")
    with real.as_default():
        folder = Path(mlflow.artifacts.download_artifacts("models:/download/1", dst_path=str(tmp_path)))
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert "registered_model_meta" in files
    digest = artifact_digest({name: functools.partial(lines_of, path) for name, path in files.items()})
    assert digest == real.port.artifact("download", 1).digest


def test_nothing_stays_in_the_scratch_folder_and_nothing_is_read_twice(real: RealRegistry, tmp_path: Path) -> None:
    real.register("scratch", "x")
    door = MlflowRegistry(real.server.address, tmp_path)
    digest = door.artifact("scratch", 1).digest
    assert list(tmp_path.iterdir()) == []
    tmp_path.rmdir()  # whoever downloads again fails now
    assert door.artifact("scratch", 1).digest == digest


def test_a_scratch_folder_that_is_gone_is_a_reason(real: RealRegistry, tmp_path: Path) -> None:
    real.register("no-scratch", "x")
    with pytest.raises(Retry, match=r"reading the artifact of version 1 of no-scratch failed: .*absent"):
        MlflowRegistry(real.server.address, tmp_path / "absent").artifact("no-scratch", 1)


def test_an_artifact_that_is_gone_is_a_reason(real: RealRegistry) -> None:
    logged = real.log("gone")
    real.register_source("gone", logged.model_uri, logged.model_id)
    for path in sorted((real.server.folder / "artifacts").rglob(f"*{logged.model_id}/artifacts/*"), reverse=True):
        path.unlink()
    with pytest.raises(Stalled, match="the artifact of version 1 of gone: the artifact has no files"):
        real.port.artifact("gone", 1)


def test_a_version_whose_mlmodel_is_gone_says_so_until_it_is_back(real: RealRegistry) -> None:
    logged = real.log("no-mlmodel")
    real.register_source("no-mlmodel", logged.model_uri, logged.model_id)
    (path,) = (real.server.folder / "artifacts").rglob(f"*{logged.model_id}/artifacts/MLmodel")
    text = path.read_bytes()
    path.unlink()
    facts = real.port.facts("no-mlmodel", 1)
    assert facts.signature_reason == "MLmodel of version 1 of no-mlmodel is not among its files"
    path.write_bytes(b"signature: {inputs: '['}\n")
    assert real.port.facts("no-mlmodel", 1).signature_reason.startswith("the signature in MLmodel cannot be read: ")
    path.write_bytes(text)
    fresh = MlflowRegistry(real.server.address).facts("no-mlmodel", 1)
    assert (fresh.signature_reason, fresh.flavor) == ("", "python_function")


def test_a_metric_of_the_logged_model_counts_before_its_runs(real: RealRegistry) -> None:
    """One run may train many models: its own last value may be another one's."""
    version = real.register_signed("many-in-a-run", SIGNATURE)
    registered = real.client.get_model_version("many-in-a-run", str(version))
    model_id = registered.source.removeprefix("models:/")
    real.client.log_metric(registered.run_id, "auc", 0.6, model_id=model_id)
    real.client.log_metric(registered.run_id, "auc", 0.9)
    real.client.log_metric(registered.run_id, "loss", 0.2)
    facts = real.port.facts("many-in-a-run", version)
    assert (facts.metrics["auc"], facts.metrics["loss"]) == (0.6, 0.2)
    assert facts.run == f"run {registered.run_id} and logged model {model_id}"


def test_a_version_without_a_run_has_the_metrics_of_its_logged_model(real: RealRegistry) -> None:
    version = real.register("no-run", "x")
    assert not real.client.get_model_version("no-run", str(version)).run_id
    facts = real.port.facts("no-run", version)
    assert (dict(facts.metrics), facts.metrics_reason) == ({}, "")
    assert facts.run == f"logged model {real.logged('x').model_id}"


def test_a_digest_that_takes_long_does_not_hold_up_the_loop(real: RealRegistry) -> None:
    real.register("long", "x")
    uri = real.client.get_model_version_download_uri("long", "1")
    impatient = VersionArtifacts(real.server.address, wait_s=0.0)
    with pytest.raises(Retry, match="the artifact of version 1 of long is still being read"):
        impatient.of(("long", 1, uri, 0), uri)

    def ready() -> Any:
        try:
            return impatient.of(("long", 1, uri, 0), uri)
        except Retry:
            return None

    wait_until(ready, SOON_S, "the digest is there")
    assert ready() == real.port.artifact("long", 1)


# --- words --------------------------------------------------------------------------------------------------------


def test_deprecated_stages_are_not_said_at_every_transition(real: RealRegistry) -> None:
    real.register("quiet")
    real.transition("quiet", 1, "Production")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert real.port.restore("quiet", Trigger(stage="Production"), 1, None)
        assert real.port.snapshot(["quiet"]).available
    assert [w for w in said if issubclass(w.category, FutureWarning)] == []


def test_a_look_at_many_models_is_two_calls(stranger: Stranger) -> None:
    MlflowRegistry(stranger.address).snapshot([f"model-{n}" for n in range(100)])
    assert len(stranger.headers_seen) == 2


def test_a_server_that_cannot_start_says_why(real: RealRegistry, tmp_path: Path) -> None:
    taken = MlflowServer(tmp_path, real.server.port)
    with pytest.raises(Stalled, match=f"cannot listen on port {real.server.port}: another process does"):
        taken.start()
    assert not taken.process.running
