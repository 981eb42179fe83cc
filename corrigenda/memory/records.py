"""Events as JSON records: what a ledger keeps of one outside of a table."""

from __future__ import annotations

import json
from datetime import datetime

from corrigenda.edit import Edit, trusted
from corrigenda.errors import InvalidEdit
from corrigenda.memory.ledger import EVENT_KINDS, Event


def encode_event(event: Event) -> bytes:
    """Return ``event`` as UTF-8 JSON, without its place in the ledger."""
    row = event.to_dict()
    del row["seq"]
    return json.dumps(row | {"id": event.id}, ensure_ascii=False, separators=(",", ":")).encode()


def decode_event(record: bytes, seq: int) -> Event:
    """Return the event that :func:`encode_event` wrote, at place ``seq``.

    Raises:
        ValueError: It is not such a record, or its content does not match its id.
    """
    try:
        row = json.loads(record)
        when = datetime.fromisoformat(row["when"])
        kind, edit_id, event_id = row["kind"], row["edit_id"], row["id"]
        edit = trusted(row["edit"], edit_id) or Edit.from_dict(row["edit"])
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError, InvalidEdit) as error:
        raise ValueError(str(error)) from error
    if edit.id != edit_id or kind not in EVENT_KINDS:
        raise ValueError("its content does not match its id")
    return Event(kind, edit, row.get("replaces"), row.get("author"), row.get("reason"), when, event_id, seq)
