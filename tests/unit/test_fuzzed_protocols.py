"""Requests made from a replica's own OpenAPI document, good and bad: what comes back is what the document says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from serving_runtime.model_server import ModelServer
from tests.fakes.replica import NAMED, replica
from tests.fakes.signed_model import signed_model

CASES = 60  # of each kind for each operation: some ten seconds in all
COLUMNS = {"amount": "double", "count": "long", "country": "string", "new": "boolean"}
SIGNATURE = ModelSignature(
    Schema([ColSpec(kind, name) for name, kind in COLUMNS.items()]),
    Schema([ColSpec("double", "score")]),
    ParamSchema([ParamSpec("times", DataType.double, 1.0)]),
)
EXAMPLE = {"dataframe_split": {"columns": list(COLUMNS), "data": [[9.5, 3, "de", True], [1.0, 2, "se", False]]}}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def score(frame: pd.DataFrame, params: dict[str, Any]) -> Any:
    return frame["amount"].to_numpy() * params["times"]


OWN = replica(
    ModelServer(signed_model(score, SIGNATURE), lambda _ms: None, named=NAMED, example=json.dumps(EXAMPLE).encode())
)
CLIENT = TestClient(OWN)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", OWN)
OPERATIONS = {str(found.ok().label): found.ok() for found in SCHEMA.get_all_operations()}
BOUNDED = settings(
    max_examples=CASES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def fuzz(name: str, mode: GenerationMode) -> set[int]:
    """The statuses that were seen."""
    seen: set[int] = set()

    @BOUNDED
    @given(case=OPERATIONS[name].as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        answer = case.call()
        seen.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()
    return seen


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("POST")])
def test_answers_are_those_that_the_document_says(name: str, mode: GenerationMode) -> None:
    seen = fuzz(name, mode)
    if mode is GenerationMode.NEGATIVE:
        assert 400 in seen
    elif name == "POST /invocations":
        assert 200 in seen


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("GET")])
def test_what_needs_no_body_answers_as_the_document_says(name: str) -> None:
    case = OPERATIONS[name].Case()
    answer = case.call()
    assert answer.status_code == 200
    case.validate_response(answer, checks=CHECKS)


def test_every_endpoint_is_in_the_document() -> None:
    assert set(OPERATIONS) == {
        "POST /invocations",
        "POST /v2/models/fraud/infer",
        f"POST /v2/models/fraud/versions/{NAMED.version}/infer",
        *(f"GET {path}" for path in ("/ping", "/health", "/version", "/v2", "/v2/health/live", "/v2/health/ready")),
        *(
            f"GET /v2/models/fraud{version}{what}"
            for version in ("", f"/versions/{NAMED.version}")
            for what in ("", "/ready")
        ),
    }


def test_the_examples_are_one_row_of_the_models_own_and_are_answered() -> None:
    document = CLIENT.get("/openapi.json").json()
    content = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
    assert content["example"] == {"dataframe_split": {"columns": list(COLUMNS), "data": [[9.5, 3, "de", True]]}}
    schema = {**content["schema"], "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(content["example"])
    assert CLIENT.post("/invocations", json=content["example"]).json() == {"predictions": [9.5]}
    infer = document["paths"]["/v2/models/fraud/infer"]["post"]["requestBody"]["content"]["application/json"]
    answer = CLIENT.post("/v2/models/fraud/infer", json=infer["example"])
    assert answer.json()["outputs"][0]["data"] == [9.5]


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "amount": st.floats(allow_nan=False, allow_infinity=False, width=32),
            "count": st.integers(-(2**31), 2**31),
            "country": st.text(max_size=3),
            "new": st.booleans(),
        }
    ),
    min_size=1,
    max_size=4,
)
TYPES = {"amount": "FP64", "count": "INT64", "country": "BYTES", "new": "BOOL"}


@settings(max_examples=CASES, derandomize=True)
@given(ROWS)
def test_both_protocols_predict_the_same(rows: list[dict[str, Any]]) -> None:
    inputs = [
        {"name": name, "datatype": datatype, "shape": [len(rows)], "data": [row[name] for row in rows]}
        for name, datatype in TYPES.items()
    ]
    scored = CLIENT.post("/invocations", json={"dataframe_records": rows})
    inferred = CLIENT.post("/v2/models/fraud/infer", json={"inputs": inputs})
    assert inferred.json()["outputs"][0]["data"] == scored.json()["predictions"]
