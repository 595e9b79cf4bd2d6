"""What captured traffic never shows: fields a policy names, fields whose names look like secrets, values that do. Pure.

Rules:
- A field is hidden by its name, at any depth of a body, whatever its case. Its name stays, its value becomes null.
- A policy that names a column as it is in the files (`input.email`) means the field: it is hidden wherever it stands.
- Names are read as words (`apiKey`, `api_key` and `API-KEY` are the same two): a feature called `tokens_seen` or
  `author` is no secret, one called `token` is.
- Names that stand beside their values hide them too: `{"name": "token", "data": [...]}`, `{"columns": ["token"], ...}`.
- A text that looks like a credential is hidden wherever it stands, because people paste them into comment fields. So is
  one in which a name that looks like a secret stands beside its value: `password=hunter2`, `"api_key": "x7Fq2a"`. Such
  a value has a digit and four characters or more: prose (`the token: a coin`) and most code (`token = next(it)`) have
  not.
- When in doubt it is hidden: a feature lost to this can be renamed, a password on disk cannot be taken back.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Collection
from typing import Any

from policies.secret_values import SLUICE_KEY

# Deeper than any request that a model takes; what lies below is not looked at, so it is not written either.
DEPTH_LIMIT = 20
# Names looked up before: field names repeat in every request, but strangers can invent them.
NAMES_REMEMBERED = 4096

_SECRET_WORDS = frozenset(
    {
        "password", "passwd", "passphrase", "passcode", "pwd", "secret", "secrets", "token", "credential",
        "credentials", "authorization", "bearer", "cookie", "jwt", "apikey", "otp", "pin", "cvv", "cvc", "ssn", "iban",
    }
)  # fmt: skip
_SECRET_PAIRS = frozenset(
    {
        ("api", "key"), ("access", "key"), ("private", "key"), ("signing", "key"), ("encryption", "key"),
        ("session", "id"), ("card", "number"), ("security", "code"), ("pass", "word"), ("account", "key"),
    }
)  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_TEXT = re.compile(
    r"\b(?i:bearer|basic) (?=\S*[0-9=])[\w.~+/=-]{8}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}"  # a JSON Web Token
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # an AWS key id
    r"|\b(?:gh[pousr]|glpat|xox[abprs]|sk)[_-][\w-]{16}"  # tokens of code hosts, chats and APIs
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]{1,64}:[^/\s:@]{1,64}@"  # a password in an address
    rf"|{SLUICE_KEY}"
)
# Bounded everywhere: a stranger may have written `a=a=a=...` a hundred thousand times.
_PAIR = re.compile(r"(?<![\w-])([\w-]{1,64}+)[\"']?\s{0,2}[=:]\s{0,2}[\"']?(?=[^\s\"',;&]{0,63}[0-9])[^\s\"',;&]{4}")

_COLUMN = re.compile(r"^(input|feature|prediction)\.")

# Under these an object names what it holds: a tensor, a header, a form's field, a table.
_NAMING = frozenset({"name", "key", "field", "column", "columns"})


class Redaction:
    """The fields to hide by a policy's `exclude`, and those that look like secrets."""

    def __init__(self, exclude: Collection[str] = ()) -> None:
        names = frozenset(name.casefold() for name in exclude)
        self._exclude = names | {_COLUMN.sub("", name) for name in names}

    def hides(self, name: str) -> bool:
        """Must this field's value not be written?"""
        return name.casefold() in self._exclude or looks_secret(name)

    def text(self, value: str) -> str | None:
        """The text, or None where it looks like a credential."""
        return None if _SECRET_TEXT.search(value) or _has_secret_pair(value) else value

    def value(self, value: Any, depth: int = DEPTH_LIMIT) -> Any:
        """A JSON value with what is hidden as null."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None  # no JSON
        if not isinstance(value, (dict, list)):
            return value
        if depth == 0:
            return None
        if isinstance(value, list):
            return [self.value(item, depth - 1) for item in value]
        if self._is_named_secret(value):
            return {name: item if name in _NAMING else None for name, item in value.items()}
        return {
            (name if self.text(name) else "null"): None if self.hides(name) else self.value(item, depth - 1)
            for name, item in value.items()
        }

    def _is_named_secret(self, value: dict[str, Any]) -> bool:
        """Does the object name a hidden field, and hold its value under another name?"""
        named = [value.get(name) for name in _NAMING]
        names = [item for name in named for item in (name if isinstance(name, list) else [name])]
        return any(isinstance(name, str) and self.hides(name) for name in names)


def _has_secret_pair(text: str) -> bool:
    return any(looks_secret(pair.group(1)) for pair in _PAIR.finditer(text))


@functools.lru_cache(NAMES_REMEMBERED)
def looks_secret(name: str) -> bool:
    """Does a field of this name hold a secret?"""
    words = [word.lower() for word in _WORD.findall(name)]
    return not _SECRET_WORDS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(itertools.pairwise(words))
