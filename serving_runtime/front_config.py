"""What a front is, and what it is told while it runs: its `args` and its `user_config`, as frozen values.

Rules:
- As for a version's (`user_config.py`): parsed once, here; what does not parse is `BadInput`, and the replica then
  keeps what it has; unknown keys of a user_config are ignored, those of args are not.
- A user_config has no revision: a front has no release whose revisions could count it. Serve tells replicas in the
  order of what was submitted.
- `serve_fronts.py` writes both; both sides meet in these types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as document

from policies.document_errors import adapter, known_only
from policies.errors import BadInput
from policies.serving import Access, Placement, Scalar
from serving_runtime.user_config import LONGEST_TIMEOUT_S

_STRICT = ConfigDict(extra="forbid")
_Timeout = Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT_S, allow_inf_nan=False)]
_Name = Annotated[str, Field(min_length=1, max_length=250)]


@document(frozen=True, kw_only=True, config=_STRICT)
class Member:
    """A model, and who answers for it now."""

    model: _Name
    """Its slug."""
    name: _Name
    """As it is registered; users may call it either."""
    application: _Name
    """The Serve application that hosts it."""
    timeout_s: _Timeout
    """After this it has not answered."""


@document(frozen=True, kw_only=True, config=_STRICT)
class FrontConfig:
    """The whole `user_config` of a front."""

    front: _Name
    """Its name, as metrics have it."""
    route: Annotated[str, Field(max_length=200)]
    request_timeout_s: _Timeout
    needed: Annotated[int, Field(ge=1)] = 1
    """An ensemble's members that must answer well."""
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    """In the document's order."""
    access: Access | None = None
    placement: Placement | None = None
    """What its replicas are placed by; they do nothing with it. It is said here too for Serve, which takes no notice of
    a placement group that changes alone."""


@document(frozen=True, kw_only=True, config=_STRICT)
class EnsembleArgs:
    """What makes an ensemble; a change restarts its replicas, one after the other."""

    kind: Literal["ensemble"]
    name: _Name
    combine: str
    options: Mapping[str, Scalar]


@document(frozen=True, kw_only=True, config=_STRICT)
class GrpcArgs:
    """What makes the entry for gRPC."""

    kind: Literal["grpc"]


FrontArgs = Annotated[EnsembleArgs | GrpcArgs, Field(discriminator="kind")]


def parse_front_args(raw: Mapping[str, Any]) -> EnsembleArgs | GrpcArgs:
    """From a Serve config's `args`. Raises BadInput for a missing, unknown or ill-typed one."""
    args: EnsembleArgs | GrpcArgs = _read(FrontArgs, raw, "args")
    return args


def parse_front_config(raw: object) -> FrontConfig:
    """`raw` is JSON as Serve hands it over. Raises BadInput with each field and what is wrong with it."""
    config: FrontConfig = _read(FrontConfig, known_only(FrontConfig, raw), "user_config")
    return config


def _read(kind: Any, raw: object, what: str) -> Any:
    try:
        return adapter(kind).validate_json(json.dumps(raw), strict=True)
    except (TypeError, RecursionError) as error:
        raise BadInput(f"{what} is no JSON: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or what}: {e['msg']}" for e in error.errors())
        raise BadInput(f"{what} is not valid: {wrong}") from error
