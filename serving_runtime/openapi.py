"""`GET <route>/openapi.json`: a replica's endpoints with the model's own schema and example, as OpenAPI 3.1. Pure.

Rules:
- What the document allows, a replica reads; what it answers is documented with status, headers and shape. A test sends
  what the document allows, and what it forbids.
- The schema of rows comes from the model's signature, in MLflow's own JSON of it (`Schema.to_dict`). A model without a
  signature takes anything.
- Examples are the artifact's own; without one, values of the right type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving_runtime.description import Described
from serving_runtime.endpoints import Endpoint
from serving_runtime.event_stream import EVENT_STREAM
from serving_runtime.open_inference import BINARY
from serving_runtime.open_inference_tensors import DATATYPES, LENGTH_HEADER
from serving_runtime.protocol import JSON

CSV: Final = "text/csv"
PARQUET: Final = "application/vnd.apache.parquet"

_INT32, _INT64 = 2**31, 2**63
_TYPES: Final[Mapping[str, dict[str, Any]]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "minimum": -_INT32, "maximum": _INT32 - 1},
    "long": {"type": "integer", "minimum": -_INT64, "maximum": _INT64 - 1},
    "float": {"type": "number"},
    "double": {"type": "number"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64"},
    "datetime": {"type": "string", "format": "date-time"},
}

_ERRORS: Final = {
    400: "The request does not parse, or does not fit the model: the message names the field.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is none of those below, or the body is compressed.",
    422: "The request is well formed and cannot be carried out.",
    500: "The model failed on this request; the log has the reason under the request id.",
    503: "Too many requests wait; `Retry-After` says when to try again.",
    504: "No answer in time.",
}
_V2_ERRORS: Final = (400, 404, 408, 413, 415, 500, 503, 504)
_INVOCATION_ERRORS: Final = (400, 408, 413, 415, 500, 503, 504)


def openapi(about: Described, route: str) -> dict[str, Any]:
    """The document of one replica, ready for JSON. `route` is where its paths begin."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": about.named.model,
            "version": about.named.version,
            "description": "Answers carry `x-sluice-version` and `x-request-id`.",
        },
        "servers": [{"url": route or "/"}],
        "paths": {**_scoring(about), **_v2(about)},
        "components": {"schemas": _components(about)},
    }


# --- paths ------------------------------------------------------------------------------------------------------


def _scoring(about: Described) -> dict[str, Any]:
    answers = {JSON: {"schema": {"$ref": "#/components/schemas/Predictions"}}}
    if about.streams:
        answers[EVENT_STREAM] = {"schema": {"type": "string"}}
    body = {
        JSON: {"schema": {"$ref": "#/components/schemas/Invocation"}, "example": about.example},
        CSV: {"schema": {"type": "string"}},
        PARQUET: {"schema": {"type": "string", "format": "binary"}},
    }
    plain: dict[str, Any] = {JSON: {}}  # MLflow calls these texts so, which they are not
    return {
        Endpoint.INVOCATIONS: {
            "post": {
                "operationId": "invocations",
                "summary": "Predict, in MLflow's scoring protocol.",
                "requestBody": {"required": True, "content": body},
                "responses": {**_response(200, "Predictions.", answers), **_errors(_INVOCATION_ERRORS, "Error")},
            }
        },
        Endpoint.PING: _get("ping", "Is it alive? Asked for no key.", plain),
        Endpoint.HEALTH: _get("health", "Is it alive? Asked for no key.", plain),
        Endpoint.VERSION: _get("version", "The version of MLflow.", plain),
    }


def _v2(about: Described) -> dict[str, Any]:
    model, version = about.named.model, about.named.version
    shown: dict[str, Any] = {JSON: {"schema": {"type": "object"}}}
    both = (("", ()), (f"/versions/{version}", ("version",)))
    paths: dict[str, Any] = {
        Endpoint.V2_SERVER: _get("server_metadata", "The server.", shown),
        Endpoint.V2_LIVE: _get("server_live", "Is it alive? Asked for no key.", shown),
        Endpoint.V2_READY: _get("server_ready", "Is it ready? Asked for no key.", shown),
    }
    for below, named in both:
        at, of = f"/v2/models/{model}{below}", "".join(f"_{each}" for each in named)
        paths[at] = _get(f"model_metadata{of}", "Names, types and shapes of the tensors.", shown)
        paths[f"{at}/ready"] = _get(f"model_ready{of}", "Is it ready? Asked for no key.", shown)
        paths[f"{at}/infer"] = {"post": _infer(about, of)}
    return paths


