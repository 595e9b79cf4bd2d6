"""What a noun finds wrong with its own fields, and which of them a person should look at.

Where several fields are right one by one and wrong together, somebody may have written one of them only, and the others
are defaults: the finding stands at the first that is written.
"""

from __future__ import annotations

from policies.strict_yaml import Path


class WrongFields(ValueError):  # a ValueError is what pydantic asks for
    """Its text is a whole sentence; `fields` are places below the noun, as documents name them, to blame in order."""

    def __init__(self, message: str, *fields: str | Path) -> None:
        super().__init__(message)
        self.fields: tuple[Path, ...] = tuple((field,) if isinstance(field, str) else field for field in fields)
