"""A local stack as the end-to-end stories see it: what a person and an operator do to it, and what is seen of it.

Rules:
- Looked at through the product's own doors and public addresses; changed only as people change it (MLflow's client,
  `git`, the `sluice` command) and as accidents do (SIGKILL, a part taken away).
- Every wait says what it waited for and, when it was in vain, what was seen instead.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from pipelines import status_file
from pipelines.demo.load import VERSION_HEADER, Load
from pipelines.demo.stack import DemoStack
from pipelines.local_stack import ENVIRONMENT, REPO, LocalStack
from pipelines.processes import log_end
from policies.application import Application, Settings
from policies.config_repo_documents import parse_repo
from policies.documents import RolloutPolicy
from policies.layout import release_path, serve_path
from policies.observations import ApplicationStatus
from policies.release import Phase, Release
from policies.rollout_record import HistoryRecord
from policies.stored_documents import release_text
from policies.strict_yaml import dump, parse
from registry_bridge.mlflow_registry import MlflowRegistry
from serving_runtime.serve_config import Surroundings, ToServe, render
from serving_runtime.serve_config import text as serve_text
from tests.conditions import wait_until
from tests.e2e.brisk_documents import RATE

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

ROOT = Path(__file__).parents[2]
MODEL_FILE = ROOT / "tests" / "fakes" / "served_model.py"

STAGE = "Production"
WHO = -1.0
"""The row that a model answers with its process id."""

ANSWER_S = 30.0
COMMAND_S = 60.0  # a command of ours starts in 1-3 s
STORY_S = 90.0  # one phase takes some seconds, a replica's start 5-15 s on two busy cores
CONNECTIONS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """A model that serves already when the story begins, and the `model_config` of each of its versions."""

    model: str
    configs: Sequence[Mapping[str, Any]]
    stable: int
    cpus: float = 0.5
    code: Path = MODEL_FILE


class World:
    """A stack without a reconciler yet, and everything that is done to it and seen of it."""

    def __init__(self, folder: Path, stack: LocalStack) -> None:
        self.stack = stack
        self._folder = folder
        self._view = DemoStack(stack)
        self._seen: dict[str, tuple[str, Release | None]] = {}

    # --- beginning ------------------------------------------------------------------------------------------------

    def begin(self, models: Sequence[Begun]) -> None:
        """Register every version and commit what serves, as a config repo would have it on a cluster that is new."""
        logged = self._log([(begun.code, config) for begun in models for config in begun.configs])
        registry = MlflowRegistry(self.stack.tracking_uri, self._folder)
        releases = {}
        for begun in models:
            self._client.create_registered_model(begun.model)
            for config in begun.configs:
                model_id = logged[_key(begun.code, config)]
                self._client.create_model_version(begun.model, source=f"models:/{model_id}", model_id=model_id)
            self.promote(begun.model, begun.stable)
            digest = registry.artifact(begun.model, begun.stable).digest
            stable = Application(version=begun.stable, digest=digest, settings=Settings(cpus=begun.cpus))
            releases[begun.model] = Release(
                model=begun.model,
                environment=ENVIRONMENT,
                revision=1,
                traffic_revision=1,
                stable=stable,
                seen=(begun.stable,),
            )
        self._commit_releases(releases)

    def _log(self, wanted: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, str]:
        """Log one artifact for each code with each config; MLflow's id of it by key."""
        import mlflow
        import pandas as pd
        from mlflow.models import infer_signature

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self.stack.tracking_uri)
        example = pd.DataFrame({"x": [1.0]})
        signature = infer_signature(example, [1.0])
        ids = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for key, (code, config) in {_key(*each): each for each in wanted}.items():
                    with mlflow.start_run():
                        logged = mlflow.pyfunc.log_model(
                            name="model",
                            python_model=str(code),
                            model_config=dict(config),
                            signature=signature,
                            input_example=example,
                            pip_requirements=["mlflow"],
                        )
                    ids[key] = logged.model_id
        finally:
            mlflow.set_tracking_uri(before)
        return ids

    def _commit_releases(self, releases: Mapping[str, Release]) -> None:
        tip = self.stack.repo.read()
        documents = parse_repo(tip.files).models
        policy = RolloutPolicy(name="default")  # nothing is rolled out: it says nothing
        served = [
            ToServe(release=release, model=documents[model], policy=policy, objectives=())
            for model, release in releases.items()
        ]
        changes = {release_path(ENVIRONMENT, model): release_text(release) for model, release in releases.items()}
        changes[serve_path(ENVIRONMENT)] = serve_text(
            render(served, Surroundings(tracking_uri=self.stack.tracking_uri))
        )
        self.stack.repo.commit(tip.commit, changes, "What serves already\n")

    # --- what people do -------------------------------------------------------------------------------------------

    def promote(self, model: str, version: int) -> None:
        """A person moves a version to the stage; the one there before is archived, as MLflow's page does it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client.transition_model_version_stage(model, str(version), STAGE, archive_existing_versions=True)

    def tag(self, model: str, version: int, key: str, value: str) -> None:
        """A person tags a version."""
        self._client.set_model_version_tag(model, str(version), key, value)

    def clone(self, name: str) -> Clone:
        """A person's own clone of the config repo."""
        return Clone(self._folder / name, self.stack.repo_url)

    def sluice(self, *arguments: str, stack: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line as a process."""
        place = ["--stack", str(self.stack.folder)] if stack else []
        return subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *arguments, *place],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    # --- what accidents do ----------------------------------------------------------------------------------------

    def kill_reconciler(self) -> None:
        """SIGKILL, and wait until it is gone with all that it started."""
        reconciler = self.stack.reconciler
        assert reconciler is not None
        os.kill(reconciler.pid, signal.SIGKILL)
        wait_until(lambda: not reconciler.running, ANSWER_S, "the killed reconciler gone")

    def kill_replica(self, model: str, version: int) -> int:
        """SIGKILL a replica of a version that answers users now; its process id."""
        victim = self.replica_of(model, version)
        os.kill(victim, signal.SIGKILL)
        return victim

    # --- what is seen ---------------------------------------------------------------------------------------------

    def replica_of(self, model: str, version: int) -> int:
        """The process id of a replica of a version that answers users now."""
        answers: list[requests.Response] = []

        def answered() -> bool:
            answers.append(self.ask(model, WHO))
            return answers[-1].ok and answers[-1].headers[VERSION_HEADER] == str(version)

        wait_until(answered, STORY_S, f"an answer by v{version} of {model}")
        return int(answers[-1].json()["predictions"][0])

    def replicas(self, model: str) -> set[int]:
        """Process ids of the replicas that answer users now: the chance to miss one of two is 1 in 128."""
        return {int(self.ask(model, WHO).json()["predictions"][0]) for _ in range(8)}

    def exported(self, metric: str, model: str) -> Counter[tuple[str, str]]:
        """Values by version and outcome, as Ray exports them now."""
        return exported(self.stack.ray, metric, model)

    def release(self, model: str) -> Release | None:
        """At the tip of the branch. A fetch costs 50 ms of CPU, so it is read again only when the branch has moved."""
        head = self.head
        if self._seen.get(model, ("", None))[0] != head:
            self._seen[model] = (head, self._view.release(model))
        return self._seen[model][1]

    @property
    def head(self) -> str:
        """The branch's commit, from the server's own folder."""
        return (self.stack.folder / "git" / f"{REPO}.git" / "refs" / "heads" / "main").read_text().strip()

    def await_release(self, model: str, wanted: Callable[[Release], object], what: str) -> Release:
        """The first release at the tip that is as wanted."""

        def there() -> bool:
            release = self.release(model)
            return release is not None and bool(wanted(release))

        self.wait(there, f"{model} {what}", lambda: in_words(self.release(model)))
        release = self.release(model)
        assert release is not None
        return release

    def await_phase(self, model: str, phase: Phase, weight_percent: int, *, live: bool = False) -> Release:
        """A release in this phase with this weight; `live` when every replica has it."""

        def wanted(release: Release) -> bool:
            here = (release.phase, release.weight_percent) == (phase, weight_percent)
            return here and (not live or (release.rollout is not None and bool(release.rollout.current.live_since)))

        return self.await_release(model, wanted, f"in {phase} at {weight_percent} %")

    def await_steady(self, model: str, version: int) -> Release:
        """Nothing under way, this version serves, and Ray runs what Git says."""
        release = self.await_release(
            model,
            lambda r: r.phase is Phase.STEADY and r.stable and r.stable.version == version,
            f"STEADY with v{version}",
        )
        self.wait(self.once_a_look(self._view.git_equals_ray), "Ray as Git says", lambda: "it differs")
        return release

    def once_a_look(self, condition: Callable[[], bool]) -> Callable[[], bool]:
        """The condition, asked after each look of the reconciler: what costs CPU must not slow what it waits for."""
        asked: list[datetime] = []

        def look() -> bool:
            said = self.said
            if said is None or said.at in asked:
                return False
            asked.append(said.at)
            return condition()

        return look

    def await_looks(self, number: int) -> None:
        """The reconciler has ended so many ticks more: what follows from the tip as it is was done in the first."""
        seen: set[datetime] = set()

        def enough() -> bool:
            said = self.said
            seen.update([said.at] if said else [])
            return len(seen) > number  # the first was there before

        self.wait(enough, f"{number} looks", lambda: f"{len(seen) - 1} looks")

    @property
    def said(self) -> status_file.Said | None:
        """The reconciler's last words."""
        return status_file.read(self.stack.status_path)

    def waits(self, model: str) -> str:
        """Why this model waits, in the reconciler's words."""
        wait = self._view.waiting(model)
        return wait.reason if wait else ""

    def problems(self) -> str:
        """What went wrong, in the reconciler's words."""
        said = self.said
        return "; ".join(said.problems) if said else ""

    def wait(
        self, condition: Callable[[], object], what: str, instead: Callable[[], str], within_s: float = STORY_S
    ) -> None:
        """Wait; in vain, say what is there instead, and the reconciler's last words and lines."""
        try:
            wait_until(condition, within_s, what)
        except AssertionError as error:
            said = self.said
            waits = "; ".join(f"{w.model}: {w.reason}" for w in said.waits) if said else ""
            log = log_end(self.stack.folder / "reconciler.log")
            words = [str(error), f"instead: {instead()}", f"waits: {waits}", f"problems: {self.problems()}", log]
            raise AssertionError("\n".join(words)) from None

    def records(self, model: str) -> tuple[HistoryRecord, ...]:
        """Finished rollouts, oldest first."""
        return self._view.history(model)

    def commits(self, rollout: str) -> list[str]:
        """Subjects of one rollout's commits, oldest first."""
        return self._view.commits(rollout)

    def stages(self, model: str) -> Mapping[str, str]:
        """Stage in the registry by version."""
        return self._view.registry_stages(model)

    def tags(self, model: str, version: int) -> Mapping[str, str]:
        """Tags in the registry, without our prefix for the environment."""
        prefix = f"sluice.{ENVIRONMENT}."
        return {k.removeprefix(prefix): v for k, v in self._view.registry_tags(model, version).items()}

    def applications(self, model: str) -> set[str]:
        """Names of the model's applications in Ray, without those on their way out."""
        shown = self.stack.ray.cluster.observe().applications.values()
        here = (a.name for a in shown if a.status is not ApplicationStatus.DELETING)
        return {name for name in here if name.startswith(f"{model}--")}

    def git_equals_ray(self) -> bool:
        """Does Ray run exactly what the tip says?"""
        return self._view.git_equals_ray()

    # --- requests -------------------------------------------------------------------------------------------------

    def url(self, model: str) -> str:
        """Where its rows are posted."""
        return f"{self.stack.ray.http}/models/{model}/invocations"

    def ask(self, model: str, value: float) -> requests.Response:
        """One row."""
        headers = {"content-type": "application/json"}
        return requests.post(self.url(model), data=body(value), headers=headers, timeout=ANSWER_S)

    def load(self, model: str, rows: Sequence[float] = (1.0, 2.0, 3.0)) -> Load:
        """A steady load, not started."""
        return Load(self.url(model), [body(row) for row in rows], rate=RATE, connections=CONNECTIONS)

    def await_answers(self, load: Load, more: int) -> None:
        """So many more good answers under this load."""
        before = load.counters()
        goal = before.sent - before.failed + more

        def answered() -> bool:
            now = load.counters()
            return now.live and now.sent - now.failed >= goal

        self.wait(answered, f"{more} more answers", lambda: str(load.counters()))

    def await_answers_by(self, load: Load, version: str) -> None:
        """Good answers by this version under this load."""
        self.wait(lambda: version in load.counters().by_version, f"answers by v{version}", lambda: str(load.counters()))

    @property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.stack.tracking_uri, registry_uri=self.stack.tracking_uri)


