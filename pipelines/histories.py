"""Whether the branch still holds what it held: rewritten history stops an environment until a person accepts it.

Rules:
- Three witnesses, as a backup that is restored takes the server's refs back too: what was applied last (the ref on the
  server), what this process saw last, and what Ray was told (`told_more`). Any of them is enough.
- What a person accepted (`policies/accepted_history.py`) lets the environment go on; what was applied before is then
  read as if they had reverted to it (ADR 4): nothing that is in quarantine comes back by itself.
- A release that a person's commit changed is taken back where it has a text again that counted before, whatever wishes
  came on top (ADR 4); else it was edited (`policies/hand_edits.py`).
- A branch that moved while it was looked at is no rewritten branch: that is a Conflict.

This module must not write anything.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from pipelines.ports import Repo
from policies.accepted_history import AcceptedHistory, counts
from policies.errors import Conflict
from policies.hand_edits import refusal
from policies.layout import accepted_history_path
from policies.observations import Tip
from policies.release import Release
from policies.stored_documents import parse_accepted_history
from registry_bridge.config_repo import CommitEntry

OWN_TRAILER = "Sluice-Environment"
"""What Sluicegate commits carries it, and so does what `sluice` commits for a person."""
ASK_TRAILER = "Sluice-Ask"
"""A wish carries it, too: nothing was decided by that commit."""
# Commits of one release: about ten rollouts. A text that is older is not taken back but edited, and `sluice undo` is
# the way there.
_LOOK_BACK = 200


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A tip that was not refused."""

    commit: str
    accepted: AcceptedHistory | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
    """A person's change of a release that nobody has decided on yet: it takes back what was, or is refused in words."""

    taken_back: bool = False
    refused: str = ""


class Histories:
    """The history of one branch as this process knows it. Lost, the ref on the server and Ray still know."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._seen: dict[str, _Seen] = {}
        self._edits: dict[str, tuple[str, str, Edit | None]] = {}
        """By path: at which tip, after which applied commit, what was found. One that is refused is looked at often."""

    def rewritten(self, tip: Tip, environment: str, applied: str | None, accepted: AcceptedHistory | None) -> str:
        """Why the tip is no continuation of what was there; empty when it is, or when a person accepted it.

        Raises Conflict where the branch moved meanwhile, Retry, Stalled.
        """
        seen = self._seen.get(environment)
        known = {commit: how for commit, how in ((applied, "applied"), (seen and seen.commit, "seen")) if commit}
        for commit, how in known.items():
            if commit == tip.commit or self._repo.descends(tip.commit, commit):
                continue
            self.still_at(tip)
            before = seen.accepted if seen and seen.commit == commit else self.accepted_at(commit, environment)
            if not counts(accepted, before):
                what = f"the tip {tip.commit} does not descend from {commit}, which was {how} last"
                return _stop(environment, tip, f"{what}: somebody rewrote the branch, or restored a backup", commit)
        self._seen[environment] = _Seen(tip.commit, accepted)
        return ""

    def told_more(
        self, tip: Tip, release: Release, told: int, applied: str | None, accepted: AcceptedHistory | None
    ) -> str:
        """Why a release must not be applied that nobody changed since it was, and of which Ray was `told` more.

        Empty where a person accepted it. Raises as `rewritten`.
        """
        if applied is None:
            return ""
        self.still_at(tip)  # else a faster reconciler told Ray
        if counts(accepted, self.accepted_at(applied, release.environment) if applied != tip.commit else accepted):
            return ""
        what = (
            f"Ray was told revision {told} of {release.model}, the tip {tip.commit} says {release.traffic_revision} as "
            f"did {applied[:12]}, which was applied last: somebody restored a backup"
        )
        return _stop(release.environment, tip, what, "")

    def edit(self, tip: Tip, path: str, before: Release, after: Release, applied: str) -> Edit | None:
        """What a person's commit made of a release since it was applied; none where nobody did, or all may go on."""
        giving = refusal(before, after)
        if not (giving or after.ask is not None or after.revision <= before.revision):
            return None
        known = self._edits.get(path)
        if known is None or known[:2] != (tip.commit, applied):
            known = self._edits[path] = (tip.commit, applied, self._edit(tip, path, giving, applied))
        return known[2]

    def _edit(self, tip: Tip, path: str, giving: str, applied: str) -> Edit | None:
        if not self._repo.descends(tip.commit, applied):
            return None
        entries = self._repo.log(_LOOK_BACK, path)
        for n, entry in enumerate(entries):
            if entry.commit == applied or self._repo.descends(applied, entry.commit):
                return None
            if ASK_TRAILER in entry.trailers:  # says nothing of what it found
                continue
            if _decides(entry):  # a reconciler has seen what was there, and does not commit to what it refuses
                return None
            if self._takes_back(path, entries[n:]):
                return Edit(taken_back=True)
            who = f"the commit {entry.commit} by {entry.author} edits {path}"
            return Edit(refused=f"{who}, and is not applied: {giving}. Revert it") if giving else None
        return None

    def _takes_back(self, path: str, entries: Sequence[CommitEntry]) -> bool:
        """Does the first of these commits bring back a text that counted: one that was decided, or decided on?

        A text that was refused is none of them, also after it was reverted.
        """
        text = self._repo.read_at(entries[0].commit, [path]).get(path)
        return any(
            self._repo.read_at(entry.commit, [path]).get(path) == text
            for newer, entry in itertools.pairwise(entries)
            if _decides(entry) or _decides(newer)
        )

    def still_at(self, tip: Tip) -> None:
        """Raises Conflict where the branch has moved since."""
        if self._repo.read().commit != tip.commit:
            raise Conflict("the branch moved while it was looked at")  # what was applied or told may be younger

    def accepted_at(self, commit: str, environment: str) -> AcceptedHistory | None:
        """What was accepted at an older commit."""
        path = accepted_history_path(environment)
        text = self._repo.read_at(commit, [path]).get(path)
        return None if text is None else parse_accepted_history(text, path)


def _decides(entry: CommitEntry) -> bool:
    return OWN_TRAILER in entry.trailers and ASK_TRAILER not in entry.trailers


def _stop(environment: str, tip: Tip, what: str, lost: str) -> str:
    back = f"push {lost} to the branch again" if lost else "push the newest history again"
    return (
        f"stopped: {what}. Bring the old history back ({back}), or accept the new one: "
        f"sluice accept-history --environment {environment} --commit {tip.commit} --why '...'"
    )
