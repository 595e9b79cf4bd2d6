"""`sluice schema`: the JSON Schemas of the documents, for editors.

This module must not print.
"""

from __future__ import annotations

from pathlib import Path

from policies.schemas import NOUNS, file_name, schema_text

KINDS = tuple(NOUNS)
"""Every kind that has a schema."""


def schema_of(kind: str) -> str:
    """The schema of one kind as text. Raises BadInput for a kind that does not exist, with those that do."""
    return schema_text(kind)


def write_schemas(folder: Path) -> tuple[Path, ...]:
    """Write the schema of every kind to `folder`, made where it is missing; returns the files.

    They are generated, so what was there before under these names is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / file_name(kind) for kind in KINDS)
    for kind, file in zip(KINDS, files, strict=True):
        file.write_text(schema_text(kind), encoding="utf-8")
    return files
