"""Judging together: batches of one namespace, nobody's fault is another's, whoever left is not judged."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from corrigenda.chat import Chat
from corrigenda.errors import CorrigendaError, InvalidRequest
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Consideration, Scope
from corrigenda.middleware.briefing import Briefing
from corrigenda.middleware.consult import Ask
from corrigenda.middleware.gateway.consulting import MOST_TOGETHER, Consulting
from corrigenda.middleware.strategies.base import Plan

PROMPT = "The capital of Kazakhstan is"


class Recorder(Scope):
    """Remembers what it was asked together; waits to be told to begin; refuses "bad"."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.batches: list[tuple[str, tuple[str, ...]]] = []
        self.go = threading.Event()

    def consider(self, queries: Sequence[str], namespace: str = "default", **more: Any) -> list[Consideration]:
        assert self.go.wait(30)
        self.batches.append((namespace, tuple(queries)))
        if "bad" in queries:
            raise InvalidRequest("bad")
        return super().consider(queries, namespace, **more)


@pytest.fixture
def scope(memory: Memory) -> Recorder:
    memory.add(PROMPT, "Astana", subject="Kazakhstan", relation="capital")
    return Recorder(memory)


async def test_what_waits_is_judged_together(memory: Memory, scope: Recorder) -> None:
    consulting = Consulting(memory, Briefing(), scope=scope)
    texts = [PROMPT, *(f"question {number}" for number in range(11)), "bad"]
    asked = [asyncio.ensure_future(consulting.decide([Chat.of(text)], "default")) for text in texts]
    asked.append(asyncio.ensure_future(consulting.decide([Chat.of(PROMPT)], "other")))
    await asyncio.sleep(0.05)
    asked[3].cancel()  # this client went away
    scope.go.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    await consulting.close()
    assert results[0][0].plan is not None  # type: ignore[index]
    assert [one[0].plan for one in results[4:12]] == [None] * 8  # type: ignore[index]
    assert isinstance(results[3], asyncio.CancelledError)
    assert isinstance(results[12], InvalidRequest)
    assert results[13][0].plan is None  # type: ignore[index]
    sizes = [len(queries) for namespace, queries in scope.batches if namespace == "default"]
    assert sizes[:2] == [1, MOST_TOGETHER]
    assert ("other", (PROMPT,)) in scope.batches
    assert not any("question 2" in queries for _, queries in scope.batches)


async def test_a_request_of_many_questions_lets_others_go_first(memory: Memory, scope: Recorder) -> None:
    consulting = Consulting(memory, Briefing(), scope=scope)
    questions = [Chat.of(f"question {number}") for number in range(2 * MOST_TOGETHER + 1)]
    many = asyncio.ensure_future(consulting.decide([*questions, Chat.of(PROMPT)], "default"))
    await asyncio.sleep(0)  # it is the first in the line
    one = asyncio.ensure_future(consulting.decide([Chat.of("short")], "default"))
    await asyncio.sleep(0)
    scope.go.set()
    await one
    decisions = await many
    await consulting.close()
    assert [item.plan is not None for item in decisions] == [False] * len(questions) + [True]
    assert all(len(queries) <= MOST_TOGETHER + 1 for _, queries in scope.batches)
    assert "short" in scope.batches[1][1]


async def test_a_failure_that_nobody_foresaw_reaches_everybody_who_waits(memory: Memory, scope: Recorder) -> None:
    class Broken(Recorder):
        def consider(self, *args: Any, **more: Any) -> Any:
            raise ZeroDivisionError

    consulting = Consulting(memory, Briefing(), scope=Broken(memory))
    results = await asyncio.gather(
        *(consulting.decide([Chat.of(PROMPT)], "default") for _ in range(3)), return_exceptions=True
    )
    await consulting.close()
    assert [type(result) for result in results] == [ZeroDivisionError] * 3


async def test_a_strategys_own_model_answers(memory: Memory, scope: Recorder, llama: Any) -> None:
    class Own:
        """Both a strategy and the worker of its plans."""

        name = "own"

        def plan(self, request: Chat, edits: Any, **room: Any) -> Plan:
            return Plan(Chat.of("The capital"), strategy=self.name, worker=self)

        def model(self, lm: Any) -> Any:
            return llama

        def at_work(self, lm: Any, details: Any, columns: int) -> Any:
            return contextlib.nullcontext()

    scope.go.set()
    consulting = Consulting(memory, Own(), scope=scope)
    chat = Chat.of(PROMPT, max_tokens=5)
    ((decision,),) = await asyncio.gather(consulting.decide([chat], "default"))
    await consulting.close()
    assert decision.plan is not None
    assert decision.plan.answer
    assert decision.plan.worker is None


async def test_a_strategy_that_asks_on_somebodys_account_is_refused(memory: Memory, scope: Recorder) -> None:
    class Asks:
        name = "asks"

        def plan(self, request: Chat, edits: Any, **room: Any) -> Plan:
            raise NotImplementedError

        def consult(self, requests: Sequence[Chat], *, namespace: str, room: Any) -> Any:
            yield Ask((requests[0],))

    scope.go.set()
    consulting = Consulting(memory, Asks(), scope=scope)
    assert consulting.attention is None
    with pytest.raises(CorrigendaError, match="several times"):
        await consulting.decide([Chat.of(PROMPT)], "default")
    await consulting.close()
