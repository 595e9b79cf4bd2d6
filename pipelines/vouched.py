"""The files of a tip that count where changes must be signed: what nobody vouched for is as it was before.

Rules:
- Trust begins at one commit: the operator's (SLUICE_TRUSTED_COMMIT), else `refs/sluice/vouched`, else the first tip that
  asks for signatures. From there each commit is looked at by itself, with the signers that counted before it: who adds
  himself to `policies/allowed_signers` has to be allowed already. The operator's own file of signers
  (SLUICE_ALLOWED_SIGNERS) goes before the repo's, and asks for signatures whatever sluice.yaml says.
- Trust moves on to a tip of which everything counts, and only then: a change that is refused is said at every look,
  also after our own commits on top of it, and after a restart.
- What is asked for is what the trusted commit asks for: nobody switches signatures off without one.

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


_State = Mapping[str, _Source]


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
        policy = self._policy(tip.files if trusted is None else self._repo.read_at(trusted, [SLUICE]))
        if policy is None:
            asks = self._policy(tip.files) is not None
            return InForce(tip=tip, asked=asks, trusted=tip.commit if asks else None)
        if trusted is None or trusted == tip.commit:
            return InForce(tip=tip, asked=True, trusted=tip.commit)
        changes = self._repo.changes(trusted, tip.commit)
        state = self._walk(changes, trusted, policy)
        return self._in_force(tip, trusted, state)

    def _policy(self, files: Mapping[str, str]) -> Signatures | None:
        """What is asked for by these files; none: nothing. Raises Stalled for a sluice.yaml that cannot be read."""
        reading = read_repo({SLUICE: files[SLUICE]}) if SLUICE in files else None
        if reading is not None and reading.repo is None:
            if self._trust.signers is None:
                raise Stalled("; ".join(str(n) for n in errors(reading.notes)))
            return Signatures()
        asked = reading.repo.sluice.signatures if reading and reading.repo else None
        return asked or (Signatures() if self._trust.signers is not None else None)

    # --- commit by commit -----------------------------------------------------------------------------------------

    def _walk(self, changes: tuple[Change, ...], trusted: str, policy: Signatures) -> _State:
        """Where each file's text is that counts, at the last of these commits; parents come before their children."""
        states: dict[str, _State] = {}
        state: _State = {}
        for change in changes:
            state = states.get(change.parents[0], {}) if change.parents else {}
            own = {path for path in change.paths if is_protected(path, policy)}
            brought: dict[str, _Source] = {}
            for path, parent in change.taken.items():
                source = states.get(parent, {}).get(path)
                if source is not None:
                    brought[path] = source
                elif is_protected(path, policy):
                    own.add(path)
            if brought:
                state = {**state, **brought}
            if own:
                state = {**state, **self._judged(change, own, state, trusted)}
            states[change.commit] = state
        return state

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

    def _in_force(self, tip: Tip, trusted: str, state: _State) -> InForce:
        files, notes, refused = dict(tip.files), [], {}
        for path, source in sorted(state.items()):
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
        if not notes:
            return InForce(tip=tip, asked=True, trusted=tip.commit)
        in_force = dataclasses.replace(tip, files=files)
        return InForce(tip=in_force, notes=tuple(notes), refused=refused, asked=True, trusted=trusted)
