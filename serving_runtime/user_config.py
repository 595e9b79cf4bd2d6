"""What a replica is told while it runs: the `user_config` of its deployment, as frozen values.

Rules:
- Parsed once, here; what does not parse is `BadInput`, and the replica then keeps what it has.
- Unknown keys are ignored on purpose: a stable version may run for months and hear from a newer Sluicegate. The file
  in Git is read with the same types and without that tolerance.
- `serve_config.py` writes it; both sides meet in these types.
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as document

from policies.document_errors import adapter, known_only
from policies.errors import BadInput
from policies.serving import Access, Batching, Capture, ForcedVersion, RequestKey, Segments

_STRICT = ConfigDict(extra="forbid")

LONGEST_TIMEOUT_S = 3600.0  # an hour: longer than any answer over HTTP that somebody still waits for

_Slug = Annotated[str, Field(min_length=1, max_length=64)]
_Version = Annotated[int, Field(ge=1)]
_Build = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
_Timeout = Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT_S, allow_inf_nan=False)]
_Limit = Annotated[int, Field(ge=1)]


@document(frozen=True, kw_only=True, config=_STRICT)
class GuardTerms:
    """What the guard at the host holds the candidate to."""

    allowed: Annotated[float, Field(gt=0, lt=1)]
    """Share of bad answers that the SLO allows."""
    alpha: Annotated[float, Field(gt=0, lt=1)]
    """Chance at most that a version within it is stopped, per host replica."""


@document(frozen=True, kw_only=True, config=_STRICT)
class AgreementTerms:
    """When two predictions count as the same."""

    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Largest difference of two numbers, relative to stable's; none: they must be equal."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Split:
    """The challenger a host has, and its share."""

    application: Annotated[str, Field(min_length=1, max_length=250)]
    """The candidate's Serve application."""
    version: _Version
    build: _Build
    weight_percent: Annotated[int, Field(ge=0, le=100)]
    """Share of requests that the candidate answers."""
    shadow: bool
    """Also send it a copy of what stable answered."""
    timeout_s: _Timeout
    """After this the host answers in the candidate's place."""
    max_ongoing: Annotated[int, Field(ge=1, le=10000)]
    """Requests in progress at the candidate per host replica; above, stable answers."""
    guard: GuardTerms | None = None
    """None: nothing but a new configuration stops the candidate here."""
    agreement: AgreementTerms | None = None
    """In shadow, compare predictions; none: nobody asks for it."""


@document(frozen=True, kw_only=True, config=_STRICT)
class UserConfig:
    """The whole `user_config` of one application."""

    revision: Annotated[int, Field(ge=0)]
    """Grows with every change; a lower one than the last is ignored."""
    model: _Slug
    version: _Version
    build: _Build
    request_timeout_s: _Timeout
    route: Annotated[str, Field(max_length=200)] = ""
    """The model's public route, which candidate and host both know: when routes swap, requests arrive at a replica that
    Serve has not told yet, and its `root_path` is still empty."""
    public: bool = True
    """It has the route, or may get it without notice. A version that is not is asked by its host only."""
    drain: bool = False
    """Refuse what a host hands over, at once: the other end of a stop."""
    hold: bool = False
    """Set after an emergency; repair never lifts it by itself. The replica only carries it."""
    split: Split | None = None
    max_ongoing_requests: _Limit = 32
    """What Serve lets one replica have in progress."""
    max_queued_requests: _Limit = 256
    """What waits beside them at most."""
    memory_limit_mib: _Limit | None = None
    """A replica above it is replaced."""
    batching: Batching | None = None
    sticky: RequestKey | None = None
    segments: Segments | None = None
    forced_version: ForcedVersion | None = None
    capture: Capture | None = None
    access: Access | None = None
    feedback: bool = False
    """Remember whose answers were whose: an SLO counts what users report about them."""


def parse_user_config(raw: object) -> UserConfig:
    """`raw` is JSON as Serve hands it over. Raises BadInput with each field and what is wrong with it."""
    try:
        config: UserConfig = adapter(UserConfig).validate_json(json.dumps(known_only(UserConfig, raw)), strict=True)
    except (TypeError, RecursionError) as error:
        raise BadInput(f"user_config is no JSON: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'user_config'}: {e['msg']}" for e in error.errors())
        raise BadInput(f"user_config is not valid: {wrong}") from error
    return config
