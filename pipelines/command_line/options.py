"""Options that several commands take, and what they mean."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policies.errors import BadInput

if TYPE_CHECKING:
    from datetime import timedelta

    from pipelines.settings import Settings


class Output(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


RepoOption = Annotated[str | None, typer.Option("--repo", help="Address or folder of the config repo. [SLUICE_REPO]")]
BranchOption = Annotated[str | None, typer.Option("--branch", help="Its branch. [SLUICE_BRANCH; main]")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or json with a schema version")]
StackOption = Annotated[Path, typer.Option("--stack", help="Folder of a local stack started by `sluice up`.")]
ModelArgument = Annotated[str, typer.Argument(help="The registered model, by its name in MLflow.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason; it lands in the commit.")]
StatusFileOption = Annotated[
    Path | None, typer.Option("--status-file", help="The reconciler's last words, JSON: `run` keeps them there.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Only this registered model.")]
EnvironmentOption = Annotated[str | None, typer.Option("--environment", "-e", help="Where, if in several.")]

STACK = Path(".sluice")


def duration(option: str, text: str) -> timedelta:
    """A duration as documents write it. Raises BadInput that names the option."""
    from policies.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from error


def settings_of(repo: str | None, branch: str | None, stack: Path) -> Settings:
    """Settings from the command line and the environment, or, where they name no config repo, from the local stack.

    All of a stack or nothing of it: another cluster must not be sent its token.
    """
    from pipelines.settings import settings
    from pipelines.stack_file import environment_of

    local = environment_of(stack) if in_stack(repo) else {}
    return settings({**os.environ, **local}, repo=repo, branch=branch)


def in_stack(repo: str | None) -> bool:
    """Is the config repo that of the stack in this folder, if one runs? Not where another one was named."""
    return repo is None and not os.environ.get("SLUICE_REPO")
