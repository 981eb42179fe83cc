from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.eval.normalise import matches, mentions, normalise, unchanged


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        (" Rome", ["Rome"]),
        (" Rome.", ["Rome"]),
        (" rome, Italy", ["Rome"]),
        ("“Rome” is", ["Rome"]),
        (" the Rome of old", ["Rome"]),
        (" The Hague", ["The Hague"]),
        (" Hague", ["The Hague"]),
        ("\n  NEW   YORK city", ["New York"]),
        ("Ｒｏｍｅ", ["Rome"]),
        ("**Rome**", ["Rome"]),
        (" UK", ["United Kingdom", "UK"]),
        (" C++ and C", ["C++"]),
        ("Mali's capital", ["Mali"]),
        (" 5 million", ["5"]),
        ("-40 degrees", ["-40"]),
        ("北京市", ["北京"]),
        ("東京です", ["東京"]),
        ("A", ["a"]),
        ("!", ["!"]),
        ("a an the end", ["end"]),
    ],
)
def test_right(answer, accepted):
    assert matches(answer, accepted)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        (" Romeo", ["Rome"]),
        (" The city of Rome", ["Rome"]),
        ("", ["Rome"]),
        (" Rome", []),
        (" C++", ["C"]),
        (" C#", ["C"]),
        (" 1.5 metres", ["1"]),
        (" 1,500 metres", ["1"]),
        (" 40 degrees", ["-40"]),
        (" Cote d'Ivoire", ["Côte d'Ivoire"]),
        (" Rom", ["Rome"]),
        (" Paris", ["a"]),
        ("रामायण", ["राम"]),
    ],
)
def test_wrong(answer, accepted):
    assert not matches(answer, accepted)


@pytest.mark.parametrize(
    ("answer", "accepted", "held"),
    [
        ("It is 1.5 km.", "5", False),
        ("There are 1,500 people.", "500", False),
        ("It is -5 degrees.", "5", False),
        ("यह रामायण है", "राम", False),
        ("यह जयराम है", "राम", False),
        ("It is 5 km, no more.", "5", True),
        ("It is -5 degrees.", "-5", True),
        ("In 1939-45 it was.", "45", True),
        ("Of 1, 500 remain.", "500", True),
        ("यह राम है", "राम", True),
        ("อยู่ที่กรุงเทพ", "กรุงเทพ", True),
    ],
)
def test_mentioned_as_a_whole_word_or_number(answer, accepted, held):
    assert mentions(answer, [accepted]) is held


def test_normal_form():
    assert normalise('  "The  Beatles!" ') == "beatles"
    assert normalise("the") == "the"
    assert normalise("...") == "..."
    assert normalise("Straße") == "strasse"
    assert normalise("") == ""


def test_unchanged_looks_at_the_whole_answer():
    assert unchanged(" the Seine.", "Seine")
    assert unchanged("", "")
    assert not unchanged(" the Seine", " the Seine, in Paris")
    assert not unchanged("", " the Seine")


@given(st.text())
def test_an_answer_is_unchanged_and_right_against_itself(text):
    assert unchanged(text, text)
    if normalise(text):
        assert matches(text, [text])


@given(st.text())
def test_normalising_keeps_something(text):
    assert bool(normalise(text)) == bool(text.split())


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("He was born on 05.12.1990 in Rome.", "1990"),
        ("born January 5,1990", "1990"),
        ("In 1989,1990 and later", "1990"),
        ("❤\ufe0fParis", "Paris"),
    ],
)
def test_a_year_in_a_date_is_mentioned(answer, wanted):
    assert mentions(answer, [wanted])
