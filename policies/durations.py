"""Durations as people write them in documents: `90s`, `5m`, `1h30m`, `30d`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+(?:\.[0-9]{1,6})?)s)?")
_UNITS = ("days", "hours", "minutes", "seconds")
# Ten years. What is added to a moment must stay a moment, and nobody waits longer for a rollout.
_LONGEST = timedelta(days=3650)


def parse_duration(text: object) -> timedelta:
    """Read `90s`, `5m`, `1h30m`, `30d`. Raises ValueError with what would be right."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 5m, 1h30m or 30d")
    try:
        duration = timedelta(**{unit: float(n) for unit, n in zip(_UNITS, match.groups(), strict=True) if n})
    except OverflowError as error:
        raise ValueError(f"{str(text)[:20]}... is longer than any duration can be") from error
    if duration > _LONGEST:
        raise ValueError(f"{str(text)[:20]} is longer than ten years: write 3650d at most")
    return duration


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back: `90s` is `1m30s`."""
    parts, rest = [], value
    for size, unit in ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "m")):
        if rest >= size:
            parts.append(f"{rest // size}{unit}")
            rest %= size
    if rest or not parts:
        seconds = f"{rest.seconds}.{rest.microseconds:06d}".rstrip("0").rstrip(".")
        parts.append(f"{seconds}s")
    return "".join(parts)


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 2,
            "pattern": r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+(\.[0-9]{1,6})?s)?$",
            "examples": ["30s", "5m"],
        }
    ),
]