class Clone:
    """A person's clone: real `git`, a person's name."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._run(["git", "clone", "--quiet", url, str(folder)])

    def git(self, *arguments: str) -> str:
        """Run git in the clone. Fails with git's own words."""
        who = ["-c", "user.name=Petra Person", "-c", "user.email=petra@example.org"]
        return self._run(["git", "-C", str(self.folder), *who, *arguments])

    def commit_of(self, words: str) -> str:
        """The newest commit whose subject has these words."""
        return self.git("log", "-1", "--format=%H", "--fixed-strings", f"--grep={words}").strip()

    def push(self, changes: Mapping[str, str], subject: str) -> None:
        """Write files, commit, push."""
        for path, text in changes.items():
            (self.folder / path).write_text(text, encoding="utf-8")
        self.git("commit", "--quiet", "--all", "-m", subject)
        self.git("push", "--quiet")

    def revert(self, commit: str) -> None:
        """`git revert`, and push."""
        self.git("revert", "--no-edit", commit)
        self.git("push", "--quiet")

    @staticmethod
    def _run(command: Sequence[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout


def in_words(release: Release | None) -> str:
    """Where a release is."""
    if release is None:
        return "no release"
    stable, candidate = release.stable, release.candidate
    versions = f"stable v{stable and stable.version}, candidate v{candidate and candidate.version}"
    cause = release.rollout.cause if release.rollout else None
    return f"{release.phase} {release.weight_percent} %, {versions}, cause {cause}"


def _key(code: Path, config: Mapping[str, Any]) -> str:
    return f"{code.name} {json.dumps(config)}"


def body(value: float) -> str:
    """One row as MLflow's scoring protocol has it."""
    return json.dumps({"inputs": {"x": [value]}})


def exported(ray: RaySession, metric: str, slug: str) -> Counter[tuple[str, str]]:
    """Values of a model's series by version and outcome (of a gauge: ""), as Ray exports them now."""
    counts: Counter[tuple[str, str]] = Counter()
    for group in json.loads(ray.discovery.read_text()):
        for target in group["targets"]:
            for line in requests.get(f"http://{target}/metrics", timeout=ANSWER_S).text.splitlines():
                if line.startswith(f"{metric}{{") and f'model="{slug}"' in line:
                    labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                    counts[labels.get("version", ""), labels.get("outcome", "")] += int(float(line.rsplit(" ", 1)[1]))
    return counts


def ask_people(stack: LocalStack, url: str) -> None:
    """A person writes that people agree before a rollout, at the test forge behind `url`."""
    tip = stack.repo.read()
    said = parse(tip.files["sluice.yaml"], "sluice.yaml").data
    said["environments"][ENVIRONMENT]["review"] = "required"
    said["forge"] = {"kind": "gitea", "url": url, "repository": f"team/{REPO}"}
    stack.repo.commit(tip.commit, {"sluice.yaml": dump(said)}, "People agree before a rollout\n")


def clear(ray: RaySession) -> None:
    """Have every application deleted; the control door refuses to, on purpose. Who comes next need not wait."""
    url = f"{ray.dashboard}/api/serve/applications/"
    token = Path(ray.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert requests.put(url, json={"applications": []}, headers=headers, timeout=ANSWER_S).ok
