"""Queries from a log of a team's own traffic: plain lines, or JSON lines as gateways and tracers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corrigenda.errors import DatasetError
from corrigenda.paths import numbered_lines, read_text


def read_traffic(path: str | Path, namespace: str = "default") -> list[str]:
    """Return the queries of a log that concern no edit, in order.

    A line is a query; or a JSON object with ``query`` (or ``messages``, of which the last by ``user`` counts), and
    perhaps ``namespace`` (other namespaces are left out) and ``in_scope`` (true: left out, an edit should fire).

    Raises:
        DatasetError: The file cannot be read, a line has neither a query nor messages, or nothing is left.
    """
    lines = numbered_lines(read_text(Path(path)))
    found = [_query(line.strip(), namespace, f"{path}, line {number}") for number, line in lines]
    queries = [query for query in found if query]
    if not queries:
        raise DatasetError(f"{path} holds no queries", remedy="Give one query a line, or JSON lines with a query each.")
    return queries


def _query(line: str, namespace: str, where: str) -> str | None:
    if not line.startswith("{"):
        return line
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error
    if row.get("in_scope") or row.get("namespace", namespace) != namespace:
        return None
    turns = row.get("messages")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    said = [turn.get("content") for turn in turns if turn.get("role") == "user"]
    query = row.get("query", said[-1] if said else None)
    if not isinstance(query, str):
        raise DatasetError(f"{where} has neither a query nor messages of text")
    return query.strip()
