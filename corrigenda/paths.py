"""Files and folders: where what may be rebuilt is kept, how files and their lines are read, what power cuts leave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from corrigenda.errors import DatasetError


def cache_dir() -> Path:
    """Return ``$CORRIGENDA_CACHE``, else ``$XDG_CACHE_HOME/corrigenda``, else ``~/.cache/corrigenda``.

    The folder is not created here; who writes creates it.
    """
    if explicit := os.environ.get("CORRIGENDA_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "corrigenda"


def read_text(path: Path) -> str:
    """Return the text of a file, UTF-8.

    Raises:
        DatasetError: Not readable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a JSON Lines text with their numbers, from 1; blank ones are left out."""
    # splitlines() would also split at U+2028 and its kin, which JSON allows inside a string.
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def sync(path: Path) -> None:
    """Put a file's bytes, or the names in a folder, on disk: after a power cut they are there.

    Raises:
        OSError: The disk refuses.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
