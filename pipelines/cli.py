"""The command `sluice`.

Rules:
- Results on stdout, everything else on stderr; every error says the next step. `NO_COLOR` is obeyed (typer, rich).
- Exit codes: 0 done or nothing to do, 1 an error, 2 `plan` would change something, `analyze` says no PASS (and a
  usage error).
- Nothing heavy is imported before the command that needs it runs: `sluice --help` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, ParamSpec

import typer

from policies.commit_message import printable
from policies.errors import BadInput, SluiceError

if TYPE_CHECKING:
    from datetime import timedelta

    from pipelines.settings import Settings

app = typer.Typer(
    name="sluice",
    help="Carries models from an MLflow registry to live traffic on Ray Serve, through Git.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


class Output(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


class Bins(StrEnum):
    """Where a replay's bins come from."""

    RECORD = "record"
    PROMETHEUS = "prometheus"


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


def main() -> None:
    """Entry point of the console script."""
    app()


def _say(lines: Iterable[str], *, err: bool = False) -> None:
    """Lines for a person. Much in them was said by others: no character moves the cursor or begins another line."""
    typer.echo("\n".join(printable(line) for line in lines), err=err)


_P = ParamSpec("_P")


def _says_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """What went wrong goes to stderr in words, with exit code 1; a bug keeps its traceback."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SluiceError as error:
            _say(f"sluice: {error}".split("\n"), err=True)
            raise typer.Exit(1) from error
        except OSError as error:  # a folder that is not ours, a full disk: a person's business, and no bug
            where = f"{error.filename}: " if error.filename else ""
            typer.echo(f"sluice: {where}{error.strerror or error}", err=True)
            raise typer.Exit(1) from error

    return run


# --- a config repo ------------------------------------------------------------------------------------------------


@app.command()
@_says_errors
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


@app.command()
@_says_errors
def lint(
    folder: Annotated[Path, typer.Argument(help="The config repo.")] = Path(),
    output: OutputOption = Output.TEXT,
) -> None:
    """Check a config repo; exit 1 when something in it would not be applied."""
    import json

    from pipelines.commands.lint import exit_code, notes_data, render_notes
    from pipelines.commands.lint import lint as check

    notes = check(folder)
    typer.echo(json.dumps(notes_data(notes), indent=2) if output is Output.JSON else render_notes(notes), nl=False)
    raise typer.Exit(exit_code(notes))


@app.command()
@_says_errors
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


@app.command()
@_says_errors
def keys(
    action: Annotated[KeysAction, typer.Argument(help="new makes one.")],  # noqa: ARG001 there is one so far
    name: Annotated[str, typer.Argument(help="Whose key it is, as logs will call them.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A registered model it may call; repeatable. [all]")
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


# --- looking ------------------------------------------------------------------------------------------------------


@app.command()
@_says_errors
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
    from pipelines.wiring import config_repo

    last_words = status_path or (stack / "status.json" if _in_stack(repo) else None)
    said = status_file.read(last_words) if last_words else None
    shown = views.releases(config_repo(_settings(repo, branch, stack)).read(), said.waits if said else ())
    problems = (*said.problems, *status_file.silence(said, datetime.now(UTC))) if said else ()
    if output is Output.JSON:
        typer.echo(views.as_json("releases", shown, problems=list(problems)))
    else:
        _say([*views.status_lines(shown, datetime.now(UTC)), *problems])


@app.command()
@_says_errors
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

    records = views.finished(config_repo(_settings(repo, branch, stack)).read())
    chosen = [record for record in records if model in (None, record.model)]
    if output is Output.JSON:
        typer.echo(views.history_json(chosen))
    else:
        _say(views.history_lines(chosen, long=long))


@app.command()
@_says_errors
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

    door = config_repo(_settings(repo, branch, stack))
    told = telling.chosen(telling.rollouts(door.read()), rollout, model)
    told = telling.with_commits(told, door.log(telling.LOG))
    if output is Output.JSON:
        typer.echo(views.as_json("rollouts", [told]))
        return
    console = Console(highlight=False, soft_wrap=True)
    marks = chart.PLAIN if console.options.ascii_only else chart.Marks()
    for line in telling.lines(told, width=console.width, marks=marks):
        line.plain = printable(line.plain)
        console.print(line)


@app.command()
@_says_errors
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
    outside = doors(_settings(repo, branch, stack))
    tip, now = outside.repo.read(), datetime.now(UTC)
    wanted = replaying.policy_of(policy, replaying.documents(tip))
    begun = now - _duration("--since", since) if since else None
    found, problems = replaying.judged_again(
        replaying.pasts(tip, rollout, begun, model), wanted, outside, tip, now, prometheus=source is Bins.PROMETHEUS
    )
    if output is Output.JSON:
        typer.echo(views.as_json("replays", [replaying.as_data(one) for one in found]))
    else:
        _say(replaying.lines(found))
    for problem in problems:
        _say([f"sluice: not judged again: {problem}"], err=True)


@app.command()
@_says_errors
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
    from policies.model import VerdictKind

    if not dry_run:
        raise BadInput("analyze only judges: say so with --dry-run. Traffic moves when a version enters its trigger")
    outside = doors(_settings(repo, branch, stack))
    now = datetime.now(UTC)
    asked = analyzing.question(
        outside.repo.read(),
        model,
        candidate,
        stable=stable,
        environment=environment,
        policy=policy,
        window=_duration("--window", window),
        now=now,
    )
    found = analyzing.answer(asked, outside.metrics(asked.prometheus), now)
    if output is Output.JSON:
        typer.echo(views.as_json("verdicts", [found]))
    else:
        _say(analyzing.lines(found))
    if found.verdict.kind is not VerdictKind.PASS:
        raise typer.Exit(2)


@app.command()
@_says_errors
def plan(
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    output: OutputOption = Output.TEXT,
) -> None:
    """What the next look would do, without doing it; exit 0 nothing, 2 something, 1 error."""
    from pipelines.commands import views
    from pipelines.wiring import SystemClock, reconciler

    planned = reconciler(_settings(repo, branch, stack), SystemClock()).plan()
    if output is Output.JSON:
        typer.echo(views.plan_json(planned))
    else:
        _say(views.plan_lines(planned))
    if planned.moves:
        raise typer.Exit(2)


# --- asking -------------------------------------------------------------------------------------------------------


_WISHES = {
    "pause": "Stop a rollout's clock; its weight stays, and harm still takes it back.",
    "resume": "Let a paused rollout go on with the step it was in.",
    "promote": "Go on to the next step now, without the analysis; harm still takes it back.",
    "abort": "Take a rollout back to stable, without quarantine.",
    "undo": "Go back to the version that served before, in one step that is judged.",
}
"""Wishes that need a model and a reason, with what they do."""


def _add_wish(wish: str, says: str) -> None:
    """One command for each of them: they take the same."""

    def command(
        model: ModelArgument,
        why: WhyOption,
        environment: EnvironmentOption = None,
        repo: RepoOption = None,
        branch: BranchOption = None,
        stack: StackOption = STACK,
    ) -> None:
        _ask(wish, model, environment, why, _settings(repo, branch, stack))

    app.command(name=wish, help=says)(_says_errors(command))


for _wish, _says in _WISHES.items():
    _add_wish(_wish, _says)


@app.command()
@_says_errors
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
    _ask("retry", model, environment, why, _settings(repo, branch, stack), version)


@app.command()
@_says_errors
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
    _ask("lift", model, environment, why, _settings(repo, branch, stack), version)


def _ask(
    wish: str, model: str, environment: str | None, why: str, settings: Settings, version: int | None = None
) -> None:
    from pipelines.commands.asks import ask
    from pipelines.wiring import config_repo
    from policies.model import Wish

    commit = ask(config_repo(settings), Wish(wish), model, environment, by=_me(), why=why, version=version)
    typer.echo(f"{wish} asked in {commit[:12]}; the reconciler takes it up at its next look")


def _me() -> str:
    """Who asks. A container's user may have a number and no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


