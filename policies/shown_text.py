"""Texts of others as people are shown them: in comments, annotations, logs, terminals and reports.

Rules:
- Every door through which text goes out shows it by one of these: what looks like a secret is hidden here, so that no
  message has to think of it (`secret_values.py`).
- A character that is obeyed and not seen (a mark that reverses the reading direction, one of no width) is shown by its
  code: without it two names would look the same. Control characters and line breaks become spaces.
- First whole, then cut: half of a secret would not look like one.

This module must not know markup: that is `markdown.py`.
"""

from __future__ import annotations

import unicodedata

from policies.secret_values import hidden

_TO_SPACE = frozenset({"Cc", "Zl", "Zp", "Zs"})
_FOUR_DIGITS = 0xFFFF


def shown(text: str, limit: int) -> str:
    """On one line, at most `limit` characters, the last an ellipsis if it was longer."""
    flat = " ".join(shown_line(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def shown_line(line: str) -> str:
    """A line as it stands, indentation included."""
    seen = line if line.isprintable() else "".join(char if char.isprintable() else _code(char) for char in line)
    return hidden(seen)


def _code(char: str) -> str:
    if unicodedata.category(char) in _TO_SPACE:
        return " "
    return f"\\u{ord(char):04x}" if ord(char) <= _FOUR_DIGITS else f"\\U{ord(char):08x}"
