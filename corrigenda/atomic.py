"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from corrigenda.paths import sync

_ABANDONED_AFTER = 3600.0  # seconds; nobody writes one file for longer


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yield an empty file to write that takes the place of ``path`` when the block ends, and is dropped if it raises.

    Readers see the old file or the new one, and after a power cut too. What killed processes left behind is removed.
    The folder must be there.

    Raises:
        OSError: The folder or the disk refuses; ``path`` is as it was.
    """
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
