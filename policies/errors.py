"""Errors, named for what the loop must do with them.

    SluiceError
    ├── Retry        the world is away or busy; try again, after `after` at the soonest
    │   └── Conflict somebody else pushed first: drop the decision, look again
    ├── Stalled      a person has to act; trying again changes nothing
    └── BadInput     a document, a name or an argument is wrong: names file, line, field and what would be right

What the programmer did wrong is none of these and crashes. Only the tick (`pipelines/reconciler.py`) and the command
line catch them.
"""

from __future__ import annotations

from datetime import timedelta


class SluiceError(Exception):
    """The root; its text is for people and says the next step."""


class Retry(SluiceError):
    """The outside is away or busy."""

    def __init__(self, reason: str, after: timedelta = timedelta(seconds=10)) -> None:
        super().__init__(reason)
        self.after = after


class Conflict(Retry):
    """A push was rejected because the branch moved: the decision is void."""


class Stalled(SluiceError):
    """A person has to act."""


class BadInput(SluiceError):
    """Something a person wrote is wrong."""
