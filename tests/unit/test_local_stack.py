"""What the local stack promises before anything is started."""

from __future__ import annotations

import shutil
import socket

import pytest
import typer.main

from pipelines.cli import app
from pipelines.commands.init import Answers, repo_files
from pipelines.commands.lint import linted
from pipelines.local_stack import LOOK, SCRAPE, LocalStack, _only_one
from pipelines.processes import LOOPBACK, free_port
from pipelines.ray_session import _keep_logs, _lead_to_logs
from policies.config_repo_documents import read_repo
from policies.errors import Stalled


def test_a_second_stack_on_one_folder_is_refused_and_the_folder_is_free_afterwards(tmp_path):
    with _only_one(tmp_path), pytest.raises(Stalled, match=r"runs in .* already"), _only_one(tmp_path):
        raise AssertionError("two stacks on one folder")
    with _only_one(tmp_path):
        assert (tmp_path / "lock").exists()


@pytest.mark.parametrize("given", [False, True])
def test_grpc_is_served_where_it_is_asked_for_by_serve_and_by_the_document(tmp_path, given):
    command = typer.main.get_group(app).commands["up"]
    with command.make_context("up", ["--grpc"] if given else []) as context:
        asked = context.params["grpc"]
    assert LocalStack(tmp_path, grpc=asked).ray.serves_grpc is given
    repo = read_repo(repo_files(Answers(grpc=asked))).repo
    assert repo is not None
    assert repo.sluice.environments["production"].grpc.enabled is given


def test_the_same_folder_again_is_at_the_ports_of_before(tmp_path):
    first = LocalStack(tmp_path)
    first._ports.keep({"mlflow": first.mlflow.port, "git": first._git_port, "dashboard": free_port()})
    again = LocalStack(tmp_path)
    assert (again.tracking_uri, again.repo_url) == (first.tracking_uri, first.repo_url)
    with socket.create_server((LOOPBACK, first.mlflow.port)):
        elsewhere = LocalStack(tmp_path)
    assert elsewhere.tracking_uri != first.tracking_uri
    assert elsewhere.repo_url == first.repo_url


def test_what_it_writes_draws_no_finding():
    answers = Answers(scrape_interval=SCRAPE, look_interval=LOOK, models=("fraud",), grpc=True)
    files = {path: text for path, text in repo_files(answers).items() if path.endswith(".yaml")}
    repo, notes = linted(files, ())
    assert repo is not None
    assert notes == ()


def test_logs_are_found_at_one_place_while_ray_runs_and_afterwards(tmp_path):
    here, rays = tmp_path / "stack" / "logs", tmp_path / "short" / "session_latest" / "logs"
    here.parent.mkdir()
    for run in ("first", "second"):
        _lead_to_logs(here, rays)
        (rays / "serve").mkdir(parents=True)
        (rays / "serve" / f"{run}.log").write_text("request id 7")
        assert [log.name for log in (here / "serve").iterdir()] == [f"{run}.log"]
        _keep_logs(here)
        shutil.rmtree(tmp_path / "short")
        assert [log.name for log in (here / "serve").iterdir()] == [f"{run}.log"], (
            "those of the last run, and no others"
        )
        assert not here.is_symlink()
        assert here.stat().st_mode & 0o077 == 0


def test_a_ray_that_made_no_logs_leaves_no_link_to_nowhere(tmp_path):
    here = tmp_path / "logs"
    _lead_to_logs(here, tmp_path / "nowhere")
    _keep_logs(here)
    assert not here.is_symlink()
    _keep_logs(here)
    assert list(tmp_path.iterdir()) == []


def test_replica_logs_lie_below_the_stacks_folder(tmp_path):
    assert LocalStack(tmp_path).ray.replica_logs == tmp_path / "ray" / "logs" / "serve"
