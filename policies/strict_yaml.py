"""YAML, the strict part of it: text to plain data with positions, and plain data to the same bytes every time.

Rules of the reader:
- Plain data only: mappings with text keys, lists, text, numbers, true, false, null. Anchors, aliases, tags, merge keys,
  directives and a second document are refused: nothing in a config repo needs them, and a few lines of aliases make
  gigabytes.
- A key appears once. Tabs and invisible characters are refused where they stand.
- What YAML 1.1 and 1.2 read differently (`012`, `0x1F`, `1_000`, `.inf`) is refused; `yes`, `no`, `on`, `off` are text.
- Size and depth are limited before anything is built.
- Every refusal names file, line, column and field, and what would be right.

Rules of the writer:
- Keys stay in the order given; equal data in equal order is equal bytes, and the reader gives the same data back.
- Text that any YAML reader (1.1 or 1.2) could take for something else is quoted, so Ray and kubectl read what we wrote.

This module must not read files: it takes text, and a path for its messages.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from policies.errors import BadInput

# People write a few kilobytes; the largest file Sluicegate writes is serve.yaml, 1.2 MB for a thousand models. The door
# to Git has the same limits, in bytes.
MAX_CHARACTERS = 1_048_576
MAX_SERVE_CONFIG = 4 * MAX_CHARACTERS
# The deepest document, a Serve config with runtime environments, has 9 levels.
MAX_DEPTH = 32
# Fits 64-bit readers, and keeps `int()` of a stranger's digits cheap.
MAX_DIGITS = 18

Path = tuple[str | int, ...]
"""Where a value is: keys and list indices from the root."""


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclasses.dataclass(frozen=True)
class Parsed:
    """One document: its data, and where the key (or list item) of each value stands."""

    data: Any
    positions: Mapping[Path, Position]

    def position(self, path: Path) -> Position:
        """Where `path` stands, or the nearest parent that exists."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, Position(1, 1))

    def value(self, path: Path) -> Any:
        """What stands at `path`, none where nothing does."""
        here = self.data
        for part in path:
            is_there = (
                part in here if isinstance(here, Mapping) else isinstance(here, list) and part in range(len(here))
            )
            if not is_there:
                return None
            here = here[part]
        return here


class YamlError(BadInput):
    """Text that is not strict YAML, with its place."""

    def __init__(self, file: str, position: Position, path: Path, reason: str) -> None:
        where = f"{file}:{position.line}:{position.column}: "
        super().__init__(where + (f"{dotted(path)}: " if path else "") + reason)
        self.file = file
        self.position = position
        self.path = path
        self.reason = reason


def dotted(path: Path) -> str:
    """As people write it: `objectives[0].target`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


# --- reading --------------------------------------------------------------------------------------------------


def parse(text: str, file: str, *, max_characters: int = MAX_CHARACTERS) -> Parsed:
    """Read one document of strict YAML; `file` is for messages only. Empty text is null.

    Raises YamlError (a BadInput) for the first thing that is not strict.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > max_characters:
        reason = f"the document has {len(text):,} characters, {max_characters:,} at most are read"
        raise YamlError(file, Position(1, 1), (), reason)
    _refuse_invisible(text, file)
    building = _Building(file)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            building.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        raise YamlError(file, at, building.path, f"not YAML: {_in_words(error)}") from error
    except (YAMLError, ValueError, OverflowError) as error:  # a wild \U escape is a ValueError in ruamel
        raise YamlError(file, building.last, building.path, f"not YAML: {error}") from error
    return Parsed(building.root, building.positions)


def _in_words(error: Any) -> str:
    """What ruamel found and while doing what, on one line."""
    return ", ".join(str(part) for part in (error.problem, error.context) if part)


