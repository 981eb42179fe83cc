"""The ledger as a file: is it whole, is it ours, and what SQLite's complaints mean to a caller."""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from corrigenda.atomic import SQLITE
from corrigenda.errors import StoreBusy, StoreDamaged, StoreError, StoreNotWritable

_HEADER_BYTES = 100
_RESTORE = "Restore it from a backup or an export; the file was not touched."
BESIDE = (".index", ".state", ".scope.json", ".hits", ".keys")
"""Endings of what is kept beside a ledger under its name: index, state, thresholds, counts and keys."""
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


def wal(path: Path) -> Path:
    """Return the write-ahead log that SQLite keeps beside ``path``."""
    return path.with_name(path.name + "-wal")


def inspect(path: Path) -> Literal["new", "whole", "suspect"]:
    """Look at the header of ``path`` and at its length, without opening it as a database.

    ``suspect`` means: shorter than its header says, while a write-ahead log may still hold the rest. Only a full
    check can tell then.

    Raises:
        StoreDamaged: Not an SQLite file, or cut off.
        StoreError: ``path`` is a folder.
        StoreNotWritable: It cannot even be read.
    """
    logged = _size(wal(path)) > 0
    try:
        if path.is_dir():
            raise StoreError(f"{path} is a folder, not a ledger file", remedy=f"Name a file: {path / 'facts.db'}")
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return "new"
    except OSError as error:
        raise StoreNotWritable(f"{path} cannot be read: {error.strerror}", remedy="Check its permissions.") from error
    if size == 0:
        # Killed right after creating it, or emptied by somebody? SQLite would take it for new, and delete the log.
        if logged or path.with_name(path.name + ".index").exists():
            raise StoreDamaged(f"{path} is empty, but it was not always", remedy=_RESTORE)
        return "new"
    if len(header) < _HEADER_BYTES or not header.startswith(SQLITE):
        what = f"is cut off after {size} bytes" if SQLITE.startswith(header[:16]) else "is not a ledger"
        raise StoreDamaged(f"{path} {what}", remedy=_RESTORE)
    if size >= _promised(header):
        return "whole"
    if logged:
        return "suspect"
    raise StoreDamaged(f"{path} is cut off: {size:,} of {_promised(header):,} bytes are left", remedy=_RESTORE)


def _promised(header: bytes) -> int:
    """Return the file length that an SQLite header states, in bytes; 0 where the statement is void."""
    (page_size,) = struct.unpack_from(">H", header, 16)
    changes, pages = struct.unpack_from(">II", header, 24)
    (stated_at,) = struct.unpack_from(">I", header, 92)
    if changes != stated_at:  # written by an SQLite that did not keep the page count
        return 0
    return int(pages) * (65536 if page_size == 1 else int(page_size))


def check_pages(path: Path, db: sqlite3.Connection) -> None:
    """Read every page of ``db``.

    Raises:
        StoreDamaged: A page is missing or malformed.
    """
    with translated(path):
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreDamaged(f"{path} is damaged: {verdict}", remedy=_RESTORE)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about ``path`` into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _translate(path, error) from error


def _translate(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) or 0
    primary = code & 0xFF
    if code == sqlite3.SQLITE_IOERR_SHORT_READ or primary in _DAMAGED:
        return StoreDamaged(f"{path} is damaged: {error}", remedy=_RESTORE)
    if primary in _BUSY:
        return StoreBusy(
            f"another process holds the write lock of {path}",
            remedy="Try again; if it stays so, look for a process that hangs while it writes.",
        )
    if primary in _UNWRITABLE:
        return StoreNotWritable(
            f"{path} cannot be written: {error}",
            remedy="Free some disk space or fix the permissions, or open the memory with readonly=True. "
            "Nothing was written.",
        )
    return StoreError(f"{path}: {error}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
