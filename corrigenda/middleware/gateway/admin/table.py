"""The admin API as a table of operations: what the OpenAPI document and the routes are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
_ASKING: dict[str, Schema] = {
    "mode": {"type": "string", "enum": ["chat", "completion"], "default": "chat"},
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 256, "default": 32},
    "model": {**_text(300), "description": "Of the upstream's models; the first, by default."},
}
_SHOWN: Schema = {"type": "object", "required": ["id", "statement", "prompt", "target"]}
_DONE: Schema = {"type": "object", "required": ["edit", "version"], "properties": {"edit": _SHOWN}}


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        method, path: Where; braces name parts of the path.
        name: The method of one of the groups in :mod:`corrigenda.middleware.gateway.admin.groups`.
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
_PAGE: dict[str, Schema] = {
    **_WHERE,
    "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50},
    "offset": {"type": "integer", "minimum": 0, "maximum": 10_000_000, "default": 0},
}
_JOB: Schema = {"type": "object", "required": ["id", "kind", "state", "lines"]}
OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/status", "status", "What the gateway is, and what the key may do."),
    Operation(
        "GET",
        "/edits",
        "list_edits",
        "The live edits, newest first.",
        query={**_PAGE, "q": _text(500)},
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
        "For which queries an edit would fire, were it added, what it would contradict, and what the model would say.",
        body={**EDIT, **_WHERE, "queries": _QUERIES, **_ASKING, "answers": {"type": "boolean", "default": False}},
        required=("prompt", "target", "queries"),
    ),
    Operation(
        "POST",
        "/ask",
        "ask",
        "Ask the model, without the edits and with them.",
        body={**_WHERE, "prompt": _text(20_000), **_ASKING},
        required=("prompt",),
    ),
    Operation(
        "POST",
        "/feedback",
        "feedback",
        "Say how a query was meant; it is kept, and recalled for queries like it.",
        body={**_WHERE, "query": _text(20_000), "clarification": _text(4_000)},
        required=("query", "clarification"),
        status=201,
    ),
    Operation(
        "GET",
        "/events",
        "list_events",
        "The ledger of a namespace, newest event first.",
        query={**_WHERE, "limit": _PAGE["limit"], "before": {"type": "integer", "minimum": 1}},
        answer={"type": "object", "required": ["events", "version"]},
    ),
    Operation(
        "GET",
        "/conflicts",
        "list_conflicts",
        "Live edits that contradict each other, in groups.",
        query=_WHERE,
        answer={"type": "object", "required": ["conflicts"]},
    ),
    Operation(
        "GET",
        "/activity",
        "activity",
        "What happened lately: requests of the last hour, edits that fired, events of the last 30 days.",
        query=_WHERE,
        answer={"type": "object", "required": ["minutes", "fired", "days"]},
    ),
    Operation(
        "POST",
        "/calibrate",
        "calibrate",
        "Find the threshold that bounds false fires on queries that concern no edit; a job.",
        body={
            **_WHERE,
            "queries": _texts(20_000, 5_000, 1),
            "rate": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": 0.003},
            "apply": {"type": "boolean", "default": False},
        },
        required=("queries",),
        status=202,
        answer=_JOB,
    ),
    Operation("GET", "/jobs", "list_jobs", "The jobs of a namespace, newest first.", query=_WHERE),
    Operation("GET", "/jobs/{job_id}", "get_job", "How far a job is.", answer=_JOB),
    Operation("DELETE", "/jobs/{job_id}", "stop_job", "Ask a job to end.", answer=_JOB),
    Operation(
        "POST",
        "/consolidations",
        "consolidate",
        "Print live edits into weights: plan, apply to a copy, gate, promote or revert; a job.",
        body={
            **_WHERE,
            "editor": _text(100),
            "edits": _texts(200, 10_000, 1),
            "options": {"type": "object"},
        },
        status=202,
        answer=_JOB,
    ),
    Operation("GET", "/consolidations", "list_runs", "The consolidation runs of a namespace.", query=_WHERE),
    Operation(
        "DELETE",
        "/consolidations/{run_id}",
        "roll_back_run",
        "Roll a promoted run back: the weights as before, its edits in the memory again; a job.",
        query=_WHERE,
        status=202,
        answer=_JOB,
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
