"""The shape of a ledger file, as a list of steps that is only ever added to.

A file records in ``user_version`` how many steps it has taken, and in ``application_id`` that it is ours.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from corrigenda.errors import StoreTooNew

APPLICATION_ID = 0x436F7267  # "Corg"

Migration = Callable[[sqlite3.Connection], None]
_MIGRATIONS: list[Migration] = []


def migration(step: Migration) -> Migration:
    """Register ``step`` as the next one. Never edit or reorder a step that was released: add another."""
    _MIGRATIONS.append(step)
    return step


def latest() -> int:
    """Return the version that this code writes."""
    return len(_MIGRATIONS)


def version_of(db: sqlite3.Connection) -> int:
    """Return how many steps the open file ``db`` has taken.

    Raises:
        StoreTooNew: More than this code knows.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > latest():
        raise StoreTooNew(
            f"the ledger has format {version}; this corrigenda reads up to format {latest()}",
            remedy="Upgrade: pip install --upgrade corrigenda. Nothing in the file was touched.",
        )
    return version


def migrate(db: sqlite3.Connection) -> None:
    """Take the steps still missing, inside the caller's transaction: all or none."""
    for number in range(version_of(db), latest()):
        _MIGRATIONS[number](db)
        db.execute(f"PRAGMA user_version = {number + 1}")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@migration
def m001_events(db: sqlite3.Connection) -> None:
    """Create the ledger itself; the triggers hold the promise that it only grows."""
    db.execute(
        """CREATE TABLE events (
            seq      INTEGER PRIMARY KEY,
            id       TEXT NOT NULL UNIQUE,
            kind     TEXT NOT NULL,
            edit_id  TEXT NOT NULL,
            edit     TEXT NOT NULL,
            replaces TEXT,
            author   TEXT,
            reason   TEXT,
            at       TEXT NOT NULL
        ) STRICT"""
    )
    db.execute("CREATE INDEX events_edit ON events (edit_id)")
    db.execute("CREATE INDEX events_replaces ON events (replaces) WHERE replaces IS NOT NULL")
    for verb in ("UPDATE", "DELETE"):
        db.execute(
            f"""CREATE TRIGGER events_refuse_{verb.lower()} BEFORE {verb} ON events
                BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"""
        )


@migration
def m002_vectors(db: sqlite3.Connection) -> None:
    """Create the cache of encoded texts, so that an index is rebuilt without encoding anything twice."""
    db.execute(
        """CREATE TABLE vectors (
            fingerprint TEXT NOT NULL,
            text_hash   BLOB NOT NULL,
            data        BLOB NOT NULL,
            UNIQUE (fingerprint, text_hash)
        ) STRICT"""
    )
