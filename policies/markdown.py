"""Markdown for a forge's comment, made of texts that strangers chose.

Rules:
- Such a text is on one line, without what looks like a secret, its direction marks by their code (`shown_text.py`), and
  does nothing: no link, no image, no HTML, no
  heading, no mention that sends somebody a mail, no reference that appears on another page.
- Names of files, fields and values stand in code spans, in which a forge looks for none of these. Sentences are prose:
  every character that Markdown could read is escaped, and what forges read beyond Markdown is cut by a word joiner.
- A text has a limit, and says that it was cut.

This module must not know what a comment is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from policies.shown_text import shown as shown_text
from policies.shown_text import shown_line

CELL: Final = 300
"""Characters of one cell or sentence: three lines of a table. More is in the files themselves."""
LINE: Final = 500
"""Characters of a line in a block: what is longer is no line that anybody reads."""
JOINER: Final = "\u2060"
"""Zero wide, and no part of any name: `@` and a name with one between them are no mention."""

# What starts an emphasis, a code span, a link, HTML, an entity, a cell, a formula or a strikethrough anywhere; an
# underscore inside a word starts nothing.
_SPECIAL: Final = re.compile(r"([\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
# What starts a list, a heading or a rule at the beginning of a line.
_LEADING: Final = re.compile(r"^(\d{0,9})([-+=#.)])")
# What GitHub, GitLab and Gitea make links of beyond Markdown: @who, #12, !12, ~label, %milestone, $snippet, &epic,
# owner/repo#12, GH-12; http://, www. and mail addresses.
_REFERENCE: Final = re.compile(r"([@#!~%$&])(?=[\w\\\"'])|(?<=\b[Gg][Hh])(?=-\d)|(?<=[Ww])(?=\.)|(?<=:)(?=//)")


def prose(text: str, limit: int = CELL) -> str:
    """A sentence, with nothing in it that a forge obeys."""
    return _REFERENCE.sub(lambda m: f"{m.group(1) or ''}{JOINER}", _escaped(shown_text(text, limit)))


def _escaped(text: str) -> str:
    # The joiner goes in after the escapes: `\@` would still be a mention once the backslash is gone.
    return _LEADING.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text))


def code(text: str, limit: int = CELL) -> str:
    """A name in a code span, fit for a table too; nothing for nothing."""
    shown = shown_text(text, limit)
    if not shown:
        return ""
    fence = "`" * (_longest_run(shown) + 1)
    padded = f" {shown} " if shown[0] == "`" or shown[-1] == "`" else shown
    # Inside a table a bar ends a cell, code span or not; escaped it is shown as a bar there. A backslash before it
    # would escape our escape.
    return f"{fence}{padded}{fence}".replace("\\|", "\\ |").replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table's lines; every cell is Markdown already, on one line."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def fenced(lines: Sequence[str], language: str) -> list[str]:
    """Lines as they are, in a block that none of them can end."""
    clean = [shown_line(line)[:LINE] for line in lines]
    fence = "`" * max(3, 1 + max((_longest_run(line) for line in clean), default=0))
    return [f"{fence}{language}", *clean, fence]


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
