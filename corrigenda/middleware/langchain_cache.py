"""LangChain's caches in front of a memory: a kept answer ends with the edits that it was given under."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables.config import run_in_executor

from corrigenda.memory.memory import Memory
from corrigenda.middleware.strategies.base import Strategy


def identity(memory: Memory, namespace: str, strategy: Strategy) -> dict[str, Any]:
    """Return what answers depend on besides the model, as far as this process knows: with another, another is due.

    LangChain asks for it at every call, on the event loop too, so nothing is looked up here.
    """
    return {"ledger_version": memory.version, "namespace": namespace, "strategy": strategy.name}


class CachedChatModel(BaseChatModel):
    """A chat model that takes in what other processes wrote before it looks into a cache."""

    @property
    @abstractmethod
    def _edits(self) -> Memory:
        """The memory that answers depend on."""

    @property
    def _has_cache(self) -> bool:
        return isinstance(self.cache, BaseCache) or (self.cache is not False and get_llm_cache() is not None)

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self._has_cache:
            self._edits.refresh()
        return super()._generate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self._has_cache:
            await run_in_executor(None, self._edits.refresh)
        return await super()._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)
