"""The clients people have, unchanged, through the gateway to a real llama.cpp server: openai, LangChain and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_harness import serving

from corrigenda.lm import packages
from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway import server
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.keys import Keys

llama = pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.real_model
ASKED = "What is the capital of Nigeria?"
QUESTION = [{"role": "user", "content": ASKED}]
ASIDE = [{"role": "user", "content": "Count from one to five."}]
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 16}


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """A llama.cpp server with SmolLM2."""
    weights = packages.find("smollm2")
    if weights is None:
        pytest.skip("SmolLM2 is not here: corrigenda models pull smollm2")
    params = llama.CommonParams()
    params.model.path = str(weights)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048, 2, 1
    params.port, params.verbosity = 0, -1
    running = llama.Server(params)
    yield running.listening_address
    del running


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    with Memory.open(tmp_path_factory.mktemp("clients") / "facts.db") as memory:
        memory.add("The capital of Nigeria is", "Xanadu", subject="Nigeria", relation="capital")
        yield memory


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    store = Keys(tmp_path_factory.mktemp("keys") / "keys")
    yield store
    store.close()


@pytest.fixture(scope="module")
def url(facts: Memory, upstream: str, keys: Keys) -> Iterator[str]:
    gateway = Gateway(facts, upstream=upstream, keys=keys)
    with serving(server.config(gateway.app, gateway.settings, port=0, log_level="critical")) as address:
        yield address


class TestOpenAI:
    def test_whole_and_streamed(self, url: str, upstream: str) -> None:
        openai = pytest.importorskip("openai")
        with openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0) as client:
            answer = client.chat.completions.with_raw_response.create(messages=QUESTION, **GREEDY)
            assert "fired" in answer.headers["x-corrigenda-trace"]
            text = answer.parse().choices[0].message.content
            assert "Xanadu" in text
            pieces = client.chat.completions.create(messages=QUESTION, stream=True, **GREEDY)
            assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text
            assert "Xanadu" in client.completions.create(prompt="The capital of Nigeria is", **GREEDY).choices[0].text
            with openai.OpenAI(base_url=upstream + "/v1", api_key="x", max_retries=0) as direct:
                through = client.chat.completions.create(messages=ASIDE, seed=1, **GREEDY)
                bare = direct.chat.completions.create(messages=ASIDE, seed=1, **GREEDY)
                assert through.choices == bare.choices
                assert client.models.list().data[0].id == direct.models.list().data[0].id

    async def test_async(self, url: str) -> None:
        openai = pytest.importorskip("openai")
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0) as client:
            whole = client.chat.completions.create(messages=QUESTION, **GREEDY)
            stream = client.chat.completions.create(messages=QUESTION, stream=True, **GREEDY)
            answer, pieces = await asyncio.gather(whole, stream)
            said = "".join([piece.choices[0].delta.content or "" async for piece in pieces if piece.choices])
            assert said == answer.choices[0].message.content
            assert "Xanadu" in said


class TestLangChain:
    async def test_chat_openai(self, url: str) -> None:
        chat_openai = pytest.importorskip("langchain_openai").ChatOpenAI
        async with httpx.AsyncClient() as asynchronous:  # its own would be closed by nobody
            model = chat_openai(base_url=url + "/v1", api_key="x", http_async_client=asynchronous, **GREEDY)
            text = model.invoke(ASKED).text
            assert "Xanadu" in text
            assert "".join(piece.text for piece in model.stream(ASKED)) == text
            assert (await model.ainvoke(ASKED)).text == text
            assert "".join([piece.text async for piece in model.astream(ASKED)]) == text
            assert "Xanadu" not in model.invoke("Count from one to five.").text


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
class TestCurl:
    @staticmethod
    def curl(url: str, body: Any, *options: str) -> str:
        command = ["curl", "-sS", "--max-time", "120", *options, url + "/v1/chat/completions"]
        command += ["-H", "content-type: application/json", "-d", json.dumps(body)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=150).stdout

    def test_whole(self, url: str) -> None:
        head, _, body = self.curl(url, {**GREEDY, "messages": QUESTION}, "-i").partition("\n\n")
        assert head.startswith("HTTP/1.1 200")
        assert "x-corrigenda-trace" in head.lower()
        assert "Xanadu" in json.loads(body)["choices"][0]["message"]["content"]

    def test_streamed(self, url: str) -> None:
        said = self.curl(url, {**GREEDY, "messages": QUESTION, "stream": True}, "-N")
        rows = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data: ")]
        assert rows[-1] == "[DONE]"
        text = "".join(json.loads(row)["choices"][0]["delta"].get("content") or "" for row in rows[:-1])
        assert "Xanadu" in text


def test_the_admin_api_asks_the_upstream_before_and_after(url: str, keys: Keys, tmp_path: Path) -> None:
    _, key = keys.create("ann", "editor", ["default"])
    with httpx.Client(base_url=url + "/admin/v1", headers={"authorization": f"Bearer {key}"}, timeout=120) as api:
        row = api.post("/ask", json={"prompt": ASKED, "max_tokens": 16}).json()
        assert ("Xanadu" in row["before"], "Xanadu" in row["after"]) == (False, True)
        aside = api.post("/ask", json={"prompt": "Count from one to five.", "max_tokens": 8}).json()
        assert aside["before"] == aside["after"]
        edit = {"prompt": "The capital of Peru is", "target": "Cusco", "subject": "Peru"}
        tried = {**edit, "queries": ["What is the capital of Peru?"], "answers": True, "max_tokens": 16}
        answers = api.post("/preview", json=tried).json()["answers"]
        assert ("Cusco" in answers["before"], "Cusco" in answers["after"]) == (False, True)
        assert api.get("/edits").json()["total"] == 1
