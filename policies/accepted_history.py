"""A history that a person accepted in place of another: what lets an environment go on after its branch was rewritten.

Rules:
- Only a person writes it (`sluice accept-history`), as a file of the environment: who may push to the branch may
  accept, a review of it is a review like any other, and every reconciler sees it in the tip.
- It counts for what was lost where it is younger than any that was accepted there. So it says nothing about a history
  that is taken away later: neither a second force-push nor the old branch, put back, finds it valid.

This module must not ask Git: which commit is in whose history is known to the door.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_A_MOMENT = timedelta(seconds=1)

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]


@document(frozen=True, kw_only=True, config=_STRICT)
class AcceptedHistory:
    """`environments/<environment>/accepted-history.yaml`: the branch was rewritten, and a person says go on."""

    commit: Commit
    """The tip that was accepted, full hash."""
    let_go: Commit | None = None
    """What had been applied last, and is no longer in the branch."""
    by: str
    why: str
    at: datetime
    """When; of two, the later one counts."""


def counts(there: AcceptedHistory | None, before: AcceptedHistory | None) -> bool:
    """Did a person accept the tip's history (`there`) after what was lost (which had accepted `before`)?"""
    return there is not None and (before is None or there.at > before.at)


def later_than(now: datetime, *accepted: AcceptedHistory | None) -> datetime:
    """A time for the next one: now, or just after the latest of these where a clock was ahead."""
    return max([now, *(a.at + _A_MOMENT for a in accepted if a is not None)])
