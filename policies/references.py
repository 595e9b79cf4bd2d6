"""What documents name in each other, and routes that meet: errors of a repo that cannot be read one document at a time.

Rules:
- What is named must be there, wherever it is needed; a note stands at the name, in the document that names it. Of a
  name that a document may have which cannot be read, nothing is said: it is not known to be absent.
- No two have one route, and none has a route below another's, in an environment that serves both. The note stands in
  the document whose author chose: where only one of the two writes its route, in that one, else in the later one by
  name; it names the other.

What is there and only unwise is `consistency.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from policies.document_errors import unknown_key
from policies.documents import ModelDocument
from policies.errors import BadInput
from policies.fronts import GRPC_ROUTE, EnsembleDocument
from policies.names import check_environment_name, slug
from policies.notes import Note
from policies.strict_yaml import Path

if TYPE_CHECKING:
    from policies.config_repo_documents import ConfigRepo

_SECTIONS = ("sluice", "models", "ensembles")
"""An ensemble stands before models: between the two, it is the later one."""


@dataclasses.dataclass(frozen=True)
class Routed:
    """Something that has a route, and the document that says so."""

    section: str
    key: str
    route: str
    is_written: bool
    """Does its document name the route? Else it follows from its name."""
    environments: frozenset[str]
    words: str


class Unread:
    """The documents that cannot be read, and what they may be called; sections are `models`, `policies`, `slos`."""

    def __init__(self) -> None:
        self._names: set[tuple[str, str]] = set()
        self._nameless: set[str] = set()

    def add(self, section: str, *names: str) -> None:
        """One more document, by all names that it may have; without any, it may have every name."""
        self._names.update((section, name) for name in names)
        if not names:
            self._nameless.add(section)

    def may_be(self, section: str, name: str) -> bool:
        """Is there a document of that name, for all that is known?"""
        return section in self._nameless or (section, name) in self._names


def cross_check(repo: ConfigRepo, unread: Unread) -> Iterator[Note]:
    """What is named and not there, and routes that meet."""
    for environment in repo.sluice.environments:
        try:
            check_environment_name(environment)
        except BadInput as error:
            yield repo.note("sluice", "", ("environments", environment), str(error))
    yield from _edges(repo)
    for key, model in repo.models.items():
        yield from _environments(repo, "models", key, model)
        yield from _references(repo, unread, key, model)
    for name, ensemble in repo.ensembles.items():
        yield from _environments(repo, "ensembles", name, ensemble)
        yield from _members(repo, unread, ensemble)
    yield from _routes(repo)


def _edges(repo: ConfigRepo) -> Iterator[Note]:
    """An edge follows an environment, and has a folder of its own below environments/."""
    for name, edge in repo.sluice.edges.items():
        try:
            check_environment_name(name)
        except BadInput as error:
            yield repo.note("sluice", "", ("edges", name), str(error))
        if name in repo.sluice.environments:
            yield repo.note("sluice", "", ("edges", name), "is the name of an environment too: rename one of the two")
        if edge.follows not in repo.sluice.environments:
            absent = _absent(edge.follows, repo.sluice.environments)
            yield repo.note("sluice", "", ("edges", name, "follows"), absent)


def _environments(repo: ConfigRepo, section: str, key: str, served: ModelDocument | EnsembleDocument) -> Iterator[Note]:
    for i, environment in enumerate(served.environments or ()):
        if environment not in repo.sluice.environments:
            yield repo.note(section, key, ("environments", i), _absent(environment, repo.sluice.environments))


def _references(repo: ConfigRepo, unread: Unread, key: str, model: ModelDocument) -> Iterator[Note]:
    """What a model names and the repo does not have."""
    if model.rollout not in repo.policies and not unread.may_be("policies", model.rollout):
        yield repo.note("models", key, ("rollout",), _absent(model.rollout, repo.policies))
    for i, name in enumerate(model.slos):
        if name not in repo.slos and not unread.may_be("slos", name):
            yield repo.note("models", key, ("slos", i), _absent(name, repo.slos))
        if name in model.slos[:i]:
            yield repo.note("models", key, ("slos", i), f"{name} is named twice: once is enough")


def _absent(name: str, there: Iterable[str]) -> str:
    return f"{name[:80]!r} " + unknown_key(name, sorted(there))


def _members(repo: ConfigRepo, unread: Unread, ensemble: EnsembleDocument) -> Iterator[Note]:
    """Members that are no models, or that are not served wherever the ensemble is."""
    models = {model.name: model for model in repo.models.values()}
    for i, name in enumerate(ensemble.members):
        path: Path = ("members", i)
        if name not in models and name in repo.ensembles:
            message = f"{name} is an ensemble itself: members are models, which have releases of their own"
            yield repo.note("ensembles", ensemble.name, path, message)
        elif name not in models and not _may_be_unread(unread, name):
            yield repo.note("ensembles", ensemble.name, path, _absent(name, models))
        elif name in models:
            there = repo.environments_of(models[name])
            without = sorted(repo.environments_of(ensemble) & set(repo.sluice.environments) - there)
            if without:
                message = (
                    f"the model {name!r} is not served in {', '.join(without)}: serve it there, or name environments"
                )
                yield repo.note("ensembles", ensemble.name, path, message)


def _may_be_unread(unread: Unread, name: str) -> bool:
    """By its name, or by that of its file."""
    try:
        return unread.may_be("models", name) or unread.may_be("models", slug(name))
    except BadInput:  # no model is called so
        return False


def _routes(repo: ConfigRepo) -> Iterator[Note]:
    """A route that is another's, or begins with another's, in an environment that serves both."""
    routed = tuple(repo.routed)
    for each in routed:
        if any(part in ("", ".", "..") for part in each.route.removeprefix("/").split("/")):
            message = f"{each.route} has an empty part, . or ..: write it without"
            yield repo.note(each.section, each.key, ("route",), message)
    grpc = frozenset(name for name, document in repo.sluice.environments.items() if document.grpc.enabled)
    entry = Routed("sluice", "", GRPC_ROUTE, False, grpc, "the entry for gRPC")
    for upper, lower in _meeting((entry, *routed)):
        other, wrong = sorted((upper, lower), key=_choice)
        file, _ = repo.sources[(other.section, other.key)]
        if upper.route == lower.route:
            what = f"is the route of {other.words} ({file}) too"
        elif wrong is lower:
            what = f"lies below the route {upper.route} of {other.words} ({file})"
        else:
            what = f"has below it the route {lower.route} of {other.words} ({file})"
        yield repo.note(wrong.section, wrong.key, ("route",), f"{wrong.route} {what}: choose another")


def _choice(each: Routed) -> tuple[bool, int, str]:
    """Of two whose routes meet, a reader would change the one where this is larger."""
    return each.is_written, _SECTIONS.index(each.section), each.key


def _meeting(routed: tuple[Routed, ...]) -> Iterator[tuple[Routed, Routed]]:
    """Two whose routes meet, the upper one first; of several with one route the first for each other."""
    by_route: dict[str, list[Routed]] = {}
    for each in routed:
        by_route.setdefault(each.route, []).append(each)
    for each in routed:
        for prefix in _prefixes(each.route):
            for other in by_route.get(prefix, ()):
                if other is each:
                    break  # those after it meet it from their side
                if not other.environments.isdisjoint(each.environments):
                    yield other, each
                    break


def _prefixes(route: str) -> Iterator[str]:
    """The route itself and every route above it."""
    while route:
        yield route
        route = route.rpartition("/")[0]
