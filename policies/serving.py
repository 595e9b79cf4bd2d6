"""How a model answers, beyond which version does: batches, keys of requests, capture, features, who may call.

Rules:
- One noun for both ends: a document of the config repo holds it, and the same noun reaches the replica, in its
  `user_config` where it changes in place, in the application's `args` where it restarts. The replica ignores keys it
  does not know (`serving_runtime/user_config.py`); the document refuses them.
- No secrets: where one is needed, its file or environment variable is named.

What each of them does is in the module of `serving_runtime` that carries it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.capture_place import PLACE, PLACE_LIMIT_CHARS, read_place
from policies.durations import Duration, format_duration
from policies.reserved_amounts import Amount, BundledResource
from policies.wrong_fields import WrongFields

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

# Whole numbers that every reader of JSON keeps.
_LARGEST = 10**15
Scalar = (
    str
    | bool
    | Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
    | Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
)
EntryPoint = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$", max_length=200)
]
"""`package.module:name`: Python that the replicas can import."""
EnvironmentVariable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$", max_length=100)]
_HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=64)]
_FieldName = Annotated[str, Field(min_length=1, max_length=128)]
_SecretFile = Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=400)]

# What is asked while a user waits is over within a few seconds, or the answer is no use any more.
_LONGEST_LOOK_UP_MS = 10_000.0
# A file is what a crash may lose; an hour of it is one partition.
_LONGEST_CAPTURE = timedelta(hours=1)


@document(frozen=True, kw_only=True, config=_STRICT)
class Batching:
    """Requests that arrive together are predicted together; a bad row fails its own request only."""

    max_batch_size: Annotated[int, Field(ge=2, le=1024)] = 32
    """Rows of one batch at most."""
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How long the first request of a batch waits for others; 0: a batch is what arrived while the one before was
    predicted."""


def _exactly_one(noun: object, *names: str) -> None:
    given = [name for name in names if getattr(noun, name) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {' and '.join(names)} is written here, not {' and '.join(given) or 'none'}")


@document(frozen=True, kw_only=True, config=_STRICT)
class RequestKey:
    """A value of a request. Exactly one of the two."""

    header: _HeaderName | None = None
    """The name of a header, in lower case."""
    field: _FieldName | None = None
    """The name of a field at the top of a JSON body, or of a column, whose first row counts."""

    def __post_init__(self) -> None:
        """Exactly one must be set. Raises ValueError."""
        _exactly_one(self, "header", "field")


@document(frozen=True, kw_only=True, config=_STRICT)
class Segments:
    """Latency by a value of the request."""

    key: RequestKey
    """Where the value stands."""
    values: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(min_length=1, max_length=20)
    ]
    """The values that are told apart; every other one counts as `other`."""

    def __post_init__(self) -> None:
        """Raises ValueError where a value is there twice, or is the word for the rest."""
        for i, value in enumerate(self.values):
            if value == "other" or value in self.values[:i]:
                message = "values are different from each other, and none is `other`, which is everything else"
                raise WrongFields(message, ("values", i))


@document(frozen=True, kw_only=True, config=_STRICT)
class ForcedVersion:
    """Who may choose the version that answers, by the header `x-sluice-force-version`."""

    to: Literal["anyone", "keys"] = "keys"
    """`keys`: callers whose key or token has the permission `force`."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Capture:
    """A share of requests and answers, written as Parquet for drift checks and training."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Share of requests that is kept, chosen by request id."""
    to: Annotated[str, Field(pattern=PLACE, max_length=PLACE_LIMIT_CHARS)]
    """`s3://bucket/prefix`, or `file:///folder` on each node. Credentials come from the usual AWS variables."""
    exclude: tuple[_FieldName, ...] = ()
    """Fields that are never written, features of these names too. Headers never are."""
    rows_per_file: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """A file is written when it has so many rows."""
    every: Duration = timedelta(minutes=5)
    """Or when its first row is so old, at most 1h: what a replica that is killed loses at most."""

    def __post_init__(self) -> None:
        """Raises ValueError where a file would never be written, or names a way out of its folder."""
        if not timedelta() < self.every <= _LONGEST_CAPTURE:
            raise WrongFields(f"every is above 0s and at most 1h, not {format_duration(self.every)}", "every")
        try:
            read_place(self.to)
        except ValueError as error:
            raise WrongFields(f"to {error}", "to") from error


