"""ServerIndex: search by meaning in Redis itself (vector sets, Redis 8), for memories larger than a process.

The vectors of each namespace and encoder lie in a set of their own on the server. A writer puts a vector there before
it appends the edit, so that what is live can always be found; what is in a set and not live is passed over, and taken
out in quiet moments. The sets search approximately and keep bytes; what they find is compared once more with the
vectors as they were encoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from corrigenda.edit import Edit, EditId
from corrigenda.errors import StoreUnavailable
from corrigenda.memory.index import VectorIndex, Vectors
from corrigenda.memory.ledger import Event, State
from corrigenda.memory.redis_sets import VectorSets
from corrigenda.memory.texts import frame_text, index_text
from corrigenda.memory.vectors import Encoded, encode_edits, text_hash

if TYPE_CHECKING:
    from corrigenda.memory.encoder import Encoder
    from corrigenda.memory.redis import RedisStore

log = logging.getLogger(__name__)

_CHUNK = 256
_SPARE = 8  # found beyond what is wanted: some are not live, and bytes rank roughly
_MOST = 10_000


class ServerIndex(VectorIndex):
    """The partitions of a ledger as vector sets on its server. It holds no vectors itself.

    Args:
        store: The ledger.
        encoder: Whose vectors.
        state: What is live; looked at on every search.
    """

    def __init__(self, store: RedisStore, encoder: Encoder, state: State) -> None:
        super().__init__(encoder.dimension)
        self._store = store
        self._sets = VectorSets(store, encoder.fingerprint)
        self._encoder = encoder
        self._state = state

    def add(self, namespace: str, ids: Sequence[EditId], vectors: Vectors, frames: Vectors) -> None:
        """Put vectors, (n, d) unit rows, into the set of ``namespace``; frames are found through the store."""
        self._sets.put(namespace, dict(zip(ids, vectors, strict=True)))

    def remove(self, namespace: str, ids: Sequence[EditId]) -> None:
        """Take vectors out of the set of ``namespace``."""
        self._sets.drop(namespace, ids)

    def search(
        self, namespace: str, queries: Vectors, k: int, among: Collection[EditId] | None = None
    ) -> list[list[tuple[EditId, float]]]:
        """Return for each query up to ``k`` live edits of ``among`` with their cosine; none with the server away."""
        live = self._state.namespace(namespace)
        if not live or self._store.link.resting:
            return [[] for _ in queries]
        try:
            chosen = None if among is None else set(among)
            most = min(k, len(live if chosen is None else chosen))
            return [self._search(namespace, query, most, chosen) for query in queries]
        except StoreUnavailable as error:
            log.warning("nothing is found by meaning while the server is away: %s", error.message)
            return [[] for _ in queries]

    def frames(self, namespace: str, ids: Sequence[EditId]) -> Vectors:
        """Return the frame vectors of ``ids``, (n, d), from the store, or encoded now.

        Raises:
            KeyError: An id is not live in this namespace.
        """
        edits = [self._state.namespace(namespace)[edit_id] for edit_id in ids]
        return self._vectors([frame_text(edit) for edit in edits])

    def announce(self, edits: Sequence[Edit], encoded: Encoded | None) -> None:
        """Make ``edits`` findable, before they are live."""
        for start in range(0, len(edits), _CHUNK):
            part = edits[start : start + _CHUNK]
            rows = encoded.rows(start, start + _CHUNK) if encoded is not None else None
            self._put(part, rows or self._encoded(part))

    def sync(self, events: Callable[[int], Iterable[Event]]) -> None:
        """Put in what lacks, take out what is over, since the last time anybody did; ``events`` reads from a place on.

        Raises:
            StoreUnavailable: The server is away; nothing is lost, the next time does it.
        """
        if self._store.readonly:
            return
        seq, event = self._sets.complete_at
        goal = (self._state.seq, self._state.event)
        if goal[0] <= seq and self._store.has(seq, event):
            return
        live = self._state.live
        if seq and self._store.has(seq, event):
            since = list(events(seq))
            touched = {one.edit.id: one.edit for one in since}
            touched |= {one.replaces: self._state.known[one.replaces] for one in since if one.replaces is not None}
        else:
            touched = dict(live)  # a new ledger or one that lost its end: everything anew
        self.announce([live[edit_id] for edit_id in touched if edit_id in live], None)
        for edit_id, edit in touched.items():
            if edit_id not in live:
                self.remove(edit.namespace, [edit_id])
        self._sets.complete_at = goal

    def _encoded(self, edits: Sequence[Edit]) -> Encoded:
        encoded = encode_edits(edits, self._encoder, self._store)
        self._store.keep_vectors(self._encoder.fingerprint, encoded.fresh)
        return encoded

    def _put(self, edits: Sequence[Edit], encoded: Encoded) -> None:
        for namespace in dict.fromkeys(edit.namespace for edit in edits):
            places = [place for place, edit in enumerate(edits) if edit.namespace == namespace]
            ids = [edits[place].id for place in places]
            self.add(namespace, ids, encoded.index[places], encoded.frames[places])

    def _search(self, namespace: str, query: Vectors, k: int, among: set[EditId] | None) -> list[tuple[EditId, float]]:
        for wanted in _growing(k + _SPARE):
            live = self._state.namespace(namespace)
            found = self._sets.nearest(namespace, query, wanted)
            edits = [edit for edit_id in found if (edit := live.get(EditId(edit_id))) is not None]
            if among is not None:
                edits = [edit for edit in edits if edit.id in among]
            if len(edits) >= k or len(found) < wanted:
                break
        if not edits:
            return []
        exact = self._vectors([index_text(edit) for edit in edits]) @ query
        order = np.argsort(-exact, kind="stable")[:k]
        return [(edits[place].id, float(exact[place])) for place in order.tolist()]

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        keys = [text_hash(text) for text in texts]
        known = self._store.vectors(self._encoder.fingerprint, list(dict.fromkeys(keys)))
        rows = np.empty((len(texts), self.dimension), dtype=np.float32)
        for place, (text, key) in enumerate(zip(texts, keys, strict=True)):
            data = known.get(key)
            usable = data is not None and len(data) == 4 * self.dimension
            rows[place] = np.frombuffer(data, np.float32) if usable and data else self._encoder.encode([text])[0]
        return rows


def _growing(wanted: int) -> Iterator[int]:
    while wanted < _MOST:
        yield wanted
        wanted *= 4
    yield _MOST
