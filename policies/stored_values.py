"""Values that stored nouns are made of, each with its limits; and how strictly those nouns are read.

This module must not do I/O or read a clock.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from policies.commit_message import one_line

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""What is stored in Git has no unknown keys."""
MAX_COUNT = 1e12
"""Requests in a bin: a million a second for eleven days. Sums of many stay far from where floats lose whole numbers."""
Percent = Annotated[int, Field(ge=0, le=100)]


def _words(text: str) -> str:
    return text if text.isprintable() else one_line(text, len(text))


Words = Annotated[str, AfterValidator(_words)]
"""What somebody said, on one line: no character of it moves a cursor, turns a line or begins another one."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
YEARS = range(2000, 2201)
"""Of what is stored: what is earlier or later may be no moment any more in UTC, or with a duration added."""
