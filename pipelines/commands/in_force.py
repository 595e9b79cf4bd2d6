"""The documents of a config repo as the reconciler takes them, for commands that only show: a slip hides no release."""

from __future__ import annotations

import dataclasses

from pipelines.defaults import built_in_documents
from pipelines.documents_in_force import DocumentsInForce
from pipelines.ports import Repo
from pipelines.vouched import Trust, Vouched
from policies.config_repo_documents import ConfigRepo, read_repo
from policies.consent import BRANCHES
from policies.errors import Stalled
from policies.layout import SLUICE
from policies.observations import Tip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken:
    """What counts of a tip, and what of it does not, in words."""

    tip: Tip
    documents: ConfigRepo
    problems: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    """Sluicegate's own, by which people are asked."""


def in_force(repo: Repo, trust: Trust) -> Taken:
    """The tip as a reconciler that starts now takes it.

    Where that would look no further, what Sluicegate wrote itself is shown all the same, and the reason. Raises Retry
    where Git is away, Stalled where that cannot be read either.
    """
    tip = repo.read()
    branches = tuple(repo.branches(BRANCHES))
    try:
        vouched = Vouched(repo, trust).of(tip)
        documents, notes, _ = DocumentsInForce(repo, built_in_documents()).of(vouched.tip, signed=vouched.asked)
    except Stalled as error:
        own = {path: text for path, text in tip.files.items() if path == SLUICE or path.startswith("environments/")}
        found = read_repo(own).repo
        if found is None:
            raise
        return Taken(tip=tip, documents=found, problems=tuple(str(error).split("\n")), branches=branches)
    said = tuple(str(note) for note in (*vouched.notes, *notes))
    return Taken(tip=vouched.tip, documents=documents, problems=said, branches=branches)
