from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.edit import MAX_LIST, MAX_PROMPT, Edit, Validity, fold
from corrigenda.errors import InvalidEdit


def make(**changes: object) -> Edit:
    fields: dict[str, object] = {
        "prompt": "The capital of Nigeria is",
        "target": "Abuja",
        "subject": "Nigeria",
    }
    return Edit(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_id_is_a_hash_of_what_is_claimed_and_of_nothing_else():
    edit = make()
    assert edit.id == make(author="me", tags=("a",), aliases=("NG",), paraphrases=("Nigeria's capital is",)).id
    assert edit.id.startswith("e")
    assert len(edit.id) == 21
    others = [
        make(prompt="Nigeria's capital is"),
        make(target="Lagos"),
        make(subject=None),
        make(relation="capital"),
    ]
    others += [make(namespace="b"), make(validity=Validity(start=datetime(2026, 1, 1, tzinfo=UTC)))]
    assert len({edit.id, *(other.id for other in others)}) == 7


def test_text_is_stripped_and_normalised():
    assert make(prompt="  The cafe\u0301 is in ").prompt == "The caf\u00e9 is in"
    assert make(aliases=["NG", "NG "]).aliases == ("NG",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "   "}, "prompt is empty"),
        ({"target": ""}, "target is empty"),
        ({"prompt": "x" * 1_000_000}, "prompt has 1,000,000 characters; at most 4,000"),
        ({"target": "\u0958" * 600}, "target has 1,200 characters; at most 1,000"),  # each is two in form NFC
        ({"target": "a\x00b"}, "NUL"),
        ({"subject": "a\ud800"}, "lone surrogate"),
        ({"old_answer": " ABUJA "}, "equals the old answer"),
        ({"prompt": 3}, "prompt must be text, not int"),
        ({"aliases": "NG"}, "aliases must be a list of texts, not str"),
        ({"tags": [1]}, r"tags\[0\] must be text"),
        ({"tags": ["t"] * (MAX_LIST + 1)}, "at most 256"),
        ({"validity": "2026"}, "validity must be a Validity"),
        ({"paraphrases": ["x" * (MAX_PROMPT + 1)]}, r"paraphrases\[0\] has 4,001 characters"),
    ],
)
def test_bad_fields_are_refused_with_the_reason(changes: dict[str, object], words: str):
    with pytest.raises(InvalidEdit, match=words):
        make(**changes)


def test_statement_and_question():
    assert make().statement == "The capital of Nigeria is Abuja."
    assert make(target="Abuja!").statement == "The capital of Nigeria is Abuja!"
    question = make(prompt="What is the capital of Nigeria?")
    assert question.is_question
    assert question.statement == "What is the capital of Nigeria? Abuja"


def test_names_and_conflict_key():
    assert make(aliases=("NG",)).names == ("Nigeria", "NG")
    assert make(subject=None).names == ()
    assert make().conflict_key is None
    assert make(relation="Capital").conflict_key == ("default", "nigeria", "capital")


def test_validity_is_half_open_and_in_utc():
    start = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    span = Validity(start, start + timedelta(days=1))
    assert span.start == datetime(2025, 12, 31, 22, tzinfo=UTC)
    assert span.covers(start)
    assert not span.covers(start + timedelta(days=1))
    assert not span.covers(start - timedelta(seconds=1))
    assert Validity().covers(start)


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (datetime(2026, 1, 1), None, "time zone"),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), "not before"),
        ("2026", None, "time zone"),
        (None, datetime.fromisoformat("9999-12-31T23:59:59-05:00"), "outside of the years"),
        (datetime.fromisoformat("0001-01-01T00:00:00+05:00"), None, "outside of the years"),
    ],
)
def test_bad_validity(start: object, end: object, words: str):
    with pytest.raises(InvalidEdit, match=words):
        Validity(start, end)  # type: ignore[arg-type]


def test_from_dict_reads_times_and_ignores_the_id():
    edit = Edit.from_dict({"id": "e0", "prompt": "p", "target": "t", "valid_from": "2026-01-31", "valid_to": None})
    assert edit.validity == Validity(datetime(2026, 1, 31, tzinfo=UTC))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], "must be a JSON object, not list"),
        ({"prompt": "p"}, "needs 'target'"),
        ({"prompt": "p", "target": "t", "colour": "red"}, "unknown field.*'colour'"),
        ({"prompt": "p", "target": "t", "valid_from": "soon"}, "'soon' is not a time"),
        ({"prompt": "p", "target": "t", "valid_from": 3}, "3 is not a time"),
    ],
)
def test_from_dict_refuses(row: object, words: str):
    with pytest.raises(InvalidEdit, match=words):
        Edit.from_dict(row)  # type: ignore[arg-type]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)


@given(
    texts,
    texts,
    st.none() | texts,
    st.lists(texts, max_size=3),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)
def test_to_dict_and_back(prompt: str, target: str, subject: str | None, tags: list[str], start: datetime | None):
    try:
        edit = Edit(prompt, target, subject=subject, tags=tuple(tags), validity=Validity(start))
    except InvalidEdit:
        return  # NFC can leave nothing but white space
    again = Edit.from_dict(edit.to_dict())
    assert again == edit
    assert again.id == edit.id
    assert edit.replace() == edit


def test_fold_compares_what_people_read_as_equal():
    assert fold("  Ｎew\u00a0YORK ") == fold("new york")
