"""The flow without I/O: what happens between a request and the model.

:func:`consult` is a generator. It yields what it needs to know and is sent the answer; it reads no store and calls no
model. :func:`drive` and :func:`drive_async` answer it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from corrigenda.chat import Chat, Fired, Trace
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Candidate, Consideration, Scope
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room, Strategy


@dataclass(frozen=True, slots=True)
class Refresh:
    """Needed: the version of the ledger, what other processes wrote included."""

    def fulfil(self, memory: Memory, scope: Scope) -> int:
        """Return the version."""
        memory.refresh()
        return memory.version


@dataclass(frozen=True, slots=True)
class Judge:
    """Needed: which edits concern each of ``queries``, asked after the messages ``context``."""

    queries: tuple[str, ...]
    namespace: str
    context: tuple[str, ...] = ()

    def fulfil(self, memory: Memory, scope: Scope) -> list[Consideration]:
        """Return one consideration per query."""
        return scope.consider(self.queries, self.namespace, context=self.context)


Need: TypeAlias = Refresh | Judge


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request.

    Attributes:
        request: The request as the caller made it: the same object.
        plan: What to ask instead; ``None`` to ask as it is.
        trace: How it came about; the time of generation is still missing.
    """

    request: Chat
    plan: Plan | None
    trace: Trace


def consult(
    requests: Sequence[Chat], *, strategy: Strategy, namespace: str = "default", room: Room = UNLIMITED
) -> Generator[Need, Any, list[Decision]]:
    """Decide what becomes of each of ``requests``; to be driven.

    The last user turn is the query, the turns before it are context. A request without user turn asks nothing and
    passes.
    """
    version: int = yield Refresh()
    found: dict[int, Consideration] = {}
    for context, places in _by_context(requests).items():
        queries = tuple(requests[place].query for place in places)
        found.update(zip(places, (yield Judge(queries, namespace, context)), strict=True))
    return [_decide(request, found.get(place), strategy, room, version) for place, request in enumerate(requests)]


def _by_context(requests: Sequence[Chat]) -> dict[tuple[str, ...], list[int]]:
    """Group the places of the requests that ask something by what was said before: one question to scope each."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, request in enumerate(requests):
        asking = [number for number, turn in enumerate(request.messages) if turn.role == "user"]
        if asking:
            before = request.messages[: asking[-1]]
            context = tuple(turn.content for turn in before if turn.role != "system")
            groups.setdefault(context, []).append(place)
    return groups


def _decide(request: Chat, considered: Consideration | None, strategy: Strategy, room: Room, version: int) -> Decision:
    times = dict(considered.milliseconds) if considered else {}
    if considered is None or not considered.in_scope:
        return Decision(request, None, Trace(ledger_version=version, milliseconds=times))
    edits = considered.in_scope
    began = time.perf_counter()
    plan = strategy.plan(request, edits, room=room)
    times["plan"] = (time.perf_counter() - began) * 1e3
    fired = tuple(map(_fired, edits))
    return Decision(request, plan, Trace(fired, plan.strategy or strategy.name, version, times))


def _fired(candidate: Candidate) -> Fired:
    margin = candidate.probability - candidate.threshold
    return Fired(candidate.edit.id, candidate.probability, margin, candidate.edit.statement)


def drive(flow: Generator[Need, Any, list[Decision]], memory: Memory, scope: Scope) -> list[Decision]:
    """Run ``flow`` to its end, answering what it needs."""
    answer: Any = None
    while True:
        try:
            need = flow.send(answer)
        except StopIteration as done:
            decisions: list[Decision] = done.value
            return decisions
        answer = need.fulfil(memory, scope)


async def drive_async(flow: Generator[Need, Any, list[Decision]], memory: Memory, scope: Scope) -> list[Decision]:
    """Run ``flow`` to its end; encoding and judging happen in a thread, so that the event loop stays free."""
    answer: Any = None
    while True:
        try:
            need = flow.send(answer)
        except StopIteration as done:
            decisions: list[Decision] = done.value
            return decisions
        answer = await asyncio.to_thread(need.fulfil, memory, scope)
