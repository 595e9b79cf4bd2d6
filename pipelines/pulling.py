"""The loop at an edge: apply what Git's tip says to this edge's Ray, and say how far it got. It cannot write to Git.

Rules:
- Only the newest tip counts: after days offline the edge goes straight to it, make before break, without the steps
  between.
- It starts no rollout and judges nothing: its part of the tip names what was promoted where it was judged.
- What was accepted last is remembered on disk, so that a Ray that comes back empty is filled again while Git is away,
  also by a process that has just started.
- A tip that does not descend from the last one, that names nothing, or that cannot be read is not applied; what was
  accepted before it stays. Where changes must be signed (`vouched.py`), of a tip counts here what counts anywhere.

This module must not decide what serves: that is in the tip.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.ports import Clock, Repo, Runtime
from pipelines.vouched import InForce, Trust, Vouched
from policies.config_repo_documents import read_repo
from policies.convergence import InPlace, Refused, Submit, Waiting, converge
from policies.documents import RayTarget
from policies.errors import BadInput, SluiceError, Stalled
from policies.layout import SLUICE, serve_path
from policies.notes import errors
from policies.observations import RuntimeObservation, Tip
from policies.secret_values import hidden_in
from serving_runtime.serve_config import parse

Config = Mapping[str, Any]

SCHEMA = 1
LOOK = timedelta(seconds=15)
"""The default of an environment."""
_SOON = timedelta(seconds=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accepted:
    """What this edge applies: its part of one commit."""

    commit: str
    dashboard: str
    config: Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pulled:
    """What one attempt did and saw."""

    edge: str
    at: datetime
    commit: str | None
    """The commit that is applied, or on its way to Ray; none where nothing was accepted yet."""
    git_seen_at: datetime | None
    """When Git answered last, as far as this process knows."""
    in_place: bool
    step: str
    """What was submitted, or what is waited for; empty where all is in place."""
    applications: Mapping[str, str]
    """What Ray runs: status by name."""
    problems: tuple[str, ...]
    again_after: timedelta = LOOK


class Puller:
    """One edge. It needs read access to the config repo, and its own Ray."""

    def __init__(
        self,
        repo: Repo,
        runtime: Callable[[RayTarget], Runtime],
        clock: Clock,
        edge: str,
        memory: Path,
        trust: Trust | None = None,
    ) -> None:
        """`memory` is the file that remembers what was accepted last."""
        self._repo, self._runtime, self._clock, self._edge, self._memory = repo, runtime, clock, edge, memory
        self._accepted = recall(memory)
        self._vouched = Vouched(repo, trust or Trust())
        self._git_seen_at: datetime | None = None

    def tick(self) -> Pulled:
        """One attempt. Never raises for an outside that is away; what went wrong is in what it returns."""
        problems: list[str] = []
        try:
            tip = self._repo.read()
            self._git_seen_at = self._clock.now()
            found = self._vouched.of(tip)
            problems += [str(note) for note in found.notes if note.file == SLUICE]
            self._accept(found)
        except SluiceError as error:
            problems.append(f"{error}{self._goes_on()}")
        accepted = self._accepted
        if accepted is None:
            return self._pulled(None, Waiting("nothing was accepted yet"), RuntimeObservation(available=True), problems)
        runtime = self._runtime(RayTarget(dashboard=accepted.dashboard))
        observed = runtime.observe()
        if not observed.available:
            problems.append(f"Ray cannot be seen: {observed.reason}")
        step = converge(accepted.config, observed)
        try:
            if isinstance(step, Submit):
                runtime.apply(step.config)
        except SluiceError as error:
            problems.append(str(error))
            step = Waiting(f"not submitted: {step.reason if isinstance(step, Submit) else ''}")
        return self._pulled(accepted.commit, step, observed, problems)

    def run(self, stop: Callable[[], bool], report: Callable[[Pulled], None]) -> None:
        """Tick until `stop`; `report` gets what each did."""
        while not stop():
            pulled = self.tick()
            report(pulled)
            self._clock.wait(pulled.again_after)

    def _goes_on(self) -> str:
        return f"; what was accepted last, {self._accepted.commit[:8]}, is what counts" if self._accepted else ""

    def _accept(self, found: InForce) -> None:
        """Take the tip over, if it may be applied. Raises Stalled, BadInput, and what Git raises."""
        tip = found.tip
        if refused := found.refused.get(self._edge):
            raise Stalled(refused)
        if self._accepted is not None and self._accepted.commit == tip.commit:
            return
        accepted = read_edge(tip, self._edge)
        if self._accepted is not None and not self._repo.descends(tip.commit, self._accepted.commit):
            raise Stalled(
                f"the tip {tip.commit[:8]} does not descend from {self._accepted.commit[:8]}, which was applied last: "
                f"somebody rewrote the branch. Accept the new history by deleting {self._memory.name} in SLUICE_CACHE "
                "and starting anew"
            )
        remember(self._memory, accepted)
        self._accepted = accepted

    def _pulled(
        self,
        commit: str | None,
        step: Submit | InPlace | Waiting | Refused,
        observed: RuntimeObservation,
        problems: list[str],
    ) -> Pulled:
        shown = {name: str(application.status) for name, application in sorted(observed.applications.items())}
        return Pulled(
            edge=self._edge,
            at=self._clock.now(),
            commit=commit,
            git_seen_at=self._git_seen_at,
            in_place=isinstance(step, InPlace),
            step="" if isinstance(step, InPlace) else step.reason,
            applications=shown,
            problems=tuple(problems),
            again_after=_SOON if commit and observed.available and not isinstance(step, InPlace) else LOOK,
        )


def read_edge(tip: Tip, edge: str) -> Accepted:
    """This edge's part of a tip. Raises Stalled, BadInput: what is wrong with it.

    Nobody else's documents are read: a mistake in them is no reason to stand still here.
    """
    reading = read_repo({path: text for path, text in tip.files.items() if path == SLUICE})
    if reading.repo is None:
        raise BadInput("\n".join(str(note) for note in errors(reading.notes)))
    known = reading.repo.sluice.edges
    if edge not in known:
        raise Stalled(f"sluice.yaml has no edge {edge}; it has {', '.join(sorted(known)) or 'none'}")
    path = serve_path(edge)
    config = parse(tip.files.get(path, ""), path)
    if not config["applications"]:
        raise Stalled(f"{path} names no application: {known[edge].follows} has promoted none yet, or somebody took it")
    return Accepted(commit=tip.commit, dashboard=known[edge].ray.dashboard, config=config)


# --- what is kept on disk -----------------------------------------------------------------------------------------


def remember(path: Path, accepted: Accepted) -> None:
    """Replace the file, whole or not at all."""
    _write(path, {"schema": SCHEMA, **dataclasses.asdict(accepted)})


def recall(path: Path) -> Accepted | None:
    """What was accepted last; none where there is no such file, or it is of another schema."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("schema") != SCHEMA:
            return None
        return Accepted(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_report(path: Path, pulled: Pulled) -> None:
    """Replace the report by what this attempt saw, whole or not at all."""
    shown = {field.name: getattr(pulled, field.name) for field in dataclasses.fields(pulled)}
    del shown["again_after"]
    for name in ("at", "git_seen_at"):
        shown[name] = shown[name].isoformat() if shown[name] else None
    _write(path, hidden_in({"schema": SCHEMA, **shown}))


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