@document(frozen=True, kw_only=True, config=_STRICT)
class Features:
    """Values that are looked up for each row before the model sees it."""

    entry_point: EntryPoint
    """What makes the source: called once with `options` (docs/features.md)."""
    key: _FieldName
    """The column whose values are looked up."""
    timeout_ms: Annotated[float, Field(gt=0, le=_LONGEST_LOOK_UP_MS)] = 50.0
    """After this the default values are used."""
    cache_ttl_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """How long a value is good; 0 looks every one up."""
    cache_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Keys that each replica remembers at most."""
    defaults: Mapping[_FieldName, Scalar | None] = dataclasses.field(default_factory=dict)
    """By feature, for a key that is unknown and while the source is away: these never fail a request."""
    required: tuple[_FieldName, ...] = ()
    """Features without a default: a request that cannot have one of them fails."""
    options: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    """What the entry point gets. Never secrets: this lies in Git."""

    def __post_init__(self) -> None:
        """Raises ValueError where nothing is looked up, or the same feature twice, or the key itself."""
        names = (*self.required, *self.defaults)
        if not names:
            raise ValueError("defaults and required are both empty: no feature is looked up")
        for i, name in enumerate(names):
            if name == self.key or name in names[:i]:
                message = "a feature is in defaults or in required, once, and the key is none"
                place = ("required", i) if i < len(self.required) else ("defaults", name)
                raise WrongFields(f"{message}: {name!r}", place)


@document(frozen=True, kw_only=True, config=_STRICT)
class Placement:
    """A placement group for each replica."""

    bundles: Annotated[
        tuple[Annotated[Mapping[BundledResource, Annotated[Amount, Field(gt=0)]], Field(min_length=1)], ...],
        Field(min_length=1, max_length=64),
    ]
    """Resources of each bundle by Ray's names (CPU, GPU, memory in bytes, custom ones); the replica itself runs in the
    first, which holds what it reserves."""
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray spreads the bundles over nodes."""


# --- who may call ---------------------------------------------------------------------------------------------


@document(frozen=True, kw_only=True, config=_STRICT)
class ApiKeys:
    """Where the hashed keys are. Exactly one of the two."""

    file: _SecretFile | None = None
    """A file on each node; a change is seen within seconds."""
    env: EnvironmentVariable | None = None
    """An environment variable of the replicas."""

    def __post_init__(self) -> None:
        """Exactly one must be set. Raises ValueError."""
        _exactly_one(self, "file", "env")


@document(frozen=True, kw_only=True, config=_STRICT)
class Jwt:
    """Signed tokens (RFC 7519). Exactly one of jwks_file and jwks_url."""

    issuer: Annotated[str, Field(min_length=1, max_length=400)]
    """The claim `iss`."""
    audience: Annotated[str, Field(min_length=1, max_length=400)]
    """What the claim `aud` must name."""
    jwks_file: _SecretFile | None = None
    """The public keys, in a file on each node."""
    jwks_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$", max_length=400)] | None = None
    """The public keys, at an address that the replicas reach."""
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"], ...],
        Field(min_length=1),
    ] = ("RS256", "ES256", "EdDSA")
    """Signatures that are taken; all of them asymmetric."""

    def __post_init__(self) -> None:
        """Exactly one place for the keys. Raises ValueError."""
        _exactly_one(self, "jwks_file", "jwks_url")


@document(frozen=True, kw_only=True, config=_STRICT)
class Rate:
    """How often one caller may ask one host replica."""

    per_s: Annotated[float, Field(gt=0, le=1_000_000)]
    """Requests a second in the long run."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Requests at once after a pause."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Access:
    """Who may call the models of an environment."""

    keys: ApiKeys | None = None
    """API keys, sent as `x-api-key` or as a bearer token."""
    jwt: Jwt | None = None
    """Tokens of an identity provider, sent as a bearer token."""
    rate: Rate | None = None
    """The limit for each caller; none: no limit."""
    open: bool = False
    """Anybody may call, and this environment means it."""

    def __post_init__(self) -> None:
        """Raises ValueError where nothing is checked and nobody said so, or both is said."""
        if self.open == bool(self.keys or self.jwt):
            raise ValueError("write keys or jwt (or both), or open: true to let anybody call; not both and not neither")
        if self.open and self.rate:
            raise WrongFields("rate limits callers by their key or token; with open: true nobody has one", "rate")
