"""`replay` and `analyze`: verdicts that move nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.command_line.options import (
    STACK,
    BranchOption,
    EnvironmentOption,
    ModelOption,
    Output,
    OutputOption,
    RepoOption,
    StackOption,
    duration,
    settings_of,
)
from pipelines.command_line.saying import say
from policies.errors import BadInput


class Bins(StrEnum):
    """Where a replay's bins come from."""

    RECORD = "record"
    PROMETHEUS = "prometheus"


def replay(
    policy: Annotated[str, typer.Option("--policy", help="A policy of the config repo by name, or a .yaml file.")],
    rollout: Annotated[str | None, typer.Option("--rollout", help="A rollout's id, or its beginning.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Every rollout that began in this time, like 7d.")
    ] = None,
    source: Annotated[
        Bins, typer.Option("--from", help="Where its bins are; Prometheus also where the record has none.")
    ] = Bins.RECORD,
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    model: ModelOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Judge recorded rollouts again with another policy, and say what would have happened."""
    from datetime import UTC, datetime

    from pipelines.commands import replay as replaying
    from pipelines.commands import views
    from pipelines.wiring import doors

    if (rollout is None) == (since is None):
        raise BadInput("say which rollouts: one of --rollout and --since")
    outside = doors(settings_of(repo, branch, stack))
    tip, now = outside.repo.read(), datetime.now(UTC)
    wanted = replaying.policy_of(policy, replaying.documents(tip))
    begun = now - duration("--since", since) if since else None
    found, problems = replaying.judged_again(
        replaying.pasts(tip, rollout, begun, model), wanted, outside, tip, now, prometheus=source is Bins.PROMETHEUS
    )
    if output is Output.JSON:
        typer.echo(views.as_json("replays", [replaying.as_data(one) for one in found]))
    else:
        say(replaying.lines(found))
    for problem in problems:
        say([f"sluice: not judged again: {problem}"], err=True)


def analyze(
    model: Annotated[str, typer.Option("--model", help="The registered model, by its name in MLflow.")],
    candidate: Annotated[int, typer.Option("--candidate", help="The version that is judged.")],
    stable: Annotated[
        int | None, typer.Option("--stable", help="What it is compared with; none is the version that serves.")
    ] = None,
    window: Annotated[str, typer.Option("--window", help="How far back, like 1h; 7d at most.")] = "1h",
    policy: Annotated[
        str | None, typer.Option("--policy", help="A policy by name, or a .yaml file; none is the model's own.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Required: it only ever judges, and moves no traffic.")
    ] = False,
    environment: EnvironmentOption = None,
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    output: OutputOption = Output.TEXT,
) -> None:
    """Judge two running versions by their metrics, touching nothing; exit 0 PASS, 2 any other verdict, 1 error."""
    from datetime import UTC, datetime

    from pipelines.commands import analyze as analyzing
    from pipelines.commands import views
    from pipelines.wiring import doors
    from policies.verdict import VerdictKind

    if not dry_run:
        raise BadInput("analyze only judges: say so with --dry-run. Traffic moves when a version enters its trigger")
    outside = doors(settings_of(repo, branch, stack))
    now = datetime.now(UTC)
    asked = analyzing.question(
        outside.repo.read(),
        model,
        candidate,
        stable=stable,
        environment=environment,
        policy=policy,
        window=duration("--window", window),
        now=now,
    )
    found = analyzing.answer(asked, outside.metrics(asked.prometheus), now)
    if output is Output.JSON:
        typer.echo(views.as_json("verdicts", [found]))
    else:
        say(analyzing.lines(found))
    if found.verdict.kind is not VerdictKind.PASS:
        raise typer.Exit(2)
