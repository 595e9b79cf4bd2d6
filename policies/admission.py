"""Admission: whether a version may be tried at all, as checks that each say what they saw and what mends it.

Rules:
- A check passes, warns or fails. One that fails refuses the version; one that warns is said, and stops nothing.
- What could not be asked says so in its words: an absent metric or signature is never a silent pass.
- A check that does not pass names the line that mends it: a command, a tag, a field of a document.

These are the nouns, stored with a rollout and with a refused version; the rules are in `admission_rules.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as document

from policies.stored_values import STRICT, Words


class CheckOutcome(StrEnum):
    """How one check ended."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@document(frozen=True, kw_only=True, config=STRICT)
class Check:
    """One question about a version, and its answer."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    """What was asked: one of `policies/admission_rules.py: CHECKS`."""
    outcome: CheckOutcome
    words: Words
    """What was seen."""
    mend: Words = ""
    """What a person can do about it; empty where it passed."""

    def __str__(self) -> str:
        """On one line, with what mends it."""
        return f"{self.name}: {self.words}{f' ({self.mend})' if self.mend else ''}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Admission:
    """All that was asked about one version before it is tried."""

    version: int
    checks: tuple[Check, ...]

    @property
    def admitted(self) -> bool:
        """May it be tried?"""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that refuse it."""
        return tuple(check for check in self.checks if check.outcome is CheckOutcome.FAIL)

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The checks that only say something."""
        return tuple(check for check in self.checks if check.outcome is CheckOutcome.WARN)

    @property
    def reason(self) -> str:
        """Why it is refused, with what mends it; empty where it is admitted."""
        words = "; ".join(map(str, self.failures))
        return f"v{self.version} is not admitted: {words}" if self.failures else ""

    @property
    def summary(self) -> str:
        """All checks on one line, what fails first: for a tag on the version."""
        return summary(self.checks)


def summary(checks: Iterable[Check]) -> str:
    """`refused: tags fail, formats warn, signature pass; tags: owner is missing (...)`: those that say something last.

    Empty where nothing was asked.
    """
    worst = sorted(checks, key=lambda check: _ORDER[check.outcome])
    if not worst:
        return ""
    head = "refused" if worst[0].outcome is CheckOutcome.FAIL else "admitted"
    short = ", ".join(f"{check.name} {check.outcome}" for check in worst)
    said = (str(check) for check in worst if check.outcome is not CheckOutcome.PASS)
    return "; ".join((f"{head}: {short}", *said))


_ORDER = {CheckOutcome.FAIL: 0, CheckOutcome.WARN: 1, CheckOutcome.PASS: 2}


def lines(checks: Iterable[Check]) -> tuple[str, ...]:
    """A line for each check, as a comment on a pull request and `sluice plan` show them."""
    return tuple(f"{check.outcome}: {check}" for check in checks)
