import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrigenda.edit import EditId
from corrigenda.memory.mentions import Names
from corrigenda.memory.scope_parts import parts
from corrigenda.memory.segments import MAX_CHARACTERS, MAX_SEGMENTS, segments


def asked(query):
    return [segment.text for segment in segments(query) if segment.asked]


def test_an_unrelated_sentence_before_the_prompt_is_cut_off():
    query = "The ground floor of the mill is the meal floor. Microsoft TechNet's owner is"
    assert [segment.text for segment in segments(query)] == [
        "The ground floor of the mill is the meal floor.",
        "Microsoft TechNet's owner is",
    ]
    assert asked(query) == ["Microsoft TechNet's owner is"]


def test_a_question_in_the_middle_of_a_message_is_found():
    message = "Hi there!\nI am writing an essay. Who owns Microsoft TechNet? It is due tomorrow.\nThanks!"
    assert "Who owns Microsoft TechNet?" in asked(message)
    assert "I am writing an essay." not in asked(message)


def test_courtesies_at_the_end_do_not_hide_what_was_said_before():
    assert asked("I would love the name of the owner of TechNet. Thank you!")[0].startswith("I would love")


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith was born in",
        "Edmond S. Meany died in",
        "Vint Cerf, Jr. works for",
        "Windows NT 3.5 is",
        "C. S. Lewis",
    ],
)
def test_abbreviations_and_numbers_end_no_sentence(text):
    assert [segment.text for segment in segments(text)] == [text]


def test_long_texts_are_bounded():
    found = segments("A sentence that tells something. " * 500 + "Who asks?")
    assert len(found) == MAX_SEGMENTS
    assert found[-1].text == "Who asks?"
    assert all(len(segment.text) <= MAX_CHARACTERS for segment in segments("word " * 5000))
    assert max(len(segment.text) for segment in segments("x" * 5000)) <= MAX_CHARACTERS


@pytest.mark.parametrize(
    "query",
    ["a" + " " * 60_000 + "b", "a. " * 60_000, "Oslo. " * 12_000],
    ids=["spaces", "initials", "names"],
)
def test_the_cost_of_a_long_query_is_not_the_square_of_its_length(query):
    names = Names()
    names.add(EditId("e1"), ["Oslo"])
    began = time.perf_counter()
    assert parts(query, (), names.find)
    assert time.perf_counter() - began < 8  # tenths of a second; a minute and more by the square


def test_names_that_overlap_hold_no_end_of_a_sentence():
    query = "Yahoo! Tech. News pays"
    assert len(segments(query)) == 3
    assert len(segments(query, [(len("Yahoo! "), len("Yahoo! Tech. News")), (0, len("Yahoo! Tech."))])) == 1


def test_text_without_words_is_one_segment():
    assert [segment.text for segment in segments("?!")] == ["?!"]


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=300))
def test_segments_are_parts_of_the_query_in_order(query):
    end = 0
    for segment in segments(query):
        assert query[segment.start : segment.end] == segment.text
        assert segment.start >= end
        end = segment.end
    assert any(segment.asked for segment in segments(query))