def _infer(about: Described, of: str) -> dict[str, Any]:
    request = {"schema": {"$ref": "#/components/schemas/InferRequest"}, "example": about.infer_example()}
    answer = {
        JSON: {"schema": {"$ref": "#/components/schemas/InferResponse"}},
        BINARY: {"schema": {"type": "string", "format": "binary"}},
    }
    return {
        "operationId": f"infer{of}",
        "summary": "Predict, in the Open Inference Protocol.",
        "parameters": [
            {
                "name": LENGTH_HEADER,
                "in": "header",
                "description": "Length of the JSON, where binary tensors follow it.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {JSON: request, BINARY: {"schema": {"type": "string", "format": "binary"}}},
        },
        "responses": {**_response(200, "Tensors.", answer), **_errors(_V2_ERRORS, "InferError")},
    }


def _get(name: str, summary: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"get": {"operationId": name, "summary": summary, "responses": _response(200, summary, content)}}


def _response(status: int, description: str, content: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"x-sluice-version": {"description": "The version that answered.", "schema": {"type": "string"}}}
    return {str(status): {"description": description, "headers": headers, "content": dict(content)}}


def _errors(statuses: tuple[int, ...], schema: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    answers: dict[str, Any] = {}
    for status in statuses:
        answers |= _response(status, _ERRORS.get(status, "There is no such thing here."), content)
    if "503" in answers:
        seconds = {"description": "Seconds.", "schema": {"type": "integer"}}
        answers["503"]["headers"] = {**answers["503"]["headers"], "retry-after": seconds}
    return answers


# --- schemas ----------------------------------------------------------------------------------------------------


def _components(about: Described) -> dict[str, Any]:
    parameters = {"type": "object"}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 16},
            "datatype": {"enum": list(DATATYPES)},
            "parameters": parameters,
            "data": {"type": "array"},
        },
    }
    return {
        "Invocation": _invocation(about),
        "Predictions": {"type": "object", "required": ["predictions"], "properties": {"predictions": {}}}
        if not about.streams
        else {},
        "Error": {
            "type": "object",
            "required": ["error_code", "message"],
            "properties": {
                "error_code": {"type": "string"},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
                "expected": {},
                "example": {},
            },
        },
        "InferTensor": tensor,
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "parameters": parameters,
                "inputs": _infer_inputs(about),
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "parameters": parameters},
                    },
                },
            },
        },
        "InferResponse": {
            "type": "object",
            "required": ["model_name", "outputs"],
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "parameters": parameters,
                "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/InferTensor"}},
            },
        },
        "InferError": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    }


def _infer_inputs(about: Described) -> dict[str, Any]:
    slots = about.signature.inputs
    tensor: dict[str, Any] = {"$ref": "#/components/schemas/InferTensor"}
    words = "; ".join(f"{slot.name}: {slot.datatype} {list(slot.shape)}" for slot in slots[:100])
    return {"type": "array", "minItems": 1, "items": tensor, **({"description": words} if words else {})}


def _invocation(about: Described) -> dict[str, Any]:
    columns = about.columns
    if columns is None:
        return _one_of({name: {} for name in ("dataframe_split", "dataframe_records", "instances", "inputs")}, about)
    if any(column["type"] == "tensor" for column in columns):
        tensors = {column.get("name", ""): _tensor(column["tensor-spec"]["shape"]) for column in columns}
        whole = tensors.get("") or _object(tensors, required=list(tensors))
        return _one_of({"inputs": whole, "instances": {"type": "array"}}, about)
    if any("name" not in column for column in columns):
        rows = {"type": "array", "minItems": 1}
        return _one_of({"inputs": rows, "instances": rows}, about)
    fields = {column["name"]: _column(column) for column in columns}
    required = [column["name"] for column in columns if column.get("required", True)]
    rows = {"type": "array", "minItems": 1, "items": _object(fields, required=required)}
    split = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {
            "columns": {"const": list(fields)},
            "data": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "array",
                    "prefixItems": list(fields.values()),
                    "minItems": len(fields),
                    "maxItems": len(fields),
                },
            },
        },
    }
    lists = {name: {"type": "array", "items": each, "minItems": 1, "maxItems": 1} for name, each in fields.items()}
    whole = _object(lists, required=required)
    return _one_of({"dataframe_split": split, "dataframe_records": rows, "instances": rows, "inputs": whole}, about)


def _one_of(inputs: Mapping[str, Any], about: Described) -> dict[str, Any]:
    """Exactly one of these fields, and params where the model has them."""
    params = (
        {"params": _object({each["name"]: _param(each) for each in about.params}, required=[])} if about.params else {}
    )
    return {"oneOf": [_object({name: schema, **params}, required=[name]) for name, schema in inputs.items()]}


def _object(properties: Mapping[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


def _param(param: Mapping[str, Any]) -> dict[str, Any]:
    kind = _TYPES.get(str(param.get("type")), {})
    return {"type": "array", "items": kind} if param.get("shape") else dict(kind)


def _column(column: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a value of MLflow's type, as `to_dict` writes it."""
    kind = column["type"]
    if kind == "array":
        return {"type": "array", "items": _column(column["items"])}
    if kind == "object":
        fields = column["properties"]
        required = [name for name, each in fields.items() if each.get("required", True)]
        return _object({name: _column(each) for name, each in fields.items()}, required=required)
    if kind == "map":
        return {"type": "object", "additionalProperties": _column(column["values"])}
    return dict(_TYPES.get(kind, {}))


def _tensor(shape: list[int]) -> dict[str, Any]:
    """Nested arrays of that shape; -1 is any length."""
    schema: dict[str, Any] = {}
    for length in reversed(shape):
        bounds = {"minItems": 1} if length < 0 else {"minItems": length, "maxItems": length}
        schema = {"type": "array", "items": schema, **bounds}
    return schema
