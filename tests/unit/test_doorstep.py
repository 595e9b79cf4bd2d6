"""The head of a request before Serve reads it: its texts are UTF-8, and it has one id."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serving_runtime.doorstep import CALLBACK, HERE, REQUEST_ID_LIMIT_CHARS, Doorstep, middlewares

MADE = "made"
Header = tuple[bytes, bytes]


class Behind:
    """What stands behind the doorstep: it remembers what it was asked."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, *_channel: Any) -> None:
        self.scopes.append(scope)

    @property
    def ids(self) -> list[bytes]:
        return [value for name, value in self.scopes[-1]["headers"] if name == b"x-request-id"]


def stepped(
    *headers: Header, path: str = "/models/fraud/invocations", method: str = "POST", **more: Any
) -> tuple[Behind, list[Any]]:
    """What came through, and what was answered at once."""
    behind, sent = Behind(), []

    async def receive() -> Any:
        raise AssertionError("nothing of the body is read here")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), **more}
    asyncio.run(Doorstep(behind, lambda: MADE, {"RAY_SERVE_SESSION_ID_HEADER_KEY": "x-who"})(scope, receive, send))
    return behind, sent


@pytest.mark.parametrize(
    "name",
    [
        *("x-request-id", "x-request-timeout-seconds", "x-request-disconnect-disabled", "traceparent"),
        *("serve_multiplexed_model_id", "serve-multiplexed-model-id", "serve_multiplexed-model_id", "x-who", "x_who"),
    ],
)
def test_a_header_that_serve_reads_and_that_is_no_text_is_400_and_named(name: str) -> None:
    behind, sent = stepped((name.encode(), b"a\xff"))
    start, body = sent
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"], headers[b"x-request-id"]) == (400, b"application/json", b"made")
    told = json.loads(body["body"])
    assert told["error_code"] == "BAD_REQUEST"
    assert f"header {name}: it is no UTF-8" in told["message"]
    assert int(headers[b"content-length"]) == len(body["body"])
    assert behind.scopes == []


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/models/fraud/v2/models/fraud/infer", {"error"}),
        ("/models/fraud/v2", {"error"}),
        ("/models/fraud/v2/health/live", {"error"}),
        ("/models/fraud/ping", {"error_code", "message"}),
        ("/api/v2/fraud/invocations", {"error_code", "message"}),
        ("/api/v2/fraud/v2/models/fraud/ready", {"error"}),
    ],
)
def test_it_is_said_in_the_words_of_the_protocol(path: str, shape: set[str]) -> None:
    _, (_, body) = stepped((b"x-request-id", b"\xff"), path=path)
    assert json.loads(body["body"]).keys() == shape


def test_to_head_only_the_head_is_answered() -> None:
    _, (start, body) = stepped((b"x-request-id", b"\xff"), method="HEAD", path="/models/fraud/ping")
    assert (start["status"], body["body"]) == (400, b"")


@pytest.mark.parametrize("name", ["user-agent", "x-session-id", "x-session"])
def test_what_serve_does_not_read_is_nobodys_business_here(name: str) -> None:
    behind, sent = stepped((name.encode(), b"\xff"))
    assert (len(behind.scopes), sent) == (1, [])


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        ([], b"made"),
        ([b""], b"made"),
        ([b"   "], b"made"),
        ([b"mine"], b"mine"),
        (["größe".encode()], "größe".encode()),
        ([b"one", b"two"], b"one"),
        ([b"", b"two"], b"two"),
        ([b"i" * 1000], b"i" * REQUEST_ID_LIMIT_CHARS),
        ([b"i" * 127 + "ö".encode()], b"i" * 127),
    ],
)
def test_a_request_has_one_id_behind_it(sent: list[bytes], known: bytes) -> None:
    behind, answered = stepped(*((b"x-request-id", each) for each in sent), (b"accept", b"*/*"))
    assert (behind.ids, answered) == ([known], [])
    assert (b"accept", b"*/*") in behind.scopes[0]["headers"]


@pytest.mark.parametrize("id_", [b"a\tb", b"a\nb", b"a\x7fb", b"a\xc2\x85b", "a\u202eb".encode()])
def test_an_id_that_no_log_could_show_is_400(id_: bytes) -> None:
    behind, (start, body) = stepped((b"x-request-id", id_))
    assert (start["status"], behind.scopes) == (400, [])
    assert json.loads(body["body"])["message"].startswith("header x-request-id: it has characters that cannot be print")


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_what_is_no_request_passes_as_it_is(kind: str) -> None:
    behind, sent = stepped((b"x-request-id", b"\xff"), type=kind)
    assert (behind.scopes[0]["type"], sent) == (kind, [])


def test_ray_takes_it_where_its_variable_says_and_asks_it_before_its_own() -> None:
    """What Ray does with the variable, done by Ray's own functions."""
    from ray._common.utils import import_attr
    from ray.serve._private import constants, http_util

    made = http_util.validate_http_proxy_callback_return(import_attr(HERE)())
    assert [each.cls for each in made] == [each.cls for each in middlewares()] == [Doorstep]
    assert hasattr(constants, CALLBACK)
    assert isinstance(http_util._apply_middlewares(Behind(), made), Doorstep)
