"""How commands speak: results on stdout, everything else on stderr, and errors with the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec

import typer

from policies.errors import SluiceError
from policies.shown_text import shown_line


def say(lines: Iterable[str], *, err: bool = False) -> None:
    """Lines for a person. Much in them was said by others: it is shown (`policies/shown_text.py`), never obeyed."""
    typer.echo("\n".join(shown_line(line) for line in lines), err=err)


_P = ParamSpec("_P")


def says_errors(command: Callable[_P, None]) -> Callable[_P, None]:
    """What went wrong goes to stderr in words, with exit code 1; a bug keeps its traceback."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SluiceError as error:
            say(f"sluice: {error}".split("\n"), err=True)
            raise typer.Exit(1) from error
        except OSError as error:  # a folder that is not ours, a full disk: a person's business, and no bug
            where = f"{error.filename}: " if error.filename else ""
            typer.echo(f"sluice: {where}{error.strerror or error}", err=True)
            raise typer.Exit(1) from error

    return run
