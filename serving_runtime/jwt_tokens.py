"""Signed tokens (JWT, RFC 7519): whose token somebody sent, by an identity provider's public keys (JWKS, RFC 7517).

Rules:
- Asymmetric signatures only, and only those that the config repo lists. Which of them a key may have made follows from
  the key itself, never from the token: a token that says `none`, or HS256 with a public key as its secret, has no key.
- `kid` looks a key up in the set we hold, and nothing else: no path, no address. `jku`, `x5u`, `jwk` and `x5c` of a
  token are never read, and a token with a `crit` that we do not know is refused (by PyJWT).
- `exp`, `iss`, `aud` and `sub` must be there and right; `nbf` and `iat` where they are. Clocks may differ by
  `LEEWAY_S`.
- Scopes (`scope`, or `scp` as some providers call it) say what a caller may do: `sluice:<slug>` or `sluice:*` call,
  `sluice:force` and `sluice:feedback` permit. These two are permissions always: a model of that name is called with
  `sluice:*`.
- A token that was verified is remembered by its hash until it expires or the set changes. To verify one costs 0.7
  (RS256), 0.9 (ES256) or 1.7 (EdDSA) of what all the rest of a small request costs in the replica, without Serve; to
  remember it, less than a hundredth (the best of seven runs of each, in one process).
- Keys that cannot verify (symmetric, private, for encryption, short RSA, unknown kinds) are left out of a set, and a
  set without any other is refused.

What a token says before its signature is right is used to find the key, and never shown or logged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from policies.commit_message import printable
from policies.errors import BadInput
from policies.serving import Jwt
from serving_runtime.callers import PERMISSIONS, Caller, Reason

_log = logging.getLogger(__name__)

LEEWAY_S = 30.0
"""Clocks of machines that are kept in time differ by less than a second; without that, by this much in a month."""
KEYS_IN_A_SET = 100
"""Providers publish two or three, a large one some ten."""
RSA_BITS_AT_LEAST = 2048
REMEMBERED = 4096
"""Tokens that were verified; 3.6 MB were measured."""
NAME_LIMIT_CHARS = 255
"""Of a subject, as OpenID Connect limits it."""
SCOPE_PREFIX = "sluice:"
_NONE = ["none of this key's"]  # a name that no signature has: an empty list would mean that nobody chose
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE = {"P-256": frozenset({"ES256"}), "P-384": frozenset({"ES384"}), "Ed25519": frozenset({"EdDSA"})}


@dataclasses.dataclass(frozen=True)
class UnknownKey:
    """The token names a key that is not in the set: the set may have a new one."""


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """A key and the signatures that may be its own."""

    key: Any
    algorithms: frozenset[str]


@dataclasses.dataclass(frozen=True)
class KeySet:
    """The keys of a provider, by `kid`; one without is under ""."""

    keys: Mapping[str, PublicKey]

    def find(self, kid: str | None) -> PublicKey | None:
        """The key of that name; a token without a name means the only key there is."""
        if kid is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        return self.keys.get(kid)


class TokenCheck:
    """Verifies tokens as one config wants them. One event loop owns it."""

    def __init__(self, terms: Jwt, remembered: int = REMEMBERED) -> None:
        """`remembered`: tokens at most."""
        self._terms, self._remembered = terms, remembered
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()  # until then, seconds since the epoch
        self._known_by: KeySet | None = None

    def find(self, sent: str, keys: KeySet, now: float) -> Caller | Reason | UnknownKey:
        """Whose token it is, or why it is nobody's. `now` is the time of day, seconds. Never raises."""
        if self._known_by is not keys:
            self._known.clear()
            self._known_by = keys
        digest = hashlib.sha256(sent.encode()).digest()
        known = self._known.get(digest)
        if known is not None and now < known[1]:
            self._known.move_to_end(digest)
            return known[0]
        found = self._verify(sent, keys)
        if isinstance(found, tuple):
            self._known[digest] = found
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
            return found[0]
        return found

    def _verify(self, sent: str, keys: KeySet) -> tuple[Caller, float] | Reason | UnknownKey:
        import jwt

        try:
            header = jwt.get_unverified_header(sent)
            key = keys.find(header.get("kid"))
            if key is None:
                return UnknownKey()
            claims = jwt.decode(
                sent,
                key.key,
                algorithms=sorted(key.algorithms & set(self._terms.algorithms)) or _NONE,
                audience=self._terms.audience,
                issuer=self._terms.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return _caller(claims), float(claims["exp"]) + LEEWAY_S
        except jwt.ExpiredSignatureError:  # the signature was right: it is looked at first
            return Reason.EXPIRED
        except jwt.InvalidTokenError:
            return Reason.NOT_VALID
        except Exception as error:  # noqa: BLE001 whatever a stranger's bytes raise in a parser refuses them
            _log.warning("a token was refused: %s while it was read", type(error).__name__)
            return Reason.NOT_VALID


def _caller(claims: Mapping[str, Any]) -> Caller:
    subject = claims["sub"]
    if not subject or len(subject) > NAME_LIMIT_CHARS:
        raise ValueError("a subject that names nobody")
    said = claims.get("scope", claims.get("scp", ""))
    scopes = said.split() if isinstance(said, str) else [each for each in said if isinstance(each, str)]
    ours = {scope.removeprefix(SCOPE_PREFIX) for scope in scopes if scope.startswith(SCOPE_PREFIX)}
    permissions = ours & set(PERMISSIONS)
    return Caller(printable(subject), frozenset(ours - permissions), frozenset(permissions), by_token=True)


def parse_key_set(raw: bytes) -> KeySet:
    """The set from its JSON. Raises BadInput where it is none, or has no key that could verify anything."""
    try:
        listed = json.loads(raw)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInput(f"no set of keys (JWKS): {type(error).__name__}") from None
    if not isinstance(listed, list) or len(listed) > KEYS_IN_A_SET:
        raise BadInput(f"no set of keys (JWKS): `keys` is a list of at most {KEYS_IN_A_SET}")
    keys: dict[str, PublicKey] = {}
    left_out = []
    for number, each in enumerate(listed, 1):
        read = _public_key(each) if isinstance(each, dict) else "is no key"
        if isinstance(read, str):
            left_out.append(f"key {number} {read}")
            continue
        kid = str(each.get("kid", ""))
        if kid in keys:
            raise BadInput(f"key {number} has the kid of another: nobody can tell which one a token means")
        keys[kid] = read
    if not keys:
        raise BadInput(f"no key of the set can verify a token: {'; '.join(left_out[:5]) or 'it is empty'}")
    if left_out:
        _log.warning("left out of the set of keys: %s", "; ".join(left_out[:5]))
    return KeySet(keys)


def _public_key(jwk: Mapping[str, Any]) -> PublicKey | str:
    """One key of a set, or why it is left out."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    algorithms = _RSA if kind == "RSA" else _BY_CURVE.get(str(curve)) if kind in ("EC", "OKP") else None
    if algorithms is None:
        return "is of a kind that is not taken"
    if "d" in jwk:
        return "is a private key, and no secret any more"
    if jwk.get("use", "sig") != "sig" or "verify" not in _listed(jwk.get("key_ops", ["verify"])):
        return "is not for signatures"
    if "alg" in jwk:
        algorithms &= {jwk["alg"]}
    if not algorithms:
        return "is for another signature than its kind makes"
    return _built(kind, jwk, algorithms)


def _built(kind: Any, jwk: Mapping[str, Any], algorithms: frozenset[str]) -> PublicKey | str:
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

    makers: Mapping[Any, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    try:
        key = makers[kind].from_jwk(dict(jwk))
    except Exception as error:  # noqa: BLE001 PyJWT and cryptography raise a dozen kinds for a key that is none
        return f"cannot be read ({type(error).__name__})"
    if kind == "RSA" and key.key_size < RSA_BITS_AT_LEAST:
        return f"is shorter than {RSA_BITS_AT_LEAST} bits"
    return PublicKey(key, algorithms)


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
