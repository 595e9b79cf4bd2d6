"""What a replica is told while it runs: the `user_config` of its deployment, as frozen values.

Rules:
- Parsed once, here; what does not parse is `BadInput`, and the replica then keeps what it has.
- Unknown keys are ignored on purpose: a stable version may run for months and hear from a newer Sluicegate.
- `serve_config.py` writes it; both sides meet in these types.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as document

from policies.errors import BadInput

_TOLERANT = ConfigDict(extra="ignore")

LONGEST_TIMEOUT_S = 3600.0  # an hour: longer than any answer over HTTP that somebody still waits for

# Strict per field: "10" is no weight and 1 is no bool. (A strict dataclass would not even take a dict.)
_Slug = Annotated[str, Field(strict=True, min_length=1, max_length=64)]
_Version = Annotated[int, Field(strict=True, ge=1)]
_Build = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{8}$")]
_Timeout = Annotated[float, Field(strict=True, gt=0, le=LONGEST_TIMEOUT_S, allow_inf_nan=False)]
_Flag = Annotated[bool, Field(strict=True)]


@document(frozen=True, kw_only=True, config=_TOLERANT)
class GuardTerms:
    """What the guard at the host holds the candidate to."""

    allowed: Annotated[float, Field(strict=True, gt=0, lt=1)]
    """Share of bad answers that the SLO allows."""
    alpha: Annotated[float, Field(strict=True, gt=0, lt=1)]
    """Chance at most that a version within it is stopped, per host replica."""


@document(frozen=True, kw_only=True, config=_TOLERANT)
class AgreementTerms:
    """When two predictions count as the same."""

    tolerance: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    """Largest difference of two numbers, relative to stable's; none: they must be equal."""


@document(frozen=True, kw_only=True, config=_TOLERANT)
class Split:
    """The challenger a host has, and its share."""

    application: Annotated[str, Field(strict=True, min_length=1, max_length=250)]
    """The candidate's Serve application."""
    version: _Version
    build: _Build
    weight_percent: Annotated[int, Field(strict=True, ge=0, le=100)]
    """Share of requests that the candidate answers."""
    shadow: _Flag
    """Also send it a copy of what stable answered."""
    timeout_s: _Timeout
    """After this the host answers in the candidate's place."""
    max_ongoing: Annotated[int, Field(strict=True, ge=1, le=10000)]
    """Requests in progress at the candidate per host replica; above, stable answers."""
    guard: GuardTerms | None = None
    """None: nothing but a new configuration stops the candidate here."""
    agreement: AgreementTerms | None = None
    """In shadow, compare predictions; none: nobody asks for it."""


@document(frozen=True, kw_only=True, config=_TOLERANT)
class RequestKey:
    """What of a request names who asks: exactly one of the two."""

    header: Annotated[str, Field(strict=True, min_length=1, max_length=100)] | None = None
    field: Annotated[str, Field(strict=True, min_length=1, max_length=100)] | None = None
    """Of the JSON body: at its top, or a column of its first row."""

    def __post_init__(self) -> None:
        """Raises ValueError unless exactly one is given."""
        if (self.header is None) == (self.field is None):
            raise ValueError("a key is exactly one of header and field")


@document(frozen=True, kw_only=True, config=_TOLERANT)
class Segments:
    """Whose latency is told apart."""

    key: RequestKey
    values: Annotated[tuple[str, ...], Field(min_length=1, max_length=20)]
    """Each is a label; everything else is `other`."""


@document(frozen=True, kw_only=True, config=_TOLERANT)
class ForcedVersion:
    """Who may ask for a version by name."""

    to: Literal["anyone", "keys"]


@document(frozen=True, kw_only=True, config=_TOLERANT)
class UserConfig:
    """The whole `user_config` of one application."""

    revision: Annotated[int, Field(strict=True, ge=0)]
    """Grows with every change; a lower one than the last is ignored."""
    model: _Slug
    version: _Version
    build: _Build
    request_timeout_s: _Timeout
    route: Annotated[str, Field(strict=True, max_length=200)] = ""
    """The model's public route, which candidate and host both know: when routes swap, requests arrive at a replica that
    Serve has not told yet, and its `root_path` is still empty."""
    drain: _Flag = False
    """Refuse what a host hands over, at once: the other end of a stop."""
    hold: _Flag = False
    """Set after an emergency; repair never lifts it by itself. The replica only carries it."""
    split: Split | None = None
    sticky: RequestKey | None = None
    """What keeps a user with a version; none: each request is drawn on its own."""
    segments: Segments | None = None
    forced_version: ForcedVersion | None = None
    """None: nobody names a version."""
    feedback: _Flag = False
    """Remember who answered what: an SLO counts what users report."""


_ADAPTER = TypeAdapter(UserConfig)


def parse_user_config(raw: object) -> UserConfig:
    """`raw` is JSON as Serve hands it over. Raises BadInput with each field and what is wrong with it."""
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'user_config'}: {e['msg']}" for e in error.errors())
        raise BadInput(f"user_config is not valid: {wrong}") from error
