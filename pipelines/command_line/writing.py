"""`init`, `lint`, `schema`, `keys`, `webhooks`: what people write, before anything runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.command_line.options import (
    STACK,
    BranchOption,
    Output,
    OutputOption,
    RepoOption,
    StackOption,
    settings_of,
)
from pipelines.command_line.saying import say
from policies.errors import BadInput


def init(
    folder: Annotated[Path, typer.Argument(help="Where the config repo is written; must be new or empty.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A registered model to serve; repeatable.")
    ] = None,
    environment: Annotated[str, typer.Option(help="Name of the environment.")] = "production",
    stage: Annotated[str | None, typer.Option(help="Trigger: a stage, Staging or Production.")] = None,
    alias: Annotated[str | None, typer.Option(help="Trigger: an alias, without @.")] = None,
    tag: Annotated[str | None, typer.Option(help="Trigger: a tag, key=value.")] = None,
    tracking_uri: Annotated[str, typer.Option(help="The MLflow server.")] = "http://127.0.0.1:5000",
    ray: Annotated[str, typer.Option(help="The Ray dashboard.")] = "http://127.0.0.1:8265",
    prometheus: Annotated[str, typer.Option(help="The Prometheus server.")] = "http://127.0.0.1:9090",
) -> None:
    """Write a working config repo, with commented policies."""
    from pipelines.commands.init import Answers
    from pipelines.commands.init import init as write_repo

    kind, trigger = _trigger(stage, alias, tag)
    answers = Answers(
        environment=environment,
        trigger_kind=kind,
        trigger=trigger,
        registry=tracking_uri,
        ray=ray,
        prometheus=prometheus,
        models=tuple(models or ()),
    )
    for path in write_repo(folder, answers):
        typer.echo(path)
    typer.echo(
        f"next: cd {folder} && git init -b main && git add . && git commit, then push it where `sluice run` reads it",
        err=True,
    )


def _trigger(stage: str | None, alias: str | None, tag: str | None) -> tuple[Literal["stage", "alias", "tag"], str]:
    """The one that was given; none is the stage Production. Raises BadInput for two."""
    given: list[tuple[Literal["stage", "alias", "tag"], str]] = []
    if stage is not None:
        given.append(("stage", stage))
    if alias is not None:
        given.append(("alias", alias))
    if tag is not None:
        given.append(("tag", tag))
    if len(given) > 1:
        raise BadInput("a trigger is one of --stage, --alias and --tag")
    return given[0] if given else ("stage", "Production")


def lint(
    folder: Annotated[Path, typer.Argument(help="The config repo.")] = Path(),
    output: OutputOption = Output.TEXT,
) -> None:
    """Check a config repo; exit 1 when something in it would not be applied."""
    import json

    from pipelines.commands.lint import exit_code, notes_data, render_notes
    from pipelines.commands.lint import lint as check
    from policies.secret_values import hidden_in

    notes = check(folder)
    if output is Output.JSON:
        typer.echo(json.dumps(hidden_in(notes_data(notes)), indent=2), nl=False)
    else:
        say(render_notes(notes).rstrip("\n").split("\n"))
    raise typer.Exit(exit_code(notes))


def schema(
    kind: Annotated[str | None, typer.Argument(help="One kind of document; none lists them.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write every schema into this folder.")] = None,
) -> None:
    """JSON Schemas of the documents, for editors."""
    from pipelines.commands.schema import KINDS, schema_of, write_schemas

    if write is not None:
        for path in write_schemas(write):
            typer.echo(path)
    else:
        typer.echo(schema_of(kind) if kind else "\n".join(KINDS))


class KeysAction(StrEnum):
    """What is done with keys."""

    NEW = "new"


def keys(
    action: Annotated[KeysAction, typer.Argument(help="new makes one.")],  # noqa: ARG001 there is one so far
    name: Annotated[str, typer.Argument(help="Whose key it is, as logs will call them.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A registered model it may call, or * for all; repeatable. [*]")
    ] = None,
    permissions: Annotated[
        list[str] | None, typer.Option("--permission", help="force or feedback; repeatable.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="From this day or moment on it is refused. [never]")] = None,
) -> None:
    """Make an API key: on stdout its line for the file of keys, on stderr the key itself, this once."""
    from datetime import UTC, datetime

    from pipelines.commands.keys import new

    made = new(name, models or (), permissions or (), expires, datetime.now(UTC))
    typer.echo(made.line)
    typer.echo(f"the key, which is kept nowhere and shown this once:\n\n  {made.key}\n", err=True)


class WebhooksAction(StrEnum):
    """What is done with webhooks."""

    INSTALL = "install"


def webhooks(
    action: Annotated[WebhooksAction, typer.Argument(help="install registers them.")],  # noqa: ARG001 there is one
    url: Annotated[
        str | None, typer.Option("--url", help="Where MLflow reaches the reconciler. [webhooks.url in sluice.yaml]")
    ] = None,
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
) -> None:
    """Have MLflow call the reconciler when something changes; exit 1 when it cannot reach it."""
    from pipelines.commands.webhooks import install
    from pipelines.defaults import built_in_documents
    from pipelines.wiring import config_repo
    from policies.config_repo_documents import parse_repo, with_defaults

    settings = settings_of(repo, branch, stack)
    tip = config_repo(settings).read()
    done = install(parse_repo(with_defaults(tip.files, built_in_documents())).sluice, settings, url)
    say(done.lines)
    raise typer.Exit(0 if done.well else 1)
