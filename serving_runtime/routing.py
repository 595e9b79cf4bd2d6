"""Which version answers a request. Pure: the draw is an argument, or made of the request's own key.

Rules:
- A request without a key is drawn on its own, so the assignment is random given the request; that is what makes the
  counts of both versions comparable. With a key, each *key* is drawn once (ADR 15 says what that does to evidence).
- A draw of a key is a pure function of the key and the candidate's application: every host replica, after any restart
  and at any weight, gives the same. So more weight moves keys to the candidate only, less weight moves them back only.
- Candidates differ in their application's name, so each has a draw of its own: nobody is always the first to meet new
  versions, and the arms of two experiments have nothing to do with each other. The same version with the same settings
  that is tried again finds the same keys: an experiment that was interrupted keeps its arms.

What happens when the candidate does not answer is `host.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib

from serving_runtime.user_config import Split


@dataclasses.dataclass(frozen=True)
class Turn:
    """Who answers one request, and whether the candidate gets a copy of what stable answers."""

    to_candidate: bool
    copy: bool


_ALONE = Turn(to_candidate=False, copy=False)
_TO_CANDIDATE = Turn(to_candidate=True, copy=False)
_COPIED = Turn(to_candidate=False, copy=True)

_BITS = 53
"""Of the hash: as many as a double keeps, so that no draw is rounded up to 1."""


def pick(split: Split | None, draw: float) -> Turn:
    """The turn of one request; `draw` is uniform in [0, 1).

    With weight w percent the candidate answers exactly the draws below w/100: none at 0, all at 100.
    """
    if split is None:
        return _ALONE
    if draw * 100.0 < split.weight_percent:
        return _TO_CANDIDATE
    return _COPIED if split.shadow else _ALONE


def draw_of(key: str, application: str) -> float:
    """The draw of everything that has this key, at this candidate: in [0, 1), uniform over keys.

    The application's name holds model, version and build, and is the same for all steps of a rollout.
    """
    text = f"{application}\0{key}".encode("utf-8", "surrogatepass")  # JSON can name what UTF-8 cannot
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return (int.from_bytes(digest) >> (64 - _BITS)) / (1 << _BITS)
