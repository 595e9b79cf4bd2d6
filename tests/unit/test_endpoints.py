"""What there is below a model's route."""

from __future__ import annotations

import pytest

from serving_runtime.endpoints import Endpoint, below_route, ends_in_v2, find_endpoint
from serving_runtime.protocol import Answer


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("POST", "/invocations", Endpoint.INVOCATIONS),
        ("GET", "/ping", Endpoint.PING),
        ("GET", "/health", Endpoint.HEALTH),
        ("GET", "/version", Endpoint.VERSION),
        ("GET", "/invocations", 405),
        ("POST", "/ping", 405),
        ("GET", "", 404),
        ("GET", "/", 404),
        ("POST", "ulent/invocations", 404),
        ("POST", "/invocations/", 404),
        ("GET", "/../invocations", 404),
        ("GET", "/v2", Endpoint.V2_SERVER),
        ("GET", "/v2/", 404),
        ("GET", "/v2/health/live", Endpoint.V2_LIVE),
        ("GET", "/v2/health/ready", Endpoint.V2_READY),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/", 404),
        ("GET", "/v2/models/fraud", Endpoint.V2_MODEL),
        ("GET", "/v2/models/fraud/ready", Endpoint.V2_MODEL_READY),
        ("POST", "/v2/models/fraud/infer", Endpoint.V2_INFER),
        ("GET", "/v2/models/fraud/infer", 405),
        ("POST", "/v2/models//infer", 404),
        ("POST", "/v2/models/fraud/versions/3/infer", Endpoint.V2_VERSION_INFER),
        ("GET", "/v2/models/fraud/versions/3", Endpoint.V2_VERSION),
        ("GET", "/v2/models/fraud/versions/3/ready", Endpoint.V2_VERSION_READY),
        ("GET", "/v2/models/fraud/versions/3/ready/", 404),
    ],
)
def test_endpoints(method: str, path: str, found: Endpoint | int) -> None:
    endpoint = find_endpoint(method, path)
    assert (endpoint.status if isinstance(endpoint, Answer) else endpoint.endpoint) == found


@pytest.mark.parametrize(
    ("path", "spoken"),
    [
        ("/models/fraud/v2", True),
        ("/v2/v2/v2/models/x/infer", True),
        ("/models/fraud/v2/health/ready", True),
        ("/models/fraud/v2/models/fraud/versions/3/ready", True),
        ("/models/fraud/v2/health/dead", False),
        ("/models/v2/invocations", False),
        ("", False),
    ],
)
def test_a_whole_path_tells_its_protocol_by_its_end(path: str, spoken: bool) -> None:
    assert ends_in_v2(path) is spoken


@pytest.mark.parametrize(
    ("path", "roots", "below"),
    [
        ("/models/fraud/invocations", ("/models/fraud", "/models/fraud"), "/invocations"),
        ("/models/fraud/invocations", ("", "/models/fraud"), "/invocations"),
        ("/invocations", ("", "/models/fraud"), "/invocations"),
        ("/models/fraudulent/invocations", ("", "/models/fraud"), "/models/fraudulent/invocations"),
        ("/models/fraud/invocations", ("", ""), "/models/fraud/invocations"),
    ],
)
def test_a_request_that_arrives_before_serve_told_the_route_finds_its_endpoint(path, roots, below):
    assert below_route(path, *roots) == below
