"""`accept-history`: a person says that a rewritten branch is what counts from now on."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.command_line.asking import me
from pipelines.command_line.options import (
    STACK,
    BranchOption,
    RepoOption,
    StackOption,
    WhyOption,
    settings_of,
)


def accept_history(
    environment: Annotated[str, typer.Option("--environment", "-e", help="The environment that stopped.")],
    commit: Annotated[str, typer.Option("--commit", help="The commit that is accepted: the branch's tip.")],
    why: WhyOption,
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
) -> None:
    """Let an environment go on whose branch was rewritten, or restored from a backup."""
    from datetime import UTC, datetime

    from pipelines.commands.accepting import accept
    from pipelines.wiring import config_repo

    door = config_repo(settings_of(repo, branch, stack))
    done = accept(door, environment, commit, by=me(), why=why, now=datetime.now(UTC))
    let_go = f"; {done.accepted.let_go[:12]}, which was applied last, is let go" if done.accepted.let_go else ""
    typer.echo(
        f"{environment} goes on from {done.accepted.commit[:12]}{let_go}: accepted in {done.commit[:12]}; "
        "the reconciler takes it up at its next look"
    )
