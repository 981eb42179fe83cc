"""MemPrompt: what users said they meant, appended to questions that are asked the same way.

Madaan et al. 2022, "Memory-assisted prompt editing to improve GPT-3 after deployment". ``memory.feedback(query,
clarification)`` remembers; a query that fits becomes ``{query} | {clarification}``, as in the paper. It corrects how a
question is read; facts are for the other strategies, and one of them may take the requests that no feedback fits.

The paper's few-shot examples belong to the caller's prompt, whose words are all kept.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from corrigenda.chat import Chat, Fired, Trace
from corrigenda.errors import CorrigendaError
from corrigenda.memory.feedback import Recalled
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.consult import Decision, Means, Need, Refresh, consult
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room, Strategy
from corrigenda.middleware.strategies.ike import around
from corrigenda.middleware.strategies.wording import one_line

PREFIX = "clarification: "
"""What opens a clarification in a prompt, unless it opens itself so."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Needed: the feedback that fits each of ``queries``."""

    queries: tuple[str, ...]
    namespace: str

    def fulfil(self, means: Means, /) -> list[Recalled | None]:
        """Return one recollection, or none, per query."""
        return means.memory.recall(self.queries, self.namespace)


class MemPrompt:
    """Clarifications from the memory of feedback.

    Args:
        otherwise: What takes requests that no feedback fits; by default they pass untouched.
    """

    name = "memprompt"

    def __init__(self, *, otherwise: Strategy | None = None) -> None:
        self.otherwise = otherwise

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """Leave facts to the other strategy."""
        if self.otherwise is None:
            raise CorrigendaError(
                "MemPrompt goes by feedback, not by edits of facts", remedy="Drive MemPrompt.consult instead of plan."
            )
        return self.otherwise.plan(request, edits, room=room)

    def consult(self, requests: Sequence[Chat], *, namespace: str, room: Room) -> Generator[Need, Any, list[Decision]]:
        """See :class:`~corrigenda.middleware.strategies.base.Guiding`."""
        version: int = yield Refresh()
        asking = [place for place, request in enumerate(requests) if any(m.role == "user" for m in request.messages)]
        recalled: list[Recalled | None] = yield Recall(tuple(requests[place].query for place in asking), namespace)
        decisions = {
            place: _decision(requests[place], found, version, self.name)
            for place, found in zip(asking, recalled, strict=True)
            if found is not None
        }
        rest = [place for place in range(len(requests)) if place not in decisions]
        if self.otherwise is None:
            decisions |= {place: Decision(requests[place], None, Trace(ledger_version=version)) for place in rest}
        elif rest:
            others = [requests[place] for place in rest]
            left = yield from consult(others, strategy=self.otherwise, namespace=namespace, room=room)
            decisions |= zip(rest, left, strict=True)
        return [decisions[place] for place in range(len(requests))]


def _decision(request: Chat, found: Recalled, version: int, name: str) -> Decision:
    fired = Fired(found.edit.id, 1.0, 0.0, found.edit.statement)
    return Decision(request, clarified(request, found.clarification, name), Trace((fired,), name, version))


def clarified(request: Chat, clarification: str, strategy: str = MemPrompt.name) -> Plan:
    """Return the plan that appends ``clarification`` to the last user turn."""
    text = one_line(clarification)
    return Plan(around(request, "", f" | {text if text.startswith(PREFIX) else PREFIX + text}"), strategy=strategy)
