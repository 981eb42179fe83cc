from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrigenda.errors import InvalidEdit
from corrigenda.memory import feedback
from corrigenda.memory.feedback import feedback_edit, recall
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder


def edit(query: str, clarification: str = "clarification: I mean it", **more):
    return feedback_edit(query, clarification, **{"argument": None, "namespace": "default", "author": None} | more)


@pytest.fixture
def memory(tmp_path):
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder(32)) as store:
        yield store


def test_feedback_is_recalled_for_other_arguments(memory):
    memory.feedback("What is akin to < quick > ?", "when I ask for akin to, I want a synonym")
    (found,) = memory.recall(["what is AKIN to < slow and steady >?"])
    assert found.clarification == "when I ask for akin to, I want a synonym"
    assert memory.recall(["what is unlike < quick > ?", "What is akin to ?", "Hello"]) == [None, None, None]


def test_the_latest_word_on_a_way_of_asking_counts(memory):
    memory.feedback("What is like < a > ?", "first")
    memory.feedback("What is like < b > ?", "second")
    assert len(memory.live("default/feedback")) == 1
    assert memory.recall(["What is like < c > ?"])[0].clarification == "second"


def test_feedback_is_durable_withdrawn_and_nobody_elses(tmp_path):
    path = tmp_path / "facts.db"
    with Memory.open(path, encoder=FixedEncoder(32)) as memory:
        kept = memory.feedback("Say < x > softly", "in lower case", author="ann")
        memory.feedback("Say < x > softly", "theirs", namespace="theirs")
    with Memory.open(path, encoder=FixedEncoder(32)) as memory:
        assert memory.recall(["Say < hello > softly"])[0].edit.author == "ann"
        assert memory.recall(["Say < hello > softly"], "nobody") == [None]
        assert memory.live() == ()
        memory.retract(kept.id)
        assert memory.recall(["Say < hello > softly"]) == [None]
        assert memory.recall(["Say < hello > softly"], "theirs")[0].clarification == "theirs"


def test_an_argument_that_no_bracket_marks():
    stored = edit("What is a word like happy?", argument="happy")
    assert recall("what is a word like sad?", [stored])
    assert recall("what is a word like over the moon", [stored])
    assert recall("what is a word like one two three four five six seven", [stored]) is None
    assert recall("what is a word like", [stored]) is None


def test_marked_arguments_are_the_only_ones():
    # "< w > varaga ki hunda ae" asks for a synonym, "< w > ki hunda ae" for a definition.
    assert recall("< word > varaga ki hunda ae ?", [edit("< word > ki hunda ae ?")]) is None


def test_the_most_specific_counts_then_the_newest():
    loose, tight = edit("give me < x >", "loose"), edit("give me < x > quickly", "tight")
    assert recall("give me a song quickly", [tight, loose]).clarification == "tight"
    first, second = edit("give me < x >", "first"), edit("Give me < y >", "second")
    assert recall("give me a song", [first, second]).clarification == "second"


@pytest.mark.parametrize(
    ("query", "typos"),
    [
        ("what is similar to < x >", 0),
        ("what is similr to < x >", 1),
        ("what is similarr to < x >", 1),
        ("what is simillar to < x >", 1),
        ("what is smiilar to < x >", 1),
        ("what is sumilar to < x >", 1),
        ("what is dissimilar to < x >", None),
        ("what was similar to < x >", None),
    ],
)
def test_one_typing_error_in_a_long_word_is_forgiven(query, typos):
    found = recall(query, [edit("What is similar to < y > ?")])
    assert (found and found.typos) == typos


def test_feedback_that_is_none():
    with pytest.raises(InvalidEdit, match="no words besides"):
        edit("< x > ?")
    with pytest.raises(InvalidEdit, match="does not occur"):
        edit("What is like happy?", argument="sad")
    with pytest.raises(InvalidEdit, match="target is empty"):
        edit("What is like < x > ?", " ")


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_text_breaks_it(query, asked):
    try:
        stored = edit(query)
    except InvalidEdit:
        return
    found = recall(stored.prompt, [stored])
    assert found is not None
    assert found.edit == stored
    recall(asked, [stored])  # whatever it finds, it must not raise


def test_queries_are_not_kept(memory):
    memory.feedback("What is akin to < quick > ?", "a synonym")
    kept = feedback._pattern.cache_info().currsize
    for number in range(50):
        memory.recall([f"What is unlike number {number}?"])
    assert feedback._pattern.cache_info().currsize <= kept + 1
