"""What all tests share: real outside systems that are slow to start are started once, by the first test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

# A property's time depends on who else uses the machine: no deadline, or a busy one would fail it.
settings.register_profile("sluicegate", deadline=None)
settings.load_profile("sluicegate")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who shares the one Ray runs in the process that has it."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RaySession]:
    """The one Ray with Serve of all real tests; it serves gRPC too.

    A test's first submit replaces whatever the one before left running.
    """
    from pipelines.ray_session import RaySession

    with RaySession(tmp_path_factory.mktemp("ray"), grpc=True) as session:
        yield session
