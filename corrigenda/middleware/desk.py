"""Desk: where requests in OpenAI's format are looked at before they leave for somebody else's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corrigenda.chat import Chat, Trace
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Scope
from corrigenda.middleware.briefing import Briefing, briefed, in_turns
from corrigenda.middleware.consult import Decision, consult, drive, drive_async
from corrigenda.middleware.strategies.base import Strategy, create
from corrigenda.middleware.wire import Asked, Endpoint, asked, revised


class Desk:
    """Decides about request bodies.

    Args:
        memory: The edits.
        strategy: A strategy, or the name of one; by default facts in front of the question.
        scope: Decides which edits fire; by default the scope classifier of ``memory``.
        namespace: Only its edits are seen.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        strategy: str | Strategy | None = None,
        scope: Scope | None = None,
        namespace: str = "default",
    ) -> None:
        self.memory = memory
        self.scope = scope if scope is not None else Scope(memory)
        self.namespace = namespace
        self.strategy: Strategy = create(strategy) if isinstance(strategy, str) else strategy or Briefing()

    def revise(self, endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], Trace]:
        """Return what to send instead of ``body``, the same object when no edit concerns it, and the trace."""
        questions = asked(endpoint, body)
        decisions = drive(self._flow(questions), self.memory, self.scope) if questions else []
        return _applied(endpoint, body, questions, decisions)

    async def arevise(self, endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], Trace]:
        """Do what :meth:`revise` does; judging happens in a thread."""
        questions = asked(endpoint, body)
        decisions = await drive_async(self._flow(questions), self.memory, self.scope) if questions else []
        return _applied(endpoint, body, questions, decisions)

    def _flow(self, questions: Sequence[Asked]) -> Any:
        chats: list[Chat] = [question.chat for question in questions]
        return consult(chats, strategy=self.strategy, namespace=self.namespace)


def _applied(
    endpoint: Endpoint, body: Mapping[str, Any], questions: Sequence[Asked], decisions: Sequence[Decision]
) -> tuple[Mapping[str, Any], Trace]:
    # Nobody can begin a reply here: where a walk has arrived, its facts go in front of the question.
    decisions = [briefed(item) if item.plan is not None and item.plan.prefix else in_turns(item) for item in decisions]
    trace = decisions[0].trace if decisions else Trace()
    for question, decision in zip(questions, decisions, strict=True):
        if decision.plan is None:
            continue
        body = revised(endpoint, body, question, decision.plan.request)
        trace = decision.trace if trace.untouched or trace is decision.trace else joined(trace, decision.trace)
    return body, trace


def joined(first: Trace, second: Trace) -> Trace:
    """Return one trace for two prompts of one request."""
    return Trace((*first.fired, *second.fired), first.strategy, second.ledger_version, first.milliseconds, first.notes)
