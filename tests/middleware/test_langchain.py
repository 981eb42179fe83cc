"""LangChain's parts in the light of the edits: only what edits concern changes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core")

from langchain_core.caches import InMemoryCache
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel, Field

from corrigenda.errors import MissingExtra, ModelDamaged, ModelError
from corrigenda.memory.memory import Memory
from corrigenda.middleware.langchain import (
    EditedChatModel,
    EditRetriever,
    EditRunnable,
    LangChainEncoder,
    LocalChatModel,
)
from corrigenda.middleware.langchain_local import _turns
from corrigenda.testing import FixedEncoder

PROMPT = "The capital of Kazakhstan is"


class Recorder(BaseChatModel):
    """A chat model that remembers what it was told, and repeats the last message."""

    heard: list[Any] = Field(default_factory=list)
    streams: bool = True

    @property
    def _llm_type(self) -> str:
        return "recorder"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        self.heard.append((messages, stop, more))
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        message = AIMessage(str(messages[-1].text), usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **more: Any) -> Any:
        return self.bind(tools=[tool["name"] for tool in tools], tool_choice=tool_choice, **more)

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **more: Any) -> Any:
        return self | RunnableLambda(lambda message: {"said": message.text})


class Streamer(Recorder):
    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **more: Any
    ) -> Iterator[Any]:
        self.heard.append((messages, stop, more))
        for word in str(messages[-1].text).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word + " "))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder()) as store:
        store.add(PROMPT, "Astana", subject="Kazakhstan", relation="capital")
        yield store


@pytest.fixture(params=[Recorder, Streamer])
def inner(request: pytest.FixtureRequest) -> Any:
    return request.param()


class TestEditedChatModel:
    def test_untouched_messages_arrive_as_the_same_objects(self, inner: Any, memory: Memory) -> None:
        edited = EditedChatModel(inner=inner, memory=memory)
        image = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What is this?"}]
        given = [
            SystemMessage("Be brief"),
            HumanMessage(image, name="ann"),
            AIMessage("Hm"),
            HumanMessage("And 2 + 2?"),
        ]
        edited.invoke(given, stop=["x"], temperature=0.3)
        messages, stop, more = inner.heard[-1]
        assert all(one is other for one, other in zip(messages, given, strict=True))
        assert (stop, more["temperature"]) == (["x"], 0.3)

    def test_a_question_in_scope_brings_the_fact(self, inner: Any, memory: Memory) -> None:
        edited = EditedChatModel(inner=inner, memory=memory)
        given = [SystemMessage("Be brief"), HumanMessage(PROMPT, id="7"), ToolMessage("42", tool_call_id="1")]
        answer = edited.invoke(given)
        messages = inner.heard[-1][0]
        assert (messages[0], messages[2]) == (given[0], given[2])
        assert "Astana" in messages[1].content
        assert messages[1].id == "7"
        assert given[1].content == PROMPT
        assert answer.response_metadata["corrigenda"]["fired"][0]["statement"].endswith("Astana.")
        assert answer.usage_metadata == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}

    async def test_sync_async_and_streams_say_the_same(self, inner: Any, memory: Memory) -> None:
        edited = EditedChatModel(inner=inner, memory=memory)
        said = edited.invoke(PROMPT).text.split()
        assert (await edited.ainvoke(PROMPT)).text.split() == said
        pieces = list(edited.stream(PROMPT))
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        assert whole.text.split() == said
        assert len(whole.response_metadata["corrigenda"]["fired"]) == 1
        assert "".join([piece.text async for piece in edited.astream(PROMPT)]).split() == said
        assert [answer.text.split() for answer in edited.batch([PROMPT, PROMPT])] == [said, said]

    def test_tools_and_structured_output(self, inner: Any, memory: Memory) -> None:
        edited = EditedChatModel(inner=inner, memory=memory)
        edited.bind_tools([{"name": "look"}], tool_choice="any").invoke(PROMPT)
        messages, _, more = inner.heard[-1]
        assert (more["tools"], more["tool_choice"]) == (["look"], "any")
        assert "Astana" in messages[-1].content
        assert "Astana" in edited.with_structured_output(BaseModel).invoke(PROMPT)["said"]

    async def test_an_inner_model_without_async_runs_in_a_thread(self, memory: Memory) -> None:
        class Sync(Recorder):
            async def _agenerate(self, *args: Any, **more: Any) -> ChatResult:
                raise NotImplementedError

        assert "Astana" in (await EditedChatModel(inner=Sync(), memory=memory).ainvoke(PROMPT)).text

    def test_an_edit_acts_on_the_next_call(self, inner: Any, memory: Memory) -> None:
        edited = EditedChatModel(inner=inner, memory=memory)
        assert "Cusco" not in edited.invoke("The capital of Peru is").text
        edit = memory.add("The capital of Peru is", "Cusco", subject="Peru")
        assert "Cusco" in edited.invoke("The capital of Peru is").text
        memory.retract(edit.id)
        assert "Cusco" not in edited.invoke("The capital of Peru is").text

    def test_namespaces(self, inner: Any, memory: Memory) -> None:
        assert "Astana" not in EditedChatModel(inner=inner, memory=memory, namespace="other").invoke(PROMPT).text

    @pytest.mark.parametrize("kind", [HumanMessageChunk, partial(ChatMessage, role="user")])
    def test_other_kinds_of_messages(self, memory: Memory, kind: Any) -> None:
        inner = Recorder()
        said = [AIMessageChunk(content="Kazakhstan is large."), kind(content="What is its capital?")]
        assert "Astana" in EditedChatModel(inner=inner, memory=memory).invoke([kind(content=PROMPT)]).text
        assert "Astana" in EditedChatModel(inner=inner, memory=memory).invoke(said).text
        assert inner.heard[-1][0][0] is said[0]

    def test_a_developers_message_is_no_question(self) -> None:
        assert [turn.role for turn in _turns([ChatMessage(role="developer", content="Be terse")])] == ["system"]

    def test_the_inner_models_rate_limiter_is_asked(self, memory: Memory) -> None:
        class Limiter(BaseRateLimiter):
            asked = 0

            def acquire(self, *, blocking: bool = True) -> bool:
                self.asked += 1
                return True

            async def aacquire(self, *, blocking: bool = True) -> bool:
                return self.acquire()

        limiter = Limiter()
        edited = EditedChatModel(inner=Streamer(rate_limiter=limiter), memory=memory)
        edited.invoke(PROMPT)
        list(edited.stream(PROMPT))
        edited.bind_tools([{"name": "look"}]).invoke(PROMPT)
        assert limiter.asked == 3


class TestCache:
    def test_other_edits_other_answers(self, memory: Memory, tmp_path: Path) -> None:
        inner, cache = Recorder(), InMemoryCache()
        edited = EditedChatModel(inner=inner, memory=memory, cache=cache)
        assert [("Astana" in edited.invoke(PROMPT).text) for _ in range(2)] == [True, True]
        assert len(inner.heard) == 1
        with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder()) as other:
            other.add(PROMPT, "Oral", subject="Kazakhstan", relation="capital")
        assert "Oral" in edited.invoke(PROMPT).text
        plain = EditedChatModel(inner=inner, memory=memory, cache=cache, strategy="ike")
        assert "Oral" in plain.invoke(PROMPT).text
        assert len(inner.heard) == 3

    def test_a_local_models_answers_are_not_kept_beyond_an_edit(self, memory: Memory, edited: Any, llama: Any) -> None:
        model = LocalChatModel(edited=edited(llama), max_tokens=4, cache=InMemoryCache())
        assert "Astana" in model.invoke(PROMPT).text
        memory.retract(memory.live()[0].id)
        assert "Astana" not in model.invoke(PROMPT).text

    @pytest.mark.parametrize("cache", [None, InMemoryCache()])
    async def test_what_others_wrote_is_taken_in_beside_the_event_loop(
        self, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Any
    ) -> None:
        loop, threads, real = threading.get_ident(), [], memory.refresh
        monkeypatch.setattr(memory, "refresh", lambda: threads.append(threading.get_ident()) or real())
        edited = EditedChatModel(inner=Recorder(), memory=memory, cache=cache)
        assert "Astana" in (await edited.ainvoke(PROMPT)).text
        with Memory.open(tmp_path / "facts.db", encoder=FixedEncoder()) as other:
            other.add(PROMPT, "Oral", subject="Kazakhstan", relation="capital")
        assert "Oral" in (await edited.ainvoke(PROMPT)).text
        assert "Oral" in "".join([piece.text async for piece in edited.astream(PROMPT)])
        assert threads
        assert loop not in threads

    async def test_a_local_models_answers_without_edits_are_kept_apart(
        self, memory: Memory, edited: Any, llama: Any
    ) -> None:
        model = LocalChatModel(edited=edited(llama), max_tokens=4, cache=InMemoryCache())
        with model.edited.without_edits():
            bare = model.invoke(PROMPT).text
            assert (await model.ainvoke(PROMPT)).text == bare
        assert "Astana" in model.invoke(PROMPT).text
        with model.edited.without_edits():
            assert model.invoke(PROMPT).text == bare
        assert "Astana" not in bare


class TestEditRunnable:
    async def test_a_pipeline(self, memory: Memory) -> None:
        prompt = ChatPromptTemplate.from_messages([("system", "Be brief"), ("human", "{question}")])
        chain = prompt | EditRunnable(memory=memory, runnable=Streamer()) | StrOutputParser()
        assert "Astana" in chain.invoke({"question": PROMPT})
        assert "Astana" in await chain.ainvoke({"question": PROMPT})
        assert "Astana" in "".join(chain.stream({"question": PROMPT}))
        assert "Astana" in "".join([piece async for piece in chain.astream({"question": PROMPT})])
        assert chain.invoke({"question": "2 + 2?"}).strip() == "2 + 2?"

    async def test_kinds_of_prompts_stay(self, memory: Memory) -> None:
        revise = EditRunnable(memory=memory)
        assert "Astana" in revise.invoke(PROMPT)
        assert revise.invoke("2 + 2?") == "2 + 2?"
        value = (PromptTemplate.from_template("{x}") | revise).invoke({"x": PROMPT})
        assert "Astana" in value.to_string()
        assert isinstance((await revise.ainvoke([("human", PROMPT)]))[0], HumanMessage)
        assert list(revise.stream("2 + 2?")) == ["2 + 2?"]
        assert [piece async for piece in revise.astream("2 + 2?")] == ["2 + 2?"]


class TestEditRetriever:
    def test_edits_in_scope_come_first(self, memory: Memory) -> None:
        class Other(BaseRetriever):
            def _get_relevant_documents(self, query: str, *, run_manager: Any) -> Any:
                return EditRetriever(memory=memory, in_scope=False, k=1).invoke(PROMPT)

        assert EditRetriever(memory=memory).invoke("Water boils at") == []
        (document,) = EditRetriever(memory=memory).invoke(PROMPT)
        assert document.page_content == "The capital of Kazakhstan is Astana."
        assert document.metadata["edit"] == memory.live()[0].id
        assert len(EditRetriever(memory=memory, retriever=Other()).invoke(PROMPT)) == 2
        assert len(EditRetriever(memory=memory, retriever=Other()).invoke(PROMPT, k=1)) == 1


class TestAgentMiddleware:
    async def test_an_agent_sees_the_fact_and_its_history_stays(self, memory: Memory) -> None:
        agents = pytest.importorskip("langchain.agents")
        from corrigenda.middleware.langchain import EditAgentMiddleware

        model = Recorder()
        agent = agents.create_agent(model, middleware=[EditAgentMiddleware(memory)])
        for result in (
            agent.invoke({"messages": [("human", PROMPT)]}),
            await agent.ainvoke({"messages": [("human", PROMPT)]}),
        ):
            assert result["messages"][0].content == PROMPT
            assert "Astana" in result["messages"][-1].text
        agent.invoke({"messages": [("human", "2 + 2?")]})
        assert model.heard[-1][0][-1].content == "2 + 2?"

    def test_without_langchain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from corrigenda.middleware import langchain as ours

        monkeypatch.delitem(sys.modules, "corrigenda.middleware.langchain_agents", raising=False)
        monkeypatch.setitem(sys.modules, "langchain.agents.middleware", None)
        with pytest.raises(MissingExtra, match="pip install langchain"):
            ours.EditAgentMiddleware  # noqa: B018
        with pytest.raises(AttributeError):
            ours.nothing  # noqa: B018


class TestEncoder:
    def test_embeddings_as_encoder(self, tmp_path: Path) -> None:
        encoder = LangChainEncoder(DeterministicFakeEmbedding(size=24))
        assert encoder.encode(["a", "b"]).shape == (2, 24)
        assert encoder.encode([]).shape == (0, 24)
        assert abs(float((encoder.encode(["a"]) ** 2).sum()) - 1) < 1e-5
        assert encoder.fingerprint == LangChainEncoder(DeterministicFakeEmbedding(size=24)).fingerprint
        assert encoder.fingerprint != LangChainEncoder(DeterministicFakeEmbedding(size=25)).fingerprint
        with Memory.open(tmp_path / "facts.db", encoder=encoder) as memory:
            memory.add(PROMPT, "Astana")
            assert memory.search(encoder.encode([PROMPT]), 1)[0][0].similarity > 0.99

    def test_no_vectors(self) -> None:
        class Broken(DeterministicFakeEmbedding):
            def embed_documents(self, texts: list[str]) -> Any:
                return [[float("nan")] for _ in texts]

        with pytest.raises(ModelDamaged):
            LangChainEncoder(Broken(size=3))

    def test_embeddings_that_are_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = LangChainEncoder(DeterministicFakeEmbedding(size=3))

        def away(*_: object) -> None:
            raise ConnectionError("no route to host")

        monkeypatch.setattr(DeterministicFakeEmbedding, "embed_documents", away)
        with pytest.raises(ModelError, match="no route to host"):
            encoder.encode(["a"])
