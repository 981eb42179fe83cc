from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from corrigenda.edit import Edit, Validity, trusted
from corrigenda.errors import InvalidEdit, InvalidRequest, UnknownEdit
from corrigenda.memory.ledger import Event, replay
from corrigenda.memory.memory import Memory
from corrigenda.middleware.expansion import KINDS, TAG, adopt, expand
from corrigenda.middleware.knowledge import Tables
from corrigenda.middleware.relations import Relations
from corrigenda.testing import FixedEncoder

ENCODER = FixedEncoder(32)
CAPITAL = Edit("The capital of the Netherlands is", "Chicago", subject="Netherlands", relation="capital")
TABLES = Tables(
    {"Netherlands": ["Holland"], "Chicago": ["Windy City"], "United States": ["USA"]},
    [
        ("Chicago", "country", "United States"),
        ("Chicago", "twin city", "Milan"),
        ("Chicago", "twin city", "Paris"),
        ("Rome", "country", "Italy"),
    ],
)


def test_names_inverse_and_consequences_are_proposed():
    (found,) = expand([CAPITAL], TABLES, ENCODER)
    assert found.relation is not None
    assert found.relation.name == "capital"
    assert (found.aliases, found.edit.aliases) == (("Holland",), ("Holland",))
    assert found.edit.id == CAPITAL.id
    inverse, onward = found.derived  # two twin cities are no answer
    assert inverse.statement == "Chicago is the capital of Netherlands."
    assert (inverse.subject, inverse.relation) == ("Chicago", "capital of")
    assert (inverse.aliases, inverse.target_aliases) == (("Windy City",), ("Holland",))
    assert onward.statement == "The country of the capital of Netherlands is United States."
    assert (onward.subject, onward.relation) == ("Netherlands", "capital / country")
    assert (onward.aliases, onward.target_aliases) == (("Holland",), ("USA",))


