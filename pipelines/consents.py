"""Asking people: what Git and the forge show of the questions, and the branches and pull requests that put them.

Rules:
- The forge is asked only where something waits for people, or a branch of ours says that something did.
- A branch comes before its pull request, and goes after it: whoever is killed in between, the next look goes on.
- Two who ask at once ask the same: the second finds the branch there, and the pull request, and is content.

This module must not decide what is asked, or what an answer means: that is `policies/consenting.py`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from pipelines.ports import Forge, Repo
from policies.actions import AskConsent, TellReviewers, WithdrawConsent
from policies.bookkeeping import books
from policies.commit_message import message
from policies.consent import BRANCHES, Consent, ConsentLook, Outdated, branches_of
from policies.consenting import foreseen, outdated
from policies.errors import Conflict, Retry, SluiceError
from policies.facts import Observed, Rules
from policies.forges import ForgeTarget
from policies.markdown import prose
from policies.names import slug
from policies.pull_requests import PullRequestState
from policies.release import Phase, Release

_LOG = logging.getLogger(__name__)

SAID: Final = 1000
"""Characters of a comment: strangers' words may be in it."""
LEFT_ALONE: Final = timedelta(minutes=1)
"""A forge that hangs costs a look up to 50 s: running rollouts are not to wait for it more than now and then."""
MARKER: Final = "sluice:not-started"
"""Of the comment that says why what was merged does not happen."""

# --- looking --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Asking:
    """One model, which people may be asked about."""

    release: Release
    observed: Observed
    rules: Rules

    @property
    def may_need_people(self) -> bool:
        """May there be a question? Of a thousand models, nearly all rest: no version of them could start."""
        rests = self.release.phase is Phase.STEADY and not self.observed.artifacts
        return self.rules.review != "none" and not rests


class ConsentLooker:
    """Looks at questions; remembers only that a forge was away, so as not to wait for it at every look.

    Lost, it costs one call more.
    """

    def __init__(self, repo: Repo, door: Callable[[ForgeTarget], Forge] | None) -> None:
        self._repo, self._door = repo, door
        self._away: tuple[datetime, str] | None = None

    def looks(
        self, target: ForgeTarget | None, tip: str, models: Mapping[str, Asking], now: datetime
    ) -> Mapping[str, ConsentLook]:
        """What is shown of the questions about these models, by slug; where nobody is asked, nothing is."""
        wanted = {key: foreseen(*_facts(asking)) for key, asking in models.items() if asking.may_need_people}
        if target is None or self._door is None:
            return _unknown(wanted, "sluice.yaml names no forge")
        if self._away and now - self._away[0] < LEFT_ALONE:
            return _unknown(wanted, self._away[1])
        try:
            looks = dict(self._looks(self._door(target), tip, models, wanted))
        except Retry as error:
            self._away = now, str(error)
            return _unknown(wanted, str(error))
        except SluiceError as error:
            return _unknown(wanted, str(error))
        self._away = None
        return looks

    def _looks(
        self, forge: Forge, tip: str, models: Mapping[str, Asking], wanted: Mapping[str, Consent | None]
    ) -> Iterator[tuple[str, ConsentLook]]:
        heads = self._repo.branches(BRANCHES)
        for key, asking in models.items() if heads or any(wanted.values()) else ():
            start = branches_of(asking.release.environment, asking.release.model)
            mine = {branch: head for branch, head in heads.items() if branch.startswith(start)}
            why = outdated(*_facts(asking), mine) if mine else {}
            consent = wanted.get(key)
            if consent or why:
                old = {b: Outdated(head=mine[b], pull=forge.find(b), why=words) for b, words in why.items()}
                answer = self._answer(forge, tip, consent, mine.get(consent.branch)) if consent else ConsentLook()
                yield key, dataclasses.replace(answer, outdated=old)

    def _answer(self, forge: Forge, tip: str, consent: Consent, head: str | None) -> ConsentLook:
        pull = forge.find(consent.branch)
        counts = pull is not None and pull.state is not PullRequestState.CLOSED
        merged = pull.merge_commit if pull and pull.state is PullRequestState.MERGED else None
        return ConsentLook(
            consent=consent,
            head=head,
            head_text=self._repo.read_at(head, (consent.path,)).get(consent.path) if head else None,
            pull=pull,
            approvals=tuple(forge.approvals(pull.number)) if pull and counts else (),
            arrived=merged is not None and self._repo.descends(tip, merged),
        )


def _unknown(wanted: Mapping[str, Consent | None], reason: str) -> Mapping[str, ConsentLook]:
    return {key: ConsentLook(consent=consent, reason=reason) for key, consent in wanted.items() if consent}


def _facts(asking: Asking) -> tuple[Release, Observed, Rules]:
    """As they are decided on: with what changes about a release without a change of phase."""
    kept, _ = books(asking.release, asking.observed, asking.rules)
    return kept, asking.observed, asking.rules


# --- asking ---------------------------------------------------------------------------------------------------


def ask(repo: Repo, forge: Forge, action: AskConsent, tip: str) -> None:
    """Push the branch where it does not say it yet, and open its pull request, or bring it up to date."""
    if action.push:
        trailers = {"Sluice-Environment": action.environment, "Sluice-Model": slug(action.model)}
        said = message(action.title, "What people are asked to agree to.", trailers)
        try:
            repo.propose(action.branch, tip, {action.path: action.text}, said, action.replaces)
        except Conflict as error:
            _LOG.info("somebody else asked first, and the next look goes on from there: %s", error)
            return
    pull = forge.open(action.branch, action.title, action.body)
    _LOG.info("%s (%s): people are asked by %s", action.model, action.environment, pull.url)


def withdraw(repo: Repo, forge: Forge, action: WithdrawConsent) -> None:
    """Close the pull request with a word, then drop its branch."""
    if action.number is not None:
        forge.update(action.number, action.title, action.body)  # first: a close without it would be a person's no
        forge.close(action.number, f"Closed by Sluicegate: {prose(action.words, SAID)}.")
    try:
        repo.drop(action.branch, action.head)
    except Conflict as error:
        _LOG.info("%s is left for the next look: %s", action.branch, error)


def tell(forge: Forge, action: TellReviewers) -> None:
    """One comment, replaced by the next."""
    forge.comment(action.number, MARKER, prose(action.words, SAID))
