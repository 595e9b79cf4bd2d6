"""`sluice keys new`: the line on stdout, the key on stderr, once."""

from __future__ import annotations

import json
import time

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from serving_runtime.api_keys import parse_keys
from serving_runtime.callers import Caller


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["keys", "new", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_line_is_ready_for_the_file_and_the_key_is_valid_by_it() -> None:
    code, line, said = run("shop", "--model", "Fraud Model", "--model", "churn", "--permission", "force")
    assert code == 0
    key = next(word for word in said.split() if word.startswith("sluice_"))
    caller = parse_keys(line.encode()).find(key, time.time())
    assert isinstance(caller, Caller)
    assert (caller.name, caller.permissions) == ("shop", {"force"})
    assert caller.may_call("churn")
    assert len(caller.models) == 2
    assert key not in line


def test_without_models_it_is_for_all() -> None:
    _, line, _ = run("desk", "--expires", "2999-12-31")
    about = json.loads(line)
    assert (about["models"], about["expires"]) == (["*"], "2999-12-31T00:00:00Z")


def test_a_star_is_all_of_them_as_it_is_in_the_file() -> None:
    _, line, _ = run("admin", "--model", "*")
    assert json.loads(line)["models"] == ["*"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Shop!",), "name: String should match"),
        (("shop", "--permission", "root"), "'root' is no permission: there are force and feedback"),
        (("shop", "--expires", "soon"), "is no day or moment"),
        (("shop", "--expires", "2020-01-01"), "is over"),
        (("shop", "--model", ""), "a model's name is empty"),
    ],
)
def test_what_no_key_can_be_is_said_and_nothing_is_made(arguments: tuple[str, ...], says: str) -> None:
    code, line, said = run(*arguments)
    assert (code, line) == (1, "")
    assert says in said
    assert "sluice_" not in said
