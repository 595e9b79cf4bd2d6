"""The nginx example, in Debian's nginx, before a replica over real HTTP: what docs/examples/nginx promises."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import re
import shutil
import socket
import ssl
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pipelines.processes import ManagedProcess, free_port
from policies.serving import Access, ApiKeys
from serving_runtime.api_keys import new_key
from serving_runtime.model_server import ModelServer
from serving_runtime.protocol import BODY_LIMIT_BYTES
from serving_runtime.user_config import parse_user_config
from tests.fakes.bare_model import BareModel
from tests.fakes.replica import Replica, replica
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.real

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nginx" / "sluicegate.conf"
NAME = "models.example.com"
KEY, LINE = new_key("shop", ["fraud"])
ROUTE, BODY = "/models/fraud", b'{"inputs": [1.0]}'
HEADERS = {"content-type": "application/json", "x-api-key": KEY}
READY_S, ANSWER_S = 20.0, 10.0


class Ports(NamedTuple):
    plain: int
    https: int
    grpc: int
    grpc_upstream: int


class Guarded:
    """The replica, told who may call in the loop that asks it."""

    def __init__(self, inner: Replica, access: Access) -> None:
        self._inner, self._access = inner, access

    async def __call__(self, *asgi: Any) -> None:
        self._inner.gate.configure(self._access)
        await self._inner(*asgi)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(LINE + "\n")
    inner = replica(ModelServer(BareModel(lambda data: data), lambda _ms: None))
    about = {"model": "fraud", "version": 7, "build": "0" * 8, "request_timeout_s": 20.0, "route": ROUTE}
    inner.host.configure(parse_user_config({"revision": 1, **about}))
    with Upstream(Guarded(inner, Access(keys=ApiKeys(file=str(file))))) as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models.crt and models.key, signed by itself."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]), dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "models.crt").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "models.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder


@pytest.fixture(scope="module")
def ports(upstream: Upstream, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """The example as it stands, but for its addresses, the folder of its certificate and one timeout."""
    taken: set[int] = set()
    ports = Ports(*(free_port(taken) for _ in Ports._fields))
    folder = tmp_path_factory.mktemp("nginx")
    example = EXAMPLE.read_text(encoding="utf-8")
    for there, here in (("80 default", ports.plain), ("443 ssl", ports.https), ("8443 ssl", ports.grpc)):
        example = example.replace(f"listen {there}", f"listen 127.0.0.1:{here}{there[there.index(' ') :]}")
    example = re.sub(r"^ *listen \[::\].*\n", "", example, flags=re.MULTILINE)
    example = example.replace("127.0.0.1:8000", f"127.0.0.1:{upstream.port}")
    example = example.replace("127.0.0.1:9000", f"127.0.0.1:{ports.grpc_upstream}")
    example = example.replace("/etc/nginx/tls", str(certificate)).replace(
        "proxy_read_timeout 35s", "proxy_read_timeout 1s"
    )
    (folder / "sluicegate.conf").write_text(example)
    (folder / "nginx.conf").write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} worker_processes 1; daemon off; pid {folder}/pid;\n"
        f"error_log stderr warn; events {{}}\nhttp {{ access_log off;\n"
        + "".join(
            f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"include {folder}/sluicegate.conf; }}\n"
    )
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [binary, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with ManagedProcess("nginx", command, folder / "nginx.log") as nginx:
        nginx.wait_until(lambda: listens(ports.https), "listening", READY_S)
        yield ports


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def trust(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate / "models.crt"))


@pytest.fixture
def client(ports: Ports, trust: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
    connection = connect(ports, trust)
    yield connection
    connection.close()


def connect(ports: Ports, trust: ssl.SSLContext) -> http.client.HTTPSConnection:
    """By the name in the certificate, at the address that the test has."""

    class Here(http.client.HTTPSConnection):
        def connect(self) -> None:
            plain = socket.create_connection(("127.0.0.1", ports.https), ANSWER_S)
            self.sock = trust.wrap_socket(plain, server_hostname=NAME)

    return Here(NAME, ports.https, timeout=ANSWER_S)


def ask(
    client: http.client.HTTPSConnection, path: str = f"{ROUTE}/invocations", body: Any = BODY, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    sent = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    client.request("POST", path, body, sent)
    answer = client.getresponse()
    return answer, answer.read()


def test_a_model_answers_over_tls_with_headers_that_browsers_and_caches_heed(
    client: http.client.HTTPSConnection,
) -> None:
    answer, body = ask(client)
    assert (answer.status, body) == (200, b'{"predictions": [1.0]}')
    assert answer.headers["x-sluice-version"] == "7"
    assert answer.headers["strict-transport-security"] == "max-age=63072000"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["server"] == "nginx"


def test_http_2_is_spoken(ports: Ports) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", ports.https), ANSWER_S) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"
        assert secure.version() == "TLSv1.3"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(ports: Ports, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", ports.https), ANSWER_S) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=NAME)


def test_plain_http_is_refused_and_reaches_nobody(ports: Ports, upstream: Upstream) -> None:
    heard = len(upstream.heard)
    answer = httpx.post(f"http://127.0.0.1:{ports.plain}{ROUTE}/invocations", content=BODY, headers=HEADERS)
    assert (answer.status_code, answer.text) == (403, "https only\n")
    assert len(upstream.heard) == heard


def test_who_has_no_key_gets_the_replicas_own_answer(client: http.client.HTTPSConnection) -> None:
    answer, body = ask(client, x_api_key="wrong")
    assert (answer.status, json.loads(body)["error_code"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_request_has_one_id_everywhere(client: http.client.HTTPSConnection, upstream: Upstream) -> None:
    ask(client, x_request_id="my-id-7")
    assert upstream.heard[-1]["x-request-id"] == "my-id-7"
    for bad in ("", "two words", "x" * 129, 'a"b'):
        ask(client, x_request_id=bad)
        assert re.fullmatch("[0-9a-f]{32}", upstream.heard[-1]["x-request-id"])


def test_where_a_request_comes_from_is_nginxs_word(client: http.client.HTTPSConnection, upstream: Upstream) -> None:
    ask(client, x_forwarded_for="203.0.113.9", forwarded="for=203.0.113.9", x_real_ip="203.0.113.9")
    heard = upstream.heard[-1]
    assert (heard["x-forwarded-for"], heard["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert not {"forwarded", "x-real-ip"} & set(heard)


def test_a_body_that_is_too_large_is_refused_before_a_replica_hears_of_it(
    ports: Ports, trust: ssl.SSLContext, client: http.client.HTTPSConnection, upstream: Upstream
) -> None:
    """By the declared length, at a replica's own limit."""
    heard = len(upstream.heard)
    client.putrequest("POST", f"{ROUTE}/invocations")
    client.putheader("content-length", str(BODY_LIMIT_BYTES + 1))
    client.endheaders()
    answer = client.getresponse()
    assert (answer.status, json.loads(answer.read())["error_code"]) == (413, "REQUEST_LIMIT_EXCEEDED")
    assert answer.headers["strict-transport-security"]
    assert len(upstream.heard) == heard
    just_right, _ = ask(connect(ports, trust), body=b" " * BODY_LIMIT_BYTES)
    assert just_right.status == 400  # read by a replica, and no JSON


