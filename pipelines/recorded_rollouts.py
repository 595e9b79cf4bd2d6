"""The records of rollouts, out of a tip's files."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from policies.errors import BadInput
from policies.layout import Place, locate
from policies.notes import Note, Severity
from policies.rollout_record import Record
from policies.stored_documents import parse_history, parse_record

# A record is new with every step of its rollout, 10 ms to read, and the same at the looks between: those of a hundred
# rollouts at once.
_RECORDS_REMEMBERED = 128


@functools.lru_cache(maxsize=_RECORDS_REMEMBERED)
def _parsed_record(path: str, text: str) -> Record:
    """A record, from its own file or from a history. Raises BadInput."""
    if path.startswith("history/"):
        return parse_history(text, path).record or Record(rollout="")
    return parse_record(text, path)


def recorded(path: str, text: str) -> Record | None:
    """The same; none where it cannot be read."""
    try:
        return _parsed_record(path, text)
    except BadInput:
        return None


def records_of(files: Mapping[str, str]) -> tuple[dict[tuple[str, str], Record], list[Note]]:
    """The records of running rollouts by environment and slug, and what is wrong with those that cannot be read.

    A rollout goes on without its record: the record begins anew, and its bins are in Prometheus.
    """
    records: dict[tuple[str, str], Record] = {}
    unread = []
    for path, text in files.items():
        located = locate(path) if path.startswith("environments/") else None  # history/ has tens of thousands of files
        if located is None or located.place is not Place.RECORD:
            continue
        try:
            records[located.environment, located.slug] = _parsed_record(path, text)
        except BadInput as error:
            message = f"is not read, the rollout goes on without it: {error}"
            unread.append(Note(severity=Severity.WARNING, file=path, line=None, field="", message=message))
    return records, unread