# YAML allows no control characters but tab and line breaks; direction marks and a byte order mark deceive the reader.
_INVISIBLE = re.compile(
    r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _refuse_invisible(text: str, file: str) -> None:
    found = _INVISIBLE.search(text) or _SURROGATE.search(text)
    if found is None:
        return
    before = text[: found.start()]
    at = Position(before.count("\n") + 1, found.start() - before.rfind("\n"))
    if found.group() == "\t":
        raise YamlError(file, at, (), 'a tab: indent with spaces (inside double quotes, write "\\t")')
    code = f"U+{ord(found.group()):04X}"
    raise YamlError(file, at, (), f"an invisible character, {code}: remove it (inside double quotes, write its escape)")


@dataclasses.dataclass
class _Open:
    """A mapping or list that has begun; `key` is the mapping's key that waits for its value."""

    value: dict[str, Any] | list[Any]
    key: str | None = None


class _Building:
    """Puts a document together from parser events, without recursion, refusing what is not strict."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Any = None
        self.path: Path = ()
        self.positions: dict[Path, Position] = {}
        self.last = Position(1, 1)
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        """Go on by one event of ruamel's parser."""
        kind = type(event).__name__
        self.last = Position(event.start_mark.line + 1, event.start_mark.column + 1)
        self._refuse_extras(event, kind)
        match kind:
            case "DocumentStartEvent":
                self._begin_document(event)
            case "ScalarEvent":
                self._scalar(event)
            case "MappingStartEvent":
                self._begin({})
            case "SequenceStartEvent":
                self._begin([])
            case "MappingEndEvent" | "SequenceEndEvent":
                self._open.pop()
                self._value_done()

    def _refuse(self, reason: str) -> YamlError:
        return YamlError(self.file, self.last, self.path, reason)

    def _refuse_extras(self, event: Any, kind: str) -> None:
        if kind == "AliasEvent":
            raise self._refuse(f"an alias, *{event.anchor}: write the value out, aliases are not read")
        if getattr(event, "anchor", None):
            raise self._refuse(f"an anchor, &{event.anchor}: write the value out where it is needed")
        if kind != "DocumentStartEvent" and getattr(event, "tag", None):
            raise self._refuse(f"a tag, {event.tag}: plain values only")

    def _begin_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._refuse("a second document: one file holds one document; put the other into its own file")
        if event.version or event.tags:
            raise self._refuse("a % directive: remove the line")

    def _begin(self, value: dict[str, Any] | list[Any]) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        parent = self._open[-1] if self._open else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            raise self._refuse("a mapping or list as a key: keys are text")
        self._place(value)
        self._open.append(_Open(value))

    def _scalar(self, event: Any) -> None:
        parent = self._open[-1] if self._open else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            self._key(parent, event)
            return
        self._place(self._resolve(event))
        self._value_done()

    def _key(self, parent: _Open, event: Any) -> None:
        key = self._resolve(event)
        if not isinstance(key, str):
            raise self._refuse(f"the key {event.value!r} is not text: put it in quotes")
        if key == "<<" and not event.style:
            raise self._refuse("a merge key, <<: write the values out")
        if key in parent.value:
            first = self.positions[(*self.path, key)]
            raise self._refuse(f"the key {key!r} appears twice, first in line {first.line}: keep one")
        parent.key = key
        self.path = (*self.path, key)
        self.positions[self.path] = self.last

    def _place(self, value: Any) -> None:
        """Put a value where it belongs; the path then ends at it."""
        if not self._open:
            self.root = value
            self.positions.setdefault((), self.last)
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            self.path = (*self.path, len(parent.value))
            self.positions[self.path] = self.last
            parent.value.append(value)
        elif parent.key is not None:
            parent.value[parent.key] = value

    def _value_done(self) -> None:
        """The value at `path` is complete: back to the collection it is in."""
        if self._open:
            self._open[-1].key = None
            self.path = self.path[:-1]

    def _resolve(self, event: Any) -> Any:
        if event.style is not None:  # quoted or block: text, whatever it looks like
            return event.value
        try:
            return _plain_scalar(event.value)
        except ValueError as error:
            raise self._refuse(str(error)) from error


_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
# Numbers in one version of YAML and something else in the other: octal, hex, underscores, a bare point, infinity.
_DOUBTFUL = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xob][0-9a-fA-F_]+|[0-9][0-9_]*_[0-9_]*|[0-9_]+\.|\.[0-9][0-9_eE+-]*|\.inf|\.nan)|\+[0-9.eE+-]+",
    re.IGNORECASE,
)
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}


