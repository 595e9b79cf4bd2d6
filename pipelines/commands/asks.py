"""What a person asks of a running rollout, as a commit: who, what and why.

Rules:
- A wish that could not be carried out is refused in words; it must not wait in the release for a later phase.
- The reconciler commits to the same branch every few seconds. A person who loses that race is not told to try again:
  the release is read again, and the wish is refused or committed as it then stands.
"""

from __future__ import annotations

import contextlib
import dataclasses

from pipelines.ports import Repo
from policies.commit_message import message
from policies.config_repo_documents import parse_repo
from policies.errors import BadInput, Conflict
from policies.layout import SLUICE, release_path
from policies.model import Ask, Phase, Release, Tip, Wish
from policies.names import slug
from policies.stored_documents import release_text

TRIES = 5
"""Two commits of the reconciler in a row are common (a step, and that it is live), five within a second are not."""


def ask(repo: Repo, wish: Wish, model: str, environment: str | None, *, by: str, why: str) -> str:
    """Commit the wish to the model's release; returns the commit. Raises BadInput, Conflict, Retry, Stalled."""
    if not why.strip():
        raise BadInput("--why is empty: the reason is what others will read in the log")
    for _ in range(TRIES - 1):
        with contextlib.suppress(Conflict):  # somebody else was faster: what they wrote is read first
            return _ask_once(repo, wish, model, environment, by, why)
    return _ask_once(repo, wish, model, environment, by, why)


def _ask_once(repo: Repo, wish: Wish, model: str, environment: str | None, by: str, why: str) -> str:
    tip = repo.read()
    release = _running(tip, model, environment)
    if nothing_to_do := _in_vain(release, wish):
        raise BadInput(f"{model!r} {nothing_to_do}")
    asked = dataclasses.replace(release, ask=Ask(wish=wish, by=by, why=why), revision=release.revision + 1)
    path = release_path(release.environment, slug(release.model))
    subject = f"{release.model} ({release.environment}): {by} asks to {wish.value}"
    trailers = {
        "Sluice-Environment": release.environment,
        "Sluice-Model": slug(release.model),
        "Sluice-Ask": wish.value,
    }
    return repo.commit(tip.commit, {path: release_text(asked)}, message(subject, why, trailers))


def _in_vain(release: Release, wish: Wish) -> str:
    """Why the wish would change nothing; empty where it would."""
    if release.phase is Phase.ROLLING_BACK:
        return "is on its way back to stable already"
    if wish is Wish.PAUSE and release.waits_for_a_person:
        return "is paused already: resume or abort it"
    if wish is Wish.RESUME and release.phase is not Phase.PAUSED:
        return f"is in {release.phase}, not paused: there is nothing to resume"
    return ""


def _running(tip: Tip, model: str, environment: str | None) -> Release:
    ours = {path: text for path, text in tip.files.items() if path == SLUICE or path.startswith("environments/")}
    repo = parse_repo(ours)  # people's documents may be broken: that must not keep anybody from an abort
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
