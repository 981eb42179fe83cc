"""VectorSets: where a Redis server that can (version 8) searches by itself; one set a namespace and encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import EditId
from corrigenda.errors import StoreError, StoreUnavailable
from corrigenda.memory.redis_link import Client

if TYPE_CHECKING:
    from corrigenda.memory.redis import RedisStore

_BRIEFLY = 0.05  # seconds to repeat for: somebody waits for the answer


class VectorSets:
    """The vector sets of one ledger and encoder.

    Args:
        store: The ledger.
        fingerprint: Of the encoder.
    """

    def __init__(self, store: RedisStore, fingerprint: str) -> None:
        self._store = store
        self._link = store.link
        self._fingerprint = fingerprint

    def available(self) -> bool:
        """Tell whether the server has vector sets.

        Raises:
            StoreUnavailable: It does not answer.
        """
        try:
            self.nearest("", np.zeros(1, dtype=np.float32), 1)
        except StoreUnavailable:
            raise
        except StoreError:
            return False
        return True

    def put(self, namespace: str, rows: Mapping[EditId, NDArray[np.float32]]) -> None:
        """Put unit rows, (d,), into the set of a namespace."""
        key = self._key(namespace)

        def put(db: Client) -> None:
            pipe = db.pipeline(transaction=False)
            for edit_id, row in rows.items():
                pipe.execute_command("VADD", key, "FP32", row.tobytes(), edit_id)
            pipe.execute()

        self._link.call(put)

    def drop(self, namespace: str, ids: Sequence[EditId]) -> None:
        """Take rows out of the set of a namespace; those absent are passed over."""
        key = self._key(namespace)

        def drop(db: Client) -> None:
            pipe = db.pipeline(transaction=False)
            for edit_id in ids:
                pipe.execute_command("VREM", key, edit_id)
            pipe.execute()

        self._link.call(drop)

    def nearest(self, namespace: str, query: NDArray[np.float32], count: int) -> list[str]:
        """Return the ids of up to ``count`` rows of a namespace's set, most similar to ``query``, (d,), first."""
        arguments = ("VSIM", self._key(namespace), "FP32", query.tobytes(), "COUNT", count)
        found = self._link.call(lambda db: db.execute_command(*arguments), total=_BRIEFLY)
        return [edit_id.decode() for edit_id in found]

    @property
    def complete_at(self) -> tuple[int, str]:
        """Number and id of the event up to which the sets are complete; (0, "") for none."""
        mark = self._link.call(lambda db: db.hget(self._store.key("meta"), f"set:{self._fingerprint}"))
        seq, _, event = mark.decode().partition(" ") if mark is not None else ("0", "", "")
        return int(seq), event

    @complete_at.setter
    def complete_at(self, place: tuple[int, str]) -> None:
        mark = f"{place[0]} {place[1]}"
        self._link.call(lambda db: db.hset(self._store.key("meta"), f"set:{self._fingerprint}", mark))

    def _key(self, namespace: str) -> str:
        return self._store.key("set", self._fingerprint, namespace)
