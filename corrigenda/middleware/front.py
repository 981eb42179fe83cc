"""Front: edits in front of any model call, the model itself out of reach.

What no edit concerns goes to the wrapped call as the caller's own object, and its reply comes back as it is. What one
does concern is answered as the strategy plans: by the call, asked something else; by the strategy's own model, SERAC's
for one; or right away, where the answer is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from corrigenda.chat import Chat, Generate, Reply
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.consult import Decision, Flow, consult, drive, drive_async
from corrigenda.middleware.strategies.base import Plan, Strategy, create

if TYPE_CHECKING:
    from corrigenda.middleware.strategies.base import Worker


class Front:
    """A model call in the light of edits; a :class:`~corrigenda.chat.Generate` itself.

    Args:
        generate: The model call; may be called from other threads by :meth:`acall`.
        memory: The edits.
        strategy: What is done when edits fire; SERAC by default, which needs nothing of the model behind.
        scope: Decides which edits fire; by default the scope classifier of ``memory``.
        namespace: Only its edits are seen.
    """

    def __init__(
        self,
        generate: Generate,
        memory: Memory,
        *,
        strategy: str | Strategy = "serac",
        scope: Scope | None = None,
        namespace: str = "default",
    ) -> None:
        self.generate = generate
        self.memory = memory
        self.strategy: Strategy = create(strategy) if isinstance(strategy, str) else strategy
        self.scope = scope if scope is not None else Scope(memory)
        self.namespace = namespace

    def __call__(self, chat: Chat, /) -> Reply:
        """Answer ``chat``."""
        (decision,) = drive(self._flow(chat), self.memory, self.scope, ask=self._ask)
        return self._reply(decision)

    async def acall(self, chat: Chat, /) -> Reply:
        """Answer ``chat`` while the event loop goes on: judging and the call happen in threads."""
        (decision,) = await drive_async(self._flow(chat), self.memory, self.scope, ask=self._ask)
        return await asyncio.to_thread(self._reply, decision)

    def _flow(self, chat: Chat) -> Flow:
        return consult([chat], strategy=self.strategy, namespace=self.namespace)

    def _ask(self, requests: Sequence[Chat]) -> list[str]:
        return [self.generate(request).text for request in requests]

    def _reply(self, decision: Decision) -> Reply:
        plan, trace = decision.plan, decision.trace
        if plan is None:
            return replace(self.generate(decision.request), trace=trace)
        if plan.answer is not None:
            return Reply(plan.answer, trace)
        if plan.prefix:  # nobody can begin a reply for a model out of reach; what it would begin with is the answer
            return Reply(plan.prefix if decision.request.completion else plan.prefix.strip(), trace)
        if plan.worker is not None:
            return Reply(_worked(plan.worker, decision.request, plan), trace)
        return replace(self.generate(plan.request), trace=trace)


def _worked(worker: Worker, request: Chat, plan: Plan) -> str:
    """Let the plan's own model answer; its options are ours, for the caller's are another model's."""
    from corrigenda.middleware.answering import Job, Options, answer

    lm = worker.model(None)
    options = Options.of({"max_new_tokens": request.options.get("max_new_tokens", 64)})
    return answer(lm, [Job.of(lm, request, plan, None)], options)[0]
