"""JSON Schemas (draft 2020-12) of every document of a config repo, for editors and for other programs.

Rules:
- A schema accepts what the reader accepts by shape; what compares fields with each other (`min_duration` and
  `max_duration`) only the reader knows.
- Names, defaults and examples are as people write them: `5m`, not `PT5M`; keys as in the file.
- Descriptions are the docstrings of the nouns, so there is one place to mend them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from policies.document_reading import KINDS
from policies.documents import API_VERSION
from policies.errors import BadInput
from policies.rollout_record import HistoryRecord, Record
from policies.stored_documents import plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"

NOUNS: Mapping[str, tuple[str, Any]] = {
    **{kind: noun for kinds in KINDS.values() for kind, noun in kinds.items()},
    "Record": (API_VERSION, Record),
    "HistoryRecord": (API_VERSION, HistoryRecord),
}
"""Version and noun of every kind of document."""


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind of document, header included. Raises BadInput for a kind that does not exist."""
    if kind not in NOUNS:
        raise BadInput(f"there is no kind {kind[:40]!r}; the kinds are {', '.join(NOUNS)}")
    version, noun = NOUNS[kind]
    body = TypeAdapter(noun).json_schema(by_alias=True, schema_generator=_AsWritten)
    header = {"apiVersion": {"const": version, "description": "The version of this format."}, "kind": {"const": kind}}
    body["properties"] = header | body["properties"]
    body["required"] = [*header, *body.get("required", [])]
    return {"$schema": DIALECT, "title": kind, **{key: value for key, value in body.items() if key != "title"}}


def schemas() -> Mapping[str, dict[str, Any]]:
    """The schemas of all kinds, by kind."""
    return {kind: schema(kind) for kind in NOUNS}


def schema_text(kind: str) -> str:
    """One schema as a file, the same bytes every time. Raises BadInput."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def file_name(kind: str) -> str:
    """The name of a schema's file: `RolloutPolicy.schema.json`."""
    return f"{kind}.schema.json"


class _AsWritten(GenerateJsonSchema):
    """Defaults as people write them, also those of nested documents; no titles made up from field names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  (pydantic's signature)
        """A title that repeats the key says nothing."""
        return False

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        """The default, also where a factory makes it."""
        factory = schema.get("default_factory")
        return factory() if factory is not None else super().get_default_value(schema)  # type: ignore[call-arg]

    def encode_default(self, dft: Any) -> Any:
        """A duration is `5m`, a nested document a mapping."""
        return plain(dft)
