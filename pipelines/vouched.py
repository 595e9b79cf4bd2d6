"""The files of a tip that count where changes must be signed: what nobody vouched for is as it was before.

Rules:
- Trust begins at one commit: the operator's (SLUICE_TRUSTED_COMMIT), else `refs/sluice/vouched`, else the first tip
  that asks for signatures. From there each commit is looked at by itself, with the signers that counted before it: who
  adds himself to `policies/allowed_signers` has to be allowed already. The operator's own file of signers
  (SLUICE_ALLOWED_SIGNERS) goes before the repo's, and asks for signatures whatever sluice.yaml says.
- Trust moves on to a tip of which everything counts, and only then: a change that is refused is said at every look,
  also after our own commits on top of it, and after a restart.
- What is asked for is what counted before a commit: nobody switches signatures off without one.

This module must not write: the ref is moved by the reconciler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.ports import Repo
from policies.config_repo_documents import read_repo
from policies.documents import Signatures
from policies.errors import Stalled
from policies.layout import ALLOWED_SIGNERS, SLUICE
from policies.notes import Note, errors
from policies.observations import Tip
from policies.signatures import Change, Refusal, is_protected

_ENVIRONMENTS = "environments/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trust:
    """What the operator says, outside of the config repo."""

    signers: str | None = None
    """The text of a file in the format of ssh-keygen's allowed_signers; it goes before the repo's own."""
    commit: str | None = None
    """Trust begins here."""


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where a file's text that counts is: a commit, none for the trusted one; and what was refused since."""

    commit: str | None
    refused: Refusal | None = None


_State = dict[str, _Source]
"""By path; what is not in it is as it was at the trusted commit."""


@dataclasses.dataclass(frozen=True)
class _Walk:
    """What counts after some commit, and what is asked for from then on."""

    state: _State
    policy: Signatures | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class InForce:
    """A tip with the files that count."""

    tip: Tip
    notes: tuple[Note, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environments of which an own file has a change that does not count, and why."""
    asked: bool = False
    """Must changes be signed?"""
    trusted: str | None = None
    """The commit that trust has come to."""


class Vouched:
    """Tells what counts of a tip; remembers how far trust has come, and the last answer."""

    def __init__(self, repo: Repo, trust: Trust) -> None:
        self._repo = repo
        self._trust = trust
        self._trusted: str | None = None
        self._last: InForce | None = None

    def of(self, tip: Tip) -> InForce:
        """What counts of this tip. Raises Retry when Git is away, Stalled where trust has no beginning."""
        if self._last is None or self._last.tip.commit != tip.commit:
            self._last = self._of(tip)
            self._trusted = self._last.trusted
        return self._last

    def _of(self, tip: Tip) -> InForce:
        trusted = self._trusted or self._trust.commit or self._repo.vouched()
        if trusted is None or trusted == tip.commit:
            asked = self._policy(tip.files) is not None
            return InForce(tip=tip, asked=asked, trusted=tip.commit if asked or trusted else None)
        walk = _Walk(_State(), self._policy(self._repo.read_at(trusted, [SLUICE])))
        walks: dict[str, _Walk] = {}
        for change in self._repo.changes(trusted, tip.commit):
            start = walks.get(change.parents[0]) if change.parents else None
            brought = {parent: walks[parent].state for parent in change.taken.values() if parent in walks}
            walks[change.commit] = self._after(change, start or walk, brought, trusted)
        return self._in_force(tip, trusted, walks.get(tip.commit, walk))

    def _policy(self, files: Mapping[str, str]) -> Signatures | None:
        """What is asked for by these files; none: nothing. Raises Stalled for a sluice.yaml that cannot be read."""
        reading = read_repo({SLUICE: files[SLUICE]}) if SLUICE in files else None
        if reading is not None and reading.repo is None and self._trust.signers is None:
            raise Stalled("; ".join(str(n) for n in errors(reading.notes)))
        asked = reading.repo.sluice.signatures if reading and reading.repo else None
        return asked or (Signatures() if self._trust.signers is not None else None)

    # --- commit by commit -----------------------------------------------------------------------------------------

    def _after(self, change: Change, before: _Walk, others: Mapping[str, _State], trusted: str) -> _Walk:
        """What counts after a commit, from what counted at its first parent and, of a merge, at the others."""
        brought = {path: others[parent].get(path) for path, parent in change.taken.items() if parent in others}
        found = {path: source for path, source in brought.items() if source is not None}
        own = change.paths | (change.taken.keys() - found.keys())
        state = {**before.state, **found}
        if before.policy is None:
            state |= {path: _Source(change.commit) for path in own}
        elif protected := {path for path in own if is_protected(path, before.policy)}:
            state |= self._judged(change, protected, state, trusted)
        return _Walk(state, self._policy_after(before, state))

    def _policy_after(self, before: _Walk, state: _State) -> Signatures | None:
        source = state.get(SLUICE)
        if source is None or source.commit is None or source == before.state.get(SLUICE):
            return before.policy
        try:
            return self._policy(self._repo.read_at(source.commit, [SLUICE]))
        except Stalled:  # it is said where the tip has it; one that was mended since stops nobody
            return before.policy

    def _judged(self, change: Change, own: set[str], state: _State, trusted: str) -> dict[str, _Source]:
        signature = self._repo.signature(change.commit, self._signers(state, trusted))
        if signature.signer:
            return dict.fromkeys(own, _Source(change.commit))
        refusal = Refusal(commit=change.commit, author=change.author, trouble=signature.trouble)
        return {path: _Source(state.get(path, _Source(None)).commit, refusal) for path in own}

    def _signers(self, state: _State, trusted: str) -> str:
        if self._trust.signers is not None:
            return self._trust.signers
        source = state.get(ALLOWED_SIGNERS, _Source(None))
        return self._repo.read_at(source.commit or trusted, [ALLOWED_SIGNERS]).get(ALLOWED_SIGNERS, "")

    # --- the tip --------------------------------------------------------------------------------------------------

    def _in_force(self, tip: Tip, trusted: str, walk: _Walk) -> InForce:
        files, notes, refused = dict(tip.files), [], {}
        for path, source in sorted(walk.state.items()):
            if source.refused is None:
                continue
            text = self._repo.read_at(source.commit or trusted, [path]).get(path)
            if text == tip.files.get(path):
                continue
            files.pop(path, None)
            files |= {path: text} if text is not None else {}
            note = source.refused.note(path)
            notes.append(note)
            if path.startswith(_ENVIRONMENTS):
                refused[path.split("/")[1]] = str(note)
        asked = walk.policy is not None
        if not notes:
            return InForce(tip=tip, asked=asked, trusted=tip.commit)
        in_force = dataclasses.replace(tip, files=files)
        return InForce(tip=in_force, notes=tuple(notes), refused=refused, asked=asked, trusted=trusted)
