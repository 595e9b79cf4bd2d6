"""The parts of the docs that are made from the code: the diagram of the state machine, the fields of every document.

    python -m pipelines.generated_docs

writes them into the files, each between its two markers; `tests/unit/test_docs.py` fails where one is out of date.

Rules:
- What is between markers is never written by hand; what is outside is never touched.
- The words are the code's own: signals, docstrings of fields, defaults as people write them. They are mended there.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from policies.errors import BadInput, SluiceError
from policies.facts import Signal
from policies.release import Cause, CauseKind, Phase
from policies.rollout import TRANSITIONS
from policies.schemas import NOUNS, schema

Schema = Mapping[str, Any]

_HEADER = frozenset({"apiVersion", "kind"})
"""The first two lines of every document; the page says them once."""
_RANGE = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def refreshed(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """`text` with every part between its markers as it should be. Raises BadInput where a marker is missing."""
    for name, make in parts.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise BadInput(f"the markers {begin} and {end} are missing")
        text = f"{head}{begin}\n\n{make()}\n{end}{tail}"
    return text


# --- the state machine ------------------------------------------------------------------------------------------


def diagram() -> str:
    """The table of transitions as a Mermaid state diagram, in the table's order."""
    lines = [f"    {before} --> {after}: {signal.name}" for (before, signal), after in TRANSITIONS.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.STEADY}", *lines, "```", ""])


def signals() -> str:
    """What each name on the diagram's arrows means."""
    return _table(("signal", "what was noticed"), [(f"`{signal.name}`", signal.value) for signal in Signal])


def causes() -> str:
    """Why a rollout stops on its way up, and whether that quarantines the version."""
    described = _attribute_docs(CauseKind)
    rows = [
        (kind.value, described[kind.name], "yes" if Cause(kind=kind, reasons=()).quarantines else "no")
        for kind in CauseKind
    ]
    return _table(("cause", "meaning", "quarantines the version"), rows)


def _attribute_docs(noun: type) -> dict[str, str]:
    """The docstrings below a class's attributes, by name: Python keeps them in the source only."""
    body = ast.parse(textwrap.dedent(inspect.getsource(noun))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 it is the source of a class
    found = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            (target,) = statement.targets
            if isinstance(target, ast.Name) and isinstance(following.value, ast.Constant):
                found[target.id] = " ".join(str(following.value.value).split())
    return found


# --- documents --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Field:
    """One row: where it stands, its own schema, and the noun it holds, if it holds one."""

    path: str
    own: Schema
    noun: Schema
    required: bool
    as_before: str = ""
    """The path where the same noun was shown already."""


def fields(kind: str) -> str:
    """Every field of one kind of document with its default and its meaning, parts below their wholes."""
    whole = schema(kind)
    rows = [(f"`{f.path}`", _default(f), _meaning(f)) for f in _fields(whole, whole.get("$defs", {}), "", {})]
    return _table(("field", "default", "meaning"), rows)


def _fields(part: Schema, nouns: Schema, below: str, shown: dict[str, str]) -> Iterator[_Field]:
    for name, own in part["properties"].items():
        if not below and name in _HEADER:
            continue
        noun, suffix = _held(own, nouns)
        path, parts = f"{below}{name}", "properties" in noun
        before = shown.get(noun["title"], "") if parts else ""
        yield _Field(path, own, noun, name in part.get("required", ()), before)
        if parts and not before:
            shown[noun["title"]] = path
            yield from _fields(noun, nouns, f"{path}{suffix}.", shown)


def _held(own: Schema, nouns: Schema) -> tuple[Schema, str]:
    """The noun that a field holds, alone, by name or in a list; empty where it holds plain values."""
    places = [*((option, "") for option in _options(own)), (own.get("additionalProperties"), ".<name>")]
    for place, suffix in (*places, (own.get("items"), "[]")):
        if isinstance(place, Mapping) and "$ref" in place:
            return nouns[place["$ref"].removeprefix("#/$defs/")], suffix
    return {}, ""


def _options(own: Schema) -> tuple[Schema, ...]:
    """The schema and, where it is one of several, each of these."""
    return (own, *own.get("anyOf", ()))


def _default(field: _Field) -> str:
    if field.required:
        return "required"
    default = field.own.get("default")
    if default is None:
        return "none"
    if isinstance(default, Mapping) and "properties" in field.noun:
        parts = {name: part.get("default") for name, part in field.noun["properties"].items()}
        different = {name: value for name, value in default.items() if value != parts[name]}
        return f"its parts', with {_plain(different)}" if different else "its parts'"
    return _plain(default)


def _plain(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _meaning(field: _Field) -> str:
    own = " ".join((field.own.get("description") or field.noun.get("description", "")).split())
    said = f"One of {', '.join(_plain(choice) for choice in choices)}." if (choices := _choices(field)) else ""
    before = f"Its parts: as of `{field.as_before}`." if field.as_before else ""
    return " ".join(filter(None, (own.replace("|", "\\|"), said, _limits(field.own), before)))


def _choices(field: _Field) -> list[Any]:
    for option in (*_options(field.own), field.noun):
        if "const" in option or "enum" in option:
            return [choice for choice in option.get("enum", (option.get("const"),)) if choice is not None]
    return []


def _limits(own: Schema) -> str:
    """The range of a number, in words."""
    for option in _options(own):
        said = [f"{word} {option[key]:g}" for key, word in _RANGE.items() if key in option]
        if said:
            return f"({', '.join(said)})"
    return ""


# --- impact -----------------------------------------------------------------------------------------------------


def impact_of(kind: str) -> str:
    """What a change of each field of one kind of document does to what serves."""
    from pipelines.field_effects import table_rows

    return _table(("field", "what happens", "in the Serve config", "why"), list(table_rows(kind)))


def impact_rules() -> str:
    """What Serve does where a field of its own config differs."""
    from pipelines.field_effects import rule_rows

    return _table(("field of the Serve config", "what happens", "why"), list(rule_rows()))


# --- all of it --------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


GENERATED: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "ARCHITECTURE.md": {"state machine": diagram, "signals": signals},
    "docs/operations.md": {"causes": causes},
    "docs/config-repo.md": {kind: partial(fields, kind) for kind in NOUNS},
    "docs/impact.md": {
        **{f"impact of {kind}": partial(impact_of, kind) for kind in ("Model", "Sluice", "Ensemble")},
        "impact rules": impact_rules,
    },
}
"""By file and by the name in its markers."""


def refresh(root: Path) -> tuple[str, ...]:
    """Write every part anew; returns the files that changed. Raises BadInput, OSError."""
    changed = []
    for name, parts in GENERATED.items():
        path = root / name
        before = path.read_text(encoding="utf-8")
        after = refreshed(before, parts)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(name)
    return tuple(changed)


if __name__ == "__main__":
    try:
        refresh(Path(__file__).parent.parent)
    except SluiceError as error:
        sys.exit(str(error))
