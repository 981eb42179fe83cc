import pytest

from corrigenda.memory.mentions import Names
from corrigenda.memory.scope_parts import parts
from corrigenda.memory.scope_places import dealt

NAMES = Names()
for name, edits in (("Omni", 18), ("Nokia", 4), ("Apple", 1), ("Oslo", 1)):
    for number in range(edits):
        NAMES.add(f"{name}-{number}", [name])


def asked(query):
    return parts(query, [], NAMES.find)


def last_first(_part, ids):
    return ids[::-1][:16]


def ids(query, places=16):
    return [claim.edit_id for claim in dealt(asked(query), places, last_first)]


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("Who owns Apple?", 1),
        ("What is Nokia Maps? Nokia is fine. So who owns Apple, Oslo or Nokia?", 10),
        ("Who owns Nokia? Who owns Nokia? Nokia Maps, Nokia Ovi and Nokia Play: who owns Apple?", 21),
        ("Is Omni in Oslo? Who owns Apple?", 20),
        ("Who owns the mill?", 0),
    ],
)
def test_where_there_is_room_everything_named_is_judged_as_it_stands_in_the_query(query, places):
    in_order = [
        (number, name, edit_id)
        for number, part in enumerate(asked(query))
        for name in part.named
        for edit_id in name.ids
        if part.asked
    ]
    assert len(in_order) == places
    claims = dealt(asked(query), places, nearest=lambda part, ids: pytest.fail("nothing is to be left out"))
    assert [(claim.part, claim.name, claim.edit_id) for claim in claims] == in_order


@pytest.mark.parametrize(
    "query",
    [
        "I had Nokia Maps, Nokia Ovi and Nokia Play, I paid Nokia a lot, so who owns Apple?",
        "What is Nokia Maps? What is Nokia Ovi? What is Nokia Play? What is Nokia Pay? Who owns Apple?",
        "Where is Omni based? Who owns Apple?",
        "I work at Omni, so who owns Apple?",
        "".join(f"What is Omni {letter}? " for letter in "ABCDEFGHIJKLMNOPQRS") + "Who owns Apple?",
    ],
)
def test_a_name_said_often_or_with_many_edits_leaves_places_for_others(query):
    found = ids(query)
    assert len(found) == 16
    assert "Apple-0" in found


def test_places_go_round_to_the_nearest_edits_of_each_name():
    assert ids("Who owns Omni? Who owns Nokia? Who owns Apple?", 6) == [
        "Omni-17",
        "Omni-16",
        "Omni-15",
        "Nokia-3",
        "Nokia-2",
        "Apple-0",
    ]


def test_what_is_named_again_in_a_part_comes_last():
    claims = dealt(asked("Nokia Maps, Nokia Ovi, Nokia Play or Apple?"), 7, last_first)
    assert [(claim.name.match.start, claim.edit_id) for claim in claims] == [
        *((0, f"Nokia-{number}") for number in (3, 2, 1, 0)),
        *((12, f"Nokia-{number}") for number in (3, 2)),
        (37, "Apple-0"),
    ]


def test_the_nearest_edits_of_a_name_are_sought_once_in_a_part():
    sought = []

    def nearest(part, ids):
        sought.append(part)
        return ids[:16]

    assert len(dealt(asked("What is " + "Omni, " * 50 + "Apple?\nWho owns Omni?"), 16, nearest)) == 16
    assert sought == [0, 1]
