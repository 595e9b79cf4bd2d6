"""API keys: what is kept of them, and whose key somebody sent.

One JSON object a line; empty lines and lines that begin with # are skipped:

    {"name": "shop", "sha256": "<64 hex digits>", "models": ["fraud"], "permissions": ["feedback"],
     "expires": "2027-06-30T00:00:00Z"}

Rules:
- A key is 256 random bits, and what is kept of it is one SHA-256, without salt. Slow hashes and salts protect what
  people choose, which can be guessed; nobody guesses 2^256, with or without them, and a slow hash on each request would
  be a gift to whoever wants this server busy.
- The table is asked by the first bytes of the hash of what was sent, and the whole is compared in constant time. How
  long the look-up takes can say something about the hash of a guess, from which no key follows.
- One line that is wrong refuses the whole text: the keys that are in force stay, and a person is told which line. A
  last line without its line break is half written.
- Two lines may have one name: that is how a key is replaced without a moment in which neither is taken.

It never shows or logs a key. Where the text lies, and when it is read again, is `kept_reading.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as document

from policies.errors import BadInput
from serving_runtime.callers import EVERY_MODEL, PERMISSIONS, Caller, Reason

KEYS = 10_000
"""At most. One team has tens; 10,000 are a file of 1.2 MB, a table of 7.5 MB, and 0.1 s of a thread at each change."""
PREFIX = "sluice_"
"""So that a key can be found where it should not be: scanners of repositories look for prefixes."""
KEY_BYTES = 32
_INDEX_BYTES = 8  # two of 10,000 hashes that begin alike: once in 3 * 10^11 files; the second is then refused


@document(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class KeyLine:
    """One line of the file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
    """What logs call its holder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole key, as it is sent."""
    models: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9-]*)$", max_length=64)], ...],
        Field(min_length=1, max_length=1000),
    ]
    """Slugs of the models that it may call; `*` is all."""
    permissions: Annotated[tuple[Literal["force", "feedback"], ...], Field(max_length=len(PERMISSIONS))] = ()
    expires: AwareDatetime | None = None
    """From then on it is refused; none: never."""


_LINE: TypeAdapter[KeyLine] = TypeAdapter(KeyLine)


class _Entry(NamedTuple):
    digest: bytes
    caller: Caller
    expires: float | None  # seconds since the epoch


class KeyTable:
    """The keys of one text, ready to be asked."""

    def __init__(self, lines: Mapping[bytes, KeyLine]) -> None:
        """`lines` by the first `_INDEX_BYTES` of their SHA-256."""
        self._entries = MappingProxyType({index: _entry(line) for index, line in lines.items()})

    def find(self, sent: str, now: float) -> Caller | Reason | None:
        """Whose key it is; EXPIRED from its time on; None: no key of ours. `now` is the time of day, seconds."""
        digest = hashlib.sha256(sent.encode()).digest()
        found = self._entries.get(digest[:_INDEX_BYTES])
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        return Reason.EXPIRED if found.expires is not None and now >= found.expires else found.caller

    def __len__(self) -> int:
        return len(self._entries)


def _entry(line: KeyLine) -> _Entry:
    caller = Caller(line.name, frozenset(line.models), frozenset(line.permissions))
    return _Entry(bytes.fromhex(line.sha256), caller, line.expires.timestamp() if line.expires else None)


def parse_keys(raw: bytes) -> KeyTable:
    """The table of one text. Raises BadInput with the line and what is wrong, never with what stands there."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("the keys are no UTF-8 text") from error
    if text and not text.endswith("\n"):
        raise BadInput("the last line has no line break: the keys are half written")
    lines: dict[bytes, KeyLine] = {}
    for number, written in enumerate(text.splitlines(), 1):
        if not written.strip() or written.startswith("#"):
            continue
        line = _parse_line(written, number)
        index = bytes.fromhex(line.sha256)[:_INDEX_BYTES]
        if index in lines:
            raise BadInput(f"line {number}: the same key stands above, under the name {lines[index].name}")
        lines[index] = line
        if len(lines) > KEYS:
            raise BadInput(f"more than {KEYS} keys")
    return KeyTable(lines)


def _parse_line(written: str, number: int) -> KeyLine:
    try:
        return _LINE.validate_json(written)
    except ValidationError as error:
        # Their messages quote the input, where somebody may have written a key instead of its hash.
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        if first["type"] == "unexpected_keyword_argument":
            where = "a field"
        raise BadInput(f"line {number}: {where}: {first['msg']}") from None


def new_key(
    name: str,
    models: Collection[str] = (EVERY_MODEL,),
    permissions: Collection[str] = (),
    expires: datetime | None = None,
) -> tuple[str, str]:
    """A new key, and the line that stands for it. Raises BadInput for what no line may say."""
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    about = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "models": list(dict.fromkeys(models))}
    if permissions:
        about["permissions"] = list(dict.fromkeys(permissions))
    if expires is not None:
        about["expires"] = expires.astimezone(UTC).isoformat().replace("+00:00", "Z")
    line = json.dumps(about)
    _parse_line(line, 1)
    return key, line
