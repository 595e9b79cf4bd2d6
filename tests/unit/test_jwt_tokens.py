"""Signed tokens: whose token somebody sent. The keys and tokens are real, and so are the attacks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from policies.errors import BadInput
from policies.serving import Jwt
from serving_runtime.callers import Caller, Reason
from serving_runtime.jwt_tokens import LEEWAY_S, KeySet, TokenCheck, UnknownKey, parse_key_set

ISSUER, AUDIENCE = "https://login.example.com/", "sluice"
TERMS = Jwt(issuer=ISSUER, audience=AUDIENCE, jwks_file="/keys")
RSA, OTHER_RSA = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
MAKERS: Any = {"RS256": (RSAAlgorithm, RSA), "ES256": (ECAlgorithm, EC), "EdDSA": (OKPAlgorithm, ED)}


def jwk(algorithm: str, **more: Any) -> dict[str, Any]:
    maker, key = MAKERS[algorithm]
    return {**maker.to_jwk(key.public_key(), as_dict=True), "kid": algorithm, **more}


def key_set(*keys: dict[str, Any]) -> KeySet:
    return parse_key_set(json.dumps({"keys": keys or [jwk(name) for name in MAKERS]}).encode())


KEYS = key_set()


def claims(**changes: Any) -> dict[str, Any]:
    about = {"iss": ISSUER, "aud": AUDIENCE, "sub": "desk-7", "exp": time.time() + 300, "scope": "openid sluice:fraud"}
    return {name: value for name, value in {**about, **changes}.items() if value is not None}


def token(algorithm: str = "RS256", headers: dict[str, Any] | None = None, key: Any = None, **changes: Any) -> str:
    signer = MAKERS[algorithm][1] if key is None else key
    return jwt.encode(claims(**changes), signer, algorithm, headers={"kid": algorithm, **(headers or {})})


def find(sent: str, keys: KeySet = KEYS, terms: Jwt = TERMS) -> Caller | Reason | UnknownKey:
    return TokenCheck(terms).find(sent, keys, time.time())


def raw_token(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    """A token that no library would make."""
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


# --- who it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", MAKERS)
def test_a_token_says_whose_it_is_and_what_it_may(algorithm: str) -> None:
    found = find(token(algorithm, scope="sluice:fraud sluice:force email"))
    assert found == Caller("desk-7", frozenset({"fraud"}), frozenset({"force"}), by_token=True)


@pytest.mark.parametrize(
    ("said", "models", "permissions"),
    [
        ({"scope": "sluice:*"}, {"*"}, set()),
        ({"scope": None, "scp": ["sluice:a", "sluice:feedback", 7]}, {"a"}, {"feedback"}),
        ({"scope": None, "scp": "sluice:a sluice:b"}, {"a", "b"}, set()),
        ({"scope": "fraud sluicefraud SLUICE:fraud"}, set(), set()),
        ({"scope": None}, set(), set()),
    ],
)
def test_scopes_are_models_and_permissions(said: dict[str, Any], models: set[str], permissions: set[str]) -> None:
    found = find(token(**said))
    assert isinstance(found, Caller)
    assert (found.models, found.permissions) == (models, permissions)


def test_a_permission_is_no_model_of_that_name() -> None:
    found = find(token(scope="sluice:force"))
    assert isinstance(found, Caller)
    assert found.may("force")
    assert not found.may_call("force")


def test_a_subject_moves_no_cursor_in_a_log() -> None:
    found = find(token(sub="desk\n2026 ERROR \x1b[2J"))
    assert isinstance(found, Caller)
    assert found.name.isprintable()


# --- who it is not ------------------------------------------------------------------------------------------------


def test_a_token_without_a_signature_is_refused() -> None:
    for algorithm in ("none", "None", "NONE", "nOnE"):
        assert find(raw_token({"alg": algorithm, "kid": "RS256"}, claims())) is Reason.NOT_VALID
    head, body, _ = token().split(".")
    assert find(f"{head}.{body}.") is Reason.NOT_VALID


@pytest.mark.parametrize("shape", ["pem", "der", "jwk"])
def test_a_public_key_is_no_secret_of_hs256(shape: str) -> None:
    public = RSA.public_key()
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(jwk("RS256")).encode(),
    }[shape]
    unsigned = raw_token({"alg": "HS256", "kid": "RS256"}, claims()).rstrip(".")
    signature = hmac.digest(secret, unsigned.encode(), hashlib.sha256)
    sent = f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert find(sent) is Reason.NOT_VALID


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://other.example.com/"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"aud": None},
        {"exp": None},
        {"exp": "never"},
        {"exp": float("inf")},
        {"nbf": time.time() + 24 * 3600},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "s" * 256},
        {"scope": {"sluice:*": 1}, "scp": None, "sub": ["x"]},
    ],
)
def test_claims_that_are_missing_or_wrong_are_refused(changes: dict[str, Any]) -> None:
    assert find(token(**changes)) is Reason.NOT_VALID


def test_one_of_several_audiences_is_enough() -> None:
    assert isinstance(find(token(aud=["another", AUDIENCE])), Caller)


def test_a_token_expires_and_clocks_may_differ_a_little() -> None:
    assert isinstance(find(token(exp=time.time() - LEEWAY_S / 2)), Caller)
    assert find(token(exp=time.time() - LEEWAY_S - 5)) is Reason.EXPIRED


def test_whether_a_forged_token_has_expired_is_not_told() -> None:
    assert find(token(key=OTHER_RSA, exp=time.time() - 3600)) is Reason.NOT_VALID


def test_another_key_of_the_same_name_is_refused() -> None:
    assert find(token(key=OTHER_RSA)) is Reason.NOT_VALID


def test_a_key_makes_its_own_signatures_only() -> None:
    """The token says ES256 and names the RSA key, or a signature that nobody listed."""
    assert find(token("ES256", headers={"kid": "RS256"})) is Reason.NOT_VALID
    assert find(jwt.encode(claims(), RSA, "RS512", headers={"kid": "RS256"})) is Reason.NOT_VALID
    bound = key_set(jwk("RS256", alg="RS256"))
    terms = Jwt(issuer=ISSUER, audience=AUDIENCE, jwks_file="/keys", algorithms=("RS256", "PS256"))
    sent = jwt.encode(claims(), RSA, "PS256", headers={"kid": "RS256"})
    assert find(sent, bound, terms) is Reason.NOT_VALID
    assert isinstance(find(sent, key_set(jwk("RS256")), terms), Caller)


@pytest.mark.parametrize(
    "kid", ["../../../../dev/null", "/etc/passwd", "' OR 1=1 --", "http://127.0.0.1/keys", "", "RS256\x00", "k" * 5000]
)
def test_the_name_of_a_key_is_a_name_and_no_way_to_anything(kid: str) -> None:
    assert find(token(headers={"kid": kid})) == UnknownKey()


@pytest.mark.parametrize("kid", [7, None, ["RS256"], {"x": 1}])
def test_the_name_of_a_key_is_text(kid: Any) -> None:
    assert find(raw_token({"alg": "RS256", "kid": kid}, claims(), b"s")) is Reason.NOT_VALID


def test_a_token_brings_no_key_of_its_own() -> None:
    own = RSAAlgorithm.to_jwk(OTHER_RSA.public_key(), as_dict=True)
    for headers in ({"jwk": own}, {"jku": "https://evil.example.com/keys"}, {"x5u": "https://evil.example.com/"}):
        assert find(token(key=OTHER_RSA, headers=headers)) is Reason.NOT_VALID


def test_what_a_token_calls_critical_and_we_do_not_know_refuses_it() -> None:
    assert find(token(headers={"crit": ["bound-to-a-device"], "bound-to-a-device": 1})) is Reason.NOT_VALID


def test_a_token_without_a_key_name_means_the_only_key() -> None:
    sent = jwt.encode(claims(), RSA, "RS256")
    assert isinstance(find(sent, key_set(jwk("RS256"))), Caller)
    assert find(sent) == UnknownKey()


@pytest.mark.parametrize(
    "sent",
    ["", ".", "..", "...", "a.b.c", "é.é.é", "e30.e30.", "W10.W10.W10", "x" * 8000, ".".join(["e30"] * 4000)],
)
def test_what_is_no_token_is_refused(sent: str) -> None:
    assert find(sent) in (Reason.NOT_VALID, UnknownKey())


def test_deep_nesting_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b'{"a":' * 1400 + b"1" + b"}" * 1400).rstrip(b"=").decode()
    assert find(f"{deep}.e30.e30") in (Reason.NOT_VALID, UnknownKey())


# --- what is remembered -------------------------------------------------------------------------------------------


def test_a_token_is_remembered_until_it_expires_or_the_keys_change() -> None:
    check, sent, now = TokenCheck(TERMS), token(exp=time.time() + 300), time.time()
    first = check.find(sent, KEYS, now)
    assert check.find(sent, KEYS, now + 299) is first
    assert check.find(sent, key_set(jwk("ES256")), now) == UnknownKey()  # its key was withdrawn
    assert check.find(sent, KEYS, now) is not first  # verified again


def test_so_many_are_remembered_and_none_that_was_refused() -> None:
    check = TokenCheck(TERMS, remembered=2)
    for number in range(5):
        check.find(token(sub=str(number)), KEYS, time.time())
        check.find(token(key=OTHER_RSA, sub=str(number)), KEYS, time.time())
    assert len(check._known) == 2


# --- the set of keys ----------------------------------------------------------------------------------------------


def private(name: str) -> dict[str, Any]:
    maker, key = MAKERS[name]
    return {**maker.to_jwk(key, as_dict=True), "kid": "private"}


def short() -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 that is what is refused
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "short"}


def useless() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, "of a kind that is not taken"
    yield {"kty": "EC", "crv": "secp256k1", "kid": "x"}, "of a kind that is not taken"
    yield private("RS256"), "a private key, and no secret any more"
    yield private("EdDSA"), "a private key, and no secret any more"
    yield jwk("RS256", use="enc"), "not for signatures"
    yield jwk("RS256", key_ops=["encrypt"]), "not for signatures"
    yield jwk("RS256", alg="HS256"), "for another signature than its kind makes"
    yield short(), "shorter than 2048 bits"
    yield jwk("RS256", n="!"), "cannot be read"
    yield {"kty": "RSA", "kid": "x"}, "cannot be read"


@pytest.mark.parametrize(("key", "why"), list(useless()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_key_that_cannot_verify_is_left_out(key: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        key_set(key)
    assert list(key_set(key, jwk("ES256")).keys) == ["ES256"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'{"keys": 1}', b'{"keys": []}', b'{"keys": [1]}', b"<html>", b"[" * 100_000],
)
def test_what_is_no_set_of_keys_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInput):
        parse_key_set(raw)


def test_two_keys_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="has the kid of another"):
        key_set(jwk("RS256"), jwk("ES256", kid="RS256"))


def test_a_set_has_so_many_keys_at_most() -> None:
    with pytest.raises(BadInput, match="at most 100"):
        key_set(*(jwk("EdDSA", kid=str(number)) for number in range(101)))
