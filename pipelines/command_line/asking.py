"""`pause`, `resume`, `promote`, `abort`, `undo`, `retry`, `lift`: a person's wish as a commit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.command_line.options import (
    STACK,
    BranchOption,
    EnvironmentOption,
    ModelArgument,
    RepoOption,
    StackOption,
    WhyOption,
    settings_of,
)

if TYPE_CHECKING:
    from pipelines.settings import Settings

WISHES = {
    "pause": "Stop a rollout's clock; its weight stays, and harm still takes it back.",
    "resume": "Let a paused rollout go on with the step it was in.",
    "promote": "Go on to the next step now, without the analysis; harm still takes it back.",
    "abort": "Take a rollout back to stable, without quarantine.",
    "undo": "Go back to the version that served before, in one step that is judged.",
}
"""Wishes that need a model and a reason, with what they do."""


def wish_command(wish: str) -> Callable[..., None]:
    """The command of one of them: they take the same."""

    def command(
        model: ModelArgument,
        why: WhyOption,
        environment: EnvironmentOption = None,
        repo: RepoOption = None,
        branch: BranchOption = None,
        stack: StackOption = STACK,
    ) -> None:
        _ask(wish, model, environment, why, settings_of(repo, branch, stack))

    command.__doc__ = WISHES[wish]
    return command


def retry(
    model: ModelArgument,
    why: WhyOption,
    version: Annotated[int | None, typer.Option("--version", help="Which; else the one stopped last.")] = None,
    environment: EnvironmentOption = None,
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
) -> None:
    """Try a version that was stopped again, with every step and on fresh evidence."""
    _ask("retry", model, environment, why, settings_of(repo, branch, stack), version)


def lift(
    model: ModelArgument,
    why: WhyOption,
    version: Annotated[int, typer.Option("--version", help="Which.")],
    environment: EnvironmentOption = None,
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
) -> None:
    """Take a version out of the quarantine; it is tried when it enters the trigger, or is there."""
    _ask("lift", model, environment, why, settings_of(repo, branch, stack), version)


def _ask(
    wish: str, model: str, environment: str | None, why: str, settings: Settings, version: int | None = None
) -> None:
    from pipelines.commands.asks import ask
    from pipelines.wiring import config_repo
    from policies.release import Wish

    commit = ask(config_repo(settings), Wish(wish), model, environment, by=me(), why=why, version=version)
    typer.echo(f"{wish} asked in {commit[:12]}; the reconciler takes it up at its next look")


def me() -> str:
    """Who asks. A container's user may have a number and no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
