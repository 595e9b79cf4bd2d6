"""`policies` decides and touches nothing: no clock, no I/O, no randomness, no environment."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

POLICIES = Path(__file__).parents[2] / "policies"
MODULES = sorted(path.name for path in POLICIES.glob("*.py"))
TOUCHES = {
    *("now", "utcnow", "today", "time", "monotonic", "perf_counter"),
    *("open", "print", "input", "read_text", "write_text", "read_bytes", "write_bytes"),
    *("getenv", "random", "choice", "uuid4", "urandom", "token_hex", "sleep", "urlopen", "run", "Popen"),
}


@pytest.mark.parametrize("name", MODULES)
def test_policies_touch_nothing(name):
    tree = ast.parse((POLICIES / name).read_text(encoding="utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {getattr(function, "attr", getattr(function, "id", "")) for function in called}
    assert not names & TOUCHES


def test_the_check_can_fail():
    tree = ast.parse("import datetime\nx = datetime.datetime.now()")
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert {function.attr for function in called} & TOUCHES
