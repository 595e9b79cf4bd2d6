"""Commit messages of the config repo: a subject, a body, and trailers that `git log` can be asked for.

Rules:
- The subject is one line. Names come from strangers (a model may be called anything), so control characters, line
  breaks and the marks that reverse the reading direction never reach a message.
- Only what is given as a trailer reads back as one: a line of the body that looks like a trailer is indented, and the
  trailers are the last paragraph, which is where Git looks for them.
- Subject and body repeat nothing that looks like a secret: both are made of what is wrong with what others wrote.
- The same arguments give the same bytes.

This module must not know what a trailer means; it only sees to it that nobody can forge one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

from policies.secret_values import hidden

SUBJECT_LIMIT: Final = 120
"""Characters. `git log --oneline` stays on one line of a wide terminal; model names may be 250 long."""
VALUE_LIMIT: Final = 500
"""Characters of one trailer: a registry name (250) fits twice, a pasted document does not."""
BODY_LINES_LIMIT: Final = 200
"""Lines of the body: a verdict's reasons for every objective of every model in a large look."""

_TRAILER_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_LOOKS_LIKE_TRAILER: Final = re.compile(r"[A-Za-z0-9-]+[ \t]*:")
_TO_SPACE: Final = frozenset({"Cc", "Zl", "Zp", "Zs"})
_TO_NOTHING: Final = frozenset({"Cf", "Cs", "Cn", "Co"})
"""Formatting marks (bidi overrides among them), halves of surrogate pairs, unassigned and private characters."""


def message(subject: str, body: str = "", trailers: Mapping[str, str] | None = None) -> str:
    """The text of a commit message, ending in a line break.

    Trailers keep their order; their keys are letters, digits and dashes. Raises ValueError for an empty subject, an
    empty trailer value or a key of another shape: those are mistakes of the caller, never of the text.
    """
    parts = [_required(one_line(hidden(subject), SUBJECT_LIMIT), "subject")]
    lines = _body_lines(body)
    if lines:
        parts.append("\n".join(lines))
    if trailers:
        parts.append("\n".join(_trailer(key, value) for key, value in trailers.items()))
    return "\n\n".join(parts) + "\n"


def one_line(text: str, limit: int = VALUE_LIMIT) -> str:
    """The text on one line of printable characters, at most `limit` of them, the last an ellipsis if it was longer."""
    flat = " ".join("".join(_printable(char) for char in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def printable(text: str) -> str:
    """The text with a space for each character that a terminal would obey instead of showing it; as long as before."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def trailers_of(text: str) -> dict[str, str]:
    """The trailers of a message that `message` wrote; of a key that comes twice, the last.

    The last paragraph counts, if every line of it is a trailer and it is not the subject. This is Git's own rule
    without its leniency, which is for messages that people write.
    """
    paragraphs = re.split(r"\n[ \t]*\n", text.strip("\n"))
    lines = paragraphs[-1].split("\n")
    if len(paragraphs) < 2 or not all(_LOOKS_LIKE_TRAILER.match(line) for line in lines):  # noqa: PLR2004 - the subject
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _printable(char: str) -> str:
    category = unicodedata.category(char)
    if category in _TO_SPACE:
        return " "
    return "" if category in _TO_NOTHING else char


def _body_lines(body: str) -> list[str]:
    lines = [_body_line(line) for line in body.strip().splitlines()[:BODY_LINES_LIMIT]]
    while lines and not lines[-1]:  # a blank end would move the trailers into a paragraph of their own twice
        lines.pop()
    return lines


def _body_line(line: str) -> str:
    indent = len(line) - len(line.lstrip(" "))
    text = one_line(hidden(line))
    if not text:
        return ""
    return " " * min(max(indent, 2), 8) + text if indent or _LOOKS_LIKE_TRAILER.match(text) else text


def _trailer(key: str, value: str) -> str:
    if not _TRAILER_KEY.fullmatch(key):
        raise ValueError(f"{key!r} cannot be a trailer's key: letters, digits and dashes, beginning with a letter")
    return f"{key}: {_required(one_line(value), key)}"


def _required(text: str, what: str) -> str:
    if not text:
        raise ValueError(f"a commit message needs a {what}")
    return text
