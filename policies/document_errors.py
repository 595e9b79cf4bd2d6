"""A document as a noun, or everything that is wrong with it as notes with file, line, field and what would be right.

Rules:
- Kinds are strict: the text "2" is no number, 1 is no truth value. What is missing, unknown or out of range is named.
- An unknown key comes with the nearest right one.
- What a note repeats of a document is short, and nothing of `env`: that is where secrets end up by mistake.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from policies.names import ROLLOUT_ID
from policies.notes import Note, Severity
from policies.secret_values import hidden
from policies.strict_yaml import Parsed, Path, dotted
from policies.wrong_fields import WrongFields

T = TypeVar("T")

_SHOWN = 60  # characters of a wrong value: enough to find it, no page of it
_NEAR = 0.65  # difflib's ratio: `deafult` and `default` have 0.86, `colour` and `rollout` 0.62
_SECRET_FIELDS = frozenset({"env"})
_CREDENTIALS = re.compile(r"://[^/\s]*@")
_NUMBERS = frozenset({"int_type", "float_type"})
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_OUR_WORDS = {"an object": "a mapping", "a valid array": "a list", "a valid dictionary": "a mapping"}
_SAY_IT_ALL = frozenset({"value_error", "too_short", "too_long", "string_too_short"})
# What a text should have looked like, by the beginning of the pattern that it missed.
_SHAPES = {
    "^https?://": "should be an address like http://127.0.0.1:8265, without user, password or spaces",
    "^[a-z0-9]([a-z0-9-]*": "should be lower-case letters, digits and dashes, with a letter or digit at both ends",
    "^/[a-z0-9]": "should be a path like /models/fraud: lower-case letters, digits and . _ - /",
    "^[^=]+=": "should be key=value",
    "^[0-9a-f]{40}": "should be a whole commit id: 40 or 64 hexadecimal digits",
    "^sha256:": "should be sha256: and 64 hexadecimal digits",
    f"^{ROLLOUT_ID}": "should be letters, digits, - and _ only, at most 100: it is the name of a file",
    r"^[^\s@,]+$": "should be a person's name at the forge, without @",
    "^([01][0-9]|": "should be a time of day in UTC, like 16:30",
    "^[a-zA-Z_]": "should be the name of a label: letters, digits and _",
    "^(s3://": "should be s3://bucket/prefix or file:///folder, a bucket of 3 to 63 lower-case letters, digits, . and "
    "-, folders of letters, digits and . _ = -",
    "^[A-Za-z_][A-Za-z0-9_]*(": "should be package.module:name, of Python that the replicas can import",
    "^[A-Za-z_][A-Za-z0-9_.]*$": "should be a flavor as its MLmodel calls it, like sklearn",
    "^[A-Z_]": "should be the name of an environment variable: capital letters, digits and _",
    "^/[^": "should be an absolute path, like /etc/sluice/keys",
    "^[a-z0-9][A-Za-z0-9._:/@-]*$": "should be an image, like registry.example.com/fraud:3",
    "^[a-z0-9]([a-z0-9._-]*": "should be lower-case letters, digits and . _ -, with a letter or digit at both ends",
    "^[a-z]([a-z0-9-]*": "should be lower-case letters, digits and dashes, with a letter first and no dash last",
    "^[a-z0-9-]+/": "should be namespace/name, in lower-case letters, digits and dashes",
    r"^[\w.-]+(/": "should be owner/name, as in the repository's address",
    r"^[A-Za-z0-9.:\[\]-]+:": "should be an address and a port, like 127.0.0.1:8790",
}


@dataclasses.dataclass(frozen=True)
class Reading(Generic[T]):
    """What one document says, or why it cannot be read: `value` is none exactly where a note is an error."""

    value: T | None
    notes: tuple[Note, ...]


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """The validator of a document kind; building one takes a millisecond, so each is built once."""
    return TypeAdapter(kind)


@functools.cache
def schema(kind: Any) -> Mapping[str, Any]:
    """The JSON Schema of a document kind as pydantic makes it, by the names that people write."""
    return adapter(kind).json_schema(by_alias=True, mode="validation")


def read_noun(
    kind: Any, parsed: Parsed, file: str, header: Sequence[str] = (), instead: Mapping[str, str] | None = None
) -> Reading[Any]:
    """Make `kind`, a pydantic dataclass, of parsed YAML without the `header` keys, which were checked before.

    `instead` says for keys that are known elsewhere and not here what to write in their place.
    """
    data = parsed.data
    if not isinstance(data, Mapping):
        return Reading(None, (note(parsed, file, (), "the document must be a mapping of keys and values"),))
    body = {key: value for key, value in data.items() if key not in header}
    try:
        # Through JSON, for only there strict means: lists are tuples, text is a time or a phase, and nothing else is.
        return Reading(adapter(kind).validate_json(json.dumps(body), strict=True), ())
    except ValidationError as error:
        explaining = _Explaining(kind, parsed, file, tuple(header), instead or {})
        found = [item for item in error.errors(include_url=False) if not _follows_from_others(item)]
        return Reading(None, tuple(explaining.note(*same) for same in _by_value(parsed.data, found)))


def shape(pattern: str) -> str:
    """What a text should look like, in words."""
    return next((words for start, words in _SHAPES.items() if pattern.startswith(start)), f"should match {pattern}")


def known_only(kind: Any, data: Any) -> Any:
    """JSON without the keys that the noun `kind` does not know, at any depth: from a newer Sluicegate than this one."""
    return _pruned(schema(kind), schema(kind), data)


def _pruned(root: Mapping[str, Any], node: Any, data: Any) -> Any:
    here = _followed(root, node)
    if isinstance(data, Mapping):
        known, rest = here.get("properties"), here.get("additionalProperties")
        if known is None:
            return {key: _pruned(root, rest, value) for key, value in data.items()}
        return {key: _pruned(root, known[key], value) for key, value in data.items() if key in known}
    if isinstance(data, list):
        return [_pruned(root, here.get("items"), value) for value in data]
    return data


def note(parsed: Parsed, file: str, path: Path, message: str, severity: Severity = Severity.ERROR) -> Note:
    """A finding about the value at `path`."""
    line = parsed.position(path).line
    return Note(severity=severity, file=file, line=line, field=dotted(path), message=message)


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Why a key is refused, with the nearest right name, or all of them."""
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=_NEAR)
    near = near or [name for name in known if key.lower() in name.split("_")]
    if near:
        return f"is not known here; did you mean {near[0]}?"
    return f"is not known here; known are {', '.join(known)}" if known else "is not known here"


