"""What a replica says about its node's environment."""

from __future__ import annotations

import pytest

from serving_runtime.doorstep import CALLBACK, HERE
from serving_runtime.node_settings import ADVISED_BYTES, MESSAGE_LIMIT, troubles
from serving_runtime.protocol import BODY_LIMIT_BYTES

STEP = {CALLBACK: HERE}
FAST = {**STEP, "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


@pytest.mark.parametrize("limit", [{}, {MESSAGE_LIMIT: str(BODY_LIMIT_BYTES)}, {MESSAGE_LIMIT: "much"}])
def test_a_limit_below_what_the_door_takes_is_named_with_what_to_set(limit: dict[str, str]) -> None:
    (trouble,) = troubles({**FAST, **limit})
    assert trouble.startswith(MESSAGE_LIMIT)
    assert str(ADVISED_BYTES) in trouble


@pytest.mark.parametrize(
    "environment",
    [
        STEP,
        {**FAST, "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0"},
        {**STEP, "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"},
        {**FAST, MESSAGE_LIMIT: str(ADVISED_BYTES)},
    ],
)
def test_where_it_is_enough_or_does_not_matter_nothing_is_said(environment: dict[str, str]) -> None:
    assert list(troubles(environment)) == []


@pytest.mark.parametrize("named", [{}, {CALLBACK: ""}, {CALLBACK: "another.module:function"}])
def test_a_node_without_the_doorstep_is_told_what_to_set(named: dict[str, str]) -> None:
    (trouble,) = troubles(named)
    assert trouble.startswith(f"{CALLBACK} is not {HERE} on this node")
