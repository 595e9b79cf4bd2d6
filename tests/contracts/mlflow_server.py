"""A real MLflow server for the contract suites, and what a person does there.

One server for the whole session; tests keep apart by model names of their own (`RealRegistry.named`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.mlflow_server import MlflowServer
from pipelines.processes import port_is_free
from policies.model_signatures import Column, Signature
from registry_bridge.mlflow_registry import MlflowRegistry

WEBHOOKS = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "c2x1aWNlZ2F0ZS1zbHVpY2VnYXRlLXNsdWljZWdhdGU=",
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
}
"""It may call us, and notices within a second that we asked it to."""


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Started by the first test that needs it; at the end nothing of it is left but its folder."""
    with MlflowServer(tmp_path_factory.mktemp("mlflow"), settings=WEBHOOKS) as server:
        family = [server.process.pid, *_children(server.process.pid)]
        yield server
    assert len(family) > 1
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []
    assert port_is_free(server.port)
    assert (server.folder / "mlflow.db").is_file()


TINY_MODEL = """
import mlflow


class Tiny(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [{payload!r}] * len(model_input)


mlflow.models.set_model(Tiny())
"""


class RealRegistry:
    """The door under test, and a person at MLflow with the same verbs as `FakeRegistry`."""

    def __init__(self, server: MlflowServer, folder: Path) -> None:
        """`folder` is empty and stays so but for one file."""
        self.server, self._folder = server, folder
        self.port = MlflowRegistry(server.address, folder)

        from mlflow import MlflowClient  # after the door has bounded its patience

        self.client: Any = MlflowClient(tracking_uri=server.address)
        self._logged: dict[str | None, Any] = {}

    def logged(self, payload: str | None) -> Any:
        """A logged model; the same payload is logged once."""
        if payload not in self._logged:
            self._logged[payload] = self.log(payload)
        return self._logged[payload]

    def log(self, payload: str | None, signature: Any = None) -> Any:
        """Log the smallest real model that answers with the payload. It is code, so that twice the same is the same."""
        import mlflow

        code = self._folder / "tiny.py"
        code.write_text(TINY_MODEL.format(payload=payload))
        with self.as_default(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mlflow.pyfunc.log_model(
                name="tiny", python_model=str(code), pip_requirements=["numpy"], signature=signature
            )

    @contextlib.contextmanager
    def as_default(self) -> Iterator[None]:
        """MLflow's functions that ask "the" tracking server ask this one; `models:/` addresses always do."""
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.server.address)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)

    def register(self, model: str, payload: str | None = None) -> int:
        """A new version; without a payload, of one model that is logged once for all."""
        logged = self.logged(payload)
        return self.register_source(model, logged.model_uri, logged.model_id)

    def register_signed(self, model: str, signature: Signature) -> int:
        """A new version with this signature of plain columns, logged in a run of its own."""
        import mlflow

        sides = {"inputs": _written(signature.inputs), "outputs": _written(signature.outputs)}
        with self.as_default(), mlflow.start_run():
            logged = self.log(None, signature=mlflow.models.ModelSignature.from_dict(sides))
        return self.register_source(model, logged.model_uri, logged.model_id, logged.run_id)

    def register_pickled(self, model: str) -> int:
        """A new version that is a pickled object of Python."""
        import mlflow

        class Pickled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN202, ARG002
                return model_input

        with self.as_default(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logged = mlflow.pyfunc.log_model(name="pickled", python_model=Pickled(), pip_requirements=["numpy"])
        return self.register_source(model, logged.model_uri, logged.model_id)

    def log_metric(self, model: str, version: int, name: str, value: float) -> None:
        """To the version's run, at any time."""
        self.client.log_metric(self.client.get_model_version(model, str(version)).run_id, name, value)

    def register_source(self, model: str, source: str, model_id: str | None = None, run_id: str | None = None) -> int:
        """A new version with any source that MLflow takes."""
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):  # it exists
            self.client.create_registered_model(model)
        created = self.client.create_model_version(
            model, source, run_id=run_id, model_id=model_id, await_creation_for=0
        )
        return int(created.version)

    def transition(self, model: str, version: int, stage: str, *, archive_existing: bool = False) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.client.transition_model_version_stage(model, str(version), stage, archive_existing)

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        if version is None:
            self.client.delete_registered_model_alias(model, alias)
        else:
            self.client.set_registered_model_alias(model, alias, str(version))

    def set_tag(self, model: str, version: int, key: str, value: str | None) -> None:
        if value is None:
            self.client.delete_model_version_tag(model, str(version), key)
        else:
            self.client.set_model_version_tag(model, str(version), key, value)

    def set_ready(self, model: str, version: int, *, ready: bool) -> None:
        """Straight in its database: MLflow's API has no way to leave a version pending."""
        status = "READY" if ready else "PENDING_REGISTRATION"
        with contextlib.closing(sqlite3.connect(self.server.folder / "mlflow.db", timeout=10)) as database, database:
            database.execute(
                "UPDATE model_versions SET status = ? WHERE name = ? AND version = ?", (status, model, version)
            )

    def delete_version(self, model: str, version: int) -> None:
        self.client.delete_model_version(model, str(version))

    def delete_model(self, model: str) -> None:
        self.client.delete_registered_model(model)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The server hangs: connections open and nobody answers, the worst kind of away."""
        workers = [self.server.process.pid, *_children(self.server.process.pid)]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)


def _written(columns: tuple[Column, ...] | None) -> str | None:
    if columns is None:
        return None
    return json.dumps([{"type": c.type.kind, "name": c.name, "required": c.required} for c in columns])


def _children(pid: int) -> list[int]:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in texts for child in text.split()]
