"""Keys in Redis, beside the ledger that machines share: made or revoked anywhere, they count everywhere.

Keys are looked up on event loops, which may not wait for a server. So a copy of them all is kept here, and renewed by a
thread; a key that was revoked elsewhere works for a second more. When the server has been away for a minute nobody's
key is valid: a key that was revoked meanwhile would be.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from corrigenda.errors import StoreError, StoreUnavailable
from corrigenda.memory.redis_link import Link
from corrigenda.middleware.gateway.keys import Key

_EVERY = 1.0
_TRUSTED = 60.0
"""Seconds for which the copy is believed while the server is away."""


class SharedRows:
    """Keys in a hash of Redis; a :class:`~corrigenda.middleware.gateway.keys.KeyRows`.

    Args:
        url: Of the server, see :class:`~corrigenda.memory.redis_link.Link`.
        ledger: Whose keys.
        every: Seconds between renewals of the copy.

    Raises:
        StoreUnavailable: The server does not answer.
        StoreError: It answers, but refuses.
    """

    def __init__(self, url: str, ledger: str = "default", *, every: float = _EVERY) -> None:
        self._link = Link(url)
        self._name = f"corrigenda:{{{ledger}}}:keys"
        self._copy: Mapping[str, tuple[Key, bytes]] = {}
        self._renewed = 0.0
        self._closed = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._follow, args=(every,), name="keys", daemon=True)
        self._thread.start()

    def put(self, key: Key, digest: bytes) -> None:
        """Keep a key; it is on the server when this returns."""
        row = json.dumps({**key.to_dict(), "digest": digest.hex()})
        self._link.call(lambda db: db.hset(self._name, key.id, row))
        self._renew()

    def get(self, key_id: str) -> tuple[Key, bytes] | None:
        """Return a key of the copy; none of them once the copy is too old to be believed."""
        if time.monotonic() - self._renewed > _TRUSTED:
            return None
        return self._copy.get(key_id)

    def all(self) -> list[tuple[Key, bytes]]:
        """Return every key on the server, oldest first."""
        self._renew()
        return sorted(self._copy.values(), key=lambda row: (row[0].created, row[0].id))

    def close(self) -> None:
        """Let go of the server."""
        self._closed.set()
        self._thread.join(10)
        self._link.close()

    def _renew(self) -> None:
        rows: Mapping[bytes, bytes] = self._link.call(lambda db: db.hgetall(self._name))
        self._copy = {key.id: (key, digest) for key, digest in map(_read, rows.values())}
        self._renewed = time.monotonic()

    def _follow(self, every: float) -> None:
        while not self._closed.wait(every):
            try:
                self._renew()
            except StoreUnavailable:
                continue
            except StoreError:
                self._copy = {}  # the server answers and says no: so do we


def _read(text: bytes) -> tuple[Key, bytes]:
    row: dict[str, Any] = json.loads(text)
    digest = bytes.fromhex(row.pop("digest"))
    return Key(**{**row, "namespaces": tuple(row["namespaces"])}), digest
