"""The command `sluice`: its commands in the order of its help.

Rules:
- Results on stdout, everything else on stderr; every error says the next step. `NO_COLOR` is obeyed (typer, rich).
- Exit codes: 0 done or nothing to do, 1 an error, 2 `plan` would change something, `analyze` says no PASS,
  `review` objects (and a usage error).
- Nothing heavy is imported before the command that needs it runs: `sluice --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from pipelines.command_line.accepting import accept_history
from pipelines.command_line.asking import WISHES, lift, retry, wish_command
from pipelines.command_line.judging import analyze, replay
from pipelines.command_line.looking import explain, history, impact, plan, status
from pipelines.command_line.reviewing import review
from pipelines.command_line.running import pull, run, up
from pipelines.command_line.saying import says_errors
from pipelines.command_line.writing import init, keys, lint, schema, webhooks

app = typer.Typer(
    name="sluice",
    help="Carries models from an MLflow registry to live traffic on Ray Serve, through Git.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
_COMMANDS: Mapping[str, Callable[..., None]] = {
    "init": init,
    "lint": lint,
    "schema": schema,
    "keys": keys,
    "status": status,
    "history": history,
    "explain": explain,
    "replay": replay,
    "analyze": analyze,
    "plan": plan,
    "impact": impact,
    **{wish: wish_command(wish) for wish in WISHES},
    "retry": retry,
    "lift": lift,
    "accept-history": accept_history,
    "webhooks": webhooks,
    "run": run,
    "pull": pull,
    "up": up,
    "review": review,
}
for _name, _command in _COMMANDS.items():
    app.command(name=_name)(says_errors(_command))


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
