from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from corrigenda.edit import Edit, Validity
from corrigenda.errors import ConflictingEdit, InvalidRequest
from corrigenda.memory.conflicts import overlap, plan_additions, plan_amendment
from corrigenda.memory.ledger import Event, replay
from corrigenda.memory.memory import Memory

Capital = Callable[..., Edit]


def year(number: int) -> datetime:
    return datetime(number, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((None, None), (None, None), True),
        ((None, 2020), (2020, None), False),
        ((None, 2021), (2020, None), True),
        ((2010, 2020), (2015, 2016), True),
        ((2010, 2012), (2015, 2016), False),
    ],
)
def test_overlap(one: tuple[int | None, ...], other: tuple[int | None, ...], expected: bool) -> None:
    first, second = (Validity(*(year(y) if y else None for y in pair)) for pair in (one, other))
    assert overlap(first, second) is expected
    assert overlap(second, first) is expected


def test_supersede_is_the_rule(memory: Memory, capital: Capital) -> None:
    old = memory.add(capital(city="Almaty"))
    new = memory.add(capital(city="Astana"))
    assert memory.live() == (new,)
    assert [(event.kind, event.replaces) for event in memory.history(old.id)] == [("added", None), ("amended", old.id)]


def test_one_edit_supersedes_several(memory: Memory, capital: Capital) -> None:
    one = memory.add(capital(city="Almaty"))
    two = memory.add(capital(city="Tselinograd"), on_conflict="coexist")
    assert memory.live() == (one, two)
    three = memory.add(capital(city="Astana"))
    assert memory.live() == (three,)
    assert {event.edit.id for event in memory.history(one.id)} == {one.id, two.id, three.id}


def test_refuse_names_the_other(memory: Memory, capital: Capital) -> None:
    old = memory.add(capital(city="Almaty"))
    with pytest.raises(ConflictingEdit, match=old.id) as caught:
        memory.add(capital(city="Astana"), on_conflict="refuse")
    assert caught.value.edit == capital(city="Astana")
    assert memory.live() == (old,)
    assert memory.version == 1


def test_refuse_within_one_batch_keeps_nothing(memory: Memory, capital: Capital) -> None:
    with pytest.raises(ConflictingEdit):
        memory.add_many([capital("Peru", "Lima"), capital(city="Almaty"), capital(city="Astana")], on_conflict="refuse")
    assert len(memory) == 0


def test_times_that_do_not_meet_do_not_conflict(memory: Memory, capital: Capital) -> None:
    before = memory.add(capital(city="Almaty", validity=Validity(end=year(1997))))
    since = memory.add(capital(city="Astana", validity=Validity(start=year(1997))), on_conflict="refuse")
    assert memory.live() == (since,)
    assert memory.live(at=year(1995)) == (before,)


def test_the_same_prompt_conflicts_without_a_relation(memory: Memory) -> None:
    memory.add("The capital of Kazakhstan is", "Almaty")
    new = memory.add("The  capital of kazakhstan is", "Astana")
    assert memory.live() == (new,)


def test_a_batch_sees_its_own_edits(memory: Memory, capital: Capital) -> None:
    edits = [capital(city=city) for city in ("Almaty", "Astana", "Almaty", "Almaty")]
    live = memory.add_many(edits)
    assert [edit.target for edit in memory.live()] == ["Almaty"]
    assert [edit.target for edit in live] == ["Almaty", "Astana", "Almaty", "Almaty"]
    assert memory.version == 3


def test_amending_into_anothers_claim(memory: Memory, capital: Capital) -> None:
    memory.add(capital("Peru", "Lima"))
    other = memory.add(capital(city="Astana"))
    with pytest.raises(ConflictingEdit):
        memory.amend(other.id, subject="Peru", on_conflict="refuse")
    assert len(memory) == 2
    new = memory.amend(other.id, subject="Peru")
    assert memory.live() == (new,)


def test_what_was_derived_goes_with_what_is_superseded(memory: Memory, capital: Capital) -> None:
    parent = memory.add(capital(city="Almaty"))
    (child,) = memory.add_consequences([Edit("Almaty is the capital of", "Kazakhstan", parent=parent.id)])
    (grandchild,) = memory.add_consequences([Edit("Almaty's country is", "Kazakhstan", parent=child.id)])
    again = Edit("What is Almaty?", "a capital", parent=grandchild.id)
    live = memory.add_many([again, capital(city="Astana"), grandchild])
    assert live == [again, capital(city="Astana"), grandchild]
    assert memory.live() == (capital(city="Astana"), grandchild)
    assert [event.kind for event in memory.history(grandchild.id)] == ["added", "restored"]


def test_what_was_derived_stays_a_rival_of_what_keeps_its_id(memory: Memory, capital: Capital) -> None:
    parent = memory.add(capital())
    child = memory.add(capital(city="Almaty", parent=parent.id), on_conflict="coexist")
    with pytest.raises(ConflictingEdit, match=child.id):
        memory.amend(parent.id, aliases=("KZ",), on_conflict="refuse")


def test_plans_touch_nothing(capital: Capital) -> None:
    old, new = capital(city="Almaty"), capital(city="Astana")
    state = replay([Event("added", old, seq=1)])
    assert plan_additions(state, [new], "supersede").superseded == 1
    assert plan_amendment(state, old, new, "supersede").edits == [new]
    assert list(state.live) == [old.id]
    assert state.seq == 1


def test_an_unknown_rule(memory: Memory) -> None:
    with pytest.raises(InvalidRequest, match="supersede, coexist, refuse"):
        memory.add("a", "b", on_conflict="ignore")  # type: ignore[arg-type]
