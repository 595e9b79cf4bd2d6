"""`run` and `up`: what goes on until it is stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.command_line.options import (
    STACK,
    BranchOption,
    RepoOption,
    StackOption,
    StatusFileOption,
    settings_of,
)
from pipelines.command_line.saying import say

if TYPE_CHECKING:
    from pipelines.reconciler import Tick


def run(
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    once: Annotated[bool, typer.Option("--once", help="One look, then end; exit 1 when it met a problem.")] = False,
    status_path: StatusFileOption = None,
) -> None:
    """Run the reconciler: carry promotions to traffic until it is stopped."""
    from pipelines.commands.listening import WebhookListener
    from pipelines.commands.running import Narrator, run_until_stopped
    from pipelines.wiring import SystemClock, reconciler

    def tell(line: str) -> None:
        say(line.split("\n"))

    clock, settings = SystemClock(), settings_of(repo, branch, stack)
    loop = reconciler(settings, clock)
    with WebhookListener(settings, clock.wake, tell) as listener:
        narrator = Narrator(tell, status_path, lambda: listener.counts)

        def report(tick: Tick) -> None:
            listener.follow(tick)
            narrator(tick)

        if not once:
            run_until_stopped(loop, clock, report)
            return
    tick = loop.tick()
    narrator(tick)
    if tick.problems:
        raise typer.Exit(1)


def pull(
    edge: Annotated[str, typer.Argument(help="The edge, by its name in sluice.yaml.")],
    repo: RepoOption = None,
    branch: BranchOption = None,
    once: Annotated[bool, typer.Option("--once", help="One attempt, then end; exit 1 when it met a problem.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Keep what is applied, and what is wrong, in this file, as JSON.")
    ] = None,
) -> None:
    """At an edge: apply what was promoted to the Ray here, until it is stopped. Reads Git and never writes to it."""
    from pipelines.commands.running import EdgeNarrator, run_until_stopped
    from pipelines.settings import settings
    from pipelines.wiring import SystemClock, puller

    clock = SystemClock()
    loop = puller(settings(os.environ, repo=repo, branch=branch), clock, edge)
    narrator = EdgeNarrator(lambda line: say(line.split("\n")), report)
    if not once:
        run_until_stopped(loop, clock, narrator)
        return
    pulled = loop.tick()
    narrator(pulled)
    if pulled.problems:
        raise typer.Exit(1)


def up(
    stack: StackOption = STACK,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A registered model to serve; repeatable.")
    ] = None,
    grpc: Annotated[
        bool, typer.Option("--grpc", help="Serve the Open Inference Protocol over gRPC, too. Plaintext.")
    ] = False,
) -> None:
    """Start MLflow, a Git server, Ray Serve, Prometheus and the reconciler on this machine, and leave them to you."""
    from pipelines.commands.up import up as start

    start(stack, tuple(models or ()), typer.echo, grpc=grpc)
