"""`review`: a change of the config repo, before it is merged."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.command_line.saying import say


class Form(StrEnum):
    """How a review is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    GITHUB = "github"
    JSON = "json"


def review(
    base: Annotated[str, typer.Option("--base", help="The branch, tag or commit that it is to be merged into.")],
    folder: Annotated[Path, typer.Argument(help="A clone of the config repo.")] = Path(),
    head: Annotated[str, typer.Option("--head", help="The branch, tag or commit that is reviewed.")] = "HEAD",
    author: Annotated[
        str, typer.Option("--author", help="Who proposes it, by the name at the forge: nobody approves his own.")
    ] = "",
    approved_by: Annotated[
        list[str] | None, typer.Option("--approved-by", help="Who approved it as it stands; repeatable.")
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", help="text; markdown, the comment; github, annotations; json.")
    ] = Form.TEXT,
    comment: Annotated[
        Path | None, typer.Option("--comment", help="Write the comment, Markdown, into this file, too.")
    ] = None,
) -> None:
    """Review a change of a config repo: lint, its rules, what it does to what serves; exit 2 where it should not be."""
    from datetime import UTC, datetime

    from pipelines.commands import review_comment, review_words
    from pipelines.commands.review import People
    from pipelines.commands.review import review as reviewed
    from registry_bridge.local_repo import LocalRepo

    people = People(author=author, approvers=frozenset(approved_by or ()))
    found = reviewed(LocalRepo(folder), base, head, people, datetime.now(UTC))
    if comment is not None:
        _write_whole(comment, review_comment.comment(found))
    match form:
        case Form.TEXT:
            said = review_words.unobeyed(review_words.text(found))
        case Form.MARKDOWN:
            said = review_words.unobeyed(review_comment.comment(found).split("\n"))
        case Form.GITHUB:
            said = review_words.github(found)
        case Form.JSON:
            said = iter([review_words.as_data(found)])
    say(said)
    if found.failures:
        raise typer.Exit(2)


def _write_whole(path: Path, text: str) -> None:
    """Replace the file, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
