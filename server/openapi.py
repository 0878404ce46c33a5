"""The OpenAPI description of the HTTP side, at `/openapi.json`. Source: OpenAPI 3.1; Open Inference Protocol V2 (REST)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from variants.datatypes import DATATYPES

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
OBJECT: Schema = {"type": "object"}


def document(version: str) -> Schema:
    """The whole description; `version` is the server's."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "trimtab", "version": version, "summary": "Open Inference Protocol V2 over HTTP"},
        "paths": _paths(),
        "components": {"schemas": _schemas()},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _schemas() -> dict[str, Schema]:
    duration = _object(("count", "ns"), count=COUNT, ns=COUNT)
    shape = _array({"type": "integer", "minimum": 0})
    datatype = {"type": "string", "enum": list(DATATYPES)}
    parameters = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    described = _object(
        ("name", "datatype", "shape"), name=STRING, datatype=datatype, shape=_array({"type": "integer", "minimum": -1})
    )
    tensor = {"name": STRING, "datatype": datatype, "shape": shape, "parameters": parameters}
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    return {
        "Error": _object(("error",), error=STRING),
        "Parameters": parameters,
        "ServerMetadata": _object(
            ("name", "version", "extensions"), name=STRING, version=STRING, extensions=_array(STRING)
        ),
        "ModelMetadata": _object(
            ("name", "versions", "platform", "inputs", "outputs"),
            name=STRING,
            versions=_array(STRING),
            platform=STRING,
            inputs=_array(described),
            outputs=_array(described),
        ),
        "ModelConfig": _object(("name", "max_batch_size", "input", "output"), name=STRING, max_batch_size=COUNT),
        "InferRequest": _object(
            ("inputs",),
            id=STRING,
            parameters=_ref("Parameters"),
            inputs={**_array(_object(("name", "datatype", "shape"), **tensor, data={"type": "array"})), "minItems": 1},
            outputs=_array(_object(("name",), name=STRING, parameters=_ref("Parameters"))),
        ),
        "InferResponse": _object(
            ("model_name", "model_version", "outputs"),
            model_name=STRING,
            model_version=STRING,
            id=STRING,
            parameters=_ref("Parameters"),
            outputs=_array(_object(("name", "datatype", "shape"), **tensor, data={"type": "array"})),
        ),
        "GenerateRequest": _object((), id=STRING, parameters=_ref("Parameters")),
        "GenerateResponse": _object(
            ("model_name", "model_version"), model_name=STRING, model_version=STRING, id=STRING
        ),
        "Statistics": _object(
            ("model_stats",),
            model_stats=_array(
                _object(
                    ("name", "version", "inference_stats", "batch_stats"),
                    name=STRING,
                    version=STRING,
                    last_inference=COUNT,
                    inference_count=COUNT,
                    execution_count=COUNT,
                    inference_stats=_object(stages, **dict.fromkeys(stages, duration)),
                    batch_stats=_array(OBJECT),
                )
            ),
        ),
        "Index": _array(
            _object(
                ("name", "version", "state"),
                name=STRING,
                version=STRING,
                state={"type": "string", "enum": ["READY", "LOADING", "UNAVAILABLE"]},
                reason=STRING,
            )
        ),
        "Region": _object(
            ("name", "key", "offset", "byte_size"), name=STRING, key=STRING, offset=COUNT, byte_size=COUNT
        ),
        "RegionRequest": _object(
            ("key", "byte_size"), key=STRING, offset=COUNT, byte_size={"type": "integer", "minimum": 1}
        ),
    }


