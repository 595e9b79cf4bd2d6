"""A rewritten history, accepted by a person as a commit on it.

Rules:
- What is accepted is named by its hash: nobody accepts what somebody else pushes in the meantime.
- It is a file of the environment, so every reconciler sees it with the tip, whatever it has seen before.
"""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import datetime

from pipelines.commands.asks import TRIES
from pipelines.histories import Histories
from pipelines.ports import Repo
from policies.accepted_history import AcceptedHistory, later_than
from policies.commit_message import message, one_line
from policies.config_repo_documents import parse_repo
from policies.errors import BadInput, Conflict
from policies.layout import SLUICE, accepted_history_path
from policies.observations import Tip
from policies.stored_documents import accepted_history_text, parse_accepted_history

SHORTEST = 8
"""Digits of a hash that are enough to name the tip; anything else is named in full."""


@dataclasses.dataclass(frozen=True)
class Done:
    """What was accepted, and the commit that says so."""

    accepted: AcceptedHistory
    commit: str


def accept(repo: Repo, environment: str, commit: str, *, by: str, why: str, now: datetime) -> Done:
    """Commit that `commit`'s history counts in this environment. Raises BadInput, Conflict, Retry, Stalled."""
    if not one_line(why):
        raise BadInput("--why is empty: the reason is what others will read in the log")
    for _ in range(TRIES - 1):
        with contextlib.suppress(Conflict):  # somebody else was faster
            return _accept_once(repo, environment, commit, by, why, now)
    return _accept_once(repo, environment, commit, by, why, now)


def _accept_once(repo: Repo, environment: str, commit: str, by: str, why: str, now: datetime) -> Done:
    tip = repo.read()
    known = parse_repo({path: text for path, text in tip.files.items() if path == SLUICE}).sluice.environments
    if environment not in known:
        raise BadInput(f"{environment[:80]!r} is no environment here; there are: {', '.join(known)}")
    full = _in_full(repo, tip, commit)
    path = accepted_history_path(environment)
    there = parse_accepted_history(tip.files[path], path) if path in tip.files else None
    applied = repo.applied(environment)
    lost = applied if applied and not repo.descends(tip.commit, applied) else None
    before = Histories(repo).accepted_at(lost, environment) if lost else None
    at = later_than(now.replace(microsecond=0), there, before)
    accepted = AcceptedHistory(commit=full, let_go=lost, by=one_line(by), why=one_line(why), at=at)
    subject = f"{environment}: {accepted.by} accepts the history of {full[:12]}"
    trailers = {"Sluice-Environment": environment, "Sluice-Accepted": full}
    made = repo.commit(tip.commit, {path: accepted_history_text(accepted)}, message(subject, accepted.why, trailers))
    return Done(accepted, made)


def _in_full(repo: Repo, tip: Tip, commit: str) -> str:
    if len(commit) >= SHORTEST and tip.commit.startswith(commit):
        return tip.commit
    if repo.descends(tip.commit, commit):
        return commit
    if tip.commit.startswith(commit):
        raise BadInput(f"{commit!r} is too short for a name of the tip: write {SHORTEST} characters of it or more")
    raise BadInput(
        f"{commit[:64]!r} is not in the branch, whose tip is {tip.commit} ({one_line(tip.subject)}, by "
        f"{one_line(tip.author)}): look at it, and name it in full"
    )
