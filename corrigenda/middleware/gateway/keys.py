"""API keys: who may do what, in which namespaces. Kept as hashes, in a file beside the memory or in Redis.

A key is ``ck_<id>_<secret>``: the id finds the row, the secret is 256 random bits and is shown once, when the key is
made. Guessing it is hopeless, so a plain SHA-256 is enough; slow hashes are for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from corrigenda.errors import InvalidRequest, StoreDamaged, StoreNotWritable, UnknownName

Role = Literal["reader", "editor", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what the one before it may, and more: look; change edits; manage keys."""
ALL = "*"
"""Stands for every namespace."""

_KEY = re.compile(r"ck_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, namespaces TEXT NOT NULL,
    digest BLOB NOT NULL, created TEXT NOT NULL, revoked TEXT
)
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the gateway knows it: everything but the secret.

    Attributes:
        id: Public part.
        name: Whose it is; the author of the edits made with it.
        role: What it may do.
        namespaces: Where; ``*`` is everywhere.
        created: When, UTC, ISO 8601.
        revoked: When it ceased to work; ``None`` while it works.
    """

    id: str
    name: str
    role: Role
    namespaces: tuple[str, ...]
    created: str
    revoked: str | None = None

    def may(self, role: Role, namespace: str | None = None) -> bool:
        """Tell whether the key has at least ``role``, in ``namespace`` (everywhere, for ``None``)."""
        if ROLES.index(self.role) < ROLES.index(role) or self.revoked is not None:
            return False
        return ALL in self.namespaces or (namespace is not None and namespace in self.namespaces)

    def to_dict(self) -> dict[str, Any]:
        """Return the key as a JSON-ready dict."""
        row: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "role": self.role,
            "namespaces": list(self.namespaces),
            "created": self.created,
        }
        return row | ({"revoked": self.revoked} if self.revoked else {})


class KeyRows(Protocol):
    """Where keys are kept. Safe to share between threads."""

    def put(self, key: Key, digest: bytes) -> None:
        """Keep a key, or put it in the place of the one of the same id."""
        ...

    def get(self, key_id: str) -> tuple[Key, bytes] | None:
        """Return a key and the digest of its secret, revoked ones too. Asked on event loops: it may not wait."""
        ...

    def all(self) -> list[tuple[Key, bytes]]:
        """Return every key, oldest first."""
        ...

    def close(self) -> None:
        """Let go of the place."""
        ...


class Keys:
    """The keys of a gateway. Safe to share between threads; other processes' changes count at once.

    Args:
        rows: An SQLite file, made if missing, readable for its owner only; or another place.

    Raises:
        StoreNotWritable: The file cannot be made.
        StoreDamaged: It is no such file.
    """

    def __init__(self, rows: str | Path | KeyRows) -> None:
        self._rows: KeyRows = _File(Path(rows)) if isinstance(rows, str | Path) else rows

    @classmethod
    def beside(cls, memory: str | Path) -> Keys:
        """Open the keys that belong to the memory file ``memory``."""
        return cls(f"{memory}.keys")

    def create(self, name: str, role: str, namespaces: Sequence[str]) -> tuple[Key, str]:
        """Make a key; return it, and the text to hand over, which is not kept.

        Raises:
            UnknownName: No such role.
            InvalidRequest: No name, or no namespace.
        """
        if role not in ROLES:
            raise UnknownName.among("role", str(role), ROLES)
        if not 0 < len(name.strip()) <= 200 or not name.isprintable():
            raise InvalidRequest("a key needs a name of 1 to 200 characters", remedy="Name the person or program.")
        spaces = tuple(dict.fromkeys(namespaces))
        if not spaces or not all(0 < len(space) <= 200 for space in spaces):
            raise InvalidRequest("a key needs at least one namespace", remedy=f"{ALL!r} stands for all of them.")
        secret = secrets.token_urlsafe(32)
        key = Key(secrets.token_hex(6), name.strip(), role, spaces, _now())
        self._rows.put(key, _digest(secret))
        return key, f"ck_{key.id}_{secret}"

    def find(self, text: str) -> Key | None:
        """Return the key that ``text`` is; ``None`` for a wrong, revoked or malformed one."""
        match = _KEY.fullmatch(text)
        row = self._rows.get(match[1]) if match is not None else None
        if match is None or row is None or not hmac.compare_digest(row[1], _digest(match[2])):
            return None
        return None if row[0].revoked else row[0]

    def all(self) -> list[Key]:
        """Return every key, revoked ones too, oldest first."""
        return [key for key, _ in self._rows.all()]

    def revoke(self, key_id: str) -> Key:
        """Make a key stop working; return it. Raises :class:`UnknownName`."""
        row = self._rows.get(key_id)
        if row is None:
            raise UnknownName(f"there is no key {key_id!r}", remedy="List the keys to see their ids.")
        key = row[0] if row[0].revoked else replace(row[0], revoked=_now())
        self._rows.put(key, row[1])
        return key

    def close(self) -> None:
        """Let go of the place."""
        self._rows.close()


class _File:
    """Keys in an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_SCHEMA)
        except OSError as error:
            raise StoreNotWritable(f"{path}: {error.strerror}", remedy="Check folder and permissions.") from error
        except sqlite3.DatabaseError as error:
            raise StoreDamaged(f"{path} is not a file of keys: {error}", remedy="Move it away.") from error

    def put(self, key: Key, digest: bytes) -> None:
        values = (key.id, key.name, key.role, json.dumps(key.namespaces), digest, key.created, key.revoked)
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def get(self, key_id: str) -> tuple[Key, bytes] | None:
        with self._lock:
            row = self._db.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (key_id,)).fetchone()
        return _key(row) if row is not None else None

    def all(self) -> list[tuple[Key, bytes]]:
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created, id").fetchall()
        return [_key(row) for row in rows]

    def close(self) -> None:
        with self._lock:
            self._db.close()


_COLUMNS = "id, name, role, namespaces, created, revoked, digest"


def _key(row: Sequence[Any]) -> tuple[Key, bytes]:
    return Key(row[0], row[1], row[2], tuple(json.loads(row[3])), row[4], row[5]), row[6]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
