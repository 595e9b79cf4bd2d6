"""Who calls, and why somebody may not: what the gate (`access.py`) answers with.

Rules:
- A refusal is MLflow's error shape with the header that HTTP wants beside its status. It tells nobody whether a key or
  token exists, and repeats nothing of what was sent.
- Reasons are a closed set: they are the label of a metric.

Nothing here decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from serving_runtime.protocol import RETRY_AFTER_S, Answer, error_answer, try_again

FORCE = "force"
"""Permission to choose the version that answers."""
FEEDBACK = "feedback"
"""Permission to tell how a prediction turned out."""
PERMISSIONS = (FORCE, FEEDBACK)
EVERY_MODEL = "*"


class Reason(StrEnum):
    """Why a request was refused, as metrics name it."""

    UNSET = "unset"
    """Requests may come from elsewhere, and nobody has said who may call."""
    NO_CREDENTIAL = "no_credential"
    NOT_VALID = "not_valid"
    EXPIRED = "expired"
    NOT_ALLOWED = "not_allowed"
    """A caller we know, and not for this model."""
    RATE = "rate"
    UNAVAILABLE = "unavailable"
    """The keys could not be read yet: nobody can be told from anybody."""
    INTERNAL = "internal"
    """A version was asked directly, past its model's route."""


@dataclasses.dataclass(frozen=True)
class Caller:
    """Somebody who may call: what their key or token says of them."""

    name: str
    """The key's name or the token's subject; never the key."""
    models: frozenset[str]
    """Slugs, or `*` for all."""
    permissions: frozenset[str] = frozenset()
    by_token: bool = False
    """Named by an identity provider, which does not know how keys are called here."""

    def may_call(self, slug: str) -> bool:
        """Is that model one of theirs?"""
        return EVERY_MODEL in self.models or slug in self.models

    def may(self, permission: str) -> bool:
        """Do they have that permission, one of `PERMISSIONS`?"""
        return permission in self.permissions


ANYBODY = Caller("anybody", frozenset({EVERY_MODEL}))
"""Where nobody is asked who they are. Has no permission: what needs one needs a key."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What goes back in place of a prediction."""

    reason: Reason
    answer: Answer
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def unset() -> Refusal:
    """403: says what has to be written, because its reader is the one who set this up."""
    message = (
        "Nobody has said who may call here, and this service is reached from elsewhere than its own machine. Write "
        "access under the environment in sluice.yaml: keys or jwt, or open: true to let anybody call (docs/access.md)."
    )
    return Refusal(Reason.UNSET, error_answer(403, "PERMISSION_DENIED", message))


def no_credential(slug: str) -> Refusal:
    """401 for a request without a key or token."""
    message = "This model is called with a key or token: send authorization: Bearer <it>, or x-api-key: <it>."
    return Refusal(Reason.NO_CREDENTIAL, error_answer(401, "UNAUTHENTICATED", message), _challenge(slug))


def not_valid(slug: str) -> Refusal:
    """401 for whatever is wrong with a key or token; the same words for all of it."""
    message = "The key or token that was sent is not valid here."
    headers = _challenge(slug, 'error="invalid_token"')
    return Refusal(Reason.NOT_VALID, error_answer(401, "UNAUTHENTICATED", message), headers)


def expired(slug: str) -> Refusal:
    """401 for one that was valid: whoever holds it may know that."""
    headers = _challenge(slug, 'error="invalid_token"', 'error_description="expired"')
    answer = error_answer(401, "UNAUTHENTICATED", "The key or token has expired: get a new one.")
    return Refusal(Reason.EXPIRED, answer, headers)


def not_allowed(slug: str) -> Refusal:
    """403 for a caller who may call other models."""
    message = f"This key or token may not call {slug}."
    return Refusal(Reason.NOT_ALLOWED, error_answer(403, "PERMISSION_DENIED", message))


def too_often(wait_s: int) -> Refusal:
    """429 with the whole seconds until there is room again."""
    message = f"This caller asks more often than it may: try again in {wait_s} s."
    answer = error_answer(429, "REQUEST_LIMIT_EXCEEDED", message)
    return Refusal(Reason.RATE, answer, {"retry-after": str(wait_s)})


def unavailable() -> Refusal:
    """503 while no keys could be read: neither yes nor no would be right."""
    answer = try_again(f"Who may call cannot be checked right now: try again in {RETRY_AFTER_S} s.")
    return Refusal(Reason.UNAVAILABLE, answer, dict(answer.headers))


def internal(route: str) -> Refusal:
    """404 for a version that was asked past its model's route."""
    message = f"A version is not called directly: {route or 'the route of its model'} is where its model answers."
    return Refusal(Reason.INTERNAL, error_answer(404, "ENDPOINT_NOT_FOUND", message))


def _challenge(slug: str, *more: str) -> Mapping[str, str]:
    return {"www-authenticate": ", ".join((f'Bearer realm="{slug}"', *more))}
