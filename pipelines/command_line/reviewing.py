"""`review`: a change of the config repo, before it is merged."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.command_line.saying import say
from policies.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipelines.commands.review import People, Review
    from policies.capacity import Capacity
    from policies.documents import RayTarget
    from registry_bridge.local_repo import LocalRepo


class Form(StrEnum):
    """How a review is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    GITHUB = "github"
    JSON = "json"


def review(
    base: Annotated[str, typer.Option("--base", help="The branch, tag or commit that it is to be merged into.")],
    folder: Annotated[Path, typer.Argument(help="A clone of the config repo.")] = Path(),
    head: Annotated[
        str | None, typer.Option("--head", help="What is reviewed. [HEAD, or the pull request's head]")
    ] = None,
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
    pull_request: Annotated[
        int | None,
        typer.Option(
            "--pull-request",
            min=1,
            help="Its number at the forge: people come from there, comment and status go there.",
        ),
    ] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Also ask Ray what the cluster has, where --base says Ray is.")
    ] = False,
) -> None:
    """Review a change of a config repo: lint, its rules, what it does to what serves; exit 2 where it should not be."""
    from pipelines.commands import review_comment
    from pipelines.commands.review import People
    from registry_bridge.local_repo import LocalRepo

    repo = LocalRepo(folder)
    if pull_request is not None:
        if author or approved_by:
            raise BadInput("--author and --approved-by come from the forge where --pull-request is given")
        found = _of_pull_request(repo, folder, base, head, pull_request, cluster=cluster)
    else:
        people = People(author=author, approvers=frozenset(approved_by or ()))
        found = _reviewed(repo, folder, base, head or "HEAD", people, cluster=cluster)
    if comment is not None:
        _write_whole(comment, review_comment.comment(found))
    say(_written(found, form))
    if found.failures:
        raise typer.Exit(2)


def _reviewed(repo: LocalRepo, folder: Path, base: str, head: str, people: People, *, cluster: bool) -> Review:
    from datetime import UTC, datetime

    from pipelines.commands.review import review as made
    from pipelines.settings import settings
    from pipelines.wiring import doors

    def ask(target: RayTarget) -> Capacity:
        return doors(settings(os.environ, repo=str(folder.absolute()))).runtime(target).capacity()

    return made(repo, base, head, people, datetime.now(UTC), ask if cluster else None)


def _of_pull_request(
    repo: LocalRepo, folder: Path, base: str, head: str | None, number: int, *, cluster: bool
) -> Review:
    """The review of what the forge says is its head. Raises BadInput where another head was asked for."""
    from pipelines.commands.review_posting import forge_target, posted
    from pipelines.forges import forge_door
    from pipelines.settings import settings

    given = settings(os.environ, repo=str(folder.absolute()))
    forge = forge_door(forge_target(repo, base), given.branch, given)
    pull = forge.pull_request(number)
    if head is not None and repo.commit(head) != pull.head:
        raise BadInput(f"pull request {number} is at {pull.head[:12]} now, and not at {head[:40]}: fetch it again")
    return posted(forge, pull, lambda people: _reviewed(repo, folder, base, pull.head, people, cluster=cluster))


def _written(found: Review, form: Form) -> Iterable[str]:
    from pipelines.commands import review_comment, review_words

    match form:
        case Form.TEXT:
            return review_words.unobeyed(review_words.text(found))
        case Form.MARKDOWN:
            return review_words.unobeyed(review_comment.comment(found).split("\n"))
        case Form.GITHUB:
            return review_words.github(found)
        case Form.JSON:
            return review_words.as_data(found).split("\n")


def _write_whole(path: Path, text: str) -> None:
    """Replace the file, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
