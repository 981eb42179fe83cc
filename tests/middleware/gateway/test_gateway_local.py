"""A local model behind OpenAI's endpoints, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from gateway_harness import get, post, serving

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway import server
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.settings import Settings

pytestmark = pytest.mark.real_model
QUESTION = [{"role": "user", "content": "What is the capital of Nigeria?"}]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    with Memory.open(tmp_path_factory.mktemp("local") / "facts.db") as memory:
        memory.add("The capital of Nigeria is", "Xanadu", subject="Nigeria", relation="capital")
        yield memory


@pytest.fixture(scope="module")
def url(facts: Memory) -> Iterator[str]:
    from corrigenda.middleware.generate import EditedModel

    gateway = Gateway(facts, model=EditedModel.load("smollm2", facts))
    config: uvicorn.Config = server.config(gateway.app, gateway.settings, port=0, log_level="critical")
    with serving(config) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_whole_and_streamed_say_the_same(client: Any) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=12)
    text = answer.choices[0].message.content
    assert "Xanadu" in text
    assert answer.usage.completion_tokens > 0
    stream = client.chat.completions.create(
        model="smollm2", messages=QUESTION, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def test_completions_and_responses(client: Any) -> None:
    answer = client.completions.create(model="smollm2", prompt="The capital of Nigeria is", max_tokens=6)
    assert "Xanadu" in answer.choices[0].text
    pieces = client.completions.create(model="smollm2", prompt="The capital of Nigeria is", max_tokens=6, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text
    reply = client.responses.create(model="smollm2", input="What is the capital of Nigeria?", max_output_tokens=16)
    assert "Xanadu" in reply.output_text
    with client.responses.stream(model="smollm2", input="What is the capital of Nigeria?", max_output_tokens=16) as s:
        events = [event.type for event in s]
        assert s.get_final_response().output_text == reply.output_text
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"


async def test_async_client_and_trace(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(model="x", messages=QUESTION, max_tokens=8)
        assert "fired" in raw.headers["x-corrigenda-trace"]
        calls = [client.completions.create(model="x", prompt=p, max_tokens=3) for p in ("One, two,", "Red, green,")]
        answers = await asyncio.gather(*calls)
        assert all(answer.choices[0].text for answer in answers)


def test_what_no_edit_concerns_has_no_trace(client: Any) -> None:
    raw = client.completions.with_raw_response.create(model="x", prompt="Water is made of", max_tokens=3)
    assert "x-corrigenda-trace" not in raw.headers


def test_models_and_refusals(client: Any, url: str) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").object == "model"
    for more in ({"max_tokens": 0}, {"temperature": 9}, {"n": 2}, {"stop": [1]}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="x", messages=QUESTION, **more)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="x", input="y")
    assert post(url + "/v1/completions", content=b"{").status_code == 400
    assert get(url + "/v1/completions").status_code == 405
    assert post(url + "/v1/completions", json={"prompt": "a " * 9000}).status_code == 400


def test_a_client_that_leaves_a_stream_frees_the_model(client: Any) -> None:
    stream = client.completions.create(model="x", prompt="Once upon a time", max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    assert client.completions.create(model="x", prompt="One, two,", max_tokens=2).choices[0].text


def test_the_admin_api_asks_before_and_after(facts: Memory, tmp_path: Path) -> None:
    from corrigenda.middleware.generate import EditedModel

    keys = Keys(tmp_path / "keys")
    _, key = keys.create("ann", "reader", ["*"])
    gateway = Gateway(facts, model=EditedModel.load("smollm2", facts), keys=keys, settings=Settings(trace_body=True))
    config = server.config(gateway.app, gateway.settings, port=0, log_level="critical")
    headers = {"authorization": f"Bearer {key}", "x-corrigenda-key": key, "x-corrigenda-namespace": "other"}
    with serving(config) as url:
        body = {"prompt": "What is the capital of Nigeria?", "max_tokens": 8}
        row = post(url + "/admin/v1/ask", json=body, headers=headers).json()
        assert ("Xanadu" in row["before"], "Xanadu" in row["after"]) == (False, True)
        chat = {"messages": QUESTION, "max_tokens": 6}
        assert "corrigenda" in post(url + "/v1/chat/completions", json=chat).json()
        assert "corrigenda" not in post(url + "/v1/chat/completions", json=chat, headers=headers).json()
        told = {"input": "What is the capital of Nigeria?", "instructions": "Be brief.", "max_output_tokens": 6}
        assert "Xanadu" in str(post(url + "/v1/responses", json=told).json()["output"])
        drawn = {**chat, "temperature": 0.7, "top_p": 0.9, "seed": 1, "stop": "\n"}
        first, second = (post(url + "/v1/chat/completions", json=drawn).json()["choices"] for _ in range(2))
        assert first == second
        assert get(url + "/readyz").status_code == 200
    keys.close()
