"""SQLiteStore: the ledger in one file, for one machine: one writer and many readers, in any number of processes.

Write-ahead log with ``synchronous=FULL``: what was acknowledged survives a kill and a power cut; what was not is
absent as a whole.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from corrigenda.edit import Edit, trusted
from corrigenda.errors import InvalidEdit, StoreDamaged, StoreError, StoreNotWritable
from corrigenda.memory import migrations
from corrigenda.memory.files import check_pages, inspect, translated, wal
from corrigenda.memory.ledger import EVENT_KINDS, Event

_COLUMNS = "seq, id, kind, edit_id, edit, replaces, author, reason, at"
_CHUNK = 500  # SQLite's oldest limit on bound values is 999


class SQLiteStore:
    """A ledger in an SQLite file. Build it with :meth:`open`. Safe to share between threads, and across a fork.

    Args:
        path: The file.
        readonly: Whether writing is refused.
        busy_seconds: How long to wait for another writer, 0 and more.
    """

    local = True

    def __init__(self, path: Path, *, readonly: bool, busy_seconds: float) -> None:
        self.path = path
        self.readonly = readonly
        self._busy_seconds = busy_seconds
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        self._seen = -1
        self._db = self._connect()
        self._seen = self._data_version()

    @classmethod
    def open(cls, path: str | Path, *, readonly: bool = False, busy_seconds: float = 10.0) -> SQLiteStore:
        """Open the ledger at ``path``; create it unless ``readonly``.

        Raises:
            StoreDamaged: Not a ledger, or cut off.
            StoreTooNew: Written by a later version.
            StoreNotWritable: Read-only file or folder, missing folder, full disk.
            StoreBusy: Another process kept the write lock for longer than ``busy_seconds``.
            StoreError: A folder; or nothing there to read.
        """
        return cls(Path(path), readonly=readonly, busy_seconds=busy_seconds)

    def read(self, after: int = 0, *, until: int | None = None, about: Collection[str] | None = None) -> list[Event]:
        """Return the events with ``after < seq <= until``, in order; with ``about`` only those about these ids."""
        last = until if until is not None else 2**62
        query = f"SELECT {_COLUMNS} FROM events WHERE seq > ? AND seq <= ?"
        if about is None:
            rows = self._rows(f"{query} ORDER BY seq", (after, last))
        else:
            found: dict[int, tuple[Any, ...]] = {}
            ids = list(about)
            for start in range(0, len(ids), _CHUNK // 2):
                part = ids[start : start + _CHUNK // 2]
                marks = ", ".join("?" * len(part))
                where = f"{query} AND (edit_id IN ({marks}) OR replaces IN ({marks}))"
                found |= {int(row[0]): row for row in self._rows(where, (after, last, *part, *part))}
            rows = [found[seq] for seq in sorted(found)]
        return [self._event(row) for row in rows]

    def append(self, events: Sequence[Event]) -> int:
        """Append ``events``, all or none, and return the last sequence number.

        They are durable when the outermost :meth:`exclusive` block ends; outside one, when this returns.
        """
        with self.exclusive(), translated(self.path):
            (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
            self._db.executemany(
                f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (_row(event, seq) for seq, event in enumerate(events, last + 1)),
            )
            return int(last) + len(events)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the write lock for a block: commit at its end, roll back if it raises. The outermost counts.

        Raises:
            StoreBusy: Another process kept the lock for too long.
            StoreNotWritable: Opened read-only, or the file system refused: nothing was written.
        """
        with self._connection() as db:
            if db.in_transaction:
                yield
                return
            if self.readonly:
                raise StoreNotWritable(
                    f"{self.path} was opened read-only", remedy="Open the memory without readonly=True."
                )
            with translated(self.path):
                db.execute("BEGIN IMMEDIATE")
            try:
                yield
                with translated(self.path):
                    db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise

    def changed(self) -> bool:
        """Tell whether another process or store may have appended since this was last asked."""
        with self._connection():
            now = self._data_version()
            before, self._seen = self._seen, now
            return now != before

    def mark_unread(self) -> None:
        """Let :meth:`changed` say so once more: what it told of, or was appended here, could not be taken in."""
        self._seen = -1

    def vectors(self, fingerprint: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what :meth:`keep_vectors` kept of ``keys`` for the encoder ``fingerprint``."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ", ".join("?" * len(part))
            query = f"SELECT text_hash, data FROM vectors WHERE fingerprint = ? AND text_hash IN ({marks})"
            found.update(self._rows(query, (fingerprint, *part)))
        return found

    def kept(self) -> dict[str, int]:
        """Count the kept vectors of each encoder, by fingerprint."""
        encoded = (
            "SELECT fingerprint, count(*) FROM vectors WHERE fingerprint NOT LIKE 'derived/%' GROUP BY fingerprint"
        )
        return dict(self._rows(encoded, ()))

    def keep_vectors(self, fingerprint: str, rows: Mapping[bytes, bytes]) -> None:
        """Keep encoded texts, in the surrounding :meth:`exclusive` block or one of its own."""
        if not rows:
            return
        with self.exclusive(), translated(self.path):
            self._db.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)",
                ((fingerprint, key, data) for key, data in rows.items()),
            )

    def compact(self, fingerprint: str, keep: Collection[bytes]) -> int:
        """Drop all vectors but ``keep`` of ``fingerprint``, give the space back, and return how many were dropped."""
        # What was derived from edits at a higher price than encoding them is nobody's waste.
        rows = self._rows("SELECT fingerprint, text_hash FROM vectors WHERE fingerprint NOT LIKE 'derived/%'", ())
        doomed = [row for row in rows if row[0] != fingerprint or row[1] not in keep]
        with self.exclusive(), translated(self.path):
            self._db.executemany("DELETE FROM vectors WHERE fingerprint = ? AND text_hash = ?", doomed)
        with self._connection() as db, translated(self.path):
            db.execute("VACUUM")
        return len(doomed)

    def has(self, seq: int, event_id: str) -> bool:
        """Tell whether event ``seq`` is the one of that id; ``True`` for 0, where nothing is yet."""
        return seq == 0 or self._rows("SELECT id FROM events WHERE seq = ?", (seq,)) == [(event_id,)]

    def close(self) -> None:
        """Close the file. The last one to close it folds the write-ahead log into it."""
        with self._lock:
            if self._pid == os.getpid():
                self._db.close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            # SQLite connections do not survive a fork; the old one is kept unused, for closing it here would
            # meddle with the parent's log. A lock that another thread of the parent held is never let go here.
            self._lock = threading.RLock()
            self._inherited.append(self._db)
            self._pid = os.getpid()
            self._db = self._connect()
            self._seen = -1
        with self._lock:
            yield self._db

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._connection() as db, translated(self.path):
            return db.execute(query, values).fetchall()

    def _data_version(self) -> int:
        with translated(self.path):
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _connect(self) -> sqlite3.Connection:
        condition = inspect(self.path)
        if condition == "new":
            self._check_place()
        elif not self.readonly and not os.access(self.path, os.W_OK):
            raise StoreNotWritable(
                f"{self.path} is write-protected", remedy="Fix its permissions, or open it with readonly=True."
            )
        db = self._connect_readonly() if self.readonly else self._dial("mode=rwc")
        try:
            if condition == "suspect":
                check_pages(self.path, db)
            self._adopt(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check_place(self) -> None:
        if self.readonly:
            raise StoreError(f"there is no ledger at {self.path}", remedy="Check the path; readonly creates nothing.")
        if not self.path.parent.is_dir():
            raise StoreNotWritable(
                f"the folder {self.path.parent} does not exist", remedy=f"mkdir -p {self.path.parent}"
            )

    def _adopt(self, db: sqlite3.Connection) -> None:
        """Make sure that ``db`` is a ledger of a version we can use, bringing it up to date where we may write."""
        with translated(self.path):
            ours = self._ours(db)
            if self.readonly:
                if not ours or migrations.version_of(db) < migrations.latest():
                    raise StoreError(
                        f"{self.path} has no ledger of the present format in it",
                        remedy="Open it once without readonly=True, which brings it up to date.",
                    )
                return
            self._use_log(db)
            db.execute("PRAGMA synchronous = FULL")
            if not ours or migrations.version_of(db) < migrations.latest():
                db.execute("BEGIN IMMEDIATE")
                migrations.migrate(db)
                db.execute("COMMIT")

    def _ours(self, db: sqlite3.Connection) -> bool:
        (mark,) = db.execute("PRAGMA application_id").fetchone()
        if mark == migrations.APPLICATION_ID:
            return True
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if mark or tables:
            raise StoreDamaged(
                f"{self.path} is an SQLite file of another program, not a ledger",
                remedy="Choose another path; the file was not touched.",
            )
        return False  # created a moment ago: by us, or by a process that was killed before its first commit

    def _use_log(self, db: sqlite3.Connection) -> None:
        # Switching to the log does not wait for locks by itself, and two processes may create one file at a time.
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _connect_readonly(self) -> sqlite3.Connection:
        try:
            db = self._dial("mode=ro")
            with translated(self.path):
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return db
        except StoreNotWritable:
            # Reading a log needs a shared file beside it, which a read-only folder refuses. Without a log the file
            # alone is the ledger.
            if wal(self.path).exists() and wal(self.path).stat().st_size:
                raise
            return self._dial("mode=ro&immutable=1")

    def _dial(self, mode: str) -> sqlite3.Connection:
        with translated(self.path):
            return sqlite3.connect(
                f"{self.path.absolute().as_uri()}?{mode}",
                uri=True,
                timeout=self._busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )

    def _event(self, row: tuple[Any, ...]) -> Event:
        seq, event_id, kind, edit_id, content, replaces, author, reason, at = row
        try:
            row_of_edit = json.loads(content)
            edit = trusted(row_of_edit, edit_id) or Edit.from_dict(row_of_edit)
            when = datetime.fromisoformat(at)
        except (InvalidEdit, ValueError, TypeError, AttributeError) as error:
            raise self._unreadable(seq, str(error)) from error
        if edit.id != edit_id or kind not in EVENT_KINDS:
            raise self._unreadable(seq, "its content does not match its id")
        return Event(
            kind,
            edit,
            replaces,
            author,
            reason,
            when,
            event_id,
            seq,
        )

    def _unreadable(self, seq: object, why: str) -> StoreDamaged:
        return StoreDamaged(
            f"{self.path}: event {seq} cannot be read: {why}", remedy="Restore the file from a backup or an export."
        )


def _row(event: Event, seq: int) -> tuple[Any, ...]:
    content = json.dumps(event.edit.to_dict(), ensure_ascii=False, separators=(",", ":"))
    return (
        seq,
        event.id,
        event.kind,
        event.edit.id,
        content,
        event.replaces,
        event.author,
        event.reason,
        event.when.isoformat(),
    )