# --- running ------------------------------------------------------------------------------------------------------


@app.command()
@_says_errors
def run(
    repo: RepoOption = None,
    branch: BranchOption = None,
    stack: StackOption = STACK,
    once: Annotated[bool, typer.Option("--once", help="One look, then end; exit 1 when it met a problem.")] = False,
    status_path: StatusFileOption = None,
) -> None:
    """Run the reconciler: carry promotions to traffic until it is stopped."""
    from pipelines.commands.running import Narrator, run_until_stopped
    from pipelines.wiring import SystemClock, reconciler

    clock = SystemClock()
    loop = reconciler(_settings(repo, branch, stack), clock)
    narrator = Narrator(lambda line: _say(line.split("\n")), status_path)
    if not once:
        run_until_stopped(loop, clock, narrator)
        return
    tick = loop.tick()
    narrator(tick)
    if tick.problems:
        raise typer.Exit(1)


@app.command()
@_says_errors
def up(
    stack: StackOption = STACK,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A registered model to serve; repeatable.")
    ] = None,
) -> None:
    """Start MLflow, a Git server, Ray Serve, Prometheus and the reconciler on this machine, and leave them to you."""
    from pipelines.commands.up import up as start

    start(stack, tuple(models or ()), typer.echo)


def _duration(option: str, text: str) -> timedelta:
    """A duration as documents write it. Raises BadInput that names the option."""
    from policies.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from error


def _settings(repo: str | None, branch: str | None, stack: Path) -> Settings:
    """Settings from the command line and the environment, or, where they name no config repo, from the local stack.

    All of a stack or nothing of it: another cluster must not be sent its token.
    """
    from pipelines.settings import settings
    from pipelines.stack_file import environment_of

    local = environment_of(stack) if _in_stack(repo) else {}
    return settings({**os.environ, **local}, repo=repo, branch=branch)


def _in_stack(repo: str | None) -> bool:
    """Is the config repo that of the stack in this folder, if one runs? Not where another one was named."""
    return repo is None and not os.environ.get("SLUICE_REPO")


if __name__ == "__main__":
    main()
