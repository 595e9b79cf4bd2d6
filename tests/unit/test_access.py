"""The gate: who may call a model. Keys, tokens, files and addresses are real."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm

from policies.serving import Access, ApiKeys, Jwt, Rate
from serving_runtime.access import CREDENTIAL_LIMIT_BYTES, WAITING, Gate, Headers
from serving_runtime.api_keys import new_key
from serving_runtime.callers import ANYBODY, Caller, Reason, Refusal
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.kept_reading import URL_AT_MOST_EVERY_S
from serving_runtime.model_server import ModelServer
from serving_runtime.user_config import parse_user_config
from tests.fakes.bare_model import BareModel
from tests.fakes.key_server import KeyServer, answering
from tests.fakes.replica import Replica, replica

SLUG = "fraud"
KEY, LINE = new_key("shop", [SLUG])
ISSUER, AUDIENCE = "https://login.example.com/", "sluice"
SIGNER = ed25519.Ed25519PrivateKey.generate()
OPEN = Access(open=True)


def bearer(sent: str) -> Headers:
    return [(b"authorization", f"Bearer {sent}".encode())]


def x_api_key(sent: str) -> Headers:
    return [(b"x-api-key", sent.encode())]


def jwks(*kids: str) -> bytes:
    public = OKPAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True)
    return json.dumps({"keys": [{**public, "kid": kid} for kid in kids]}).encode()


def token(kid: str = "one", **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "desk", "exp": time.time() + 300, "scope": f"sluice:{SLUG}"}
    return jwt.encode({**claims, **changes}, SIGNER, "EdDSA", headers={"kid": kid})


PATIENT_S = 20.0  # for the provider's keys, where the wait is not what is tested


def tokens(url: str | None = None, file: Path | None = None) -> Jwt:
    return Jwt(issuer=ISSUER, audience=AUDIENCE, jwks_url=url, jwks_file=str(file) if file else None)


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    path = tmp_path / "keys"
    path.write_text(LINE + "\n")
    return ApiKeys(file=str(path))


def at(access: Access | None, scenario: Callable[[Gate], Awaitable[None]], **about: Any) -> None:
    """Run a scenario at a gate that was told `access`."""

    async def run() -> None:
        gate = Gate(**{"exposed": False, "wait_s": PATIENT_S, **about})
        gate.configure(access)
        try:
            await scenario(gate)
        finally:
            gate.close()

    asyncio.run(run())


def asked(access: Access | None, headers: Headers, slug: str = SLUG, **about: Any) -> Caller | Refusal:
    found: list[Caller | Refusal] = []

    async def scenario(gate: Gate) -> None:
        found.append(await gate.admit(headers, slug))

    at(access, scenario, **about)
    return found[0]


def reason(found: Caller | Refusal) -> Reason | None:
    return found.reason if isinstance(found, Refusal) else None


# --- nobody has said anything ---------------------------------------------------------------------------------------


def test_on_loopback_nobody_is_asked() -> None:
    assert asked(None, []) is ANYBODY
    assert not ANYBODY.permissions


def test_elsewhere_it_is_refused_and_says_what_to_write() -> None:
    found = asked(None, [], exposed=True)
    assert isinstance(found, Refusal)
    assert (found.reason, found.answer.status) == (Reason.UNSET, 403)
    assert "Write access under the environment in sluice.yaml" in json.loads(found.answer.body)["message"]


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"forwarded", b"x-real-ip"])
def test_what_a_proxy_passes_on_comes_from_elsewhere(name: bytes) -> None:
    assert reason(asked(None, [(name, b"203.0.113.9")])) is Reason.UNSET


@pytest.mark.parametrize("exposed", [True, False])
def test_open_is_open_everywhere(*, exposed: bool) -> None:
    assert asked(OPEN, [(b"x-forwarded-for", b"203.0.113.9")], exposed=exposed) is ANYBODY


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [bearer(KEY), x_api_key(KEY), [(b"authorization", f"bEARER  {KEY} ".encode())]])
def test_a_key_lets_in_by_either_header(keys: ApiKeys, headers: Headers) -> None:
    found = asked(Access(keys=keys), headers, exposed=True)
    assert found == Caller("shop", frozenset({SLUG}))


def test_without_a_key_the_answer_says_how_to_send_one(keys: ApiKeys) -> None:
    found = asked(Access(keys=keys), [(b"content-type", b"application/json")])
    assert isinstance(found, Refusal)
    assert (found.reason, found.answer.status) == (Reason.NO_CREDENTIAL, 401)
    assert found.headers == {"www-authenticate": f'Bearer realm="{SLUG}"'}
    assert set(json.loads(found.answer.body)) == {"error_code", "message"}


@pytest.mark.parametrize(
    "headers",
    [
        bearer("wrong"),
        bearer(""),
        x_api_key(""),
        bearer(KEY.swapcase()),
        [(b"authorization", b"Bearer")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", b"Basic dXNlcjpwYXNz")],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"authorization", f"Bearer {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", b"another")],
        [(b"x-api-key", KEY.encode()), (b"x-api-key", b"")],
        [(b"x-api-key", f"{KEY}, {KEY}".encode())],
        [(b"x-api-key", b"\xff\xfe\x00")],
        [(b"authorization", b"Bearer " + b"x" * CREDENTIAL_LIMIT_BYTES)],
        [(b"x-api-key", b"x" * 1_000_000)],
        bearer(token()),
    ],
    ids=lambda _: "",
)
def test_what_is_not_one_good_key_is_refused_in_the_same_words(keys: ApiKeys, headers: Headers) -> None:
    found = asked(Access(keys=keys), headers)
    assert isinstance(found, Refusal)
    assert (found.reason, found.answer.status) == (Reason.NOT_VALID, 401)
    assert found.headers["www-authenticate"] == f'Bearer realm="{SLUG}", error="invalid_token"'
    assert json.loads(found.answer.body)["message"] == "The key or token that was sent is not valid here."


def test_a_key_for_another_model_is_403(keys: ApiKeys) -> None:
    found = asked(Access(keys=keys), bearer(KEY), slug="churn")
    assert isinstance(found, Refusal)
    assert (found.reason, found.answer.status) == (Reason.NOT_ALLOWED, 403)
    assert json.loads(found.answer.body) == {
        "error_code": "PERMISSION_DENIED",
        "message": "This key or token may not call churn.",
    }


def test_a_key_that_has_expired_is_401(tmp_path: Path) -> None:
    path = tmp_path / "dated"
    path.write_text(json.dumps({**json.loads(LINE), "expires": "2020-01-01T00:00:00Z"}) + "\n")
    assert reason(asked(Access(keys=ApiKeys(file=str(path))), bearer(KEY))) is Reason.EXPIRED


def test_keys_come_from_a_variable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEYS", LINE)
    assert isinstance(asked(Access(keys=ApiKeys(env="SHOP_KEYS")), bearer(KEY)), Caller)


def test_while_no_keys_can_be_read_nobody_is_let_in(tmp_path: Path) -> None:
    found = asked(Access(keys=ApiKeys(file=str(tmp_path / "none"))), bearer(KEY))
    assert isinstance(found, Refusal)
    assert (found.reason, found.answer.status, found.headers) == (Reason.UNAVAILABLE, 503, {"retry-after": "1"})


def test_keys_change_without_a_restart_and_a_half_written_file_changes_nothing(keys: ApiKeys) -> None:
    path, (later, line) = Path(keys.file or ""), new_key("desk")

    async def scenario(gate: Gate) -> None:
        async def written(text: str) -> list[Reason | None]:
            await asyncio.to_thread(path.write_text, text)
            await gate.look()
            await gate.look()
            return [reason(await gate.admit(bearer(each), SLUG)) for each in (KEY, later)]

        await gate.look()
        half = f"{LINE}\n{line}"[:-10]
        assert await written(half) == [None, Reason.NOT_VALID]
        assert "half written" in gate.troubles["keys"]
        assert await written(f"{line}\n") == [Reason.NOT_VALID, None]
        assert gate.troubles == {"keys": ""}

    at(Access(keys=keys), scenario)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_lets_in_and_keys_do_beside_it(keys: ApiKeys) -> None:
    with KeyServer(answering(jwks("one"))) as server:
        access = Access(keys=keys, jwt=tokens(server.url))
        assert asked(access, bearer(token())) == Caller("desk", frozenset({SLUG}), by_token=True)
        assert asked(access, bearer(KEY)) == Caller("shop", frozenset({SLUG}))
        assert reason(asked(access, bearer(token(scope="openid")))) is Reason.NOT_ALLOWED
        assert reason(asked(access, bearer(token(exp=time.time() - 3600)))) is Reason.EXPIRED
        assert reason(asked(access, bearer(token(aud="another")))) is Reason.NOT_VALID


def test_public_keys_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks("one"))
    assert isinstance(asked(Access(jwt=tokens(file=path)), bearer(token())), Caller)
    assert reason(asked(Access(jwt=tokens(file=path)), bearer(token("two")))) is Reason.NOT_VALID


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_new_key_of_the_provider_is_fetched_when_a_token_names_it_and_not_more_often_than_that() -> None:
    clock = Clock()
    with KeyServer(answering(jwks("one"))) as server:

        async def scenario(gate: Gate) -> None:
            assert reason(await gate.admit(bearer(token("one")), SLUG)) is None
            server.behaviour = answering(jwks("one", "two"))
            for made_up in range(50):
                assert reason(await gate.admit(bearer(token(f"made-up-{made_up}")), SLUG)) is Reason.NOT_VALID
            assert server.asked == 1
            clock.now += URL_AT_MOST_EVERY_S
            assert reason(await gate.admit(bearer(token("two")), SLUG)) is None
            assert reason(await gate.admit(bearer(token("three")), SLUG)) is Reason.NOT_VALID
            assert server.asked == 2

        at(Access(jwt=tokens(server.url)), scenario, clock=clock)


@pytest.mark.parametrize("behaviour", [answering(b"", 500), answering(b"{}"), answering(b"<html>login</html>")])
def test_a_provider_that_was_never_read_is_no_reason_to_call_a_token_wrong(
    behaviour: Callable[[BaseHTTPRequestHandler], None], keys: ApiKeys
) -> None:
    with KeyServer(behaviour) as server:
        access = Access(keys=keys, jwt=tokens(server.url))
        assert reason(asked(access, bearer(token()))) is Reason.UNAVAILABLE
        assert isinstance(asked(access, bearer(KEY)), Caller)


def test_a_provider_that_hangs_holds_up_a_few_for_a_moment_and_the_others_not_at_all() -> None:
    with KeyServer(lambda _handler: None) as server:
        server.behaviour = lambda _handler: bool(server.over.wait(30)) and None

        async def scenario(gate: Gate) -> None:
            asking = [asyncio.create_task(gate.admit(bearer(token()), SLUG)) for _ in range(200)]
            done, waiting = await asyncio.wait(asking, timeout=0.1)
            assert len(waiting) <= WAITING
            assert {reason(each.result()) for each in done} == {Reason.UNAVAILABLE}
            await asyncio.wait(waiting)
            assert {reason(each.result()) for each in waiting} == {Reason.UNAVAILABLE}
            server.over.set()

        at(Access(jwt=tokens(server.url)), scenario, wait_s=0.3)


def test_a_provider_that_is_away_later_changes_nothing() -> None:
    clock = Clock()
    with KeyServer(answering(jwks("one"))) as server:

        async def scenario(gate: Gate) -> None:
            assert reason(await gate.admit(bearer(token()), SLUG)) is None
            server.behaviour = answering(b"", 503)
            clock.now += URL_AT_MOST_EVERY_S
            assert reason(await gate.admit(bearer(token("two")), SLUG)) is Reason.NOT_VALID
            assert "answered 503" in gate.troubles["jwks"]
            assert reason(await gate.admit(bearer(token()), SLUG)) is None

        at(Access(jwt=tokens(server.url)), scenario, clock=clock)


# --- rates ------------------------------------------------------------------------------------------------------------


def test_whoever_asks_too_often_is_told_when_to_come_back(keys: ApiKeys) -> None:
    clock = Clock()

    async def scenario(gate: Gate) -> None:
        found = [await gate.admit(bearer(KEY), SLUG) for _ in range(3)]
        assert [reason(each) for each in found] == [None, None, Reason.RATE]
        assert isinstance(found[2], Refusal)
        assert (found[2].answer.status, found[2].headers) == (429, {"retry-after": "4"})
        clock.now += 4
        assert reason(await gate.admit(bearer(KEY), SLUG)) is None

    at(Access(keys=keys, rate=Rate(per_s=0.25, burst=2)), scenario, clock=clock)


def test_wrong_keys_and_wrong_models_take_nothing_from_a_caller(keys: ApiKeys) -> None:
    async def scenario(gate: Gate) -> None:
        for _ in range(20):
            await gate.admit(bearer("wrong"), SLUG)
            await gate.admit(bearer(KEY), "churn")
        assert reason(await gate.admit(bearer(KEY), SLUG)) is None

    at(Access(keys=keys, rate=Rate(per_s=0.001, burst=1)), scenario)


# --- what is told while it runs ---------------------------------------------------------------------------------------


def test_a_new_access_holds_at_once_and_nothing_of_the_old_one_is_kept(keys: ApiKeys, tmp_path: Path) -> None:
    async def scenario(gate: Gate) -> None:
        assert reason(await gate.admit(bearer(KEY), SLUG)) is None
        gate.configure(OPEN)
        assert await gate.admit([], SLUG) is ANYBODY
        gate.configure(Access(keys=ApiKeys(file=str(tmp_path / "none"))))
        assert reason(await gate.admit(bearer(KEY), SLUG)) is Reason.UNAVAILABLE
        gate.configure(None)
        assert await gate.admit([], SLUG) is ANYBODY
        assert gate.troubles == {}

    at(Access(keys=keys), scenario)


def test_every_refusal_is_counted_by_its_reason(keys: ApiKeys) -> None:
    counts: Counter[Reason] = Counter()

    async def scenario(gate: Gate) -> None:
        for headers in ([], bearer("wrong"), bearer(KEY)):
            await gate.admit(headers, "churn")
        gate.internal("/models/fraud", SLUG)

    at(Access(keys=keys), scenario, refused=lambda each: counts.update([each]))
    assert counts == Counter([Reason.NO_CREDENTIAL, Reason.NOT_VALID, Reason.NOT_ALLOWED, Reason.INTERNAL])


def test_no_key_and_no_token_is_ever_logged_or_answered(keys: ApiKeys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with KeyServer(answering(jwks("one"))) as server:
        access = Access(keys=keys, jwt=tokens(server.url), rate=Rate(per_s=0.001, burst=1))
        sent = [KEY, KEY + "x", token(), token("two"), token(aud="another"), "a.b.c"]

        async def scenario(gate: Gate) -> None:
            for each in sent:
                for slug in (SLUG, SLUG, "churn"):
                    found = await gate.admit(bearer(each), slug)
                    assert not isinstance(found, Refusal) or each.encode() not in found.answer.body

        at(access, scenario)
    assert "shop may not call" in caplog.text
    assert [each for each in sent if each in caplog.text] == []
    assert json.loads(LINE)["sha256"] not in caplog.text


def test_refusals_do_not_fill_the_disk(keys: ApiKeys, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(gate: Gate) -> None:
        for _ in range(100):
            await gate.admit(bearer("wrong"), SLUG)

    at(Access(keys=keys), scenario)
    assert caplog.text.count("may not call") == 1


# --- at the door of a replica -----------------------------------------------------------------------------------------

BODY, JSON = b'{"inputs": [1.0]}', {"content-type": "application/json"}


def at_door(
    access: Access | None,
    scenario: Callable[[httpx.AsyncClient], Awaitable[None]],
    *,
    exposed: bool = False,
    public: bool = True,
    **told: Any,
) -> None:
    """Run a scenario with a client of a replica that was told `access`, and more."""
    own: Replica = replica(ModelServer(BareModel(lambda data: data), lambda _ms: None), exposed=exposed)
    about = {"model": SLUG, "version": 7, "build": "0" * 8, "request_timeout_s": 20.0, "route": f"/models/{SLUG}"}
    own.host.configure(parse_user_config({"revision": 1, "public": public, **about, **told}))

    async def run() -> None:
        own.gate.configure(access)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(own), base_url="http://here") as client:
            await scenario(client)
        own.gate.close()

    asyncio.run(run())


def test_at_the_door_a_key_is_needed_and_health_is_not(keys: ApiKeys) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/invocations", content=BODY, headers=JSON)).status_code == 401
        assert (await client.get("/version")).status_code == 401
        assert [(await client.get(path)).status_code for path in ("/ping", "/health")] == [200, 200]
        answer = await client.post("/invocations", content=BODY, headers={**JSON, "x-api-key": KEY})
        assert answer.status_code == 200
        answer = await client.post("/invocations", content=BODY, headers={**JSON, "x-api-key": "wrong"})
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert answer.json()["error_code"] == "UNAUTHENTICATED"

    at_door(Access(keys=keys), scenario, exposed=True)


@pytest.mark.parametrize(
    ("permissions", "forced", "reported"), [((), 403, 403), (("force",), 200, 403), (("feedback",), 403, 200)]
)
def test_who_forces_a_version_or_reports_needs_the_permission(
    tmp_path: Path, permissions: tuple[str, ...], forced: int, reported: int
) -> None:
    key, line = new_key("desk", [SLUG], permissions)
    (tmp_path / "keys").write_text(line + "\n")
    credential = {"x-api-key": key}

    async def scenario(client: httpx.AsyncClient) -> None:
        plain = await client.post("/invocations", content=BODY, headers={**JSON, **credential, "x-request-id": "r-1"})
        assert plain.status_code == 200
        answer = await client.post("/invocations", content=BODY, headers={**JSON, **credential, FORCE_HEADER: "7"})
        assert answer.status_code == forced
        report = {"request_id": "r-1", "good": True}
        assert (await client.post("/feedback", json=report, headers=credential)).status_code == reported
        assert (await client.post("/feedback", json=report)).status_code == 401

    asked_for = {"feedback": True, "forced_version": {"to": "keys"}}
    at_door(Access(keys=ApiKeys(file=str(tmp_path / "keys"))), scenario, **asked_for)


def test_where_anybody_may_call_anybody_may_report_and_nobody_forces() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        await client.post("/invocations", content=BODY, headers={**JSON, "x-request-id": "r-1"})
        report = await client.post("/feedback", json={"request_id": "r-1", "good": True})
        assert report.json() == {"counted": True}
        answer = await client.post("/invocations", content=BODY, headers={**JSON, FORCE_HEADER: "7"})
        assert answer.status_code == 403

    at_door(OPEN, scenario, feedback=True, forced_version={"to": "keys"})


def test_nothing_is_read_of_who_may_not_call(keys: ApiKeys) -> None:
    taken = []

    async def body() -> AsyncIterator[bytes]:
        taken.append(1)
        yield BODY

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.post("/invocations", content=body(), headers=JSON)).status_code == 401
        assert taken == []

    at_door(Access(keys=keys), scenario)


def test_a_version_is_not_asked_past_its_route() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post("/invocations", content=BODY, headers=JSON)
        assert (answer.status_code, answer.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
        assert "/models/fraud is where its model answers" in answer.json()["message"]
        assert (await client.get("/ping")).status_code == 200

    at_door(OPEN, scenario, public=False)
