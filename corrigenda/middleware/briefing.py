"""Briefing: IKE for models that are reached by messages only, and follow instructions.

An upstream behind HTTP takes a conversation and gives an answer; its answer cannot be made to begin with a word, and
its prompt template is not ours. So the facts stand in front of the last user turn, said to be true, and the turn
itself follows in its own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from corrigenda.chat import Chat
from corrigenda.memory.scope import Candidate
from corrigenda.middleware.strategies.base import UNLIMITED, Plan, Room
from corrigenda.middleware.strategies.wording import one_line
from corrigenda.middleware.wire import harmless

MAX_FACTS = 8
"""Most facts of one request, the most probable ones."""


class Briefing:
    """Facts in front of the question.

    Args:
        opening: What stands before the facts of a conversation, on a line of its own.
    """

    name = "ike/briefing"

    def __init__(
        self,
        *,
        opening: str = "Verified facts, newer than your training data. Where you remember otherwise, go by these:",
    ) -> None:
        self.opening = opening

    def plan(self, request: Chat, edits: Sequence[Candidate], *, room: Room = UNLIMITED) -> Plan:
        """See :class:`~corrigenda.middleware.strategies.base.Strategy`."""
        facts = [_fact(candidate) for candidate in edits[:MAX_FACTS]]
        while len(facts) > 1 and not room.fits("\n".join([*facts, request.query])):
            facts.pop()  # the least probable goes first
        if request.completion:
            return Plan(_in_front(request, "".join(f"{fact}\n" for fact in facts) + "\n"), strategy=self.name)
        lines = [self.opening, *(f"- {fact}" for fact in facts)]
        return Plan(_in_front(request, "\n".join(lines) + "\n\n"), strategy=self.name)


def _fact(candidate: Candidate) -> str:
    return harmless(one_line(candidate.edit.statement))


def _in_front(request: Chat, text: str) -> Chat:
    turns = list(request.messages)
    last = max(place for place, turn in enumerate(turns) if turn.role == "user")
    turns[last] = replace(turns[last], content=text + turns[last].content)
    return replace(request, messages=tuple(turns))
