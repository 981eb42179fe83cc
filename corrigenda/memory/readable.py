"""ReadableMemory: what can be asked of a memory. What is live, what happened, and what a text may be about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import Edit, EditId, normal_form
from corrigenda.errors import InvalidRequest, UnknownEdit
from corrigenda.memory.encoder import Encoder
from corrigenda.memory.ledger import Event, State, replay
from corrigenda.memory.mentions import Mention, Names
from corrigenda.memory.replica import Replica

Vectors = NDArray[np.float32]

_RANKED = 0.01  # of the edits; rather than to rank more for a search, each is asked whether it holds


@dataclass(frozen=True, slots=True)
class Hit:
    """A live edit found by :meth:`ReadableMemory.search`; ``similarity`` is a cosine, −1…1, higher is more similar."""

    edit: Edit
    similarity: float


class ReadableMemory:
    """The edits of a ledger, looked up by id, by time, by meaning and by name. Nothing here changes them.

    Args:
        replica: This process's copy of the ledger.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    @property
    def replica(self) -> Replica:
        """The copy of the ledger in this process: for those that look after a memory, not for those that use it."""
        return self._replica

    # What is there

    @property
    def version(self) -> int:
        """Sequence number of the last event seen; 0 for an empty ledger."""
        return self._replica.state.seq

    @property
    def notices(self) -> tuple[str, ...]:
        """What went otherwise than planned, an index rebuilt for instance; the latest 20."""
        return tuple(self._replica.notices)

    @property
    def stale_for(self) -> float:
        """Seconds since this copy of the ledger is known to have been in step; 0.0 where nothing keeps it from that."""
        return 0.0

    @property
    def encoder(self) -> Encoder:
        """The encoder; loaded now if it was not."""
        return self._replica.encoder

    def __len__(self) -> int:
        """Count the live edits of all namespaces, whenever they hold."""
        return len(self._replica.state.live)

    def namespaces(self) -> tuple[str, ...]:
        """Return the namespaces that have live edits, sorted."""
        with self._replica.lock:
            return self._replica.state.namespaces()

    def live(self, namespace: str = "default", *, at: datetime | None = None) -> tuple[Edit, ...]:
        """Return the live edits of ``namespace`` that hold ``at`` that time (now, by default), oldest first."""
        with self._replica.lock:
            edits = self._replica.state.namespace(normal_form(namespace)).values()
            moment = _moment(at)
            return tuple(edit for edit in edits if edit.validity.covers(moment))

    def live_whenever(self, namespace: str | None = None) -> tuple[Edit, ...]:
        """Return the live edits of ``namespace`` (all, by default) whenever they hold, oldest first."""
        with self._replica.lock:
            state = self._replica.state
            return tuple((state.live if namespace is None else state.namespace(normal_form(namespace))).values())

    def is_live(self, edit_id: str, *, at: datetime | None = None) -> bool:
        """Tell whether ``edit_id`` (in full) is live and holds ``at`` that time, now by default."""
        with self._replica.lock:
            edit = self._replica.state.live.get(EditId(edit_id))
            return edit is not None and edit.validity.covers(_moment(at))

    def get(self, edit_id: str) -> Edit:
        """Return the edit, live or not, of that id or unique beginning of one (4 characters and more).

        Raises:
            UnknownEdit: None or several.
        """
        with self._replica.lock:
            return self._replica.get(edit_id)

    def history(self, edit_id: str) -> tuple[Event, ...]:
        """Return the events about the edit, and about all that it was amended from or into, in order.

        Raises:
            UnknownEdit: See :meth:`get`.
        """
        with self._replica.lock:
            ids = self._replica.state.lineage(self.get(edit_id).id)
        return tuple(self._replica.store.read(about=ids))

    def events(self, *, after: int = 0, until: int | None = None) -> tuple[Event, ...]:
        """Return the events of all namespaces with ``after < seq <= until``, in order; to the end by default."""
        return tuple(self._replica.store.read(after, until=until))

    def state(self, version: int, namespace: str = "default") -> tuple[Edit, ...]:
        """Return what was live in ``namespace`` right after event ``version``, whenever it holds; 0 is the beginning.

        Raises:
            InvalidRequest: The ledger never had that version.
        """
        return tuple(self.state_after(version).namespace(normal_form(namespace)).values())

    def state_after(self, version: int) -> State:
        """Return the state right after event ``version``; 0 is the beginning. Raises as :meth:`state` does."""
        if not 0 <= version <= self.version:
            raise InvalidRequest(f"there is no version {version}", remedy=f"Versions: 0 to {self.version}.")
        return replay(self._replica.store.read(until=version))

    def refresh(self) -> bool:
        """Take in what other processes wrote; return whether there was anything. Costs microseconds when not."""
        return self._replica.refresh()

    def consequences(self, edit_id: str) -> tuple[Edit, ...]:
        """Return the live edits that follow from the edit ``edit_id`` (in full), oldest first."""
        with self._replica.lock:
            return self._replica.state.derived(edit_id)

    # Finding in it

    def search(
        self, vectors: Vectors, k: int, namespace: str = "default", *, at: datetime | None = None
    ) -> list[list[Hit]]:
        """Return for each of ``vectors`` up to ``k`` live edits of ``namespace``, most similar first.

        Args:
            vectors: (n, d) float32 unit rows, from this memory's encoder.
            k: 1 and more.
            namespace: Nothing outside it is ever returned.
            at: Only edits that hold at this time, now by default.

        Raises:
            InvalidRequest: A wrong shape, NaN or infinity, or k below 1.
        """
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        if k < 1:
            raise InvalidRequest(f"k={k} is below 1")
        moment, namespace = _moment(at), normal_form(namespace)
        with self._replica.searching:
            with self._replica.lock:
                index = self._replica.index()
            if queries.ndim != 2 or queries.shape[1] != index.dimension or not np.isfinite(queries).all():
                raise InvalidRequest(f"vectors must be finite, (n, {index.dimension}), not {queries.shape}")
            wanted, among = k, None
            while True:
                found = index.search(namespace, queries, wanted, among)
                with self._replica.lock:
                    edits = self._replica.state.namespace(namespace)
                    # What the index holds and is not live, left behind by an error perhaps, must not end every search.
                    hits = [
                        [Hit(edits[i], s) for i, s in row if i in edits and edits[i].validity.covers(moment)][:k]
                        for row in found
                    ]
                    done = [len(row) == k or not pairs for row, pairs in zip(hits, found, strict=True)]
                    if among is not None or wanted >= len(edits) or all(done):  # nothing at all: the server is away
                        return hits
                    wanted *= 4  # edits that do not hold at that time took some of the places
                    if wanted > _RANKED * len(edits):
                        wanted, among = k, [i for i, edit in edits.items() if edit.validity.covers(moment)]

    def mentions(self, text: str, namespace: str = "default", *, at: datetime | None = None) -> list[Mention]:
        """Return which subjects and aliases of live edits of ``namespace`` occur in ``text``, longest first."""
        moment, namespace = _moment(at), normal_form(namespace)
        with self._replica.lock:
            edits = self._replica.state.namespace(namespace)
            names = self._replica.names.get(namespace)
            return names.find(text, lambda i: edits[i].validity.covers(moment)) if names is not None else []

    def names(self, namespace: str = "default") -> Names:
        """Return the table of names behind :meth:`mentions`, to look up; do not change it."""
        with self._replica.lock:
            return self._replica.names.setdefault(normal_form(namespace), Names())

    def frame_vector(self, edit_id: str) -> Vectors:
        """Return the frame vector of a live edit, (d,). Raises :class:`UnknownEdit`."""
        return self.frame_vectors([edit_id])[0]  # type: ignore[no-any-return]

    def frame_vectors(self, edit_ids: Sequence[str]) -> Vectors:
        """Return the frame vectors of live edits (ids in full), (n, d), in order. Raises :class:`UnknownEdit`."""
        spaces: dict[str, list[int]] = {}
        with self._replica.searching:
            with self._replica.lock:
                index = self._replica.index(edit_ids)
                for place, edit_id in enumerate(edit_ids):
                    self._replica.require_live(edit_id)
                    spaces.setdefault(self._replica.state.live[EditId(edit_id)].namespace, []).append(place)
            rows = np.empty((len(edit_ids), index.dimension), dtype=np.float32)
            for namespace, places in spaces.items():
                try:
                    rows[places] = index.frames(namespace, [EditId(edit_ids[place]) for place in places])
                except KeyError as error:  # retracted meanwhile
                    raise UnknownEdit(f"there is no edit {error.args[0]!r} any more") from error
        return rows


def _moment(at: datetime | None) -> datetime:
    if at is None:
        return datetime.now(UTC)
    if at.tzinfo is None:
        raise InvalidRequest(f"at={at.isoformat()} has no time zone", remedy="Pass datetime(..., tzinfo=UTC).")
    return at