def _plain_scalar(text: str) -> Any:
    """What a scalar without quotes means. Raises ValueError where two readers would differ."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text.lstrip("-")) > MAX_DIGITS:
            raise ValueError(f"a number of {len(text)} digits, {MAX_DIGITS} at most: put it in quotes if it is text")
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{text[:40]} is beyond what a number can hold")
        return value
    if _DOUBTFUL.fullmatch(text):
        raise ValueError(
            f"{text[:40]} is read differently by different YAML readers: write a number in plain decimal digits, and "
            "anything else in quotes"
        )
    return text


# --- writing --------------------------------------------------------------------------------------------------

# Text that every YAML reader takes for text without quotes: words and addresses that begin with a letter (a colon only
# inside, before something that is no space), and durations.
_BARE = re.compile(r"(?:[A-Za-z_/][A-Za-z0-9_./@+-]*(?::(?=[A-Za-z0-9/])[A-Za-z0-9_./@+-]*)*|(?:[0-9]+[dhms])+)")
_SPECIAL_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_INDENT = "  "


def dump(data: Any) -> str:
    """Plain data as strict YAML, ending in a line break. Keys keep their order.

    Raises BadInput for text or numbers that YAML cannot hold (lone surrogates, infinities, more than 18 digits), and
    TypeError for anything that is not plain data.
    """
    if _is_block(data):
        return "".join(f"{line}\n" for line in _block(data))
    return f"{_inline(data)}\n"


def _is_block(value: Any) -> bool:
    """Does it need lines of its own? Empty collections and lists of numbers do not."""
    if isinstance(value, Mapping):
        return bool(value)
    return _is_list(value) and not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _block(value: Any) -> list[str]:
    """The lines of a collection that is not empty."""
    if isinstance(value, Mapping):
        return [line for key, inner in value.items() for line in _entry(key, inner)]
    return [line for inner in value for line in _item(inner)]


def _entry(key: Any, value: Any) -> list[str]:
    if not isinstance(key, str):
        raise TypeError(f"keys are text, not {key!r}")
    head = f"{_text(key)}:"
    if _is_block(value):
        return [head, *(_INDENT + line for line in _block(value))]
    return [f"{head} {_inline(value)}"]


def _item(value: Any) -> list[str]:
    if not _is_block(value):
        return [f"- {_inline(value)}"]
    first, *rest = _block(value)
    return [f"- {first}", *(_INDENT + line for line in rest)]


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if _is_list(value):
        return f"[{', '.join(_inline(v) for v in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        return _text(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def _number(value: float) -> str:
    if isinstance(value, int):
        text = str(int(value))
        if len(text.lstrip("-")) > MAX_DIGITS:
            raise BadInput(f"a number of {len(text)} digits, {MAX_DIGITS} at most can be stored")
        return text
    if not math.isfinite(value):
        raise BadInput(f"{value} is no number that can be stored")
    text = repr(float(value))
    # YAML 1.1 readers (PyYAML, so Ray) take 1e-05 for text: it needs a point.
    return text if "." in text else text.replace("e", ".0e")


def _text(value: str) -> str:
    value = str(value)
    if _BARE.fullmatch(value) and value.lower() not in _SPECIAL_WORDS:
        return value
    if _SURROGATE.search(value):
        raise BadInput(f"{value[:40]!r} holds half a character and cannot be stored")
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in value) + '"'


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  (YAML's two escape widths)
