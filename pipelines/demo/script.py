"""The demo's story: three versions, one promoted from nothing, one promoted past another, one caught and rolled back.

It does what a person would: trains, logs, moves stages in MLflow, and watches. Everything else is Sluicegate's.

Rules:
- The world is seen through `Stack`, never changed through it: the only hands are MLflow's own client and the load.
- Every wait has a deadline and says what it waits for. A wait that cannot end well any more ends at once.
- What must hold at the end is checked in words; the report is written whether it holds or not.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console
from rich.text import Text

from pipelines.demo import models
from pipelines.demo.documents import MODEL, demo_policy
from pipelines.demo.load import RATE, Counters, Load, LoadDied
from pipelines.demo.report import DemoReport, RequestsReport, RolloutReport, summary, write_report
from pipelines.demo.timeline import Scene, Timeline
from policies.actions import Wait
from policies.errors import Retry
from policies.release import Outcome, Phase, Quarantined, Release
from policies.rollout_record import HistoryRecord

logger = logging.getLogger(__name__)

STAGE = "Production"
"""The stage that the demo's environment watches."""

POLL_S = 0.5
"""Twice a second looks live; a look reads the tip of a local Git repo and a small file."""

SERVED_DEADLINE_S = 120.0
"""The first version: processes start (15 s on two busy cores), and its proof of health takes some 11 s of load."""

PROMOTED_DEADLINE_S = 180.0
"""Shadow, two steps and settling take some 45 s by the policy, loading 15 s; three times that is a fault."""

ROLLED_BACK_DEADLINE_S = 120.0
"""Loading 15 s and some 5 s of shadow until the verdict; then draining."""

SETTLED_DEADLINE_S = 30.0
"""After the last rollout: the registry is told and old applications are drained and removed."""

STAYS_DOWN_S = 5.0
"""Several looks of the reconciler, in each of which it could try the bad version again and must not."""


BUSY_DEADLINE_S = 20.0
"""Longer than any part of a healthy local stack is busy; after it the demo ends with that part's words."""

Read = TypeVar("Read")


class Stack(Protocol):
    """The running local stack, as the story needs it. Reading may raise Retry where a part is busy."""

    @property
    def tracking_uri(self) -> str:
        """Where MLflow answers."""

    def route_url(self, model: str) -> str:
        """The model's public address; `/invocations` is below it."""

    def release(self, model: str) -> Release | None:
        """The release at the tip of the config repo; none before the first."""

    def history(self, model: str) -> tuple[HistoryRecord, ...]:
        """Finished rollouts at the tip, oldest first."""

    def waiting(self, model: str) -> Wait | None:
        """What the reconciler's last look waits for, if it changed nothing."""

    def git_log(self) -> list[str]:
        """`git log --oneline` of the config repo, newest first."""

    def commits(self, rollout: str) -> list[str]:
        """The same of the commits with the trailer `Sluice-Rollout: <rollout>`, oldest first."""

    def git_equals_ray(self) -> bool:
        """Does Ray run exactly what the tip says?"""

    def registry_stages(self, model: str) -> Mapping[str, str]:
        """Stage by version number, ascending."""

    def registry_tags(self, model: str, version: int) -> Mapping[str, str]:
        """The tags of one version."""


