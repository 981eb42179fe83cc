import pytest

from corrigenda.edit import Edit
from corrigenda.memory.texts import (
    bare_word,
    capitalised_runs,
    find_name,
    frame,
    frame_text,
    index_text,
    infer_subject,
    split_statement,
)


def test_the_frame_has_a_placeholder_for_the_subject():
    edit = Edit("The capital of Kazakhstan is", "Astana", subject="Kazakhstan")
    assert index_text(edit) == edit.prompt
    assert frame_text(edit) == "The capital of X is"
    assert frame_text(edit.replace(subject="KAZAKHSTAN")) == "The capital of X is"


def test_an_alias_stands_in_for_a_subject_that_the_prompt_does_not_hold():
    edit = Edit("The capital of the KZ Republic is", "Astana", subject="Kazakhstan", aliases=["KZ Republic"])
    assert frame_text(edit) == "The capital of the X is"


@pytest.mark.parametrize(
    ("prompt", "frame_of_it"),
    [
        ("In Kazakhstan, the capital is", "In X, the capital is"),
        ('Where was "war and peace" written?', 'Where was "X" written?'),
        ("What is Daniel Pennacchioni's mother tongue?", "What is X's mother tongue?"),
        ("Loy Yang Power Station, which is located in", "X, which is located in"),
        ("Bank of the West is owned by", "X is owned by"),
        ("Peter M. Bowers works for", "X works for"),
        ("Which company is iPad produced by?", "Which company is X produced by?"),
        ("the sky is", "the sky is"),
    ],
)
def test_without_a_subject_it_is_inferred(prompt, frame_of_it):
    assert frame_text(Edit(prompt, "something")) == frame_of_it


def test_names_are_found_whole_and_in_any_case():
    assert find_name("Rome, ROME and Romeo", "rome") == ((0, 4), (6, 10))
    assert find_name("New  York", "New York") == ((0, 9),)
    assert find_name("C++ and C", "C++") == ((0, 3),)


def test_overlapping_spans_are_replaced_once():
    assert frame("abcdef", [(1, 4), (2, 5)]) == "aXef"


@pytest.mark.parametrize(
    ("text", "prompt", "target"),
    [
        ("Where was Ada born? Rome", "Where was Ada born?", "Rome"),
        ("What is the twin city of Ghent? It is Oslo.", "What is the twin city of Ghent? It is", "Oslo"),
        ("The capital of Ghana is New Delhi.", "The capital of Ghana is", "New Delhi"),
        ("The owner of Ghana is the BBC.", "The owner of Ghana is", "BBC"),
        ("Ada Low works in the field of organic chemistry.", "Ada Low works in the field of", "organic chemistry"),
        ("The Beatles performs trance.", "The Beatles performs", "trance"),
        ("Word", "Word", "Word"),
    ],
)
def test_statements_are_split_before_the_target(text, prompt, target):
    assert split_statement(text) == (prompt, target)


def test_small_tools():
    assert bare_word("Ada's") == "Ada"
    assert bare_word("etc.") == "etc"
    assert (
        [  # linking words belong to a run only between capitals
            "Ludwig van Beethoven of Bonn and others"[start:end]
            for start, end in capitalised_runs("Ludwig van Beethoven of Bonn and others")
        ]
        == ["Ludwig van Beethoven of Bonn"]
    )
    assert infer_subject("nothing here") is None
