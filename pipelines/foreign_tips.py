"""Whether a tip may be applied after what was applied last, or is foreign: it takes away what only a person may.

Rules:
- Foreign are: rewritten history that nobody accepted and a restored backup (`histories.py`), a release or the Serve
  config or KubeRay's manifest that is gone or emptied, an edit of a release by hand that gives something
  (`policies/hand_edits.py`). The environment stops, in words that say how to go on.

This module must not write anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.histories import Edit, Histories
from pipelines.known_environment import KnownEnvironment, Told
from pipelines.ports import Repo
from policies.config_repo_documents import read_repo, with_defaults
from policies.layout import SLUICE, model_path, release_path, serve_path
from policies.release import Release


@dataclasses.dataclass(frozen=True, kw_only=True)
class Before:
    """An environment as it was when it was applied last."""

    applied: str | None = None
    """The commit; none: never, or it is not known."""
    releases: Mapping[str, Release] = dataclasses.field(default_factory=dict)
    """Those that were other ones, by slug."""
    unchanged: frozenset[str] = frozenset()
    """Paths of the releases that are the same."""
    taken_back: frozenset[str] = frozenset()
    """The releases, by slug, that a person's commit took back, and nobody has decided on since."""


class ForeignTips:
    """Compares tips with what was applied; remembers, by `Histories`, which were seen."""

    def __init__(self, repo: Repo, defaults: Mapping[str, str]) -> None:
        self._repo = repo
        self._defaults = defaults
        self._histories = Histories(repo)

    def history(self, place: KnownEnvironment) -> tuple[Before, str]:
        """What was applied last, and why the tip must not be applied; empty when it may.

        Raises Conflict where the branch moved meanwhile, Retry, Stalled.
        """
        applied = self._repo.applied(place.name)
        before = self._before(place, applied)
        accepted = place.repo.accepted.get(place.name)
        if rewritten := self._histories.rewritten(place.tip, place.name, applied, accepted):
            return before, rewritten
        if applied is None:
            return before, ""
        edits = self._edits(place, before, applied)
        refused = next((edit.refused for edit in edits.values() if edit.refused), "")
        taken_back = frozenset(slug for slug, edit in edits.items() if edit.taken_back)
        before = dataclasses.replace(before, taken_back=taken_back)
        return before, refused or self._lost(place, before, applied)

    def told_more(self, place: KnownEnvironment, before: Before, told: Told) -> str:
        """Why a tip must not be applied that Ray was told more than; empty when it may. Raises as `history`."""
        for (environment, slug), release in place.repo.releases.items():
            known = told.revisions.get(slug, 0)
            ours = environment == place.name and slug not in told.held  # a hold explains itself
            if ours and known > release.traffic_revision and release_path(place.name, slug) in before.unchanged:
                accepted = place.repo.accepted.get(place.name)
                return self._histories.told_more(place.tip, release, known, before.applied, accepted)
        return ""

    def _before(self, place: KnownEnvironment, applied: str | None) -> Before:
        """The environment as it was when it was last applied; releases that cannot be read are left out."""
        if applied is None or applied == place.tip.commit:
            unchanged = frozenset(path for path in place.tip.files if applied and path.startswith("environments/"))
            return Before(applied=applied, unchanged=unchanged)
        slugs = {slug for environment, slug in place.repo.releases if environment == place.name} | set(
            place.repo.models
        )
        paths = [release_path(place.name, slug) for slug in slugs]
        texts = self._repo.read_at(applied, paths)
        unchanged = frozenset(path for path, text in texts.items() if place.tip.files.get(path) == text)
        changed = {path: text for path, text in texts.items() if path not in unchanged}
        sluice = {SLUICE: place.tip.files[SLUICE]}
        repo = read_repo(with_defaults({**sluice, **changed}, self._defaults)).repo if changed else None
        releases = {slug: release for (_, slug), release in repo.releases.items()} if repo else {}
        return Before(applied=applied, releases=releases, unchanged=unchanged)

    def _edits(self, place: KnownEnvironment, before: Before, applied: str) -> dict[str, Edit]:
        """What people's commits made of releases since, by slug."""
        found = {}
        for slug, release in before.releases.items():
            after = place.repo.releases.get((place.name, slug))
            path = release_path(place.name, slug)
            edit = self._histories.edit(place.tip, path, release, after, applied) if after else None
            if edit is not None:
                found[slug] = edit
        return found

    def _lost(self, place: KnownEnvironment, before: Before, applied: str) -> str:
        """What the tip lacks that must not be lost; empty where nothing is."""
        for slug, release in before.releases.items():
            gone = (place.name, slug) not in place.repo.releases and model_path(slug) in place.tip.files
            if gone and (release.stable or release.candidate):
                return f"{release_path(place.name, slug)} is gone, its model document is not: bring the release back"
        path = place.applier.lives_by
        if path and path not in place.tip.files and self._repo.read_at(applied, (path,)):
            return f"{path} is gone: whoever applies the repo may delete the cluster; bring it back"
        serving = [slug for slug, release in place.releases.items() if release.stable or release.candidate]
        if serving and not (place.repo.serve.get(place.name) or {}).get("applications"):
            path = serve_path(place.name)
            return f"{path} is missing or names no application, but {', '.join(serving)} should serve: bring it back"
        return ""
