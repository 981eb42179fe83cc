"""Where corrigenda keeps what it may delete and rebuild: one cache folder per user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``$CORRIGENDA_CACHE``, else ``$XDG_CACHE_HOME/corrigenda``, else ``~/.cache/corrigenda``.

    The folder is not created here; who writes creates it.
    """
    if explicit := os.environ.get("CORRIGENDA_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "corrigenda"
