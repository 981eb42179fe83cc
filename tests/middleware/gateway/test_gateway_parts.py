"""The parts of the gateway that need no server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import Stub, post, serving
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.chat import Chat, Message
from corrigenda.edit import Edit
from corrigenda.errors import CorrigendaError, InvalidRequest, StoreDamaged, StoreNotWritable, UnknownName
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.briefing import Briefing
from corrigenda.middleware.gateway import server
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.attention import LONG, Attention
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.limits import Buckets
from corrigenda.middleware.gateway.passing import bare_app
from corrigenda.middleware.gateway.settings import Settings, upstream_base
from corrigenda.middleware.wire import Asked, asked, harmless, revised

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "text"]), inner),
    max_leaves=12,
)


class TestWire:
    @given(endpoint=st.sampled_from(["chat", "completions", "responses"]), value=JSON)
    def test_whatever_is_sent_is_read_without_an_error(self, endpoint: Any, value: Any) -> None:
        key = {"chat": "messages", "completions": "prompt", "responses": "input"}[endpoint]
        body = {key: value, "other": 1}
        for question in asked(endpoint, body):
            assert revised(endpoint, body, question, question.chat) == body
        if not isinstance(value, dict):
            assert asked(endpoint, value) == []

    def test_turns_that_a_strategy_adds_or_drops(self) -> None:
        body = {"messages": [{"role": "user", "content": "a", "x": 1}, {"role": "tool", "content": "t"}]}
        body["messages"].append({"role": "user", "content": "b", "y": 2})
        (question,) = asked("chat", body)
        more = Chat((Message("user", "a"), Message("system", "note"), Message("user", "B")))
        assert revised("chat", body, question, more)["messages"] == [
            *body["messages"][:2],
            {"role": "system", "content": "note"},
            {"role": "user", "content": "B", "y": 2},
        ]
        less = Chat((Message("user", "b"),))
        assert revised("chat", body, question, less)["messages"] == body["messages"][1:]

    def test_a_plain_input_may_become_a_conversation(self) -> None:
        question = Asked(Chat((Message("user", "a"),)))
        chat = Chat((Message("system", "s"), Message("user", "a")))
        assert revised("responses", {"input": "a"}, question, chat)["input"] == [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
        ]

    def test_harmless(self) -> None:
        assert harmless("a <|im_end|>\n b [INST] </s>") == "a <| im_end|> b [ INST] < /s>"
        assert harmless("5 < 6 | x [1] <b>") == "5 < 6 | x [1] <b>"


HOSTILE = st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>system", "[/INST]", "[INST]", "</s>", "<s>", "<<SYS>>", "<end_of_turn>"]
    )
    | st.text(max_size=6)
    | st.sampled_from(["\n", '"}]', '"role":"system"', "<|eot_id|>", "<|", "|>", "\nUser:"]),
    min_size=1,
    max_size=6,
).map("".join)


@given(target=HOSTILE, streamed=st.booleans())
def test_no_edit_text_alters_roles_or_the_template(target: str, streamed: bool) -> None:
    try:
        edit = Edit("The capital of Oz is", target, subject="Oz")
    except CorrigendaError:
        return  # nothing that can be an edit
    body = {"stream": streamed, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Oz is?"}]}
    (question,) = asked("chat", body)
    hit = Candidate(edit, 0.9, 0.5, 0.8, None, {}, "direct", "Oz is?")
    sent = json.loads(json.dumps(revised("chat", body, question, Briefing().plan(question.chat, [hit]).request)))
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
    assert (sent["messages"][0], sent["stream"]) == (body["messages"][0], streamed)
    said = sent["messages"][1]["content"]
    for token in (
        "<|im_end|>",
        "<|im_start|>",
        "<|eot_id|>",
        "[INST]",
        "[/INST]",
        "</s>",
        "<s>",
        "<<SYS>>",
        "<end_of_turn>",
    ):
        assert token not in said
    # Whatever the edit says stays on the line of its fact: it cannot pretend to be a line of its own.
    assert said.count("\n") <= 4


class TestAttention:
    def test_names_parts_of_names_and_long_texts(self, memory: Memory) -> None:
        attention = Attention(memory)
        assert not attention.may_concern(asking("Anything"), "default")
        memory.add("Anna Lindqvist was born in", "Rome", subject="Anna Lindqvist", aliases=["Annie L"])
        assert attention.may_concern(asking("where was anna lindqvist born?"), "default")
        assert attention.may_concern(asking("Where was Lindqvist born?"), "default")
        assert attention.may_concern(asking("hello", "and Annie L?"), "default")
        assert attention.may_concern(asking("x" * (LONG + 1)), "default")
        assert not attention.may_concern(asking("What about the weather in June?"), "default")
        assert not attention.may_concern(asking("Where was Lindqvist born?"), "other")

    def test_many_short_texts_are_as_long_as_one(self, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
        attention = Attention(memory)
        memory.add("Anna Lindqvist was born in", "Rome", subject="Anna Lindqvist")
        text, read = "Tell Wobbly Stories About Something Else " * 50, 0
        find = type(memory.names()).find

        def counted(names: Any, text: str, *more: Any) -> Any:
            nonlocal read
            read += len(text)
            return find(names, text, *more)

        monkeypatch.setattr(type(memory.names()), "find", counted)
        assert not attention.may_concern(asking(*[text] * 3), "default")
        read = 0
        assert attention.may_concern(asking(*[text] * 1_000), "default")
        assert 0 < read <= LONG

    def test_an_edit_that_is_to_hold_later_is_looked_for_from_now_on(self, memory: Memory) -> None:
        attention = Attention(memory)
        memory.add("Our office hours are now", "nine to five", valid_from=datetime.now(UTC) + timedelta(days=1))
        assert memory.live() == ()
        assert attention.may_concern(asking("When may I come in? Please tell me."), "default")

    def test_namespaces_are_read_as_edits_keep_them(self, memory: Memory) -> None:
        memory.add("Our office hours are now", "nine to five", namespace="cafe\u0301")
        assert Attention(memory).may_concern(asking("When may I come in?"), "cafe\u0301")

    def test_an_edit_without_a_name_is_found_by_meaning_only(self, memory: Memory) -> None:
        attention = Attention(memory)
        edit = memory.add("The colour of the sky at noon is", "green")
        assert attention.may_concern(asking("anything at all"), "default")
        memory.retract(edit.id)
        assert not attention.may_concern(asking("anything at all"), "default")

    def test_a_question_that_points_back_is_about_what_was_said_before(self, memory: Memory) -> None:
        attention = Attention(memory)
        memory.add("The capital of Kazakhstan is", "Astana", subject="Kazakhstan")
        said = [("system", "Kazakhstan"), ("user", "Tell me about Kazakhstan."), ("assistant", "A country.")]

        def after(*turns: tuple[Any, str]) -> bool:
            return attention.may_concern([Chat(tuple(Message(role, text) for role, text in turns))], "default")

        assert after(*said, ("user", "Who is its president?"))
        assert after(*said, ("user", "And its capital?"), ("assistant", "..."))
        assert not after(said[0], ("user", "Who is its president?"))
        aside = "Please write a short letter to my landlord in which I ask for two new keys and a working doorbell"
        assert not after(*said, ("user", aside))
        assert not after(*said[1:2], *[("assistant", "Well.")] * 7, ("user", "Who is its president?"))
        assert not attention.may_concern([Chat((Message("system", "Kazakhstan"),))], "default")


def asking(*texts: str) -> list[Chat]:
    return [Chat((Message("user", text),)) for text in texts]


def test_buckets() -> None:
    now = [0.0]
    buckets = Buckets(2.0, 3, clock=lambda: now[0])
    assert [buckets.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.wait("b") == 0
    now[0] = 0.5
    assert (buckets.wait("a"), buckets.wait("a")) == (0, 0.5)


def test_settings_and_urls() -> None:
    for wrong in ({"on_failure": "x"}, {"max_body": 0}, {"rate": 0.0}):
        with pytest.raises(InvalidRequest):
            Settings(**wrong)
    assert upstream_base("http://h:1/v1/") == upstream_base("http://h:1") == "http://h:1"
    for url in ("h:1", "ftp://h", "http://", "http://h/?a=b", "http://u:p@h"):
        with pytest.raises(InvalidRequest):
            upstream_base(url)


def test_keys(keys: Keys, tmp_path: Path) -> None:
    for name, role, spaces, error in (
        ("", "reader", ["a"], InvalidRequest),
        ("a", "reader", [], InvalidRequest),
        ("a", "king", ["a"], UnknownName),
    ):
        with pytest.raises(error):
            keys.create(name, role, spaces)
    key, _ = keys.create("a", "editor", ["x"])
    assert (key.may("reader", "x"), key.may("editor", "x"), key.may("admin", "x")) == (True, True, False)
    assert (key.may("reader", "y"), key.may("reader")) == (False, False)
    with pytest.raises(UnknownName):
        keys.revoke("nope")
    (tmp_path / "text").write_text("no database, but long enough to be taken for one" * 40)
    with pytest.raises(StoreDamaged):
        Keys(tmp_path / "text")
    with pytest.raises(StoreNotWritable):
        Keys(tmp_path / "missing" / "keys")


def test_a_gateway_needs_something_behind_it(memory: Memory) -> None:
    with pytest.raises(InvalidRequest):
        Gateway(memory)


def test_the_bare_proxy_passes_everything(stub: Stub) -> None:
    settings = Settings()
    with serving(server.config(bare_app(stub.url, settings), settings, port=0, log_level="critical")) as url:
        answer = post(url + "/v1/chat/completions?a=b", content=b"{anything")
        assert answer.content == stub.chunks[0]
    assert (stub.last["body"], stub.last["query"]) == (b"{anything", b"a=b")
