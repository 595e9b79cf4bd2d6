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
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from pydantic import ValidationError

from policies.accepted_history import AcceptedHistory
from policies.document_errors import adapter
from policies.document_reading import HEADER, read_document
from policies.documents import API_VERSION
from policies.durations import format_duration
from policies.errors import BadInput
from policies.layout import Place
from policies.release import Release
from policies.rollout_record import HistoryRecord, Record
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


def accepted_history_text(accepted: AcceptedHistory) -> str:
    """The text of `environments/<environment>/accepted-history.yaml`."""
    return dump({"apiVersion": API_VERSION, "kind": "AcceptedHistory", **_fields(accepted, terse=True)})


def parse_accepted_history(text: str, file: str = "accepted-history.yaml") -> AcceptedHistory:
    """The same from its text; `file` is for messages. Raises BadInput with everything that is wrong."""
    read = read_document(file, text, Place.ACCEPTED_HISTORY)
    if not isinstance(read.value, AcceptedHistory):
        raise BadInput("\n".join(str(n) for n in read.notes))
    return read.value


def history_text(record: HistoryRecord) -> str:
    """The text of `history/<environment>/<slug>/<rollout>.json`: nothing left out."""
    return _json("HistoryRecord", record)


def parse_history(text: str, file: str = "history.json") -> HistoryRecord:
    """A record from its text; `file` is for messages. Raises BadInput with the first thing that is wrong."""
    record: HistoryRecord = _parsed("HistoryRecord", HistoryRecord, text, file)
    _believed(record.record, file)
    return record


def record_text(record: Record) -> str:
    """The text of `environments/<environment>/records/<slug>.json`: nothing left out, a list of bins on one line."""
    return _json("Record", record)


def parse_record(text: str, file: str = "record.json") -> Record:
    """A record from its text; `file` is for messages. Raises BadInput with the first thing that is wrong."""
    record: Record = _parsed("Record", Record, text, file)
    _believed(record, file)
    return record


def _believed(record: Record | None, file: str) -> None:
    """Raises BadInput for what can be read and not be computed with."""
    if record and record.contradiction:
        raise BadInput(f"{file}: {record.contradiction}")


def _parsed(kind: str, noun: Any, text: str, file: str) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise BadInput(f"{file}: the record has {len(text):,} characters, {MAX_CHARACTERS:,} at most are read")
    try:
        data = json.loads(text, parse_constant=_no_number)
        body = {key: value for key, value in data.items() if key not in HEADER}
        return adapter(noun).validate_json(json.dumps(body, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{file}: {dotted(tuple(first['loc']))}: {first['msg']}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadInput(f"{file}: not the JSON of a {kind}: {error}") from error


def _no_number(word: str) -> float:
    """NaN and infinity, which JSON has no word for and Python reads all the same. Raises ValueError."""
    raise ValueError(f"{word} is no number")


def _json(kind: str, noun: Any) -> str:
    fields = {"apiVersion": API_VERSION, "kind": kind, **_fields(noun, terse=False)}
    return "".join(_lines(fields, "\n")) + "\n"


def _lines(value: Any, end: str) -> Iterator[str]:
    """JSON as `json.dumps(indent=2)` writes it, but lists of bins and measures on one line each.

    Counts are whole numbers in floats: written without their point, which is a quarter of a file.
    """
    inner = end + "  "
    if isinstance(value, dict) and value:
        for i, (key, part) in enumerate(value.items()):
            yield f"{',' if i else '{'}{inner}{json.dumps(key)}: "
            if key in ("measures", "state") and part:
                yield f"[{inner}  " + f",{inner}  ".join(_dense(measure) for measure in part) + f"{inner}]"
            else:
                yield from _lines(part, inner)
        yield end + "}"
    elif isinstance(value, list) and value and not _is_bins(value):
        for i, part in enumerate(value):
            yield f"{',' if i else '['}{inner}"
            yield from _lines(part, inner)
        yield end + "]"
    else:
        yield _dense(_whole(value)) if isinstance(value, list) else json.dumps(value, allow_nan=False)


def _dense(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _is_bins(value: list[Any]) -> bool:
    """Numbers, or lists of numbers."""
    return all(_is_number(v) or (isinstance(v, list) and all(map(_is_number, v))) for v in value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
