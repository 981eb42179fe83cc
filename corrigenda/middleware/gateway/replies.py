"""Answers of the gateway itself, in the shape that OpenAI's clients read; and the one mapping from errors to codes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import Send

from corrigenda.chat import Trace
from corrigenda.errors import (
    ConflictingEdit,
    CorrigendaError,
    ImportFailed,
    InvalidEdit,
    InvalidRequest,
    StoreBusy,
    StoreNotWritable,
    UnknownEdit,
    UnknownName,
)

TRACE_HEADER = b"x-corrigenda-trace"
_MAX_TRACED = 16

_STATUS: tuple[tuple[type[CorrigendaError], int, str, bool], ...] = (
    (UnknownEdit, 404, "unknown_edit", False),
    (ConflictingEdit, 409, "conflicting_edit", False),
    (ImportFailed, 422, "import_failed", False),
    (InvalidEdit, 422, "invalid_edit", False),
    (UnknownName, 422, "unknown_name", False),
    (InvalidRequest, 422, "invalid_request", False),
    (StoreBusy, 503, "store_busy", True),
    (StoreNotWritable, 503, "store_not_writable", False),
)


class Refusal(Exception):
    """A request that is answered by the gateway with an error.

    Args:
        status: HTTP status.
        code: For programs.
        message: For people; never holds a key.
        retry_after: Seconds; sets ``retryable`` and the header.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


def problem(error: CorrigendaError | Refusal) -> tuple[int, dict[str, Any]]:
    """Return HTTP status and JSON body for ``error``."""
    if isinstance(error, Refusal):
        row = _problem(error.status, error.code, error.message, error.retry_after is not None)
        return error.status, row
    status, code, retryable = next(
        ((status, code, retry) for kind, status, code, retry in _STATUS if isinstance(error, kind)),
        (500, "internal", False),
    )
    row = _problem(status, code, error.message, retryable)
    if error.remedy:
        row["error"]["remedy"] = error.remedy
    if isinstance(error, ImportFailed):
        row["error"]["bad_lines"] = {str(line): reason for line, reason in error.bad_lines.items()}
    return status, row


def _problem(status: int, code: str, message: str, retryable: bool) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code, "retryable": retryable}}


async def send_json(
    send: Send, status: int, body: Mapping[str, Any], headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with ``body`` as JSON."""
    data = json.dumps(body).encode()  # ASCII: a name that the caller gave may be no Unicode
    fixed = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": data})


async def send_problem(send: Send, error: CorrigendaError | Refusal) -> None:
    """Answer with ``error``; the header ``x-corrigenda-error`` tells it from an upstream's."""
    status, body = problem(error)
    headers = [(b"x-corrigenda-error", body["error"]["code"].encode())]
    if isinstance(error, Refusal) and error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after + 0.5))))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413 or (isinstance(error, Refusal) and error.code == "slow_request"):
        headers.append((b"connection", b"close"))  # the rest of the body is not going to be read
    await send_json(send, status, body, headers)


def trace_header(trace: Trace) -> tuple[bytes, bytes]:
    """Return ``trace`` as a header: JSON in ASCII, ids and numbers only, at most about 1 KB."""
    row = {
        "fired": [
            {"edit": hit.edit_id, "probability": round(hit.probability, 4), "margin": round(hit.margin, 4)}
            for hit in trace.fired[:_MAX_TRACED]
        ],
        "strategy": trace.strategy,
        "ledger_version": trace.ledger_version,
        "milliseconds": {stage: round(ms, 2) for stage, ms in trace.milliseconds.items()},
    }
    return TRACE_HEADER, json.dumps(row, separators=(",", ":")).encode("ascii")
