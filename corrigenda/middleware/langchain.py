"""LangChain: any chat model, pipeline, retriever or agent in the light of the edits.

* :class:`EditedChatModel` wraps a chat model and is one;
* :class:`EditRunnable` wraps whatever takes a prompt: ``retriever | prompt | EditRunnable(...) | parser``;
* :class:`LocalChatModel` makes an :class:`~corrigenda.middleware.generate.EditedModel` a chat model;
* :class:`EditRetriever` finds the edits that concern a question, in front of any other retriever;
* :class:`EditAgentMiddleware` is for ``create_agent`` of the ``langchain`` package, which it needs;
* :class:`LangChainEncoder` makes any ``Embeddings`` the encoder of a memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.chat import Trace
from corrigenda.errors import MissingExtra, ModelDamaged, ModelError
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel, LangSmithParams
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableLambda, RunnableSerializable
    from langchain_core.runnables.config import run_in_executor
    from pydantic import ConfigDict, PrivateAttr

    from corrigenda.middleware.langchain_cache import CachedChatModel, identity
    from corrigenda.middleware.langchain_local import LocalChatModel
    from corrigenda.middleware.langchain_messages import Reviser
except ImportError as error:
    raise MissingExtra.named("langchain", error.name or "langchain_core") from error

if TYPE_CHECKING:
    from corrigenda.middleware.langchain_agents import EditAgentMiddleware

__all__ = [
    "EditAgentMiddleware",
    "EditRetriever",
    "EditRunnable",
    "EditedChatModel",
    "LangChainEncoder",
    "LocalChatModel",
    "Reviser",
]


class EditedChatModel(CachedChatModel):
    """A chat model in the light of the edits.

    Tools, structured output, streaming, callbacks and usage metadata are the inner model's. A call that no edit
    concerns reaches it with the same messages; otherwise ``response_metadata["corrigenda"]`` of the answer says which
    edits fired.

    Attributes:
        inner: The chat model.
        memory: The edits.
        namespace: Only its edits are seen.
        strategy: See :class:`~corrigenda.middleware.desk.Desk`.
        scope: See :class:`~corrigenda.middleware.desk.Desk`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: BaseChatModel
    memory: Memory
    namespace: str = "default"
    strategy: Any = None
    scope: Any = None
    _reviser: Reviser = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Set up what decides."""
        super().model_post_init(context)
        self._reviser = Reviser(self.memory, namespace=self.namespace, strategy=self.strategy, scope=self.scope)
        if self.rate_limiter is None:  # the inner model's, which it asks for itself only when it is called from outside
            self.rate_limiter = self.inner.rate_limiter

    @property
    def _llm_type(self) -> str:
        return f"corrigenda-{self.inner._llm_type}"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**self.inner._identifying_params, **identity(self.memory, self.namespace, self._reviser.desk.strategy)}

    @property
    def _edits(self) -> Memory:
        return self.memory

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.inner._get_ls_params(stop=stop, **kwargs)

    def get_num_tokens(self, text: str) -> int:
        """Count as the inner model counts."""
        return self.inner.get_num_tokens(text)

    def get_token_ids(self, text: str) -> list[int]:
        """Tokenise as the inner model does."""
        return self.inner.get_token_ids(text)

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Bind tools in the inner model's way."""
        given = {"tool_choice": tool_choice, **kwargs} if tool_choice is not None else kwargs
        bound = self.inner.bind_tools(tools, **given)
        if isinstance(bound, RunnableBinding) and bound.bound is self.inner:
            return self.bind(**bound.kwargs)
        return self._first | bound

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> Runnable[Any, Any]:
        """Get structured output in the inner model's way."""
        return self._first | self.inner.with_structured_output(schema, include_raw=include_raw, **kwargs)

    @property
    def _first(self) -> Runnable[Any, Any]:
        return RunnableLambda(self._reviser.input, afunc=self._reviser.ainput, name="corrigenda")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        revised, trace = self._reviser.messages(messages)
        return _traced(self.inner._generate(revised, stop=stop, run_manager=run_manager, **kwargs), trace)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        revised, trace = await self._reviser.amessages(messages)
        try:
            result = await self.inner._agenerate(revised, stop=stop, run_manager=run_manager, **kwargs)
        except NotImplementedError:  # some models have no async side at all
            sync = run_manager.get_sync() if run_manager else None
            result = await run_in_executor(None, self.inner._generate, revised, stop, sync, **kwargs)
        return _traced(result, trace)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        revised, trace = self._reviser.messages(messages)
        if type(self.inner)._stream is BaseChatModel._stream:
            yield _chunk(_traced(self.inner._generate(revised, stop=stop, run_manager=run_manager, **kwargs), trace))
            return
        for chunk in self.inner._stream(revised, stop=stop, run_manager=run_manager, **kwargs):
            yield _noted(chunk, trace)
            trace = Trace()  # on the first chunk only: metadata of chunks is added up

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        revised, trace = await self._reviser.amessages(messages)
        kind = type(self.inner)
        if kind._stream is BaseChatModel._stream and kind._astream is BaseChatModel._astream:
            result = await self.inner._agenerate(revised, stop=stop, run_manager=run_manager, **kwargs)
            yield _chunk(_traced(result, trace))
            return
        async for chunk in self.inner._astream(revised, stop=stop, run_manager=run_manager, **kwargs):
            yield _noted(chunk, trace)
            trace = Trace()


