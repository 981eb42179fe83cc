"""VectorIndex: inner-product search over live edits, one FAISS index a namespace, exact while it is small.

A namespace is a partition of its own, not a filter: a search cannot see what lies in another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import EditId
from corrigenda.memory import clustered
from corrigenda.memory.frames import FrameTable

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

EXACT_UP_TO = 50_000
"""Edits of one namespace up to which every vector is compared: 7 ms at 100,000, and right by construction."""
_MOST_DEAD = 1_000
_LAST_STEP = 256  # changes made while everybody waits
_PAGE = 4_096


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS use one thread in this thread for a block: with more, a busy machine answers twenty times slower."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class Partition:
    """The vectors of one namespace, by edit id. A slot is the number under which FAISS knows an edit.

    Search is exact up to :data:`EXACT_UP_TO` edits. Beyond, a thread builds lists (:mod:`corrigenda.memory.clustered`)
    beside the index in use, and changes over when they have caught up; nobody waits for it. Safe to share between
    threads.
    """

    def __init__(self, dimension: int) -> None:
        self.faiss: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self.slots: dict[EditId, int] = {}
        self.lock = threading.RLock()
        self._ids: list[EditId | None] = []
        self._free: list[int] = []
        self._dead: list[int] = []  # removed, but in the index yet: taking one out costs as much as taking out many
        self._frames = FrameTable(dimension)
        self._growth: Growth | None = None

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def clustered(self) -> bool:
        """Whether search is approximate."""
        return not isinstance(self.faiss, faiss.IndexIDMap2)

    @property
    def nbytes(self) -> int:
        """Bytes of vectors, lists and frames, without Python's own."""
        size: int = self.faiss.ntotal * (2 * self.faiss.d + 8 if self.clustered else 4 * self.faiss.d + 16)
        if self.clustered:
            size += 4 * self.faiss.d * self.faiss.nlist
        return size + self._frames.nbytes

    @classmethod
    def restore(cls, index: faiss.Index, ids: Sequence[str], frames: Vectors) -> Partition:
        """Build the partition that :meth:`dump` described.

        Raises:
            ValueError: The parts do not fit each other.
        """
        if not isinstance(index, faiss.IndexIDMap2):
            raise ValueError(f"the index is a {type(index).__name__}")
        if not (index.ntotal == len(ids) == len(frames) == len(set(ids))) or index.d != frames.shape[1]:
            raise ValueError("index, ids and frames differ in number or dimension")
        slots = faiss.vector_to_array(index.id_map)
        if not np.array_equal(np.sort(slots), np.arange(len(ids))):
            raise ValueError("the index numbers its vectors otherwise than 0, 1, 2…")
        partition = cls(index.d)
        partition.faiss = index
        partition._ids = [EditId(edit_id) for edit_id in ids]
        partition.slots = {EditId(edit_id): slot for slot, edit_id in enumerate(ids)}
        partition._frames.set(range(len(ids)), frames)
        partition._grow_if_due()
        return partition

    @classmethod
    def restore_lists(cls, index: Any, ids: Sequence[str], frames: FrameTable) -> Partition:
        """Build the partition that :meth:`dump_lists` described.

        Raises:
            ValueError: The parts do not fit each other.
        """
        present = clustered.numbers(index, len(ids))
        partition = cls(index.d)
        partition.faiss, partition._frames = index, frames
        partition._ids = [EditId(edit_id) or None for edit_id in ids]
        partition.slots = {EditId(edit_id): slot for slot, edit_id in enumerate(ids) if edit_id}
        named = np.array([bool(edit_id) for edit_id in ids], dtype=bool)
        if len(partition.slots) != named.sum() or (named & ~present).any():
            raise ValueError("index and ids differ")
        partition._dead = np.flatnonzero(present & ~named).tolist()
        partition._free = np.flatnonzero(~present).tolist()
        return partition

    def dump(self) -> tuple[faiss.IndexIDMap2, list[EditId], Vectors]:
        """Return index, ids and frames with the slots renumbered 0, 1, 2…, for :meth:`restore`; not of lists."""
        with self.lock:
            ids = list(self.slots)
            compact = faiss.IndexIDMap2(faiss.IndexFlatIP(self.faiss.d))
            if ids:
                slots = np.fromiter(self.slots.values(), dtype=np.int64)
                compact.add_with_ids(self.faiss.reconstruct_batch(slots), np.arange(len(ids), dtype=np.int64))
            return compact, ids, self.frames(ids)

    def dump_lists(self) -> tuple[NDArray[np.uint8], list[str], Vectors, NDArray[np.int32]]:
        """Return the index as bytes, the id of each slot ("" for none), and the frames, for :meth:`restore_lists`."""
        with self.lock:
            self._purge()
            return faiss.serialize_index(self.faiss), [i or "" for i in self._ids], *self._frames.dump(len(self._ids))

    def add(self, ids: Sequence[EditId], vectors: Vectors, frames: Vectors) -> None:
        """Add edits, replacing the vectors of those present; ``vectors`` and ``frames`` are (n, d) unit rows."""
        if not len(ids):
            return
        with self.lock:
            self.remove([edit_id for edit_id in ids if edit_id in self.slots])
            slots = np.array([self._take(edit_id) for edit_id in ids], dtype=np.int64)
            self._frames.set(slots.tolist(), frames)
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
            with one_thread():
                self.faiss.add_with_ids(vectors, slots)
            if self._growth is not None:
                self._growth.changed.update(zip(slots.tolist(), vectors, strict=True))
            self._grow_if_due()

    def remove(self, ids: Sequence[EditId]) -> None:
        """Remove edits; those absent are passed over."""
        with self.lock:
            slots = [self.slots.pop(edit_id) for edit_id in ids if edit_id in self.slots]
            if not slots:
                return
            for slot in slots:
                self._ids[slot] = None
            self._frames.drop(slots)
            if self._growth is not None:
                self._growth.changed.update(dict.fromkeys(slots))
            self._dead += slots
            if len(self._dead) > max(_MOST_DEAD, len(self.slots) // 20):
                self._purge()

    def search(
        self, queries: Vectors, k: int, among: Collection[EditId] | None = None
    ) -> list[list[tuple[EditId, float]]]:
        """Return for each of ``queries``, (n, d) unit rows, up to ``k`` edits with their cosine, most similar first.

        Only those of ``among`` are looked at, all by default; what is not here is passed over.
        """
        with self.lock:
            if not self.clustered:
                self._purge()  # all that went since the last search at once
            k = min(k, len(self.slots))
            if k < 1 or not len(queries):
                return [[] for _ in queries]
            queries = np.ascontiguousarray(queries, dtype=np.float32)
            if among is not None:
                return self._search_among(queries, k, among)
            wanted = k + min(len(self._dead), k)
            while True:
                with one_thread():
                    similarities, slots = self.faiss.search(queries, wanted)
                found = [self._named(*row)[:k] for row in zip(similarities, slots, strict=True)]
                short = [row for row, pairs in zip(slots, found, strict=True) if len(pairs) < k]
                # Only removed edits in the way are a reason to look again: the lists looked into may have no more.
                if wanted >= self.faiss.ntotal or all(row[-1] < 0 for row in short):
                    return found
                wanted = min(4 * wanted, self.faiss.ntotal)

    def frames(self, ids: Sequence[EditId]) -> Vectors:
        """Return the frame vectors of ``ids``, (n, d).

        Raises:
            KeyError: An id is not here.
        """
        with self.lock:
            return self._frames.get([self.slots[edit_id] for edit_id in ids])

    def settle(self) -> None:
        """Wait until no lists are being built."""
        while (growth := self._growth) is not None:
            growth.join()

    def _search_among(self, queries: Vectors, k: int, among: Collection[EditId]) -> list[list[tuple[EditId, float]]]:
        slots = [slot for edit_id in among if (slot := self.slots.get(edit_id)) is not None]
        if not slots:
            return [[] for _ in queries]
        selector = faiss.IDSelectorBatch(np.array(slots, dtype=np.int64))
        options = {"nprobe": clustered.probes_among(self.faiss, len(slots))} if self.clustered else {}
        parameters: Any = faiss.SearchParametersIVF if self.clustered else faiss.SearchParameters
        with one_thread():
            found = self.faiss.search(queries, min(k, len(slots)), params=parameters(sel=selector, **options))
        return [self._named(*row) for row in zip(*found, strict=True)]

    def _named(self, similarities: Vectors, slots: NDArray[np.int64]) -> list[tuple[EditId, float]]:
        pairs = zip(similarities.tolist(), slots.tolist(), strict=True)
        return [(edit_id, s) for s, slot in pairs if slot >= 0 and (edit_id := self._ids[slot]) is not None]

    def _take(self, edit_id: EditId) -> int:
        if self._free:
            slot = self._free.pop()
            self._ids[slot] = edit_id
        else:
            slot = len(self._ids)
            self._ids.append(edit_id)
        self.slots[edit_id] = slot
        return slot

    def _purge(self) -> None:
        """Take removed edits out, and let their slots be used again; not of lists that are just being copied."""
        if not self._dead or (self.clustered and self._growth is not None):
            return
        doomed = np.array(self._dead, dtype=np.int64)
        selector = faiss.IDSelectorBatch(doomed)  # a name of its own: FAISS keeps no reference
        self.faiss.remove_ids(selector)
        self._free += self._dead
        self._dead = []

    def _grow_if_due(self) -> None:
        limit = clustered.outgrown(self.faiss) if self.clustered else EXACT_UP_TO
        if self._growth is None and len(self.slots) > limit:
            self._growth = Growth(self)
            self._growth.start()


class Growth(threading.Thread):
    """Builds lists for what ``partition`` holds, in the background, and puts them in the place of its index.

    Attributes:
        changed: Slots added (with the vector) or removed (``None``) since the copying began; under the lock.
    """

    def __init__(self, partition: Partition) -> None:
        super().__init__(name="corrigenda-index", daemon=True)
        self.changed: dict[int, Vectors | None] = {}
        self._partition = partition

    def run(self) -> None:
        """Train, copy, catch up, change over. What goes wrong leaves the index as it was, slower and right."""
        try:
            with one_thread():
                self._run()
        except (RuntimeError, MemoryError):
            log.exception("no faster index could be built for %d edits", len(self._partition))
        finally:
            self._partition._growth = None

    def _run(self) -> None:
        source = self._partition.faiss
        count = len(self._partition)
        index = clustered.train(self._sample(source, clustered.lists_for(2 * count)), 2 * count)
        for slots, vectors in self._pages(source):
            with self._partition.lock:
                fit = np.array([slot not in self.changed for slot in slots.tolist()], dtype=bool)
            index.add_with_ids(np.ascontiguousarray(vectors[fit]), slots[fit])
        while True:
            with self._partition.lock:
                changed, self.changed = self.changed, {}
                if len(changed) <= _LAST_STEP:
                    clustered.apply(index, changed)
                    self._change_over(index)
                    return
            clustered.apply(index, changed)

    def _change_over(self, index: Any) -> None:
        partition = self._partition
        # What was dead when the copying began may be in the new lists, or not: it is taken out, and its slots freed.
        clustered.apply(index, dict.fromkeys(partition._dead))
        partition._free += partition._dead
        partition._dead = []
        partition.faiss = index

    def _sample(self, source: Any, lists: int) -> Vectors:
        rng, wanted = np.random.default_rng(0), lists * clustered.SAMPLES_PER_LIST
        share = min(1.0, wanted / max(1, source.ntotal))
        parts = [vectors[rng.random(len(slots)) < share] for slots, vectors in self._pages(source)]
        return np.concatenate(parts)

    def _pages(self, source: Any) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        partition = self._partition
        if partition.clustered:
            yield from clustered.pages(source, partition.lock)
            return
        with partition.lock:
            slots = np.fromiter(partition.slots.values(), dtype=np.int64)
        for start in range(0, len(slots), _PAGE):
            with partition.lock:
                part = slots[start : start + _PAGE]
                alive = np.array([partition._ids[slot] is not None for slot in part.tolist()], dtype=bool)
                vectors = source.reconstruct_batch(part[alive]) if alive.any() else np.zeros((0, source.d), np.float32)
            yield part[alive], vectors


class VectorIndex:
    """The partitions of all namespaces. Not safe to share between threads without a lock.

    Args:
        dimension: Length d of a vector.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.partitions: dict[str, Partition] = {}

    def __len__(self) -> int:
        return sum(len(partition) for partition in self.partitions.values())

    @property
    def nbytes(self) -> int:
        """Bytes of vectors, lists and frames, without Python's own."""
        return sum(partition.nbytes for partition in self.partitions.values())

    def add(self, namespace: str, ids: Sequence[EditId], vectors: Vectors, frames: Vectors) -> None:
        """Add edits of one namespace: (n, d) unit rows each."""
        self.partitions.setdefault(namespace, Partition(self.dimension)).add(ids, vectors, frames)

    def remove(self, namespace: str, ids: Sequence[EditId]) -> None:
        """Remove edits of one namespace; those absent are passed over."""
        if (partition := self.partitions.get(namespace)) is not None:
            partition.remove(ids)

    def search(
        self, namespace: str, queries: Vectors, k: int, among: Collection[EditId] | None = None
    ) -> list[list[tuple[EditId, float]]]:
        """Return for each query up to ``k`` edits of ``namespace`` with their cosine, most similar first.

        Only those of ``among`` are looked at, all by default.
        """
        partition = self.partitions.get(namespace)
        return partition.search(queries, k, among) if partition is not None else [[] for _ in queries]

    def frames(self, namespace: str, ids: Sequence[EditId]) -> Vectors:
        """Return the frame vectors of ``ids``, (n, d).

        Raises:
            KeyError: An id is not in this namespace.
        """
        if not ids:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return self.partitions[namespace].frames(ids)
