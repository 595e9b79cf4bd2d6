"""`sluice keys`: makes API keys.

Rules:
- The key is shown once and kept nowhere. What is kept is a line with its hash, which the person adds to the file of
  keys on the nodes: that file is no part of the config repo.

This module must not print.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

from policies.errors import BadInput
from policies.names import slug
from serving_runtime.api_keys import new_key
from serving_runtime.callers import EVERY_MODEL, PERMISSIONS


@dataclasses.dataclass(frozen=True)
class NewKey:
    """A key, and the line that stands for it."""

    key: str = dataclasses.field(repr=False)
    line: str


def new(name: str, models: Sequence[str], permissions: Sequence[str], expires: str | None, now: datetime) -> NewKey:
    """A new key for the holder `name`.

    `models` are names in MLflow; none, or `*`, is all of them. `expires` is a day or a moment (ISO 8601, UTC where it
    does not say). Raises BadInput for names, permissions and moments that no key can have.
    """
    unknown = sorted(set(permissions) - set(PERMISSIONS))
    if unknown:
        raise BadInput(f"{unknown[0]!r} is no permission: there are {' and '.join(PERMISSIONS)}")
    slugs = [model if model == EVERY_MODEL else slug(model) for model in models] or [EVERY_MODEL]
    key, line = new_key(name, slugs, permissions, _moment(expires, now) if expires else None)
    return NewKey(key, line)


def _moment(written: str, now: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(written)
    except ValueError as error:
        raise BadInput(f"{written!r} is no day or moment: write 2027-06-30, or 2027-06-30T12:00:00Z") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise BadInput(f"{written} is over: the key would never be valid")
    return moment
