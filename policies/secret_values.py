"""Does a text look like a secret: by a shape that providers give their keys, by its name, or because it is random.

Rules:
- A text that is found is never repeated: whoever asks says where it stands, and every door through which text goes out
  hides it (`shown_text.py`).
- What only looks random is a suspicion, and says so: hashes and identifiers look random, too.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "(not shown: looks like a secret)"

_SECRET_WORDS = frozenset({"secret", "token", "password", "passwd", "pwd", "credential", "credentials", "apikey"})
_SECRET_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("auth", "key")})
# Names that say where a secret is, or something about it, and not what it is.
_ABOUT = frozenset({"path", "file", "dir", "url", "uri", "name", "ttl", "type", "id", "length", "limit", "count"})
_HARMLESS = re.compile(r"|true|false|yes|no|on|off|none|null|[0-9.]{1,9}", re.IGNORECASE)
SLUICE_KEY = r"sluice_[\w-]{43}"
"""An API key of Sluicegate itself: its prefix and 32 bytes in base64 (`serving_runtime/api_keys.py`). Nothing is asked
of what stands before it, and metrics have shorter names."""
# Names are written in one word, too: PGPASSWORD, dbPassword.
_SECRET_ENDS = ("password", "passwd", "passphrase", "secret", "apikey", "accesskey", "secretkey", "authtoken")
# Shapes that providers give their keys so that they can be found. No part of a line is read over and over: a stranger
# may have written a megabyte of it.
_SHAPES = (
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
    r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}",
    r"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|oas|agent)-[\w-]{16,}",  # GitLab
    r"\bxox[abeprs]-[\w-]{10,}|\bxapp-[\w-]{16,}|hooks\.slack\.com/services/[\w/]{20,}",
    # OpenAI, Anthropic and others; a model may well be called sk-learn-churn-model-2.
    r"\bsk-(?:[0-9a-f]{32}|(?=[\w-]{0,100}\d)(?=[\w-]{0,100}[A-Z])[\w-]{16,})|\bhf_[A-Za-z0-9]{16,}",
    r"\bdapi[0-9a-f]{32}\b",  # Databricks
    r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|\bwhsec_[A-Za-z0-9]{16,}",  # Stripe
    r"\bnpm_[A-Za-z0-9]{30,}|\bpypi-AgE[\w-]{16,}|\bdckr_pat_[\w-]{20,}",
    r"\bAIza[\w-]{30,}|\bya29\.[\w-]{16,}|\bGOCSPX-[\w-]{20,}",  # Google
    r"\bdo[opr]_v1_[0-9a-f]{32,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    r"\bhv[sbr]\.[\w-]{20,}|\bglsa_\w{20,}",  # Vault, Grafana
    r"\bAccountKey=[A-Za-z0-9+/]{40,}={0,2}",  # Azure
    r"://[^/\s:@]*:[^/\s@]+@",  # an address with a password
    r"-----BEGIN [A-Z ]*PRIVATE KEY(?s:.*?-----END [A-Z ]*PRIVATE KEY-*|.*)",
    r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",  # a signed token
    SLUICE_KEY,
)
_SECRET_SHAPES = re.compile("|".join(_SHAPES))
_ONE_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
# Bits per character: English words and identifiers stay below 3.8 at such lengths, random base64 is above 4.2.
_RANDOM_BITS = 4.1


def has_secret_shape(text: str) -> bool:
    """Is there something in it that has the shape of a provider's key, a private key or an address with a password?"""
    return _SECRET_SHAPES.search(text) is not None


def hidden(text: str) -> str:
    """The text without what has such a shape."""
    return _SECRET_SHAPES.sub(HIDDEN, text)


def hidden_line(line: str) -> str:
    """A line of a document, also without the value of a name like `db_password`."""
    found = _NAMED.fullmatch(line)
    if found is not None and _is_named_so(*named_value(line)):
        return f"{hidden(line[: found.start(2)])} {HIDDEN}"
    parts, end = [], 0
    for start, stop in (assigned.span(2) for assigned in _ASSIGNED.finditer(line) if _assigns(assigned)):
        parts += [line[end:start], HIDDEN]
        end = stop
    return hidden("".join([*parts, line[end:]]))


def hidden_in(value: Any, *, by_name: bool = False) -> Any:
    """Plain data with the same hidden in every text and key; `by_name` where its keys are names of settings, too."""
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, Mapping):
        return _hidden_entries(value, by_name=by_name)
    if isinstance(value, list | tuple):
        return [hidden_in(inner, by_name=by_name) for inner in value]
    return value


def _hidden_entries(value: Mapping[Any, Any], *, by_name: bool) -> dict[Any, Any]:
    entries: dict[Any, Any] = {}
    for key, inner in value.items():
        shown = hidden(key) if isinstance(key, str) else key
        while shown in entries:  # two hidden keys are two entries
            shown += "'"
        is_named = by_name and isinstance(key, str) and isinstance(inner, str) and _is_named_so(key, inner)
        entries[shown] = HIDDEN if is_named else hidden_in(inner, by_name=by_name)
    return entries


_NAMED = re.compile(r"[\s#-]*(?:export )?[\"']?([A-Za-z0-9_.-]{1,200})[\"']?\s{0,9}[:=](.*)")


def named_value(line: str) -> tuple[str, str]:
    """A name and its value, as YAML, JSON and variables have them; empty for anything else."""
    found = _NAMED.fullmatch(line)
    return (found[1], found[2].strip().rstrip(",").strip("'\"")) if found else ("", "")


# Anywhere in a text, and so only a value that no sentence has: one long word without what code has in its place. It is
# only looked at, for it may hold the next name, and only behind a name that may be one: a line may be long.
_ASSIGNED = re.compile(
    r"(?<![\w.-])(?=[\w.-]{0,199}(?i:secret|token|pass|pwd|credential|key))"
    r"([A-Za-z_][\w.-]{0,199})[\"']?[ \t]{0,9}[:=][ \t]{0,9}[\"']?"
    r"(?=([^\s\"'(){}\[\]$<>,;]{8,200}+)(?![(\[{]))"
)
_PLACE_OR_CODE = re.compile(r"/.*|\w+://.*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def assigns_secret(text: str) -> bool:
    """Is there `password = x1y2z3...` in it, or `PGPASSWORD=x1y2z3... psql`, whatever stands around that?"""
    return any(_assigns(found) for found in _ASSIGNED.finditer(text))


def _assigns(found: re.Match[str]) -> bool:
    name, value = found.groups()
    is_mixed = any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
    return is_mixed and _is_named_so(name, value) and not _PLACE_OR_CODE.fullmatch(value)


def is_secret(name: str, value: str) -> bool:
    """Is the value of a variable of this name one that nobody should read?"""
    return has_secret_shape(value) or _is_named_so(name, value)


def _is_named_so(name: str, value: str) -> bool:
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    if not words or words[-1] in _ABOUT or _HARMLESS.fullmatch(value):
        return False
    if _SECRET_WORDS & set(words) or any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words)):
        return True
    return any(word.endswith(_SECRET_ENDS) for word in words)


def is_random(value: str) -> bool:
    """One long token of letters and digits in which hardly anything repeats (Shannon's entropy of its characters)."""
    if not _ONE_TOKEN.fullmatch(value) or value.isalpha() or value.startswith("/"):
        return False
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts) >= _RANDOM_BITS


def long_tokens(line: str) -> Iterator[str]:
    """The tokens of a line that are long enough to be random."""
    return (found.group() for found in _ONE_TOKEN.finditer(line))
