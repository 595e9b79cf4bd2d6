"""Does a text look like a secret: by a shape that providers give their keys, by its name, or because it is random.

Rules:
- A text that is found is never repeated: whoever asks says where it stands.
- What only looks random is a suspicion, and says so: hashes and identifiers look random, too.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator

_SECRET_WORDS = frozenset({"secret", "token", "password", "passwd", "pwd", "credential", "credentials", "apikey"})
_SECRET_PAIRS = frozenset({("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("auth", "key")})
# Names that say where a secret is, or something about it, and not what it is.
_ABOUT = frozenset({"path", "file", "dir", "url", "uri", "name", "ttl", "type", "id", "length", "limit", "count"})
_HARMLESS = re.compile(r"|true|false|yes|no|on|off|none|null|[0-9.]{1,9}", re.IGNORECASE)
SLUICE_KEY = r"sluice_[\w-]{43}"
"""An API key of Sluicegate itself: its prefix and 32 bytes in base64 (`serving_runtime/api_keys.py`). Nothing is asked
of what stands before it, and metrics have shorter names."""
# Shapes that providers give their keys so that they can be found: AWS, GitHub, GitLab, Slack, OpenAI and Hugging Face,
# Google, ourselves; a private key; an address with a password; a signed token. No part of a line is read over and over:
# a stranger may have written a megabyte of it.
_SECRET_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bxox[abprs]-"
    r"[\w-]{10,}|\bsk-[\w-]{16,}|\bhf_[A-Za-z0-9]{16,}|\bAIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]*:[^/\s@]+@"
    r"|(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.|" + SLUICE_KEY
)
_ONE_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
# Bits per character: English words and identifiers stay below 3.8 at such lengths, random base64 is above 4.2.
_RANDOM_BITS = 4.1


def has_secret_shape(text: str) -> bool:
    """Is there something in it that has the shape of a provider's key, a private key or an address with a password?"""
    return _SECRET_SHAPES.search(text) is not None


def is_secret(name: str, value: str) -> bool:
    """Is the value of a variable of this name one that nobody should read?"""
    if has_secret_shape(value):
        return True
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    if not words or words[-1] in _ABOUT or _HARMLESS.fullmatch(value):
        return False
    return bool(_SECRET_WORDS & set(words)) or any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words))


def is_random(value: str) -> bool:
    """One long token of letters and digits in which hardly anything repeats (Shannon's entropy of its characters)."""
    if not _ONE_TOKEN.fullmatch(value) or value.isalpha() or value.startswith("/"):
        return False
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts) >= _RANDOM_BITS


def long_tokens(line: str) -> Iterator[str]:
    """The tokens of a line that are long enough to be random."""
    return (found.group() for found in _ONE_TOKEN.finditer(line))
