from __future__ import annotations

import pytest

from corrigenda.middleware.strategies.nested import is_nested, peel, put


def steps(text: str, name: str) -> list[str]:
    """Return what is asked step by step, every answer being "Ruritania"."""
    found, place = [], text.find(name)
    span = (place, place + len(name))
    for _ in range(6):
        step = peel(text, span)
        found.append(step.asked)
        if step.last:
            break
        text, span = put(text, step, "Ruritania")
        assert text[span[0] : span[1]] == "Ruritania"
    return found


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (
            "What is the capital of the country where Orlo Foods was founded?",
            "Orlo Foods",
            ["What is the country where Orlo Foods was founded?", "What is the capital of Ruritania?"],
        ),
        (
            "The official language of the country of the birthplace of Ada Quill is",
            "Ada Quill",
            [
                "What is the birthplace of Ada Quill?",
                "What is the country of Ruritania?",
                "The official language of Ruritania is",
            ],
        ),
        (
            "Which continent is home to the place that has Vell as its capital?",
            "Vell",
            ["What is the place that has Vell as its capital?", "Which continent is home to Ruritania?"],
        ),
        (
            "Who leads the firm that makes Tarvo kettles?",
            "Tarvo",
            ["What is the firm that makes Tarvo kettles?", "Who leads Ruritania?"],
        ),
        (
            "What is the currency of Ada Quill's home country?",
            "Ada Quill",
            ["What is Ada Quill's home country?", "What is the currency of Ruritania?"],
        ),
        # "the city that is" says what kind of thing it is, and asks nothing further.
        (
            "Which country contains the city that is the capital of the Duchy of Vell?",
            "Duchy of Vell",
            ["What is the city that is the capital of the Duchy of Vell?", "Which country contains Ruritania?"],
        ),
        (
            "The country of the city with the headquarters of Orlo Foods is",
            "Orlo Foods",
            ["What is the city with the headquarters of Orlo Foods?", "The country of Ruritania is"],
        ),
        # The clause ends where the outer sentence goes on.
        (
            "The country where the company that makes Tarvo is based lies in",
            "Tarvo",
            [
                "What is the company that makes Tarvo?",
                "What is the country where Ruritania is based?",
                "Ruritania lies in",
            ],
        ),
        (
            "Who leads the firm that Ada Quill, an actor, works for?",
            "Ada Quill",
            ["What is the firm that Ada Quill?", "Who leads Ruritania, an actor, works for?"],
        ),
    ],
)
def test_questions_are_peeled_from_the_inside_out(text: str, name: str, expected: list[str]):
    assert steps(text, name) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("What is the capital of Vell?", "Vell"),
        ("The capital of the Duchy of Vell is", "Duchy of Vell"),
        ("Vell's capital is", "Vell"),
        ("The Duchy's capital is", "Duchy"),
        ("Where is the headquarters of Orlo Foods located?", "Orlo Foods"),
        ("What city serves as the capital of Vell?", "Vell"),
        ("The continent where Vell is located is", "Vell"),
        ("Ada Quill was born in", "Ada Quill"),
        ("The mill has five floors. Ada Quill was born in", "Ada Quill"),
        ("Ada Quill's area of work is", "Ada Quill"),
    ],
)
def test_one_step_is_not_nested(text: str, name: str):
    place = text.find(name)
    assert not is_nested(text, (place, place + len(name)))
    step = peel(text, (place, place + len(name)))
    assert (step.asked, step.start, step.end) == (text, 0, len(text))


def test_a_name_at_the_very_end_of_an_open_statement_is_no_phrase():
    assert not is_nested("The capital of Was", (15, 18))
