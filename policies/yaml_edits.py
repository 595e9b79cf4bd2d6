"""A document with a few values changed, and every other character as it was: comments, order, quotes.

Rules:
- A value that is there is replaced; one that is equal is not touched.
- One that is missing is added at the top of the mapping it belongs into, where that is on lines of its own below its
  key. Where it is not, nothing is guessed: the caller is told.

This module must not know what the fields mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from policies.strict_yaml import Path, dump, parse


@dataclasses.dataclass(frozen=True)
class Edited:
    """The text, and the fields for which it had no place."""

    text: str
    left_out: tuple[Path, ...] = ()


def with_values(text: str, values: Mapping[Path, str | bool], file: str) -> Edited:
    """Set these fields. Raises YamlError (a BadInput) for text that is no strict YAML; `file` is for its words."""
    left_out = []
    for path, value in values.items():
        parse(text, file)
        edited = _with_value(text, path, value)
        if edited is None:
            left_out.append(path)
        else:
            text = edited
    return Edited(text, tuple(left_out))


def _with_value(text: str, path: Path, value: str | bool) -> str | None:
    from ruamel.yaml import YAML

    node = YAML(typ="safe", pure=True).compose(text)
    key = None
    for depth, part in enumerate(path):
        pair = _pair(node, part)
        if pair is None:
            return _added(text, key, node, path[depth:], value)
        key, node = pair
    if not hasattr(node, "value") or not isinstance(node.value, str):
        return None
    shown = dump(value).rstrip("\n")
    if shown == dump(_plain(node)).rstrip("\n"):
        return text
    return text[: node.start_mark.index] + shown + text[node.end_mark.index :]


def _plain(node: Any) -> Any:
    """The scalar's value, as far as it matters here: text, or a truth."""
    if node.tag == "tag:yaml.org,2002:bool":
        return node.value == "true"
    return node.value


def _pair(node: Any, key: str | int) -> tuple[Any, Any] | None:
    """The nodes of a key and its value in a mapping."""
    pairs = node.value if node is not None and node.id == "mapping" else ()
    return next(((k, v) for k, v in pairs if k.value == key), None)


def _added(text: str, key: Any, node: Any, path: Path, value: str | bool) -> str | None:
    """With a first entry in the mapping `node` of `key`; none where that has no lines of its own."""
    block = key is not None and node.id == "mapping" and node.value and not node.flow_style
    if not block or node.start_mark.line <= key.end_mark.line:
        return None
    data: Any = value
    for part in reversed(path):
        data = {str(part): data}
    at = text.index("\n", key.end_mark.index) + 1
    indent = " " * node.start_mark.column
    return text[:at] + "".join(f"{indent}{line}\n" for line in dump(data).splitlines()) + text[at:]