def test_derived_edits_say_where_they_come_from():
    validity = Validity(end=datetime(2030, 1, 1, tzinfo=UTC))
    edit = CAPITAL.replace(author="Ada", namespace="n", validity=validity)
    (found,) = expand([edit], TABLES, ENCODER)
    for derived in found.derived:
        assert (derived.parent, derived.tags, derived.author) == (edit.id, (TAG,), "Ada")
        assert (derived.namespace, derived.validity) == ("n", validity)
    assert [item.source for item in found.derived] == [
        f"the inverse of {edit.id}",
        f"{edit.id}, and country of Chicago by tables",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_can_be_left_out(kind: str):
    (found,) = expand([CAPITAL], TABLES, ENCODER, kinds=[kind])
    kinds = ["alias"] * bool(found.aliases)
    kinds += ["inverse" if item.subject == "Chicago" else "one_hop" for item in found.derived]
    assert kinds + ["paraphrase"] * bool(found.paraphrases) == [kind]


def test_paraphrases_are_the_relations_wordings_as_prompts():
    edit = CAPITAL.replace(paraphrases=("the capital of NETHERLANDS is",), relation=None)
    (found,) = expand([edit], TABLES, ENCODER, kinds=["paraphrase"])
    own = edit.paraphrases
    assert found.paraphrases == (
        "What is the capital of Netherlands?",
        "The capital city of Netherlands is",
        "The city that is the capital of Netherlands is",
    )
    assert found.edit.paraphrases == (*own, *found.paraphrases)  # no more than REWORDINGS, and none twice
    assert (found.aliases, found.derived, found.edit.id) == ((), (), edit.id)
    (again,) = expand([found.edit], TABLES, ENCODER, kinds=["paraphrase"])
    assert again.paraphrases == ()
    (none,) = expand([edit.replace(subject=None)], TABLES, ENCODER, kinds=["paraphrase"])
    assert none.edit.paraphrases == own
    (less,) = expand([edit], TABLES, ENCODER, kinds=["paraphrase"], allowed=lambda wording: "city" in wording)
    assert less.paraphrases[0] == "The capital city of Netherlands is"
    left = found.without({found.paraphrases[0], *own})  # what was there before stays
    assert left.edit.paraphrases == (*own, *found.paraphrases[1:])
    assert left.paraphrases == found.paraphrases[1:]


def test_all_wordings_of_the_package_become_prompts():
    """A question keeps its mark; nothing else ends as a noun phrase would, without a verb or a preposition."""
    for relation in Relations.built_in().table.values():
        for prompt in relation.prompts:
            assert prompt.count("{}") == 1
            assert not prompt.startswith("the ")
    prompts = Relations.built_in().table["capital"].prompts
    assert "{}'s capital is" in prompts
    assert "{}'s capital city is" in prompts
    assert "{}, which has the capital" in prompts


@pytest.mark.parametrize("many", ["capital", "Capital of"])
def test_from_a_relation_with_many_objects_nothing_follows(many: str):
    (found,) = expand([CAPITAL], TABLES, ENCODER, many_valued=[many], kinds=["inverse"])
    assert not found.derived
    job = Edit("Ada Quill works as", "actor", subject="Ada Quill", relation="occupation")
    (found,) = expand([job], TABLES, ENCODER)
    assert found.relation is None


def test_a_step_over_a_relation_with_many_objects_is_not_taken():
    (found,) = expand([CAPITAL], TABLES, ENCODER, many_valued=["country"], kinds=["one_hop"])
    assert not found.derived


def test_the_relation_is_told_from_the_wording_where_it_has_no_name():
    (found,) = expand([CAPITAL.replace(relation=None)], TABLES, ENCODER)
    assert found.relation is not None
    assert found.relation.name == "capital"


def test_without_a_subject_nothing_follows():
    (found,) = expand([Edit("The capital of Vell is", "Rome")], TABLES, ENCODER)
    assert (found.aliases, found.derived, found.relation) == ((), (), None)


def test_unknown_kinds_are_refused():
    with pytest.raises(InvalidRequest, match="unknown kind of expansion 'two_hops'"):
        expand([CAPITAL], TABLES, ENCODER, kinds=["two_hops"])
    assert expand([], TABLES, ENCODER) == []


def test_review_takes_out_what_is_refused():
    (found,) = expand([CAPITAL], TABLES, ENCODER)
    left = found.without({"Holland", found.derived[0].id})
    assert (left.aliases, left.edit.aliases, left.derived) == ((), (), found.derived[1:])


def test_adopted_edits_are_live_and_go_with_their_parent(memory: Memory):
    found = expand([CAPITAL], TABLES, memory.encoder)
    derived = adopt(memory, found)
    assert [item.id for item in derived] == [item.id for item in found[0].derived]
    assert memory.get(CAPITAL.id).aliases == ("Holland",)
    assert memory.consequences(CAPITAL.id) == tuple(derived)
    assert len(memory) == 3
    memory.retract(CAPITAL.id)
    assert len(memory) == 0
    assert memory.consequences(CAPITAL.id) == ()
    assert not memory.mentions("Is Chicago in Holland?")


def test_a_live_edit_gets_its_names(memory: Memory):
    memory.add(CAPITAL)
    adopt(memory, expand([CAPITAL], TABLES, memory.encoder))
    assert memory.get(CAPITAL.id).aliases == ("Holland",)
    assert len(memory) == 3
    assert adopt(memory, [item.without({"Holland"}) for item in expand([CAPITAL], TABLES, memory.encoder)])
    assert len(memory) == 3


def test_a_live_edit_gets_its_paraphrases(memory: Memory):
    memory.add(CAPITAL)
    (found,) = expand([CAPITAL], TABLES, memory.encoder, kinds=["paraphrase"])
    assert adopt(memory, [found]) == []
    assert memory.get(CAPITAL.id).paraphrases == found.paraphrases
    assert memory.get(CAPITAL.id).aliases == ()


def test_a_superseded_parent_takes_its_consequences_along(memory: Memory, tmp_path: Path):
    adopt(memory, expand([CAPITAL], TABLES, memory.encoder))
    memory.add(CAPITAL.replace(target="Rome"))
    assert [edit.target for edit in memory.live()] == ["Rome"]
    with Memory.open(tmp_path / "facts.db", encoder=memory.encoder) as other:  # the same by replay
        assert [edit.target for edit in other.live()] == ["Rome"]


def test_changing_the_names_of_a_parent_keeps_its_consequences(memory: Memory):
    adopt(memory, expand([CAPITAL], TABLES, memory.encoder))
    memory.amend(CAPITAL.id, aliases=["Holland", "Low Countries"])
    assert len(memory) == 3


def test_what_somebody_said_outweighs_what_was_concluded(memory: Memory):
    said = memory.add("Chicago is the capital of", "Illinois", subject="Chicago", relation="capital of")
    derived = adopt(memory, expand([CAPITAL], TABLES, memory.encoder))
    assert [item.relation for item in derived] == ["capital / country"]
    assert memory.is_live(said.id)


def test_a_claim_of_its_own_takes_the_place_of_a_derived_one(memory: Memory):
    (inverse,) = adopt(memory, expand([CAPITAL], TABLES, memory.encoder, kinds=["inverse"]))
    own = memory.add(inverse.replace(parent=None))
    assert own.id != inverse.id
    memory.retract(CAPITAL.id)
    assert memory.live() == (own,)


def test_consequences_go_with_the_parent_at_any_depth(memory: Memory):
    memory.add(CAPITAL)
    (child,) = memory.add_consequences([Edit("a", "b", parent=CAPITAL.id)])
    (grandchild,) = memory.add_consequences([Edit("c", "d", parent=child.id)])
    memory.retract(child.id)
    assert not memory.is_live(grandchild.id)
    assert memory.is_live(CAPITAL.id)


def test_what_follows_from_a_consolidated_edit_stays():
    child = Edit("a", "b", parent=CAPITAL.id)
    state = replay(Event("added", edit, seq=seq) for seq, edit in enumerate((CAPITAL, child), 1))
    assert state.derived(CAPITAL.id) == (child,)
    state.apply(Event("consolidated", CAPITAL, seq=3))
    assert list(state.live) == [child.id]
    state.apply(Event("restored", CAPITAL, seq=4))
    removed, _ = state.apply(Event("retracted", CAPITAL, seq=5))
    assert {edit.id for edit in removed} == {CAPITAL.id, child.id}


def test_a_parent_is_part_of_what_is_claimed():
    child = CAPITAL.replace(parent=CAPITAL.id)
    assert child.id != CAPITAL.id
    assert Edit.from_dict(child.to_dict()) == child
    assert trusted(child.to_dict(), child.id) == child


def test_only_what_follows_from_a_live_edit_is_a_consequence(memory: Memory):
    with pytest.raises(InvalidEdit, match="has no parent"):
        memory.add_consequences([CAPITAL])
    with pytest.raises(UnknownEdit):
        memory.add_consequences([Edit("a", "b", parent=CAPITAL.id)])
    assert len(memory) == 0
