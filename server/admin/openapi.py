"""The admin API's description: OpenAPI 3.1, made from the table of operations."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.admin.operations import OPERATIONS, Operation

Json = dict[str, Any]
PREFIX = "/admin/v1/"
REASONS = {
    400: "the request is malformed; the error says where",
    401: "no token or certificate, or one that is not known",
    403: "the caller may not do this, or another site's page asks",
    404: "no such model or budget",
    405: "not this method",
    408: "the body did not arrive in time",
    409: "it contradicts what is in force; the error says what to undo first",
    413: "the body is too large",
    415: "the body must be application/json",
    429: "the caller has used up its requests per second",
    503: "the controller cannot answer now",
}
NUMBER, TEXT, FLAG = {"type": "number"}, {"type": "string"}, {"type": "boolean"}


def _maybe(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


ANSWERS: Json = {
    "Error": _object(error=TEXT),
    "Status": _object(
        at=_maybe(NUMBER),
        generation=_maybe({"type": "integer"}),
        budgets=_list(_object(name=TEXT, state=TEXT, ratio=_maybe(NUMBER), usage=_maybe(NUMBER), limit=_maybe(NUMBER))),
        models=_map(_object(variant=_maybe(TEXT), rung=_maybe({"type": "integer"}), ladder=_list({"type": "object"}))),
        hosts=_list({"type": "object"}),
        pins=_map(_maybe(TEXT)),
        holds=_list(_ref("Hold")),
        error=TEXT,
    ),
    "Hold": _object(model=TEXT, variant=_maybe(TEXT), reason=TEXT),
    "PlannedSwap": _object(
        model=TEXT,
        from_variant=_maybe(TEXT),
        to_variant=_maybe(TEXT),
        direction=TEXT,
        mode=TEXT,
        bytes_planned={"type": "integer"},
        trigger=TEXT,
        reason=TEXT,
    ),
    "Plan": _object(
        now=NUMBER,
        at=_maybe(NUMBER),
        generation={"type": "integer"},
        swaps=_list(_ref("PlannedSwap")),
        holds=_list(_ref("Hold")),
        assignment=_map(_maybe(TEXT)),
    ),
    "Decision": _object(
        at=NUMBER,
        generation={"type": "integer"},
        triggers=_list({"type": "object"}),
        pressures=_list({"type": "object"}),
        swaps=_list(_ref("PlannedSwap")),
        holds=_list(_ref("Hold")),
        outcomes=_list({"type": "object"}),
        error=TEXT,
        sentences=_list(TEXT),
    ),
    "Decisions": _object(decisions=_list(_ref("Decision")), next=_maybe(NUMBER)),
    "Explanation": _object(lines=_list(TEXT), holds=_list(_ref("Hold"))),
    "WhatIf": _object(
        budget=TEXT,
        delta_bytes={"type": "integer"},
        swaps=_list(_ref("PlannedSwap")),
        assignment=_map(_maybe(TEXT)),
        infeasible=_list(TEXT),
        missing=TEXT,
    ),
    "Swap": _object(generation={"type": "integer"}, model=TEXT, variant=TEXT, holds=_list(TEXT)),
    "Pins": _map(_maybe(TEXT)),
    "Budget": _object(
        name=TEXT,
        resource=TEXT,
        scope=TEXT,
        group=_maybe(TEXT),
        limit=_maybe({"type": "integer"}),
        limit_fraction=_maybe(NUMBER),
        enter=NUMBER,
        exit=NUMBER,
        enter_seconds=NUMBER,
        exit_seconds=NUMBER,
        reserve={"type": "integer"},
        overridden={"type": "object"},
    ),
    "Budgets": _object(budgets=_list(_ref("Budget"))),
    "Cleared": _object(model=TEXT, variant=_maybe(TEXT)),
    "Reloaded": _object(applied=_list(TEXT), restart=_list(TEXT)),
}


def document(version: str) -> Json:
    """The whole description."""
    paths: Json = {}
    schemas = dict(ANSWERS)
    for operation in OPERATIONS:
        paths.setdefault(f"{PREFIX}{operation.path}", {})[operation.method.lower()] = _operation(operation, schemas)
    paths[f"{PREFIX}events"] = {"get": _events()}
    paths[f"{PREFIX}openapi.json"] = {"get": _itself()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "trimtab admin API", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, "certificate": {"type": "mutualTLS"}},
        },
        "security": [{}, {"bearer": []}, {"certificate": []}],
    }


def _operation(operation: Operation, schemas: Json) -> Json:
    statuses = {400, 401, 403, 405, 429, 503, *operation.errors}
    made: Json = {
        "operationId": operation.method.lower() + "".join(w.title() for w in _words(operation.path)),
        "summary": operation.summary,
        "description": f"Needs role `{operation.role}` where callers are authenticated.",
        "parameters": [],
    }
    if "{name}" in operation.path:
        schema = {"type": "string", "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$"}
        made["parameters"].append({"name": "name", "in": "path", "required": True, "schema": schema})
    query = _schema(operation.query)
    for name, field in query.get("properties", {}).items():
        required = name in query.get("required", ())
        made["parameters"].append({"name": name, "in": "query", "required": required, "schema": _unnull(field)})
    if operation.body is not None:
        statuses |= {408, 413, 415}
        schemas[f"{operation.body.__name__}Request"] = _schema(operation.body)
        content = {"application/json": {"schema": _ref(f"{operation.body.__name__}Request")}}
        made["requestBody"] = {"required": True, "content": content}
    made["responses"] = {
        str(operation.status): _response("done", _ref(operation.schema)),
        **{str(status): _response(REASONS[status], _ref("Error")) for status in sorted(statuses)},
    }
    return made


def _events() -> Json:
    return {
        "operationId": "getEvents",
        "summary": "Server-sent events: `status` at each tick, `decision` when one is written down",
        "description": "Needs role `read` where callers are authenticated. `data` is a Status or a Decision.",
        "responses": {
            "200": {"description": "until the client leaves", "content": {"text/event-stream": {"schema": TEXT}}},
            **{str(s): _response(REASONS[s], _ref("Error")) for s in (400, 401, 403, 405, 429, 503)},
        },
    }


def _itself() -> Json:
    return {
        "operationId": "getDescription",
        "summary": "This description",
        "parameters": [],
        "responses": {
            "200": _response("OpenAPI 3.1", {"type": "object"}),
            **{str(s): _response(REASONS[s], _ref("Error")) for s in (400, 401, 403, 405, 429)},
        },
    }


def _response(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _schema(model: type[BaseModel]) -> Json:
    return model.model_json_schema(ref_template="#/components/schemas/{model}")


def _unnull(schema: Json) -> Json:
    """A query's field is left out rather than null."""
    choices = [c for c in schema.get("anyOf", []) if c != {"type": "null"}]
    return choices[0] if len(choices) == 1 else {k: v for k, v in schema.items() if k not in ("title", "default")}


def _words(path: str) -> list[str]:
    return [word.strip("{}") for word in path.split("/")]
