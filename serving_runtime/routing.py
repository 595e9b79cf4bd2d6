"""Which version answers a request. Pure: the draw is an argument.

Every request is drawn on its own, so the assignment is random given the request; that is what makes the counts of both
versions comparable. What happens when the candidate does not answer is `host.py`.
"""

from __future__ import annotations

import dataclasses

from serving_runtime.user_config import Split


@dataclasses.dataclass(frozen=True)
class Turn:
    """Who answers one request, and whether the candidate gets a copy of what stable answers."""

    to_candidate: bool
    copy: bool


_ALONE = Turn(to_candidate=False, copy=False)
_TO_CANDIDATE = Turn(to_candidate=True, copy=False)
_COPIED = Turn(to_candidate=False, copy=True)


def pick(split: Split | None, draw: float) -> Turn:
    """The turn of one request; `draw` is uniform in [0, 1).

    With weight w percent the candidate answers exactly the draws below w/100: none at 0, all at 100.
    """
    if split is None:
        return _ALONE
    if draw * 100.0 < split.weight_percent:
        return _TO_CANDIDATE
    return _COPIED if split.shadow else _ALONE
