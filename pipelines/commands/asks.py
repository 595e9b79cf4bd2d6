"""What a person asks of a release, as a commit: who, what and why.

Rules:
- A wish that could not be carried out is refused in words; it must not wait in the release for a later phase.
- The reconciler commits to the same branch every few seconds. A person who loses that race is not told to try again:
  the release is read again, and the wish is refused or committed as it then stands.
"""

from __future__ import annotations

import contextlib
import dataclasses

from pipelines.histories import ASK_TRAILER, OWN_TRAILER
from pipelines.ports import Repo
from policies.commit_message import message, one_line
from policies.config_repo_documents import parse_repo
from policies.errors import BadInput, Conflict
from policies.layout import SLUICE, release_path
from policies.names import slug
from policies.observations import Tip
from policies.release import Ask, Release, Wish
from policies.stored_documents import release_text
from policies.wishes import in_vain, last_stopped

TRIES = 5
"""Two commits of the reconciler in a row are common (a step, and that it is live), five within a second are not."""


def ask(
    repo: Repo, wish: Wish, model: str, environment: str | None, *, by: str, why: str, version: int | None = None
) -> str:
    """Commit the wish to the model's release; returns the commit. Raises BadInput, Conflict, Retry, Stalled.

    `version` goes with RETRY, which means the one that was stopped last where none is named, and with LIFT.
    """
    if not one_line(why):
        raise BadInput("--why is empty: the reason is what others will read in the log")
    wanted = Ask(wish=wish, by=by, why=why, version=version)
    for _ in range(TRIES - 1):
        with contextlib.suppress(Conflict):  # somebody else was faster: what they wrote is read first
            return _ask_once(repo, wanted, model, environment)
    return _ask_once(repo, wanted, model, environment)


def _ask_once(repo: Repo, wanted: Ask, model: str, environment: str | None) -> str:
    tip = repo.read()
    release = _release(tip, model, environment)
    if wanted.wish is Wish.RETRY and wanted.version is None:
        wanted = dataclasses.replace(wanted, version=last_stopped(release))
    if nothing_to_do := in_vain(release, wanted):
        raise BadInput(f"{model!r} {nothing_to_do}")
    asked = dataclasses.replace(release, ask=wanted, revision=release.revision + 1)
    path = release_path(release.environment, slug(release.model))
    version = f" v{wanted.version}" if wanted.version is not None else ""
    subject = f"{release.model} ({release.environment}): {wanted.by} asks to {wanted.wish.value}{version}"
    trailers = {
        OWN_TRAILER: release.environment,
        "Sluice-Model": slug(release.model),
        ASK_TRAILER: wanted.wish.value,
    }
    return repo.commit(tip.commit, {path: release_text(asked)}, message(subject, wanted.why, trailers))


def _release(tip: Tip, model: str, environment: str | None) -> Release:
    ours = {path: text for path, text in tip.files.items() if path == SLUICE or path.startswith("environments/")}
    repo = parse_repo(ours)  # people's documents may be broken: that must not keep anybody from an abort
    found = [r for r in repo.releases.values() if r.model == model and environment in (None, r.environment)]
    if not found:
        known = ", ".join(sorted({r.model for r in repo.releases.values()})) or "none"
        raise BadInput(f"{model!r} has no release here; the releases are of: {known}")
    if len(found) > 1:
        names = ", ".join(sorted(r.environment for r in found))
        raise BadInput(f"{model!r} is in several environments ({names}): say which with --environment")
    return found[0]
