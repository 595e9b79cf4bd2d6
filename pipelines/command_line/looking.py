"""`status`, `history`, `explain`, `plan`, `impact`: what is, was and comes next; they change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.command_line.options import (
    STACK,
    BranchOption,
    ModelOption,
    Output,
    OutputOption,
    RepoOption,
    StackOption,
    StatusFileOption,
    in_stack,
    settings_of,
)
from pipelines.command_line.saying import say
from policies.shown_text import shown_line

if TYPE_CHECKING:
    from policies.capacity import Capacity
    from policies.documents import RayTarget


def status(
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    status_path: StatusFileOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """What every release is doing, why it waits and until when."""
    from datetime import UTC, datetime

    from pipelines import status_file
    from pipelines.commands import views
    from pipelines.commands.in_force import in_force
    from pipelines.wiring import config_repo, trust

    last_words = status_path or (stack / "status.json" if in_stack(repo) else None)
    said = status_file.read(last_words) if last_words else None
    settings = settings_of(repo, branch, stack)
    found = in_force(config_repo(settings), trust(settings))
    waits, looked_at = (said.waits, said.at) if said else ((), None)
    shown = views.releases(found.documents, waits, found.branches, looked_at)
    problems = (*said.problems, *status_file.silence(said, datetime.now(UTC))) if said else ()
    problems = tuple(dict.fromkeys((*found.problems, *problems)))  # the last look says the same of documents
    if output is Output.JSON:
        typer.echo(views.as_json("releases", shown, problems=list(problems)))
    else:
        say([*views.status_lines(shown, datetime.now(UTC)), *problems])


def history(
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    model: ModelOption = None,
    long: Annotated[bool, typer.Option("--long", help="With every phase, its verdict and arithmetic.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Every finished rollout, a line each: outcome, duration, versions, cause."""
    from pipelines.commands import views
    from pipelines.wiring import config_repo

    records = views.finished(config_repo(settings_of(repo, branch, stack)).read())
    chosen = [record for record in records if model in (None, record.model)]
    if output is Output.JSON:
        typer.echo(views.history_json(chosen))
    else:
        say(views.history_lines(chosen, long=long))


def explain(
    rollout: Annotated[
        str | None, typer.Argument(help="A rollout's id, or its beginning; none is the one that moved last.")
    ] = None,
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    model: ModelOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell one rollout, finished or under way: every look with its arithmetic, and a chart of the evidence."""
    from rich.console import Console

    from pipelines.commands import chart, views
    from pipelines.commands import explain as telling
    from pipelines.wiring import config_repo

    door = config_repo(settings_of(repo, branch, stack))
    told = telling.chosen(telling.rollouts(door.read()), rollout, model)
    told = telling.with_commits(told, door.log(telling.LOG))
    if output is Output.JSON:
        typer.echo(views.as_json("rollouts", [told]))
        return
    console = Console(highlight=False, soft_wrap=True)
    marks = chart.PLAIN if console.options.ascii_only else chart.Marks()
    for line in telling.lines(told, width=console.width, marks=marks):
        line.plain = shown_line(line.plain)
        console.print(line)


def plan(
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    output: OutputOption = Output.TEXT,
) -> None:
    """What the next look would do, without doing it; exit 0 nothing, 2 something, 1 error."""
    from pipelines.commands import views
    from pipelines.wiring import SystemClock, reconciler

    planned = reconciler(settings_of(repo, branch, stack), SystemClock()).plan()
    if output is Output.JSON:
        typer.echo(views.plan_json(planned))
    else:
        say(views.plan_lines(planned))
    if planned.moves:
        raise typer.Exit(2)


def impact(
    folder: Annotated[Path, typer.Argument(help="A clone of the config repo, with what you changed.")] = Path(),
    base: Annotated[str, typer.Option("--base", help="The branch, tag or commit to compare with.")] = "HEAD",
    cluster: Annotated[
        bool, typer.Option("--cluster/--no-cluster", help="Ask Ray what the cluster has, where --base says Ray is.")
    ] = True,
    output: OutputOption = Output.TEXT,
) -> None:
    """What the documents in a folder would do to what serves: restarts, traffic, resources; committed or not."""
    import os

    from pipelines.commands import impact as weighing
    from pipelines.commands import views
    from pipelines.settings import settings
    from pipelines.wiring import doors

    runtime = doors(settings(os.environ, repo=str(folder.absolute()))).runtime

    def ask(target: RayTarget) -> Capacity:
        return runtime(target).capacity()

    found = weighing.of_folder(folder, base, ask if cluster else None)
    if output is Output.JSON:
        typer.echo(views.as_json("environments", weighing.as_data(found)))
    else:
        say(weighing.lines(found))
