"""A review for a terminal, for GitHub's log, and for programs: the same values in three forms.

Rules:
- A log is read by a machine, too: GitHub Actions takes a line that begins with `::`, or has `##[` in it, for a command.
  No text of a stranger's makes such a line (docs/reviews.md).
- JSON carries a schema version, and nothing but ASCII.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.commands.replay import as_data as replay_data
from pipelines.commands.replay import lines as replay_lines
from pipelines.commands.review import Review
from pipelines.commands.review_comment import difference, verdict
from pipelines.commands.views import as_json
from policies.impact_words import lines as impact_lines
from policies.notes import Note, Severity
from policies.secret_values import hidden_in
from policies.shown_text import shown
from policies.stored_documents import plain

_MOST_OF_A_MESSAGE = 1_000
"""Characters of one annotation; GitHub shows the first 64 kB of all of them."""


def text(review: Review) -> Iterator[str]:
    """For people: lint, rules, what serves, what would have been."""
    for note, rule, mend in _notes(review):
        yield f"{note}{_mended(mend)} [{rule}]"
    for environment in review.environments:
        yield f"what serves in {environment.name}, at once:"
        yield from (f"  {line}" for line in (*impact_lines(environment.at_once), *environment.remarks))
        if environment.in_the_end is not None:
            names = ", ".join(environment.rolled_out)
            yield f"once the new settings of {names} have been rolled out like a new version:"
            yield from (f"  {line}" for line in impact_lines(environment.in_the_end))
        if environment.before != environment.after:
            yield from (f"  {line}" for line in difference(environment))
    yield from replay_lines([one.replay for one in review.rejudged if one.replay is not None])
    for one in review.rejudged:
        if one.replay is None:
            yield f"{one.past.rollout} is not judged again: {'; '.join(one.unknown)}"
    yield from (f"not looked at: {said}" for said in review.unsaid)
    yield verdict(review)


def github(review: Review) -> Iterator[str]:
    """Workflow commands: annotations on the lines of the changed documents."""
    for note, rule, mend in _notes(review):
        command = "error" if note.severity is Severity.ERROR else "warning"
        where = [("file", note.file), *([("line", str(note.line))] if note.line else []), ("title", f"sluice: {rule}")]
        properties = ",".join(f"{name}={_property(value)}" for name, value in where)
        message = f"{note.field}: {note.message}" if note.field else note.message
        yield f"::{command} {properties}::{_message(message + _mended(mend))}"
    yield from (f"::notice title=sluice: not looked at::{_message(said)}" for said in review.unsaid)
    yield verdict(review)


def as_data(review: Review) -> str:
    """For programs."""
    return as_json("reviews", [_data(review)]).replace("##[", "#\\u0023[")


def unobeyed(lines: Iterable[str]) -> Iterator[str]:
    """Lines that no runner takes for a command, whatever names are in them."""
    for line in lines:
        quiet = line.replace("##[", "## [")
        yield f"./{quiet}" if quiet.lstrip().startswith("::") else quiet


def _mended(mend: str) -> str:
    return f" -> {mend}" if mend else ""


def _notes(review: Review) -> list[tuple[Note, str, str]]:
    rows = [*((n, "lint", "") for n in review.lint), *((f.note, f.rule, f.mend) for f in review.findings)]
    return sorted(rows, key=lambda row: row[0].severity)


def _message(text: str) -> str:
    flat = shown(text, _MOST_OF_A_MESSAGE).replace("##[", "## [")
    return flat.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _data(review: Review) -> dict[str, Any]:
    return {
        "base": review.base,
        "head": review.head,
        "failures": review.failures,
        "warnings": review.warnings,
        "changed": list(review.changed),
        "findings": [{**dataclasses.asdict(n), "rule": rule, "mend": mend} for n, rule, mend in _notes(review)],
        "environments": [
            {
                "name": one.name,
                "at_once": hidden_in(plain(one.at_once), by_name=True),
                "in_the_end": hidden_in(plain(one.in_the_end), by_name=True),
                "rolled_out": list(one.rolled_out),
                "remarks": list(one.remarks),
                "difference": list(difference(one)),
            }
            for one in review.environments
        ],
        "replays": [
            {
                "model": one.past.model,
                "environment": one.past.environment,
                "rollout": one.past.rollout,
                "judged_by": one.held_to.words,
                "unknown": list(one.unknown),
                "replay": replay_data(one.replay) if one.replay else None,
            }
            for one in review.rejudged
        ],
        "unsaid": list(review.unsaid),
    }
