"""The documents that Sluicegate itself writes, as text and back: releases as YAML, records of rollouts as JSON.

Rules:
- The same state is the same bytes: fields in the order of their nouns, mappings sorted by key, times in UTC.
- What reads like its default in a release is left out only where it is nothing (null or empty), so a release can be
  read without knowing this program.
- Reading what was written gives an equal noun.

This module must not read or write files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from pydantic import ValidationError

from policies.document_errors import adapter
from policies.document_reading import HEADER, read_document
from policies.documents import API_VERSION, format_duration
from policies.errors import BadInput
from policies.layout import Place
from policies.model import HistoryRecord, Release
from policies.strict_yaml import MAX_CHARACTERS, dotted, dump

_RELEASE_COMMENT = "# Written by Sluicegate: the desired state. To change it, use `sluice`, or revert a commit.\n"


def release_text(release: Release) -> str:
    """The text of `environments/<environment>/releases/<slug>.yaml`."""
    return _RELEASE_COMMENT + dump({"apiVersion": API_VERSION, "kind": "Release", **_fields(release, terse=True)})


def parse_release(text: str, file: str = "release.yaml") -> Release:
    """A release from its text; `file` is for messages. Raises BadInput with everything that is wrong."""
    read = read_document(file, text, Place.RELEASE)
    if not isinstance(read.value, Release):
        raise BadInput("\n".join(str(n) for n in read.notes))
    return read.value


def history_text(record: HistoryRecord) -> str:
    """The text of `history/<environment>/<slug>/<rollout>.json`: nothing left out."""
    fields = {"apiVersion": API_VERSION, "kind": "HistoryRecord", **_fields(record, terse=False)}
    return json.dumps(fields, indent=2, allow_nan=False) + "\n"


def parse_history(text: str, file: str = "history.json") -> HistoryRecord:
    """A record from its text; `file` is for messages. Raises BadInput with the first thing that is wrong."""
    if len(text) > MAX_CHARACTERS:
        raise BadInput(f"{file}: the record has {len(text):,} characters, {MAX_CHARACTERS:,} at most are read")
    try:
        data = json.loads(text)
        body = {key: value for key, value in data.items() if key not in HEADER}
        record: HistoryRecord = adapter(HistoryRecord).validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{file}: {dotted(tuple(first['loc']))}: {first['msg']}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadInput(f"{file}: not the JSON of a HistoryRecord: {error}") from error
    return record


def _fields(noun: Any, *, terse: bool) -> dict[str, Any]:
    """A noun as plain data, in the order of its fields; terse leaves out what is nothing and is so by default."""
    data = {}
    for field in dataclasses.fields(noun):
        value = getattr(noun, field.name)
        if not (terse and _is_nothing(value) and _has_default(field)):
            data[field.name] = plain(value, terse=terse)
    return data


def _is_nothing(value: Any) -> bool:
    return value is None or value in ((), {}, "")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    """May the field be left out? Where it can be nothing, nothing is its default (the round trip tests it)."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def plain(value: Any, *, terse: bool = False) -> Any:
    """Any noun, or part of one, as plain data the way people write it: `5m`, lists, mappings in order of their keys."""
    if dataclasses.is_dataclass(value):
        return _fields(value, terse=terse)
    if isinstance(value, Mapping):
        return {key: plain(value[key], terse=terse) for key in sorted(value)}
    if isinstance(value, tuple):
        return [plain(inner, terse=terse) for inner in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, float):
        return value + 0.0  # -0.0 equals 0.0 and must not be other bytes
    return value
