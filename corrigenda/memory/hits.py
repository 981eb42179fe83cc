"""How often edits answered: counts beside a memory, so that consolidation can print what is asked for most.

Whoever serves notes each edit that answered, which costs an addition, and writes the sums to a file from time to time;
several processes may count into one file. The counts are no part of the ledger: losing the last seconds of them to a
power cut does no harm, and a reader of the ledger must not be woken up by every question.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from corrigenda.atomic import is_database
from corrigenda.errors import InvalidRequest

log = logging.getLogger("corrigenda.hits")

MOST_WAITING = 100_000
"""Edits whose counts wait to be written, at most, while the file cannot be: those that answered least are forgotten."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS hits (edit TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID"
_ADD = "INSERT INTO hits VALUES (?, ?) ON CONFLICT (edit) DO UPDATE SET times = times + excluded.times"


def beside(memory: str | Path) -> Path | None:
    """Return where the counts of the memory file ``memory`` are kept; ``None`` for a memory on a server."""
    from corrigenda.memory.upkeep import is_url, located

    return None if is_url(located(memory)) else Path(f"{memory}.hits")


class Hits:
    """Counts how often edits answered. Safe to share between threads.

    Args:
        path: An SQLite file, made with the first count that is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, ids: Iterable[str]) -> None:
        """Count an answer of each of the edits ``ids``; written by the next :meth:`flush`."""
        with self._lock:
            self._waiting.update(ids)

    def flush(self) -> None:
        """Add what was counted since to the file, in one transaction; keep it for later when that fails."""
        with self._lock:
            counted, self._waiting = self._waiting, Counter()
        if not counted:
            return
        try:
            with _opened(self.path) as file:
                file.executemany(_ADD, counted.items())
        except sqlite3.Error as error:
            log.warning("%s cannot be written: %s", self.path, error)
            with self._lock:
                counted.update(self._waiting)
                self._waiting = Counter(dict(counted.most_common(MOST_WAITING)))


def read_hits(path: Path) -> dict[str, int]:
    """Return how often edits answered, by id.

    Args:
        path: What :class:`Hits` wrote; or a JSON object of id → count; or a line for each answer, beginning with the
            edit's id.

    Raises:
        InvalidRequest: None of these.
    """
    try:
        if is_database(path):
            with _opened(path) as rows:
                return dict(rows.execute("SELECT edit, times FROM hits"))
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("{"):
            return {str(edit_id): int(count) for edit_id, count in json.loads(text).items()}
    except (OSError, ValueError, TypeError, sqlite3.Error) as error:
        raise InvalidRequest(
            f"{path} cannot be read: {error}", remedy='Write {"e…": 12, …}, or an id a line.'
        ) from None
    return dict(Counter(line.split()[0] for line in text.splitlines() if line.strip()))


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction: it is committed at the end of the block, or taken back."""
    with closing(sqlite3.connect(path, timeout=5)) as file, file:
        file.execute(_SCHEMA)
        yield file
