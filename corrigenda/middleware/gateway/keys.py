"""API keys: who may do what, in which namespaces. Kept as hashes, in a file of their own beside the memory.

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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

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


class Keys:
    """The keys in a file. Safe to share between threads; other processes' changes count at once.

    Args:
        path: An SQLite file, made if missing, readable for its owner only.

    Raises:
        StoreNotWritable: The file cannot be made.
        StoreDamaged: It is no such file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(_SCHEMA)
        except OSError as error:
            raise StoreNotWritable(f"{self.path}: {error.strerror}", remedy="Check folder and permissions.") from error
        except sqlite3.DatabaseError as error:
            raise StoreDamaged(f"{self.path} is not a file of keys: {error}", remedy="Move it away.") from error

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
        with self._lock:
            self._db.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (key.id, key.name, key.role, json.dumps(key.namespaces), _digest(secret), key.created),
            )
        return key, f"ck_{key.id}_{secret}"

    def find(self, text: str) -> Key | None:
        """Return the key that ``text`` is; ``None`` for a wrong, revoked or malformed one."""
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        with self._lock:
            row = self._db.execute(f"SELECT {_COLUMNS}, digest FROM keys WHERE id = ?", (match[1],)).fetchone()
        if row is None or not hmac.compare_digest(row[-1], _digest(match[2])):
            return None
        key = _key(row)
        return None if key.revoked else key

    def all(self) -> list[Key]:
        """Return every key, revoked ones too, oldest first."""
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created, id").fetchall()
        return [_key(row) for row in rows]

    def revoke(self, key_id: str) -> Key:
        """Make a key stop working; return it. Raises :class:`UnknownName`."""
        with self._lock:
            self._db.execute("UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?", (_now(), key_id))
        for key in self.all():
            if key.id == key_id:
                return key
        raise UnknownName(f"there is no key {key_id!r}", remedy="List the keys to see their ids.")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()


_COLUMNS = "id, name, role, namespaces, created, revoked"


def _key(row: Sequence[Any]) -> Key:
    return Key(row[0], row[1], row[2], tuple(json.loads(row[3])), row[4], row[5])


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
