"""What a person asks of a running rollout, as a commit: who, what and why."""

from __future__ import annotations

import dataclasses

from pipelines.defaults import built_in_documents
from pipelines.ports import Repo
from policies.commit_message import message
from policies.config_repo_documents import parse_repo, with_defaults
from policies.errors import BadInput
from policies.layout import release_path
from policies.model import Ask, Release, Tip, Wish
from policies.names import slug
from policies.stored_documents import release_text


def ask(repo: Repo, wish: Wish, model: str, environment: str | None, *, by: str, why: str) -> str:
    """Commit the wish to the model's release; returns the commit. Raises BadInput, Conflict, Retry, Stalled."""
    if not why.strip():
        raise BadInput("--why is empty: the reason is what others will read in the log")
    tip = repo.read()
    release = _running(tip, model, environment)
    asked = dataclasses.replace(release, ask=Ask(wish=wish, by=by, why=why), revision=release.revision + 1)
    path = release_path(release.environment, slug(release.model))
    subject = f"{release.model} ({release.environment}): {by} asks to {wish.value}"
    trailers = {
        "Sluice-Environment": release.environment,
        "Sluice-Model": slug(release.model),
        "Sluice-Ask": wish.value,
    }
    return repo.commit(tip.commit, {path: release_text(asked)}, message(subject, why, trailers))


def _running(tip: Tip, model: str, environment: str | None) -> Release:
    repo = parse_repo(with_defaults(tip.files, built_in_documents()))
    found = [r for r in repo.releases.values() if r.model == model and environment in (None, r.environment)]
    if not found:
        known = ", ".join(sorted({r.model for r in repo.releases.values()})) or "none"
        raise BadInput(f"{model!r} has no release here; the releases are of: {known}")
    if len(found) > 1:
        names = ", ".join(sorted(r.environment for r in found))
        raise BadInput(f"{model!r} is in several environments ({names}): say which with --environment")
    if found[0].rollout is None:
        raise BadInput(f"{model!r} is {found[0].phase}: no rollout is running that could be changed")
    return found[0]
