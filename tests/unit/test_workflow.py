"""The reusable workflow that reviews strangers' pull requests: what it may do, and what it never does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOW: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / ".github/workflows/review.yml").read_text(encoding="utf-8")
)
JOBS: dict[str, Any] = WORKFLOW["jobs"]
STEPS = [(job, step) for job, body in JOBS.items() for step in body["steps"]]


def test_nothing_is_allowed_that_a_job_does_not_need() -> None:
    assert WORKFLOW["permissions"] == {}
    assert {job: body["permissions"] for job, body in JOBS.items()} == {
        "judge": {"contents": "read", "pull-requests": "read"},
        "post": {"pull-requests": "write", "statuses": "write"},
    }


@pytest.mark.parametrize("step", [step for _, step in STEPS if "uses" in step], ids=lambda step: step["uses"])
def test_every_action_is_pinned_and_none_checks_out(step: dict[str, Any]) -> None:
    assert re.fullmatch(r"actions/(setup-python|upload-artifact|download-artifact)@[0-9a-f]{40}", step["uses"])


@pytest.mark.parametrize("step", [step for _, step in STEPS if "run" in step], ids=lambda step: step["name"])
def test_no_script_has_a_strangers_words_in_it(step: dict[str, Any]) -> None:
    assert "${{" not in step["run"]
    unquoted = re.findall(r"(?<![\"\w/:=$(@{])\$(?:HEAD|BASE|NUMBER|AUTHOR|REPOSITORY|SLUICEGATE|STATE)\b", step["run"])
    assert unquoted == []


def test_who_reads_the_change_cannot_write_and_who_writes_does_not_read_it() -> None:
    scripts = {job: "\n".join(step.get("run", "") for each, step in STEPS if each == job) for job in JOBS}
    assert "sluice review" in scripts["judge"]
    assert "--method" not in scripts["judge"]
    assert "git " not in scripts["post"]
    assert "sluice " not in scripts["post"].replace("context=sluice/review", "")
