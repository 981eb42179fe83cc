"""Consulting the memory from an event loop: a look that costs microseconds, then judging in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from corrigenda.chat import Chat
from corrigenda.errors import StoreError
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Consideration, Scope
from corrigenda.middleware.consult import Decision, consult, drive
from corrigenda.middleware.gateway.attention import Attention
from corrigenda.middleware.strategies.base import Strategy

log = logging.getLogger("corrigenda.gateway")


class Consulting:
    """Decides what becomes of requests.

    Args:
        memory: Where the edits are.
        strategy: What is done with requests in scope.
        scope: Judges; a :class:`Scope` of ``memory`` by default.
        early_exit: Whether requests that name nothing are not judged.
        threads: How many requests are judged at once.
    """

    def __init__(
        self,
        memory: Memory,
        strategy: Strategy,
        *,
        scope: Scope | None = None,
        early_exit: bool = True,
        threads: int = 1,
    ) -> None:
        self.memory = memory
        self.strategy = strategy
        self.scope = scope if scope is not None else Scope(memory)
        self.attention = Attention(memory) if early_exit else None
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
        self._refresher: asyncio.Task[None] | None = None

    def start(self, every: float) -> None:
        """Begin to look for other processes' edits, ``every`` so many seconds."""
        self._refresher = asyncio.get_running_loop().create_task(self._refresh(every))

    async def close(self) -> None:
        """Stop looking, and wait for what is being judged."""
        if self._refresher is not None:
            self._refresher.cancel()
        await asyncio.to_thread(self.pool.shutdown)

    def concerns(self, chats: Sequence[Chat], namespace: str) -> bool:
        """Tell whether any of ``chats`` has to be judged. Microseconds."""
        if not len(self.memory):
            return False
        return self.attention is None or self.attention.may_concern([chat.query for chat in chats], namespace)

    async def decide(self, chats: Sequence[Chat], namespace: str) -> list[Decision]:
        """Judge ``chats`` in a thread, and plan."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, self._decide, chats, namespace)

    def _decide(self, chats: Sequence[Chat], namespace: str) -> list[Decision]:
        return drive(consult(chats, strategy=self.strategy, namespace=namespace), self.memory, self.scope)

    async def explain(self, queries: Sequence[str], namespace: str) -> list[Consideration]:
        """Return what the scope classifier thinks of ``queries``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, self.scope.consider, list(queries), namespace)

    async def warm(self) -> None:
        """Load the encoder and the index now, rather than on somebody's request."""
        await asyncio.to_thread(lambda: (self.memory.encoder, self.scope.judge))
        await self.explain(["What is the capital of Atlantis?"], "default")

    async def _refresh(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await asyncio.to_thread(self.memory.refresh)
            except StoreError as error:
                log.warning("the memory could not be refreshed: %s", error.message)
