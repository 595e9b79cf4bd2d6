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
from collections.abc import Callable, Mapping
from typing import Final

from pipelines.ports import Forge, Repo
from policies.actions import AskConsent, TellReviewers, WithdrawConsent
from policies.commit_message import message
from policies.consent import BRANCHES, Consent, ConsentLook, Outdated, branches_of
from policies.consenting import foreseen, outdated
from policies.errors import Conflict, SluiceError
from policies.facts import Observed, Rules
from policies.forges import ForgeTarget
from policies.names import slug
from policies.pull_requests import PullRequestState
from policies.release import Release

_LOG = logging.getLogger(__name__)

MARKER: Final = "sluice:not-started"
"""Of the comment that says why what was merged does not happen."""

# --- looking --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Asking:
    """One model, which people may be asked about."""

    release: Release
    observed: Observed
    rules: Rules


def consent_looks(
    repo: Repo,
    door: Callable[[ForgeTarget], Forge] | None,
    target: ForgeTarget | None,
    tip: str,
    models: Mapping[str, Asking],
) -> Mapping[str, ConsentLook]:
    """What is shown of the questions about these models, by slug; those that nobody is asked about are left out."""
    wanted = {key: foreseen(*_facts(asking)) for key, asking in models.items() if asking.rules.review != "none"}
    if target is None or door is None:
        return _unknown(wanted, "sluice.yaml names no forge")
    try:
        heads = repo.branches(BRANCHES)
    except SluiceError as error:
        return _unknown(wanted, str(error))
    looks = {}
    for key, asking in models.items():
        start = branches_of(asking.release.environment, asking.release.model)
        mine = {branch: head for branch, head in heads.items() if branch.startswith(start)}
        old = outdated(*_facts(asking), mine) if mine else {}
        consent = wanted.get(key)
        if consent or old:
            looks[key] = _look(repo, door(target), tip, consent, mine, old)
    return looks


def _unknown(wanted: Mapping[str, Consent | None], reason: str) -> Mapping[str, ConsentLook]:
    return {key: ConsentLook(consent=consent, reason=reason) for key, consent in wanted.items() if consent}


def _facts(asking: Asking) -> tuple[Release, Observed, Rules]:
    return asking.release, asking.observed, asking.rules


def _look(
    repo: Repo, forge: Forge, tip: str, consent: Consent | None, heads: Mapping[str, str], old: Mapping[str, str]
) -> ConsentLook:
    """Never raises for a forge that is away: it says so."""
    try:
        shown = {b: Outdated(head=heads[b], pull=forge.find(b), why=why) for b, why in old.items()}
        look = _answer(repo, forge, tip, consent, heads.get(consent.branch)) if consent else ConsentLook()
    except SluiceError as error:
        return ConsentLook(consent=consent, reason=str(error))
    return dataclasses.replace(look, outdated=shown)


def _answer(repo: Repo, forge: Forge, tip: str, consent: Consent, head: str | None) -> ConsentLook:
    pull = forge.find(consent.branch)
    counts = pull is not None and pull.state is not PullRequestState.CLOSED
    merged = pull.merge_commit if pull and pull.state is PullRequestState.MERGED else None
    return ConsentLook(
        consent=consent,
        head=head,
        head_text=repo.read_at(head, (consent.path,)).get(consent.path) if head else None,
        pull=pull,
        approvals=tuple(forge.approvals(pull.number)) if pull and counts else (),
        arrived=merged is not None and repo.descends(tip, merged),
    )


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
        forge.close(action.number, f"Closed by Sluicegate: {action.words}.")
    try:
        repo.drop(action.branch, action.head)
    except Conflict as error:
        _LOG.info("%s is left for the next look: %s", action.branch, error)


def tell(forge: Forge, action: TellReviewers) -> None:
    """One comment, replaced by the next."""
    forge.comment(action.number, MARKER, action.words)
