from __future__ import annotations

from contextlib import suppress

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrigenda.edit import EditId
from corrigenda.memory.index import Partition, VectorIndex, one_thread


def rows(count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=60))
def test_it_finds_what_a_matrix_product_finds(moves: list[tuple[bool, int]]) -> None:
    vectors, frames = rows(401), rows(401, seed=1)
    partition, present = Partition(8), set()
    for add, number in moves:
        span = range(number, min(number + 3, 401))
        ids = [EditId(f"e{i}") for i in span]
        if add:
            partition.add(ids, vectors[span.start : span.stop], frames[span.start : span.stop])
            present |= set(span)
        else:
            partition.remove(ids)
            present -= set(span)
    order = sorted(present, key=lambda i: -float(vectors[i] @ vectors[0]))[:5]
    (found,) = partition.search(vectors[:1], 5)
    assert len(partition) == partition.faiss.ntotal == len(present)
    assert [edit_id for edit_id, _ in found] == [f"e{i}" for i in order]
    np.testing.assert_allclose([s for _, s in found], [vectors[i] @ vectors[0] for i in order], atol=1e-5)
    np.testing.assert_array_equal(partition.frames([EditId(f"e{i}") for i in present]), frames[list(present)])
    compact, ids, kept = partition.dump()
    again = Partition.restore(compact, ids, kept)
    assert again.search(vectors[:1], 5) == [found]
    np.testing.assert_array_equal(again.frames(ids), partition.frames(ids))
    again.add([EditId("new")], vectors[:1], frames[:1])
    assert len(again) == len(partition) + 1
    np.testing.assert_array_equal(again.frames([EditId("new")]), frames[:1])


def test_edits_that_go_one_by_one_are_taken_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    taken_out: list[int] = []
    select = faiss.IDSelectorBatch
    monkeypatch.setattr(faiss, "IDSelectorBatch", lambda doomed: taken_out.append(len(doomed)) or select(doomed))
    partition, vectors = Partition(8), rows(300)
    ids = [EditId(f"e{number}") for number in range(300)]
    partition.add(ids, vectors, vectors)
    for edit_id in ids[:250]:
        partition.remove([edit_id])
    for number in range(100):  # some come back, with another vector
        partition.add([ids[number]], vectors[number + 1 : number + 2], vectors[:1])
        partition.add([ids[number]], vectors[number + 2 : number + 3], vectors[:1])
    (found,) = partition.search(vectors[5:6], 300)
    assert found[0] == (ids[3], pytest.approx(1.0))
    assert {edit_id for edit_id, _ in found} == {*ids[:100], *ids[250:]}
    assert taken_out == [350]
    partition.add([EditId("new")], vectors[:1], vectors[:1])
    assert partition.faiss.ntotal == len(partition) == 151


def test_only_some_are_looked_at_where_that_is_asked() -> None:
    partition, vectors = Partition(8), rows(300)
    ids = [EditId(f"e{number}") for number in range(300)]
    partition.add(ids, vectors, vectors)
    partition.remove(ids[:10])
    some = [*range(5, 300, 7)]
    (found,) = partition.search(vectors[:1], 4, {ids[number] for number in some} | {EditId("elsewhere")})
    order = sorted((number for number in some if number >= 10), key=lambda i: -float(vectors[i] @ vectors[0]))
    assert [edit_id for edit_id, _ in found] == [ids[number] for number in order[:4]]
    assert len(partition.search(vectors[:1], 99, ids[:20])[0]) == 10
    assert partition.search(vectors[:2], 4, ids[:10]) == [[], []]


def test_partitions_do_not_see_each_other() -> None:
    index, vectors = VectorIndex(8), rows(2)
    index.add("a", [EditId("e1")], vectors[:1], vectors[:1])
    index.add("b", [EditId("e2")], vectors[1:], vectors[1:])
    assert [i for i, _ in index.search("a", vectors[1:], 5)[0]] == ["e1"]
    assert index.search("c", vectors, 5) == [[], []]
    assert len(index) == 2
    index.remove("a", [EditId("e2")])
    index.remove("c", [EditId("e2")])
    assert len(index) == 2
    with pytest.raises(KeyError):
        index.frames("a", [EditId("e2")])
    assert index.frames("c", []).shape == (0, 8)


def test_parts_that_do_not_fit_are_refused() -> None:
    partition = Partition(8)
    partition.add([EditId("e1"), EditId("e2")], rows(2), rows(2))
    compact, ids, frames = partition.dump()
    for bad in ((compact, ids[:1], frames), (compact, ["e1", "e1"], frames), (compact, ids, frames[:, :4])):
        with pytest.raises(ValueError, match="differ in number"):
            Partition.restore(*bad)
    with pytest.raises(ValueError, match="IndexFlatIP"):
        Partition.restore(faiss.IndexFlatIP(8), [], frames[:0])
    partition.remove([EditId("e1")])
    partition.search(rows(1), 1)
    with pytest.raises(ValueError, match="otherwise"):
        Partition.restore(partition.faiss, ["e2"], frames[:1])


def test_one_thread_restores_what_was() -> None:
    before = faiss.omp_get_max_threads()
    with suppress(RuntimeError), one_thread():
        assert faiss.omp_get_max_threads() == 1
        raise RuntimeError
    assert faiss.omp_get_max_threads() == before
