"""One document of a config repo: text to its noun, or to notes that say what is wrong with it.

Rules:
- A document says first what it is: `apiVersion` and `kind`, and only kinds that belong at its place are read.
- Reading is a pure function of path and text, so what was read once is remembered.

This module must not compare documents with each other: that is `config_repo_documents.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping
from typing import Any

from policies.accepted_history import AcceptedHistory
from policies.document_errors import Reading, note, read_noun
from policies.documents import API_VERSION, ModelDocument, RolloutPolicy, SluiceDocument
from policies.errors import BadInput
from policies.fronts import EnsembleDocument
from policies.layout import Place
from policies.notes import Note, Severity
from policies.ray_service import API_VERSION as RAY_VERSION
from policies.ray_service import RayServiceTemplate, read_manifest
from policies.release import Release
from policies.repo_rules import RepoRules
from policies.secret_values import hidden
from policies.slo import INSTEAD, OPENSLO_VERSION, SloDocument
from policies.strict_yaml import MAX_CHARACTERS, MAX_SERVE_CONFIG, Parsed, YamlError, dotted, parse

HEADER = ("apiVersion", "kind")

# People write a few kilobytes; a document of a quarter of a megabyte is a mistake or an attack.
MAX_WRITTEN_BY_PEOPLE = 262_144
# A look reads every document again, and nearly all are as they were: parsing is 300 kB/s, remembering is free. Enough
# for 1,000 models in 15 environments; a document and its positions take about 20 kB. One too many, and every look would
# parse them all: they are read in the same order each time.
_REMEMBERED = 16384
# A Serve config is new with every step of every rollout and takes megabytes: the current ones of 8 environments only,
# each maybe with its manifest.
_SERVE_CONFIGS_REMEMBERED = 16

# Of a Serve config only the applications that changed are parsed: all of 1,000 take ten seconds, one ten milliseconds.
_APPLICATIONS_REMEMBERED = 8192
_APPLICATIONS = "applications"
_ITEM_START = "  - "
_ITEM = re.compile(f"^{_ITEM_START}", re.MULTILINE)

KINDS: Mapping[Place, Mapping[str, tuple[str, Any]]] = {
    Place.SLUICE: {"Sluice": (API_VERSION, SluiceDocument)},
    Place.MODEL: {"Model": (API_VERSION, ModelDocument)},
    Place.ENSEMBLE: {"Ensemble": (API_VERSION, EnsembleDocument)},
    Place.POLICY: {
        "RolloutPolicy": (API_VERSION, RolloutPolicy),
        "SLO": (OPENSLO_VERSION, SloDocument),
        "RepoRules": (API_VERSION, RepoRules),
    },
    Place.RELEASE: {"Release": (API_VERSION, Release)},
    Place.ACCEPTED_HISTORY: {"AcceptedHistory": (API_VERSION, AcceptedHistory)},
    Place.CLUSTER: {"RayService": (RAY_VERSION, RayServiceTemplate)},
}
"""What may stand where: kind -> the version it must say, and its noun."""

READ = frozenset({*KINDS, Place.SERVE, Place.RAY_SERVICE})
"""The places whose files are read."""

_PEOPLE = frozenset({Place.SLUICE, Place.MODEL, Place.ENSEMBLE, Place.POLICY, Place.CLUSTER})
# Megabytes each, and new with every step.
_LARGE = frozenset({Place.SERVE, Place.RAY_SERVICE})


@dataclasses.dataclass(frozen=True)
class Document:
    """One document as it was read: `value` is its noun, none where it is wrong."""

    file: str
    kind: str
    parsed: Parsed
    value: Any
    notes: tuple[Note, ...]


def read_document(file: str, text: str, place: Place) -> Document:
    """One document of a kind that belongs at `place`; everything that is wrong with it is in its notes.

    What it returns is shared with later calls: it must not be changed.
    """
    return _large(file, text, place) if place in _LARGE else _document(file, text, place)


@functools.lru_cache(maxsize=_SERVE_CONFIGS_REMEMBERED)
def _large(file: str, text: str, place: Place) -> Document:
    applications = _applications(file, text) if place is Place.SERVE else None
    if applications is None:
        return _read(file, text, place)
    return Document(file, "", Parsed({_APPLICATIONS: applications}, {}), {_APPLICATIONS: applications}, ())


def _applications(file: str, text: str) -> list[Any] | None:
    """The applications of a Serve config as we write it, each read by itself; none where it looks otherwise.

    A line that begins with the list's own dash is the next item, whatever stands in the one before: YAML has
    everything that belongs to an item stand further right.
    """
    head, *items = _ITEM.split(text)
    if head != f"{_APPLICATIONS}:\n" or len(text) > MAX_SERVE_CONFIG:
        return None
    try:
        parts = [_application(file, f"{_ITEM_START}{item}") for item in items]
    except YamlError:  # read as a whole it says where
        return None
    return [part[0] for part in parts] if all(len(part) == 1 for part in parts) else None


@functools.lru_cache(maxsize=_APPLICATIONS_REMEMBERED)
def _application(file: str, item: str) -> tuple[Any, ...]:
    data = parse(item, file).data
    return tuple(data) if isinstance(data, list) else ()


@functools.lru_cache(maxsize=_REMEMBERED)
def _document(file: str, text: str, place: Place) -> Document:
    return _read(file, text, place)


def _read(file: str, text: str, place: Place) -> Document:
    try:
        parsed = parse(text, file, max_characters=_limit(place))
    except YamlError as error:
        at = Note(
            severity=Severity.ERROR,
            file=file,
            line=error.position.line,
            field=dotted(error.path),
            message=f"{error.reason} (column {error.position.column})",
        )
        return Document(file, "", Parsed(None, {}), None, (at,))
    if place is Place.SERVE:
        return _read_serve(file, parsed)
    if place is Place.RAY_SERVICE:
        return _read_ray_service(file, parsed)
    kind, problems = _header(file, parsed, KINDS[place])
    if problems:
        return Document(file, kind, parsed, None, problems)
    noun = KINDS[place][kind][1]
    made: Reading[Any] = read_noun(noun, parsed, file, HEADER, INSTEAD if kind == "SLO" else None)
    return Document(file, kind, parsed, made.value, made.notes)


def _limit(place: Place) -> int:
    if place is Place.SERVE:
        return MAX_SERVE_CONFIG
    return MAX_WRITTEN_BY_PEOPLE if place in _PEOPLE else MAX_CHARACTERS


def _read_serve(file: str, parsed: Parsed) -> Document:
    value = {} if parsed.data is None else parsed.data
    if isinstance(value, Mapping):
        return Document(file, "", parsed, value, ())
    return Document(file, "", parsed, None, (note(parsed, file, (), "the Serve config must be a mapping"),))


def _read_ray_service(file: str, parsed: Parsed) -> Document:
    try:
        return Document(file, "", parsed, read_manifest(parsed.data, file), ())
    except BadInput as error:
        return Document(file, "", parsed, None, (note(parsed, file, (), str(error)),))


def _header(file: str, parsed: Parsed, kinds: Mapping[str, tuple[str, Any]]) -> tuple[str, tuple[Note, ...]]:
    """The document's kind, and what is wrong with its first two lines."""
    if not isinstance(parsed.data, Mapping):
        return "", (note(parsed, file, (), f"the document must be a mapping that begins with {_headers(kinds)}"),)
    kind = parsed.data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        near = difflib.get_close_matches(str(kind), kinds, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        wrong = "is missing" if kind is None else f"{hidden(str(kind))[:40]!r} does not belong here{hint}"
        return "", (note(parsed, file, ("kind",), f"{wrong}: write {_headers(kinds)}"),)
    version = parsed.data.get("apiVersion")
    if version != kinds[kind][0]:
        wrong = "is missing" if version is None else f"{hidden(str(version))[:40]!r} is not read"
        return kind, (note(parsed, file, ("apiVersion",), f"{wrong}: write apiVersion: {kinds[kind][0]}"),)
    return kind, ()


def _headers(kinds: Mapping[str, tuple[str, Any]]) -> str:
    return " or ".join(f"apiVersion: {version} and kind: {kind}" for kind, (version, _) in kinds.items())
