"""A whole config repo as one frozen noun.

Rules:
- All problems are collected, not only the first; a repo with an error is not read at all, so a broken document is never
  taken for one that was removed.
- A file's name says what it holds: `models/<slug of the name>.yaml`, `ensembles/<name>.yaml`. Names that meet
  after all (slugs, routes, policies) are errors.
- A built-in policy or SLO counts only where the repo has no document of that kind and name.

This module must not read files: it takes the text of every file, by path.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from policies.accepted_history import AcceptedHistory
from policies.document_errors import note
from policies.document_reading import READ, Document, read_document
from policies.documents import ModelDocument, RolloutPolicy, SluiceDocument
from policies.durations import format_duration
from policies.errors import BadInput
from policies.evidence import Objective
from policies.fronts import EnsembleDocument, Fronts, ensemble_route
from policies.layout import RULES, SLUICE, Located, Place, ensemble_path, locate, model_path
from policies.names import slug
from policies.notes import Note, Severity, errors, in_order
from policies.ray_service import RayService, RayServiceTemplate
from policies.references import Routed, Unread, cross_check
from policies.release import Release
from policies.repo_rules import RepoRules
from policies.slo import SloProblem, objective
from policies.strict_yaml import Parsed, Path, dotted

MAX_REVISION = 10**15
"""A decision adds one, a hold a hundred. Ray is told in JSON, whose readers keep whole numbers up to 9 * 10^15."""
_SECTIONS = {"RolloutPolicy": ("policies",), "SLO": ("slos",), "RepoRules": ()}
"""Where documents below policies/ are kept by their names."""
BUILT_IN = "//built-in/"
"""Where `with_defaults` puts the built-in documents: no path in Git has an empty part, so nobody's file is there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigRepo:
    """What a config repo says, all of it checked."""

    sluice: SluiceDocument
    models: Mapping[str, ModelDocument]
    """By slug."""
    policies: Mapping[str, RolloutPolicy]
    slos: Mapping[str, Objective]
    releases: Mapping[tuple[str, str], Release]
    """By environment and slug."""
    serve: Mapping[str, Mapping[str, Any] | None]
    """The Ray Serve config of each environment; none where there is no file."""
    ensembles: Mapping[str, EnsembleDocument] = dataclasses.field(default_factory=dict)
    """By name."""
    accepted: Mapping[str, AcceptedHistory] = dataclasses.field(default_factory=dict)
    """Histories that people accepted, by environment."""
    rules: RepoRules | None = None
    """What changes of it are held to; none where nobody wrote them."""
    clusters: Mapping[str, RayServiceTemplate] = dataclasses.field(default_factory=dict)
    """The templates of KubeRay's manifests, by environment."""
    ray_services: Mapping[str, RayService] = dataclasses.field(default_factory=dict)
    """The rendered manifests, by environment."""
    sources: Mapping[tuple[str, str], tuple[str, Parsed]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    """File and positions by section (`sluice`, `models`, `ensembles`, `policies`, `slos`, `releases`, `rules`,
    `clusters`) and name."""

    def serves(self, environment: str) -> Mapping[str, ModelDocument]:
        """The models that one environment serves, by slug."""
        return {key: model for key, model in self.models.items() if environment in environments_of(model, self.sluice)}

    def environments_of(self, served: ModelDocument | EnsembleDocument) -> frozenset[str]:
        """The environments that serve a model or an ensemble."""
        return environments_of(served, self.sluice)

    def as_written(self, section: str, name: str, path: Path, value: timedelta) -> str:
        """A duration as its document has it, `99h`; where nobody wrote it, as we would, `4d3h`."""
        _, parsed = self.sources.get((section, name), ("", Parsed(None, {})))
        return str(parsed.value(path) or format_duration(value))

    @property
    def routed(self) -> Iterator[Routed]:
        """Everything that has a route, models first."""
        for key, model in sorted(self.models.items()):
            where, words = self.environments_of(model), f"the model {model.name!r}"
            yield Routed("models", key, route_of(model), model.route is not None, where, words)
        for name, ensemble in sorted(self.ensembles.items()):
            where, words = self.environments_of(ensemble), f"the ensemble {name!r}"
            yield Routed("ensembles", name, ensemble_route(ensemble), ensemble.route is not None, where, words)

    def fronts(self, environment: str) -> Fronts:
        """What stands before the models of one environment, ensembles by name."""
        grpc = self.sluice.environments[environment].grpc
        there = (e for _, e in sorted(self.ensembles.items()) if environment in environments_of(e, self.sluice))
        return Fronts(ensembles=tuple(there), grpc=grpc if grpc.enabled else None)

    def note(self, section: str, name: str, path: Path, message: str, severity: Severity = Severity.ERROR) -> Note:
        """A finding about a field of one of the documents, with its file and line where they are known."""
        if (section, name) not in self.sources:
            return Note(severity=severity, file=f"{section}/{name}", line=None, field=dotted(path), message=message)
        file, parsed = self.sources[(section, name)]
        return note(parsed, file, path, message, severity)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepoReading:
    """A repo and what is odd about it; `repo` is none exactly where a note is an error."""

    repo: ConfigRepo | None
    notes: tuple[Note, ...]


def read_repo(files: Mapping[str, str]) -> RepoReading:
    """Read every document; `files` is the text of every file below the layout's folders, by path."""
    reader = _Reader()
    for path in sorted(files):
        reader.take(path, files[path])
    return reader.finish()


def parse_repo(files: Mapping[str, str]) -> ConfigRepo:
    """The same where warnings are of no interest. Raises BadInput with every error, one a line."""
    reading = read_repo(files)
    if reading.repo is None:
        raise BadInput("\n".join(str(n) for n in errors(reading.notes)))
    return reading.repo


def with_defaults(files: Mapping[str, str], defaults: Mapping[str, str]) -> Mapping[str, str]:
    """The files with the built-in documents (text by file name), which give way to the repo's own of the same name."""
    return {**files, **{f"{BUILT_IN}{name}": text for name, text in defaults.items()}}


def route_of(model: ModelDocument) -> str:
    """Where a model is reached: its route, or `/models/<slug>`. Raises BadInput for a name without a slug."""
    return model.route or f"/models/{slug(model.name)}"


def environments_of(served: ModelDocument | EnsembleDocument, sluice: SluiceDocument) -> frozenset[str]:
    """The environments that serve a model or an ensemble."""
    return frozenset(sluice.environments if served.environments is None else served.environments)


# --- the whole repo -------------------------------------------------------------------------------------------


class _Reader:
    """Collects documents one by one; `finish` compares them with each other."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.sluice: SluiceDocument | None = None
        self.models: dict[str, ModelDocument] = {}
        self.ensembles: dict[str, EnsembleDocument] = {}
        self.policies: dict[str, RolloutPolicy] = {}
        self.slos: dict[str, Objective] = {}
        self.releases: dict[tuple[str, str], Release] = {}
        self.serve: dict[str, Mapping[str, Any] | None] = {}
        self.accepted: dict[str, AcceptedHistory] = {}
        self.clusters: dict[str, RayServiceTemplate] = {}
        self.ray_services: dict[str, RayService] = {}
        self.sources: dict[tuple[str, str], tuple[str, Parsed]] = {}
        self.rules: RepoRules | None = None
        self._built_in: list[Document] = []
        self._unread = Unread()

    def take(self, path: str, text: str) -> None:
        """Read the file at `path`."""
        if path.startswith(BUILT_IN):
            self._built_in.append(read_document(path, text, Place.POLICY))
            return
        located = locate(path)
        if located is None:
            self.notes.append(_stray(path))
        elif located.place in READ:
            read = read_document(path, text, located.place)
            self.notes += read.notes
            if read.value is not None:
                self._keep(located, read)
            else:
                self._miss(located, read)

    def finish(self) -> RepoReading:
        """Fill in the built-in documents and compare everything with everything."""
        for read in self._built_in:
            self._fill_in(read)
        if self.sluice is None:
            if not any(n.file == SLUICE for n in self.notes):
                self._error(SLUICE, "is missing: it names the environments; `sluice init` writes one")
            return RepoReading(repo=None, notes=in_order(self.notes))
        known = {*self.sluice.environments, *self.sluice.edges}
        repo = ConfigRepo(
            sluice=self.sluice,
            models=self.models,
            ensembles=self.ensembles,
            rules=self.rules,
            policies=self.policies,
            slos=self.slos,
            releases={key: release for key, release in self.releases.items() if key[0] in known},
            serve={environment: self.serve.get(environment) for environment in known},
            accepted=self.accepted,
            clusters=self.clusters,
            ray_services=self.ray_services,
            sources=self.sources,
        )
        self.notes += cross_check(repo, self._unread)
        self.notes += _strangers(known, {*self.serve, *(environment for environment, _ in self.releases)})
        notes = in_order(self.notes)
        return RepoReading(repo=None if errors(notes) else repo, notes=notes)

    def _keep(self, located: Located, read: Document) -> None:
        match located.place:
            case Place.SLUICE:
                self.sluice = read.value
                self.sources[("sluice", "")] = (read.file, read.parsed)
            case Place.MODEL:
                self._keep_model(read)
            case Place.ENSEMBLE:
                self._keep_ensemble(read)
            case Place.POLICY if isinstance(read.value, RepoRules):
                self._keep_rules(read)
            case Place.POLICY:
                self._keep_policy(read)
            case Place.RELEASE:
                self._keep_release(located, read)
            case Place.ACCEPTED_HISTORY:
                self.accepted[located.environment] = read.value
            case Place.CLUSTER:
                self.clusters[located.environment] = read.value
                self.sources[("clusters", located.environment)] = (read.file, read.parsed)
            case Place.RAY_SERVICE:
                self.ray_services[located.environment] = read.value
            case _:
                self.serve[located.environment] = copy.deepcopy(read.value)

    def _miss(self, located: Located, read: Document) -> None:
        """Remember what a document that cannot be read may be called: others may name it."""
        if located.place is Place.MODEL:
            # Its name is that of its file or has it as its slug; YAML that is broken has no other.
            self._unread.add("models", located.slug, *_texts(read, ("name",)))
        elif located.place is Place.POLICY:
            names = _texts(read, ("name",), ("metadata", "name"))
            for section in _SECTIONS.get(read.kind, ("policies", "slos")):
                self._unread.add(section, *names)

    def _keep_model(self, read: Document) -> None:
        model: ModelDocument = read.value
        try:
            key = slug(model.name)
        except BadInput as error:
            self.notes.append(note(read.parsed, read.file, ("name",), str(error)))
            return
        if read.file != model_path(key):
            message = f"the model {model.name!r} belongs into the file {model_path(key)}: rename this one"
            self.notes.append(note(read.parsed, read.file, ("name",), message))
        if ("models", key) in self.sources:
            first, other = self.sources[("models", key)][0], self.models[key].name
            message = f"has the same safe name, {key}, as the model {other!r} in {first}: one of the two must go"
            self.notes.append(note(read.parsed, read.file, ("name",), message))
            return
        self.models[key] = model
        self.sources[("models", key)] = (read.file, read.parsed)

    def _keep_ensemble(self, read: Document) -> None:
        ensemble: EnsembleDocument = read.value
        try:
            path = ensemble_path(ensemble.name)
        except BadInput:
            message = "should have no two dashes in a row: they separate the parts of an application's name"
            self.notes.append(note(read.parsed, read.file, ("name",), message))
            return
        if read.file != path:
            message = f"the ensemble {ensemble.name!r} belongs into the file {path}: rename this one"
            self.notes.append(note(read.parsed, read.file, ("name",), message))
            return
        self.ensembles[ensemble.name] = ensemble
        self.sources[("ensembles", ensemble.name)] = (read.file, read.parsed)

    def _keep_policy(self, read: Document) -> None:
        section, path, name, value = self._policy(read)
        if value is None:
            return
        if (section, name) in self.sources:
            first = self.sources[(section, name)][0]
            message = f"a {read.kind} named {name} is already in {first}: give one of the two another name"
            self.notes.append(note(read.parsed, read.file, path, message))
            return
        self.sources[(section, name)] = (read.file, read.parsed)
        if isinstance(value, RolloutPolicy):
            self.policies[name] = value
        else:
            self.slos[name] = value

    def _keep_rules(self, read: Document) -> None:
        if read.file == RULES:
            self.rules = read.value
            self.sources[("rules", "")] = (read.file, read.parsed)
        else:
            self.notes.append(note(read.parsed, read.file, ("kind",), f"the repo's rules belong into {RULES}"))

    def _fill_in(self, read: Document) -> None:
        """Use a built-in document where the repo has none of its name."""
        self.notes += read.notes
        if read.value is not None:
            section, _, name, _ = self._policy(read)
            if (section, name) not in self.sources:
                self._keep_policy(read)

    def _policy(self, read: Document) -> tuple[str, Path, str, RolloutPolicy | Objective | None]:
        """Section, path of the name, name, and the noun: none where an SLO cannot be judged."""
        if isinstance(read.value, RolloutPolicy):
            return "policies", ("name",), read.value.name, read.value
        found = objective(read.value)
        name = read.value.metadata.name
        if isinstance(found, SloProblem):
            self.notes.append(note(read.parsed, read.file, found.path, found.message))
            self._unread.add("slos", name)
            return "slos", ("metadata", "name"), name, None
        return "slos", ("metadata", "name"), name, found

    def _keep_release(self, located: Located, read: Document) -> None:
        release: Release = read.value
        where = (located.environment, located.slug)
        try:
            belongs = (release.environment, slug(release.model))
        except BadInput as error:
            self.notes.append(note(read.parsed, read.file, ("model",), str(error)))
            return
        if where != belongs:
            message = f"the release of {release.model!r} in {release.environment!r} does not belong into this file"
            self.notes.append(note(read.parsed, read.file, ("model",), message))
            return
        for field, wrong in _nobodys(release):
            message = f"{wrong}: take back the commit that changed it by hand"
            self.notes.append(note(read.parsed, read.file, (field,), message))
            return
        self.releases[where] = release
        self.sources[("releases", "/".join(where))] = (read.file, read.parsed)

    def _error(self, file: str, message: str) -> None:
        self.notes.append(Note(severity=Severity.ERROR, file=file, line=None, field="", message=message))


def _texts(read: Document, *paths: Path) -> tuple[str, ...]:
    """The texts that stand at these places."""
    return tuple(text for text in map(read.parsed.value, paths) if isinstance(text, str))


def _stray(path: str) -> Note:
    if path.endswith(".yml"):
        message = f"is not read: rename it to {path.removesuffix('.yml')}.yaml"
    else:
        message = "is not read: the layout has no such place"
    return Note(severity=Severity.WARNING, file=path, line=None, field="", message=message)


def _nobodys(release: Release) -> Iterator[tuple[str, str]]:
    """What the state machine could not have written, or could not write on from: the field, and what is wrong."""
    if release.contradiction:
        yield "phase", release.contradiction
    for field in ("revision", "traffic_revision"):
        if getattr(release, field) > MAX_REVISION:
            yield field, f"is above {MAX_REVISION}, which no rollout reaches"


def _strangers(known: Iterable[str], seen: Iterable[str]) -> Iterator[Note]:
    for environment in sorted(set(seen) - set(known)):
        message = "is not read: sluice.yaml names no such environment"
        folder = f"environments/{environment}"
        yield Note(severity=Severity.WARNING, file=folder, line=None, field="", message=message)
