"""Clustered: approximate search for namespaces with many edits, 16 bits a number, an answer in about a millisecond.

Vectors lie in lists around centroids (an inverted file); a query looks into the lists whose centroids are nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Slots = NDArray[np.int64]
Lists = Any
"""A ``faiss.IndexIVFScalarQuantizer``; its types say that every part of it may be missing."""

LISTS_PER_ROOT = 4
"""Lists, as a multiple of the square root of the number of vectors: the usual balance of choosing and scanning."""
SAMPLES_PER_LIST = 30
"""Vectors from which each centroid is learnt."""
SCANNED = 30_000
"""Vectors a query is compared with when an index is half full; more finds more and takes longer. Chosen on encodings of
real text: recall@8 of .996 at a million vectors, in 2 ms."""


def train(sample: Vectors, count: int) -> Lists:
    """Return an empty index for about ``count`` vectors like those of ``sample``, (n, d) unit rows. Takes a while."""
    lists = lists_for(count)
    dimension = sample.shape[1]
    coarse = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFScalarQuantizer(
        coarse, dimension, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.niter = 8
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = SAMPLES_PER_LIST
    index.cp.seed = 1
    index.train(np.ascontiguousarray(sample, dtype=np.float32))
    index.nprobe = probes_for(lists)
    return index


def lists_for(count: int) -> int:
    """Return how many lists suit ``count`` vectors."""
    return int(max(16, round(LISTS_PER_ROOT * count**0.5)))


def probes_for(lists: int) -> int:
    """Return how many of ``lists`` a query looks into."""
    return min(lists, round(SCANNED * 2 * LISTS_PER_ROOT**2 / lists))


def probes_among(index: Lists, chosen: int) -> int:
    """Return how many lists a query for ``chosen`` vectors only looks into, to be compared with as many as any."""
    return int(min(index.nlist, index.nprobe * index.ntotal // chosen))


def outgrown(index: Lists) -> int:
    """Return how many vectors make ``index`` have too few lists."""
    return int((index.nlist / LISTS_PER_ROOT) ** 2 * 2)


def pages(index: Lists, lock: AbstractContextManager[object]) -> Iterator[tuple[Slots, Vectors]]:
    """Yield slots and vectors of ``index``, list by list, holding ``lock`` while one is copied."""
    for number in range(index.nlist):
        with lock:
            size = index.invlists.list_size(number)
            if not size:
                continue
            slots = faiss.rev_swig_ptr(index.invlists.get_ids(number), size).copy()
            codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size).copy()
        yield slots, codes.view(np.float16).reshape(size, index.d).astype(np.float32)


def apply(index: Lists, changed: Mapping[int, Vectors | None]) -> None:
    """Take the slots of ``changed`` out of ``index``, and put those in that have a vector, (d,)."""
    if not changed:
        return
    doomed = np.fromiter(changed, dtype=np.int64)
    selector = faiss.IDSelectorBatch(doomed)  # a name of its own: FAISS keeps no reference
    index.remove_ids(selector)
    added = {slot: vector for slot, vector in changed.items() if vector is not None}
    if added:
        index.add_with_ids(np.stack(list(added.values())), np.fromiter(added, dtype=np.int64))


def numbers(index: faiss.Index, slots: int) -> NDArray[np.bool_]:
    """Return which of the numbers 0 to ``slots`` − 1 are in ``index``.

    Raises:
        ValueError: It is none of ours, or holds another number, or one twice.
    """
    if not isinstance(index, faiss.IndexIVFScalarQuantizer) or not index.is_trained:
        raise ValueError(f"the index is a {type(index).__name__}")
    if index.code_size != 2 * index.d or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError("the index keeps its vectors otherwise")
    present = np.zeros(slots, dtype=bool)
    lists: Lists = index
    for number in range(lists.nlist):
        if size := lists.invlists.list_size(number):
            ids = faiss.rev_swig_ptr(lists.invlists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= slots:
                raise ValueError("the index holds numbers that no edit has")
            present[ids] = True
    if present.sum() != index.ntotal:
        raise ValueError("the index holds a number twice")
    return present
