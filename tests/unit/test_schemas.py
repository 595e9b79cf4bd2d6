"""The JSON Schemas accept what the reader accepts, and speak as people write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipelines.commands.init import Answers, repo_files
from pipelines.defaults import built_in_documents
from policies.document_errors import shape
from policies.errors import BadInput
from policies.release import Phase
from policies.schemas import NOUNS, schema, schema_text, schemas
from policies.stored_documents import release_text
from policies.strict_yaml import parse
from tests.unit.releases import rolling


def wrong(kind: str, text: str) -> list[str]:
    return [error.message for error in Draft202012Validator(schema(kind)).iter_errors(parse(text, "x").data)]


@pytest.mark.parametrize("kind", NOUNS)
def test_every_schema_is_a_schema_and_stable(kind: str) -> None:
    Draft202012Validator.check_schema(schema(kind))
    assert schema_text(kind) == schema_text(kind)
    assert schema(kind)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema(kind)["description"]


@pytest.mark.parametrize("path", [path for path in repo_files(Answers()) if path.endswith(".yaml")])
def test_what_init_writes_fits_its_schema(path: str) -> None:
    text = repo_files(Answers())[path]
    assert wrong(parse(text, path).data["kind"], text) == []


def test_a_release_fits_its_schema() -> None:
    assert wrong("Release", release_text(rolling(Phase.CANARY, weight=10))) == []


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("Model", "apiVersion: sluicegate/v1\nkind: Model\nname: x\ncpu: 1\n", "'cpu' was unexpected"),
        (
            "Model",
            "apiVersion: sluicegate/v1\nkind: Model\nname: x\nrequest_timeout: 30\n",
            "30 is not of type 'string'",
        ),
        ("Model", "apiVersion: sluicegate/v1\nkind: Model\nname: x\nrequest_timeout: 5 min\n", "does not match"),
        ("Model", "kind: Model\nname: x\n", "'apiVersion' is a required property"),
        (
            "Sluice",
            "apiVersion: sluicegate/v1\nkind: Sluic\nenvironments: {a: {trigger: {}}}\n",
            "'Sluice' was expected",
        ),
        ("SLO", built_in_documents()["slo-latency.yaml"].replace("Occurrences", "Timeslices"), "'Occurrences' was"),
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(kind: str, text: str, says: str) -> None:
    assert any(says in message for message in wrong(kind, text))


def test_durations_are_as_people_write_them() -> None:
    assert "PT" not in json.dumps([s.get("default") for s in _properties(schemas())])
    assert schema("RolloutPolicy")["properties"]["ready_deadline"]["default"] == "10m"
    assert schema("RolloutPolicy")["properties"]["shadow"]["default"]["max_duration"] == "6h"


def test_every_default_fits_its_own_schema() -> None:
    for kind in NOUNS:
        document = schema(kind)
        for part in _properties(document):
            if "default" in part:
                validator = Draft202012Validator({**part, "$defs": document.get("$defs", {})})
                assert [error.message for error in validator.iter_errors(part["default"])] == []


def test_keys_of_openslo_are_in_their_own_spelling() -> None:
    assert "budgetingMethod" in schema_text("SLO")
    assert "budgeting_method" not in schema_text("SLO")


def test_a_kind_that_does_not_exist() -> None:
    with pytest.raises(
        BadInput,
        match="the kinds are Sluice, Model, Ensemble, RolloutPolicy, SLO, RepoRules, Release, AcceptedHistory, "
        "RayService, Record, HistoryRecord",
    ):
        schema("Modell")


def _properties(node: Any) -> list[dict[str, Any]]:
    """Every schema of a key, however deep."""
    if isinstance(node, list):
        return [part for inner in node for part in _properties(inner)]
    if not isinstance(node, dict):
        return []
    here = [part for part in node.get("properties", {}).values() if isinstance(part, dict)]
    return here + [part for inner in node.values() for part in _properties(inner)]


def patterns(node: Any) -> Iterator[str]:
    """Every pattern in a schema."""
    if isinstance(node, dict):
        if isinstance(node.get("pattern"), str):
            yield node["pattern"]
        for part in node.values():
            yield from patterns(part)
    elif isinstance(node, list):
        for part in node:
            yield from patterns(part)


@pytest.mark.parametrize("kind", NOUNS)
def test_nobody_is_shown_a_pattern(kind: str) -> None:
    """What a text should look like is said in words; a duration's own reader says it."""
    own = str(schema("Model")["properties"]["request_timeout"]["pattern"])
    for pattern in {*patterns(schema(kind))} - {own}:
        assert shape(pattern).startswith("should be "), f"say in words what {pattern} takes"
