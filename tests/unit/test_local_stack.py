"""What the local stack promises before anything is started."""

from __future__ import annotations

import pytest
import typer.main

from pipelines.cli import app
from pipelines.commands.init import Answers, repo_files
from pipelines.local_stack import LocalStack, _brought, _only_one
from policies.config_repo_documents import read_repo
from policies.errors import Stalled
from policies.observations import Tip


def test_a_second_stack_on_one_folder_is_refused_and_the_folder_is_free_afterwards(tmp_path):
    with _only_one(tmp_path), pytest.raises(Stalled, match=r"runs in .* already"), _only_one(tmp_path):
        raise AssertionError("two stacks on one folder")
    with _only_one(tmp_path):
        assert (tmp_path / "lock").exists()


def test_a_later_start_brings_addresses_and_new_models_and_touches_no_other():
    tip = Tip(commit="0" * 40, files={"sluice.yaml": "old", "models/a.yaml": "mine"}, author="", subject="")
    files = {"sluice.yaml": "new", "models/a.yaml": "theirs", "models/b.yaml": "b", "policies/p.yaml": "p"}
    assert _brought(tip, files) == {"sluice.yaml": "new", "models/b.yaml": "b"}


@pytest.mark.parametrize("given", [False, True])
def test_grpc_is_served_where_it_is_asked_for_by_serve_and_by_the_document(tmp_path, given):
    command = typer.main.get_group(app).commands["up"]
    with command.make_context("up", ["--grpc"] if given else []) as context:
        asked = context.params["grpc"]
    assert LocalStack(tmp_path, grpc=asked).ray.serves_grpc is given
    repo = read_repo(repo_files(Answers(grpc=asked))).repo
    assert repo is not None
    assert repo.sluice.environments["production"].grpc.enabled is given


def test_a_later_start_turns_grpc_on_and_off():
    plain, served = (dict(repo_files(Answers(models=("a",), grpc=grpc))) for grpc in (False, True))
    tip = Tip(commit="0" * 40, files=plain, author="", subject="")
    assert _brought(tip, served) == {"sluice.yaml": served["sluice.yaml"]}
    assert plain["sluice.yaml"] != served["sluice.yaml"]
