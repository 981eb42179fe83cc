from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrigenda.edit import Edit
from corrigenda.memory.codebook import Codebook, Entry, initial_radius


def entry(number: int, label: str, *key: float) -> Entry:
    edit = Edit(f"prompt {number}", label)
    return Entry.of(edit, np.array(key, dtype=np.float32), np.full(2, number, dtype=np.float32))


def test_within_its_radius_a_key_answers_and_beyond_it_defers():
    book = Codebook([entry(0, "a", 0.0, 0.0)], 1.0)
    near, edge, far = book.find(np.array([[0.5, 0.0], [0.0, 1.0], [1.01, 0.0]]))
    assert near is not None
    assert edge is not None
    assert far is None
    assert (near.distance, near.radius) == (0.5, 1.0)
    assert near.entry.statement == "prompt 0 a."
    assert Codebook([], 1.0).find(np.zeros((2, 3))) == [None, None]


def test_far_apart_keys_are_added():
    book = Codebook([entry(0, "a", 0.0), entry(1, "b", 2.5)], 1.0)
    assert len(book) == 2
    assert set(book.radii().values()) == {1.0}


def test_a_neighbour_of_another_label_splits_the_space_between():
    book = Codebook([entry(0, "a", 0.0), entry(1, "b", 0.8)], 1.0)
    assert list(book.radii().values()) == pytest.approx([0.4, 0.4], abs=1e-4)
    first, second = book.find(np.array([[0.3], [0.5]]))
    assert (first.entry.label, second.entry.label) == ("a", "b")


def test_a_neighbour_of_the_same_label_expands_the_radius():
    book = Codebook([entry(0, "Paris", 0.0), entry(1, "paris", 1.5)], 1.0)
    assert list(book.radii().values()) == pytest.approx([1.5])
    assert len(book) == 1
    (found,) = book.find(np.array([[1.5]]))
    assert found.entry.edit_id == book.entries[0].edit_id


def test_what_a_split_uncovers_gets_a_key_of_its_own():
    # b expands a's radius to 1.5; c, with another label, shrinks it to 0.3: b would be forgotten.
    book = Codebook([entry(0, "x", 0.0), entry(1, "x", 1.5), entry(2, "y", -0.6)], 1.0)
    labels = [found.entry.label for found in book.find(np.array([[0.0], [1.5], [-0.6]]))]
    assert labels == ["x", "x", "y"]


points = st.lists(
    st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.sampled_from("xyz")),
    min_size=1,
    max_size=14,
    unique_by=lambda point: point[:2],
)


@given(points, st.floats(0.05, 3.0))
@settings(max_examples=150, deadline=None)
def test_every_edit_finds_its_own_answer_whatever_the_others(rows, radius):
    book = Codebook([entry(n, label, x / 4, y / 4) for n, (x, y, label) in enumerate(rows)], radius)
    found = book.find(np.stack([item.key for item in book.entries]))
    assert [hit and hit.entry.label for hit in found] == [label for *_, label in rows]


@given(points, st.data())
@settings(max_examples=60, deadline=None)
def test_a_codebook_without_an_entry_is_one_that_never_had_it(rows, data):
    entries = [entry(n, label, x / 4, y / 4) for n, (x, y, label) in enumerate(rows)]
    gone = data.draw(st.integers(0, len(entries) - 1))
    left = [item for place, item in enumerate(entries) if place != gone]
    Codebook(entries, 0.7)  # building one leaves no trace in the entries
    assert Codebook(left, 0.7).radii() == Codebook(list(left), 0.7).radii()
    assert entries[gone].edit_id not in Codebook(left, 0.7).radii()


def test_entries_survive_being_written():
    edit = Edit("prompt 1", "Rome")
    made = Entry.of(edit, np.arange(3, dtype=np.float32), np.arange(2, dtype=np.float32))
    again = Entry.from_bytes(edit, made.to_bytes())
    assert again is not None
    assert np.array_equal(again.key, made.key)
    assert np.array_equal(again.value, made.value)
    assert (again.edit_id, again.label, again.statement) == (edit.id, "rome", "prompt 1 Rome.")
    assert "array" not in repr(made)


@pytest.mark.parametrize("data", [b"", b"short", b"\x01\x00\x00\x00\x01\x00\x00\x00" + b"\x00" * 7])
def test_half_an_entry_is_none(data):
    assert Entry.from_bytes(Edit("prompt", "Rome"), data) is None


def test_an_entry_that_is_not_finite_is_none():
    edit = Edit("prompt", "Rome")
    bad = Entry.of(edit, np.array([np.nan], dtype=np.float32), np.zeros(1, dtype=np.float32))
    assert Entry.from_bytes(edit, bad.to_bytes()) is None


def test_the_radius_follows_the_activations():
    keys = np.array([[0.0, 0.0], [0.0, 2.0], [5.0, 0.0]], dtype=np.float32)
    assert initial_radius([keys], 0.5) == pytest.approx(1.0)
    assert initial_radius([keys * 10, keys * 3], 0.5) == pytest.approx(3.0)
