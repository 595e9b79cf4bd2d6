"""Whether the branch still holds what it held: rewritten history stops an environment until a person accepts it.

Rules:
- Three witnesses, as a backup that is restored takes the server's refs back too: what was applied last (the ref on the
  server), what this process saw last, and what Ray was told (`told_more`). Any of them is enough.
- What a person accepted (`policies/accepted_history.py`) lets the environment go on; what was applied before is then
  read as if they had reverted to it (ADR 4): nothing that is in quarantine comes back by itself.
- A branch that moved while it was looked at is no rewritten branch: that is a Conflict.

This module must not write anything.
"""

from __future__ import annotations

import dataclasses

from pipelines.ports import Repo
from policies.accepted_history import AcceptedHistory, counts
from policies.errors import Conflict
from policies.hand_edits import refusal
from policies.layout import accepted_history_path
from policies.observations import Tip
from policies.release import Release
from policies.stored_documents import parse_accepted_history

OWN_TRAILER = "Sluice-Environment"
"""What Sluicegate commits carries it, and so does what `sluice` commits for a person."""
# Commits of one release since it was applied: a process that died in between leaves one or two.
_LOOK_BACK = 20


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A tip that was not refused."""

    commit: str
    accepted: AcceptedHistory | None


class Histories:
    """The history of one branch as this process knows it. Lost, the ref on the server and Ray still know."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._seen: dict[str, _Seen] = {}

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

    def edited(self, tip: Tip, path: str, before: Release, after: Release, applied: str) -> str:
        """Why a release that a person edited must not be applied; empty where it may be, or where no person did."""
        why = refusal(before, after)
        if not why or not self._repo.descends(tip.commit, applied):
            return ""
        for entry in self._repo.log(_LOOK_BACK, path):
            if entry.commit == applied or self._repo.descends(applied, entry.commit):
                return ""
            if OWN_TRAILER not in entry.trailers:
                who = f"the commit {entry.commit} by {entry.author} edits {path}"
                return f"{who}, and is not applied: {why}. Revert it"
        return ""

    def still_at(self, tip: Tip) -> None:
        """Raises Conflict where the branch has moved since."""
        if self._repo.read().commit != tip.commit:
            raise Conflict("the branch moved while it was looked at")  # what was applied or told may be younger

    def accepted_at(self, commit: str, environment: str) -> AcceptedHistory | None:
        """What was accepted at an older commit."""
        path = accepted_history_path(environment)
        text = self._repo.read_at(commit, [path]).get(path)
        return None if text is None else parse_accepted_history(text, path)


def _stop(environment: str, tip: Tip, what: str, lost: str) -> str:
    back = f"push {lost} to the branch again" if lost else "push the newest history again"
    return (
        f"stopped: {what}. Bring the old history back ({back}), or accept the new one: "
        f"sluice accept-history --environment {environment} --commit {tip.commit} --why '...'"
    )
