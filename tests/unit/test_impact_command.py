"""`sluice impact`: a folder against a commit, and what a cluster has, asked where the commit says it is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.impact import EnvironmentImpact, as_data, impacts, lines, of_folder
from pipelines.defaults import built_in_documents
from pipelines.field_examples import EXAMPLES, repos
from policies.capacity import Capacity, Node
from policies.config_repo_documents import ConfigRepo, parse_repo, with_defaults
from policies.documents import RayTarget
from policies.errors import BadInput, Retry
from policies.impact import Effect
from policies.layout import release_path
from policies.release import Phase, Release
from policies.stored_documents import release_text
from tests.unit.releases import application, rolling, steady

SLUICE = """apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger: {stage: Production}
    ray: {dashboard: "http://127.0.0.1:1"}
"""
MODEL = "apiVersion: sluicegate/v1\nkind: Model\nname: fraud\n"
CPUS = f"{MODEL}settings: {{cpus: 2}}\n"


SERVES_V1 = steady(1)


def files(release: Release | None = SERVES_V1, model: str = MODEL, sluice: str = SLUICE) -> dict[str, str]:
    there = {release_path("production", "fraud"): release_text(release)} if release else {}
    return {"sluice.yaml": sluice, "models/fraud.yaml": model, **there}


def repo(**written: Any) -> ConfigRepo:
    return parse_repo(with_defaults(files(**written), built_in_documents()))


def only(found: tuple[EnvironmentImpact, ...]) -> EnvironmentImpact:
    (environment,) = found
    return environment


# --- documents ----------------------------------------------------------------------------------------------------


def test_new_settings_are_shown_as_they_are_once_they_are_rolled_out() -> None:
    found = only(impacts(repo(), repo(model=CPUS), None))
    starts, stops = found.impact.deployments
    assert starts.replaces == stops.application == application(1).name("fraud")
    assert starts.application == application(1, cpus=2.0).name("fraud")
    assert found.impact.extra_meanwhile == {"CPU": 2.0}


def test_settings_that_were_waiting_before_are_not_this_changes_doing() -> None:
    found = only(impacts(repo(model=CPUS), repo(model=f"{CPUS}max_ongoing_requests: 8\n"), None))
    (told,) = found.impact.deployments
    assert told.effects == (Effect.IN_PLACE,)


def test_a_model_without_a_version_starts_nothing_and_says_when() -> None:
    other = parse_repo(with_defaults({"sluice.yaml": SLUICE}, built_in_documents()))
    found = only(impacts(other, repo(release=None), None))
    assert found.impact.deployments == ()
    assert found.remarks == ("fraud is new: nothing starts before a version is at stage Production",)


def test_new_settings_wait_for_a_rollout_that_is_under_way() -> None:
    running = rolling(Phase.CANARY, weight=10)
    found = only(impacts(repo(release=running), repo(release=running, model=CPUS), None))
    assert found.impact.deployments == ()
    assert found.remarks == ("fraud: a rollout is under way, and its new settings are rolled out after that",)


def test_an_environment_that_goes_is_served_on() -> None:
    elsewhere = SLUICE.replace("production:", "elsewhere:")
    found = {each.environment: each for each in impacts(repo(), repo(release=None, sluice=elsewhere), None)}
    assert found.keys() == {"production", "elsewhere"}
    assert "serves on" in found["production"].remarks[0]


# --- the cluster --------------------------------------------------------------------------------------------------


def test_the_cluster_is_asked_where_the_commit_says_it_is() -> None:
    """The token goes there: an address that a change brings is anybody's."""
    asked: list[str] = []

    def ask(target: RayTarget) -> Capacity:
        asked.append(target.dashboard)
        return Capacity(nodes=(Node(total={"CPU": 4}, free={"CPU": 1}),))

    moved = SLUICE.replace("127.0.0.1:1", "elsewhere:8265")
    found = only(impacts(repo(), repo(model=CPUS, sluice=moved), ask))
    assert asked == ["http://127.0.0.1:1"]
    assert found.impact.shortage == ("2 CPU more is reserved meanwhile, 1 CPU is free: 1 CPU is missing",)


def test_the_cluster_of_a_new_environment_is_not_asked() -> None:
    asked: list[RayTarget] = []

    def ask(target: RayTarget) -> Capacity:
        asked.append(target)
        return Capacity(nodes=())

    elsewhere = SLUICE.replace("production:", "elsewhere:")
    before, after = repo(release=None, sluice=elsewhere), repo()
    found = {each.environment: each.unknown for each in impacts(before, after, ask)}
    assert found == {"elsewhere": "", "production": "the environment is new"}
    assert len(asked) == 1


def test_a_cluster_that_is_away_leaves_the_rest_said() -> None:
    def away(_: RayTarget) -> Capacity:
        raise Retry("no answer in time")

    found = impacts(repo(), repo(model=CPUS), away)
    said = "\n".join(lines(found))
    assert "what the cluster has is not known" in said
    assert "no answer in time" in said
    assert as_data(found)[0]["capacity"] is None


def test_data_is_json() -> None:
    for example in EXAMPLES:
        assert json.dumps(as_data(impacts(*repos(example), None)), default=str)


# --- a folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    write(tmp_path, files())
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, "as it serves")
    return tmp_path


def write(folder: Path, texts: Mapping[str, str]) -> None:
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def git(folder: Path, *command: str) -> None:
    own = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(("git", *own, *command), cwd=folder, check=True, capture_output=True)


def commit(folder: Path, subject: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", subject)


def test_what_is_not_committed_counts(clone: Path) -> None:
    assert only(of_folder(clone, "HEAD", None)).impact.deployments == ()
    write(clone, {"models/fraud.yaml": CPUS})
    assert len(only(of_folder(clone, "HEAD", None)).impact.deployments) == 2


def test_what_others_merged_meanwhile_is_not_this_changes_doing(clone: Path) -> None:
    git(clone, "checkout", "--quiet", "-b", "mine")
    write(clone, {"models/fraud.yaml": f"{MODEL}max_ongoing_requests: 8\n"})
    commit(clone, "mine")
    git(clone, "checkout", "--quiet", "main")
    write(clone, files(release=dataclasses.replace(steady(3), revision=9)))
    commit(clone, "a promotion")
    git(clone, "checkout", "--quiet", "mine")
    (told,) = only(of_folder(clone, "main", None)).impact.deployments
    assert told.effects == (Effect.IN_PLACE,)


def test_documents_that_cannot_be_read_are_said(clone: Path) -> None:
    write(clone, {"models/fraud.yaml": f"{MODEL}surprise: 1\n"})
    with pytest.raises(BadInput, match="surprise"):
        of_folder(clone, "HEAD", None)


@pytest.mark.parametrize("shown", ["text", "json"])
def test_the_command_says_it(clone: Path, shown: str) -> None:
    write(clone, {"models/fraud.yaml": CPUS})
    answer = CliRunner().invoke(app, ["impact", str(clone), "--base", "main", "-o", shown])
    assert answer.exit_code == 0, answer.output
    name = application(1, cpus=2.0).name("fraud")
    if shown == "json":
        (environment,) = json.loads(answer.stdout)["environments"]
        assert environment["deployments"][0]["application"] == name
        assert "cannot be reached" in environment["unknown"]
    else:
        assert f"  {name}: starts, moves traffic" in answer.stdout
        assert "cannot be reached" in answer.stdout


def test_the_command_refuses_what_is_no_clone(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["impact", str(tmp_path), "--no-cluster"])
    assert answer.exit_code == 1
    assert "no Git repo" in answer.output
