"""What a start of the local stack writes into its config repo.

Rules:
- The first start writes everything. A later one changes the addresses in `sluice.yaml`, and adds documents of models
  that are not there yet: what people wrote stays, to the letter.
- Nothing is committed that would not count. Where changes must be signed and this process has no key, and where
  `sluice.yaml` holds a change that nobody vouched for (our signature would vouch for it), people are told what to
  write instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from pipelines.ports import Repo
from pipelines.vouched import Trust, Vouched
from policies.errors import BadInput, Conflict, Stalled
from policies.layout import SLUICE
from policies.observations import Tip
from policies.strict_yaml import Path, dotted, dump, parse
from policies.yaml_edits import with_values

_SUBJECT = "The local stack's addresses, and models it was started with\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts of this start are."""

    environment: str
    registry: str
    ray: str
    prometheus: str
    grpc: bool
    """Serve answers gRPC."""

    def values(self, text: str) -> Mapping[Path, str | bool]:
        """The fields of sluice.yaml that say so, and the text that is there. Raises BadInput for what is no YAML."""
        here = ("environments", self.environment)
        served = (*here, "grpc", "enabled")
        says_nothing = not self.grpc and parse(text, SLUICE).value(served) is None
        return {
            ("registry", "tracking_uri"): self.registry,
            (*here, "ray", "dashboard"): self.ray,
            (*here, "prometheus", "url"): self.prometheus,
            **({} if says_nothing else {served: self.grpc}),
        }


class StackRepo(Repo, Protocol):
    """A config repo that may have no commit yet."""

    def start(self, changes: Mapping[str, str | None], message: str) -> str:
        """The first commit. Raises Conflict when the branch exists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signing:
    """Whose changes count, and whether ours can."""

    trust: Trust
    key: bool
    """Our commits are signed."""


def fill(
    door: StackRepo,
    files: Mapping[str, str],
    documents: Mapping[str, str],
    addresses: Addresses,
    signing: Signing,
) -> list[str]:
    """The first commit of a new repo, with these documents; in one that exists, what this start brings.

    Returns what a person must do, in lines; none where nothing is left to do.
    """
    try:
        tip = door.read()
    except Stalled as absent:
        _begin(door, {**files, **documents}, absent)
        return []
    changes, said = brought(tip, files, addresses)
    if not changes:
        return said
    why = _in_the_way(door, tip, changes, signing)
    if why:
        return [*said, why, *_by_hand(changes, tip, addresses)]
    door.commit(tip.commit, changes, _SUBJECT)
    after = Vouched(door, signing.trust).of(door.read())
    return [*said, *(str(note) for note in after.notes if note.file in changes)]


def brought(tip: Tip, files: Mapping[str, str], addresses: Addresses) -> tuple[dict[str, str], list[str]]:
    """The changes of a later start, by path, and what could not be changed, in lines."""
    models = {path: text for path, text in files.items() if path.startswith("models/") and path not in tip.files}
    there = tip.files.get(SLUICE)
    if there is None:
        return {**models, SLUICE: files[SLUICE]}, []
    try:
        values = addresses.values(there)
        edited = with_values(there, values, SLUICE)
    except BadInput as error:
        return {}, [f"{error}. Nothing is written: mend it, and start again"]
    said = [f"{SLUICE}: write {dotted(path)}: {_shown(values[path])}" for path in edited.left_out]
    return {**models, **({SLUICE: edited.text} if edited.text != there else {})}, said


def _begin(door: StackRepo, files: Mapping[str, str], absent: Stalled) -> None:
    """The first commit. Where the branch exists after all, it could not be read: then that is the news."""
    try:
        door.start(files, "sluice init: a config repo for the local stack\n")
    except Conflict:
        raise absent from None


def _in_the_way(door: StackRepo, tip: Tip, changes: Mapping[str, str], signing: Signing) -> str:
    """Why a commit of ours would not count, or must not be made; empty where nothing is in the way."""
    try:
        in_force = Vouched(door, signing.trust).of(tip)
    except Stalled as error:
        return f"nothing is written into the config repo: {error}"
    if in_force.asked and not signing.key:
        return (
            "the config repo asks for signed changes, and this process signs none (SLUICE_SIGNING_KEY is not set), so "
            "nothing is written. Have somebody who may sign commit this:"
        )
    refused = [str(note) for note in in_force.notes if note.file in changes]
    if refused:
        return f"nothing is written into the config repo, for our signature would vouch for this: {'; '.join(refused)}"
    return ""


def _by_hand(changes: Mapping[str, str], tip: Tip, addresses: Addresses) -> list[str]:
    """The changes, for a person to make."""
    lines = [f"  {path}: a new document, as `sluice init` writes it" for path in changes if path not in tip.files]
    if SLUICE in changes and SLUICE in tip.files:
        before, after = (parse(text, SLUICE) for text in (tip.files[SLUICE], changes[SLUICE]))
        for path, value in addresses.values(tip.files[SLUICE]).items():
            if before.value(path) != after.value(path):
                lines.append(f"  {SLUICE}: {dotted(path)}: {_shown(value)}")
    return lines


def _shown(value: str | bool) -> str:
    return dump(value).rstrip("\n")