def _paths() -> dict[str, Schema]:
    health = _object((), live={"type": "boolean"}, ready={"type": "boolean"}, name=STRING, models=OBJECT)
    paths = {
        "/openapi.json": {"get": _operation("This document", OBJECT)},
        "/v2": {"get": _operation("Server metadata", _ref("ServerMetadata"))},
        "/v2/health/live": {"get": _operation("Whether the server is live", health)},
        "/v2/health/ready": {"get": _operation("Whether all models are ready", health, also={503: health})},
        "/v2/models/stats": {"get": _operation("Statistics of all models", _ref("Statistics"))},
        "/v2/repository/index": {
            "post": _operation("The models", _ref("Index"), _object((), ready={"type": "boolean"}), body_required=False)
        },
        "/v2/systemsharedmemory/status": {"get": _operation("Shared-memory regions", _array(_ref("Region")))},
        "/v2/systemsharedmemory/unregister": {"post": _operation("Forget all regions", OBJECT)},
        "/v2/cudasharedmemory/status": {"get": _operation("Always empty", _array(OBJECT))},
        "/v2/cudasharedmemory/unregister": {"post": _operation("Nothing to forget", OBJECT)},
        "/v2/trace/setting": _refused("Trace settings"),
        "/v2/logging": _refused("Log settings"),
    }
    region = (_path("region"),)
    below: dict[str, tuple[str, Schema]] = {
        "status": ("get", _operation("A region", _array(_ref("Region")), errors=(404,))),
        "register": ("post", _operation("Register a region", OBJECT, _ref("RegionRequest"), errors=(400, 501))),
        "unregister": ("post", _operation("Forget a region", OBJECT)),
    }
    for action, (method, operation) in below.items():
        paths[f"/v2/systemsharedmemory/region/{{region}}/{action}"] = {"parameters": list(region), method: operation}
    load = _object((), parameters=OBJECT)
    for action, errors in (("load", (400, 404, 501, 503)), ("unload", (400, 404, 503))):
        paths[f"/v2/repository/models/{{model}}/{action}"] = {
            "parameters": [_path("model")],
            "post": _operation(f"{action.capitalize()} a model", OBJECT, load, body_required=False, errors=errors),
        }
    for prefix, parameters in (
        ("/v2/models/{model}", (_path("model"),)),
        ("/v2/models/{model}/versions/{version}", (_path("model"), _path("version"))),
    ):
        for path, item in _model_paths(health).items():
            paths[prefix + path] = {"parameters": list(parameters), **item}
    return paths


def _model_paths(health: Schema) -> Mapping[str, Schema]:
    computing = (400, 404, 413, 500, 501, 503, 504)
    stream: Schema = {"200": {"description": "Server-sent events", "content": {"text/event-stream": {}}}}
    generate_stream = _operation("Answers as events", OBJECT, _ref("GenerateRequest"), errors=computing)
    generate_stream["responses"] |= stream
    infer = _operation("Inference", _ref("InferResponse"), _ref("InferRequest"), errors=computing)
    infer["requestBody"]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    infer["responses"]["200"]["content"]["application/octet-stream"] = {}
    return {
        "": {"get": _operation("Model metadata", _ref("ModelMetadata"), errors=(404,))},
        "/ready": {"get": _operation("Whether the model is ready", health, errors=(404,), also={503: health})},
        "/config": {"get": _operation("Model configuration", _ref("ModelConfig"), errors=(404,))},
        "/stats": {"get": _operation("Model statistics", _ref("Statistics"), errors=(404,))},
        "/trace/setting": _refused("Trace settings"),
        "/infer": {"post": infer},
        "/generate": {
            "post": _operation("One answer", _ref("GenerateResponse"), _ref("GenerateRequest"), errors=computing)
        },
        "/generate_stream": {"post": generate_stream},
    }


def _refused(what: str) -> Schema:
    answers = {"501": _answer("Not offered; the error says where to set it", _ref("Error"))}
    answers |= {"400": _answer("Error", _ref("Error"))}
    return {method: {"summary": what, "responses": answers} for method in ("get", "post")}


def _path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _answer(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _operation(
    summary: str,
    answer: Schema,
    body: Schema | None = None,
    *,
    body_required: bool = True,
    errors: tuple[int, ...] = (),
    also: Mapping[int, Schema] | None = None,
) -> Schema:
    answers = {"200": _answer(summary, answer)}
    answers |= {str(status): _answer("Error", _ref("Error")) for status in (400, *errors)}
    answers |= {str(status): _answer(summary, schema) for status, schema in (also or {}).items()}
    made: Schema = {"summary": summary, "responses": answers}
    if body is not None:
        made["requestBody"] = {"required": body_required, "content": {"application/json": {"schema": body}}}
    return made