class WentWrong(Exception):
    """The story cannot go on; its text says what was waited for and what was seen instead."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """What was observed at the end, for the checks."""

    report: DemoReport
    release: Release | None
    tags: Mapping[str, str]
    """Of the version that was rolled back."""


def tell(stack: Stack, console: Console, folder: Path, *, rate: float = RATE) -> int:
    """Tell the whole story on a running stack; the report goes to `folder`. Returns the exit code: 0, or 1 with words.

    `rate` is the load in requests per second.
    """
    begun = time.monotonic()
    story = Story(stack, Timeline(console, demo_policy()))
    trouble = story.run(rate)
    ending = story.ending(time.monotonic() - begun)
    path = write_report(folder, ending.report)
    for line in summary(ending.report, stack.git_log()):
        console.print(Text(line), soft_wrap=True)
    broken = [trouble] if trouble else []
    broken += [sentence for sentence, holds in promises(ending) if not holds]
    console.print(Text(f"\nThe same as JSON: {path}"), soft_wrap=True)
    for sentence in broken:
        console.print(Text(f"NOT AS PROMISED: {sentence}", style="bold red"), soft_wrap=True)
    return 1 if broken else 0


def promises(ending: Ending) -> list[tuple[str, bool]]:
    """What must hold at the end: each sentence, and whether it does."""
    report, release = ending.report, ending.release
    outcomes = [(rollout.version, rollout.outcome) for rollout in report.rollouts]
    quarantined = [entry.version for entry in _quarantine(release)]
    wanted = {"1": "Archived", "2": STAGE, "3": "Archived"}
    return [
        ("v1 and v2 were promoted, then v3 was rolled back", outcomes == _WANTED_OUTCOMES),
        ("no request failed", report.requests.failed == 0),
        ("requests were sent all the while", report.requests.sent > 0),
        ("v2 serves, and nothing else is under way", _serves(release, 2)),
        ("v3 is in quarantine and stays down", quarantined == [3]),
        (f"the registry says {wanted}; it says {dict(report.registry)}", dict(report.registry) == wanted),
        ("v3 carries tags that say why", any(key.startswith("sluice.") for key in ending.tags)),
        ("Ray serves exactly what Git says", report.git_equals_ray),
    ]


_WANTED_OUTCOMES = [(1, Outcome.PROMOTED), (2, Outcome.PROMOTED), (3, Outcome.ROLLED_BACK)]


class Story:
    """The story as it goes: what it did so far, and what is seen."""

    def __init__(self, stack: Stack, timeline: Timeline) -> None:
        self._stack, self._timeline = stack, timeline
        self._load: Load | None = None
        self._requests = Counters()
        self._pause = threading.Event()

    def run(self, rate: float) -> str:
        """From the first training to the last look. Returns what went wrong, or nothing."""
        data = models.load_data()
        try:
            with self._timeline:
                self._train(data)
                url = f"{self._stack.route_url(MODEL)}/invocations"
                with Load(url, models.request_bodies(data), rate=rate) as self._load:
                    self._timeline.say(f"A steady load of real rows: {rate:g} requests/s to {url}")
                    self._three_acts()
                    self._requests = self._load.stop()
        except (WentWrong, LoadDied) as wrong:
            logger.info("the story stopped", exc_info=True)
            return str(wrong)
        finally:
            self._load = None
        return ""

    def ending(self, seconds: float) -> Ending:
        """What is observed now that it is over."""
        history = self._calmly(lambda: self._stack.history(MODEL))
        commits = [self._calmly(partial(self._stack.commits, record.rollout)) for record in history]
        report = DemoReport(
            rollouts=tuple(RolloutReport.of(*pair) for pair in zip(history, commits, strict=True)),
            requests=RequestsReport.of(self._requests),
            registry=self._calmly(lambda: self._stack.registry_stages(MODEL)),
            git_equals_ray=self._calmly(self._stack.git_equals_ray),
            seconds=round(seconds, 1),
        )
        failed = [record.version for record in history if record.outcome is Outcome.ROLLED_BACK]
        tags = self._calmly(lambda: self._stack.registry_tags(MODEL, failed[-1])) if failed else {}
        return Ending(report=report, release=self._calmly(lambda: self._stack.release(MODEL)), tags=tags)

    def _train(self, data: models.Data) -> None:
        for recipe in models.RECIPES:
            logged = models.log_version(self._stack.tracking_uri, MODEL, recipe, data)
            self._timeline.say(f"Trained and logged {logged}")

    def _three_acts(self) -> None:
        self._move(1, "nothing serves yet, so it is judged with the whole traffic")
        self._rolled_out(1, Outcome.PROMOTED, SERVED_DEADLINE_S)
        self._move(2, "it is better: shadow, steps, promotion")
        self._rolled_out(2, Outcome.PROMOTED, PROMOTED_DEADLINE_S)
        self._move(3, "it loads well and fails on real rows")
        self._rolled_out(3, Outcome.ROLLED_BACK, ROLLED_BACK_DEADLINE_S)
        self._await("v3 to be archived and Ray to match Git", SETTLED_DEADLINE_S, self._at_rest)
        self._stays_down()

    def _move(self, version: int, why: str) -> None:
        """Promote a version in MLflow as a person would."""
        from mlflow import MlflowClient

        self._timeline.say(f"A person moves v{version} to {STAGE} in MLflow: {why}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, and what most registries still use
            MlflowClient(tracking_uri=self._stack.tracking_uri).transition_model_version_stage(
                MODEL, str(version), STAGE, archive_existing_versions=True
            )

    def _rolled_out(self, version: int, outcome: Outcome, deadline_s: float) -> None:
        """Watch until the version's rollout has ended as it should. Raises WentWrong where it ends otherwise."""

        def ended(scene: Scene) -> bool:
            for record in scene.history:
                if record.version == version and record.outcome is not outcome:
                    why = "; ".join(record.cause.reasons) if record.cause else "no cause is recorded"
                    raise WentWrong(f"v{version} should have been {outcome}, and was {record.outcome}: {why}")
            done = any(record.version == version for record in scene.history)
            return done and scene.release is not None and scene.release.phase is Phase.STEADY

        self._await(f"v{version} to be {_words(outcome)}", deadline_s, ended)
        self._timeline.say(f"v{version} was {_words(outcome)}")

    def _at_rest(self, scene: Scene) -> bool:
        stages = self._stack.registry_stages(MODEL)
        return _serves(scene.release, 2) and stages.get("3") == "Archived" and self._stack.git_equals_ray()

    def _stays_down(self) -> None:
        """Watch some more: no rollout may start. Raises WentWrong where one does."""
        self._timeline.say(f"v3 is in quarantine: watching for {STAYS_DOWN_S:g} s that it stays down")
        until = time.monotonic() + STAYS_DOWN_S
        while time.monotonic() < until:
            release = self._calmly(self._look).release
            if release is None or release.phase is not Phase.STEADY:
                raise WentWrong(f"after the rollback the release should be STEADY, and is {release and release.phase}")
            self._pause.wait(POLL_S)

    def _await(self, what: str, deadline_s: float, done: Callable[[Scene], bool]) -> None:
        """Look and show until `done` says so. Raises WentWrong at the deadline, with the last scene in words."""
        until = time.monotonic() + deadline_s
        last: Scene | Retry | None = None
        while time.monotonic() < until:
            try:
                last = self._look()
                if done(last):
                    return
            except Retry as busy:  # a part of the stack that is busy for a moment; the deadline bounds it
                last = busy
            self._pause.wait(POLL_S)
        raise WentWrong(f"waited {deadline_s:g} s for {what}; {_seen(last)}")

    def _calmly(self, read: Callable[[], Read]) -> Read:
        """Read once more, and again, where a part of the stack is busy. Raises Retry when that lasts too long."""
        until = time.monotonic() + BUSY_DEADLINE_S
        while True:
            try:
                return read()
            except Retry:
                if time.monotonic() > until:
                    raise
            self._pause.wait(POLL_S)

    def _look(self) -> Scene:
        """One look at everything, shown."""
        if self._load is not None:
            self._requests = self._load.counters()
        scene = Scene(
            now=datetime.now(UTC),
            release=self._stack.release(MODEL),
            history=self._stack.history(MODEL),
            waiting=self._stack.waiting(MODEL),
            requests=self._requests,
        )
        self._timeline.show(scene)
        return scene


def _quarantine(release: Release | None) -> Sequence[Quarantined]:
    return release.quarantine if release else ()


def _serves(release: Release | None, version: int) -> bool:
    """Is that version stable, with nothing else under way?"""
    stable = release.stable if release and release.phase is Phase.STEADY else None
    return stable is not None and stable.version == version


def _words(outcome: Outcome) -> str:
    return outcome.value.replace("_", " ")


def _seen(last: Scene | Retry | None) -> str:
    """The last look in words."""
    if isinstance(last, Retry):
        return f"the last look found {last}"
    if last is None or last.release is None:
        return "there was no release in Git"
    waiting = f", waiting: {last.waiting.reason}" if last.waiting else ""
    return f"the last look showed {last.release.phase} at {last.release.weight_percent} %{waiting}"
