"""The openai package's client in the light of the edits, against a server that remembers what it gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from corrigenda.chat import Trace
from corrigenda.errors import InvalidRequest
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.openai_client import wrap
from corrigenda.testing import FixedEncoder

PROMPT = "The capital of Kazakhstan is"
ASKED = [{"role": "user", "content": PROMPT}]
OTHER = [{"role": "user", "content": "2 + 2?"}]


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Any] = []
        self.fail = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append(json.loads(body))
        status = 200
        if self.server.fail:
            self.server.fail -= 1
            status = 500
        answer = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
        ).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(5)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder()) as store:
        store.add(PROMPT, "Astana", subject="Kazakhstan")
        yield store


def test_sync(server: Server, memory: Memory) -> None:
    traces: list[Trace] = []
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="k", max_retries=1) as bare:
        client = wrap(bare, memory, on_trace=traces.append)
        assert isinstance(client, openai.OpenAI)
        client.chat.completions.create(model="m", messages=ASKED, temperature=0.1, extra_body={"odd": 1})
        assert "Astana" in server.seen[-1]["messages"][0]["content"]
        assert (server.seen[-1]["temperature"], server.seen[-1]["odd"]) == (0.1, 1)
        client.with_options(timeout=5).chat.completions.with_raw_response.create(model="m", messages=ASKED)
        assert "Astana" in server.seen[-1]["messages"][0]["content"]
        client.completions.create(model="m", prompt=[PROMPT, "2 + 2 ="])
        assert "Astana" in server.seen[-1]["prompt"][0]
        client.responses.create(model="m", input=PROMPT)
        assert "Astana" in server.seen[-1]["input"]
        assert [trace.untouched for trace in traces] == [False] * 4
        client.chat.completions.create(model="m", messages=OTHER)
        client.embeddings.with_raw_response.create(model="m", input=PROMPT, encoding_format="float")
        assert server.seen[-1]["input"] == PROMPT
        bare.chat.completions.create(model="m", messages=OTHER)
        bare.chat.completions.create(model="m", messages=ASKED)
    assert server.seen[-4] == server.seen[-2] == {"messages": OTHER, "model": "m"}
    assert server.seen[-1]["messages"] == ASKED


def test_a_retry_brings_the_fact_once(server: Server, memory: Memory) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="k", max_retries=1) as bare:
        server.fail = 1
        wrap(bare, memory).chat.completions.create(model="m", messages=ASKED)
    assert server.seen[0] == server.seen[1]
    assert server.seen[1]["messages"][0]["content"].count("Astana") == 1


def test_a_strategy_that_writes_one_text_leaves_a_conversation_whole(
    server: Server, memory: Memory, name_judge: Any
) -> None:
    call = {"role": "assistant", "content": "Let me look.", "tool_calls": [{"id": "1", "type": "function"}]}
    said: list[Any] = [{"role": "system", "content": "Answer in JSON."}, call, {"role": "tool", "content": "42"}]
    question = "What is the capital of Kazakhstan?"
    traces: list[Trace] = []
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="k", max_retries=0) as bare:
        scope = Scope(memory, judge=name_judge())
        client = wrap(bare, memory, strategy="ike", scope=scope, on_trace=traces.append)
        client.chat.completions.create(model="m", messages=[*said, {"role": "user", "content": question}])
    *before, last = server.seen[-1]["messages"]
    assert before == said
    assert "Astana" in last["content"]
    assert question in last["content"]
    assert traces[0].strategy == "ike/briefing"


async def test_async(server: Server, memory: Memory) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as bare:
        client = wrap(bare, memory)
        await client.chat.completions.create(model="m", messages=ASKED)
        assert "Astana" in server.seen[-1]["messages"][0]["content"]
        await client.chat.completions.create(model="m", messages=OTHER)
    assert server.seen[-1] == {"messages": OTHER, "model": "m"}


def test_what_is_no_client(memory: Memory) -> None:
    with pytest.raises(InvalidRequest, match="no client"):
        wrap(object(), memory)


def test_a_walk_that_has_arrived_puts_its_facts_in_front(server: Server, tmp_path: Path, name_judge: Any) -> None:
    with Memory.open(tmp_path / "hops.db", encoder=FixedEncoder()) as memory:
        memory.add(PROMPT, "Astana", subject="Kazakhstan", relation="capital")
        memory.add("The mayor of Astana is", "Zhenis", subject="Astana", relation="mayor")
        question = [{"role": "user", "content": "Who is the mayor of the capital of Kazakhstan?"}]
        with openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="k") as bare:
            client = wrap(bare, memory, strategy="graph", scope=Scope(memory, judge=name_judge()))
            client.chat.completions.create(model="m", messages=question)
    assert "Zhenis" in server.seen[-1]["messages"][-1]["content"]