def _traced(result: ChatResult, trace: Trace) -> ChatResult:
    if not trace.untouched:
        for generation in result.generations:
            generation.message.response_metadata["corrigenda"] = trace.to_dict()
    return result


def _noted(chunk: ChatGenerationChunk, trace: Trace) -> ChatGenerationChunk:
    if not trace.untouched:
        chunk.message.response_metadata["corrigenda"] = trace.to_dict()
    return chunk


def _chunk(result: ChatResult) -> ChatGenerationChunk:
    message = result.generations[0].message
    fields = {key: value for key, value in message.model_dump().items() if key in AIMessageChunk.model_fields}
    return ChatGenerationChunk(message=AIMessageChunk(**{**fields, "type": "AIMessageChunk"}))


class EditRunnable(RunnableSerializable[Any, Any]):
    """Whatever takes a prompt, in the light of the edits: ``prompt | EditRunnable(runnable=llm, ...) | parser``.

    Attributes:
        memory: The edits.
        runnable: What the revised prompt goes to; without, the revised prompt is the result.
        namespace, strategy, scope: See :class:`EditedChatModel`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: Memory
    runnable: Any = None
    namespace: str = "default"
    strategy: Any = None
    scope: Any = None
    _reviser: Reviser = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Set up what decides."""
        super().model_post_init(context)
        self._reviser = Reviser(self.memory, namespace=self.namespace, strategy=self.strategy, scope=self.scope)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Revise the prompt, and hand it on."""
        revised = self._reviser.input(input)
        return revised if self.runnable is None else self.runnable.invoke(revised, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Revise the prompt, and hand it on."""
        revised = await self._reviser.ainput(input)
        return revised if self.runnable is None else await self.runnable.ainvoke(revised, config, **kwargs)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Revise the prompt, and stream what comes back."""
        revised = self._reviser.input(input)
        if self.runnable is None:
            yield revised
        else:
            yield from self.runnable.stream(revised, config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Revise the prompt, and stream what comes back."""
        revised = await self._reviser.ainput(input)
        if self.runnable is None:
            yield revised
        else:
            async for piece in self.runnable.astream(revised, config, **kwargs):
                yield piece


class EditRetriever(BaseRetriever):
    """Finds the edits that concern a question, as documents; in front of those of another retriever.

    Attributes:
        memory: The edits.
        retriever: Whose documents follow; none, by default.
        namespace: Only its edits are found.
        k: Most documents.
        in_scope: Whether only edits in scope are found, or the nearest too.
        scope: See :class:`~corrigenda.middleware.desk.Desk`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: Memory
    retriever: BaseRetriever | None = None
    namespace: str = "default"
    k: int = 4
    in_scope: bool = True
    scope: Any = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        most = k if k is not None else self.k
        self.memory.refresh()
        scope: Scope = self.scope if self.scope is not None else Scope(self.memory)
        (considered,) = scope.consider([query], self.namespace)
        found = [_document(item.edit, probability=item.probability) for item in considered.in_scope]
        if not self.in_scope and len(found) < most:
            known = {document.id for document in found}
            hits = self.memory.search(self.memory.encoder.encode([query]), most, self.namespace)[0]
            found += [_document(hit.edit, similarity=hit.similarity) for hit in hits if hit.edit.id not in known]
        if self.retriever is not None and len(found) < most:
            found += self.retriever.invoke(query, config={"callbacks": run_manager.get_child()})
        return found[:most]


def _document(edit: Any, **scores: float) -> Document:
    metadata = {"edit": edit.id, "subject": edit.subject, "source": edit.source, **scores}
    return Document(page_content=edit.statement, metadata=metadata, id=edit.id)


def __getattr__(name: str) -> Any:
    # Agents need the package langchain, which is larger than langchain-core; all else here does without.
    if name != "EditAgentMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from corrigenda.middleware.langchain_agents import EditAgentMiddleware

    return EditAgentMiddleware


class LangChainEncoder:
    """Any LangChain ``Embeddings`` as the encoder of a memory; vectors are brought to unit length.

    Args:
        embeddings: They.
        name: Told apart from other embeddings by it; by default by what they make of a fixed text, which needs a
            model that gives the same vector for the same text.

    Raises:
        ModelDamaged: They return something that is not vectors.
        ModelError: They fail: a server of embeddings that is away, for instance.
    """

    def __init__(self, embeddings: Embeddings, *, name: str | None = None) -> None:
        self._embeddings = embeddings
        probe = self._unit(self._embed(["The capital of Kazakhstan is"]))
        self.dimension = int(probe.shape[1])
        digest = hashlib.sha256(np.round(probe, 3).tobytes()).hexdigest()[:16]
        self.fingerprint = f"langchain-{name or digest}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit rows, (n, d) float32. Raises :class:`ModelError` where the embeddings fail."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return self._unit(self._embed(list(texts)))

    def _embed(self, texts: list[str]) -> list[list[float]]:
        try:
            return self._embeddings.embed_documents(texts)
        except Exception as error:  # each of their many kinds has exceptions of its own
            raise ModelError(f"the embeddings failed: {error}") from error

    @staticmethod
    def _unit(rows: Any) -> NDArray[np.float32]:
        vectors = np.asarray(rows, dtype=np.float32)
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise ModelDamaged("the embeddings returned something that is not a list of vectors")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
        return unit
