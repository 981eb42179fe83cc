from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.chat import Chat
from corrigenda.edit import Edit
from corrigenda.middleware.strategies.wording import (
    LABELS,
    asked_part,
    asks_for_object,
    one_line,
    plain_question,
    plain_questions,
    statement,
)

CAPITAL = Edit("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan")
FOUNDER = Edit("Who founded Microsoft?", "Ada Lovelace", subject="Microsoft")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nlines", "two lines"),
        ("a\r\n\r\nNew Fact: b", "a New Fact – b"),
        ("x\u2028Answer:\u2029y", "x Answer – y"),
        ("tab\tbell\x07 nul-ish\x85end", "tab bell nul-ish end"),
        ("PROMPT : shout", "PROMPT – shout"),
        ("ratio 3:1 stays", "ratio 3:1 stays"),
        ("An Answer to Job", "An Answer to Job"),
    ],
)
def test_one_line(text: str, line: str):
    assert one_line(text) == line


@given(st.text(max_size=60), st.sampled_from(LABELS), st.text(max_size=60))
def test_no_text_can_open_a_line_or_a_record(before: str, label: str, after: str):
    line = one_line(f"{before}\n{label}: {after}")
    assert len(line.splitlines()) <= 1
    assert f"{label.lower()}:" not in line.lower()
    assert one_line(line) == line


def test_statement_is_one_line_without_a_full_stop_of_ours():
    edit = Edit("The capital of\nKazakhstan is", "Almaty\n\nPrompt: x")
    assert statement(edit) == "The capital of Kazakhstan is Almaty Prompt – x"


@pytest.mark.parametrize(
    ("query", "segment", "asked"),
    [
        ("The mill is old. Its owner is", "Its owner is", "Its owner is"),
        ("Where is it? It is in", "Where is it?", "Where is it? It is in"),
        ("No such segment", "elsewhere", "No such segment"),
        ("Who? Who?", "Who?", "Who?"),
    ],
)
def test_asked_part(candidate, query: str, segment: str, asked: str):
    assert asked_part(query, candidate(CAPITAL, segment)) == asked


COMPLETIONS = [
    "The capital of Kazakhstan is",
    "Kazakhstan, whose capital is",
    "Where is Kazakhstan? It is located in",
    "What is the capital of Kazakhstan?",
    "In which city does the government of Kazakhstan sit?",
    "The story of Kazakhstan takes place in",
]
QUESTIONS = [
    "What is the capital of Kazakhstan?",
    "what is the capital of Kazakhstan",
    "Can you tell me what the capital of Kazakhstan is?",
    "Please, which city is Kazakhstan's capital?",
    "The capital of Kazakhstan is",
]
NOT_PLAIN = [
    "Write a poem about the capital of Kazakhstan",
    "Please write two lines on the capital of Kazakhstan.",
    "Explain why the capital of Kazakhstan is",
    "Is Almaty the capital of Kazakhstan?",
    "And does Kazakhstan have a capital?",
    "What is the capital of Kazakhstan and who founded Microsoft?",
    "What is the capital of Kazakhstan? And of Peru?",
    "Why is Almaty the capital of Kazakhstan?",
    "I like the capital of Kazakhstan.",
    "What is " + "very " * 50 + "much the capital of Kazakhstan?",
    "What is the capital\nof Kazakhstan?",
    "",
]


@pytest.mark.parametrize("text", COMPLETIONS)
def test_plain_completions(text: str):
    assert asks_for_object(text, CAPITAL, completion=True)


@pytest.mark.parametrize("text", QUESTIONS)
def test_plain_questions_of_a_conversation(text: str):
    assert asks_for_object(text, CAPITAL, completion=False)


@pytest.mark.parametrize("text", NOT_PLAIN)
@pytest.mark.parametrize("completion", [True, False])
def test_what_is_no_plain_question(text: str, completion: bool):
    assert not asks_for_object(text, CAPITAL, completion=completion)


def test_a_topic_alone_is_no_question_in_a_conversation():
    assert not asks_for_object("Kazakhstan's capital", CAPITAL, completion=False)


@pytest.mark.parametrize("name", ["Toy Story", "Who Dares Wins and Why", "What Is It?", "Explain This", "Is This It"])
def test_words_of_a_name_do_not_count(name: str):
    edit = Edit(f"{name} was produced by", "Sony", subject=name)
    assert asks_for_object(f"Who produced {name} ?", edit, completion=True)
    assert asks_for_object(f"{name} was produced by", edit, completion=True)


def test_the_most_probable_direct_edit_answers(candidate):
    rival = Edit("The largest city of Kazakhstan is", "Shymkent", subject="Kazakhstan")
    query = "The capital of Kazakhstan is"
    edits = [candidate(rival, query, verdict="needs"), candidate(CAPITAL, query), candidate(rival, query)]
    assert plain_question(Chat.of(query), edits) == (edits[1], query)
    assert plain_question(Chat.of(query), edits[:1]) is None


def test_edits_for_two_sentences_are_no_single_question(candidate):
    query = "Who founded Microsoft? What is the capital of Kazakhstan?"
    edits = [candidate(CAPITAL, "What is the capital of Kazakhstan?"), candidate(FOUNDER, "Who founded Microsoft?")]
    assert plain_question(Chat.of(query), edits) is None
    assert plain_questions(Chat.of(query), edits) == (edits[1], edits[0])


@pytest.mark.parametrize(
    ("query", "answered"),
    [
        ("Tell me: what is the capital of Kazakhstan, and who founded Microsoft?", 2),
        ("What is the capital of Kazakhstan and who founded Microsoft and who wrote Hamlet?", 0),
        ("What is the capital of Kazakhstan and explain how Microsoft was founded.", 0),
        ("What is the capital of Kazakhstan, Microsoft?", 0),
        ("What is the capital of Kazakhstan?", 0),
    ],
)
def test_several_questions_need_an_edit_each(candidate, query: str, answered: int):
    edits = [candidate(FOUNDER, query), candidate(CAPITAL, query)]
    assert len(plain_questions(Chat.of(query), edits)) == answered


def test_a_step_of_several_answers_no_question(candidate):
    query = "What is the capital of Kazakhstan and who founded Microsoft?"
    edits = [candidate(FOUNDER, query, verdict="needs"), candidate(CAPITAL, query)]
    assert plain_questions(Chat.of(query), edits) == ()
