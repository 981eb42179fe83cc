"""Search among many edits: lists built beside the exact index, kept up to date, saved, restored, or refused."""

from __future__ import annotations

import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

from corrigenda.edit import EditId
from corrigenda.memory import clustered, index, snapshot
from corrigenda.memory.frames import FrameTable
from corrigenda.memory.index import Partition, VectorIndex

D = 16


def rows(count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, D)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def ids(*span: int) -> list[EditId]:
    return [EditId(f"e{number:020x}") for number in range(*span)]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Partition:
    """A partition that has just changed over to lists."""
    monkeypatch.setattr(index, "EXACT_UP_TO", 500)
    monkeypatch.setattr(index, "_MOST_DEAD", 20)
    partition = Partition(D)
    partition.add(ids(600), rows(600), rows(600, seed=1))
    partition.settle()
    assert partition.clustered
    return partition


def check(partition: Partition, present: dict[int, np.ndarray]) -> None:
    """Search in ``partition`` finds what comparing with every vector finds."""
    assert len(partition) == len(present)
    numbers = np.array(list(present))
    matrix = np.stack(list(present.values()))
    queries = rows(20, seed=9)
    for query, found in zip(queries, partition.search(queries, 8), strict=True):
        order = numbers[np.argsort(-(matrix @ query))[:8]]
        assert [edit_id for edit_id, _ in found] == [f"e{number:020x}" for number in order]


def test_it_changes_over_and_finds_the_same(many: Partition) -> None:
    check(many, dict(enumerate(rows(600))))
    np.testing.assert_array_equal(many.frames(ids(600)), rows(600, seed=1))
    assert many.nbytes < 600 * (4 * D + 2 * D + 8 + 16) + 300_000


def test_adding_removing_replacing_in_lists(many: Partition) -> None:
    present = dict(enumerate(rows(600)))
    for start in range(0, 200, 10):
        many.remove(ids(start, start + 10))
        for number in range(start, start + 10):
            del present[number]
        check(many, present)
    assert len(many._dead) < 30
    fresh = rows(700, seed=3)
    many.add(ids(100, 700), fresh[100:], rows(700, seed=1)[100:])
    present |= dict(enumerate(fresh[100:], 100))
    check(many, present)
    many.remove(ids(5))
    with pytest.raises(KeyError):
        many.frames(ids(1))


def test_most_neighbours_removed_are_no_hindrance(many: Partition) -> None:
    index._MOST_DEAD = 10_000
    (near,) = many.search(rows(1, seed=9), 300)
    many.remove([edit_id for edit_id, _ in near[:290]])
    (left,) = many.search(rows(1, seed=9), 5)
    assert [edit_id for edit_id, _ in left] == [edit_id for edit_id, _ in near[290:295]]
    assert len(many.search(rows(1, seed=9), 10_000)[0]) == 310


def test_few_are_found_in_whichever_list_they_lie(many: Partition) -> None:
    many.faiss.nprobe = 2
    few, vectors, queries = [3, 77, 130, 400, 590], rows(600), rows(20, seed=9)
    for query, found in zip(queries, many.search(queries, 8, [ids(600)[i] for i in few]), strict=True):
        order = sorted(few, key=lambda i: -float(vectors[i] @ query))
        assert [edit_id for edit_id, _ in found] == [f"e{number:020x}" for number in order]
    half = ids(0, 600, 2)
    assert {edit_id for row in many.search(queries, 8, half) for edit_id, _ in row} <= set(half)