@dataclasses.dataclass(frozen=True)
class _Explaining:
    """One document that was refused, and what is known about what it should be."""

    kind: Any
    parsed: Parsed
    file: str
    header: tuple[str, ...]
    instead: Mapping[str, str]

    def note(self, item: Any, *others: Any) -> Note:
        """One of pydantic's findings, in our words; `others` say of the same value what else it might have been."""
        path = _path_in(self.parsed.data, item["loc"][:-1] if others else item["loc"])
        match item["type"]:
            case "unexpected_keyword_argument" | "extra_forbidden":
                message = self._unknown(path)
            case "missing":
                about = _properties(self.kind, path[:-1]).get(str(path[-1]), {}).get("description", "")
                message = f"is missing{f': {about}' if about else ''}"
            case _:
                message = _in_words((item, *others), path)
                path, message = self._blamed(item, path, message)
        return note(self.parsed, self.file, path, message)

    def _blamed(self, item: Any, path: Path, message: str) -> tuple[Path, str]:
        """The field that a noun blames, its first that is written, and the message without its name at the start."""
        wrong = item.get("ctx", {}).get("error")
        fields = wrong.fields if isinstance(wrong, WrongFields) else ()
        written = (field for field in fields if self.parsed.value((*path, *field)) is not None)
        field = next(written, ())
        return (*path, *field), message.removeprefix(f"{dotted(field)} ") if field else message

    def _unknown(self, path: Path) -> str:
        key = str(path[-1])
        if key in self.instead:
            return f"is not read here: {self.instead[key]}"
        known = [*_properties(self.kind, path[:-1]), *(self.header if len(path) == 1 else ())]
        return unknown_key(key, known)


