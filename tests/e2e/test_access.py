"""Who may call, on real Ray Serve: what a caller gets, and what a stranger does not, by HAProxy and past it."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ed25519

from pipelines.ray_session import RaySession
from policies.fronts import GRPC_APPLICATION
from policies.serving import Access
from serving_runtime.door import VERSION_HEADER
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.grpc_messages import request_of
from tests.conditions import wait_until
from tests.e2e.guarded import (
    AUDIENCE,
    BODY,
    CANDIDATE,
    ISSUER,
    MODEL,
    PREDICTED,
    RATE,
    ROUTE,
    SIGNER,
    STABLE,
    Guarded,
    Versions,
    grpc_channel,
    grpc_ports,
    http_ports,
    own_address,
    registered,
)
from tests.e2e.test_fronts import call, infer_request
from tests.e2e.test_model_server import ANSWER_S, LIVE_S, clear

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return registered(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def guarded(ray_session: RaySession, versions: Versions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(ray_session, versions, tmp_path_factory.mktemp("who"))
    guarded.bring(guarded.access)
    wait_until(lambda: requests.get(f"{guarded.url}/ping", timeout=ANSWER_S).ok, LIVE_S, "the route")
    yield guarded
    clear(ray_session)


# --- callers ----------------------------------------------------------------------------------------------------------


def test_who_has_no_key_or_a_wrong_one_gets_401_and_a_key_lets_in(guarded: Guarded) -> None:
    none, wrong = guarded.ask(), guarded.ask(x_api_key="sluice_wrong")
    assert [none.status_code, wrong.status_code] == [401, 401]
    assert none.json()["error_code"] == wrong.json()["error_code"] == "UNAUTHENTICATED"
    assert [none.headers["www-authenticate"], wrong.headers["www-authenticate"]] == [
        f'Bearer realm="{MODEL}"',
        f'Bearer realm="{MODEL}", error="invalid_token"',
    ]
    for headers in ({"x_api_key": guarded.shop}, {"authorization": f"Bearer {guarded.shop}"}):
        assert guarded.ask(**headers).json() == {"predictions": [1.0]}


def test_load_balancers_need_no_key(guarded: Guarded) -> None:
    ready = (f"/v2/models/{MODEL}/ready", f"/v2/models/{MODEL}/versions/{STABLE}/ready")
    for path in ("/ping", "/health", "/v2/health/live", "/v2/health/ready", *ready):
        assert requests.get(guarded.url + path, timeout=ANSWER_S).status_code == 200
    for path in ("/version", "/v2", f"/v2/models/{MODEL}", "/openapi.json"):
        assert requests.get(guarded.url + path, timeout=ANSWER_S).status_code == 401


def test_a_key_is_replaced_without_a_restart(guarded: Guarded) -> None:
    old, served_by = guarded.shop, guarded.replicas()
    guarded.shop = guarded.permit("shop")
    wait_until(lambda: guarded.ask(x_api_key=guarded.shop).status_code == 200, LIVE_S, "the new key in force")
    assert guarded.ask(x_api_key=old).status_code == 401
    assert guarded.replicas() == served_by


def test_a_key_for_another_model_is_403(guarded: Guarded) -> None:
    answer = guarded.ask(x_api_key=guarded.other)
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


def test_who_asks_too_often_is_told_when_to_come_again_and_others_are_served(guarded: Guarded) -> None:
    answers = [guarded.ask(x_api_key=guarded.hasty)]
    while answers[-1].status_code == 200 and len(answers) < 10 * RATE.burst:
        answers.append(guarded.ask(x_api_key=guarded.hasty))
    assert len(answers) > RATE.burst
    refused = answers[-1]
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    assert guarded.ask(x_api_key=guarded.shop).status_code == 200


def test_only_with_its_permission_a_caller_names_the_version(guarded: Guarded) -> None:
    named = guarded.ask(x_api_key=guarded.tester, **{FORCE_HEADER: str(CANDIDATE)})
    assert (named.headers[VERSION_HEADER], named.json()) == (str(CANDIDATE), {"predictions": [2.0]})
    assert guarded.ask(x_api_key=guarded.shop, **{FORCE_HEADER: str(CANDIDATE)}).status_code == 403


def test_a_signed_token_lets_in_for_as_long_and_as_far_as_it_says(guarded: Guarded) -> None:
    def ask(**changes: Any) -> int:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "desk", "exp": time.time() + 300, "scope": f"sluice:{MODEL}"}
        token = jwt.encode({**claims, **changes}, SIGNER, "EdDSA")
        return guarded.ask(authorization=f"Bearer {token}").status_code

    assert ask() == 200
    assert ask(scope="sluice:other") == 403
    assert (ask(exp=time.time() - 300), ask(aud="another"), ask(iss="https://evil.example.com/")) == (401, 401, 401)
    stranger = jwt.encode({"sub": "desk"}, ed25519.Ed25519PrivateKey.generate(), "EdDSA")
    assert guarded.ask(authorization=f"Bearer {stranger}").status_code == 401


def test_grpc_asks_who_calls_too(guarded: Guarded) -> None:
    import grpc

    infer, denied = infer_request(MODEL, 1.0), grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(guarded.ray.grpc) as channel:
        wait_until(lambda: call(channel, "ModelInfer", infer).code() is denied, LIVE_S, "the entry for gRPC")
        # A key that was just replaced is in force at each replica in its own time.
        asking = partial(call, channel, "ModelInfer", infer, x_api_key=guarded.shop)
        wait_until(lambda: hasattr(asking(), "raw_output_contents"), LIVE_S, "the key in force")
        answer = asking()
        assert struct.unpack("<d", answer.raw_output_contents[0]) == (1.0,)
        assert call(channel, "ModelInfer", infer, x_api_key="sluice_wrong").code() is denied
        assert call(channel, "ModelMetadata", request_of("ModelMetadata")(name=MODEL)).code() is denied
        assert call(channel, "ServerLive", request_of("ServerLive")()).live


# --- strangers, and a way past the route ------------------------------------------------------------------------------


def test_a_version_answers_by_its_models_route_only(guarded: Guarded) -> None:
    """Serve gives each application a port of its own, for HTTP on loopback, for gRPC on every address."""
    http = http_ports()
    for base in ("", ROUTE):
        url = f"http://127.0.0.1:{http[guarded.application(CANDIDATE)]}{base}"
        answer = guarded.ask(url=url, x_api_key=guarded.shop)
        assert (answer.status_code, "not called directly" in answer.text) == (404, True)
    assert guarded.ask(url=f"http://127.0.0.1:{http[guarded.application(STABLE)]}{ROUTE}").status_code == 401
    by_proxy = f"{guarded.ray.http}/{guarded.application(CANDIDATE)}"
    assert guarded.ask(url=by_proxy, x_api_key=guarded.shop).status_code == 404

    ports = grpc_ports()
    infer = infer_request(MODEL, 1.0)
    for version in (STABLE, CANDIDATE):
        name = guarded.application(version)
        for target in (guarded.ray.grpc, f"127.0.0.1:{ports[name]}"):
            with grpc_channel(target) as channel:
                told = call(channel, "ModelInfer", infer, application=name, x_api_key=guarded.shop)
            assert told.code().name == "NOT_FOUND", target


def requested(line: str, *headers: str, body: bytes = BODY) -> bytes:
    about = ("Host: models.example.com", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join((f"{line} HTTP/1.1", *about, "Connection: close", "", "")).encode("latin-1") + body


INVOKE = f"POST {ROUTE}/invocations"
TRICKS: Mapping[str, bytes] = {
    "an old protocol": requested(INVOKE).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "another origin": requested(
        INVOKE,
        *("X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1", "Forwarded: for=127.0.0.1;host=localhost"),
        *("X-Original-Url: /ping", "X-Rewrite-Url: /ping", "X-Forwarded-Prefix: /ping", "X-Forwarded-User: shop"),
    ),
    "another method": requested(INVOKE, "X-Http-Method-Override: GET"),
    "what hosts say": requested(INVOKE, "x-sluice-copy: 1", f"{FORCE_HEADER}: {CANDIDATE}"),
    "what Serve heeds": requested(
        INVOKE, "serve_multiplexed_model_id: x", "x-request-timeout-seconds: -1", "x-request-disconnect-disabled: ?1"
    ),
    "an encoded path": requested(f"POST {ROUTE}/%69nvocations"),
    "an encoded route": requested("POST /models/%76ault/invocations"),
    "a path through ping": requested(f"POST {ROUTE}/ping/../invocations"),
    "the same, encoded": requested(f"POST {ROUTE}/ping%2f..%2finvocations"),
    "a path parameter": requested(f"POST {ROUTE}/invocations;/ping"),
    "a query": requested(f"{INVOKE}?x-api-key=$KEY&path=/ping"),
    "an absolute address": requested(f"POST http://127.0.0.1{ROUTE}/invocations"),
    "a cookie": requested(INVOKE, "Cookie: x-api-key=$KEY; authorization=Bearer $KEY"),
    "another name": requested(INVOKE, "x_api_key: $KEY"),
    "a name with a space": requested(INVOKE, "x-api-key : $KEY"),
    "two keys, the last good": requested(INVOKE, "x-api-key: wrong", "x-api-key: $KEY"),
    "two keys, the first good": requested(INVOKE, "x-api-key: $KEY", "authorization: Bearer wrong"),
    "a list of keys": requested(INVOKE, "x-api-key: wrong, $KEY"),
    "a folded header": requested(INVOKE, "x-api-key: wrong\r\n $KEY"),
    "another scheme": requested(INVOKE, "authorization: Basic $KEY"),
    "a huge key": requested(INVOKE, f"x-api-key: {'a' * 9_000}"),
    "a monstrous key": requested(INVOKE, f"x-api-key: {'a' * 100_000}"),
    "no text": requested(INVOKE, "x-api-key: \xff\xfe", "x-request-id: \xff"),
    "two lengths": requested(INVOKE, "Content-Length: 0"),
    "a length and chunks": requested(INVOKE, "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + requested(INVOKE)),
    "unknown chunks": requested(INVOKE, "Transfer-Encoding: xchunked"),
    "hidden in a ping": requested(f"GET {ROUTE}/ping", body=requested(INVOKE)),
    "after a ping": requested(f"GET {ROUTE}/ping", body=b"").replace(b"Connection: close\r\n", b"") + requested(INVOKE),
    "after a websocket": requested(
        f"GET {ROUTE}/invocations",
        *("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
        body=b"",
    ).replace(b"Connection: close", b"Connection: Upgrade")
    + requested(INVOKE),
    **{method: requested(f"{method} {ROUTE}/invocations") for method in ("GET", "PUT", "OPTIONS", "TRACE", "CONNECT")},
}


def test_no_trick_gets_a_prediction(guarded: Guarded) -> None:
    """By HAProxy, and past it at the port of the version that has the route."""
    http = http_ports()
    proxy = int(guarded.ray.http.rpartition(":")[2])
    for port in (proxy, http[guarded.application(STABLE)]):
        for trick, request in TRICKS.items():
            # The key is a good one where the trick is to have it taken from where none belongs.
            answer = exchanged(port, request.replace(b"$KEY", guarded.shop.encode()))
            assert PREDICTED not in answer, f"{trick} at {port}: {answer[:500]!r}"
        for path in ("", "/ping/..", "/../vault"):
            line = f"POST {ROUTE}{path}/invocations"
            assert PREDICTED not in exchanged(port, requested(line, f"x-api-key: {guarded.other}")), path
        sent = requested(INVOKE, f"x-api-key: {guarded.shop}")
        assert PREDICTED in exchanged(port, sent), "the same request with a key is answered, before and after"


READ_BY_SERVE = (
    "x-request-id",
    "x-session-id",
    "x_session_id",
    "serve_multiplexed_model_id",
    "x-request-timeout-seconds",
)


def test_a_header_that_serve_cannot_read_is_refused_in_words(guarded: Guarded) -> None:
    """By HAProxy, and past it: Serve itself would answer a bare 500."""
    for port in (int(guarded.ray.http.rpartition(":")[2]), http_ports()[guarded.application(STABLE)]):
        for name in READ_BY_SERVE:
            answer = exchanged(port, requested(INVOKE, f"{name}: a\xff", f"x-api-key: {guarded.shop}"))
            assert answer.startswith(b"HTTP/1.1 400 "), f"{name} at {port}: {answer[:300]!r}"
            assert f"header {name}: it is no UTF-8".encode() in answer
        v2 = exchanged(port, requested(f"GET {ROUTE}/v2/health/live", "x-request-id: \xff", body=b""))
        assert v2.startswith(b"HTTP/1.1 400 ")
        assert b'{"error": "header x-request-id' in v2


def test_every_answer_has_one_request_id(guarded: Guarded) -> None:
    for port in (int(guarded.ray.http.rpartition(":")[2]), http_ports()[guarded.application(STABLE)]):
        for sent, known in (
            ((), rb"[0-9a-f-]{36}"),
            (("x-request-id:",), rb"[0-9a-f-]{36}"),
            (("x-request-id: mine",), b"mine"),
            (("x-request-id: one", "x-request-id: two"), b"one"),
            ((f"x-request-id: {'i' * 1000}",), b"i{128}"),
            (("x-request-id: \xff",), rb"[0-9a-f-]{36}"),
        ):
            head = exchanged(port, requested(f"GET {ROUTE}/ping", *sent, body=b"")).partition(b"\r\n\r\n")[0]
            ids = re.findall(rb"(?i)^x-request-id: *(.*)\r?$", head, re.MULTILINE)
            assert len(ids) == 1, f"{sent} at {port}: {head!r}"
            assert re.fullmatch(known, ids[0].strip()), f"{sent} at {port}: {ids}"


def exchanged(port: int, sent: bytes) -> bytes:
    """All that comes back until the other side closes."""
    received = b""
    connection = socket.create_connection(("127.0.0.1", port), ANSWER_S)
    # Who refuses a request before it has read it all, and closes, resets it.
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)
        while chunk := connection.recv(65536):
            received += chunk
    return received


# --- nobody has said who may call -------------------------------------------------------------------------------------


@pytest.fixture
def unsaid(guarded: Guarded) -> Iterator[Guarded]:
    guarded.bring(None)
    yield guarded
    guarded.bring(guarded.access)
    wait_until(lambda: status_and_text(guarded)[0] == 401, LIVE_S, "the gate as it was")


def status_and_text(guarded: Guarded, **headers: str) -> tuple[int, str]:
    """What comes back, or status 0 and why nothing did: while it is configured anew, HAProxy hands a route over."""
    try:
        answer = guarded.ask(**headers)
    except requests.RequestException as error:
        return 0, repr(error)
    return answer.status_code, answer.text


def test_without_access_this_machine_is_served_and_no_other(unsaid: Guarded) -> None:
    def turned_away() -> bool:
        status, text = status_and_text(unsaid, x_forwarded_for="203.0.113.9")
        return status == 403 and "sluice.yaml" in text

    # Each by its own wait: that one way is told of new terms says nothing of another, nor that no route moves just now.
    wait_until(lambda: status_and_text(unsaid)[0] == 200, LIVE_S, "the gate open to this machine")
    wait_until(turned_away, LIVE_S, "the gate closed to what a proxy passes on")

    port = grpc_ports()[GRPC_APPLICATION]
    infer = infer_request(MODEL, 1.0)
    for target in (unsaid.ray.grpc, f"127.0.0.1:{port}"):
        with grpc_channel(target) as channel:
            wait_until(lambda: hasattr(call(channel, "ModelInfer", infer), "outputs"), LIVE_S, "gRPC open to it")
    own = own_address()
    if own is None:
        pytest.skip("this machine has no address but loopback to be asked by")
    with grpc_channel(f"{own}:{port}") as channel:

        def refused() -> bool:
            told = call(channel, "ModelInfer", infer)
            assert not hasattr(told, "outputs"), "answered from another address"
            return told.code().name == "PERMISSION_DENIED" and "sluice.yaml" in told.details()

        wait_until(refused, LIVE_S, "gRPC closed to it")  # UNAVAILABLE where a busy machine has not connected yet


@pytest.mark.faults
def test_where_serve_listens_on_every_address_somebody_must_have_said_who_may_call(
    versions: Versions, tmp_path: Path
) -> None:
    with RaySession(tmp_path / "ray", grpc=True, http_host="0.0.0.0") as ray:  # noqa: S104 what is refused
        exposed = Guarded(ray, versions, tmp_path)
        exposed.bring(None)
        wait_until(lambda: requests.get(f"{exposed.url}/ping", timeout=ANSWER_S).ok, LIVE_S, "the route")
        refused = exposed.ask()
        assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED")
        assert "access under the environment in sluice.yaml" in refused.json()["message"]
        with grpc_channel(ray.grpc) as channel:
            asking = partial(call, channel, "ModelInfer", infer_request(MODEL, 1.0))
            wait_until(lambda: asking().code().name != "NOT_FOUND", LIVE_S, "the entry for gRPC")
            told = asking()
        assert (told.code().name, "sluice.yaml" in told.details()) == ("PERMISSION_DENIED", True)
        exposed.bring(Access(open=True))
        wait_until(lambda: exposed.ask().status_code == 200, LIVE_S, "open to anybody, as it was said")
        exposed.bring(exposed.access)
        wait_until(lambda: exposed.ask().status_code == 401, LIVE_S, "a key asked for")
        assert exposed.ask(x_api_key=exposed.shop).status_code == 200
