"""The admin API as a table of operations, and the OpenAPI document made from it: one source for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corrigenda import __version__
from corrigenda.edit import MAX_LIST, MAX_PROMPT, MAX_TARGET
from corrigenda.middleware.gateway.keys import ROLES

Schema = Mapping[str, Any]


def _text(limit: int) -> Schema:
    # No control characters, and something to see: what the edit itself asks for, as far as a pattern can say it.
    return {"type": "string", "minLength": 1, "maxLength": limit, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}


def _texts(limit: int, most: int, least: int = 0) -> Schema:
    return {"type": "array", "items": _text(limit), "minItems": least, "maxItems": most}


_NAMESPACE = _text(200)
_RULE: Schema = {"type": "string", "enum": ["supersede", "coexist", "refuse"], "default": "supersede"}
_TIME: Schema = {"type": "string", "description": "ISO 8601, for instance 2026-01-31T12:00:00+01:00"}
EDIT: dict[str, Schema] = {
    "prompt": _text(MAX_PROMPT),
    "target": _text(MAX_TARGET),
    "subject": _text(MAX_PROMPT),
    "relation": _text(500),
    "old_answer": _text(MAX_TARGET),
    "aliases": _texts(MAX_PROMPT, MAX_LIST),
    "target_aliases": _texts(MAX_TARGET, MAX_LIST),
    "paraphrases": _texts(MAX_PROMPT, MAX_LIST),
    "source": _text(4_000),
    "tags": _texts(200, MAX_LIST),
    "valid_from": _TIME,
    "valid_to": _TIME,
}
_QUERIES = _texts(20_000, 20, 1)
_SHOWN: Schema = {"type": "object", "required": ["id", "statement", "prompt", "target"]}
_DONE: Schema = {"type": "object", "required": ["edit", "version"], "properties": {"edit": _SHOWN}}


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        method, path: Where; braces name parts of the path.
        name: The method of :class:`~corrigenda.middleware.gateway.admin.operations.Operations`.
        summary: One sentence.
        body: Fields of the JSON object it takes; ``None`` for no body.
        required: Which of them must be there.
        query: Parameters after the question mark.
        status: Of success.
        lines: ``in`` when it takes JSON lines, ``out`` when it returns them.
        answer: Schema of the answer.
    """

    method: str
    path: str
    name: str
    summary: str
    body: Mapping[str, Schema] | None = None
    required: tuple[str, ...] = ()
    query: Mapping[str, Schema] = field(default_factory=dict)
    status: int = 200
    lines: str = ""
    answer: Schema = field(default_factory=lambda: {"type": "object"})


_WHERE = {"namespace": _NAMESPACE}
OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/status", "status", "What the gateway is, and what the key may do."),
    Operation(
        "GET",
        "/edits",
        "list_edits",
        "The live edits, newest first.",
        query={
            **_WHERE,
            "q": _text(500),
            "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50},
            "offset": {"type": "integer", "minimum": 0, "maximum": 10_000_000, "default": 0},
        },
        answer={"type": "object", "required": ["edits", "total", "version"]},
    ),
    Operation(
        "POST",
        "/edits",
        "add_edit",
        "Add an edit; it holds for the next request.",
        body={**EDIT, **_WHERE, "on_conflict": _RULE},
        required=("prompt", "target"),
        status=201,
        answer=_DONE,
    ),
    Operation("GET", "/edits/{edit_id}", "get_edit", "One edit, live or not.", answer=_SHOWN),
    Operation(
        "PATCH",
        "/edits/{edit_id}",
        "amend_edit",
        "Put a changed edit in the place of a live one.",
        body={**EDIT, "reason": _text(1_000), "on_conflict": _RULE},
        answer=_DONE,
    ),
    Operation(
        "DELETE",
        "/edits/{edit_id}",
        "retract_edit",
        "Take a live edit back.",
        query={"reason": _text(1_000)},
        answer=_DONE,
    ),
    Operation("GET", "/edits/{edit_id}/history", "edit_history", "What happened to an edit."),
    Operation(
        "POST",
        "/explain",
        "explain",
        "Which edits are considered for queries, on what grounds, and which fire.",
        body={**_WHERE, "queries": _QUERIES},
        required=("queries",),
    ),
    Operation(
        "POST",
        "/preview",
        "preview",
        "For which queries an edit would fire, were it added, and what it would contradict.",
        body={**EDIT, **_WHERE, "queries": _QUERIES},
        required=("prompt", "target", "queries"),
    ),
    Operation(
        "POST",
        "/ask",
        "ask",
        "Ask the local model, without the edits and with them.",
        body={
            **_WHERE,
            "prompt": _text(20_000),
            "mode": {"type": "string", "enum": ["chat", "completion"], "default": "chat"},
            "max_tokens": {"type": "integer", "minimum": 1, "maximum": 256, "default": 32},
        },
        required=("prompt",),
    ),
    Operation(
        "POST",
        "/import",
        "import_edits",
        "Add edits from JSON lines, in one transaction.",
        query={**_WHERE, "on_error": {"type": "string", "enum": ["stop", "skip"]}, "on_conflict": _RULE},
        lines="in",
    ),
    Operation("GET", "/export", "export_edits", "The live edits as JSON lines.", query=_WHERE, lines="out"),
    Operation(
        "POST",
        "/rollback",
        "roll_back",
        "Make the edits of a namespace what they were after an event of the ledger.",
        body={**_WHERE, "version": {"type": "integer", "minimum": 0}, "reason": _text(1_000)},
        required=("version",),
    ),
    Operation("GET", "/keys", "list_keys", "The keys, without their secrets."),
    Operation(
        "POST",
        "/keys",
        "create_key",
        "Make a key; its text is in the answer, and nowhere else.",
        body={
            "name": _text(200),
            "role": {"type": "string", "enum": list(ROLES)},
            "namespaces": _texts(200, 100, 1),
        },
        required=("name", "role", "namespaces"),
        status=201,
    ),
    Operation("DELETE", "/keys/{key_id}", "revoke_key", "Make a key stop working."),
)
_ERRORS = {
    400: "Not JSON, or not readable.",
    401: "No valid key.",
    403: "The key may not do this here.",
    404: "No such thing.",
    408: "The request did not arrive in time.",
    409: "It contradicts a live edit, or needs a local model.",
    413: "The body is too long.",
    422: "A value that is not allowed.",
    429: "Too many requests.",
    503: "The store is busy or cannot be written.",
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
