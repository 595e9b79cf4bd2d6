"""Safe names: what a stranger called a model, as something that can be a file, a Ray application and a part of a URL.

Rules:
- A slug is made of `[a-z0-9-]` only, starts and ends with a letter or digit, never has `--` in it (that separates the
  parts of an application's name) and has at most 40 characters: it cannot leave a folder, a label or a path segment.
- A name that is its own slug stays as it is; every other name gets 8 hex digits of its sha256, so that `Fraud` and
  `fraud`, or `a/b` and `a b`, differ. Two names that still meet are refused where a whole repo is read
  (`config_repo_documents.py`).
- What cannot be shown to a person without deceiving them (control and direction characters) is refused.

This module must not look at files or at what exists.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from policies.errors import BadInput

# 40 keeps `<slug>--v<version>-<build>` within the 63 characters of a DNS label, for versions of up to 11 digits.
MAX_SLUG = 40
# MLflow's own limit is 256; 250 is what `ModelDocument.name` accepts.
MAX_NAME = 250
# 8 hex digits are 32 bits: among 1,000 models two hashes of one readable part meet with a chance of about 1 in 9,000.
_HASH_DIGITS = 8
MAX_ENVIRONMENT = 32
ROLLOUT_ID = "[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
"""The id of a rollout is the name of its file. Ours have about 40 characters; file systems take 255."""

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_ENVIRONMENT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_UNSAFE_RUN = re.compile(r"[^a-z0-9]+")
# Cc control, Cf format (direction overrides, zero width), Cs lone surrogates, Zl and Zp line and paragraph separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def is_slug(text: str) -> bool:
    """Is `text` a name that stays as it is?"""
    return _SLUG.fullmatch(text) is not None and "--" not in text


def slug(name: str) -> str:
    """The safe name of a registered model: at most 40 characters of `[a-z0-9-]`, the same for the same name for ever.

    Raises BadInput for a name that is empty, longer than 250 characters or has control characters.
    """
    check_model_name(name)
    if is_slug(name):
        return name
    digits = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{_readable(name)}-{digits}"


def check_model_name(name: str) -> str:
    """Return `name` when a model may be called that. Raises BadInput."""
    if not name.strip():
        raise BadInput("a model's name is empty: write it as it is in the MLflow registry")
    if len(name) > MAX_NAME:
        raise BadInput(f"a model's name has {len(name)} characters, {MAX_NAME} at most are allowed: {name[:40]!r}...")
    bad = next((c for c in name if unicodedata.category(c) in _REFUSED_CATEGORIES), None)
    if bad is not None:
        raise BadInput(f"the model name {name!r} holds a control character (U+{ord(bad):04X}): register it without")
    return name


def check_environment_name(name: str) -> str:
    """Return `name` when an environment may be called that. Raises BadInput with the nearest name that would do."""
    if _ENVIRONMENT.fullmatch(name):
        return name
    nearest = _UNSAFE_RUN.sub("-", name.lower())[:MAX_ENVIRONMENT].strip("-")
    hint = f", for example {nearest}" if nearest else ""
    raise BadInput(
        f"{name[:80]!r} is no name for an environment: up to {MAX_ENVIRONMENT} lower-case letters, digits and dashes, "
        f"with a letter or digit at both ends{hint}"
    )


def _readable(name: str) -> str:
    """What a person recognises of the name, without accents; leaves room for the hash."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    body = _UNSAFE_RUN.sub("-", ascii_only.lower()).strip("-")
    return body[: MAX_SLUG - _HASH_DIGITS - 1].strip("-") or "model"
