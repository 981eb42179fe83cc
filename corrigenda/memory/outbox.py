"""Outbox: writes that could not reach their ledger yet, durable on this machine's disk, in order."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from corrigenda.errors import (
    ConflictingEdit,
    InvalidEdit,
    InvalidRequest,
    StoreBusy,
    StoreNotWritable,
    StoreUnavailable,
    UnknownEdit,
    brief,
)
from corrigenda.memory.files import translated

_IMPOSSIBLE = (InvalidEdit, ConflictingEdit, UnknownEdit, InvalidRequest)
"""What is wrong with an intent itself."""
_PASSING = (StoreUnavailable, StoreBusy, StoreNotWritable)
"""What is wrong with the ledger as a whole, and passes. All else may be either: an encoder that is away, or one that
cannot take this very text."""


@dataclass(frozen=True)
class Intent:
    """What somebody wanted done to a memory.

    Attributes:
        do: Name of the method.
        values: Its arguments, JSON-ready.
        id: The events that come of it are named after it, so that doing it twice is doing it once.
    """

    do: Literal["add", "amend", "retract"]
    values: dict[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Outbox:
    """Intents in an SQLite file, flushed to the disk before they are acknowledged. Safe to share between threads.

    Args:
        path: The file; created if need be.

    Attributes:
        obstacle: What ended the last delivery before its time; empty for nothing.
        patience: How long one intent may keep the others waiting by an error that is not the ledger's own, seconds.

    Raises:
        StoreNotWritable: The folder or the disk refuses.
        StoreDamaged: Not such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.obstacle = ""
        self.patience = 600.0
        self._stuck = ("", 0.0)  # the intent in front, and since when it fails by itself
        self._lock = threading.Lock()
        with translated(path):
            self._db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS intents (place INTEGER PRIMARY KEY, id TEXT UNIQUE, do TEXT, body TEXT,"
                " at TEXT, refused TEXT)"
            )

    def __len__(self) -> int:
        """Count the intents that wait."""
        with self._lock, translated(self.path):
            (count,) = self._db.execute("SELECT count(*) FROM intents WHERE refused IS NULL").fetchone()
            return int(count)

    def put(self, intent: Intent) -> None:
        """Keep ``intent``; it is on the disk when this returns."""
        row = (intent.id, intent.do, json.dumps(intent.values, ensure_ascii=False), datetime.now(UTC).isoformat())
        with self._lock, translated(self.path):
            self._db.execute("INSERT OR IGNORE INTO intents (id, do, body, at) VALUES (?, ?, ?, ?)", row)

    def refused(self) -> list[tuple[str, str]]:
        """Return the intents that turned out to be impossible, and why; they are kept for people to look at."""
        with self._lock, translated(self.path):
            return self._db.execute("SELECT body, refused FROM intents WHERE refused IS NOT NULL").fetchall()

    def requeue(self) -> int:
        """Let those that were put aside wait once more, in their old places; return how many."""
        self._stuck = ("", 0.0)
        with self._lock, translated(self.path):
            return self._db.execute("UPDATE intents SET refused = NULL WHERE refused IS NOT NULL").rowcount

    def deliver(self, carry_out: Callable[[Intent], None]) -> int:
        """Carry out what waits, in order, and forget it; return how many.

        One that is impossible is put aside, with the reason. Any other error ends the delivery and keeps the rest: what
        was acknowledged is not dropped because a server is full for a while. But none blocks the others for ever.
        """
        done, self.obstacle = 0, ""
        while True:
            with self._lock, translated(self.path):
                query = "SELECT place, id, do, body FROM intents WHERE refused IS NULL ORDER BY place LIMIT 1"
                row = self._db.execute(query).fetchone()
            if row is None:
                return done
            place, intent_id, do, body = row
            refused = None
            try:
                carry_out(Intent(do, json.loads(body), intent_id))
            except _IMPOSSIBLE as error:
                refused = str(error)
            except Exception as error:  # encoders may raise anything
                if isinstance(error, _PASSING):
                    self._stuck = ("", 0.0)  # that time is the ledger's, not the intent's own
                if isinstance(error, _PASSING) or not self._blocks(intent_id):
                    self.obstacle = brief(error)
                    return done
                refused = brief(error)
            with self._lock, translated(self.path):
                if refused is None:
                    self._db.execute("DELETE FROM intents WHERE place = ?", (place,))
                    done += 1
                else:
                    self._db.execute("UPDATE intents SET refused = ? WHERE place = ?", (refused, place))

    def _blocks(self, intent_id: str) -> bool:
        """Tell whether the intent in front has failed for longer than the others may wait."""
        now = time.monotonic()
        if self._stuck[0] != intent_id:
            self._stuck = intent_id, now
        return now - self._stuck[1] >= self.patience

    def close(self) -> None:
        """Close the file."""
        with self._lock, closing(self._db):
            pass