def test_a_streamed_answer_arrives_piece_by_piece(client: http.client.HTTPSConnection, upstream: Upstream) -> None:
    client.request("GET", "/models/stream")
    upstream.pieces.release()
    answer = client.getresponse()
    assert answer.readline() == b"0\n"
    for number in (1, 2):
        upstream.pieces.release()
        assert answer.readline() == f"{number}\n".encode()
    assert answer.read() == b""


def test_an_upstream_that_hangs_or_is_away_says_when_to_try_again(client: http.client.HTTPSConnection) -> None:
    answer, body = ask(client, path="/models/hang")
    assert (answer.status, json.loads(body)["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    assert answer.headers.get_all("retry-after") == ["1"]


@pytest.mark.parametrize("path", ["/", "/-/routes", "/-/healthz", "/models", "/models/../-/routes", "/%2d/routes"])
def test_nothing_but_models_is_passed_on(client: http.client.HTTPSConnection, upstream: Upstream, path: str) -> None:
    heard = len(upstream.heard)
    answer, body = ask(client, path=path)
    assert (answer.status, json.loads(body)["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
    assert len(upstream.heard) == heard


def test_headers_that_are_too_large_are_refused_in_our_shape(client: http.client.HTTPSConnection) -> None:
    answer, body = ask(client, authorization="Bearer " + "x" * 20_000)
    assert (answer.status, json.loads(body)["error_code"]) == (400, "BAD_REQUEST")


def test_grpc_passes_with_its_metadata_and_nothing_else_does(ports: Ports, certificate: Path) -> None:
    heard: list[dict[str, Any]] = []

    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        heard.append(dict(context.invocation_metadata()))
        return request

    class Everything(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(echo)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Everything()])
    server.add_insecure_port(f"127.0.0.1:{ports.grpc_upstream}")
    server.start()
    trusted = grpc.ssl_channel_credentials((certificate / "models.crt").read_bytes())
    options = [("grpc.ssl_target_name_override", NAME)]
    with grpc.secure_channel(f"127.0.0.1:{ports.grpc}", trusted, options) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = infer(b"tensors", timeout=ANSWER_S, metadata=[("x-api-key", KEY), ("application", "front")])
        assert answer == b"tensors"
        assert (heard[0]["x-api-key"], heard[0]["application"]) == (KEY, "front")
        assert len(heard[0]["x-request-id"]) == 32
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/ray.serve.RayServeAPIService/ListApplications")(b"", timeout=ANSWER_S)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server.stop(None).wait()
