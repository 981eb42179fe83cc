"""Files and folders: where what may be deleted and rebuilt is kept, and how a file that a user names is read."""

from __future__ import annotations

import os
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