def _path_in(data: Any, location: Sequence[str | int]) -> Path:
    """The part of pydantic's location that is in the document: it adds names of its own for keys and unions."""
    path: list[str | int] = []
    for depth, part in enumerate(location):
        is_index = isinstance(part, int) and isinstance(data, Sequence) and not isinstance(data, str)
        if isinstance(data, Mapping) and part in data:
            data = data[str(part)]
        elif is_index and isinstance(part, int) and part < len(data):
            data = data[part]
        elif depth < len(location) - 1 or part == "[key]":
            continue
        path.append(part)
    return tuple(path)


def _follows_from_others(item: Any) -> bool:
    """A list is said to be too short, too, when its only item is wrong: that item has a finding of its own."""
    return item["type"] == "too_short" and bool(len(item["input"]) >= item["ctx"]["min_length"])


def _by_value(data: Any, found: Sequence[Any]) -> list[list[Any]]:
    """The findings; together those about one value that may be of several kinds, of which pydantic says each."""
    grouped: dict[Any, list[Any]] = {}
    for place, item in enumerate(found):
        grouped.setdefault(item["loc"][:-1] if _is_one_of_several(data, item) else place, []).append(item)
    return list(grouped.values())


def _is_one_of_several(data: Any, item: Any) -> bool:
    """Does its location end with one of several kinds, which is no part of the document?"""
    *above, last = item["loc"] or ("[key]",)
    if item["type"] == "missing" or last == "[key]" or isinstance(last, int):
        return False
    held = Parsed(data, {}).value(_path_in(data, above))
    is_there = held is not None or item["input"] is None
    return is_there and not (isinstance(held, Mapping) and last in held)


def _in_words(items: Sequence[Any], path: Path) -> str:
    """What is wrong, or all that it might have been."""
    first, *others = [_message(item) for item in items]
    message = first + "".join(f" or {other.removeprefix('should be ')}" for other in others)
    value = items[0]["input"]
    if items[0]["type"] in _SAY_IT_ALL:
        return message
    if _SECRET_FIELDS & set(path):
        return f"{message}, not {_kind(value)}"
    is_quoted = items[0]["type"] in _NUMBERS and isinstance(value, str) and _NUMBER.fullmatch(value)
    return f"{message}, not {_shown(value)}{': write it without quotes' if is_quoted else ''}"


def _kind(value: Any) -> str:
    """What sort of value it is, where it may be a secret."""
    match value:
        case bool():
            return "true or false: write it in quotes"
        case int() | float():
            return "a number: write it in quotes"
        case str():
            return "a text"
        case None:
            return 'nothing: write "" for an empty one'
        case _:
            return "a list" if isinstance(value, list) else "a mapping"


def _message(item: Any) -> str:
    match item["type"]:
        case "too_short" | "string_too_short":
            least, units = item["ctx"]["min_length"], "characters" if isinstance(item["input"], str) else "entries"
            wrong = f"has only {len(item['input'])} {units}" if item["input"] else "is empty"
            return f"{wrong}: write at least {'one' if least == 1 else least}"
        case "too_long":
            return f"has {len(item['input'])} entries: at most {item['ctx']['max_length']} are read"
        case "string_pattern_mismatch":
            return shape(item["ctx"]["pattern"])
    message = str(item["msg"])
    for theirs in ("Value error, ", "Input ", "String "):
        message = message.removeprefix(theirs)
    for theirs, ours in _OUR_WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _shown(value: Any) -> str:
    text = hidden(_CREDENTIALS.sub("://...@", json.dumps(value, ensure_ascii=False, default=str)))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _properties(kind: Any, path: Path) -> Mapping[str, Any]:
    """The keys that are known in the mapping at `path`, with their schema."""
    root = schema(kind)
    here: Mapping[str, Any] = _followed(root, root)
    for part in path:
        step = here.get("items") if isinstance(part, int) else here.get("properties", {}).get(part)
        here = _followed(root, step or here.get("additionalProperties") or {})
    properties: Mapping[str, Any] = here.get("properties", {})
    return properties


def _followed(root: Mapping[str, Any], node: Any) -> Mapping[str, Any]:
    """The schema itself, behind references and behind "or null"."""
    while isinstance(node, Mapping):
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rpartition("/")[2]]
        elif "anyOf" in node:
            node = next((n for n in node["anyOf"] if n.get("type") != "null"), {})
        else:
            return node
    return {}
