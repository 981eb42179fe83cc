"""Files and folders that appear whole or not at all, and are still there after a power cut."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corrigenda.atomic import replacing
from corrigenda.errors import InvalidRequest
from corrigenda.paths import sync

_CHUNK = 1 << 20


def write_json(path: Path, value: Any) -> None:
    """Put ``value`` in the place of ``path``, durably."""
    data = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True).encode() + b"\n"
    with replacing(path) as file:
        file.write(data)
    sync(path.parent)


def read_json(path: Path) -> Any:
    """Return what :func:`write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def publish_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make ``folder`` with what ``fill`` writes into it. Everything is on disk before the folder gets its name.

    Raises:
        InvalidRequest: It exists; names are never used twice.
    """
    if folder.exists():
        raise InvalidRequest(f"{folder} exists", remedy="Names are immutable; promote under a new one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a killed attempt
    draft.mkdir()
    try:
        fill(draft)
        for item in sorted(draft.rglob("*"), reverse=True):
            sync(item)
        sync(draft)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync(folder.parent)


def file_digests(folder: Path, *, without: str = "") -> dict[str, dict[str, Any]]:
    """Return sha256 and size of every file below ``folder`` but the one named ``without``, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != without:
            found[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return found


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
