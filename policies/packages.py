"""The packages that a version asks for: read from its requirements, and refused where replicas could not run with them.

Rules:
- What a version asks for is its own `requirements.txt`, as MLflow logged it, and is frozen into the application when it
  is admitted: what was judged is what runs, whatever the file says later.
- Refused before anything is deployed: a line that is no requirement, two that exclude each other, and one that excludes
  what a replica itself needs (Ray of exactly the cluster's version, MLflow, ...). Installing it would end in a replica
  that cannot be imported, ten minutes later.
- Whether two sets of versions meet is tried at the versions that they name and the next ones: enough for what people
  and MLflow write (`==1.2.3`, `<3`, `>=2.1,!=2.2`), and where it is not, the installation says so.

This module must not ask what is installed or what an index has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

REQUIREMENTS_FILE = "requirements.txt"
REQUIREMENTS_BYTES = 256 * 1024
"""A thousand pinned packages take 30 kB."""
MOST_REQUIREMENTS = 1000
"""More are a whole distribution."""

NEEDED: Mapping[str, SpecifierSet] = {
    "mlflow": SpecifierSet(">=3.17,<3.18"),
    "ray": SpecifierSet(">=2.60,<2.61"),
    "pydantic": SpecifierSet(">=2.14,<3"),
    "pandas": SpecifierSet(">=2.2"),
    "numpy": SpecifierSet(">=2"),
    "starlette": SpecifierSet(">=0.40"),
}
"""What a replica imports whatever its model is, as `pyproject.toml` asks for it (a test compares them)."""


def requirements_in(text: str) -> tuple[str, ...]:
    """The lines of a requirements file that ask for something: no comments, no continuation, nothing twice."""
    joined = text.replace("\\\r\n", " ").replace("\\\n", " ")
    lines = (line.partition(" #")[0].strip() for line in joined.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def conflicts(requirements: Iterable[str]) -> tuple[str, ...]:
    """Why replicas could not run with all of these at once, a sentence each; empty: nothing is known against it."""
    lines = tuple(requirements)
    if len(lines) > MOST_REQUIREMENTS:
        return (f"it asks for {len(lines):,} packages, {MOST_REQUIREMENTS:,} at most are installed",)
    asked: list[tuple[str, Requirement]] = []
    wrong: list[str] = []
    for line in lines:
        try:
            asked.append((line, Requirement(line)))
        except InvalidRequirement:
            wrong.append(
                f"{line[:100]!r} is no requirement: write a package and its versions, as in scikit-learn==1.7.2"
            )
    return (*wrong, *_against_replicas(asked), *_against_each_other(asked))


def conflicts_with_replicas(requirements: Iterable[str]) -> tuple[str, ...]:
    """What these ask for and no replica can have; of what is no requirement nothing is said."""
    asked = []
    for line in requirements:
        with contextlib.suppress(InvalidRequirement):
            asked.append((line, Requirement(line)))
    return tuple(_against_replicas(asked))


def _against_replicas(asked: Iterable[tuple[str, Requirement]]) -> Iterator[str]:
    for line, requirement in asked:
        needed = NEEDED.get(canonicalize_name(requirement.name))
        if needed is not None and requirement.marker is None and not _meet(requirement.specifier, needed):
            yield f"it asks for {line}, and replicas need {requirement.name}{needed}"


def _against_each_other(asked: Iterable[tuple[str, Requirement]]) -> Iterator[str]:
    by_name: dict[str, list[tuple[str, Requirement]]] = {}
    for line, requirement in asked:
        if requirement.marker is None:
            by_name.setdefault(canonicalize_name(requirement.name), []).append((line, requirement))
    for same in by_name.values():
        for (one, first), (other, second) in combinations(same, 2):
            if not _meet(first.specifier, second.specifier):
                yield f"{one} and {other} exclude each other"


def _meet(one: SpecifierSet, other: SpecifierSet) -> bool:
    """Is there a version in both, among those that they name and their neighbours?"""
    both = one & other
    named = [_version(specifier.version) for specifier in both]
    if not named:
        return True
    return any(both.contains(version, prereleases=True) for base in named if base for version in _near(base))


def _version(text: str) -> Version | None:
    try:
        return Version(text.removesuffix(".*"))
    except InvalidVersion:  # `===` takes any text
        return None


def _near(version: Version) -> Iterator[Version]:
    """It, the next ones up and down at each place, and one far above."""
    yield version
    release = version.release
    for place in range(len(release)):
        for step in (1, -1):
            if release[place] + step >= 0:
                yield Version(".".join(map(str, (*release[:place], release[place] + step))))
    yield Version(f"{version}.post1") if version.post is None and not version.local else version
    yield Version(f"{release[0]}.9999")
    yield Version(".".join(map(str, (*release[:-1], max(release[-1] - 1, 0), 9999))))
