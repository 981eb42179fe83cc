"""What becomes of a request in front of an upstream, by the strategy: conversations stay whole, no edit gets lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_harness import StartGateway, Stub, post

from corrigenda.chat import Chat
from corrigenda.errors import InvalidRequest
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.consulting import Consulting
from corrigenda.middleware.gateway.proxy import _plain
from corrigenda.middleware.strategies.base import Plan, create

QUESTION = "What is the capital of Kazakhstan?"
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "You are Bob. Answer in JSON."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "42"},
    {"role": "user", "content": QUESTION},
]


class Begins:
    """Wants the reply to begin with the target."""

    name = "begins"

    def plan(self, request: Chat, edits: Any, **room: Any) -> Plan:
        return Plan(request, prefix=f" {edits[0].edit.target}", strategy=self.name)


@pytest.fixture
def edited(memory: Memory) -> Memory:
    memory.add("The capital of Kazakhstan is", "Astana", subject="Kazakhstan", relation="capital")
    return memory


@pytest.fixture
def scope(edited: Memory, name_judge: Any) -> Scope:
    return Scope(edited, judge=name_judge())


@pytest.mark.parametrize("name", ["auto", "ike", "ike-unscoped", "graph"])
def test_every_strategy_brings_the_fact_and_keeps_the_conversation(
    stub: Stub, start: StartGateway, edited: Memory, scope: Scope, name: str
) -> None:
    url = start(upstream=stub.url, strategy=create(name), scope=scope)
    for messages in (CONVERSATION, CONVERSATION[-1:]):
        answer = post(url + "/v1/chat/completions", json={"messages": messages})
        *before, last = stub.json()["messages"]
        assert before == messages[:-1]
        assert last["role"] == "user"
        assert "Astana" in last["content"]
        assert QUESTION in last["content"]
        assert json.loads(answer.headers["x-corrigenda-trace"])["strategy"] == "ike/briefing"


def test_a_walk_that_would_have_to_ask_is_no_failure(
    stub: Stub, start: StartGateway, edited: Memory, scope: Scope
) -> None:
    for name in ("auto", "graph"):
        url = start(upstream=stub.url, strategy=create(name), scope=scope)
        nested = "What is the official language of the country of the capital of Kazakhstan?"
        answer = post(url + "/v1/chat/completions", json={"messages": [{"role": "user", "content": nested}]})
        assert answer.status_code == 200
        assert "Astana" in stub.last["body"].decode()


def test_what_a_reply_should_begin_with_is_the_reply(
    stub: Stub, start: StartGateway, edited: Memory, scope: Scope
) -> None:
    url = start(upstream=stub.url, strategy=Begins(), scope=scope)
    said = post(url + "/v1/chat/completions", json={"messages": CONVERSATION[-1:]}).json()
    assert said["choices"][0]["message"]["content"] == "Astana"
    said = post(url + "/v1/completions", json={"prompt": "The capital of Kazakhstan is"}).json()
    assert said["choices"][0]["text"] == " Astana"
    assert stub.seen == []


def test_another_memory_is_asked_by_the_same_rules(edited: Memory, scope: Scope) -> None:
    consulting = Consulting(edited, create("ike"), scope=scope)
    (decision,) = consulting.decide_now([Chat.of([{"role": "user", "content": QUESTION}])], "default")
    assert decision.plan is not None
    assert not decision.plan.request.completion


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("completions", {"prompt": [QUESTION, ""]}),
        ("completions", {"prompt": [QUESTION, [1, 2, 3]]}),
        ("completions", {"prompt": [QUESTION, QUESTION]}),
        ("completions", {"prompt": QUESTION, "echo": True}),
        ("completions", {"prompt": QUESTION, "logprobs": 0}),
        ("chat/completions", {"n": 3}),
        ("chat/completions", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
        ("chat/completions", {"tools": [{"type": "function"}], "tool_choice": "required"}),
        ("responses", {"input": QUESTION}),
        ("responses", {"input": QUESTION, "store": False, "text": {"format": {"type": "json_object"}}}),
    ],
)
def test_what_asks_for_more_than_a_text_is_the_upstreams_to_answer(
    stub: Stub, start: StartGateway, edited: Memory, scope: Scope, path: str, more: dict[str, Any]
) -> None:
    url = start(upstream=stub.url, strategy=Begins(), scope=scope)
    body = {"model": "m", **({"messages": CONVERSATION} if path == "chat/completions" else {}), **more}
    answer = post(f"{url}/v1/{path}", json=body)
    assert answer.content == stub.chunks[0]
    assert stub.last["body"].decode().count("Astana") == str(body).count(QUESTION)
    assert json.loads(answer.headers["x-corrigenda-trace"])["strategy"] == "ike/briefing"


def test_one_text_may_be_the_strategys_own(stub: Stub, start: StartGateway, edited: Memory, scope: Scope) -> None:
    url = start(upstream=stub.url, strategy=Begins(), scope=scope)
    plain = {"n": 1, "tools": [], "logprobs": False, "response_format": {"type": "text"}, "messages": CONVERSATION}
    assert post(url + "/v1/chat/completions", json=plain).json()["choices"][0]["message"]["content"] == "Astana"
    counted = {"stream": True, "stream_options": {"include_usage": True}, **plain}
    assert '"usage":{' in post(url + "/v1/chat/completions", json=counted).text
    assert '"usage":{' not in post(url + "/v1/chat/completions", json={"stream": True, **plain}).text
    said = post(url + "/v1/responses", json={"input": QUESTION, "store": False}).json()
    assert said["output"][0]["content"][0]["text"] == "Astana"
    odd = json.dumps({"model": "\ud800", "messages": CONVERSATION}).encode()
    assert post(url + "/v1/chat/completions", content=odd).json()["model"] == "\ud800"
    assert stub.seen == []


def test_a_strategy_that_asks_the_model_is_refused_at_the_start(stub: Stub, edited: Memory) -> None:
    with pytest.raises(InvalidRequest, match="asks the model itself"):
        Gateway(edited, upstream=stub.url, strategy=create("mello"))


@pytest.mark.parametrize(
    ("endpoint", "body", "plain"),
    [
        ("chat", {"messages": []}, True),
        ("chat", {"messages": [], "store": True}, False),
        ("responses", {"input": "x"}, False),
        ("responses", {"input": "x", "store": False}, True),
        ("completions", {"prompt": "x"}, True),
        ("completions", {"prompt": "x", "suffix": "y"}, False),
        ("completions", {"prompt": "x", "best_of": 3}, False),
    ],
)
def test_what_may_be_answered_with_one_text(endpoint: Any, body: dict[str, Any], plain: bool) -> None:
    assert _plain(endpoint, body) is plain
