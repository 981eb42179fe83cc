"""The OpenAPI document of the admin API, made from the table of its operations."""

from __future__ import annotations

from typing import Any

from corrigenda import __version__
from corrigenda.middleware.gateway.admin.table import OPERATIONS, Operation

_ERRORS = {
    400: "Not JSON, or not readable.",
    401: "No valid key.",
    403: "The key may not do this here.",
    404: "No such thing.",
    408: "The request did not arrive in time.",
    409: "It contradicts a live edit, or needs something that this gateway does not have.",
    413: "The body is too long.",
    422: "A value that is not allowed.",
    429: "Too many requests.",
    502: "The upstream failed.",
    503: "The store is busy or cannot be written.",
    504: "The upstream did not answer in time.",
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the admin API."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": ["message", "type", "code", "retryable"]}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "corrigenda admin API", "version": __version__, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/admin/v1"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": error},
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": dict(schema)}
        for name, schema in operation.query.items()
    ]
    kind = "application/jsonl" if operation.lines == "out" else "application/json"
    schema = {"type": "string"} if operation.lines == "out" else dict(operation.answer)
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    row: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            str(operation.status): {"description": "Done.", "content": {kind: {"schema": schema}}},
            **{str(code): {"description": text, "content": problem} for code, text in _ERRORS.items()},
        },
    }
    if operation.lines == "in":
        row["requestBody"] = {"required": True, "content": {"application/jsonl": {"schema": {"type": "string"}}}}
    elif operation.body is not None:
        fields: dict[str, Any] = {
            "type": "object",
            "properties": {name: dict(schema) for name, schema in operation.body.items()},
            "required": list(operation.required),
            "additionalProperties": False,
        }
        if not operation.required:
            del fields["required"]
        row["requestBody"] = {"required": True, "content": {"application/json": {"schema": fields}}}
    return row
