"""Logs for people and for programs: one line an event, one object a line where programs read. No key, no text of users.

What a request was about is never logged; its span, its trace header and the ledger tell which edits fired.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Literal

Kind = Literal["text", "json"]
FIELDS = "fields"
"""Name of the attribute of a log record that holds its fields: ``log.info("...", extra={FIELDS: {...}})``."""

_SECRETS = re.compile(r"(ck_[0-9a-f]{12}_)[A-Za-z0-9_-]+|\b(sk-)[A-Za-z0-9_-]{8,}|(?i:(bearer\s+))[^\s\"',;]+")


def masked(text: str) -> str:
    """Return ``text`` with whatever looks like a key blotted out."""
    return _SECRETS.sub(lambda match: next(filter(None, match.groups())) + "***", text)


class Lines(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO corrigenda.access GET /v1/models 200 status=200 ...``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return masked(f"{_when(record)} {record.levelname} {record.name} {super().format(record)}{fields}")


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        row = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(super().format(record)),
        }
        fields = {name: masked(value) if isinstance(value, str) else value for name, value in _fields(record).items()}
        return json.dumps({**fields, **row}, ensure_ascii=False, default=str)


@contextlib.contextmanager
def logging_to(kind: Kind, stream: IO[str] | None = None, level: int = logging.INFO) -> Iterator[None]:
    """Send what the gateway and its server log to ``stream``, standard error by default, for as long as a block runs.

    For ``corrigenda serve``: who embeds the gateway has loggers of their own.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if kind == "json" else Lines())
    loggers = [logging.getLogger(name) for name in ("corrigenda", "uvicorn")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, (handlers, propagate, was) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(was)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, FIELDS, None)
    return fields if isinstance(fields, dict) else {}


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