def test_changes_while_the_lists_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT_UP_TO", 500)
    monkeypatch.setattr(index, "_LAST_STEP", 5)
    training, go_on, original = threading.Event(), threading.Event(), clustered.train

    def slowly(sample: np.ndarray, count: int) -> faiss.Index:
        training.set()
        assert go_on.wait(20)
        return original(sample, count)

    monkeypatch.setattr(clustered, "train", slowly)
    partition = Partition(D)
    partition.add(ids(600), rows(600), rows(600))
    assert training.wait(20)
    assert not partition.clustered
    vectors = rows(900, seed=4)
    partition.remove(ids(100))
    partition.add(ids(550, 900), vectors[550:], vectors[550:])
    present = dict(enumerate(rows(600)[100:550], 100)) | dict(enumerate(vectors[550:], 550))
    check(partition, present)
    go_on.set()
    partition.settle()
    assert partition.clustered
    check(partition, present)
    # It grows again, out of its lists, once there are four times as many.
    more = rows(5_000, seed=5)
    partition.remove(ids(200, 210))
    partition.add(ids(1_000, 5_000), more[1_000:], more[1_000:])
    lists = partition.faiss.nlist
    partition.settle()
    present = {number: row for number, row in present.items() if not 200 <= number < 210}
    check(partition, present | dict(enumerate(more[1_000:], 1_000)))
    assert partition.faiss.nlist > lists


def test_a_failing_build_leaves_the_exact_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT_UP_TO", 500)
    monkeypatch.setattr(clustered, "train", lambda *_: (_ for _ in ()).throw(MemoryError))
    partition = Partition(D)
    partition.add(ids(600), rows(600), rows(600))
    partition.settle()
    assert not partition.clustered
    check(partition, dict(enumerate(rows(600))))


def test_lists_survive_a_snapshot(many: Partition, tmp_path: Path) -> None:
    many.remove(ids(50))
    whole = VectorIndex(D)
    whole.partitions["big"] = many
    whole.add("small", ids(3), rows(3), rows(3))
    snapshot.write(tmp_path / "s", snapshot.pack(whole, recipe="r", seq=7, event="x"))
    again, seq, mark = snapshot.load(tmp_path / "s", recipe="r", dimension=D)
    assert (seq, mark) == (7, "x")
    big = again.partitions["big"]
    assert big.clustered
    present = {number: row for number, row in enumerate(rows(600)) if number >= 50}
    check(big, present)
    np.testing.assert_array_equal(big.frames(ids(50, 600)), rows(600, seed=1)[50:])
    big.add(ids(50), rows(600)[:50], rows(50))
    check(big, dict(enumerate(rows(600))))
    assert whole.nbytes > 0


def test_lists_that_do_not_fit_are_refused(many: Partition) -> None:
    _, slots, frames, places = many.dump_lists()
    table = FrameTable.restore(frames, places)
    with pytest.raises(ValueError, match="IndexFlat"):
        Partition.restore_lists(faiss.IndexFlatIP(D), slots, table)
    with pytest.raises(ValueError, match="no edit has"):
        Partition.restore_lists(many.faiss, slots[:-1], table)
    with pytest.raises(ValueError, match="differ"):
        Partition.restore_lists(many.faiss, [*slots, "e-another"], table)
    with pytest.raises(ValueError, match="do not fit"):
        FrameTable.restore(frames[:-1], places)
    with pytest.raises(ValueError, match="twice"):
        FrameTable.restore(np.concatenate([frames[:1], frames[:1], frames[2:]]), places)
    many.faiss.add_with_ids(rows(1), np.array([3]))
    with pytest.raises(ValueError, match="twice"):
        Partition.restore_lists(many.faiss, slots, table)
    other = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(D), D, 4, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    other.train(rows(200))
    with pytest.raises(ValueError, match="otherwise"):
        Partition.restore_lists(other, [], table)


def test_equal_frames_are_kept_once() -> None:
    table = FrameTable(D)
    few = rows(3)
    table.set(range(300), np.repeat(few, 100, axis=0))
    table.set([], few[:0])
    assert len(table.dump(300)[0]) == 3
    np.testing.assert_array_equal(table.get([0, 150, 299]), few)
    table.drop(range(100))
    other = rows(1, seed=8)
    table.set([5], other)
    np.testing.assert_array_equal(table.get([5, 299]), np.stack([other[0], few[2]]))
    kept, places = table.dump(300)
    table.drop([5])
    table.set([6], rows(1, seed=7))  # while the copy is being written
    assert len(kept) == 3
    np.testing.assert_array_equal(kept[places[[5, 299]]], np.stack([other[0], few[2]]))
    again = FrameTable.restore(kept, places)
    again.set([0], few[1:2])
    assert len(again.dump(300)[0]) == 3
