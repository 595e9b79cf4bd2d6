"""The command `sluice` where it needs no real parts but Git: what it prints where, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines import stack_file, status_file
from pipelines.cli import app
from pipelines.commands.asks import ask
from pipelines.commands.init import Answers, repo_files
from pipelines.reconciler import Tick
from policies.actions import Wait
from policies.errors import BadInput
from policies.layout import history_path, release_path
from policies.release import Cause, CauseKind, Outcome, Phase, Quarantined, Release, Wish
from policies.rollout_record import HistoryRecord
from policies.stored_documents import history_text, release_text
from serving_runtime.serve_config import render
from serving_runtime.serve_config import text as serve_text
from tests.fakes.repo import FakeRepo
from tests.simulation.world import BAD, HEALTHY, World
from tests.unit.releases import MINUTE, NOW, application, rolling, steady
from tests.unit.test_serve_config import AROUND, to_serve

ROOT = Path(__file__).parents[2]
RELEASE = "environments/production/releases/fraud.yaml"
HEAVY = ("mlflow", "ray", "torch", "great_expectations", "pandas", "git", "fastapi", "numpy", "scipy", "requests")


def sluice(*arguments: str | Path, **environment: str) -> Result:
    """Run the command in this process, in an environment without the variables of ours."""
    given = {"SLUICE_REPO": None, "SLUICE_BRANCH": None, "SLUICE_GIT_TOKEN": None, "NO_COLOR": "1", **environment}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=given)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, and a home below it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def config_repo(folder: Path, *releases: Release, history: tuple[HistoryRecord, ...] = ()) -> Path:
    """A bare repo with what `sluice init` writes and these releases, as a Git server would hold it."""
    work = folder / "work"
    assert sluice("init", work, "--model", "fraud").exit_code == 0
    files = {release_path(r.environment, r.model): release_text(r) for r in releases}
    files |= {history_path(h.environment, h.model, h.rollout): history_text(h) for h in history}
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text, encoding="utf-8")
    git(work, "init", "-q", "-b", "main")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "a config repo")
    git(folder, "clone", "-q", "--bare", str(work), "config.git")
    return folder / "config.git"


def test_pull_reports_what_it_could_and_could_not_do(here: Path) -> None:
    repo = config_repo(here)
    work, report = here / "work", here / "report.json"
    sluice_yaml = (work / "sluice.yaml").read_text(encoding="utf-8")
    edges = 'edges:\n  store-17: {follows: production, ray: {dashboard: "http://127.0.0.1:1"}}\n'
    (work / "sluice.yaml").write_text(sluice_yaml + edges, encoding="utf-8")
    path = work / "environments/store-17/serve.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(serve_text(render([to_serve(steady(1))], AROUND)), encoding="utf-8")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "an edge")
    git(work, "push", "-q", str(repo), "main")
    pulled = sluice("pull", "store-17", "--repo", repo, "--once", "--report", report)
    assert pulled.exit_code == 1
    assert "problem: Ray cannot be seen" in pulled.output
    said = json.loads(report.read_text())
    assert (said["edge"], said["in_place"]) == ("store-17", False)
    assert said["commit"] == git(repo, "rev-parse", "main")
    nobody = sluice("pull", "store-99", "--repo", repo, "--once")
    assert (nobody.exit_code, "sluice.yaml has no edge store-99; it has store-17" in nobody.output) == (1, True)


def test_nothing_that_looks_like_a_secret_is_repeated(here: Path) -> None:
    repo, token = config_repo(here, rolling(Phase.CANARY, weight=10)), "ghp_" + "a1B2" * 9
    said = here / "status.json"
    waits = (Wait(model="fraud", environment="production", reason=f"the metric {token} is not logged"),)
    status_file.write(said, Tick(at=NOW, plan=None, waits=waits, problems=(f"no {token}",)))
    for output in ("text", "json"):
        shown = sluice("status", "--status-file", said, "--repo", repo, "-o", output)
        assert (shown.exit_code, "not shown" in shown.output, token in shown.output) == (0, True, False)
    work = here / "work"
    (work / "models/fraud.yaml").write_text(f"apiVersion: sluicegate/v1\nkind: Model\nname: fraud\n{token}: 1\n")
    git(work, "commit", "-q", "-a", "-m", "a key")
    git(work, "push", "-q", str(repo), "main")
    for command in (["lint", work], ["lint", work, "-o", "json"], ["plan", "--repo", repo], ["status", "--repo", repo]):
        shown = sluice(*command)
        assert ("not shown" in shown.output, token in shown.output) == (True, False), command
    assert token not in said.read_text(encoding="utf-8")


def test_nothing_that_others_said_moves_the_cursor_or_begins_another_line(here: Path) -> None:
    """What was committed by hand is printed too."""
    repo = config_repo(here, rolling(Phase.CANARY, weight=10))
    said, wait = here / "status.json", "odd \x1b[31mred\x07 \u202e\nSluice-Verdict: PASS"
    waits = (Wait(model="fraud", environment="production", reason=wait),)
    status_file.write(said, Tick(at=NOW, plan=None, waits=waits))
    for command in (["status", "--status-file", said], ["explain"], ["history"]):
        shown = sluice(*command, "--repo", repo)
        assert shown.exit_code == 0
        assert all(line.isprintable() for line in shown.output.split("\n")), command
    assert "\nSluice-Verdict" not in sluice("status", "--status-file", said, "--repo", repo).output


def in_memory(release: Release) -> FakeRepo:
    return FakeRepo({**repo_files(Answers(models=("fraud",))), RELEASE: release_text(release)})


def record(version: int, outcome: Outcome, model: str = "fraud") -> HistoryRecord:
    rolled = rolling(Phase.SHADOW).rollout
    assert rolled is not None
    return HistoryRecord(
        model=model,
        environment="production",
        rollout=f"r{version}",
        version=version,
        digest=application(version).digest,
        stable_version=version - 1 or None,
        outcome=outcome,
        started_at=NOW + version * MINUTE,
        ended_at=NOW + (version + 1) * MINUTE,
        cause=None,
        phases=rolled.records,
    )


# --- as a program -------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    watch = (
        "import json, sys\n"
        "from pipelines import cli\n"
        "try:\n    cli.main()\n"
        "finally:\n    print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "Carries models" in done.stdout
    imported = json.loads(done.stderr.splitlines()[-1])
    assert "typer" in imported
    assert [name for name in HEAVY if name in imported] == []


def test_the_console_script_is_this_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "schema"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [
        "Sluice",
        "Model",
        "Ensemble",
        "RolloutPolicy",
        "SLO",
        "RepoRules",
        "Release",
        "AcceptedHistory",
        "RayService",
        "Record",
        "HistoryRecord",
    ]


def test_no_command_shows_the_help() -> None:
    result = sluice()
    assert "Usage" in result.output
    assert result.exit_code == 2


# --- init, lint, schema -------------------------------------------------------------------------------------------


def test_init_then_lint_then_the_schemas(here: Path) -> None:
    made = sluice("init", "config", "--model", "fraud", "--model", "spam", "--alias", "champion", "--environment", "eu")
    assert made.exit_code == 0
    assert "models/fraud.yaml" in made.stdout.splitlines()
    assert "git init -b main" in made.stderr
    assert "alias: champion" in (here / "config" / "sluice.yaml").read_text()

    checked = sluice("lint", "config")
    assert (checked.exit_code, checked.stdout) == (0, "nothing to report\n")

    written = sluice("schema", "--write", "schemas")
    assert sorted(written.stdout.split()) == sorted(f"schemas/{path.name}" for path in (here / "schemas").iterdir())
    assert json.loads(sluice("schema", "Model").stdout)["title"] == "Model"


@pytest.mark.usefixtures("here")
def test_a_repo_is_not_overwritten() -> None:
    sluice("init", "config")
    again = sluice("init", "config")
    assert again.exit_code == 1
    assert again.stdout == ""
    assert again.stderr.startswith("sluice: ")
    assert "is not overwritten" in again.stderr


def test_two_triggers_are_refused_in_words(here: Path) -> None:
    result = sluice("init", "config", "--stage", "Staging", "--tag", "deploy=yes")
    assert result.exit_code == 1
    assert result.stderr == "sluice: a trigger is one of --stage, --alias and --tag\n"
    assert not (here / "config").exists()


def test_lint_ends_with_1_where_a_repo_is_broken(here: Path) -> None:
    sluice("init", "config", "--model", "fraud")
    document = here / "config" / "models" / "fraud.yaml"
    document.write_text(document.read_text().replace("rollout: default", "rolout: default"))

    shown = sluice("lint", "config")
    assert shown.exit_code == 1
    assert "models/fraud.yaml:" in shown.stdout
    assert "did you mean rollout?" in shown.stdout

    data = json.loads(sluice("lint", "config", "--output", "json").stdout)
    assert data["schema"] == 1
    (note,) = data["notes"]
    assert (note["severity"], note["file"], note["field"]) == ("error", "models/fraud.yaml", "rolout")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lint", "nowhere"), "nowhere is no folder"),
        (("schema", "Modell"), "there is no kind 'Modell'"),
        (("status",), "no config repo: give its address or folder with --repo or in SLUICE_REPO"),
        (("history", "--repo", "nowhere.git"), "nowhere.git"),
        (("pause", "fraud", "--why", "x"), "no config repo"),
        (("schema", "--write", "/dev/null/x"), "/dev/null"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_went_wrong_goes_to_stderr_with_exit_1(arguments: tuple[str, ...], words: str) -> None:
    result = sluice(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("sluice: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_usage_ends_with_2(here: Path) -> None:
    assert here.is_dir()
    assert sluice("pause", "fraud").exit_code == 2
    assert sluice("status", "--nothing").exit_code == 2


# --- status and history on a real clone ---------------------------------------------------------------------------


def test_a_new_repo_has_no_release_and_no_history(here: Path) -> None:
    repo = config_repo(here)
    assert sluice("status", "--repo", repo).stdout.startswith("no release yet")
    assert sluice("history", "--repo", repo).stdout == "no rollout has finished yet\n"
    assert json.loads(sluice("status", "--repo", repo, "-o", "json").stdout) == {
        "schema": 1,
        "releases": [],
        "problems": [],
    }


def test_status_says_phase_weight_and_what_is_queued(here: Path) -> None:
    cause = Cause(kind=CauseKind.ASKED, reasons=("Ada asked to pause: a sale",))
    release = rolling(Phase.PAUSED, weight=25, step=2, paused_from=Phase.CANARY, cause=cause, queued=4)
    repo = config_repo(here, release)

    shown = sluice("status", SLUICE_REPO=str(repo))
    assert shown.exit_code == 0
    head, why, queued = shown.stdout.splitlines()
    assert head.startswith("fraud (production): PAUSED, v1 serves; v2 at 25 % since ")
    assert why.strip() == "Ada asked to pause: a sale"
    assert queued.strip() == "v4 is queued"

    (one,) = json.loads(sluice("status", "--repo", repo, "--output", "json").stdout)["releases"]
    assert (one["phase"], one["weight_percent"], one["stable"], one["candidate"]) == ("PAUSED", 25, 1, 2)


def test_status_says_why_it_waits_from_the_reconcilers_last_words(here: Path) -> None:
    repo = config_repo(here, steady(1))
    wait = Wait(model="fraud", environment="production", reason="v2 is warming up", until=NOW)
    tick = Tick(at=NOW, plan=None, waits=(wait,), problems=("Prometheus is away",), again_after=timedelta(seconds=1))
    status_file.write(here / "words.json", tick)
    shown = sluice("status", "--repo", repo, "--status-file", "words.json")
    assert "v2 is warming up, until 12:00:00 UTC" in shown.stdout
    assert "Prometheus is away" in shown.stdout
    assert "warming up" not in sluice("status", "--repo", repo).stdout


def test_status_shows_releases_beside_a_broken_document_of_another_model(here: Path) -> None:
    repo, work = config_repo(here, steady(1)), here / "work"
    broken = (
        (work / "models/fraud.yaml").read_text().replace("fraud", "m2").replace("rollout: default", "rollout: nosuch")
    )
    (work / "models/m2.yaml").write_text(broken)
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "a slip")
    git(work, "push", "-q", str(repo), "main")
    shown = sluice("status", "--repo", repo)
    assert shown.exit_code == 0
    served, wrong = shown.stdout.splitlines()
    assert served.startswith("fraud (production): STEADY, v1 serves")
    assert wrong.startswith("models/m2.yaml:")
    assert "'nosuch' is not known here" in wrong
    data: dict[str, Any] = json.loads(sluice("status", "--repo", repo, "-o", "json").stdout)
    assert [one["model"] for one in data["releases"]] == ["fraud"]
    assert data["problems"] == [wrong]


def test_history_is_in_order_and_by_model(here: Path) -> None:
    records = (record(2, Outcome.ROLLED_BACK), record(1, Outcome.PROMOTED), record(3, Outcome.PROMOTED, "spam"))
    repo = config_repo(here, history=records)
    lines = [line for line in sluice("history", "--repo", repo).stdout.splitlines() if not line.startswith(" ")]
    assert [line.split(": ")[1].split(" after")[0] for line in lines] == ["promoted", "rolled_back", "promoted"]

    data: dict[str, Any] = json.loads(sluice("history", "--repo", repo, "--model", "fraud", "-o", "json").stdout)
    assert data["schema"] == 1
    assert [(one["version"], one["outcome"]) for one in data["rollouts"]] == [(1, "promoted"), (2, "rolled_back")]


def test_history_has_a_line_for_each_rollout_and_long_its_phases_and_arithmetic(here: Path) -> None:
    stopped = dataclasses.replace(
        record(2, Outcome.ROLLED_BACK), cause=Cause(kind=CauseKind.FAILED, reasons=("errors: 9 bad of 10",))
    )
    repo = config_repo(here, history=(record(1, Outcome.PROMOTED), stopped))
    assert sluice("history", "--repo", repo).stdout.splitlines() == [
        "2026-11-23 12:01:00 fraud (production) v1 the first version: promoted after 1m [r1]",
        "2026-11-23 12:02:00 fraud (production) v2 over v1: rolled_back after 1m (failed) [r2]",
    ]
    assert "SHADOW 0 %" in sluice("history", "--repo", repo, "--long").stdout


def rolled_out(folder: Path) -> tuple[Path, World]:
    """A config repo in which a reconciler has rolled v2 back."""
    world = World(7)
    for truth in (HEALTHY, BAD):
        world.promote(world.register(truth))
        world.settle()
    work = folder / "work"
    for path, text in world.repo.read().files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text, encoding="utf-8")
    git(work, "init", "-q", "-b", "main")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "a config repo")
    git(folder, "clone", "-q", "--bare", str(work), "config.git")
    return folder / "config.git", world


def test_explain_tells_the_latest_rollout_or_the_one_that_is_named(here: Path) -> None:
    repo, world = rolled_out(here)
    first, second = (history.rollout for history in world.history())
    latest = sluice("explain", "--repo", repo)
    assert latest.exit_code == 0
    assert latest.stdout.startswith("fraud (production): v2 over v1\n")
    assert "e-values at each look" in latest.stdout
    assert "v1 as the first version" in sluice("explain", first, "--repo", repo).stdout
    data: dict[str, Any] = json.loads(sluice("explain", second[:-3], "--repo", repo, "-o", "json").stdout)
    assert data["rollouts"][0]["rollout"] == second
    unknown = sluice("explain", "nonsense", "--repo", repo)
    assert unknown.exit_code == 1
    assert second in unknown.stderr


def test_replay_says_what_another_policy_would_have_done(here: Path) -> None:
    repo, world = rolled_out(here)
    second = world.history()[1].rollout
    same = sluice("replay", "--policy", "quick", "--rollout", second, "--repo", repo)
    assert same.exit_code == 0
    assert "by policy quick, the same: rolled back after" in same.stdout
    data: dict[str, Any] = json.loads(
        sluice("replay", "--policy", "default", "--since", "3650d", "--repo", repo, "-o", "json").stdout
    )
    assert [one["policy"] for one in data["replays"]] == ["default", "default"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay", "--policy", "quick"), "one of --rollout and --since"),
        (("replay", "--policy", "quick", "--rollout", "x", "--since", "7d"), "one of --rollout and --since"),
        (("replay", "--policy", "quick", "--since", "a week"), "--since: 'a week' is not a duration"),
        (
            ("replay", "--policy", "strict", "--since", "7d"),
            "there is no policy 'strict': name one of default, experiment, quick",
        ),
        (("replay", "--policy", "nowhere.yaml", "--since", "7d"), "nowhere.yaml"),
        (("analyze", "--model", "fraud", "--candidate", "2"), "say so with --dry-run"),
        (("analyze", "--dry-run", "--model", "fraud", "--candidate", "9"), "v9 does not run in production"),
        (("analyze", "--dry-run", "--model", "fraud", "--candidate", "1", "--window", "1x"), "--window: '1x' is not"),
    ],
)
def test_what_cannot_be_replayed_or_analyzed_is_refused_in_words(here: Path, arguments: Any, says: str) -> None:
    repo, _ = rolled_out(here)
    refused = sluice(*arguments, "--repo", repo)
    assert refused.exit_code == 1
    assert says in refused.stderr
    assert refused.stdout == ""


def test_an_analysis_of_what_no_prometheus_tells_is_no_pass(here: Path) -> None:
    repo, _ = rolled_out(here)
    done = sluice("analyze", "--dry-run", "--model", "fraud", "--candidate", "1", "--repo", repo, "-o", "json")
    assert done.exit_code == 2
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["verdicts"][0]["verdict"]["kind"] == "UNAVAILABLE"


def test_the_folder_itself_is_the_config_repo_where_nothing_else_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_repo(here, steady(1))
    monkeypatch.chdir(here / "work")
    assert sluice("status").stdout.startswith("fraud (production): STEADY, v1 serves")


# --- asking -------------------------------------------------------------------------------------------------------


def test_an_ask_is_a_commit_with_its_reason(here: Path) -> None:
    repo = config_repo(here, rolling(Phase.CANARY, weight=10))
    asked = sluice("pause", "fraud", "--why", "a sale starts in an hour", "--repo", repo, LOGNAME="ada")
    assert asked.exit_code == 0
    assert git(repo, "rev-parse", "main").startswith(asked.stdout.split()[3].rstrip(";"))
    said = git(repo, "log", "-1", "--format=%s%n%b", "main")
    assert said.startswith("fraud (production): ada asks to pause\n")
    assert "a sale starts in an hour" in said
    assert "Sluice-Ask: pause" in said
    assert "wish: pause" in git(repo, "show", "main:environments/production/releases/fraud.yaml")


def test_an_ask_goes_to_the_branch_that_is_named(here: Path) -> None:
    repo = config_repo(here, rolling(Phase.CANARY, weight=10))
    git(repo, "branch", "staging", "main")
    assert sluice("abort", "fraud", "--why", "leak", "--repo", repo, "--branch", "staging").exit_code == 0
    assert "asks to abort" in git(repo, "log", "-1", "--format=%s", "staging")
    assert git(repo, "log", "-1", "--format=%s", "main") == "a config repo"


def test_asking_where_no_rollout_runs_is_refused(here: Path) -> None:
    repo = config_repo(here, steady(1))
    quiet = sluice("resume", "fraud", "--why", "go", "--repo", repo)
    assert quiet.exit_code == 1
    assert "no rollout is running" in quiet.stderr
    other = sluice("resume", "spam", "--why", "go", "--repo", repo)
    assert "the releases are of: fraud" in other.stderr


# --- a local stack in this folder ---------------------------------------------------------------------------------


def test_a_stack_in_this_folder_counts_where_no_other_repo_is_named(here: Path) -> None:
    stacks, other = here / "a", here / "b"
    stacks.mkdir()
    other.mkdir()
    mine, theirs = config_repo(stacks, steady(1)), config_repo(other, steady(2))
    stack_file.write(here / ".sluice", {"SLUICE_REPO": str(mine)}, {})
    assert "v1 serves" in sluice("status").stdout
    assert "v2 serves" in sluice("status", "--repo", theirs).stdout
    assert "v2 serves" in sluice("status", SLUICE_REPO=str(theirs)).stdout


def test_a_broken_stack_file_is_told(here: Path) -> None:
    (here / ".sluice").mkdir()
    (here / ".sluice" / "stack.json").write_text("[]")
    result = sluice("status")
    assert result.exit_code == 1
    assert "is no file of `sluice up`" in result.stderr


def test_a_wish_that_would_change_nothing_is_refused_in_words(here: Path) -> None:
    repo = config_repo(here, rolling(Phase.CANARY, weight=10))
    early = sluice("resume", "fraud", "--why", "go", "--repo", repo)
    assert (early.exit_code, early.stderr) == (
        1,
        "sluice: 'fraud' is in CANARY, not paused: there is nothing to resume\n",
    )
    assert git(repo, "log", "-1", "--format=%s", "main") == "a config repo"


@pytest.mark.parametrize("wish", ["pause", "resume", "promote", "abort", "undo", "retry", "lift"])
def test_every_wish_is_a_commit_that_says_who_what_and_why(here: Path, wish: str) -> None:
    stopped = Quarantined(
        version=3, digest=application(3).digest, build=application(3).build, rollout="r1", since=NOW, reasons=("bad",)
    )
    running = rolling(Phase.PAUSED, weight=10, cause=Cause(kind=CauseKind.INCONCLUSIVE, reasons=("thin",)))
    idle = steady(2, served=(application(1),), quarantine=(stopped,))
    repo = config_repo(here, idle if wish in ("undo", "retry", "lift") else running)
    version = ["--version", "3"] if wish == "lift" else []
    asked = sluice(wish, "fraud", "--why", "she knows", *version, "--repo", repo, LOGNAME="ada")
    assert (asked.exit_code, asked.stderr) == (0, "")
    which = " v3" if wish in ("retry", "lift") else ""
    said = git(repo, "log", "-1", "--format=%s%n%b", "main")
    assert said.startswith(f"fraud (production): ada asks to {wish}{which}\n")
    assert "she knows" in said
    assert f"Sluice-Ask: {wish}" in said
    shown = git(repo, "show", "main:environments/production/releases/fraud.yaml")
    assert f"wish: {wish}" in shown
    assert ("  version: 3\n" in shown[shown.index("ask:") :]) is bool(which)


def test_retry_means_the_version_that_was_stopped_last() -> None:
    stopped = tuple(
        Quarantined(
            version=n,
            digest=application(n).digest,
            build=application(n).build,
            rollout="r",
            since=NOW - n * MINUTE,
            reasons=("bad",),
        )
        for n in (7, 3, 5)
    )
    repo = in_memory(steady(1, quarantine=stopped))
    ask(repo, Wish.RETRY, "fraud", None, by="ada", why="the feature store was broken")
    assert "asks to retry v3" in repo.log(1)[0].subject
    with pytest.raises(BadInput, match="say with --version"):
        ask(in_memory(steady(1)), Wish.RETRY, "fraud", None, by="ada", why="because")


@pytest.mark.parametrize(
    ("phase", "wish", "words"),
    [
        (Phase.WARMING, Wish.PROMOTE, "not warm"),
        (Phase.CANARY, Wish.UNDO, "v2 is on its way; abort it"),
        (Phase.CANARY, Wish.RETRY, "on its way"),
        (Phase.CANARY, Wish.LIFT, "needs --version"),
        (Phase.PAUSED, Wish.PAUSE, "is paused already"),
        (Phase.SHADOW, Wish.RESUME, "not paused"),
        (Phase.ROLLING_BACK, Wish.ABORT, "on its way back"),
        (Phase.ROLLING_BACK, Wish.PAUSE, "on its way back"),
        (Phase.ROLLING_BACK, Wish.RESUME, "on its way back"),
    ],
)
def test_what_can_be_asked_depends_on_the_phase(phase: Phase, wish: Wish, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ask(in_memory(rolling(phase)), wish, "fraud", None, by="ada", why="because")


def test_a_person_who_loses_a_race_is_not_told_to_try_again() -> None:
    repo = in_memory(rolling(Phase.CANARY, weight=10))
    repo.conflict_next_push({"environments/README.md": "somebody was faster"})
    commit = ask(repo, Wish.PAUSE, "fraud", None, by="ada", why="a sale")
    assert repo.branch_tip == commit
    assert "wish: pause" in repo.read().files[RELEASE]


def test_what_won_the_race_is_read_before_asking_again() -> None:
    repo = in_memory(rolling(Phase.CANARY, weight=10))
    repo.conflict_next_push({RELEASE: release_text(steady(2, revision=8))})
    with pytest.raises(BadInput, match="no rollout is running"):
        ask(repo, Wish.PAUSE, "fraud", None, by="ada", why="a sale")
    assert "wish" not in repo.read().files[RELEASE]


# --- accept-history -----------------------------------------------------------------------------------------------


def test_accept_history_commits_and_says_what_was_let_go(here: Path) -> None:
    repo = config_repo(here, steady())
    old = git(repo, "rev-parse", "main")
    work = here / "work"
    git(work, "commit", "-q", "--amend", "-m", "rewritten")
    git(repo, "update-ref", "refs/sluice/applied/production", old)
    git(work, "push", "-q", "--force", str(repo), "HEAD:main")
    tip = git(repo, "rev-parse", "main")
    said = sluice("accept-history", "--repo", repo, "-e", "production", "--commit", tip[:10], "--why", "so")
    assert said.exit_code == 0, said.output
    assert tip[:12] in said.output
    assert f"{old[:12]}, which was applied last, is let go" in said.output
    assert git(repo, "rev-parse", "main^") == tip
    assert git(repo, "log", "-1", "--format=%(trailers:key=Sluice-Accepted,valueonly)", "main") == tip
    assert git(repo, "show", "--name-only", "--format=", "main") == "environments/production/accepted-history.yaml"


def test_accept_history_of_what_is_not_there_says_the_tip(here: Path) -> None:
    repo = config_repo(here, steady())
    tip = git(repo, "rev-parse", "main")
    said = sluice("accept-history", "--repo", repo, "-e", "production", "--commit", "f" * 40, "--why", "so")
    assert said.exit_code == 1
    assert tip in said.output
    assert git(repo, "rev-parse", "main") == tip
