from __future__ import annotations

import pytest

from corrigenda.chat import MAX_QUERY, Chat, Fired, Message, Reply, Trace, check_query
from corrigenda.edit import EditId
from corrigenda.errors import InvalidRequest


def test_text_is_a_completion_and_messages_are_a_chat():
    assert Chat.of("The capital of", temperature=0.5) == Chat(
        (Message("user", "The capital of"),), completion=True, options={"temperature": 0.5}
    )
    turns = [{"role": "user", "content": "Hi"}, Message("assistant", ""), {"role": "user", "content": "Who?"}]
    chat = Chat.of(turns)
    assert not chat.completion
    assert chat.query == "Who?"
    assert Chat.of([{"role": "system", "content": "Be brief."}]).query == "Be brief."


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"),
        ("x" * (MAX_QUERY + 1), "200,001 characters"),
        ("a\x00", "NUL"),
        ("a\udfff", "surrogate"),
        (7, "must be text or a list of messages, not int"),
        ({"role": "user", "content": "x"}, "not dict"),
        ([], "at least one message"),
        (["hello"], "a message must be a dict or a Message, not str"),
        ([{"role": "user"}], "needs 'role' and 'content'"),
        ([{"role": "robot", "content": "x"}], "unknown role 'robot'"),
        ([{"role": "system", "content": 3}], "must be text, not int"),
        ([{"role": "user", "content": None}], "must be text, not NoneType"),
    ],
)
def test_bad_requests(prompt: object, words: str):
    with pytest.raises(InvalidRequest, match=words):
        Chat.of(prompt)  # type: ignore[arg-type]


def test_a_query_is_not_changed_by_the_check():
    assert check_query("  spaces stay ") == "  spaces stay "


def test_a_trace_tells_what_fired():
    trace = Trace((Fired(EditId("e1"), 0.98, 0.48, "X is Y."),), "ike", 3, {"encode": 1.23456}, ("rebuilt",))
    assert not trace.untouched
    assert Trace().untouched
    assert trace.to_dict() == {
        "fired": [{"edit": "e1", "statement": "X is Y.", "probability": 0.98, "margin": 0.48}],
        "strategy": "ike",
        "ledger_version": 3,
        "milliseconds": {"encode": 1.235},
        "notes": ["rebuilt"],
    }
    assert str(Reply("hello", trace)) == "hello"
