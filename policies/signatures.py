"""Whose changes count: commits that must be signed, and by whom.

Rules:
- A signature vouches for what its commit changes, not for what it found there.
- What decides who may sign (`sluice.yaml`, `policies/allowed_signers`) and what may let a rewritten history through
  (`accepted-history.yaml`) is protected wherever anything is.
- A merge that adds nothing of its own needs no signature: what it brings was vouched for, or not, by its own commits.

This module must not verify anything: the door to Git does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from policies.documents import Signatures
from policies.layout import ALLOWED_SIGNERS, SLUICE, Place, locate
from policies.notes import Note, Severity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """What is known of one commit's signature."""

    signer: str = ""
    """Who it is: a principal of allowed_signers, or a GPG user id; empty where it does not count."""
    trouble: str = ""
    """Why it does not count: `is not signed`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One commit after a trusted one."""

    commit: str
    author: str
    """`Name <email>`, as the commit claims."""
    parents: tuple[str, ...]
    paths: frozenset[str] = frozenset()
    """Files that it changes itself; of a merge, those that a plain merge of its parents would not give."""
    taken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of a merge: files that are not its first parent's, with the parent they are of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """A change that does not count."""

    commit: str
    author: str
    trouble: str

    def note(self, path: str) -> Note:
        """The words for it."""
        message = (
            f"the change of {self.commit} by {self.author} is not applied: the commit {self.trouble}. Revert it, "
            "and have somebody who may sign commit it anew; until then the last text that was vouched for counts"
        )
        return Note(severity=Severity.ERROR, file=path, line=None, field="", message=message)


def is_protected(path: str, policy: Signatures) -> bool:
    """Does a change of this file have to be signed?"""
    if path in (SLUICE, ALLOWED_SIGNERS) or path.startswith(policy.paths):
        return True
    located = locate(path)
    return located is not None and located.place is Place.ACCEPTED_HISTORY
