"""What the registry's contract suite needs of each side: the port, and a person at the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from pipelines.ports import Registry
from policies.model_signatures import Signature
from policies.observations import RegisteredVersion
from tests.contracts.mlflow_server import RealRegistry
from tests.fakes.registry import FakeRegistry


class Person(Protocol):
    """What people do at a registry."""

    def register(self, model: str, payload: str | None = None) -> int: ...
    def register_signed(self, model: str, signature: Signature) -> int: ...
    def register_pickled(self, model: str) -> int: ...
    def log_metric(self, model: str, version: int, name: str, value: float) -> None: ...
    def transition(self, model: str, version: int, stage: str, *, archive_existing: bool = False) -> None: ...
    def set_alias(self, model: str, alias: str, version: int | None) -> None: ...
    def set_tag(self, model: str, version: int, key: str, value: str | None) -> None: ...
    def set_ready(self, model: str, version: int, *, ready: bool) -> None: ...
    def delete_version(self, model: str, version: int) -> None: ...
    def delete_model(self, model: str) -> None: ...


class World:
    """One registry seen from both sides. `model` is a registered model's name that nobody else uses."""

    def __init__(self, port: Registry, person: Person, outage: Any, model: str) -> None:
        self.port, self.person, self._outage, self.model = port, person, outage, model

    def look(self, model: str | None = None) -> dict[int, RegisteredVersion]:
        """The versions of one model (none: this world's) in a snapshot that must be available."""
        name = model or self.model
        snapshot = self.port.snapshot([name])
        assert snapshot.available, snapshot.reason
        return dict(snapshot.models[name])

    def stages(self) -> dict[int, str]:
        return {number: version.stage for number, version in self.look().items()}

    def versions(self, count: int) -> list[int]:
        """Register that many versions."""
        return [self.person.register(self.model) for _ in range(count)]

    def outage(self) -> contextlib.AbstractContextManager[None]:
        """While it lasts the registry answers nobody."""
        outage: contextlib.AbstractContextManager[None] = self._outage()
        return outage


def fake_world(model: str) -> World:
    fake = FakeRegistry()

    @contextlib.contextmanager
    def outage() -> Iterator[None]:
        fake.away = "the registry does not answer"
        yield
        fake.away = None

    return World(fake, fake, outage, model)


def real_world(real: RealRegistry, model: str) -> World:
    return World(real.port, real, real.outage, model)
