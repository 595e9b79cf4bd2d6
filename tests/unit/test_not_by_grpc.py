"""gRPC that reaches a version."""

from __future__ import annotations

import asyncio

import pytest

from serving_runtime.app import Model
from serving_runtime.front_app import EnsembleFront
from serving_runtime.grpc_messages import METHODS
from serving_runtime.not_by_grpc import NotByGrpc
from tests.unit.test_grpc_entry import Context


@pytest.mark.parametrize("method", METHODS)
def test_no_method_of_the_protocol_answers_there(method: str) -> None:
    context = Context()
    assert asyncio.run(getattr(NotByGrpc(), method)(b"", context)).SerializeToString() == b""
    assert (context.status, "sluice-grpc" in context.details) == ("NOT_FOUND", True)


@pytest.mark.parametrize("application", [Model, EnsembleFront])
def test_it_is_what_versions_and_ensembles_say(application: type) -> None:
    assert issubclass(application, NotByGrpc)
