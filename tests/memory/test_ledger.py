from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.edit import Edit
from corrigenda.memory.ledger import EVENT_KINDS, Event, State, claims, replay

EDITS = [Edit(f"The capital of land {i} is", f"City {i}", namespace="ab"[i % 2]) for i in range(6)]


def numbered(*events: Event) -> list[Event]:
    import dataclasses

    return [dataclasses.replace(event, seq=seq) for seq, event in enumerate(events, 1)]


def steps() -> st.SearchStrategy[list[tuple[str, int, int]]]:
    return st.lists(st.tuples(st.sampled_from(EVENT_KINDS), st.integers(0, 5), st.integers(0, 5)), max_size=25)


@given(steps())
def test_the_fold_equals_a_plain_dictionary(moves: list[tuple[str, int, int]]) -> None:
    model: dict[str, Edit] = {}
    events = []
    for kind, new, old in moves:
        edit, replaced = EDITS[new], EDITS[old]
        if kind == "amended":
            events.append(Event("amended", edit, replaces=replaced.id))
            model.pop(replaced.id, None)
        else:
            events.append(Event(kind, edit))  # type: ignore[arg-type]
        model.pop(edit.id, None)
        if kind not in ("retracted", "consolidated"):
            model[edit.id] = edit
    state = replay(numbered(*events))
    assert state.live == model
    assert list(state.live) == list(model)
    assert state.seq == len(events)
    for name in "ab":
        assert state.namespace(name) == {i: e for i, e in model.items() if e.namespace == name}
    assert state.namespaces() == tuple(sorted({edit.namespace for edit in model.values()}))
    for edit in EDITS:
        assert (edit.id in state.claimants(claims(edit)[0])) == (edit.id in model)


def test_apply_tells_what_went_and_what_came() -> None:
    state = State()
    first, second = EDITS[0], EDITS[2]
    assert state.apply(Event("added", first, seq=1)) == ([], first)
    assert state.apply(Event("amended", second, replaces=first.id, seq=2)) == ([first], second)
    assert state.apply(Event("consolidated", second, seq=3)) == ([second], None)
    assert state.apply(Event("restored", second, seq=4)) == ([], second)
    assert state.known == {first.id: first, second.id: second}


def test_lineage_runs_both_ways() -> None:
    a, b, c, d = EDITS[:4]
    state = replay(
        numbered(
            Event("added", a), Event("amended", b, replaces=a.id), Event("amended", c, replaces=b.id), Event("added", d)
        )
    )
    assert state.lineage(a.id) == state.lineage(c.id) == {a.id, b.id, c.id}
    assert state.lineage(d.id) == {d.id}


def test_an_event_as_json() -> None:
    event = Event("amended", EDITS[1], replaces=EDITS[0].id, reason="moved", seq=7)
    row: dict[str, Any] = event.to_dict()
    assert row["seq"] == 7
    assert row["edit"] == EDITS[1].to_dict()
    assert (row["replaces"], row["reason"]) == (EDITS[0].id, "moved")
    assert "author" not in row


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ({"subject": "A", "relation": "r"}, {"subject": "a ", "relation": "R", "prompt": "Other words for"}, True),
        ({"subject": "A"}, {"subject": "A", "relation": "r"}, True),
        ({}, {"target": "y"}, True),
        ({"subject": "A", "relation": "r"}, {"subject": "A", "relation": "q", "prompt": "Other words for"}, False),
        ({"subject": "A"}, {"subject": "B"}, False),
        ({}, {"namespace": "other"}, False),
    ],
)
def test_who_claims_the_same(one: dict[str, str], other: dict[str, str], shared: bool) -> None:
    base = {"prompt": "He was born in", "target": "x"}
    assert bool(set(claims(Edit(**base | one))) & set(claims(Edit(**base | other)))) is shared
