"""`sluice review --pull-request` at a forge of each dialect, on a real Git repo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from tests.contracts.forge_harness import BASE, ForgeServers, RealStage
from tests.fakes.config_clone import ConfigClone

SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger: {stage: Production}
forge: {kind: %s, url: "%s", repository: %s}
"""
MODEL = "apiVersion: sluicegate/v1\nkind: Model\nname: fraud\n"
RULES = "apiVersion: sluicegate/v1\nkind: RepoRules\nowners: [{paths: [models/], owners: [ada]}]\n"


@pytest.fixture(params=["github", "gitea", "gitlab"])
def stage(request: pytest.FixtureRequest, forge_servers: ForgeServers, tmp_path: Path) -> RealStage:
    found: RealStage = forge_servers.stage(request.param, tmp_path)
    sluice = SLUICE % (found.kind, found.server.url, found.hub.repository)
    push(found, BASE, {"sluice.yaml": sluice, "models/fraud.yaml": MODEL, "policies/rules.yaml": RULES})
    return found


def push(stage: RealStage, branch: str, files: dict[str, str], start: str = BASE) -> str:
    """What somebody pushes to the forge: a commit on top of `start`."""
    clone = ConfigClone(Path(stage.hub.git_dir))
    commit = clone.commit(files, stage.hub.tip(start))
    clone.branch(branch, commit)
    stage.hub.pushed()
    return commit


def run(stage: RealStage, number: int, *options: str) -> Any:
    command = ["review", str(stage.hub.git_dir), "--base", BASE, "--pull-request", str(number), *options]
    return CliRunner().invoke(app, command, env={"SLUICE_FORGE_TOKEN": "our-token"})


def test_a_pull_request_is_told_once_and_told_anew_when_it_is_approved(stage: RealStage) -> None:
    head = push(stage, "change", {"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"})
    number = stage.door.open("change", "Fewer at once", "").number
    refused = run(stage, number)
    assert (refused.exit_code, "needs an approval of ada" in refused.stdout) == (2, True)
    stage.approve(number, "ada")
    assert run(stage, number).exit_code == 0
    (comment,) = stage.comments(number)
    assert "nothing to object to" in comment
    told = [(commit, context, said) for commit, context, said in stage.statuses() if context == "sluice/review"]
    assert told == [(head, "sluice/review", "1 failure"), (head, "sluice/review", "nothing to object to")]


def test_an_approval_of_an_older_head_does_not_count(stage: RealStage) -> None:
    first = push(stage, "change", {"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"})
    number = stage.door.open("change", "Fewer at once", "").number
    stage.approve(number, "ada")
    push(stage, "change", {"models/fraud.yaml": MODEL + "max_ongoing_requests: 1000\n"}, start="change")
    assert run(stage, number).exit_code == 2
    moved = run(stage, number, "--head", first)
    assert (moved.exit_code, f"pull request {number} is at" in moved.stderr) == (1, True)


def test_people_come_from_the_forge_alone(stage: RealStage) -> None:
    push(stage, "change", {"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"})
    number = stage.door.open("change", "Fewer at once", "").number
    done = run(stage, number, "--approved-by", "ada")
    assert (done.exit_code, "come from the forge" in done.stderr) == (1, True)
    assert stage.comments(number) == []
