"""VectorIndex: exact inner-product search over live edits, one FAISS index a namespace.

A namespace is a partition of its own, not a filter: a search cannot see what lies in another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from corrigenda.edit import EditId

Vectors = NDArray[np.float32]


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
    """The vectors of one namespace, by edit id. A slot is the number under which FAISS knows an edit."""

    def __init__(self, dimension: int) -> None:
        self.faiss: faiss.IndexIDMap2 = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self.slots: dict[EditId, int] = {}
        self._ids: list[EditId | None] = []
        self._free: list[int] = []
        self._frames: Vectors = np.zeros((0, dimension), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.slots)

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
        partition._frames = frames
        return partition

    def dump(self) -> tuple[faiss.IndexIDMap2, list[EditId], Vectors]:
        """Return index, ids and frames with the slots renumbered 0, 1, 2…, for :meth:`restore`."""
        ids = list(self.slots)
        compact = faiss.IndexIDMap2(faiss.IndexFlatIP(self.faiss.d))
        if ids:
            slots = np.fromiter(self.slots.values(), dtype=np.int64)
            compact.add_with_ids(self.faiss.reconstruct_batch(slots), np.arange(len(ids), dtype=np.int64))
        return compact, ids, self.frames(ids)

    def add(self, ids: Sequence[EditId], vectors: Vectors, frames: Vectors) -> None:
        """Add edits, replacing the vectors of those present; ``vectors`` and ``frames`` are (n, d) unit rows."""
        self.remove([edit_id for edit_id in ids if edit_id in self.slots])
        slots = np.array([self._take(edit_id) for edit_id in ids], dtype=np.int64)
        if len(self._ids) > len(self._frames):
            grown = np.zeros((max(256, 2 * len(self._ids)), self.faiss.d), dtype=np.float32)
            grown[: len(self._frames)] = self._frames
            self._frames = grown
        if len(ids):
            self._frames[slots] = frames
            self.faiss.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), slots)

    def remove(self, ids: Sequence[EditId]) -> None:
        """Remove edits; those absent are passed over."""
        slots = [self.slots.pop(edit_id) for edit_id in ids if edit_id in self.slots]
        if not slots:
            return
        doomed = np.array(slots, dtype=np.int64)
        selector = faiss.IDSelectorBatch(doomed)  # a name of its own: FAISS keeps no reference
        self.faiss.remove_ids(selector)
        for slot in slots:
            self._ids[slot] = None
        self._free.extend(slots)

    def search(self, queries: Vectors, k: int) -> list[list[tuple[EditId, float]]]:
        """Return for each of ``queries``, (n, d) unit rows, up to ``k`` edits with their cosine, most similar first."""
        k = min(k, len(self.slots))
        if k < 1 or not len(queries):
            return [[] for _ in queries]
        with one_thread():
            similarities, slots = self.faiss.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return [
            [(edit_id, float(s)) for s, slot in zip(*row, strict=True) if (edit_id := self._ids[slot]) is not None]
            for row in zip(similarities, slots, strict=True)
        ]

    def frames(self, ids: Sequence[EditId]) -> Vectors:
        """Return the frame vectors of ``ids``, (n, d).

        Raises:
            KeyError: An id is not here.
        """
        return self._frames[[self.slots[edit_id] for edit_id in ids]]

    def _take(self, edit_id: EditId) -> int:
        if self._free:
            slot = self._free.pop()
            self._ids[slot] = edit_id
        else:
            slot = len(self._ids)
            self._ids.append(edit_id)
        self.slots[edit_id] = slot
        return slot


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

    def add(self, namespace: str, ids: Sequence[EditId], vectors: Vectors, frames: Vectors) -> None:
        """Add edits of one namespace: (n, d) unit rows each."""
        self.partitions.setdefault(namespace, Partition(self.dimension)).add(ids, vectors, frames)

    def remove(self, namespace: str, ids: Sequence[EditId]) -> None:
        """Remove edits of one namespace; those absent are passed over."""
        if (partition := self.partitions.get(namespace)) is not None:
            partition.remove(ids)

    def search(self, namespace: str, queries: Vectors, k: int) -> list[list[tuple[EditId, float]]]:
        """Return for each query up to ``k`` edits of ``namespace`` with their cosine, most similar first."""
        partition = self.partitions.get(namespace)
        return partition.search(queries, k) if partition is not None else [[] for _ in queries]

    def frames(self, namespace: str, ids: Sequence[EditId]) -> Vectors:
        """Return the frame vectors of ``ids``, (n, d).

        Raises:
            KeyError: An id is not in this namespace.
        """
        if not ids:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return self.partitions[namespace].frames(ids)
