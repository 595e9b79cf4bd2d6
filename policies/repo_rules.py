"""The rules of a config repo, `policies/rules.yaml`: what a change of it must not do, and who must say yes to it.

This module holds the shape of the document only; what breaks a rule is `change_rules.py`.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.durations import Duration, format_duration
from policies.wrong_fields import WrongFields

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

Person = Annotated[str, Field(pattern=r"^[^\s@,]+$", max_length=100)]
"""A person's name at the forge, without @."""
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
DAYS: tuple[Day, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_Hour = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
_Place = Annotated[str, Field(min_length=1, max_length=1024)]


@document(frozen=True, kw_only=True, config=_STRICT)
class Owners:
    """Who must approve a change of some documents."""

    paths: Annotated[tuple[_Place, ...], Field(min_length=1)]
    """Files, or folders with a / at their end, that they own: `models/fraud.yaml`, `policies/`."""
    owners: Annotated[tuple[Person, ...], Field(min_length=1)]
    """One of them must have approved; nobody approves a change of their own."""

    def own(self, path: str) -> bool:
        """Is the file theirs?"""
        return any(path == place or (place.endswith("/") and path.startswith(place)) for place in self.paths)


@document(frozen=True, kw_only=True, config=_STRICT)
class FrozenWindow:
    """A time in which documents do not change: from one moment to another, or on days of every week."""

    since: AwareDatetime | None = None
    """Its first moment, like 2026-12-20T00:00:00Z; together with `until`."""
    until: AwareDatetime | None = None
    """The first moment after it."""
    days: tuple[Day, ...] = ()
    """Days of every week, in UTC."""
    hours_from: _Hour = "00:00"
    """With `days`: from this time of day, UTC."""
    hours_until: _Hour | None = None
    """With `days`: until this time of the same day, UTC; none: until its end."""
    why: Annotated[str, Field(min_length=1, max_length=200)]
    """Said to whoever meets it."""
    unless: tuple[Person, ...] = ()
    """Who may approve a change all the same."""

    def __post_init__(self) -> None:
        """Raises ValueError where it is neither of the two kinds, or both, or never."""
        if (self.since is None) != (self.until is None) or (self.since is None) == (not self.days):
            raise ValueError("a frozen window is since and until, or days of the week; not both and not neither")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise WrongFields("until is not after since: the window would be empty", "until")
        if self.hours_until is not None and self.hours_from >= self.hours_until:
            message = "hours_until is not after hours_from: write one window for each day"
            raise WrongFields(message, "hours_until")
        if not self.days and (self.hours_from != "00:00" or self.hours_until is not None):
            raise WrongFields("hours_from and hours_until belong to days", "hours_from", "hours_until")

    def holds(self, now: datetime) -> bool:
        """Is it frozen then? `now` is in UTC."""
        if self.since is not None and self.until is not None:
            return self.since <= now < self.until
        return DAYS[now.weekday()] in self.days and self.hours_from <= f"{now:%H:%M}" < (self.hours_until or "24:00")


@document(frozen=True, kw_only=True, config=_STRICT)
class RepoRules:
    """`policies/rules.yaml`: what `sluice review` holds a change of this repo to.

    The rules as they were before a change judge it: nobody loosens them and uses that in one go.
    """

    max_replicas: Annotated[int, Field(ge=1)] | None = None
    """Highest `autoscaling.max_replicas` of a model, an ensemble or the entry for gRPC; none: any."""
    max_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs that one model or ensemble may reserve with all its replicas; none: any."""
    min_canary: Duration | None = None
    """Shortest time in which a candidate gets less than 100 % of the requests, over all steps; none: any."""
    slo_approvers: tuple[Person, ...] = ()
    """One of them must approve what loosens an SLO of a model; empty: that is said, and nobody needs to."""
    owners: tuple[Owners, ...] = ()
    """Whose approval a change needs; where several entries own a file, of each."""
    require_owners: bool = False
    """Every model and every ensemble must be owned by somebody."""
    random_text: Literal["fail", "warn"] = "warn"
    """What a new text that looks random counts as; one with the shape of a provider's key always fails."""
    frozen: tuple[FrozenWindow, ...] = dataclasses.field(default_factory=tuple)
    """When documents do not change."""

    def __post_init__(self) -> None:
        """Raises ValueError for a time that no canary can be shorter than."""
        if self.min_canary is not None and self.min_canary <= timedelta():
            raise WrongFields(f"min_canary is above 0s, not {format_duration(self.min_canary)}", "min_canary")
