"""Consulting the memory from an event loop: a look that costs microseconds, then judging in a thread of its own.

While one batch of requests is judged the next ones gather, and are judged together: eight at once cost a third each of
what one alone does, since the encoder reads its weights once for all of them. Nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from corrigenda.chat import Chat
from corrigenda.errors import CorrigendaError, StoreError
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Consideration, Scope
from corrigenda.middleware.briefing import briefed, in_turns
from corrigenda.middleware.consult import Decision, consult, drive
from corrigenda.middleware.gateway.attention import Attention
from corrigenda.middleware.strategies.base import Guiding, Plan, Strategy, Worker

log = logging.getLogger("corrigenda.gateway")

MOST_TOGETHER = 8
"""Most questions of a batch: more would make the first of them wait for longer than judging them together saves."""


_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_LONGEST = 64
"""Longest answer of a strategy's own model, in tokens: it says what the edits say, and little more."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One request that waits to be judged, or a part of it; ``own`` as :meth:`Consulting.decide` has it."""

    chats: tuple[Chat, ...]
    namespace: str
    own: bool
    decided: asyncio.Future[list[Decision]]


class Consulting:
    """Decides what becomes of requests.

    Args:
        memory: Where the edits are.
        strategy: What is done with requests in scope.
        scope: Judges; a :class:`Scope` of ``memory`` by default. May be replaced while requests come in.
        early_exit: Whether requests that name nothing are not judged.
        threads: How many batches are judged at once.
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
        # A strategy that finds out by itself what concerns it does not go by names alone.
        self.attention = Attention(memory) if early_exit and not isinstance(strategy, Guiding) else None
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
        self._idle = threads
        self._waiting: deque[_Turn] = deque()
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
        return self.attention is None or self.attention.may_concern(chats, namespace)

    async def decide(self, chats: Sequence[Chat], namespace: str, *, own: bool = True) -> list[Decision]:
        """Judge ``chats`` in a thread, together with what others ask meanwhile, and plan.

        Args:
            chats: The questions of one request.
            namespace: Whose edits.
            own: Whether a reply of the strategy's own will do; otherwise the facts stand in front of the question.

        Raises:
            CorrigendaError: These chats cannot be judged; those of others in the batch are.
        """
        decisions: list[Decision] = []
        for start in range(0, len(chats), MOST_TOGETHER):  # between its parts a long request lets others go first
            some = tuple(chats[start : start + MOST_TOGETHER])
            turn = _Turn(some, namespace, own, asyncio.get_running_loop().create_future())
            self._waiting.append(turn)
            self._begin()
            decisions += await turn.decided
        return decisions

    def _begin(self) -> None:
        """Give idle threads something to do."""
        loop = asyncio.get_running_loop()
        while self._idle and self._waiting:
            batch = self._next()
            if batch:
                self._idle -= 1
                running = loop.run_in_executor(self.pool, self._decide_all, batch)
                running.add_done_callback(functools.partial(self._done, batch))

    def _next(self) -> list[_Turn]:
        """Take the turn that has waited longest, and others of its namespace, as many as may be judged together."""
        batch: list[_Turn] = []
        kept: list[_Turn] = []
        questions = 0
        while self._waiting and questions < MOST_TOGETHER:
            turn = self._waiting.popleft()
            if turn.decided.done():  # whoever asked went away
                continue
            if batch and turn.namespace != batch[0].namespace:
                kept.append(turn)
                continue
            batch.append(turn)
            questions += len(turn.chats)
        self._waiting.extendleft(reversed(kept))
        return batch

    def _done(self, batch: Sequence[_Turn], running: asyncio.Future[list[list[Decision] | CorrigendaError]]) -> None:
        self._idle += 1
        failure = running.exception() if not running.cancelled() else asyncio.CancelledError()
        results = running.result() if failure is None else [failure] * len(batch)
        for turn, result in zip(batch, results, strict=True):
            if turn.decided.done():
                continue
            if isinstance(result, BaseException):
                turn.decided.set_exception(result)
            else:
                turn.decided.set_result(result)
        self._begin()

    def _decide_all(self, batch: Sequence[_Turn]) -> list[list[Decision] | CorrigendaError]:
        """Return one result per turn; runs in a thread."""
        try:
            decisions = iter(self._planned([chat for turn in batch for chat in turn.chats], batch[0].namespace))
            return [[_answered(next(decisions), turn.own) for _ in turn.chats] for turn in batch]
        except CorrigendaError as error:
            if len(batch) == 1:
                return [error]
            return [result for turn in batch for result in self._decide_all([turn])]

    def decide_now(
        self, chats: Sequence[Chat], namespace: str, *, memory: Memory | None = None, scope: Scope | None = None
    ) -> list[Decision]:
        """Judge ``chats`` in this thread, and plan; by the edits of another memory, if one is given.

        Raises:
            CorrigendaError: They cannot be judged.
        """
        return [_answered(item) for item in self._planned(chats, namespace, memory, scope)]

    def _planned(
        self, chats: Sequence[Chat], namespace: str, memory: Memory | None = None, scope: Scope | None = None
    ) -> list[Decision]:
        flow = consult(chats, strategy=self.strategy, namespace=namespace)
        memory, scope = memory if memory is not None else self.memory, scope if scope is not None else self.scope
        # No client's account is there to ask the model on: where a strategy would, the model is a black box.
        return drive(flow, memory, scope, answers=True)

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


def _answered(decision: Decision, own: bool = True) -> Decision:
    """Give the reply that is the strategy's own, where the plan holds one; the upstream is not asked then.

    Where such a reply will not do (``own``), the upstream is asked with the facts in front of the question.
    """
    plan = decision.plan
    if plan is None or not plan.own:
        return in_turns(decision)
    if not own:
        return briefed(decision)
    if plan.answer is not None:
        return decision
    if plan.prefix:  # nobody can begin a reply for an upstream; what it would begin with is the answer
        text = plan.prefix if decision.request.completion else plan.prefix.strip()
    else:
        assert plan.worker is not None
        text = _worked(plan.worker, decision.request, plan)
    return replace(decision, plan=replace(plan, answer=text, worker=None))


def _worked(worker: Worker, request: Chat, plan: Plan) -> str:
    """Let the plan's own model answer, SERAC's for one."""
    from corrigenda.middleware.answering import Job, Options, answer

    lm = worker.model(None)
    # The other options were meant for another model.
    given = (request.options.get(name) for name in _LIMITS)
    longest = next((limit for limit in given if isinstance(limit, int) and limit > 0), _LONGEST)
    options = Options.of({"max_new_tokens": min(longest, _LONGEST)})
    return answer(lm, [Job.of(lm, request, plan, None)], options)[0]
