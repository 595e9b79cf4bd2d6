"""The short way of requests whose rows lack features, for models whose input is numbers: bytes -> arrays by name. Pure.

MLflow's own way makes a frame of a body, to which features are joined as columns, of which arrays are made again. Where
the signature is named columns of numbers (`fast_scoring.NamedColumns`), the columns that a request carries are read as
such columns are, and its key beside them.

Rules:
- What is taken gets the same answer as by MLflow's own way, byte for byte. A test compares both on a corpus and on
  generated requests.
- Everything else is `None`, which is no verdict: a column that is neither the signature's nor the key, rows with
  different columns, a key of which pandas could make something else than what stands there.

It must not know what a feature is, or who looks it up.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from serving_runtime.fast_scoring import INPUTS, INSTANCES, RECORDS, SPLIT, Form, NamedColumns, content_of

AT_ONCE_BYTES: Final = 8 * 1024
"""A body of up to so much is read where it arrives: that takes less time than a thread needs to begin."""

_EXACT: Final = 2**53
"""Whole numbers up to here are the same as doubles, which a column with gaps would make of them."""


class ColumnReader:
    """Reads what requests carry of one signature's columns, and their key."""

    def __init__(self, form: NamedColumns, key: str) -> None:
        """`key` is the name of the column that rows are looked up by; the signature may have it or not."""
        self._types = form.types
        self._key = None if key in self._types else key
        self._part = functools.lru_cache(maxsize=64)(self._part_of)  # requests of few kinds ask for one model

    def read(self, body: bytes) -> Mapping[str, Any] | None:
        """The columns of an `/invocations` body by name: arrays, and the key as a list where it is no input."""
        kind, content = content_of(body, orjson.loads)
        match kind, content:
            case _, dict() if kind == SPLIT:
                found = self._of_split(content)
            case _, [dict(), *_] if kind in (RECORDS, INSTANCES):
                found = self._of_records(content)
            case _, dict() if kind == INPUTS:
                found = self._of_inputs(content)
            case _:
                found = None
        if found is None:
            return None
        names, keys = found
        return self._columns(kind, content, names, keys)

    def take(self, columns: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The same of arrays by name, or None where they are not of the signature's types and of one length."""
        given = {name: array for name, array in columns.items() if name != self._key}
        arrays = [array for array in columns.values() if getattr(array, "ndim", 0) == 1]
        if len(arrays) != len(columns) or len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
            return None
        fit = all(name in self._types and array.dtype == self._types[name] for name, array in given.items())
        return columns if fit else None

    def _columns(
        self, kind: str, content: Any, names: Sequence[str], keys: Sequence[Any] | None
    ) -> Mapping[str, Any] | None:
        if self._key is not None and keys is not None and not _are_plain(keys):
            return None
        columns: dict[str, Any] = {}
        if names:
            part = self._part(frozenset(names)) if self._types.keys() >= set(names) else None
            rows = None if part is None else part.rows_of(kind, content)
            if part is None or rows is None or (keys is not None and len(keys) != rows.count):
                return None
            columns = part.by_name(rows)
        if self._key is not None and keys is not None:
            columns[self._key] = keys
        return columns or None

    def _part_of(self, names: frozenset[str]) -> NamedColumns:
        """The form of some of the columns, in the signature's order."""
        types = {name: dtype for name, dtype in self._types.items() if name in names}
        return NamedColumns(list(types), list(types.values()))

    # --- the key is taken out of what was read, which nobody else has ---------------------------------------------

    def _of_split(self, content: dict[str, Any]) -> tuple[list[str], list[Any] | None] | None:
        names, data = content.get("columns"), content.get("data")
        if not isinstance(names, list) or not isinstance(data, list) or not data:
            return None
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            return None
        if not all(isinstance(row, list) and len(row) == len(names) for row in data):
            return None
        if self._key not in names:
            return names, None
        at = names.index(self._key)
        del names[at]
        return names, [row.pop(at) for row in data]

    def _of_records(self, records: list[Any]) -> tuple[list[str], list[Any] | None] | None:
        if self._key is None or self._key not in records[0]:
            return list(records[0]), None
        try:
            keys = [record.pop(self._key) for record in records]
        except (KeyError, AttributeError, TypeError):  # a row without one, or that is none
            return None
        if not records[0] and any(records):
            return None
        return list(records[0]), keys

    def _of_inputs(self, columns: dict[str, Any]) -> tuple[list[str], list[Any] | None] | None:
        keys = None if self._key is None else columns.pop(self._key, None)
        return (list(columns), keys) if keys is None or isinstance(keys, list) else None


def column_reader(form: Form | None, key: str) -> ColumnReader | None:
    """The short way of a model's requests, where its form is named columns of numbers."""
    return ColumnReader(form, key) if isinstance(form, NamedColumns) else None


def _are_plain(keys: Sequence[Any]) -> bool:
    """Are they what a column of them would be: texts, with gaps or not, or whole numbers?"""
    if not keys:
        return False
    if all(key is None or isinstance(key, str) for key in keys):
        return True
    return all(type(key) is int and -_EXACT <= key <= _EXACT for key in keys)
