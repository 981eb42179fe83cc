"""The flow without I/O: what happens between a request and the model.

:func:`consult` is a generator. It yields what it needs to know and is sent the answer; it reads no store and calls no
model. :func:`drive` and :func:`drive_async` answer it, from :class:`Means`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from corrigenda.chat import Chat, Fired, Trace
from corrigenda.errors import CorrigendaError
from corrigenda.memory.memory import Memory
from corrigenda.memory.scope import Candidate, Consideration, Scope
from corrigenda.middleware.strategies.base import UNLIMITED, Guiding, Plan, Room, Strategy

if TYPE_CHECKING:
    from corrigenda.lm.loading import LanguageModel

Asking: TypeAlias = Callable[[Sequence[Chat]], list[str]]
"""Asks the bare model: requests, with their options, → answers."""


@dataclass(frozen=True, slots=True)
class Means:
    """What needs are answered from.

    Attributes:
        memory, scope: The edits, and what decides which of them fire.
        ask: Asks the model behind the middleware, edits left out; ``None`` where that cannot be done.
        lm: The model itself, where it is in this process.
        answers: Whether replies of our own reach the caller where the model can be neither asked nor seen.
    """

    memory: Memory
    scope: Scope
    ask: Asking | None = None
    lm: LanguageModel | None = None
    answers: bool = False


class Need(Protocol):
    """Something a flow has to know. Strategies may bring needs of their own."""

    def fulfil(self, means: Means, /) -> Any:
        """Find it out. Runs in a thread of its own where the caller is asynchronous."""
        ...


@dataclass(frozen=True, slots=True)
class Refresh:
    """Needed: the version of the ledger, what other processes wrote included."""

    def fulfil(self, means: Means, /) -> int:
        """Return the version."""
        means.memory.refresh()
        return means.memory.version


@dataclass(frozen=True, slots=True)
class Judge:
    """Needed: which edits concern each of ``queries``, asked after the messages ``context``."""

    queries: tuple[str, ...]
    namespace: str
    context: tuple[str, ...] = ()

    def fulfil(self, means: Means, /) -> list[Consideration]:
        """Return one consideration per query."""
        return means.scope.consider(self.queries, self.namespace, context=self.context)


@dataclass(frozen=True, slots=True)
class Ask:
    """Needed: what the bare model says to each of ``requests``. Their options are those of :meth:`EditedModel.ask`."""

    requests: tuple[Chat, ...]

    def fulfil(self, means: Means, /) -> list[str]:
        """Return one text per request.

        Raises:
            CorrigendaError: There is no model to ask from here.
        """
        if means.ask is None:
            raise CorrigendaError(
                "this strategy asks the model several times, which cannot be done from here",
                remedy="Use it with EditedModel (serve --model), or choose one that only changes requests (ike, auto).",
            )
        return means.ask(self.requests)


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


Flow: TypeAlias = Generator[Need, Any, list[Decision]]


def consult(
    requests: Sequence[Chat], *, strategy: Strategy, namespace: str = "default", room: Room = UNLIMITED
) -> Flow:
    """Decide what becomes of each of ``requests``; to be driven.

    The last user turn is the query, the turns before it are context. A request without user turn asks nothing and
    passes.
    """
    if isinstance(strategy, Guiding):
        return (yield from strategy.consult(requests, namespace=namespace, room=room))
    return (yield from scoped(requests, strategy=strategy, namespace=namespace, room=room))


def scoped(requests: Sequence[Chat], *, strategy: Strategy, namespace: str, room: Room) -> Flow:
    """Let the scope classifier say which edits concern each of ``requests``, and ``strategy`` what becomes of it."""
    version, found = yield from judged(requests, namespace)
    return [decision(request, found.get(place), strategy, room, version) for place, request in enumerate(requests)]


def judged(requests: Sequence[Chat], namespace: str) -> Generator[Need, Any, tuple[int, dict[int, Consideration]]]:
    """Find out which edits concern each of ``requests``: (version of the ledger, place → what was considered).

    Requests without user turn are not among them. A part of a flow: ``yield from`` it.
    """
    version: int = yield Refresh()
    found: dict[int, Consideration] = {}
    for context, places in _by_context(requests).items():
        queries = tuple(requests[place].query for place in places)
        found.update(zip(places, (yield Judge(queries, namespace, context)), strict=True))
    return version, found


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


def decision(request: Chat, considered: Consideration | None, strategy: Strategy, room: Room, version: int) -> Decision:
    """Return what ``strategy`` makes of ``request``, given what was considered for it."""
    times = dict(considered.milliseconds) if considered else {}
    if considered is None or not considered.in_scope:
        return Decision(request, None, Trace(ledger_version=version, milliseconds=times))
    edits = considered.in_scope
    began = time.perf_counter()
    plan = strategy.plan(request, edits, room=room)
    times["plan"] = (time.perf_counter() - began) * 1e3
    fired = tuple(map(fired_by, edits))
    return Decision(request, plan, Trace(fired, plan.strategy or strategy.name, version, times))


def fired_by(candidate: Candidate) -> Fired:
    """Return ``candidate``, which is in scope, as a trace shows it."""
    margin = candidate.probability - candidate.threshold
    return Fired(candidate.edit.id, candidate.probability, margin, candidate.edit.statement)


def drive(
    flow: Flow,
    memory: Memory,
    scope: Scope,
    *,
    ask: Asking | None = None,
    lm: LanguageModel | None = None,
    answers: bool = False,
) -> list[Decision]:
    """Run ``flow`` to its end, answering what it needs; the arguments are those of :class:`Means`."""
    means = Means(memory, scope, ask, lm, answers)
    answer: Any = None
    while True:
        try:
            need = flow.send(answer)
        except StopIteration as done:
            return _dated(_feasible(done.value, means), memory)
        answer = need.fulfil(means)


def _feasible(decisions: list[Decision], means: Means) -> list[Decision]:
    """Return ``decisions``; refuse answers of our own where all that can be done is to change a request.

    A reply that is only to begin in some way passes: its facts can be put in front of the question instead.
    """
    if means.lm is None and means.ask is None and not means.answers:
        for item in decisions:
            if item.plan is not None and (item.plan.answer is not None or item.plan.worker is not None):
                raise CorrigendaError(
                    f"the strategy {item.trace.strategy!r} answers by itself, but here only requests can be changed",
                    remedy="Use it with EditedModel or corrigenda.middleware.front.Front, or choose auto or ike.",
                )
    return decisions


async def drive_async(
    flow: Flow, memory: Memory, scope: Scope, *, ask: Asking | None = None, lm: LanguageModel | None = None
) -> list[Decision]:
    """Run ``flow`` to its end; needs are fulfilled in a thread, so that the event loop stays free."""
    means = Means(memory, scope, ask, lm)
    answer: Any = None
    while True:
        try:
            need = flow.send(answer)
        except StopIteration as done:
            return _dated(_feasible(done.value, means), memory)
        answer = await asyncio.to_thread(need.fulfil, means)


def _dated(decisions: list[Decision], memory: Memory) -> list[Decision]:
    """Say in the traces how old the ledger's copy is, if it cannot be in step."""
    if not (stale := memory.stale_for):
        return decisions
    note = f"the ledger has not answered for {stale:.1f} s"
    return [replace(one, trace=replace(one.trace, notes=(*one.trace.notes, note))) for one in decisions]
