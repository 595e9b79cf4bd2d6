"""What is wrong, or odd, in a config repo: one note per finding, so that a person sees all of them at once.

Rules:
- An error stops the repo from being applied; a warning does not.
- A note names file, line and field, and its message says what would be right. It never repeats a value that could be
  a secret.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import StrEnum


class Severity(StrEnum):
    """Whether the repo may be applied as it is."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """One finding."""

    severity: Severity
    file: str
    """Path in the config repo."""
    line: int | None
    """From 1; none where the finding is about the whole file."""
    field: str
    """Dotted, `environments.production.trigger`; empty for the whole document."""
    message: str

    def __str__(self) -> str:
        """One line, in the form that editors turn into a link."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        field = f"{self.field}: " if self.field else ""
        return f"{place}: {self.severity}: {field}{self.message}"


def in_order(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Each note once, by file, line and field, errors before warnings of the same place."""
    return tuple(sorted(set(notes), key=lambda n: (n.file, n.line or 0, n.field, n.severity, n.message)))


def errors(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Only those that stop the repo."""
    return tuple(note for note in notes if note.severity is Severity.ERROR)
