"""A review of a pull request that a forge has: who is behind it, and where its comment and its status go.

Rules:
- Only what the forge says of people counts, and an approval only for the head that is reviewed.
- One comment, written again in place; one status, on the commit that was reviewed. A review that could not be made
  leaves the status `error`, never an older success.
"""

from __future__ import annotations

from collections.abc import Callable

from pipelines.commands.review import People, Review
from pipelines.commands.review_comment import CONTEXT, MARKER, body, status
from pipelines.ports import Forge
from policies.config_repo_documents import read_repo
from policies.errors import BadInput, SluiceError
from policies.forges import ForgeTarget
from policies.layout import SLUICE
from policies.pull_requests import CommitStatus, PullRequest, StatusState, fresh
from registry_bridge.local_repo import LocalRepo


def forge_target(repo: LocalRepo, base: str) -> ForgeTarget:
    """The forge that `sluice.yaml` names at the base: a change must not choose where a token is sent.

    Raises BadInput where it names none.
    """
    commit = repo.commit(base)
    texts = {e.path.decode("utf-8", "replace"): repo.contents([e])[e.blob] for e in repo.entries(commit, (SLUICE,))}
    reading = read_repo({path: text.decode("utf-8", "replace") for path, text in texts.items()})
    if reading.repo is None or reading.repo.sluice.forge is None:
        raise BadInput(f"{SLUICE} names no forge at {base[:40]}: write `forge`, or leave --pull-request out")
    return reading.repo.sluice.forge


def people_of(pull: PullRequest, forge: Forge) -> People:
    """Its author, and who approved it as it stands."""
    approvals = fresh(forge.approvals(pull.number), pull.head)
    return People(author=pull.author, approvers=frozenset(each.by for each in approvals))


def posted(forge: Forge, pull: PullRequest, make: Callable[[People], Review]) -> Review:
    """Make the review with the forge's people, and show it there. Raises what making it does, Retry and Stalled."""
    try:
        made = make(people_of(pull, forge))
    except SluiceError:
        forge.set_status(pull.head, CommitStatus(context=CONTEXT, state=StatusState.ERROR, description="no review"))
        raise
    url = forge.comment(pull.number, MARKER, body(made))
    forge.set_status(pull.head, status(made, url))
    return made
