"""Which documents count: those of the tip, or where one of them is broken, the last ones that were not.

Rules:
- A document that is broken is not in force: its last readable text counts instead, and the break is said at every look.
  "Last readable" is read from Git's history, so that it survives restarts and our own commits on the broken tip.
- A break often shows in another document than the one that was changed (a policy is deleted, a second model takes a
  route). Where the one that is blamed did not change, all of people's documents go back together.
- A document that is absent was removed; one that is broken was not. No model is removed, and none comes back, because
  of a break.
- A broken `sluice.yaml` stops the look. A broken release or Serve config stops its environment.

This module must not decide what a document means, nor write anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from pipelines.histories import OWN_TRAILER
from pipelines.ports import Repo
from policies.config_repo_documents import ConfigRepo, RepoReading, read_repo, with_defaults
from policies.errors import Stalled
from policies.layout import SLUICE, locate
from policies.notes import Note, errors
from policies.observations import Tip

_PEOPLES = ("models/", "ensembles/", "policies/", "clusters/")
_ENVIRONMENTS = "environments/"

# Replacing a broken document can bring another break to light (a policy that only the new model document names): once
# file by file, once all together, and once more where an environment's own file was broken too.
_REPAIRS = 4
# Commits looked back for readable documents. Sluicegate makes about twenty a rollout; a break that nobody mended for a
# hundred rollouts is not a slip of the pen.
_LOOK_BACK = 2000


class DocumentsInForce:
    """Reads a tip's documents; remembers the last readable ones for as long as the break stays the same."""

    def __init__(self, repo: Repo, defaults: Mapping[str, str]) -> None:
        self._repo = repo
        self._defaults = defaults
        self._good: tuple[Mapping[str, str], Mapping[str, str]] | None = None
        """Documents that were broken, and the last readable ones before them."""
        self._readable: Mapping[str, str] | None = None
        """Documents that this process could read."""
        self._signed = False

    def of(self, tip: Tip, *, signed: bool = False) -> tuple[ConfigRepo, list[Note], dict[str, str]]:
        """The documents that count, notes about those that do not, and environments whose own files are broken.

        Where changes must be `signed`, what this process read before counts, and not what lies in the log: nobody has
        asked who vouched for that.

        Raises Stalled where nothing that can be read says what should be served, Retry when Git is away.
        """
        self._signed = signed
        files = dict(tip.files)
        said: list[Note] = []
        refused: dict[str, str] = {}
        for _ in range(_REPAIRS):
            reading = self._reading(files)
            if reading.repo is not None:
                self._readable = files
                return reading.repo, said, refused
            broken = errors(reading.notes)
            said += (note for note in broken if note not in said)
            self._repair(files, broken, refused, tip)
        raise Stalled("the config repo cannot be read:\n" + "\n".join(str(n) for n in said))

    def _reading(self, files: Mapping[str, str]) -> RepoReading:
        return read_repo(with_defaults(files, self._defaults))

    # --- repairs --------------------------------------------------------------------------------------------------

    def _repair(self, files: dict[str, str], broken: tuple[Note, ...], refused: dict[str, str], tip: Tip) -> None:
        words = {path: "; ".join(str(n) for n in broken if n.file == path) for path in sorted({n.file for n in broken})}
        for path, said in words.items():
            if not path.startswith((*_PEOPLES, _ENVIRONMENTS)):
                raise Stalled(said)
            if path.startswith(_ENVIRONMENTS):
                refused[path.split("/")[1]] = said
                files[path] = self._last_applied(path, files.get(path), tip, said)
        self._repair_peoples(files, {p: said for p, said in words.items() if p.startswith(_PEOPLES)}, tip)

    def _repair_peoples(self, files: dict[str, str], words: Mapping[str, str], tip: Tip) -> None:
        if not words:
            return
        good = self._last_readable(tip)
        if good is None and all(_is_of_a_new_model(path, tip.files) for path in words):
            good = {}  # nothing that serves is in question
        if good is None:
            raise Stalled("; ".join(words.values()))
        if any(good.get(path) == files[path] for path in words if path in files):
            _all_together(files, good)
            return
        for path, said in words.items():
            if path in good:
                files[path] = good[path]
            elif _is_released(path, tip.files):
                raise Stalled(said)
            else:
                files.pop(path, None)

    # --- what counted before --------------------------------------------------------------------------------------

    def _last_readable(self, tip: Tip) -> Mapping[str, str] | None:
        """People's documents as they were when all of them could be read last; none if never."""
        peoples = _of_people(tip.files)
        if self._good is None or self._good[0] != peoples:
            found = next((texts for texts in self._earlier() if self._reading(texts).repo is not None), None)
            if found is None:
                return None
            self._good = (peoples, _of_people(found))
        return self._good[1]

    def _earlier(self) -> Iterator[Mapping[str, str]]:
        """`sluice.yaml` and people's documents before each commit that may have changed them, newest first."""
        if self._signed:
            yield from [self._readable] if self._readable is not None else []
            return
        after_a_persons = False
        for entry in self._repo.log(_LOOK_BACK):
            if after_a_persons:
                yield self._repo.read_at(entry.commit, (SLUICE, *_PEOPLES))
            # Our own commits leave people's documents alone, so the state before them is no other state.
            after_a_persons = OWN_TRAILER not in entry.trailers

    def _last_applied(self, path: str, broken: str | None, tip: Tip, said: str) -> str:
        """The text of a file of ours as it was last applied anywhere, unless that is the broken one itself."""
        for environment in _environment_names(tip.files):
            commit = self._repo.applied(environment)
            text = self._repo.read_at(commit, [path]).get(path) if commit else None
            if text is not None and text != broken:
                return text
        raise Stalled(said)


def _all_together(files: dict[str, str], good: Mapping[str, str]) -> None:
    """Put all of people's documents back, but for models that came or went since: those stay as they are now."""
    known = frozenset(files)
    for path in [path for path in files if path.startswith(_PEOPLES)]:
        if path not in good and not _is_released(path, known):
            del files[path]
    back = {p: text for p, text in good.items() if not p.startswith("models/") or p in known or _is_released(p, known)}
    files.update(back)


def _of_people(files: Mapping[str, str]) -> dict[str, str]:
    return {path: text for path, text in files.items() if path.startswith(_PEOPLES)}


def _environment_names(files: Mapping[str, str]) -> Collection[str]:
    """Those of sluice.yaml, whatever else is broken. Raises Stalled when that is broken itself."""
    reading = read_repo({path: text for path, text in files.items() if path == SLUICE})
    if reading.repo is None:
        raise Stalled("\n".join(str(n) for n in errors(reading.notes)))
    return tuple(reading.repo.sluice.environments)


def _is_of_a_new_model(path: str, files: Collection[str]) -> bool:
    """Is this the document of a model that has no release? Then nothing that serves hangs on it."""
    return path.startswith("models/") and path in files and not _is_released(path, files)


def _is_released(path: str, files: Collection[str]) -> bool:
    """Is this the document of a model that has a release? Then it must not be taken for one that was removed."""
    located = locate(path)
    released = located is not None and path.startswith("models/")
    return released and any(f.endswith(f"/releases/{located.slug}.yaml") for f in files if located)
