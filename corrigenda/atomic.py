"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from corrigenda.paths import sync

SQLITE = b"SQLite format 3\x00"
"""How every SQLite file begins."""
_ABANDONED_AFTER = 3600.0  # seconds; nobody writes one file for longer
_LOGS = ("-wal", "-shm", "-journal")  # beside a database, SQLite's own


def is_database(path: Path) -> bool:
    """Tell whether ``path`` is an SQLite file. Raises OSError where it cannot be read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def refuse_database(path: Path, *, beside: Sequence[str] = ()) -> None:
    """Refuse ``path`` as a place to write to where a ledger lies, or anything else that is kept in SQLite.

    Nobody means to lose one: whoever names it has mistaken one file for another.

    Args:
        path: It need not exist.
        beside: Endings of further files that belong to a database; those of SQLite's own logs always count.

    Raises:
        FileExistsError: It is a database, or belongs to one.
        OSError: What lies there cannot be read.
    """
    if is_database(path):
        raise FileExistsError(errno.EEXIST, "it is a memory, or another database, and is not written over", str(path))
    for ending in (*_LOGS, *beside):
        name = path.name.removesuffix(ending)
        if name not in ("", path.name) and is_database(path.with_name(name)):
            raise FileExistsError(errno.EEXIST, f"it belongs to {name}, and is not written over", str(path))


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yield an empty file to write that takes the place of ``path`` when the block ends, and is dropped if it raises.

    Readers see the old file or the new one, and after a power cut too. What killed processes left behind is removed.
    The folder must be there. No database is ever replaced, see :func:`refuse_database`.

    Raises:
        OSError: The folder or the disk refuses; ``path`` is as it was.
    """
    refuse_database(path)
    _sweep(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    # Not tempfile's mkstemp: that keeps other users out, whom what lies beside it may well let in.
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield part
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; the same as :func:`draft` otherwise."""
    with draft(path) as part, part.open("wb") as file:
        yield file


def _sweep(path: Path) -> None:
    with suppress(OSError):  # somebody else swept, or may not: no reason not to write
        for part in path.parent.glob(f"{path.name.replace('[', '[[]')}.*.part"):
            if time.time() - part.stat().st_mtime > _ABANDONED_AFTER:
                part.unlink()
